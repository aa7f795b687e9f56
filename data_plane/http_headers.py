"""Header lists as both sides of the proxy carry them: bytes as sent, in their order."""

Headers = list[tuple[bytes, bytes]]


def names(header: bytes | None, token: bytes) -> bool:
    """Whether a comma list contains a token, whatever its case."""
    return header is not None and token in [part.strip() for part in header.lower().split(b",")]
