"""JSON as text: which keys repeat, where a member stands, what can be saved of a document too large to keep.

Bodies are never re-serialised, so what must be cut or inserted is found here. Whole bodies are only ever walked by the
parser and by searches, never token by token: a caller chooses how many tokens they have.
"""

import json
import re
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import orjson

MARKS_MAX: Final = 20_000
"""A body that spells watched keys more often than this is refused unread."""

_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[46][1-9a-fA-F]|[57][0-9aA])")
_SPELLED_OUT: Final = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u00(5[fF]|[46][1-9a-fA-F]|[57][0-9aA])")
"""The same, where the backslash is not itself escaped."""
_MARK: Final = re.compile(r"~\d+~(.*)", re.DOTALL)
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]', re.DOTALL)
_QUOTE, _COLON, _COMMA = b'":,'
_OPEN: Final = frozenset(b"{[")
_DECODER: Final = json.JSONDecoder()
_IDENTITY: Final = re.compile(rb'"(id|model|service_tier|modelVersion|responseId)"\s*:\s*"([^"\\]{1,256})"')


def parse(text: bytes) -> Any:
    """With lone surrogates, which the strict parser does not know and providers may accept. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in error.msg:
            raise
        return json.loads(text)


def has_escaped_letters(text: bytes) -> bool:
    """Whether a letter or underscore is spelled as an escape somewhere: a key may then hide from a search."""
    return _ESCAPED_LETTER.search(text) is not None and _SPELLED_OUT.search(text) is not None


def repeated_key(text: bytes, spelled: re.Pattern[bytes], watched: frozenset[str]) -> str | None:
    """The first watched key that stands twice in one object. Paths are dotted; arrays add nothing to a path.

    `spelled` finds the watched names in quotes. Every place is marked with a number, so that the parser, which keeps
    the last of equal keys, keeps all of them. Raises ValueError for a text with more places than anyone needs.
    """
    letters = 0
    if has_escaped_letters(text):
        text, letters = _SPELLED_OUT.subn(_plain, text, MARKS_MAX + 1)
    marked, marks = _marked(text, spelled)
    if max(marks, letters) > MARKS_MAX:
        raise ValueError("too many places")
    return _repeated(parse(marked), "", watched)


def _plain(match: re.Match[bytes]) -> bytes:
    return match[1] + bytes.fromhex(match[2].decode())


def _marked(text: bytes, spelled: re.Pattern[bytes]) -> tuple[bytes, int]:
    numbers = count()
    return spelled.subn(lambda match: b'"~%d~%b' % (next(numbers), match[0][1:]), text, MARKS_MAX + 1)


def _repeated(document: Any, prefix: str, watched: frozenset[str]) -> str | None:
    if not isinstance(document, dict):
        return None
    seen: set[str] = set()
    for key, value in document.items():
        mark = _MARK.fullmatch(key)
        if mark is None:
            continue
        path = prefix + mark[1]
        if path in seen and path in watched:
            return path
        seen.add(path)
        if any(other.startswith(path + ".") for other in watched):
            for item in value if isinstance(value, list) else (value,):
                inner = _repeated(item, path + ".", watched)
                if inner is not None:
                    return inner
    return None


def value_start(text: bytes, key: str) -> int | None:
    """Where the value of a member of the outermost object begins; None when its key is not spelled plainly."""
    spelled = re.compile(b'"' + re.escape(key.encode()) + rb'"(?=\s*:)')
    places = list(spelled.finditer(text))
    if len(places) > 1:
        marked, _ = _marked(text, spelled)
        document = parse(marked)
        places = [place for number, place in enumerate(places) if f"~{number}~{key}" in document]
    if len(places) != 1:
        return None
    at = text.index(b":", places[0].end()) + 1
    return at + len(text[at : at + 1024]) - len(text[at : at + 1024].lstrip())


@dataclass(slots=True)
class Member:
    """A member of a document's outermost object, by positions. `value_end` excludes trailing blanks."""

    key: str
    start: int
    value_end: int


def top_level(text: bytes) -> list[Member]:
    """The members of the outermost object of a short text, in order, duplicates included."""
    members: list[Member] = []
    depth = 0
    key_due = False
    key, start = "", 0
    for token in _TOKEN.finditer(text):
        at = token.start()
        mark = text[at]
        if mark == _QUOTE:
            if key_due and depth == 1:
                key, start, key_due = orjson.loads(token.group()), at, False
        elif mark in _OPEN:
            depth += 1
            key_due = key_due or depth == 1
        elif mark != _COLON:
            if depth == 1 and not key_due:
                members.append(Member(key, start, len(text[:at].rstrip())))
                key_due = True
            depth -= mark != _COMMA
    return members


def cut_member(text: bytes, members: list[Member], index: int) -> bytes:
    """The text without one member and the comma that belonged to it."""
    member = members[index]
    if index > 0:
        return text[: members[index - 1].value_end] + text[member.value_end :]
    if len(members) > 1:
        return text[: member.start] + text[members[1].start :]
    return text[: member.start] + text[member.value_end :]


def salvage(head: bytes, tail: bytes, usage_key: str) -> dict[str, Any] | None:
    """The usage member and the identity of a document of which only head and tail were kept; None without usage."""
    at = tail.rfind(b'"' + usage_key.encode() + b'"')
    colon = tail.find(b":", at)
    if at < 0 or colon < 0:
        return None
    try:
        usage, _ = _DECODER.raw_decode(tail[colon + 1 :].lstrip().decode(errors="replace"))
    except ValueError:
        return None
    if not isinstance(usage, dict):
        return None
    found: dict[str, Any] = {usage_key: usage}
    for part in (head, tail):
        for match in _IDENTITY.finditer(part):
            found.setdefault(match[1].decode(), match[2].decode(errors="replace"))
    return found


def text_bytes(value: Any) -> int:
    """UTF-8 bytes of every string in a JSON value, keys left out: the measure of a reply that reports no usage."""
    total = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            total += len(item) if item.isascii() else len(item.encode(errors="replace"))
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return total
