"""One timer wheel per worker: timeouts that are nearly always moved or dropped, so moving one is an attribute store.

A timer sits in the bucket of some tick at or before its deadline; only when that tick comes is it looked at, and then
fired, moved to a later bucket or forgotten. Timers are late by up to two ticks and never early.
"""

import asyncio
import time
from collections.abc import Callable
from math import inf

TICK_S = 0.1


def _nothing() -> None:
    pass


class Timer:
    """Armed and disarmed many times in its life; `callback` runs once per expiry."""

    __slots__ = ("_bucket", "_wheel", "callback", "deadline")

    def __init__(self, wheel: "TimerWheel", callback: Callable[[], None]) -> None:
        self._wheel = wheel
        self._bucket: float = inf
        self.callback = callback
        self.deadline: float = inf

    def arm(self, seconds: float) -> None:
        """Expire `seconds` from now, whatever was set before."""
        wheel = self._wheel
        # `now` is up to one tick old: the added tick keeps the timer from being early.
        self.deadline = deadline = wheel.now + seconds + wheel.tick_s
        if deadline < self._bucket:
            wheel.place(self)

    def disarm(self) -> None:
        self.deadline = inf

    def discard(self) -> None:
        """Never fire again, and let go of the owner: the wheel may hold this timer for a while."""
        self.deadline = inf
        self.callback = _nothing

    @property
    def armed(self) -> bool:
        return self.deadline != inf


class TimerWheel:
    """`advance` moves time; `start` lets an event loop do so. Tests advance by hand."""

    __slots__ = ("_buckets", "_clock", "_handle", "_loop", "_ticks_done", "now", "tick_s")

    def __init__(self, clock: Callable[[], float] = time.monotonic, tick_s: float = TICK_S) -> None:
        self._clock = clock
        self.tick_s = tick_s
        self.now = clock()
        self._ticks_done = int(self.now / tick_s)
        self._buckets: dict[int, list[Timer]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None

    def timer(self, callback: Callable[[], None]) -> Timer:
        return Timer(self, callback)

    def place(self, timer: Timer) -> None:
        tick = max(int(timer.deadline / self.tick_s), self._ticks_done + 1)
        timer._bucket = tick * self.tick_s
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [timer]
        else:
            bucket.append(timer)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._loop is None, "the wheel is already turning"
        self._loop = loop
        self._turn()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._loop = self._handle = None

    def _turn(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_later(self.tick_s, self._turn)
        self.advance()

    def advance(self) -> None:
        """Fire what is due at the clock's time."""
        self.now = now = self._clock()
        last = int(now / self.tick_s)
        if last - self._ticks_done > len(self._buckets):  # after a long pause: visit buckets, not ticks
            due = sorted(tick for tick in self._buckets if tick <= last)
        else:
            due = [tick for tick in range(self._ticks_done + 1, last + 1) if tick in self._buckets]
        self._ticks_done = last
        for tick in due:
            self._visit(tick, self._buckets.pop(tick))

    def _visit(self, tick: int, timers: list[Timer]) -> None:
        at = tick * self.tick_s
        for timer in timers:
            if timer._bucket != at:  # it moved to an earlier bucket since
                continue
            timer._bucket = inf
            if timer.deadline <= self.now:
                timer.deadline = inf
                self._fire(timer)
            elif timer.deadline != inf:
                self.place(timer)

    def _fire(self, timer: Timer) -> None:
        try:
            timer.callback()
        except Exception as error:  # one broken callback must not stop the clock of every other call
            loop = self._loop
            if loop is None:
                raise
            loop.call_exception_handler({"message": "a timeout callback failed", "exception": error})
