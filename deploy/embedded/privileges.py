"""Decides whom PostgreSQL runs as, since it refuses root and users without a name, and what it can then reach."""

import os
import pwd
import stat
import sys
from pathlib import Path

from deploy.embedded.process import Identity
from deploy.embedded.status import StackError


def candidates(*, user_namespaces: bool) -> tuple[Identity, ...]:
    """Whom to try, in order: ourselves if PostgreSQL accepts us; else nobody in a namespace, then really nobody."""
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return (Identity.ourselves(),)
    nobody = _nobody()
    if nobody is None:
        return ()
    # In a namespace the files stay ours, so everything below a private home works and no mode is touched.
    # Container runtimes may forbid it, and root without its capabilities cannot pass another user's private home.
    inside = Identity("namespace", nobody.pw_uid, nobody.pw_gid)
    really = Identity("user", nobody.pw_uid, nobody.pw_gid)
    possible = user_namespaces and sys.platform == "linux"
    return (*((inside,) if possible else ()), *((really,) if uid == 0 else ()))


def can_reach(directory: Path, identity: Identity) -> bool:
    """Whether the modes of an existing directory and all its parents let the identity enter it."""
    if identity.kind != "user":
        return True
    real = Path(os.path.realpath(directory))
    return all(_may_enter(parent.stat(), identity) for parent in (real, *real.parents))


def make_passable(directory: Path, mode: int) -> None:
    """Make a directory with exactly this mode whatever the umask; one that exists keeps its own."""
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(mode)


def give(tree: Path, identity: Identity) -> None:
    """Hand a tree to the identity, if it belongs to root or nobody; refuse to take it from anyone else."""
    wanted = identity.file_uid
    owner = tree.stat().st_uid
    if owner == wanted:
        return
    nobody = _nobody()
    if os.geteuid() != 0 or owner not in {0, nobody.pw_uid if nobody else 0}:
        raise StackError(f"{tree} belongs to {_name(owner)}: start NullSpend as that user, or choose another directory")
    # The root of the tree comes last: were this interrupted, the next start would begin again.
    for folder, _, files in os.walk(tree, topdown=False):
        for path in (*(os.path.join(folder, name) for name in files), folder):  # noqa: PTH118  # many files, strings
            os.chown(path, wanted, identity.file_gid, follow_symlinks=False)


def _may_enter(directory: os.stat_result, identity: Identity) -> bool:
    if directory.st_uid == identity.uid:
        return bool(directory.st_mode & stat.S_IXUSR)
    if directory.st_gid == identity.gid:
        return bool(directory.st_mode & stat.S_IXGRP)
    return bool(directory.st_mode & stat.S_IXOTH)


def _nobody() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return None


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _name(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name if _has_name(uid) else f"uid {uid}"
