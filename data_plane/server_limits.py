"""Every number that keeps one client from starving the others: sizes, rates and times of the server side."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    request_line_bytes: int = 8 * KIB
    header_block_bytes: int = 32 * KIB
    headers_max: int = 100
    chunk_extension_bytes: int = 256
    trailer_bytes: int = 8 * KIB

    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_rate_window_s: float = 10.0
    body_bytes_per_window: int = KIB
    """A body must arrive at this rate on average, so a trickle is cut after one window."""
    body_stall_s: float = 30.0
    body_total_s: float = 300.0
    body_buffered_bytes: int = 512 * MIB
    """All request bodies held by this process."""
    body_streamed_bytes: int = 512 * MIB
    body_ahead_bytes: int = 64 * KIB
    """Read of a body before anybody asked for it."""

    connections_max: int = 10_000
    connections_per_peer: int = 1_000
    idle_timeout_s: float = 75.0
    requests_per_connection: int = 10_000
    pipelined_bytes: int = 64 * KIB
    """Parked while a request is in flight; one read of the socket may exceed it, then reading stops."""

    write_high_bytes: int = 256 * KIB
    write_low_bytes: int = 64 * KIB
    write_stall_s: float = 60.0
    linger_s: float = 2.0
    """How long the rest of an unread body is discarded, so that the client can read why it was refused."""
