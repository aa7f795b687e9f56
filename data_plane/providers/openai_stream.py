"""OpenAI-style chat streams: the meter, and the meter that also undoes our request for usage.

Chunks that can carry neither usage, end, error nor a tool call are measured by searches and never parsed.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from data_plane.providers.counts import details
from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.json_text import cut_member, parse, text_bytes, top_level
from data_plane.providers.metering import LESSONS, EventMeter
from data_plane.providers.openai_usage import identify, metered, tool_calls, usage_report
from data_plane.providers.request_body import members
from data_plane.providers.sse import parse_event, raw_events

_TEXT_KEY: Final = re.compile(
    rb'"(content|arguments|reasoning_content|reasoning|refusal|text|transcript)":"(?!")'
)  # fmt: skip
_USAGE_CUT: Final = b',"usage":null'
_NULL_USAGE: Final = re.compile(
    rb', ?"usage": ?null(?=(?:, ?"\w+": ?(?:"[^"\\]*"|null|true|false|-?\d+))*\}(?:\r\n\r\n|\n\n|\r\r))'
)
"""A null usage that is certainly a member of the outermost object: up to the event's end only scalars follow it."""
_NOT_JSON: Final = re.compile(rb"(?m)(?:^|(?<=\r))(?:data:|(?!data:)[^\r\n]*)")
_DONE: Final = b"[DONE]"
RESTORED_BYTES_MAX: Final = 64 * 1024
"""A larger event with an unusual spelling of null is passed on as it is: it would be walked token by token."""


class ChatMeter(EventMeter):
    """Reads chat completion chunks."""

    _done = _DONE

    __slots__ = ("_identified",)

    def __init__(self, facts: Facts, read_body: Callable[[bytes, bytes], Reading], *, withhold: bool = False) -> None:
        super().__init__(facts, read_body, withhold=withhold)
        self._identified = False

    def _learn(self, raw: bytes) -> None:
        # A call's first piece counts as a tool call, and a report of usage restarts the count: no pattern.
        if b'"name"' in raw or raw.count(b'"usage"') != raw.count(b'"usage":null'):
            return
        keys = _TEXT_KEY.findall(raw)
        if len(keys) == 1:
            self._template.learn(raw, keys[0], padding=b"obfuscation")

    def _document(self, document: dict[str, Any]) -> None:
        reading = self._reading
        if not self._identified:
            identify(document, reading)
            self._identified = reading.model is not None
        if document.get("error"):
            reading.error = True
        self._count(document)
        tool_calls(document, "delta", reading)
        report = usage_report(document)
        if report is None:
            return
        found = metered(document, self._facts, reading)
        if found is not None:
            reading.metered = found
            # Some upstreams report with every chunk: such a report covers what was shown until then.
            reading.output_deltas = reading.output_bytes = 0
            reading.reasoning_hidden = False
            reading.final = reading.final or reading.stop_reason is not None or not document.get("choices")

    def _count(self, document: dict[str, Any]) -> None:
        reading = self._reading
        for choice in members(document.get("choices")):
            delta = details(choice, "delta")
            reasoning = text_bytes(delta.get("reasoning_content")) or text_bytes(delta.get("reasoning"))
            if reasoning:
                reading.reasoning_hidden = False
            audio = details(delta, "audio")
            shown = reasoning + text_bytes(audio.get("transcript")) + text_bytes(choice.get("text"))
            shown += text_bytes(delta.get("content")) + text_bytes(delta.get("refusal"))
            for function in (details(delta, "function_call"), *_functions(delta)):
                shown += text_bytes(function.get("arguments"))
            if shown or audio.get("data"):
                reading.output_deltas += 1
                reading.output_bytes += shown

    def _settled(self) -> Reading:
        reading = self._reading
        if reading.finished and reading.metered is not None:
            reading.final = True
        return reading

    def _error_event(self, code: str, message: str) -> bytes:
        error = {"message": message, "type": code, "code": code, "param": None}
        return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def _functions(delta: dict[str, Any]) -> list[dict[str, Any]]:
    return [details(call, "function") for call in members(delta.get("tool_calls"))]


class RestoringMeter(ChatMeter):
    """Reads the same, and shows the client the stream it would have got had we not asked for usage.

    Only complete events are passed on. The one chunk with usage and no choices is dropped.
    """

    __slots__ = ("_dropped",)

    def __init__(self, facts: Facts, read_body: Callable[[bytes, bytes], Reading]) -> None:
        super().__init__(facts, read_body, withhold=True)
        self._dropped = False

    def feed(self, chunk: bytes) -> bytes:
        if not self._idle:
            return self._taken(chunk)
        match, reading, template = self._match, self._reading, self._template
        out: list[bytes] = []
        at, size = 0, len(chunk)
        while at < size:
            end = match(chunk, at)
            if end < 0:
                out.append(self._taken(chunk[at:] if at else chunk))
                break
            reading.output_deltas += 1
            reading.output_bytes += template.text_bytes
            self._lessons = LESSONS
            out.append(template.shown(chunk, at, end))
            at = end
        return out[0] if len(out) == 1 else b"".join(out)

    def _taken(self, chunk: bytes) -> bytes:
        """What clients see of bytes that are not, or not only, events that match the template."""
        if not self._started:
            self._start(chunk)
        if self._body is not None:
            return self._body.feed(chunk)
        splitter = self._splitter
        block = splitter.feed(chunk)
        shown = splitter.released()
        self._idle = self._started and not splitter.holding
        if splitter.head:
            rest = self._without_giant(block)
            shown += _NULL_USAGE.sub(b"", block[: len(block) - len(rest)])
            block = rest
        return shown + self._restored(block) if block else shown

    def finish(self) -> tuple[bytes, Reading]:
        rest, reading = super().finish()
        if self._body is None and not self._splitter.head:
            rest = self._restored_event(rest)
        return rest, reading

    def _learn(self, raw: bytes) -> None:
        super()._learn(raw)
        template, size = self._template, len(raw)
        if template.match(raw, 0) == size:
            template.cut(_USAGE_CUT)
            if template.shown(raw, 0, size) != self._restored_event(raw):
                template.forget()

    def _restored(self, block: bytes) -> bytes:
        template, reading = self._template, self._reading
        out: list[bytes] = []
        for raw in raw_events(block):
            size = len(raw)
            if template.match(raw, 0) == size:
                reading.output_deltas += 1
                reading.output_bytes += template.text_bytes
                self._lessons = LESSONS
                out.append(template.shown(raw, 0, size))
            else:
                self._study(raw)
                out.append(self._restored_event(raw))
        return b"".join(out)

    def _restored_event(self, raw: bytes) -> bytes:
        text = _NULL_USAGE.sub(b"", raw)
        if b'"usage"' not in text:
            return text
        try:
            document = parse(parse_event(raw)[1])
        except (ValueError, RecursionError):
            return raw
        if not isinstance(document, dict) or "usage" not in document:
            return raw
        if document["usage"] is None:
            return _without_usage(raw)
        if self._dropped or document.get("choices") != []:
            return raw
        self._dropped = True
        return b""


def _without_usage(raw: bytes) -> bytes:
    """The event without its outermost `usage` member, spelled in whatever way."""
    if len(raw) > RESTORED_BYTES_MAX:
        return raw
    # Blanks in place of all that is not JSON keep every position.
    text = _NOT_JSON.sub(lambda match: b" " * len(match[0]), raw)
    found = top_level(text)
    index = next((n for n, member in enumerate(found) if member.key == "usage"), None)
    return raw if index is None else cut_member(raw, found, index)
