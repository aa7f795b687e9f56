"""Data directories and launchers that leave nothing behind."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded import EmbeddedStack, Options
from tests.integration.embedded.support import (
    REPOSITORY,
    Launcher,
    copy_quickly,
    copy_tree,
    copy_wheels,
    servers_below,
    wait_until,
)

# A cluster is a thousand files and tens of megabytes; memory takes and drops them without waiting for a disk.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 1_000_000_000


@contextmanager
def new_folder() -> Iterator[Path]:
    """A private folder in which programs can be executed; servers that are left in it are an error."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN
    if usable:
        usable = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    folder = Path(tempfile.mkdtemp(prefix="nullspend-test-", dir=MEMORY if usable else None))
    yield folder
    wait_until(lambda: not servers_below(folder), "every server had ended")
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Fails a test that leaves a server behind."""
    yield
    wait_until(lambda: not servers_below(tmp_path), "every server had ended")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a stack may be; nothing is there yet."""
    with new_folder() as folder:
        yield folder / "data"


@pytest.fixture
def private_dir() -> Iterator[Path]:
    """A folder that only we can enter."""
    with new_folder() as folder:
        yield folder


@pytest.fixture
def passable_dir() -> Iterator[Path]:
    """A folder that other users can pass through."""
    with new_folder() as folder:
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def public_site() -> Iterator[Path]:
    """A copy of the wheels and of the code that other users can read."""
    with new_folder() as folder:
        folder.chmod(0o755)
        copy_wheels(folder)
        copy_tree(REPOSITORY / "deploy", folder / "deploy")
        yield folder


@pytest.fixture(scope="session")
def made_once() -> Iterator[Path]:
    """A data directory with a database in it, to copy where a first start is not what is tested."""
    with new_folder() as folder:
        with EmbeddedStack(folder / "data", valkey=False, options=Options(durable=False)):
            pass
        yield folder / "data"


@pytest.fixture
def new_stack(data_dir: Path, made_once: Path) -> Iterator[Callable[..., EmbeddedStack]]:
    """Makes stacks on the data directory, and stops those that are still up."""
    stacks: list[EmbeddedStack] = []

    def make(*, postgres: bool = True, valkey: bool = True, fresh: bool = False, **options: Any) -> EmbeddedStack:
        if postgres and not fresh and not data_dir.exists():
            copy_quickly(made_once, data_dir)
        wanted = Options(**{"durable": False, **options})
        stacks.append(EmbeddedStack(data_dir, postgres=postgres, valkey=valkey, options=wanted))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.stop()


@pytest.fixture
def stack(new_stack: Callable[..., EmbeddedStack]) -> EmbeddedStack:
    """A started stack."""
    made = new_stack()
    made.start()
    return made


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[EmbeddedStack]:
    """A stack with every default, for tests that only look."""
    with new_folder() as folder, EmbeddedStack(folder / "data") as made:
        yield made


@pytest.fixture
def new_launcher(data_dir: Path, made_once: Path) -> Iterator[Callable[..., Launcher]]:
    """Makes launchers in processes of their own."""
    launchers: list[Launcher] = []

    def make(*, fresh: bool = False) -> Launcher:
        if not fresh and not data_dir.exists():
            copy_quickly(made_once, data_dir)
        launchers.append(Launcher(data_dir, {}))
        return launchers[-1]

    yield make
    for launcher in launchers:
        launcher.close()
