"""Locks a path, so that one process at a time works on it."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from phf.base.errors import PhfError


def lock(path: Path, busy: str | None = None) -> TextIO:
    """Locks a file until it is closed or the process ends; the file is not deleted.

    Args:
        path: The lock file.
        busy: The error message if another process holds the lock; `None` to wait for the lock.

    Raises:
        PhfError: Another process holds the lock.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
    except BlockingIOError:
        file.close()
        raise PhfError(busy or "") from None
    except OSError:
        pass  # the file system does not support locks
    return file
