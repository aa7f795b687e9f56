"""Every time one call to a provider may take, on one timer: the write, the first byte, silence, and the whole call."""

from collections.abc import Callable
from math import inf
from typing import Final

from data_plane.timers import TimerWheel
from data_plane.upstream.failures import Phase, Timeouts, UpstreamFailure

_FIRST_WRITE_CHECK_S: Final = 1.0


class CallClock:
    """Of one connection, for one call after the other. `expired` is called when it is time for `verdict`."""

    __slots__ = ("_buffered_before", "_call_deadline", "_first_byte_deadline", "_timeouts", "_timer", "_wheel")

    def __init__(self, wheel: TimerWheel, expired: Callable[[], None]) -> None:
        self._wheel = wheel
        self._timer = wheel.timer(expired)
        self._timeouts = Timeouts()
        self._call_deadline = self._first_byte_deadline = inf
        self._buffered_before = -1

    def start(self, timeouts: Timeouts, *, large: bool) -> None:
        """A request was written; a large one may take a while to leave."""
        now = self._wheel.now
        self._timeouts = timeouts
        self._call_deadline = now + timeouts.call_s
        self._first_byte_deadline = now + timeouts.first_byte_s
        self._buffered_before = -1
        self._timer.arm(min(_FIRST_WRITE_CHECK_S, timeouts.first_check_s) if large else timeouts.first_check_s)

    def uploading(self) -> None:
        """The body of the request is still coming: nobody can answer yet."""
        self._first_byte_deadline = inf

    def uploaded(self) -> None:
        self._first_byte_deadline = self._wheel.now + self._timeouts.first_byte_s
        self._timer.arm(self._timeouts.first_check_s)

    def await_bytes(self) -> None:
        """The body of the reply began, or goes on after a pause."""
        self._timer.arm(min(self._timeouts.idle_s, self._call_deadline - self._wheel.now))

    def heard(self) -> None:
        """Bytes came. Runs once per event of every stream."""
        wheel, latest = self._wheel, self._call_deadline
        deadline = wheel.now + self._timeouts.idle_s + wheel.tick_s
        self._timer.deadline = deadline if deadline < latest else latest  # noqa: FURB136 - quicker than min()

    def pause(self) -> None:
        """The provider is not read, and not blamed for being silent."""
        self._timer.deadline = self._call_deadline

    def keep(self, idle_s: float) -> None:
        """No call: wait for the next one at most this long."""
        self._timer.arm(idle_s)

    def stop(self) -> None:
        self._timer.disarm()

    def discard(self) -> None:
        self._timer.discard()

    def verdict(self, *, answered: bool, buffered: int) -> UpstreamFailure | None:
        """What the provider failed to do in time, or None when it may go on. `buffered` is unsent."""
        timeouts, now = self._timeouts, self._wheel.now
        phase: Phase = "body" if answered else "write" if buffered else "first_byte"
        if now >= self._call_deadline:
            return _late(phase, f"the call took longer than {timeouts.call_s:g} s")
        if answered:
            return _late(phase, f"the provider sent nothing for {timeouts.idle_s:g} s")
        if buffered and buffered == self._buffered_before:
            return _late(phase, f"the provider took none of the request for {timeouts.write_stall_s:g} s")
        if now >= self._first_byte_deadline:
            return _late(phase, f"the provider did not answer within {timeouts.first_byte_s:g} s")
        self._buffered_before = buffered
        left = min(self._first_byte_deadline, self._call_deadline) - now
        self._timer.arm(min(timeouts.write_stall_s, left) if buffered else left)
        return None


def _late(phase: Phase, message: str) -> UpstreamFailure:
    return UpstreamFailure(phase, message, timeout=True, bytes_written=True)
