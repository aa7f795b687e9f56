"""The online audit of one shard: what is held is what is open, proved at one instant, without changing anything.

    list open leases, reservations, windows ─> audit script ─> findings (after another look at what is new since)

The proof that settled money equals the booked events needs the system of record and is made elsewhere.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared import redis_keys
from shared.ledger.redis import SCRIPTS, Command
from shared.ledger.sweep import StoredReservation, parse_reservation


@dataclass(frozen=True, slots=True)
class WindowRow:
    settled: int
    held: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A shard at one instant. `reservations` and `windows` are those that were asked for and exist."""

    now_ms: int
    seq: int
    leases: dict[str, int]
    reservations: dict[str, StoredReservation]
    windows: dict[str, WindowRow]


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is a window id for `held`, a reservation id otherwise.

    `held`: the window holds another sum than its open reservations. `lease`: a lease without a live reservation, or
    with another end. `orphan`: a live reservation without a lease, which nothing will ever end.
    """

    kind: Literal["held", "lease", "orphan"]
    subject: str
    expected: int
    actual: int


def audit_command(
    shard: int, reservation_ids: Sequence[str], window_ids: Sequence[str], now_ms: int | None = None
) -> Command:
    """Ask for all open leases of a shard and for these rows. Ids of any state may be asked for."""
    prefix, script = redis_keys.shard_tag(shard), SCRIPTS["audit"]
    keys = [
        redis_keys.open_leases(prefix),
        redis_keys.seq(prefix),
        *(redis_keys.reservation(prefix, name) for name in reservation_ids),
        *(redis_keys.window(prefix, name) for name in window_ids),
    ]
    now = "" if now_ms is None else now_ms
    return Command(script, ["EVALSHA", script.sha1, len(keys), *keys, now, "", len(reservation_ids)])


def parse_audit(reservation_ids: Sequence[str], window_ids: Sequence[str], reply: Sequence[Any]) -> Picture:
    now_ms, seq, leases, reservations, windows = reply
    rows = zip(reservation_ids, map(parse_reservation, reservations), strict=True)
    return Picture(
        now_ms=int(now_ms),
        seq=int(seq),
        leases={name.decode(): int(score) for name, score in zip(leases[::2], leases[1::2], strict=True)},
        reservations={name: stored for name, stored in rows if stored is not None},
        windows={
            name: WindowRow(int(settled or 0), int(held or 0))
            for name, (settled, held) in zip(window_ids, windows, strict=True)
            if settled is not None or held is not None
        },
    )


def unseen(picture: Picture, reservation_ids: Sequence[str], window_ids: Sequence[str]) -> tuple[set[str], set[str]]:
    """Reservations and windows that came up while the lists were made; with any, ask again before judging."""
    named = {window for windows in _open_windows(picture).values() for window in windows}
    return picture.leases.keys() - set(reservation_ids), named - set(window_ids)


def findings(picture: Picture) -> list[Finding]:
    """Everything that is wrong in a complete picture."""
    found: list[Finding] = []
    for name, lease_end in picture.leases.items():
        stored = picture.reservations.get(name)
        actual = stored.lease_end_ms if stored is not None and stored.state == "reserved" else 0
        if actual != lease_end:
            found.append(Finding("lease", name, lease_end, actual))
    held: defaultdict[str, int] = defaultdict(int)
    for name, windows in _open_windows(picture).items():
        stored = picture.reservations[name]
        if name not in picture.leases:
            found.append(Finding("orphan", name, stored.lease_end_ms, 0))
        for window in windows:
            held[window] += stored.amount
    for window in held.keys() | picture.windows.keys():
        actual = picture.windows[window].held if window in picture.windows else 0
        if actual != held[window]:
            found.append(Finding("held", window, held[window], actual))
    return found


def _open_windows(picture: Picture) -> dict[str, list[str]]:
    """The windows each live reservation holds money in."""
    return {
        name: [scope.window_id for scope in stored.scopes or ()]
        for name, stored in picture.reservations.items()
        if stored.state == "reserved"
    }
