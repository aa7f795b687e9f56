"""The ledger's time as a worker knows it: windows and prices follow Redis, not the host's clock."""

import time


class LedgerClock:
    """The ledger's time as last seen by this worker: host time plus the offset of the newest reply."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def saw(self, ledger_ms: int) -> None:
        self.offset_ms = ledger_ms - time.time_ns() // 1_000_000
