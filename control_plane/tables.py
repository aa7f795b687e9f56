"""Every table of the control plane in one metadata: what migrations are compared with."""

from typing import Any

from control_plane.budgets.models import BudgetRow
from control_plane.kernel.db import Base
from control_plane.kernel.idempotency import IdempotencyRow
from control_plane.kernel.outbox import OutboxRow
from control_plane.keys.models import ApiKey
from control_plane.ledger.models import PriceVersion
from control_plane.orgs.models import Membership, Organization, ServiceAccount, User
from control_plane.spend.models import (
    BudgetWindow,
    CostEventKey,
    CostEventRevision,
    CostEventRow,
    ParkedEntry,
    RollupRow,
)

TABLES = (
    User,
    Organization,
    Membership,
    ServiceAccount,
    ApiKey,
    BudgetRow,
    BudgetWindow,
    CostEventRow,
    CostEventKey,
    CostEventRevision,
    RollupRow,
    ParkedEntry,
    OutboxRow,
    IdempotencyRow,
    PriceVersion,
)
METADATA = Base.metadata


def is_ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Partitions belong to their parent, and Alembic's own table to Alembic."""
    return not (kind == "table" and name is not None and name.startswith(("cost_events_", "alembic_")))
