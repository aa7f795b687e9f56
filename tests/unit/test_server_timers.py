"""The timer wheel: never early, late by little, and cheap to move."""

import asyncio
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_plane.timers import TICK_S, TimerWheel
from tests.fakes.wire import HandClock, HandWheel


def test_a_timer_fires_once_and_never_early() -> None:
    wheel, fired = HandWheel(), []
    wheel.timer(lambda: fired.append(wheel.now)).arm(5)
    began = wheel.now
    wheel.pass_time(30)
    assert len(fired) == 1
    assert began + 5 <= fired[0] <= began + 5.6


def test_a_disarmed_timer_does_not_fire_and_can_be_armed_again() -> None:
    wheel, fired = HandWheel(), []
    timer = wheel.timer(lambda: fired.append(1))
    timer.arm(5)
    timer.disarm()
    was_armed = timer.armed
    wheel.pass_time(10)
    assert not fired
    timer.arm(5)
    assert [was_armed, timer.armed] == [False, True]
    wheel.pass_time(10)
    assert fired == [1]


def test_a_timer_can_be_moved_both_ways() -> None:
    wheel, fired = HandWheel(), []
    timer = wheel.timer(lambda: fired.append(wheel.now))
    timer.arm(100)
    timer.arm(5)
    wheel.pass_time(4)
    timer.arm(50)
    wheel.pass_time(45)
    assert not fired
    timer.arm(2)
    wheel.pass_time(3)
    assert len(fired) == 1
    wheel.pass_time(200)
    assert len(fired) == 1


def test_a_timer_may_arm_itself_when_it_fires() -> None:
    wheel, fired = HandWheel(), []

    def again() -> None:
        fired.append(wheel.now)
        if len(fired) < 4:
            timer.arm(1)

    timer = wheel.timer(again)
    timer.arm(1)
    wheel.pass_time(20)
    assert len(fired) == 4


def test_a_long_pause_fires_what_is_due_in_order() -> None:
    clock = HandClock()
    wheel = TimerWheel(clock)
    fired: list[int] = []
    for delay in (7, 3, 5_000, 1):
        wheel.timer(partial(fired.append, delay)).arm(delay)
    clock.now += 4_000
    wheel.advance()
    assert fired == [1, 3, 7]


def test_a_discarded_timer_lets_go_of_its_owner() -> None:
    wheel, fired = HandWheel(), []
    timer = wheel.timer(lambda: fired.append(1))
    timer.arm(5)
    timer.discard()
    wheel.pass_time(10)
    assert not fired


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["arm", "disarm", "wait"]), st.floats(0, 40)), max_size=60)
)
def test_timers_behave_like_their_model(steps: list[tuple[int, str, float]]) -> None:
    clock = HandClock()
    wheel = TimerWheel(clock)
    due: dict[int, float] = {}
    fired: list[int] = []
    timers = [wheel.timer(partial(fired.append, n)) for n in range(10)]
    for number, action, amount in steps:
        if action == "arm":
            timers[number].arm(amount)
            due[number] = clock.now + amount
        elif action == "disarm":
            timers[number].disarm()
            due.pop(number, None)
        else:
            clock.now += amount
            fired.clear()
            wheel.advance()
            for n in fired:
                assert due.pop(n) <= clock.now
            assert all(deadline + 3 * TICK_S > clock.now for deadline in due.values())


async def test_a_started_wheel_turns_by_itself_and_survives_a_broken_callback() -> None:
    wheel = TimerWheel(tick_s=0.005)
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))

    def broken() -> None:
        raise KeyError("bug")

    fired = asyncio.Event()
    wheel.timer(broken).arm(0.01)
    wheel.timer(fired.set).arm(0.01)
    wheel.start(asyncio.get_running_loop())
    await asyncio.wait_for(fired.wait(), 1)
    wheel.stop()
    assert len(reported) == 1


def test_an_error_in_a_callback_reaches_the_test_that_turned_the_wheel() -> None:
    wheel = HandWheel()

    def broken() -> None:
        raise KeyError("bug")

    wheel.timer(broken).arm(1)
    with pytest.raises(KeyError):
        wheel.pass_time(2)
