"""Shapes of budgets on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, StrictStr, field_validator, model_validator

from control_plane.budgets import rules
from control_plane.budgets.live import Numbers
from control_plane.budgets.models import BudgetRow
from control_plane.budgets.service import Change
from control_plane.kernel import errors, times
from control_plane.kernel.fields import CursorModel, Enforcement, Instant, Money, RequestModel, ResponseModel
from shared.ids import BUDGET, KEY, ORG
from shared.windows import Alignment

EntityTypeName = Literal["org", "api_key", "customer", "tag"]
IntervalName = Literal["none", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly"]

_PREFIXES: Mapping[str, str] = {"org": ORG, "api_key": KEY}


class _BudgetFields(RequestModel):
    max_budget_microdollars: Money | None = Field(None, examples=[50_000_000])
    policy: Literal["strict_block"] | None = None
    reset_interval: IntervalName | None = None
    window_mode: Alignment | None = None
    timezone: StrictStr | None = Field(None, examples=["Europe/Paris"], description="IANA; default the organisation's.")
    anchor_at: Instant | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_enforced(cls, body: Any) -> Any:
        if isinstance(body, dict):
            early = sorted(rules.NOT_ENFORCED & body.keys())
            if early:
                message = "is not enforced by this version, and a setting that is stored but not enforced is a trap"
                raise errors.invalid_fields([{"path": [name], "message": message} for name in early])
        return body

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, name: str | None) -> str | None:
        if name is not None and not times.is_timezone(name):
            raise ValueError("must be an IANA time zone like Europe/Paris")
        return name

    def change(self) -> Change:
        """What is asked for. Raises 400 for a limit of null: a budget without one would not be a budget."""
        given = self.model_fields_set
        if "max_budget_microdollars" in given and self.max_budget_microdollars is None:
            raise errors.invalid(["maxBudgetMicrodollars"], "a budget has a limit; leave it out to keep it")
        cleared = "reset_interval" in given and self.reset_interval is None
        interval = "none" if cleared else self.reset_interval
        return Change(
            limit_microdollars=self.max_budget_microdollars,
            period=None if interval is None else rules.PERIOD_OF[interval],
            alignment=self.window_mode,
            timezone=self.timezone,
            anchor_at=self.anchor_at,
        )


class BudgetUpsert(_BudgetFields):
    """Omitted fields keep their value, null clears."""

    entity_type: EntityTypeName = Field(examples=["customer"])
    entity_id: StrictStr | None = Field(
        None, max_length=400, examples=["acme"], description="Optional for `org`; `key=value` for a tag."
    )


class BudgetPatch(_BudgetFields):
    """A merge: omitted fields keep their value."""


class Nothing(RequestModel):
    """No fields."""


class BudgetRecord(ResponseModel):
    """Numbers are null only in the answer to a write made while the ledger could not be reached."""

    id: str = Field(examples=["ns_bgt_0192aaaa-0000-7000-8000-000000000001"])
    entity_type: EntityTypeName
    entity_id: str
    max_budget_microdollars: int
    spend_microdollars: int | None
    reserved_microdollars: int | None
    remaining_microdollars: int | None
    overrun_microdollars: int | None
    policy: Literal["strict_block"]
    reset_interval: str | None
    window_mode: Alignment
    timezone: str
    anchor_at: str | None
    current_period_start: str | None
    current_period_end: str | None
    resets_at: str | None
    threshold_percentages: list[int] = Field(default_factory=list)
    velocity_limit_microdollars: int | None = None
    session_limit_microdollars: int | None = None
    finalization_reserve_microdollars: int = 0
    created_at: str
    updated_at: str
    archived_at: str | None
    version: int
    enforcement: Enforcement


class BudgetBody(ResponseModel):
    data: BudgetRecord


class BudgetList(ResponseModel):
    data: list[BudgetRecord]
    cursor: CursorModel | None
    has_more: bool


def record(row: BudgetRow, numbers: Numbers | None, window: tuple[int, int], enforcement: Enforcement) -> BudgetRecord:
    start_ms, end_ms = window
    limit = row.limit_microdollars
    settled, held = (None, None) if numbers is None else (numbers.settled, numbers.held)
    return BudgetRecord(
        id=f"{BUDGET}{row.id}",
        entity_type=row.entity_type,
        entity_id=f"{_PREFIXES.get(row.entity_type, '')}{row.entity_id}",
        max_budget_microdollars=limit,
        spend_microdollars=settled,
        reserved_microdollars=held,
        remaining_microdollars=None if numbers is None else max(0, limit - numbers.settled - numbers.held),
        overrun_microdollars=None if numbers is None else max(0, numbers.settled - limit),
        policy="strict_block",
        reset_interval=None if row.period == "none" else rules.INTERVAL_OF[row.period],
        window_mode=row.alignment,
        timezone=row.timezone,
        anchor_at=_iso(row.anchor_at),
        current_period_start=times.iso_ms(start_ms) if start_ms else None,
        current_period_end=times.iso_ms(end_ms) if end_ms else None,
        resets_at=times.iso_ms(end_ms) if end_ms else None,
        created_at=times.iso(row.created_at),
        updated_at=times.iso(row.updated_at),
        archived_at=_iso(row.archived_at),
        version=row.version,
        enforcement=enforcement,
    )


def enforcement_of(row: BudgetRow, policy_version: int, published: Mapping[UUID, datetime | None]) -> Enforcement:
    """A change whose outbox row was pruned was published long ago: it is as old as the row."""
    return Enforcement(policy_version=policy_version, published_at=_iso(published.get(row.id, row.updated_at)))


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else times.iso(instant)
