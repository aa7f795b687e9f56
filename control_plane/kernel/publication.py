"""What slices hand to the publisher, which may not import them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from control_plane.kernel.db import Session
from shared.grants import Grant


@dataclass(frozen=True, slots=True)
class PublishedGrant:
    """A grant and the name it is published under."""

    secret_sha256: str
    grant: Grant


GrantsOf = Callable[[Session, UUID, Sequence[UUID] | None], Awaitable[list[PublishedGrant]]]
"""The current grants of an organisation's keys, revoked ones included; all of them when no ids are given."""
