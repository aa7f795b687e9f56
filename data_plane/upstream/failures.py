"""How a call to a provider fails, and the times it may take."""

from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["dns", "connect", "tls", "write", "first_byte", "body"]


class UpstreamFailure(Exception):
    """The provider could not be reached, or its reply cannot be completed."""

    def __init__(self, phase: Phase, message: str, *, timeout: bool = False, bytes_written: bool = False) -> None:
        super().__init__(message)
        self.phase = phase
        self.message = message
        self.timeout = timeout
        self.bytes_written = bytes_written
        """A byte of the request may have reached the provider: it may have been billed, so it is never repeated."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect_s: float = 5.0
    """Name look-up, connection and TLS together."""
    write_stall_s: float = 30.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    """Between bytes of the reply; it stands still while the reply is paused."""
    call_s: float = 3_600.0
    first_check_s: float = field(init=False, repr=False, compare=False)
    """When a call is looked at first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first_check_s", min(self.write_stall_s, self.first_byte_s, self.call_s))
