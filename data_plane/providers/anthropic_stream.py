"""What Anthropic's replies say: identity, tools, usage; and the meter of its streams.

Usage comes twice in a stream, at the start and at the end, and neither is always the larger one.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from data_plane.providers.counts import BadCount, context, count, details, tier, within
from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.json_text import text_bytes
from data_plane.providers.metering import EventMeter
from data_plane.providers.request_body import members, word
from shared.prices.usage import Metered, Usage, UsagePart

_SHOWN_KEYS: Final = ("text", "thinking", "partial_json", "content")
_TEXT_KEYS: Final = (b"text", b"thinking", b"partial_json")


class MessageMeter(EventMeter):
    """Reads a message's events."""

    __slots__ = ("_report", "_searches", "_thinking_shown")

    def __init__(self, facts: Facts, read_body: Callable[[bytes, bytes], Reading]) -> None:
        super().__init__(facts, read_body)
        self._report: dict[str, Any] = {}
        self._searches = 0
        self._thinking_shown = False

    def _learn(self, raw: bytes) -> None:
        for key in _TEXT_KEYS:
            if self._template.learn(raw, key):
                return

    def _document(self, document: dict[str, Any]) -> None:
        reading = self._reading
        match document.get("type"):
            case "content_block_delta":
                delta = details(document, "delta")
                shown = sum(text_bytes(delta.get(key)) for key in _SHOWN_KEYS)
                if shown:
                    reading.output_deltas += 1
                    reading.output_bytes += shown
                if delta.get("thinking"):
                    self._thinking_shown = True
                    reading.reasoning_hidden = False
            case "content_block_start":
                self._block_begins(details(document, "content_block"))
            case "message_start":
                message = details(document, "message")
                read_message(message, reading)
                self._report = details(message, "usage")
            case "message_delta":
                read_message(details(document, "delta"), reading)
                report = details(document, "usage")
                if report:
                    self._report = largest(self._report, report)
                    reading.final = True
            case "message_stop":
                reading.finished = True
            case "error":
                reading.error = True
            case None if isinstance(document.get("usage"), dict):
                self._report = largest(self._report, document["usage"])  # saved from an oversized event
                reading.final = True

    def _block_begins(self, block: dict[str, Any]) -> None:
        read_block(block, self._reading)
        kind = block.get("type")
        if kind == "server_tool_use" and block.get("name") == "web_search":
            self._searches += 1
        elif kind in {"thinking", "redacted_thinking"} and not self._thinking_shown:
            # Billed in full. Whether it will be shown is known with its first delta.
            self._reading.reasoning_hidden = True

    def _settled(self) -> Reading:
        reading = self._reading
        if not self._report:
            return reading
        reading.metered = found = metered(self._report, self._facts, reading)
        if found is None:
            reading.final = False
        elif reading.final:
            reading.output_deltas = reading.output_bytes = 0
            reading.reasoning_hidden = False
        else:
            usage = found.parts[0].usage
            usage.web_search = max(usage.web_search, self._searches)
            if reading.output_deltas:
                usage.output = usage.reasoning = 0  # the start's first token or two are among the deltas
        return reading

    def _error_event(self, code: str, message: str) -> bytes:
        error = {"type": "error", "error": {"type": code, "message": message}}
        return b"event: error\ndata: " + orjson.dumps(error) + b"\n\n"


def read_message(message: dict[str, Any], reading: Reading) -> None:
    """Identity and stop reason, of a message or of the end of one."""
    model, body_id, reason = message.get("model"), message.get("id"), message.get("stop_reason")
    if isinstance(model, str) and model:
        reading.model = model
    if isinstance(body_id, str) and body_id:
        reading.provider_request_id = body_id
    if isinstance(reason, str) and reason:
        reading.stop_reason = reason


def read_block(block: dict[str, Any], reading: Reading) -> None:
    if block.get("type") != "tool_use":
        return
    name, call_id = block.get("name"), block.get("id")
    if isinstance(name, str) and name:
        reading.tool_calls.append({"name": name, "id": call_id if isinstance(call_id, str) else ""})


def largest(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two reports of one message, field by field the larger. Null never overwrites."""
    merged = dict(first)
    for key, value in second.items():
        known = merged.get(key)
        if value is None:
            continue
        if isinstance(known, dict) and isinstance(value, dict):
            merged[key] = largest(known, value)
        elif type(known) is int and type(value) is int:
            merged[key] = max(known, value)
        else:
            merged[key] = value
    return merged


def metered(report: dict[str, Any], facts: Facts, reading: Reading) -> Metered | None:
    """None when the report is unusable. With iterations the truth is their sum: the top level leaves some out."""
    try:
        parts = [
            UsagePart(_usage(entry, reading), _own_model(entry)) for entry in members(report.get("iterations"))
        ] or [UsagePart(_usage(report, reading))]
        parts[0].usage.web_search = count(details(report, "server_tool_use"), "web_search_requests")
    except BadCount:
        reading.flag("no_usage")
        return None
    asked = facts.context
    stated, speed, geo = report.get("service_tier"), report.get("speed"), report.get("inference_geo")
    return Metered(
        parts,
        context(
            tier(stated) if isinstance(stated, str) else asked.service_tier,
            _plain(speed, "standard") if isinstance(speed, str) else asked.speed,
            _plain(geo, "not_available") if isinstance(geo, str) else asked.geo,
        ),
    )


def _plain(value: str, nothing: str) -> str:
    name = word(value)
    return "" if name == nothing else name


def _own_model(entry: dict[str, Any]) -> str | None:
    model = entry.get("model")
    return model if isinstance(model, str) and model else None


def _usage(report: dict[str, Any], reading: Reading) -> Usage:
    """Buckets of one run: `input_tokens` is uncached here, cache reads and writes stand beside it."""
    if report.get("input_tokens") is None and report.get("output_tokens") is None:
        raise BadCount("input_tokens")
    detail = details(report, "cache_creation")
    write_5m, write_1h = count(detail, "ephemeral_5m_input_tokens"), count(detail, "ephemeral_1h_input_tokens")
    undetailed = max(0, count(report, "cache_creation_input_tokens") - write_5m - write_1h)
    output = count(report, "output_tokens")
    thinking = count(details(report, "output_tokens_details"), "thinking_tokens")
    return Usage(
        input=count(report, "input_tokens"),
        cache_read=count(report, "cache_read_input_tokens"),
        cache_write_5m=write_5m + undetailed,
        cache_write_1h=write_1h,
        output=output,
        reasoning=within(thinking, output, reading),
    )
