"""The scripted provider: OpenAI, Anthropic and Gemini on one port, replying what the caller's text tells it to.

`python -m deploy.demo.provider --port 0` prints where it listens; in a test: `async with ScriptedProvider() as p`.
It asks for no key, calls no model and costs nothing; every reply is marked as scripted.
"""

import argparse
import asyncio
import re
import signal
import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, unquote

import orjson

from deploy.demo.anthropic_wire import Anthropic
from deploy.demo.connection import ClientGone, Connection, Request, Sender
from deploy.demo.dialect import Ask, AskError, Dialect, Json, resolve
from deploy.demo.gemini_wire import Gemini
from deploy.demo.openai_wire import OpenAI, models
from deploy.demo.performance import perform
from deploy.demo.script import Script, ScriptError, find, read
from deploy.demo.served import Account, Served, Stats

__all__ = ["ScriptedProvider"]

_GEMINI: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)")
_JSON: Final = {"content-type": "application/json", "x-scripted-provider": "1"}
_NO_SCRIPT: Final = Script()
_BACKLOG: Final = 4096


class ScriptedProvider:
    """Requests that cannot be obeyed get a 400 that says why, so that a misspelt script fails its test."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self._account = Account()
        self._default = _NO_SCRIPT
        self._number = 0
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self._host, self._port, backlog=_BACKLOG)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            await connection.ended()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def stats(self) -> Stats:
        return self._account.stats()

    def set_default(self, document: Json) -> None:
        """The script of all following requests, under their own directives; `{}` takes it back."""
        self._default = read(document, _NO_SCRIPT)

    def reset(self) -> None:
        """A new account and no default. Replies in flight are still written into the old account."""
        self._account = Account()
        self._default = _NO_SCRIPT

    def _connection(self) -> Connection:
        return Connection(self._answer, on_bytes=self._received, open_=self._connections)

    def _received(self, count: int) -> None:
        self._account.bytes_received += count

    async def _answer(self, request: Request, sender: Sender) -> None:
        path_bytes, _, query = request.target.partition(b"?")
        path = unquote(path_bytes.decode("latin-1"))
        if path.startswith("/_script/"):
            await self._administer(path, request, sender)
            return
        self._account.requests += 1
        dialect = _dialect(path, query.decode("latin-1")) if request.method == "POST" else None
        if dialect is not None:
            await self._reply(dialect, request, sender)
        elif (request.method, path) == ("GET", "/v1/models"):
            await self._plain(sender, 200, models(int(time.time())))
        else:
            message = f"the scripted provider does not serve {request.method} {path}"
            await self._plain(sender, 404, OpenAI().refusal(404, message, usage=None, stream=False))

    async def _plain(self, sender: Sender, status: int, body: bytes) -> None:
        self._account.by_status[str(status)] += 1
        await sender.whole(status, _JSON, body)

    async def _administer(self, path: str, request: Request, sender: Sender) -> None:
        match request.method, path:
            case "GET", "/_script/stats":
                status, body = 200, orjson.dumps(self.stats())
            case "POST", "/_script/reset":
                self.reset()
                status, body = 200, b"{}"
            case "POST", "/_script/default":
                try:
                    self.set_default(orjson.loads(request.body))
                    status, body = 200, b"{}"
                except ValueError as error:
                    status, body = 400, orjson.dumps({"error": {"message": str(error)}})
            case _:
                status, body = 404, b'{"error":{"message":"stats, default, reset"}}'
        await sender.whole(status, _JSON, body)

    async def _reply(self, dialect: Dialect, request: Request, sender: Sender) -> None:
        self._number += 1
        account, tag, ask = self._account, request.headers.get("x-request-tag"), None
        try:
            ask = dialect.ask(_body(request), request.headers)
            script = find(ask.last_user_text, self._default)
            reply = resolve(ask, script, number=self._number, created=int(time.time()))
        except (AskError, ScriptError) as error:
            await self._reject(dialect, sender, str(error), ask=ask, tag=tag)
            return
        served = Served(
            id=dialect.reply_id(self._number),
            tag=tag,
            dialect=dialect.name,
            model=reply.model,
            stream=ask.stream,
            service_tier=script.service_tier,
            fault=None if script.fault is None else script.fault.kind,
        )
        if not reply.refused or script.fails("usage_in_error"):
            served.usage = reply.usage
        account.enter(served)
        try:
            await perform(dialect, reply, sender, served=served, account=account)
        except ClientGone:
            served.client_gone = True
            raise
        finally:
            account.conclude(served)

    async def _reject(
        self, dialect: Dialect, sender: Sender, message: str, *, ask: Ask | None, tag: str | None
    ) -> None:
        served = Served(
            id=dialect.reply_id(self._number),
            tag=tag,
            dialect=dialect.name,
            model="" if ask is None else ask.model,
            stream=ask is not None and ask.stream,
            service_tier=None,
            fault=None,
            status=400,
        )
        self._account.enter(served)
        try:
            await self._plain(sender, 400, dialect.refusal(400, message, usage=None, stream=served.stream))
            served.completed = True
        except ClientGone:
            served.client_gone = True
            raise
        finally:
            self._account.conclude(served)


def _dialect(path: str, query: str) -> Dialect | None:
    if path == "/v1/chat/completions":
        return OpenAI()
    if path == "/v1/messages":
        return Anthropic()
    found = _GEMINI.fullmatch(path)
    if found is None:
        return None
    as_array = parse_qs(query).get("alt") != ["sse"]
    return Gemini(found[1], stream=found[2] == "streamGenerateContent", as_array=as_array)


def _body(request: Request) -> Json:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise AskError(f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(body, dict):
        raise AskError("the body is not a JSON object")
    return body


async def _serve(host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with ScriptedProvider(host=host, port=port) as provider:
        print(f"listening on {provider.url}", flush=True)  # noqa: T201  # what the starter waits for
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.provider", description="A scripted LLM provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
