"""What the stack tells the outside: the state of a server, and the one error it raises."""

from dataclasses import dataclass


class StackError(Exception):
    """The stack cannot run; the message is a sentence that says what to do about it."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    name: str
    running: bool
    """Ready for clients at this moment."""
    restarts: int
    """How often it was started again after it had once been ready."""
    pid: int | None
    last_error: str | None
    """Why it last ended, failed to start or had to be repaired; kept after a recovery."""
