"""The hold: the most a call may cost, from what its body asks for. Pure.

A practical bound, not a proof: what a call costs beyond it is booked in full.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from data_plane.providers.dialect import Facts
from shared.money import Microdollars
from shared.prices.bound import bound
from shared.prices.price import Price

BYTES_PER_TOKEN: Final = 2
OUTPUT_TOKENS_UNKNOWN: Final = 131_072
"""Assumed ceiling of a model whose own is unknown, where its context window is no smaller."""
WINDOW_UNKNOWN: Final = 1_048_576
"""Assumed of a model whose context window is unknown, where something unseen may fill it."""
TOKENS_PER_MILLION: Final = 1_000_000

_IMAGE_TOKENS: Final = 4_800
"""Covers Anthropic's 4,784, OpenAI's 1,536 patches at their dearest weight, Gemini's 2,240."""
_IMAGE_TOKENS_OF: Final = ((re.compile(r"gpt-4o-mini"), 48_169),)  # 2,833 and eight tiles of 5,667
_PART_TOKENS: Final = {"document": 460_000, "audio": WINDOW_UNKNOWN, "video": WINDOW_UNKNOWN, "file": WINDOW_UNKNOWN}
"""A hundred pages as text and image; nine hours of sound fill a window, as video and unknown files may."""
_BYTES_PER_MEDIA_TOKEN: Final = {"document": 1, "audio": 24, "video": 24, "file": 1}
"""Encoded bytes a token cannot go below in practice: 32 tokens a second at 5 kbit/s, a dense page of text."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`output_tokens` is over all candidates."""

    amount: Microdollars
    input_tokens: int
    output_tokens: int


def upper_bound(
    facts: Facts,
    price: Price | None,
    *,
    sub_prices: Sequence[Price] = (),
    server_context_tokens: int | None = None,
    bytes_per_token: int = BYTES_PER_TOKEN,
    unpriced_rate: int = 0,
) -> Bound:
    """The bound of a call. `sub_prices` are those of `facts.sub_models`: each may run once more on the same input.

    `server_context_tokens` is the remembered size of stored context; None assumes the whole window. Without a price
    every token is held at `unpriced_rate`, in microdollars per million.
    """
    input_tokens = _input_tokens(facts, price, server_context_tokens, bytes_per_token)
    output_tokens = _output_tokens(facts, price)
    if price is None:
        tokens = input_tokens + output_tokens
        return Bound(Microdollars(-(-tokens * unpriced_rate // TOKENS_PER_MILLION)), input_tokens, output_tokens)
    audio = not facts.media.keys().isdisjoint(_WITH_SOUND)
    image = not facts.media.keys().isdisjoint(_SEEN)
    amount = 0
    for row in (price, *sub_prices):
        amount += bound(
            row,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache=facts.cache,
            context=facts.context,
            fees=facts.fees if row is price else None,
            audio=audio,
            image=image,
        )
    return Bound(Microdollars(amount), input_tokens, output_tokens)


_WITH_SOUND: Final = frozenset({"audio", "video", "file"})
_SEEN: Final = frozenset({"image", "document", "video", "file"})


def _input_tokens(facts: Facts, price: Price | None, server_context: int | None, bytes_per_token: int) -> int:
    window = None if price is None else price.context_window
    tokens = -(-facts.input_bytes // bytes_per_token) + facts.provider_prompt_tokens
    for kind, count in facts.media.items():
        tokens += _media_tokens(facts, kind, count)
    if facts.server_context:
        tokens += server_context if server_context is not None else window or WINDOW_UNKNOWN
    return tokens if window is None else min(tokens, window)


def _media_tokens(facts: Facts, kind: str, count: int) -> int:
    if kind == "image":
        each = next((most for model, most in _IMAGE_TOKENS_OF if model.search(facts.model)), _IMAGE_TOKENS)
        return count * each
    most = _PART_TOKENS[kind]
    stored = facts.media_stored.get(kind, 0)
    inline = -(-facts.media_bytes.get(kind, 0) // _BYTES_PER_MEDIA_TOKEN[kind])
    return stored * most + min(inline, (count - stored) * most)


def _output_tokens(facts: Facts, price: Price | None) -> int:
    if facts.output_tokens_max is not None:
        return facts.output_tokens_max * facts.candidates
    ceiling = OUTPUT_TOKENS_UNKNOWN
    if price is not None:
        ceiling = price.output_tokens_max or min(price.context_window or OUTPUT_TOKENS_UNKNOWN, OUTPUT_TOKENS_UNKNOWN)
    return ceiling * facts.candidates
