"""What a dialect must know about its provider's bodies, and the values it speaks in.

`Facts` is what a request asks for, `Reading` what a reply showed. The flow around them is the same for every dialect;
a new one is one module and one line in `registry`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from shared.prices.usage import STANDARD, Metered, PriceContext

CacheWrites = Literal["", "5m", "1h"]
UsageSwitch = Literal["", "absent", "null", "object"]
"""How an OpenAI-style stream leaves the switch for usage unset; `""` means there is nothing for us to set."""


@dataclass(slots=True)
class Facts:
    """What a request asks for: everything the hold and the policy look at, nothing of its content."""

    model: str
    stream: bool = False
    output_tokens_max: int | None = None
    """The explicit cap, per candidate, thinking included. None when the body sets none."""
    candidates: int = 1
    input_bytes: int = 0
    """Bytes of the JSON without inline media."""
    provider_prompt_tokens: int = 0
    """What the provider adds to the prompt for the tools asked for."""
    media: dict[str, int] = field(default_factory=dict)
    """Count per kind: image, audio, document, video, file."""
    media_stored: dict[str, int] = field(default_factory=dict)
    """Those of them whose content is elsewhere: behind a URL or an id."""
    media_bytes: dict[str, int] = field(default_factory=dict)
    """Inline bytes per kind, as encoded in the body."""
    cache: CacheWrites = ""
    context: PriceContext = STANDARD
    fees: dict[str, int] = field(default_factory=dict)
    """Hosted tools by their counter in `Usage`, with the most uses a call may make."""
    server_context: bool = False
    """The provider adds stored context whose size the body does not show."""
    reasoning_hidden: bool = False
    """Reasoning that is billed and not streamed may run."""
    audio_output: bool = False
    sub_models: tuple[str, ...] = ()
    """Further models the provider may run within the call."""
    usage_switch: UsageSwitch = ""

    def add_media(self, kind: str, payload: Any, *, count: int = 1) -> None:
        """A media part; `payload` is its inline content, anything but a string means it is stored elsewhere."""
        self.media[kind] = self.media.get(kind, 0) + count
        if isinstance(payload, str):
            self.media_bytes[kind] = self.media_bytes.get(kind, 0) + len(payload)
            self.input_bytes -= len(payload)
        else:
            self.media_stored[kind] = self.media_stored.get(kind, 0) + count


@dataclass(slots=True)
class Reading:
    """What a reply showed so far. The counted output is what no usage report covers."""

    metered: Metered | None = None
    """Usage as reported; None while none was seen."""
    final: bool = False
    """`metered` is the provider's last word. Otherwise it is a partial report: the input, perhaps some output."""
    model: str | None = None
    provider_request_id: str | None = None
    stop_reason: str | None = None
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    output_deltas: int = 0
    output_bytes: int = 0
    finished: bool = False
    """The proper end was seen."""
    error: bool = False
    """The provider reported an error in the body or the stream."""
    reasoning_hidden: bool = False
    """The reply may hold reasoning that is neither shown nor counted in `metered`."""
    reported_cost_microdollars: int | None = None
    """What the provider says it bills, where it says so."""
    flags: list[str] = field(default_factory=list)

    @property
    def blank(self) -> bool:
        """Nothing of the reply could be read."""
        return not (self.output_deltas or self.model or self.metered or self.finished or self.error)

    def flag(self, name: str) -> None:
        if name not in self.flags:
            self.flags.append(name)


class StreamMeter(Protocol):
    """Reads a reply as it passes."""

    def feed(self, chunk: bytes) -> bytes:
        """What the client must see of these bytes: the same object when nothing changes."""

    def reading(self) -> Reading:
        """What was seen so far, without ending anything: what the guard looks at."""

    def finish(self) -> tuple[bytes, Reading]:
        """Bytes still held back, and the reading. Called once, however the reply ended."""

    def in_band(self, code: str, message: str) -> bytes:
        """An error event for a stream that already started, fitting what the client has received so far.

        Sent in place of what `finish` returns. Empty where nothing can be said any more.
        """


class Dialect(Protocol):
    """One provider's shapes. Stateless: one instance serves every call."""

    @property
    def name(self) -> str:
        """As the router names it."""

    def facts(self, body: bytes, path_model: str | None = None, streaming_path: bool | None = None) -> Facts:
        """Raises RequestRefusal 400: `bad_request`, `invalid_parameter` or `ambiguous_json`."""

    def prepare(self, body: bytes, facts: Facts) -> tuple[bytes, str | None]:
        """The body to send, and what was modified (None: nothing, and the body is the same object)."""

    def read_json(self, body: bytes, facts: Facts) -> Reading:
        """Reads a whole JSON reply, error bodies included. Never raises."""

    def meter(self, facts: Facts, *, restore: bool = False) -> StreamMeter:
        """`restore` undoes in the reply what `prepare` did to the request."""

    def denial(self, envelope: dict[str, Any], status: int) -> dict[str, Any]:
        """Our error body as this provider's clients read it."""
