"""The way to the providers: a keep-alive pool of own connections, and replies that stream from the read callback."""

from data_plane.upstream.base import Base
from data_plane.upstream.client import UpstreamPool
from data_plane.upstream.failures import Phase, Timeouts, UpstreamFailure
from data_plane.upstream.response import ReplyTooLarge, Sink, UpstreamResponse

__all__ = ["Base", "Phase", "ReplyTooLarge", "Sink", "Timeouts", "UpstreamFailure", "UpstreamPool", "UpstreamResponse"]
