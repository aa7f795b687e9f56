"""The bench's arithmetic: what it sends, which rounds it keeps, and how it compares."""

import json

import pytest

from bench.native import Load
from bench.report import Spread, caveats, comparisons
from bench.request import body, request
from bench.rounds import Cell, Sample, kept

CELL = Cell("json", 64)


def sample(target: str, number: int, *, cpu_us: float = 10, p50_us: float = 100, steal: float = 0) -> Sample:
    load = Load(1000, 1100, 0, 0, 0, 2.0, p50_us, 200, 300, 400)
    return Sample(CELL, target, number, load, cpu_us, (), proxy_busy=1, foreign=0, steal=steal)


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_has_exactly_the_size_asked_for(*, stream: bool) -> None:
    content = body(740, stream=stream)
    assert (len(content), json.loads(content)["stream"]) == (740, stream)
    assert request(content, {"X-A": "b"}).endswith(b"X-A: b\r\nContent-Length: 740\r\n\r\n" + content)


def test_a_body_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        body(10, stream=False)


def test_rounds_of_a_stolen_machine_are_dropped_for_every_target() -> None:
    samples = [sample("nginx", 0), sample("ours", 0, steal=0.03), sample("nginx", 1), sample("ours", 1)]
    good, dropped = kept(samples)
    assert good == samples[2:]
    assert dropped == ["round 1, json, 64 conn.: 3.0% of the machine was stolen"]


def test_rounds_in_which_nginx_was_slow_are_dropped() -> None:
    samples = [sample("nginx", 0, cpu_us=15), sample("ours", 0), sample("nginx", 1), sample("ours", 1)]
    assert kept(samples)[0] == samples[2:]


def test_ratios_are_taken_within_a_round() -> None:
    samples = [
        one
        for number, (nginx, ours) in enumerate([(10, 40), (20, 40), (10, 30)])
        for one in (sample("nginx", number, cpu_us=nginx), sample("ours", number, cpu_us=ours))
    ]
    ratio = next(one for one in comparisons(samples) if one.figure == "CPU per request")
    assert (ratio.who, ratio.against, ratio.spread) == ("ours", "nginx", Spread(3.0, 2.5, 3.5, 3))


def test_few_rounds_are_said_to_be_few() -> None:
    assert "only 1 good rounds" in caveats([sample("nginx", 0)], [CELL])[0]
