"""What a key may be given. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from shared.grants import SCOPES

DEFAULT_SCOPES: Final = ("proxy", "ingest", "read")
CUSTOMER_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,256}")
TAG_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
TAG_VALUE_MAX: Final = 256
TAGS_MAX: Final = 10
KEY_PREFIX_LENGTH: Final = 19
"""`ns_live_sk_` and eight digits: enough to recognise a key, far too little to use it."""


def ordered(scopes: Iterable[str]) -> list[str]:
    """Each scope once, in the order the documentation names them."""
    wanted = set(scopes)
    return [scope for scope in SCOPES if scope in wanted]


def beyond(scopes: Iterable[str], grantable: frozenset[str]) -> list[str]:
    """The scopes a caller asked for and may not give."""
    return ordered(set(scopes) - grantable)


def tags_problem(tags: dict[str, str]) -> str | None:
    """Why tags cannot be stored; None when they can."""
    if len(tags) > TAGS_MAX:
        return f"has {len(tags)} tags; at most {TAGS_MAX} are allowed"
    for key, value in tags.items():
        if TAG_KEY.fullmatch(key) is None or key.startswith("_ns_"):
            return f"{key[:80]!r} is not a tag key: 1 to 64 letters, digits, _ or -, not beginning with _ns_"
        if len(value) > TAG_VALUE_MAX or "\0" in value:
            return f"the value of {key} must have at most {TAG_VALUE_MAX} characters and no NUL"
    return None
