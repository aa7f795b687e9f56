"""How a stack runs, beyond where: one frozen value handed to both servers."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Source = Literal["wheel", "system"]


@dataclass(frozen=True, slots=True)
class Options:
    lookup: tuple[Source, ...] = ("wheel", "system")
    """Where server binaries are sought, in this order."""
    user_namespaces: bool = True
    """Whether PostgreSQL may run in a user namespace where it refuses our own user."""
    state_dir: Path = Path("/usr/local/var/nullspend" if sys.platform == "darwin" else "/var/lib/nullspend")
    """Takes what the other user of PostgreSQL could not reach in the data directory."""
    durable: bool = True
    """False skips every wait for the disk: killed processes still lose nothing, a power failure may lose it all."""
