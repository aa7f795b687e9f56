"""What the dialects read from request bodies, and what they refuse."""

from typing import Any

import orjson
import pytest

from data_plane.providers.dialect import Facts
from data_plane.providers.registry import DIALECTS
from shared.errors import RequestRefusal
from shared.prices.usage import STANDARD, PriceContext

OPENAI = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
ANTHROPIC = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
MODELS = {"openai.chat": None, "anthropic": None, "gemini": "gemini-2.5-flash"}
MINIMAL: dict[str, dict[str, Any]] = {"openai.chat": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}


def facts_of(dialect: str, body: bytes | dict[str, Any], streaming: bool | None = None) -> Facts:
    if isinstance(body, dict):
        body = orjson.dumps(body)
    return DIALECTS[dialect].facts(body, MODELS[dialect], streaming)


def refusal_of(dialect: str, body: bytes | dict[str, Any]) -> RequestRefusal:
    with pytest.raises(RequestRefusal) as caught:
        facts_of(dialect, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"text"',
        b"null",
        b"{",
        b'{"a":1,}',
        b'{"a":1}x',
        b'{"messages":"\xff"}',
        b"[" * 4000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_object_is_a_bad_request(dialect: str, body: bytes) -> None:
    assert refusal_of(dialect, body).code == "bad_request"


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_body_that_is_not_utf8_is_told_so(dialect: str) -> None:
    assert "UTF-8" in refusal_of(dialect, b'{"model":"gpt-\xff"}').message


WATCHED = [
    ("openai.chat", "max_tokens", ()),
    ("openai.chat", "max_completion_tokens", ()),
    ("openai.chat", "n", ()),
    ("anthropic", "max_tokens", ()),
    ("gemini", "maxOutputTokens", ("generationConfig",)),
    ("gemini", "max_output_tokens", ("generation_config",)),
    ("gemini", "candidateCount", ("generationConfig",)),
]


def with_number(dialect: str, field: str, path: tuple[str, ...], literal: str) -> bytes:
    text = f'"{field}":{literal}'
    for outer in reversed(path):
        text = f'"{outer}":{{{text}}}'
    body = {key: value for key, value in MINIMAL[dialect].items() if key != field}
    return orjson.dumps(body)[:-1] + b"," + text.encode() + b"}"


@pytest.mark.parametrize(("dialect", "field", "path"), WATCHED)
@pytest.mark.parametrize(
    "literal",
    [
        "0",
        "-1",
        "1.0",
        "1e2",
        '"100"',
        "true",
        "[]",
        "{}",
        "10000001",
        "18446744073709551616",
        "9" * 400,
        "NaN",
        "false",
        "-Infinity",
        "1e999",
    ],
)
def test_a_watched_number_that_is_no_integer_in_range_is_named(
    dialect: str, field: str, path: tuple[str, ...], literal: str
) -> None:
    refusal = refusal_of(dialect, with_number(dialect, field, path, literal))

    assert refusal.code == "invalid_parameter"
    assert refusal.details is not None
    camel = {"max_output_tokens": "maxOutputTokens"}.get(field, field)
    assert refusal.details["field"].rpartition(".")[2] in {camel, field}
    assert refusal.details["reason"]


@pytest.mark.parametrize(("dialect", "field", "path"), WATCHED)
@pytest.mark.parametrize("literal", ["null", "1", "128"])
def test_a_watched_number_may_be_null_or_in_range(
    dialect: str, field: str, path: tuple[str, ...], literal: str
) -> None:
    facts = facts_of(dialect, with_number(dialect, field, path, literal))

    expected = None if literal == "null" else int(literal)
    if field in {"n", "candidateCount"}:
        assert facts.candidates == (expected or 1)
    else:
        assert facts.output_tokens_max == expected


@pytest.mark.parametrize("stream", ['"true"', "1", "[]"])
@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic"])
def test_stream_must_be_a_boolean(dialect: str, stream: str) -> None:
    refusal = refusal_of(dialect, with_number(dialect, "stream", (), stream))
    assert (refusal.code, refusal.details) == (
        "invalid_parameter",
        {"field": "stream", "reason": "must be true or false"},
    )


@pytest.mark.parametrize("model", [None, "", 7, ["gpt-4o"], "x" * 513])
@pytest.mark.parametrize("dialect", ["openai.chat", "anthropic"])
def test_a_model_is_required(dialect: str, model: object) -> None:
    refusal = refusal_of(dialect, {**MINIMAL[dialect], "model": model})
    assert refusal.code == "invalid_parameter"
    assert refusal.details is not None
    assert refusal.details["field"] == "model"


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai.chat", b'{"model":"gpt-4o","model":"o3"}'),
        ("openai.chat", b'{"model":"gpt-4o","max_tokens":5,"messages":[],"max_tokens":5000}'),
        ("openai.chat", b'{"model":"gpt-4o","max_tokens":5,"max\\u005ftokens":5000}'),
        ("openai.chat", b'{"model":"gpt-4o","\\u006dodel":"o3"}'),
        ("openai.chat", b'{"\\u006e":1,"model":"gpt-4o","n" : 128}'),
        ("openai.chat", b'{"model":"gpt-4o","stream_options":{},"stream_options":null}'),
        ("anthropic", b'{"model":"m","tools":[{"type":"web_search_20250305","max_uses":1,"max_uses":50}]}'),
        ("anthropic", b'{"model":"m","stream":false,"stream":true}'),
        ("gemini", b'{"contents":[],"generationConfig":{},"generationConfig":{"maxOutputTokens":9}}'),
        ("gemini", b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}'),
        ("gemini", b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}'),
        ("gemini", b'{"generationConfig":{},"generation_config":{"max_output_tokens":9}}'),
    ],
)
def test_a_watched_key_that_stands_twice_is_ambiguous(dialect: str, body: bytes) -> None:
    refusal = refusal_of(dialect, body)
    assert refusal.code == "ambiguous_json"
    assert refusal.details is not None
    assert refusal.details["field"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o","seed":1,"seed":2,"messages":[]}',
        b'{"model":"gpt-4o","metadata":{"model":"a","n":"b"},"messages":[{"role":"user","content":"model"}]}',
        b'{"model":"gpt-4o","tools":[{"function":{"parameters":{"properties":{"model":{},"stream":{}}}}}]}',
        b'{"model":"gpt-4o", "messages":[{"role":"user","content":"\\"model\\":\\"o3\\", \\u006dodel"}]}',
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"\\\\u006dodel \\ud83d"}],"logit_bias":{"n":1,"n":2}}',
        b'{"model":"gpt-4o","messages":[],"x":12345678901234567890123}',
        b'{"model" :"gpt-4o","x":"\\\\u006e \\\\\\\\u006e","n":1}',
    ],
)
def test_keys_that_nobody_reads_may_repeat_and_watched_names_may_stand_elsewhere(body: bytes) -> None:
    assert facts_of("openai.chat", body).model == "gpt-4o"


