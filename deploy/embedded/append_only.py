"""Repairs an append-only file with garbage at its end, after keeping a copy of it."""

import re
import shutil
import time
from pathlib import Path

from deploy.embedded.process import Command, Identity, run
from deploy.embedded.status import StackError


def mend_append_only_file(server: Path, home: Path) -> str:
    """Cut the unreadable end off the newest increment; says what was cut and where the original is."""
    damaged = _newest_increment(home / "appendonlydir")
    kept = (
        home / "damaged" / f"{damaged.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{time.time_ns() % 10**9}"
    )
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copy2(damaged, kept)
    before_bytes = damaged.stat().st_size
    # The server binary is its own repair tool when it is called so.
    tool = server.name.replace("-server", "-check-aof")
    repair = Command(server, ("--fix", str(damaged)), Identity.ourselves(), cwd=home, name=tool)
    finished = run(repair, text="y\n")
    if finished.code != 0:
        raise StackError(f"{damaged} is damaged and was not repaired ({finished.output}); a copy is at {kept}")
    cut_bytes = before_bytes - damaged.stat().st_size
    return f"the last {cut_bytes} bytes of {damaged.name} were unreadable and were cut off; the original is {kept}"


def _newest_increment(folder: Path) -> Path:
    manifest = next(iter(folder.glob("*.manifest")), None)
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest else []
    increments = [match[1] for line in lines if (match := re.match(r'file "?(.+?)"? seq \d+ type i', line))]
    if not increments:
        raise StackError(f"{folder} names no append-only file to repair: restore it from a copy")
    return folder / increments[-1]
