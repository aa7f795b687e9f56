"""Key to Grant: from a local cache that the control plane's publications empty.

A key that Redis does not know is refused; a Redis that does not answer is an outage, never "unknown key".
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import Final

from data_plane.http_message import Request
from data_plane.intake import leaked_key
from shared import redis_keys
from shared.clock import Clock
from shared.errors import Recovery, RequestRefusal, Unavailable
from shared.grants import Grant, decode_grant
from shared.redis_wire import RedisClient, RedisDown, RedisReplyError

_log = logging.getLogger("nullspend.auth")

UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What a document raises that was published in a form nobody here understands: an outage, never "there is none"."""
_SECRET: Final = re.compile(rb"ns_live_sk_[0-9a-f]{32}")
_GRANTS_MAX: Final = 100_000
_UNKNOWN_MAX: Final = 10_000
_UNKNOWN_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Known:
    """A grant, and a policy version it is at least as new as."""

    grant: Grant
    version: int


class Keys:
    """The grants this worker has seen. `forget` is called when an organisation's policy version moves."""

    def __init__(self, redis: RedisClient, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._grants: dict[bytes, Grant] = {}
        self._digests: dict[str, list[bytes]] = {}
        """Of each organisation, so that forgetting one does not look at the keys of all others."""
        self._unknown: dict[bytes, int] = {}
        self._versions: dict[str, int] = {}

    async def authenticate(self, request: Request) -> "Known":
        """What is known of the request's key. Raises RequestRefusal 401 or 403, Unavailable 503."""
        secret = request.lower.get(b"x-nullspend-key", b"")
        if leaked_key(request):
            raise _unauthorized("A NullSpend key was sent as the provider's credential; send it as X-NullSpend-Key.")
        if _SECRET.fullmatch(secret) is None:
            raise _unauthorized()
        digest = hashlib.sha256(secret).digest()
        grant = self._grants.get(digest) or await self._load(digest)
        if grant is None or grant.revoked:
            raise _unauthorized()
        if grant.expires_at_ms is not None and grant.expires_at_ms <= self._clock.now_ms():
            raise _unauthorized()
        if "proxy" not in grant.scopes:
            raise RequestRefusal(
                403,
                "forbidden",
                "This key may not make provider calls: it lacks the scope proxy.",
                details={"required_scope": "proxy"},
            )
        # Taken together: by the time the body has arrived, others may have read the organisation's keys anew.
        return Known(grant, self._versions[grant.org_id])

    def versions(self) -> dict[str, int]:
        """The policy version that every cached grant of an organisation is at least as new as."""
        return self._versions

    def forget(self, org_id: str) -> None:
        """Drops every grant of an organisation; the next call reads them anew."""
        self._versions.pop(org_id, None)
        for digest in self._digests.pop(org_id, ()):
            self._grants.pop(digest, None)
        self._unknown.clear()

    async def _load(self, digest: bytes) -> Grant | None:
        now_ms = self._clock.now_ms()
        if self._unknown.get(digest, 0) > now_ms:
            return None
        try:
            grant, version = await self._read(digest)
        except (RedisDown, RedisReplyError) as error:
            raise _unavailable() from error
        except UNREADABLE as error:
            _log.exception("a published grant cannot be read")
            raise _unavailable() from error
        if grant is None:
            if len(self._unknown) >= _UNKNOWN_MAX:
                self._unknown.clear()
            self._unknown[digest] = now_ms + _UNKNOWN_MS
            return None
        if len(self._grants) >= _GRANTS_MAX:
            self._grants.clear()
            self._digests.clear()
            self._versions.clear()
        self._grants[digest] = grant
        self._digests.setdefault(grant.org_id, []).append(digest)
        self._versions[grant.org_id] = min(version, self._versions.get(grant.org_id, version))
        return grant

    async def _read(self, digest: bytes) -> tuple[Grant | None, int]:
        """The grant, and a policy version it is at least as new as: the version is read first, the grant once more."""
        name = redis_keys.grant(digest.hex())
        body = await self._redis.execute("HGET", name, "body")
        if body is None:
            return None, 0
        org_id = decode_grant(body).org_id
        version = self._redis.execute("GET", redis_keys.policy_version(redis_keys.tag(org_id), org_id))
        again = self._redis.execute("HGET", name, "body")
        current = int(await version or 0)
        body = await again
        return (decode_grant(body) if body is not None else None), current


def _unavailable() -> Unavailable:
    return Unavailable("service_unavailable", "Keys cannot be verified right now; nothing was sent.", 2)


def _unauthorized(hint: str | None = None) -> RequestRefusal:
    """One body for missing, malformed, unknown, revoked and expired keys: a caller learns nothing about others."""
    message = hint or "The header X-NullSpend-Key must carry a valid NullSpend key."
    return RequestRefusal(401, "unauthorized", message, recovery=Recovery(retryable=False, owner_action_required=True))
