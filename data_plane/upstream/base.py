"""Where a provider is: scheme, host, port and the path its API begins with. Parsed once, compared cheaply."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Base:
    scheme: str
    host: str
    """Lower-case ASCII (IDNA); an IPv6 literal without brackets."""
    port: int
    path: str
    """Without a trailing slash; it goes before every target."""
    tls: bool = field(init=False)
    host_header: bytes = field(init=False, compare=False)
    path_bytes: bytes = field(init=False, compare=False)
    line_end: bytes = field(init=False, compare=False)
    """What follows the target in a request head, Host included."""
    origin: str = field(init=False, compare=False)
    """Bases of one origin share connections."""

    def __post_init__(self) -> None:
        tls = self.scheme == "https"
        name = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if tls else 80)
        object.__setattr__(self, "tls", tls)
        object.__setattr__(self, "host_header", (name if standard else f"{name}:{self.port}").encode("ascii"))
        object.__setattr__(self, "path_bytes", self.path.encode("ascii"))
        object.__setattr__(self, "line_end", b" HTTP/1.1\r\nHost: " + self.host_header)
        object.__setattr__(self, "origin", f"{self.scheme}://{name}:{self.port}")

    @classmethod
    def parse(cls, url: str) -> "Base":
        """From `https://host[:port][/path]`. Raises ValueError for anything else, credentials and queries included."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not a base URL: {url!r}")
        if parts.username or parts.password or parts.query or parts.fragment or not parts.path.isascii():
            raise ValueError(f"a base URL has no credentials, query or fragment: {url!r}")
        if any(char <= " " or char == "\x7f" for char in url):
            raise ValueError(f"a base URL has no blanks or control characters: {url!r}")
        host = parts.hostname
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, host, port, parts.path.rstrip("/"))
