"""Every ending and what it costs, for every dialect."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_plane.decide.estimate import upper_bound
from data_plane.decide.outcome import Charge, Completed, CutOff, NeverSent, Refused, Terms, charge, observed
from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.registry import DIALECTS
from shared.money import Microdollars
from shared.prices.usage import Metered, PriceContext, Usage, UsagePart
from tests.support.package_prices import milliseconds, moment, table

NOW_MS = milliseconds(moment("2026-11-22T12:00:00Z"))


def sse(*documents: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(document) + b"\n\n" for document in documents)


@dataclass(frozen=True)
class Shape:
    """A dialect's replies: 1,000 input tokens, 200 output tokens, `four` as the text of each delta."""

    dialect: str
    provider: str
    model: str
    input_rate: float
    output_rate: float
    json_usage: dict[str, Any]
    json_plain: dict[str, Any]
    begin: list[dict[str, Any]]
    delta: dict[str, Any]
    end_usage: list[dict[str, Any]]
    end_plain: list[dict[str, Any]]
    error: dict[str, Any]
    input_known: bool = False
    """The beginning of a stream already tells the input."""

    def terms(self, **changes: Any) -> Terms:
        facts = Facts(self.model, stream=True, input_bytes=8000, output_tokens_max=5000)
        price = table().find(self.provider, self.model, NOW_MS)
        bound = upper_bound(facts, price)
        return replace(Terms(facts, bound, bound.amount, price, table(), self.provider, NOW_MS), **changes)

    def stream(self, *documents: dict[str, Any], cut: bool = False) -> Reading:
        meter = DIALECTS[self.dialect].meter(Facts(self.model, stream=True))
        meter.feed(sse(*documents))
        if self.dialect == "openai.chat" and not cut:
            meter.feed(b"data: [DONE]\n\n")
        return meter.finish()[1]

    def json(self, body: dict[str, Any] | bytes) -> Reading:
        text = body if isinstance(body, bytes) else orjson.dumps(body)
        return DIALECTS[self.dialect].read_json(text, Facts(self.model))

    def cost(self, input_tokens: float, output_tokens: float) -> Microdollars:
        return Microdollars(int(input_tokens * self.input_rate + output_tokens * self.output_rate + 0.5))


OPENAI_USAGE = {"prompt_tokens": 1000, "completion_tokens": 200}
GEMINI_USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 200}
OPENAI = Shape(
    "openai.chat", "openai", "gpt-4o", 2.5, 10,
    json_usage={"model": "gpt-4o", "choices": [{"message": {"content": "four"}}], "usage": OPENAI_USAGE},
    json_plain={"model": "gpt-4o", "choices": [{"message": {"content": "x" * 300}}]},
    begin=[{"model": "gpt-4o", "choices": [{"delta": {"role": "assistant", "content": ""}}]}],
    delta={"model": "gpt-4o", "choices": [{"delta": {"content": "four"}}]},
    end_usage=[{"model": "gpt-4o", "choices": [], "usage": OPENAI_USAGE}],
    end_plain=[],
    error={"error": {"message": "overloaded"}},
)  # fmt: skip
ANTHROPIC = Shape(
    "anthropic", "anthropic", "claude-sonnet-4-6", 3, 15,
    json_usage={"model": "claude-sonnet-4-6", "usage": {"input_tokens": 1000, "output_tokens": 200}},
    json_plain={"model": "claude-sonnet-4-6", "content": [{"text": "x" * 300}]},
    begin=[{"type": "message_start", "message": {
        "model": "claude-sonnet-4-6", "usage": {"input_tokens": 1000, "output_tokens": 2}}}],
    delta={"type": "content_block_delta", "delta": {"type": "text_delta", "text": "four"}},
    end_usage=[{"type": "message_delta", "delta": {}, "usage": {"output_tokens": 200}}, {"type": "message_stop"}],
    end_plain=[{"type": "message_stop"}],
    error={"type": "error", "error": {"type": "overloaded_error"}},
    input_known=True,
)  # fmt: skip
GEMINI = Shape(
    "gemini", "google", "gemini-2.5-flash", 0.3, 2.5,
    json_usage={"modelVersion": "gemini-2.5-flash", "usageMetadata": GEMINI_USAGE},
    json_plain={"modelVersion": "gemini-2.5-flash", "candidates": [{"content": {"parts": [{"text": "x" * 300}]}}]},
    begin=[{"modelVersion": "gemini-2.5-flash", "usageMetadata": {"promptTokenCount": 1000}}],
    delta={"candidates": [{"content": {"parts": [{"text": "four"}]}}]},
    end_usage=[{"candidates": [{"finishReason": "STOP"}], "usageMetadata": GEMINI_USAGE}],
    end_plain=[{"candidates": [{"finishReason": "STOP"}]}],
    error={"error": {"code": 503}},
    input_known=True,
)  # fmt: skip
SHAPES = [OPENAI, ANTHROPIC, GEMINI]
every_dialect = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.dialect)


