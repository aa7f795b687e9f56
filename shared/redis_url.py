"""Redis URLs, as redis-py reads them: `redis://`, `rediss://` (TLS) and `unix://`, with credentials and a database."""

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    """Of a Unix socket; then there is no host."""
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False
    tls_verified: bool = True
    tls_ca_file: str | None = None

    @property
    def name(self) -> str:
        """For messages: never with credentials."""
        return self.path or f"{self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.tls_ca_file)
        if not self.tls_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_redis_url(url: str) -> RedisAddress:
    """Raises ValueError, with a message that does not repeat the URL: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("a Redis URL begins with redis://, rediss:// or unix://")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    path = unquote(parts.path)
    unix = parts.scheme == "unix"
    database = query.get("db", "" if unix else path.strip("/")) or "0"
    if not database.isdigit():
        raise ValueError("the database of a Redis URL is a number")
    if unix and not path:
        raise ValueError("a unix:// Redis URL names a socket")
    return RedisAddress(
        host="" if unix else unquote(parts.hostname or "localhost"),
        port=parts.port or DEFAULT_PORT,
        path=path if unix else "",
        username=unquote(parts.username) if parts.username else query.get("username"),
        password=unquote(parts.password) if parts.password else query.get("password"),
        database=int(database),
        tls=parts.scheme == "rediss",
        tls_verified=query.get("ssl_cert_reqs", "required") not in {"none", "CERT_NONE"},
        tls_ca_file=query.get("ssl_ca_certs"),
    )
