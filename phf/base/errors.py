"""Errors that a user can act on: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PhfError(Exception):
    """Something failed for a reason that the user can act on; the command line exits with 1."""

    exit_code = 1


class ConfigError(PhfError):
    """The command line or the configuration is wrong; the command line exits with 2."""

    exit_code = 2


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of an error of the system what could not be written, and that nothing is lost.

    Raises:
        PhfError: For example as the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        raise PhfError(
            f"{path} cannot be written: {reason}; once it can, the same command goes on"
        ) from error
