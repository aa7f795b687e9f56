"""Identifiers: a prefix that names the thing and a UUIDv7 that sorts by time.

Inputs accept the prefixed and the bare form; outputs are always prefixed.
"""

import os
import re
import time
from typing import Final

KEY_PREFIX: Final = "ns_live_sk_"
ORG, KEY, BUDGET, USER, SERVICE_ACCOUNT = "ns_org_", "ns_key_", "ns_bgt_", "ns_usr_", "ns_sa_"
EVENT, DECISION, ACTION = "ns_evt_", "ns_dec_", "ns_act_"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_SECRET = re.compile(r"ns_live_sk_[0-9a-f]{32}")


def uuid7() -> str:
    """A new UUIDv7 in its 36-character form: 48 bits of milliseconds, then 74 random bits (RFC 9562)."""
    millis = time.time_ns() // 1_000_000
    value = (millis << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def bare(text: str, prefix: str) -> str | None:
    """The UUID in `text`, given with or without `prefix`; None when it is neither."""
    candidate = text.removeprefix(prefix)
    return candidate.lower() if _UUID.fullmatch(candidate) else None


def new_api_key() -> str:
    """A new secret: `ns_live_sk_` and 128 random bits as 32 hex digits."""
    return KEY_PREFIX + os.urandom(16).hex()


def is_api_key(text: str) -> bool:
    return _SECRET.fullmatch(text) is not None