@pytest.mark.parametrize(
    "filler",
    [
        b'"x":[' + b'"model",' * 30_000 + b"1]",
        b'"x":"' + b"\\u0061" * 30_000 + b'"',
        b'"x":[' + b"{}," * 600_000 + b"1]",
    ],
    ids=["names", "escapes", "objects"],
)
def test_a_body_made_to_cost_time_is_refused(filler: bytes) -> None:
    assert refusal_of("openai.chat", b'{"model" :"gpt-4o",' + filler + b"}").code == "bad_request"


def test_the_larger_of_two_output_caps_is_held() -> None:
    facts = facts_of("openai.chat", {**OPENAI, "max_tokens": 50, "max_completion_tokens": 20, "n": 3})
    assert (facts.output_tokens_max, facts.candidates) == (50, 3)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_inline_media_is_left_out_of_the_bytes(dialect: str) -> None:
    payload = "A" * 5000
    bodies: dict[str, dict[str, Any]] = {
        "openai.chat": {
            "model": "gpt-4o",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + payload}},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                        {"type": "input_audio", "input_audio": {"data": payload, "format": "wav"}},
                        {"type": "file", "file": {"file_id": "file-1"}},
                    ],
                }
            ],
        },
        "anthropic": {
            "model": "claude-sonnet-4-6",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": payload}},
                        {
                            "type": "tool_result",
                            "content": [
                                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                                {"type": "document", "source": {"type": "base64", "data": payload}},
                            ],
                        },
                        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
                    ],
                }
            ],
        },
        "gemini": {
            "contents": [
                {
                    "parts": [
                        {"inlineData": {"mimeType": "image/png", "data": payload}},
                        {"file_data": {"mime_type": "image/png", "file_uri": "https://example.com/a.png"}},
                        {"functionResponse": {"parts": [{"inline_data": {"mime_type": "audio/wav", "data": payload}}]}},
                        {"fileData": {"mimeType": "application/pdf", "fileUri": "files/1"}},
                    ]
                }
            ]
        },
    }
    body = orjson.dumps(bodies[dialect])

    facts = facts_of(dialect, body)

    prefix = len("data:image/png;base64,") if dialect == "openai.chat" else 0
    assert facts.input_bytes == len(body) - 10_000 - prefix
    assert facts.media["image"] == 2
    assert facts.media_stored["image"] == 1
    assert sum(facts.media.values()) == 4
    assert sum(facts.media_bytes.values()) == 10_000 + prefix


def test_inline_text_is_no_media() -> None:
    inline = {"inlineData": {"mimeType": "text/plain", "data": "SGVsbG8="}}
    stored = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hello"}}

    gemini = facts_of("gemini", {"contents": [{"parts": [inline]}]})
    anthropic = facts_of("anthropic", {"model": "m", "messages": [{"role": "user", "content": [stored]}]})

    assert (gemini.media, anthropic.media) == ({}, {})


def test_an_original_image_counts_as_three() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "original"}}
    facts = facts_of("openai.chat", {"model": "gpt-5.4", "messages": [{"role": "user", "content": [image]}]})
    assert facts.media == {"image": 3}


