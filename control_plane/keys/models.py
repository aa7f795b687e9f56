"""The table of API keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.db import Base


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("num_nonnulls(owner_user_id, service_account_id) = 1", name="one_owner"),
        ForeignKeyConstraint(["org_id", "service_account_id"], ["service_accounts.org_id", "service_accounts.id"]),
        UniqueConstraint("org_id", "id"),
        UniqueConstraint("key_hash"),
        Index("ix_api_keys_live", "org_id", "created_at", "id", postgresql_where=text("revoked_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"))
    owner_user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    service_account_id: Mapped[UUID | None]
    name: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    key_prefix: Mapped[str]
    scopes: Mapped[list[str]]
    default_tags: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'::jsonb"))
    allowed_models: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    allowed_providers: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    customer_id: Mapped[str | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
