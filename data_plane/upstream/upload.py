"""A request body that is sent as it arrives: never more of it in memory than the provider is slow to take."""

import asyncio
from collections.abc import AsyncIterable, Callable


class Upload:
    """Runs beside the reply, which may come before the body is complete. `ended` hears an error, or None."""

    __slots__ = ("_body", "_ended", "_left", "_task", "_transport", "_writable")

    def __init__(
        self,
        transport: asyncio.Transport,
        body: AsyncIterable[bytes],
        length: int | None,
        ended: Callable[[Exception | None], None],
    ) -> None:
        self._transport = transport
        self._body = body
        self._left = length
        """To be sent; None for a chunked body."""
        self._ended = ended
        self._writable: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    def pause(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    async def _run(self) -> None:
        try:
            async for piece in self._body:
                if piece:
                    self._write(piece)
                if self._writable is not None:
                    await self._writable
            if self._left:
                raise ValueError("the body is shorter than its announced length")  # noqa: TRY301 - told like the rest
            if self._left is None:
                self._transport.write(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - whatever ends the body ends the call, and its caller hears it
            self._ended(error)
        else:
            self._ended(None)

    def _write(self, piece: bytes) -> None:
        if self._left is None:
            self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            return
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError("the body is longer than its announced length")
        self._transport.write(piece)
