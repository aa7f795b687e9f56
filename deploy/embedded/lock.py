"""One launcher a data directory: an flock that the kernel drops with its holder, however that dies."""

import fcntl
import os
import weakref
from pathlib import Path

from deploy.embedded.status import StackError


class DirectoryLock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        # A forked child shares the lock; keeping it open there would let it outlive the launcher it belongs to.
        itself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _release(itself()))

    @classmethod
    def acquire(cls, path: Path) -> "DirectoryLock":
        """Take the lock or raise StackError naming its holder."""
        # The descriptor is close-on-exec, so the servers do not keep the lock of a dead launcher.
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StackError(f"{path} cannot be opened ({error.strerror}): choose a directory of your own") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StackError(
                f"{path.parent} is already in use by another NullSpend (process {holder}): "
                "stop that one first, or choose another data directory"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise StackError(
                f"{path} cannot be locked ({error.strerror}): choose a data directory on a local disk"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        # The file stays: removing it would let two launchers hold locks on two different inodes.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _release(lock: DirectoryLock | None) -> None:
    if lock is not None:
        lock.release()
