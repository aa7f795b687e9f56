"""The table of published price tables."""

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.db import Base


class PriceVersion(Base):
    """A price table that was in force. Its payload can be compiled again from the source it names."""

    __tablename__ = "price_versions"

    version: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    digest: Mapped[str]
    published_at: Mapped[datetime] = mapped_column(server_default=func.now())
