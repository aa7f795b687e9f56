"""Silence has limits, and money follows the ledger's clock: windows, prices and expiries, whatever a host believes."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from data_plane.upstream.failures import Timeouts
from shared.ledger import Read, Scope, ScopeState
from shared.windows import Window
from tests.integration.data_plane import caller
from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import ANTHROPIC, OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import Received, Wire, head, whole

QUIET_S = 0.2
HOUR_MS = 3_600_000

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Timeouts(first_byte_s=QUIET_S, idle_s=QUIET_S)
    monkeypatch.setattr("data_plane.exchange._STREAM_TIMEOUTS", short)
    monkeypatch.setattr("data_plane.exchange._WHOLE_TIMEOUTS", short)


async def silent(request: Received, wire: Wire) -> None:
    await wire.gone.wait()


@each_surface
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_provider_that_says_nothing_is_given_up_and_costs_the_hold(
    plane: Plane, surface: Surface, stream: bool
) -> None:
    plane.upstream.play = silent
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=stream)
    error = assert_refused(reply, 504, "upstream_timeout", surface=surface)
    details = {"provider": surface.provider, "phase": "first_byte", "timeout_seconds": QUIET_S}
    assert error["details"] == details
    assert error["recovery"] == {"retryable": True, "owner_action_required": False, "retry_after_seconds": None}
    hold = surface.hold(surface.body(stream=stream))
    await assert_booked(plane, budget, hold, "cut_off bound", flags=["estimated", "unknown"], status=None)


async def test_a_stream_that_falls_silent_ends_with_an_error_event_and_is_counted(plane: Plane) -> None:
    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in ANTHROPIC.pieces[:4]:
            wire.chunk(piece)
        await wire.gone.wait()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(ANTHROPIC, stream=True)
    assert reply.complete
    assert b'"type":"upstream_timeout"' in reply.body.split(b"\n\n")[-2]
    cost = ANTHROPIC.price(1000, 3)
    await assert_booked(plane, budget, cost, "cut_off counted", flags=["estimated", "interrupted"])


async def test_a_reply_that_falls_silent_is_given_up_and_costs_the_hold(plane: Plane) -> None:
    async def play(request: Received, wire: Wire) -> None:
        wire.send(head(200, b"application/json", b"Content-Length: 500") + OPENAI.reply[:100])
        await wire.gone.wait()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    error = assert_refused(await plane.call(), 504, "upstream_timeout", surface=OPENAI)
    assert error["details"] == {"provider": "openai", "phase": "body", "timeout_seconds": QUIET_S}
    flags = ["estimated", "interrupted", "unparsable"]
    await assert_booked(plane, budget, OPENAI.hold(OPENAI.body()), "cut_off bound", flags=flags)


async def test_a_stream_that_trickles_is_never_silent(plane: Plane) -> None:
    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in ANTHROPIC.pieces:
            wire.chunk(piece)
            await asyncio.sleep(QUIET_S / 3)
        wire.end()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    before = time.monotonic()
    assert (await plane.call(ANTHROPIC, stream=True)).complete
    assert time.monotonic() - before > 2 * QUIET_S
    await assert_booked(plane, budget, ANTHROPIC.cost, "completed exact")


async def test_a_provider_that_cannot_be_dialled_in_time_is_unreachable(
    new_plane: NewPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_plane.exchange._WHOLE_TIMEOUTS", Timeouts(connect_s=0.0))
    plane = await new_plane()
    budget = await plane.tenant.budget(WIDE)
    error = assert_refused(await plane.call(), 502, "upstream_unreachable", surface=OPENAI)
    assert error["details"]["phase"] in {"dns", "connect"}
    await assert_booked(plane, budget, 0, "never_sent exact", status=None)
    assert plane.upstream.bytes_received == 0


# --- clocks


def skewed(monkeypatch: pytest.MonkeyPatch, by_ms: int) -> None:
    """The host's clock, as a worker reads it, is off."""
    real = time.time_ns
    monkeypatch.setattr("data_plane.ledger_clock.time", SimpleNamespace(time_ns=lambda: real() + by_ms * 1_000_000))


@pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS], ids=["behind", "ahead"])
async def test_a_host_whose_clock_is_an_hour_off_books_in_the_right_window_and_is_not_ready(
    new_plane: NewPlane, monkeypatch: pytest.MonkeyPatch, by_ms: int
) -> None:
    skewed(monkeypatch, by_ms)
    plane = await new_plane()
    budget = await plane.tenant.budget(WIDE, window=Window("hour"))
    assert (await plane.call()).status == 200
    now_ms = time.time_ns() // 1_000_000
    spend = await plane.tenant.spent()
    assert spend.entry.windows == (f"{budget.id}:{now_ms - now_ms % HOUR_MS}:-",)
    assert abs(spend.event.requested_at_ms - now_ms) < 10_000
    reply = await plane.send(caller.request("/health/ready", method="GET"))
    document = reply.json()
    assert (reply.status, document["serving"], document["enforcing"]) == (503, True, True)
    assert abs(document["checks"]["clock_offset_ms"] + by_ms) < 1000


@pytest.mark.parametrize("by_ms", [-HOUR_MS, HOUR_MS], ids=["behind", "ahead"])
async def test_keys_expire_by_the_ledgers_clock(
    new_plane: NewPlane, monkeypatch: pytest.MonkeyPatch, by_ms: int
) -> None:
    skewed(monkeypatch, by_ms)
    plane = await new_plane()
    now_ms = time.time_ns() // 1_000_000
    alive = await plane.tenant.key(expires_at_ms=now_ms + 60_000)
    dead = await plane.tenant.key(expires_at_ms=now_ms - 1)
    assert (await plane.call(key=alive)).status == 200
    assert_refused(await plane.call(key=dead), 401, "unauthorized", surface=OPENAI)


async def test_a_key_that_is_known_expires_on_time(plane: Plane) -> None:
    key = await plane.tenant.key(expires_at_ms=time.time_ns() // 1_000_000 + 150)
    assert (await plane.call(key=key)).status == 200

    async def refused() -> bool:
        return (await plane.call(key=key)).status == 401

    await until(refused)
    assert time.time_ns() // 1_000_000 >= (key.grant.expires_at_ms or 0)


async def test_a_window_that_rolls_under_a_running_call_is_empty_and_the_call_stays_in_the_old_one(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_plane.exchange._WHOLE_TIMEOUTS", Timeouts())
    go = asyncio.Event()

    async def play(request: Received, wire: Wire) -> None:
        if len(plane.upstream.requests) == 1:
            await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = play
    rolls_ms = time.time_ns() // 1_000_000 + 300
    budget = await plane.tenant.budget(OPENAI.hold(OPENAI.body()), window=Window(reset_at_ms=rolls_ms))
    async with await plane.connect() as first:
        first.send(plane.request())
        await until(lambda: plane.upstream.requests)
        assert (await plane.call()).status == 429
        await until(lambda: time.time_ns() // 1_000_000 > rolls_ms)
        assert (await plane.call()).status == 200
        await until_entries(plane, 1)
        assert await numbers(plane, budget.id, 0) == (0, OPENAI.hold(OPENAI.body()))
        go.set()
        assert (await first.reply()).status == 200
    spends = await plane.tenant.ended(2)
    assert {spend.entry.windows for spend in spends} == {(f"{budget.id}:0:-",), (f"{budget.id}:{rolls_ms}:-",)}
    for start_ms in (0, rolls_ms):
        assert await numbers(plane, budget.id, start_ms) == (OPENAI.cost, 0)


async def until_entries(plane: Plane, count: int) -> None:
    async def there() -> bool:
        return len(await plane.tenant.entries()) == count

    await until(there)


async def numbers(plane: Plane, budget_id: str, start_ms: int) -> tuple[int, int]:
    """Settled and held of a window."""
    reply = await plane.tenant.ledger.read(Read(plane.tenant.id, (Scope(budget_id, "-", start_ms, 0),)))
    state: ScopeState = reply.scopes[0]
    return state.settled, state.held