def adds_up(charged: Charge) -> bool:
    parts = charged.breakdown
    return parts is not None and parts.input + parts.output + parts.cached + parts.tools == charged.amount


@every_dialect
def test_what_was_never_sent_costs_nothing(shape: Shape) -> None:
    charged = charge(NeverSent(), shape.terms())
    assert (charged.amount, charged.outcome, charged.flags) == (0, "never_sent", [])
    assert adds_up(charged)


@every_dialect
def test_a_provider_error_without_usage_costs_nothing(shape: Shape) -> None:
    for outcome in (Refused(), Refused(shape.json(shape.error)), Refused(shape.json(b"<html>"))):
        charged = charge(outcome, shape.terms())
        assert (charged.amount, charged.outcome, charged.cost_source) == (0, "refused", "exact")


@every_dialect
def test_a_provider_error_with_usage_is_charged_exactly(shape: Shape) -> None:
    charged = charge(Refused(shape.json({**shape.json_usage, **shape.error})), shape.terms())
    assert (charged.amount, charged.outcome, charged.cost_source) == (shape.cost(1000, 200), "refused", "exact")


@every_dialect
def test_a_reply_with_usage_is_charged_exactly(shape: Shape) -> None:
    charged = charge(Completed(shape.json(shape.json_usage)), shape.terms())

    assert (charged.amount, charged.outcome) == (shape.cost(1000, 200), "completed")
    assert (charged.cost_source, charged.priced, charged.flags) == ("exact", "true", [])
    assert (charged.usage.input, charged.usage.output) == (1000, 200)
    assert charged.price_ref
    assert adds_up(charged)


@every_dialect
def test_a_reply_without_usage_is_charged_for_its_text(shape: Shape) -> None:
    charged = charge(Completed(shape.json(shape.json_plain)), shape.terms())
    assert charged.amount == shape.cost(4000, 100)
    assert (charged.cost_source, charged.flags) == ("counted", ["estimated", "no_usage"])
    assert adds_up(charged)


@every_dialect
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"cut'])
def test_a_reply_that_cannot_be_read_costs_the_hold(shape: Shape, body: bytes) -> None:
    terms = shape.terms()
    charged = charge(Completed(shape.json(body)), terms)
    assert (charged.amount, charged.cost_source, charged.breakdown) == (terms.reserved, "bound", None)
    assert charged.flags == ["estimated", "unparsable"]


@every_dialect
def test_a_stream_that_shows_nothing_readable_costs_the_hold(shape: Shape) -> None:
    for stream in (b"", b"<html>", b"data: {broken\n\n", b": comment\n\n"):
        meter = DIALECTS[shape.dialect].meter(Facts(shape.model, stream=True))
        meter.feed(stream)
        charged = charge(Completed(meter.finish()[1]), shape.terms())
        assert (charged.amount, charged.flags) == (shape.terms().reserved, ["estimated", "unparsable"])


@every_dialect
def test_a_stream_with_usage_is_charged_exactly(shape: Shape) -> None:
    reading = shape.stream(*shape.begin, *[shape.delta] * 30, *shape.end_usage)
    charged = charge(Completed(reading), shape.terms())
    assert (charged.amount, charged.cost_source, charged.flags) == (shape.cost(1000, 200), "exact", [])


@every_dialect
def test_a_stream_that_ends_without_usage_is_counted(shape: Shape) -> None:
    reading = shape.stream(*shape.begin, *[shape.delta] * 30, *shape.end_plain)
    if shape.dialect == "gemini":
        reading.final = False  # its reports come with every piece
    charged = charge(Completed(reading), shape.terms())
    inputs = 1000 if shape.input_known else 4000
    assert charged.amount == shape.cost(inputs, 40)
    assert (charged.cost_source, charged.flags) == ("counted", ["estimated", "no_usage"])


