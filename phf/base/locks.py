"""One process at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from phf.base.errors import PhfError


def lock(path: Path, busy: str) -> TextIO:
    """Takes a lock, which lasts until the file is closed or the process ends; the file stays.

    Args:
        path: The file.
        busy: What to say if another process has it.

    Raises:
        PhfError: Another process has it.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise PhfError(busy) from None
    except OSError:
        pass  # a file system without locks
    return file
