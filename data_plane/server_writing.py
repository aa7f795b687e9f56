"""How a client reads: while it is slow its writer is paused, and when it reads nothing it is given up."""

import asyncio
from collections.abc import Callable

from data_plane.timers import TimerWheel


class WriteWatch:
    """Watches the write buffer of one connection. `stalled` is called when nothing was read for the whole time."""

    __slots__ = ("_buffered", "_stall_s", "_stalled", "_timer", "_transport", "paused")

    def __init__(
        self, transport: asyncio.Transport, wheel: TimerWheel, stall_s: float, stalled: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._stall_s = stall_s
        self._stalled = stalled
        self._timer = wheel.timer(self._timeout)
        self._buffered = 0
        self.paused = False
        """More is buffered than should be."""

    def pause(self) -> None:
        self.paused = True
        self.watch()

    def resume(self) -> None:
        self.paused = False
        if not self._transport.is_closing():
            self._timer.disarm()

    def watch(self) -> None:
        """From now on the client must read some of what is buffered in every stall time."""
        self._buffered = self._transport.get_write_buffer_size()
        if self._buffered:
            self._timer.arm(self._stall_s)

    def reads(self) -> bool:
        """Whether the client has read something since this was asked last, or everything."""
        before, self._buffered = self._buffered, self._transport.get_write_buffer_size()
        return self.paused or not self._buffered or self._buffered != before

    def discard(self) -> None:
        self._timer.discard()
        self._stalled = _nothing

    def _timeout(self) -> None:
        buffered = self._transport.get_write_buffer_size()
        if buffered and buffered >= self._buffered:
            self._stalled()
        else:
            self.watch()


def _nothing() -> None:
    pass