@every_dialect
@pytest.mark.parametrize("deltas", [0, 1, 40])
@pytest.mark.parametrize("cause", ["cancelled", "interrupted", "budget_cut"])
def test_a_cut_stream_is_charged_what_was_seen(shape: Shape, deltas: int, cause: Any) -> None:
    reading = shape.stream(*shape.begin, *[shape.delta] * deltas, cut=True)
    charged = charge(CutOff(reading, cause), shape.terms())

    inputs = 1000 if shape.input_known else 4000
    counted = max(deltas, -(-4 * deltas // 3))
    started = 2 if shape is ANTHROPIC and not deltas else 0
    assert charged.amount == shape.cost(inputs, counted + started)
    assert (charged.outcome, charged.cost_source, charged.flags) == ("cut_off", "counted", ["estimated", cause])
    assert adds_up(charged)


def test_a_cut_gemini_stream_is_charged_its_last_report() -> None:
    report = {"promptTokenCount": 1000, "candidatesTokenCount": 150, "thoughtsTokenCount": 50}
    reading = GEMINI.stream({**GEMINI.delta, "usageMetadata": report}, cut=True)
    charged = charge(CutOff(reading, "cancelled"), GEMINI.terms())
    assert (charged.amount, charged.flags) == (GEMINI.cost(1000, 200), ["estimated", "cancelled"])


@every_dialect
def test_a_cut_after_the_last_usage_is_exact(shape: Shape) -> None:
    reading = shape.stream(*shape.begin, shape.delta, *shape.end_usage, cut=True)
    charged = charge(CutOff(reading, "cancelled"), shape.terms())
    assert (charged.amount, charged.cost_source, charged.flags) == (shape.cost(1000, 200), "exact", ["cancelled"])


@every_dialect
def test_a_client_that_leaves_a_whole_reply_is_charged_exactly(shape: Shape) -> None:
    charged = charge(Completed(shape.json(shape.json_usage), cancelled=True), shape.terms())
    assert (charged.amount, charged.cost_source, charged.flags) == (shape.cost(1000, 200), "exact", ["cancelled"])


@every_dialect
def test_an_error_in_the_stream_is_charged_what_was_seen_or_its_usage(shape: Shape) -> None:
    deltas = [shape.delta] * 30
    seen = charge(Completed(shape.stream(*shape.begin, *deltas, shape.error)), shape.terms())
    cut = charge(CutOff(shape.stream(*shape.begin, *deltas, shape.error, cut=True), "interrupted"), shape.terms())
    told = charge(Completed(shape.stream(*shape.begin, shape.error, *shape.end_usage)), shape.terms())

    inputs = 1000 if shape.input_known else 4000
    assert (seen.amount, seen.flags) == (shape.cost(inputs, 40), ["estimated", "provider_error"])
    assert (cut.amount, cut.flags) == (shape.cost(inputs, 40), ["estimated", "interrupted", "provider_error"])
    assert (told.amount, told.cost_source, told.flags) == (shape.cost(1000, 200), "exact", ["provider_error"])


@every_dialect
def test_a_call_that_nobody_knows_about_costs_the_hold(shape: Shape) -> None:
    terms = shape.terms()
    for outcome in (CutOff(), CutOff(None, "interrupted"), CutOff(Reading(flags=["unparsable"]), "cancelled")):
        charged = charge(outcome, terms)
        assert (charged.amount, charged.cost_source, charged.outcome) == (terms.reserved, "bound", "cut_off")
        assert charged.flags[0] == "estimated"
    assert charge(CutOff(), terms).flags == ["estimated", "unknown"]


@every_dialect
def test_half_a_json_body_costs_the_hold(shape: Shape) -> None:
    terms = shape.terms()
    charged = charge(CutOff(shape.json(b'{"choices":[{"mess'), "interrupted"), terms)
    assert (charged.amount, charged.flags) == (terms.reserved, ["estimated", "interrupted", "unparsable"])


@every_dialect
def test_an_unpriced_call_costs_the_stated_rate_or_nothing(shape: Shape) -> None:
    reading = shape.json(shape.json_usage)
    reading.model = None
    stated = charge(Completed(reading), shape.terms(price=None, unpriced_rate=5_000_000))
    free = charge(Completed(reading), shape.terms(price=None))
    lost = charge(CutOff(), shape.terms(price=None, reserved=Microdollars(77)))

    assert (stated.amount, stated.priced, stated.flags) == (6000, "false", ["estimated"])
    assert adds_up(stated)
    assert (free.amount, free.priced, free.flags) == (0, "false", [])
    assert (lost.amount, lost.priced) == (77, "false")
    assert charge(NeverSent(), shape.terms(price=None)).priced == "false"


@every_dialect
def test_a_count_is_never_charged_beyond_the_hold(shape: Shape) -> None:
    terms = shape.terms(reserved=Microdollars(400))
    reading = shape.stream(*shape.begin, *[shape.delta] * 900, cut=True)
    charged = charge(CutOff(reading, "cancelled"), terms)

    assert charged.amount == (max(400, shape.cost(1000, 0)) if shape.input_known else 400)
    assert adds_up(charged)
    assert observed(reading, terms) > charged.amount


@given(
    deltas=st.integers(0, 10**6),
    shown=st.integers(0, 10**7),
    reserved=st.integers(0, 10**6),
    elapsed_ms=st.integers(0, 10**6),
    hidden=st.booleans(),
)
def test_counted_charges_add_up_and_stay_within_the_hold(
    deltas: int, shown: int, reserved: int, elapsed_ms: int, hidden: bool
) -> None:
    terms = OPENAI.terms(reserved=Microdollars(reserved), elapsed_ms=elapsed_ms)
    reading = Reading(model="gpt-4o", output_deltas=deltas, output_bytes=shown, reasoning_hidden=hidden)
    charged = charge(CutOff(reading, "interrupted"), terms)
    assert 0 <= charged.amount <= reserved
    assert adds_up(charged)
    assert charged.usage.output_total <= terms.bound.output_tokens


def test_reasoning_nobody_saw_is_charged_by_time_within_the_output_bound() -> None:
    reading = Reading(model="gpt-4o", output_deltas=10, reasoning_hidden=True)
    brief = charge(CutOff(reading, "cancelled"), OPENAI.terms(elapsed_ms=2000))
    long = charge(CutOff(reading, "cancelled"), OPENAI.terms(elapsed_ms=600_000))

    assert (brief.usage.output, brief.usage.reasoning) == (1010, 1000)
    assert (long.usage.output, long.usage.reasoning) == (5000, 4990)
    assert brief.amount == OPENAI.cost(4000, 1010)


def test_counted_speech_is_charged_as_speech() -> None:
    facts = Facts("gpt-audio", stream=True, input_bytes=200, output_tokens_max=5000, audio_output=True)
    charged = charge(CutOff(Reading(model="gpt-4o", output_deltas=10), "cancelled"), OPENAI.terms(facts=facts))
    assert (charged.usage.output, charged.usage.output_audio) == (0, 10)


def test_the_replying_model_sets_the_price() -> None:
    def answered_by(model: str) -> Charge:
        return charge(Completed(OPENAI.json({**OPENAI.json_usage, "model": model})), OPENAI.terms())

    assert answered_by("gpt-4o-mini-2024-07-18").amount == 270
    assert answered_by("gpt-4o-2024-11-20").priced == "true"
    unknown = answered_by("someones-own-model")
    assert (unknown.amount, unknown.priced) == (OPENAI.cost(1000, 200), "gap")


def test_a_priced_reply_to_an_unpriced_request_is_priced() -> None:
    charged = charge(Completed(OPENAI.json(OPENAI.json_usage)), OPENAI.terms(price=None, facts=Facts("deployment-7")))
    assert (charged.amount, charged.priced) == (OPENAI.cost(1000, 200), "true")


def test_parts_are_priced_by_their_models_and_summed() -> None:
    parts = [UsagePart(Usage(input=2000, output=150)), UsagePart(Usage(input=2600, output=20), "claude-opus-4-8")]
    reading = Reading(metered=Metered(parts), final=True, model="claude-sonnet-4-6")
    charged = charge(Completed(reading), ANTHROPIC.terms())
    assert charged.amount == ANTHROPIC.cost(2000, 150) + 2600 * 5 + 20 * 25
    assert (charged.usage.input, charged.usage.output) == (4600, 170)


def test_a_context_without_a_rate_is_a_gap() -> None:
    metered = Metered([UsagePart(Usage(input=10))], PriceContext(speed="fast"))
    charged = charge(Completed(Reading(metered=metered, final=True)), ANTHROPIC.terms())
    assert (charged.priced, charged.context.speed) == ("gap", "fast")


@pytest.mark.parametrize("trusted", [False, True])
def test_a_reported_cost_is_charged_where_it_is_trusted(trusted: bool) -> None:
    reading = OPENAI.json({**OPENAI.json_usage, "usage": {**OPENAI_USAGE, "cost": 0.0133176}})
    charged = charge(Completed(reading), OPENAI.terms(trust_reported_cost=trusted))

    assert charged.reported == 13318
    ours = OPENAI.cost(1000, 200)
    if trusted:
        assert (charged.amount, charged.cost_source, charged.computed) == (13318, "reported", ours)
    else:
        assert (charged.amount, charged.cost_source, charged.computed) == (ours, "exact", None)


def test_flags_of_the_reading_are_kept_once() -> None:
    reading = OPENAI.json({**OPENAI.json_usage, "usage": {"prompt_tokens": 1, "completion_tokens": 1,
                           "prompt_tokens_details": {"cached_tokens": 5}}})  # fmt: skip
    assert charge(Completed(reading), OPENAI.terms()).flags == ["usage_inconsistent"]


@every_dialect
def test_what_the_guard_watches_is_exact_once_usage_came(shape: Shape) -> None:
    watch: Callable[[Reading], Microdollars] = lambda reading: observed(reading, shape.terms())  # noqa: E731
    assert watch(shape.stream(*shape.begin, *[shape.delta] * 30, *shape.end_usage)) == shape.cost(1000, 200)
    inputs = 1000 if shape.input_known else 4000
    assert watch(shape.stream(*shape.begin, *[shape.delta] * 30, cut=True)) == shape.cost(inputs, 40)
