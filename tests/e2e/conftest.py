"""The product with two workers before the scripted provider, started once; kill and life-cycle tests have their own."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.control import Control
from tests.support.product import BODY_BYTES_MAX, Product
from tests.support.upstreams import Scripted, scripted_provider


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A short path: sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="nse"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def scripted() -> Iterator[Scripted]:
    with scripted_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def slow_machine() -> dict[str, str]:
    """A machine that runs other things beside the tests may keep the ledger's answer waiting."""
    return {"NULLSPEND_RESERVE_TIMEOUT_SECONDS": "5"}


@pytest.fixture(scope="session")
def product(room: Path, scripted: Scripted, slow_machine: dict[str, str]) -> Iterator[Product]:
    settings = {**scripted.place.settings(), **slow_machine, "NULLSPEND_PROXY_BODY_BYTES_MAX": str(BODY_BYTES_MAX)}
    running = Product(room / "p", settings)
    running.start()
    try:
        yield running
        assert running.stop() == 0, running.output
    finally:
        running.kill()


@pytest.fixture
async def control(product: Product) -> AsyncIterator[Control]:
    async with Control(product) as client:
        yield client