@pytest.mark.parametrize(
    ("extra", "cache"),
    [
        ({}, ""),
        ({"cache_control": {"type": "ephemeral"}}, "5m"),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "1h"),
    ],
)
def test_the_longest_cache_write_is_read_from_the_body(extra: dict[str, Any], cache: str) -> None:
    assert facts_of("anthropic", {**ANTHROPIC, **extra}).cache == cache


def test_a_cache_key_behind_escapes_is_held_at_the_dearest() -> None:
    assert facts_of("anthropic", b'{"model":"m","cache\\u005fcontrol":{"type":"ephemeral"}}').cache == "1h"


@pytest.mark.parametrize(
    ("dialect", "extra", "context"),
    [
        ("openai.chat", {"service_tier": "auto"}, STANDARD),
        ("openai.chat", {"service_tier": "FLEX"}, PriceContext(service_tier="flex")),
        ("anthropic", {"service_tier": "standard_only", "speed": "standard"}, STANDARD),
        ("anthropic", {"speed": "fast", "inference_geo": "us"}, PriceContext(speed="fast", geo="us")),
        ("gemini", {"service_tier": "priority"}, PriceContext(service_tier="priority")),
        ("gemini", {"serviceTier": 7}, STANDARD),
    ],
)
def test_the_price_context_is_what_was_asked(dialect: str, extra: dict[str, Any], context: PriceContext) -> None:
    assert facts_of(dialect, {**MINIMAL[dialect], **extra}).context == context


def test_hosted_tools_are_held_at_their_uses_and_sub_models_are_named() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"},
        {"name": "own", "input_schema": {"properties": {"max_uses": {"type": "integer"}}}},
    ]
    facts = facts_of(
        "anthropic", {**ANTHROPIC, "tools": tools, "context_management": {"edits": [{"type": "compact_20260112"}]}}
    )
    assert facts.fees == {"web_search": 3}
    assert facts.sub_models == ("claude-opus-4-8", "claude-sonnet-4-6")
    assert facts.provider_prompt_tokens > 10_000


@pytest.mark.parametrize("uses", [0, -1, 1.5, "3", True])
def test_uses_of_a_hosted_tool_are_a_watched_number(uses: object) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": uses}]
    assert refusal_of("anthropic", {**ANTHROPIC, "tools": tools}).code == "invalid_parameter"


def test_unbounded_searches_are_held_at_ten() -> None:
    anthropic = facts_of("anthropic", {**ANTHROPIC, "tools": [{"type": "web_search_20250305", "name": "web_search"}]})
    gemini = DIALECTS["gemini"].facts(
        orjson.dumps({**GEMINI, "tools": [{"google_search": {}}]}), "gemini-3-flash", None
    )
    assert anthropic.fees == gemini.fees == {"web_search": 10}


def test_gemini_before_generation_three_is_held_at_one_grounded_reply() -> None:
    assert facts_of("gemini", {**GEMINI, "tools": [{"googleSearch": {}}]}).fees == {"grounded": 1}


def test_stored_context_is_seen() -> None:
    assert facts_of("gemini", {**GEMINI, "cachedContent": "cachedContents/1"}).server_context
    assert not facts_of("gemini", GEMINI).server_context


def test_gemini_takes_model_and_streaming_from_the_path() -> None:
    facts = DIALECTS["gemini"].facts(orjson.dumps(GEMINI), "models/gemini-2.5-pro", True)
    assert (facts.model, facts.stream) == ("gemini-2.5-pro", True)


@pytest.mark.parametrize(
    ("dialect", "extra", "hidden"),
    [
        ("openai.chat", {"model": "o3-mini"}, True),
        ("openai.chat", {"model": "openai/gpt-5.4"}, True),
        ("openai.chat", {"model": "gpt-5.4", "reasoning_effort": "none"}, False),
        ("openai.chat", {"model": "gpt-5-chat-latest"}, False),
        ("openai.chat", {"model": "gpt-4o"}, False),
        ("anthropic", {"thinking": {"type": "adaptive", "display": "omitted"}}, True),
        ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
        ("gemini", {}, True),
        ("gemini", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, False),
    ],
)
def test_reasoning_that_may_run_unseen_is_known(dialect: str, extra: dict[str, Any], hidden: bool) -> None:
    assert facts_of(dialect, {**MINIMAL[dialect], **extra}).reasoning_hidden is hidden


def test_gemini_denials_carry_the_status_its_clients_show() -> None:
    envelope = {"type": "error", "error": {"code": "budget_exceeded"}}
    for status, word in ((429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE")):
        told = DIALECTS["gemini"].denial(envelope, status)["error"]
        assert (told["code"], told["status"]) == (status, word)
    assert DIALECTS["openai.chat"].denial({"error": {"code": "x"}}, 429) == {"error": {"code": "x"}}
    assert DIALECTS["anthropic"].denial({"error": {"code": "x"}}, 429) == {"error": {"code": "x"}}
