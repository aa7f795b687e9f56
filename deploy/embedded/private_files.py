"""Files for the owner's eyes only: generated passwords and the configuration that holds them."""

import os
import secrets
from pathlib import Path

from deploy.embedded.status import StackError


def write_private(path: Path, text: str) -> None:
    """Replace the file as a whole, readable by its owner alone at every moment."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def edit_foreign(path: Path, text: str, *, append: bool) -> None:
    """Write into a file of the server's own user, who must not lead us elsewhere by a link."""
    mode = os.O_APPEND if append else os.O_TRUNC
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_password() -> str:
    # Letters and digits only: it needs no escape in SQL, in a configuration or in a URL.
    return secrets.token_hex(24)


def kept_password(path: Path) -> str | None:
    """The password in the file; None if there is no file."""
    try:
        password = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not password.isalnum() or not password.isascii():
        raise StackError(f"{path} does not hold a password: remove it and a new one is made")
    return password
