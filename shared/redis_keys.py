"""Every Redis key, in one place. All keys of one script share a hash tag, so a cluster keeps them on one node."""

import zlib
from typing import Final

SHARDS: Final = 64

PRICES_CURRENT: Final = "ns:prices"
CHANGES_CHANNEL: Final = "ns:changes"
"""Messages are org ids whose policy version moved."""
INGEST_GROUP: Final = "cp"


def shard_of(org_id: str) -> int:
    return zlib.crc32(org_id.encode()) % SHARDS


def tag(org_id: str) -> str:
    """The hash-tagged prefix of everything that belongs to one organisation: `ns:{s17}:`."""
    return f"ns:{{s{shard_of(org_id)}}}:"


def shard_tag(shard: int) -> str:
    return f"ns:{{s{shard}}}:"


def prices(version: str) -> str:
    return f"ns:prices:{version}"


def grant(secret_sha256_hex: str) -> str:
    """A hash `{v, body}`: version and the JSON of one key's grant."""
    return f"ns:grant:{secret_sha256_hex}"


def epoch(prefix: str) -> str:
    return prefix + "epoch"


def seq(prefix: str) -> str:
    return prefix + "seq"


def policy_version(prefix: str, org_id: str) -> str:
    return f"{prefix}pv:{org_id}"


def policy(prefix: str, org_id: str, entity: str) -> str:
    """A hash `{v, body}`: policy version and the JSON of all budgets of one entity (`customer:acme`)."""
    return f"{prefix}pol:{org_id}:{entity}"


def limit(prefix: str, budget_id: str) -> str:
    return f"{prefix}l:{budget_id}"


def window(prefix: str, window_id: str) -> str:
    """`window_id` is `<budget>:<start ms>:<value or ->`."""
    return f"{prefix}w:{window_id}"


def reservation(prefix: str, reservation_id: str) -> str:
    return f"{prefix}r:{reservation_id}"


def open_leases(prefix: str) -> str:
    return prefix + "open"


def stream(prefix: str) -> str:
    return prefix + "ev"
