"""Request and response models of the API: camelCase outside, unknown fields refused, money an exact integer."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, WithJsonSchema
from pydantic.alias_generators import to_camel

from control_plane.kernel import errors
from shared import ids
from shared.money import MICRODOLLARS_MAX

_EXACT: Final = "an exact whole number of microdollars from 0 to 9007199254740991; no fraction, no exponent, no string"


class RequestModel(BaseModel):
    """A body that configures something: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class ResponseModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    def wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def _money(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MICRODOLLARS_MAX:
        raise ValueError(f"must be {_EXACT}")
    return value


Money = Annotated[
    StrictInt,
    BeforeValidator(_money),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MICRODOLLARS_MAX, "description": f"{_EXACT}."}),
]


def _instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 time like 2026-04-01T00:00:00Z")  # noqa: TRY004 - pydantic wants it
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an RFC 3339 time like 2026-04-01T00:00:00Z") from None
    if instant.tzinfo is None or not 1970 <= instant.year <= 9998:
        raise ValueError("must name its offset (Z or +02:00) and lie between 1970 and 9998")
    return instant


Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]


def path_id(text: str, prefix: str, what: str) -> UUID:
    """An id of a path, prefixed or bare. Anything else does not exist: 404."""
    found = ids.bare(text, prefix)
    if found is None:
        raise errors.not_found(what)
    return UUID(found)


PathId = Annotated[str, Path(max_length=100, description="Prefixed or bare.")]


class Recovery(ResponseModel):
    model_config = ConfigDict(alias_generator=None, frozen=True)

    retryable: bool
    owner_action_required: bool
    retry_after_seconds: int | None
    docs: str


class ErrorDetail(ResponseModel):
    model_config = ConfigDict(alias_generator=None, frozen=True)

    code: str = Field(examples=["validation_error"])
    message: str
    details: dict[str, Any] | None
    request_id: str
    recovery: Recovery


class ErrorBody(ResponseModel):
    """What every refusal looks like."""

    error: ErrorDetail


class Deleted(ResponseModel):
    id: str
    deleted: bool = True


class DeletedBody(ResponseModel):
    data: Deleted
    deleted: bool = True
    success: bool = True


class Enforcement(ResponseModel):
    """Whether the data plane knows. `publishedAt` null: committed, and on its way through the outbox."""

    policy_version: int
    published_at: str | None


class CursorModel(ResponseModel):
    created_at: str
    id: str


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (400, "The request is wrong; `details.issues` says where."),
        (401, "No valid key."),
        (403, "The key may not do this."),
        (404, "There is no such thing in this organisation."),
        (409, "It conflicts with what is there."),
        (413, "The body is too large."),
        (415, "The body is not JSON."),
        (503, "A store cannot be reached; nothing was decided."),
    )
}
