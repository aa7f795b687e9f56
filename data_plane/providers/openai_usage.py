"""What an OpenAI-style reply says about itself: identity, tool calls and usage, in the shapes of its imitators too."""

from typing import Any, Final

from data_plane.providers.counts import BadCount, context, count, details, fill_input, tier, within
from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.request_body import members
from shared.prices.usage import Metered, Usage, UsagePart

_CACHED_BESIDE: Final = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")
_COST_USD_MAX: Final = 1_000_000


def identify(document: dict[str, Any], reading: Reading) -> None:
    model, body_id = document.get("model"), document.get("id")
    if isinstance(model, str) and model:
        reading.model = model
    if isinstance(body_id, str) and body_id:
        reading.provider_request_id = body_id


def tool_calls(document: dict[str, Any], carrier: str, reading: Reading) -> None:
    """Stop reason and the tools asked for; in a stream only a call's first piece has a name."""
    for choice in members(document.get("choices")):
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            reading.stop_reason = reason
        for call in members(details(choice, carrier).get("tool_calls")):
            name, call_id = details(call, "function").get("name"), call.get("id")
            if isinstance(name, str) and name:
                reading.tool_calls.append({"name": name, "id": call_id if isinstance(call_id, str) else ""})


def usage_report(document: dict[str, Any]) -> dict[str, Any] | None:
    """The usage a reply carries, wherever its upstream puts it."""
    usage = document.get("usage")
    if usage is None:
        usage = details(document, "x_groq").get("usage")
    return usage if isinstance(usage, dict) and usage else None


def metered(document: dict[str, Any], facts: Facts, reading: Reading) -> Metered | None:
    report = usage_report(document)
    if report is None:
        return None
    try:
        usage = _usage(report, reading)
    except BadCount:
        reading.flag("no_usage")
        return None
    if usage is None:
        return None
    cost = report.get("cost")
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < _COST_USD_MAX:
        reading.reported_cost_microdollars = int(cost * 1_000_000 + 0.5)
    stated = document.get("service_tier")
    return Metered([UsagePart(usage)], context(tier(stated)) if isinstance(stated, str) else facts.context)


def _usage(report: dict[str, Any], reading: Reading) -> Usage | None:
    """Disjoint buckets from nested counts. Sources: OpenAI's usage object and the deviations of its imitators."""
    if report.get("prompt_tokens") is None:
        return None
    prompt, completion = count(report, "prompt_tokens"), count(report, "completion_tokens")
    inside, outside = details(report, "prompt_tokens_details"), details(report, "completion_tokens_details")
    cached = count(inside, "cached_tokens")
    if inside.get("cached_tokens") is None:
        # DeepSeek, Mistral and Moonshot say it beside, not within.
        cached = next((n for key in _CACHED_BESIDE if (n := count(report, key))), 0)
    reasoning = count(outside, "reasoning_tokens")
    if reasoning and count(report, "total_tokens") == prompt + completion + reasoning:
        completion += reasoning  # xAI reports reasoning beside the completion
    cached = within(cached, prompt, reading)
    written = within(count(inside, "cache_write_tokens"), prompt - cached, reading)
    audio = within(count(inside, "audio_tokens"), prompt, reading)
    image = within(count(inside, "image_tokens"), prompt - audio, reading)
    video = within(count(inside, "video_tokens"), prompt - audio - image, reading)
    audio_out = within(count(outside, "audio_tokens"), completion, reading)
    image_out = within(count(outside, "image_tokens"), completion - audio_out, reading)
    usage = Usage(
        input_audio=audio,
        input_image=image,
        input_video=video,
        cache_read=cached,
        cache_write=written,
        output=completion - audio_out - image_out,
        output_audio=audio_out,
        output_image=image_out,
        reasoning=within(reasoning, completion, reading),
        web_search=count(
            details(report, "server_tool_use_details") or details(report, "server_tool_use"), "web_search_requests"
        ),
    )
    fill_input(usage, prompt)
    return usage
