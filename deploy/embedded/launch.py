"""Becomes a server: takes the identity it is told, ties its life to the launcher, and execs.

Runs as a script in a fresh, single-threaded interpreter, because a user namespace can only be entered by a
process with one thread, and because code between fork and exec in a threaded launcher can deadlock.
Arguments: PARENT DEATH_SIGNAL KIND UID GID REACH EXECUTABLE ARGV0 [ARGUMENT...]; only the standard library.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CANNOT_LAUNCH = 125
"""Exit status when the server was never executed."""


def enter_user_namespace(uid: int, gid: int) -> None:
    """Look like `uid` to ourselves while the file system still sees the launcher's user."""
    # Read before: inside the new namespace the unmapped user is shown as the overflow user.
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "a user namespace is not allowed here")
    # The kernel lets an unprivileged process map its group only once it has given up setgroups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{gid} {outside_gid} 1")
    Path("/proc/self/uid_map").write_text(f"{uid} {outside_uid} 1")


def become_user(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, death_signal: int) -> None:
    """Receive `death_signal` when the launcher's thread that started us ends."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the death signal of the parent cannot be requested")
    if os.getppid() != parent:
        # It was gone before the kernel was asked to tell us.
        sys.exit(CANNOT_LAUNCH)


def main(arguments: list[str]) -> None:
    parent, death_signal, kind, uid, gid, reach, executable, *argv = arguments
    if kind == "namespace":
        enter_user_namespace(int(uid), int(gid))
    elif kind == "user":
        become_user(int(uid), int(gid))
    # After the change of identity, because the kernel forgets the request when credentials change.
    die_with(int(parent), int(death_signal))
    if reach and not os.access(reach, os.X_OK):
        raise PermissionError(f"{reach} is out of reach")
    os.umask(0o077)
    # The interpreter ignores these, the launcher may block some, and both would survive the exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(executable, argv)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as reason:
        sys.stderr.write(f"cannot launch {sys.argv[7]}: {reason}\n")
        sys.exit(CANNOT_LAUNCH)
