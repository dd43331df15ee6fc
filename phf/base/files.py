"""Writes files so that a reader sees the whole file or none of it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phf.base.errors import PhfError


def is_file(path: str | Path) -> bool:
    """Returns whether a path typed by a user is a file; `False` for a string that cannot be a path."""
    try:
        return Path(path).is_file()
    except OSError:  # for example a name that is too long
        return False


def is_folder(path: str | Path) -> bool:
    """Returns whether a path typed by a user is a folder; `False` for a string that cannot be a path."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def exists(path: str | Path) -> bool:
    """Returns whether a path typed by a user exists; `False` for a string that cannot be a path."""
    try:
        return Path(path).exists()
    except OSError:
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system into a one-line error that names the path.

    Raises:
        PhfError: `path` cannot be written, for example because the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        raise PhfError(
            f"{path} cannot be written: {reason}; once it can, the same command goes on"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` when the block ends.

    The block writes a file or creates a folder at the temporary path. If the block fails, the temporary path
    is removed and `path` stays unchanged. Temporary paths of killed processes are removed by the next call.

    Args:
        path: The file or folder to write. A folder may exist only if it is empty. The parent folder is
            created if needed.

    Raises:
        PhfError: The path cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
        try:
            yield temporary
            if temporary.is_file():
                _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8 by way of `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON by way of `replacing`.

    Raises:
        ValueError: A number is not finite.
        PhfError: The file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk. The contents must be there before the rename is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems cannot sync folders
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Removes temporary paths of processes of this machine that no longer run."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(platform.node())}-(\d+)\.tmp")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_alive(int(match[1])):
            _remove(entry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
