"""Mandates: which models and providers a key may use. Pure, and before any ledger work."""

import re
from functools import lru_cache

from shared.errors import Denial, Recovery
from shared.grants import Grant

_REQUESTED_MAX = 200


def enforce(grant: Grant, provider: str, model: str, canonical: str | None) -> None:
    """Raises Denial 403 `mandate_violation` when the key may not use this model at this provider.

    `canonical` is the price book's id of the model, None when it has none: an unknown model matches only by its
    literal name.
    """
    if grant.allowed_providers is not None and provider not in grant.allowed_providers:
        raise _violation("allowed_providers", provider, grant.allowed_providers)
    if grant.allowed_models is not None and not _allowed(grant.allowed_models, provider, model, canonical):
        raise _violation("allowed_models", model, grant.allowed_models)


def _allowed(entries: tuple[str, ...], provider: str, model: str, canonical: str | None) -> bool:
    if model in entries:
        return True
    if canonical is None:
        return False
    for entry in entries:
        pattern = _glob(entry)
        if "/" in entry:
            if pattern.fullmatch(f"{provider}/{model}") or pattern.fullmatch(f"{provider}/{canonical}"):
                return True
        elif pattern.fullmatch(model) or pattern.fullmatch(canonical):
            return True
    return False


@lru_cache(maxsize=4096)
def _glob(entry: str) -> re.Pattern[str]:
    """`*` and `?` as wildcards, case-insensitive, everything else literal."""
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in entry)
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def _violation(mandate: str, requested: str, allowed: tuple[str, ...]) -> Denial:
    shown = requested[:_REQUESTED_MAX]
    return Denial(
        403,
        "mandate_violation",
        f"This key may not use {shown!r}: its {mandate} are {', '.join(allowed) or 'empty'}.",
        details={"mandate": mandate, "requested": shown, "allowed": list(allowed)},
        recovery=Recovery(retryable=False, owner_action_required=True),
    )
