"""Usage is asked for in OpenAI-style streams where the caller left it open, and nothing else changes."""

import json

import pytest

from data_plane.providers.registry import DIALECTS

INSERTED = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"m","stream":true}', b'{"model":"m","stream":true,' + INSERTED + b"}"),
        (b' {"model":"m", "stream": true } \n', b' {"model":"m", "stream": true ,' + INSERTED + b"} \n"),
        (b'{"model":"m","stream_options":null,"stream":true}', b'{"model":"m",' + INSERTED + b',"stream":true}'),
        (b'{"stream_options" :  {} ,"model":"m","stream":true}',
         b'{"stream_options" :  {"include_usage":true} ,"model":"m","stream":true}'),
        (
            b'{"model":"m","stream":true,"stream_options":{ "x":1}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true, "x":1}}',
        ),
        (
            b'{"model":"m","metadata":{"stream_options":null},"stream_options":null,"stream":true}',
            b'{"model":"m","metadata":{"stream_options":null},' + INSERTED + b',"stream":true}',
        ),
    ],
)  # fmt: skip
def test_usage_is_asked_for_without_touching_another_byte(body: bytes, sent: bytes) -> None:
    dialect = DIALECTS["openai.chat"]

    prepared, modified = dialect.prepare(body, dialect.facts(body))

    assert (prepared, modified) == (sent, "stream_options")
    assert json.loads(prepared)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"model":"m","stream":false}',
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"m","stream":true,"stream_options":{"include_usage":false}}',
        b'{"model":"m","stream":true,"stream_options":[]}',
        b'{"model":"m","stream":true,"stream_options":7}',
        b'{"model":"m","stream":true,"stream\\u005foptions":null}',
    ],
)
def test_a_caller_who_chose_is_left_alone(body: bytes) -> None:
    dialect = DIALECTS["openai.chat"]
    prepared, modified = dialect.prepare(body, dialect.facts(body))
    assert prepared is body
    assert modified is None


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_dialects_that_always_report_usage_change_no_request(dialect: str) -> None:
    body = b'{"model":"m","stream":true,"contents":[]}'
    prepared, modified = DIALECTS[dialect].prepare(body, DIALECTS[dialect].facts(body, "m"))
    assert prepared is body
    assert modified is None
