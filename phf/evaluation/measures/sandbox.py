"""Runs untrusted Python, such as what a model wrote, in a process that can do nothing but compute.

A program gets its own process with limits on time and memory, an empty environment, and a kernel filter of
system calls (seccomp, which needs no root). It cannot use files, the network, other processes or threads. The
modules that it may import are loaded before the filter is installed. It cannot write files, so nothing is
left behind.

The sandbox does not protect from faults of the kernel, or from programs that only seem to pass because they
attack the checks from within the same interpreter. It is meant for what a language model writes by chance.
Against deliberate attacks, add a virtual machine.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Literal

from phf.base.errors import PhfError
from phf.evaluation.measures import sandbox_child

Outcome = Literal["passed", "failed", "timeout"]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Processor time, in seconds. The limit on wall-clock time is higher.
        memory_mb: Address space in MB, including about 30 MB for the interpreter.
    """

    seconds: int = 3
    memory_mb: int = 256


def run_python(program: str, limits: Limits) -> tuple[Outcome, str]:
    """Runs a program until it ends or reaches a limit.

    Args:
        program: The source code of the program.
        limits: What the program may use.

    Returns:
        The outcome and the reason: `passed` if the program reached its end; `failed`, with the exception or
        the exit code that ended it; or `timeout`.

    Raises:
        PhfError: The sandbox does not work on this machine.
    """
    # An exit code of 0 is not enough: a program can end the process early. It passes if the token is printed.
    token = secrets.token_hex(16)
    request = json.dumps({"program": program, "token": token}).encode("utf-8", "replace")
    arguments = map(str, (sandbox_child.__file__, limits.seconds, limits.memory_mb << 20))
    # Not a pipe: its reader would have to hold all the output in memory.
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                [sys.executable, "-I", "-S", *arguments],
                input=request,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                timeout=3 * limits.seconds + 10,  # for programs that sleep; a busy machine needs more time
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return "timeout", ""
        output.seek(0)
        said = output.read().decode(errors="replace")
    if code == sandbox_child.NO_SANDBOX:
        raise PhfError(f"generated code needs a sandbox: {said}; use Linux with seccomp on x86-64 or arm64")
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", ""
    if code == 0 and said.endswith(token):
        return "passed", ""
    return "failed", (code == sandbox_child.FAILED and said[-80:]) or f"exit code {code}"


def check_sandbox(limits: Limits) -> None:
    """Checks that the sandbox works: an empty program must pass.

    Raises:
        PhfError: The sandbox does not work on this machine.
    """
    outcome, reason = run_python("", limits)
    if outcome != "passed":
        raise PhfError(f"the sandbox of generated code does not run an empty program: {reason or outcome}")
