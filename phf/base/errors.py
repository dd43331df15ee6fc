"""Defines errors that a user can act on: one line that says what is wrong, where, and what to do."""

from __future__ import annotations


class PhfError(Exception):
    """A failure with a cause that the user can fix; the command line exits with 1."""

    exit_code = 1


class ConfigError(PhfError):
    """The command line or the configuration is wrong; the command line exits with 2."""

    exit_code = 2
