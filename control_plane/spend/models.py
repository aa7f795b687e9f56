"""Tables of recorded spend. `cost_events` is partitioned by month; uniqueness lives in `cost_event_keys`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.db import Base

_SPENT = "cost_microdollars BETWEEN 0 AND 1000000000000"


class CostEventRow(Base):
    """One call as it stands now: the statement of the highest rank. Its columns are those of `rows.EventRow`."""

    __tablename__ = "cost_events"
    __table_args__ = (
        CheckConstraint(_SPENT, name="cost"),
        CheckConstraint(
            "input_tokens >= 0 AND output_tokens >= 0 AND cached_input_tokens >= 0 AND reasoning_tokens >= 0",
            name="tokens",
        ),
        ForeignKeyConstraint(["org_id", "api_key_id"], ["api_keys.org_id", "api_keys.id"]),
        Index("ix_cost_events_page", "org_id", text("occurred_at DESC"), text("event_id DESC")),
        Index("ix_cost_events_key", "org_id", "api_key_id", text("occurred_at DESC"), text("event_id DESC")),
        Index(
            "ix_cost_events_customer",
            "org_id",
            "customer_id",
            text("occurred_at DESC"),
            text("event_id DESC"),
            postgresql_where=text("customer_id IS NOT NULL"),
        ),
        Index(
            "ix_cost_events_session",
            "org_id",
            "session_id",
            text("occurred_at DESC"),
            postgresql_where=text("session_id IS NOT NULL"),
        ),
        Index(
            "ix_cost_events_trace",
            "org_id",
            "trace_id",
            text("occurred_at DESC"),
            postgresql_where=text("trace_id IS NOT NULL"),
        ),
        Index("ix_cost_events_tags", "tags", postgresql_using="gin", postgresql_ops={"tags": "jsonb_path_ops"}),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime] = mapped_column(primary_key=True)
    recorded_at: Mapped[datetime]
    booked_at: Mapped[datetime]
    rank: Mapped[int] = mapped_column(SmallInteger)
    revision: Mapped[int] = mapped_column(Integer)
    event_type: Mapped[str]
    surface: Mapped[str]
    source: Mapped[str]
    trust: Mapped[str]
    api_key_id: Mapped[UUID]
    customer_id: Mapped[str | None]
    session_id: Mapped[str | None]
    trace_id: Mapped[str | None]
    action_id: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    provider_request_id: Mapped[str | None]
    provider: Mapped[str]
    upstream_host: Mapped[str]
    model: Mapped[str]
    response_model: Mapped[str | None]
    tags: Mapped[dict[str, str]]
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    usage: Mapped[dict[str, int]]
    cost_microdollars: Mapped[int]
    original_cost_microdollars: Mapped[int]
    estimated_cost_microdollars: Mapped[int]
    cost_input: Mapped[int | None]
    cost_output: Mapped[int | None]
    cost_cached: Mapped[int | None]
    cost_tools: Mapped[int | None]
    cost_reasoning: Mapped[int | None]
    cost_source: Mapped[str]
    priced: Mapped[str]
    price_ref: Mapped[str | None]
    price_context: Mapped[str]
    outcome: Mapped[str]
    http_status: Mapped[int | None] = mapped_column(Integer)
    streaming: Mapped[bool]
    stop_reason: Mapped[str | None]
    tool_calls: Mapped[list[dict[str, str]]]
    budget_status: Mapped[str]
    duration_ms: Mapped[int]
    upstream_duration_ms: Mapped[int | None]
    ttfb_ms: Mapped[int | None]
    overhead_us: Mapped[int | None]
    windows: Mapped[list[str]]
    flags: Mapped[list[str]]


class CostEventKey(Base):
    """Exactly once: the one row of a call that every writer of it locks first."""

    __tablename__ = "cost_event_keys"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    occurred_at: Mapped[datetime]
    rank: Mapped[int] = mapped_column(SmallInteger)


class CostEventRevision(Base):
    """A cost that was replaced: by what, by how much, and why."""

    __tablename__ = "cost_event_revisions"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "event_id"], ["cost_event_keys.org_id", "cost_event_keys.event_id"]),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    rank: Mapped[int] = mapped_column(SmallInteger)
    cost_microdollars: Mapped[int]
    delta_microdollars: Mapped[int]
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RollupRow(Base):
    """Sums of one hour and one combination of dimensions; always the sum of the events as they stand."""

    __tablename__ = "rollup_hourly"
    __table_args__ = (Index("ix_rollup_hourly_customer", "org_id", "customer_id", "hour"),)

    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    dims_key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    api_key_id: Mapped[UUID]
    provider: Mapped[str]
    model: Mapped[str]
    source: Mapped[str]
    trust: Mapped[str]
    event_type: Mapped[str]
    customer_id: Mapped[str | None]
    requests: Mapped[int]
    errors: Mapped[int]
    unpriced: Mapped[int]
    cost_microdollars: Mapped[int]
    bound_cost_microdollars: Mapped[int]
    cost_input: Mapped[int]
    cost_output: Mapped[int]
    cost_cached: Mapped[int]
    cost_tools: Mapped[int]
    cost_reasoning: Mapped[int]
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    duration_sum_ms: Mapped[int]


class BudgetWindow(Base):
    """What was charged to one window of one budget. Milliseconds and names are the ledger's; an end of 0 is never."""

    __tablename__ = "budget_windows"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "budget_id"], ["budgets.org_id", "budgets.id"]),
        Index("ix_budget_windows_end", "window_end_ms"),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    budget_id: Mapped[UUID] = mapped_column(primary_key=True)
    scope_value: Mapped[str] = mapped_column(primary_key=True)
    window_start_ms: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    window_end_ms: Mapped[int]
    settled_microdollars: Mapped[int]
    calls: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ParkedEntry(Base):
    """A stream entry that cannot be booked. It stays here, visible, until a person looked at it."""

    __tablename__ = "ingest_parked"

    stream: Mapped[str] = mapped_column(primary_key=True)
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    fields: Mapped[list[Any]] = mapped_column(ARRAY(LargeBinary))
    """Names and values in turn, as they were in the stream."""
    error: Mapped[str]
    parked_at: Mapped[datetime] = mapped_column(server_default=func.now())
