"""The table of budgets."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.db import Base


class BudgetRow(Base):
    """`entity_id` is a bare UUID for organisations and keys."""

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint("entity_type IN ('org', 'api_key', 'customer', 'tag')", name="entity_type"),
        CheckConstraint("limit_microdollars BETWEEN 0 AND 9007199254740991", name="limit"),
        CheckConstraint("policy = 'strict_block'", name="policy"),
        CheckConstraint("period IN ('none', 'hour', 'day', 'week', 'month', 'quarter', 'year')", name="period"),
        CheckConstraint("alignment IN ('calendar', 'anniversary')", name="alignment"),
        UniqueConstraint("org_id", "id"),
        Index(
            "uq_budgets_live_entity",
            "org_id",
            "entity_type",
            "entity_id",
            "slot",
            unique=True,
            postgresql_where=text("archived_at IS NULL"),
        ),
        Index("ix_budgets_page", "org_id", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"))
    entity_type: Mapped[str]
    entity_id: Mapped[str]
    slot: Mapped[str] = mapped_column(server_default="default")
    limit_microdollars: Mapped[int]
    policy: Mapped[str] = mapped_column(server_default="strict_block")
    period: Mapped[str] = mapped_column(server_default="none")
    alignment: Mapped[str] = mapped_column(server_default="calendar")
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    anchor_at: Mapped[datetime | None]
    reset_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="1")
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
