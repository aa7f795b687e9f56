"""Chooses where a server's Unix socket lives: in the data directory if its path is short and plain, else in /tmp."""

import hashlib
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from deploy.embedded.privileges import can_reach
from deploy.embedded.process import Identity
from deploy.embedded.status import StackError

# The kernel's field is 108 bytes (104 on macOS) with the closing zero.
PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107

# Clients take the path out of a URL, and some split it at commas or stumble over escapes.
PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


def socket_dir(data_dir: Path, server: str, file_name: str, identity: Identity) -> Path:
    """A directory for one server's socket, private to the identity it runs as."""
    bases = _candidates(data_dir)
    for base in bases:
        directory = base / server
        # A directory that really becomes another user's must let that user pass, and nothing else.
        if _fits(directory / file_name) and _make_private(base, 0o711 if identity.kind == "user" else 0o700):
            if not can_reach(base, identity):
                continue
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, identity.file_uid, identity.file_gid)
            return directory
    raise StackError(
        f"no private directory with a short, plain path could be made for sockets "
        f"(tried {', '.join(map(str, bases))}): set TMPDIR to a short path"
    )


def remove_socket_dirs(data_dir: Path) -> None:
    """Take away the empty directories; one that still holds something stays."""
    for base in _candidates(data_dir):
        for directory in (*base.glob("*"), base):
            with suppress(OSError):
                directory.rmdir()


def _candidates(data_dir: Path) -> list[Path]:
    key = hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:12]
    shared = dict.fromkeys((tempfile.gettempdir(), "/tmp"))  # noqa: S108  # made private and checked below
    return [data_dir / "run", *(Path(folder, f"nullspend-{os.geteuid()}-{key}") for folder in shared)]


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= PATH_BYTES_MAX and PLAIN.fullmatch(str(path)) is not None


def _make_private(directory: Path, mode: int) -> bool:
    """Make it, or accept it if nobody else can have put anything into it."""
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=mode)
        found = directory.lstat()
        # In a shared /tmp someone else may have made it first, to receive the passwords that clients send.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        directory.chmod(mode)
    except OSError:
        return False
    return True
