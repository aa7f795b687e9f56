"""Names to addresses: looked up off the hot path, kept for a while, and filtered before anything is sent.

A connection goes to an address that was checked here, so a name that changes its mind cannot lead inside.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass

from data_plane.timers import TimerWheel
from data_plane.upstream.failures import UpstreamFailure

_NAMES_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Address:
    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    @property
    def ip(self) -> str:
        return self.sockaddr[0]


class Resolver:
    def __init__(self, wheel: TimerWheel, *, allow: Callable[[str], bool] | None = None, ttl_s: float = 30.0) -> None:
        self._wheel = wheel
        self._allow = allow
        self._ttl_s = ttl_s
        self._known: dict[tuple[str, int], tuple[float, tuple[Address, ...]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[tuple[Address, ...]]] = {}

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Allowed addresses, in the order to try them. Raises UpstreamFailure (dns)."""
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > self._wheel.now:
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(host, port))
            asking.add_done_callback(lambda done: self._answered(key, done))
        # Shielded: others may wait for the same answer.
        return await asyncio.shield(asking)

    def forget(self, host: str, port: int) -> None:
        """The addresses did not answer: ask again next time."""
        self._known.pop((host, port), None)

    def _answered(self, key: tuple[str, int], asking: asyncio.Task[tuple[Address, ...]]) -> None:
        del self._asking[key]
        if not asking.cancelled():
            asking.exception()  # whoever waited heard it; if nobody waits any more, nobody needs to

    async def _ask(self, host: str, port: int) -> tuple[Address, ...]:
        found = _literal(host, port) or await _look_up(host, port)
        allow = self._allow
        allowed = found if allow is None else tuple(address for address in found if allow(address.ip))
        if not allowed:
            reason = "resolves only to addresses that are not allowed" if found else "has no address"
            raise UpstreamFailure("dns", f"{host} {reason}")
        if len(self._known) >= _NAMES_MAX:
            self._known.clear()
        self._known[host, port] = (self._wheel.now + self._ttl_s, allowed)
        return allowed


def _literal(host: str, port: int) -> tuple[Address, ...]:
    """An address needs no look-up."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return ()
    if version == 4:
        return (Address(socket.AF_INET, (host, port)),)
    return (Address(socket.AF_INET6, (host, port, 0, 0)),)


async def _look_up(host: str, port: int) -> tuple[Address, ...]:
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise UpstreamFailure("dns", f"{host} could not be resolved: {error}") from error
    return tuple(Address(socket.AddressFamily(family), addr) for family, _, _, _, addr in answers)  # type: ignore[arg-type]
