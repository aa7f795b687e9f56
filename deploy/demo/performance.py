"""Performs one reply as scripted, faults included, and enters what was sent into the account as it is sent."""

import gzip
from typing import Final

from deploy.demo.connection import Sender
from deploy.demo.dialect import Dialect, Reply
from deploy.demo.script import MARK
from deploy.demo.served import Account, Served

RESET_PAUSE_S: Final = 0.02
"""Between the head and a reset, so that a client has read the head when the reset arrives."""
_GARBAGE: Final = b'data: {"scripted": unparsable\n\n'


async def perform(dialect: Dialect, reply: Reply, sender: Sender, *, served: Served, account: Account) -> None:
    """Raises ClientGone when the client leaves; `served` then says how far it came."""
    performer = _Performer(dialect, reply, sender, served, account)
    await sender.pause(reply.script.first_delay_ms / 1000)
    if reply.script.fails("hang"):
        await sender.pause(None)
    elif reply.script.fails("reset_before_headers"):
        sender.reset()
    elif reply.refused:
        await performer.refuse()
    elif reply.ask.stream:
        await performer.stream()
    else:
        await performer.whole()


class _Performer:
    def __init__(self, dialect: Dialect, reply: Reply, sender: Sender, served: Served, account: Account) -> None:
        self._dialect = dialect
        self._reply = reply
        self._script = reply.script
        self._sender = sender
        self._served = served
        self._account = account

    async def refuse(self) -> None:
        usage = self._reply.usage if self._script.fails("usage_in_error") else None
        message = self._script.error or f"{MARK}refused with {self._reply.status}"
        body = self._dialect.refusal(self._reply.status, message, usage=usage, stream=self._reply.ask.stream)
        await self._whole_body("application/json", body)
        self._served.usage_sent = usage is not None
        self._served.completed = True

    async def whole(self) -> None:
        body = self._dialect.whole(self._reply)
        if self._script.fails("unparsable"):
            body = body[: len(body) // 2]
        elif self._script.fault is not None and self._script.fault.kind.endswith("_after_chunks"):
            await self._part_of(body)
            return
        elif self._script.fails("reset_after_headers"):
            await self._begin("application/json", length=len(body))
            await self._reset()
            return
        await self._whole_body("application/json", body)
        self._served.text_bytes_sent = len(self._reply.text.encode())
        self._served.usage_sent = self._reply.tells_usage
        self._served.completed = True

    async def _part_of(self, body: bytes) -> None:
        assert self._script.fault is not None
        shares = self._script.fault.after_chunks
        await self._begin("application/json", length=len(body))
        await self._sender.send(body[: len(body) * shares // len(self._reply.pieces)])
        self._served.chunks_sent = shares
        await self._break_off()

    async def stream(self) -> None:
        await self._begin(self._dialect.stream_type(self._reply.ask))
        if self._script.fails("reset_after_headers"):
            await self._reset()
            return
        if self._script.fails("gzip"):
            self._sender.compress()
        opening = self._dialect.opening(self._reply)
        if opening:
            await self._sender.send(opening)
        if not await self._pieces():
            await self._break_off()
            return
        if not self._script.fails("unparsable"):
            await self._sender.send(self._dialect.closing(self._reply))
            self._served.usage_sent = self._reply.tells_usage
        await self._sender.end()
        self._served.completed = True

    async def _pieces(self) -> bool:
        """False when a fault ends them early."""
        fault = self._script.fault
        last = fault.after_chunks if fault is not None and fault.kind.endswith("_after_chunks") else None
        for index, text in enumerate(self._reply.pieces):
            if index == last:
                return False
            await self._sender.pause(self._script.delay_ms / 1000 if index else 0)
            garbled = self._script.fails("unparsable")
            await self._sender.send(_GARBAGE if garbled else self._dialect.piece(self._reply, index))
            self._served.chunks_sent += 1
            self._served.text_bytes_sent += len(text.encode())
        return last is None

    async def _break_off(self) -> None:
        if self._script.fails("hang_after_chunks"):
            await self._sender.pause(None)
        if self._script.fails("error_after_chunks"):
            message = self._script.error or f"{MARK}failed in the middle"
            await self._sender.send(self._dialect.interruption(self._reply, message))
            await self._sender.end()
        else:
            self._sender.cut()

    async def _reset(self) -> None:
        await self._sender.pause(RESET_PAUSE_S)
        self._sender.reset()

    async def _whole_body(self, content_type: str, body: bytes) -> None:
        if self._script.fails("gzip"):
            body = gzip.compress(body, mtime=0)
        headers = self._headers(content_type)
        self._status_sent()
        await self._sender.whole(self._reply.status, headers, body)

    async def _begin(self, content_type: str, *, length: int | None = None) -> None:
        headers = self._headers(content_type)
        self._status_sent()
        await self._sender.begin(self._reply.status, headers, length=length)

    def _status_sent(self) -> None:
        self._served.status = self._reply.status
        self._account.by_status[str(self._reply.status)] += 1

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {
            "content-type": content_type,
            "x-scripted-provider": "1",
            self._dialect.request_id_header: f"req_scripted{self._reply.number:08d}",
        }
        if self._script.fails("gzip"):
            headers["content-encoding"] = "gzip"
        if self._script.retry_after_s is not None:
            headers["retry-after"] = str(self._script.retry_after_s)
        return headers
