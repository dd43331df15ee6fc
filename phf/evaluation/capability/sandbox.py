"""Runs Python that nobody has read, such as what a model wrote, where it can do nothing but compute.

A program gets a process of its own, with limits of time and memory, an empty environment, and a filter of
system calls in the kernel (seccomp, no root needed): no files, no network, no other processes or threads.
Modules that it may import are loaded before. It writes nothing, so nothing can be left behind.

What this does not protect from: faults of the kernel itself; programs that only seem to pass, by an attack on
the checks from within the same interpreter. It holds what a language model writes by chance; for somebody who
means harm, add a virtual machine.
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
from phf.evaluation.capability import sandbox_child

Outcome = Literal["passed", "failed", "timeout"]


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Of a processor; it has a few more by the clock.
        memory_mb: Address space, the 30 MB or so of the interpreter included.
    """

    seconds: int = 3
    memory_mb: int = 256


def run_python(program: str, limits: Limits) -> tuple[Outcome, str]:
    """Runs a program to its end.

    Args:
        program: Its source.
        limits: What it may use.

    Returns:
        `passed` if it came to its end, `failed` and the exception that ended it, or `timeout`.

    Raises:
        PhfError: This machine cannot hold it.
    """
    # An exit code of 0 is easily had: a program that ends the process early has not passed.
    token = secrets.token_hex(16)
    request = json.dumps({"program": program, "token": token}).encode("utf-8", "replace")
    arguments = map(str, (sandbox_child.__file__, limits.seconds, limits.memory_mb << 20))
    # Not a pipe: whoever reads that would have to hold all that is written.
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                [sys.executable, "-I", "-S", *arguments],
                input=request,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                timeout=3 * limits.seconds + 10,  # for one that sleeps; a busy machine is slow by the clock
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return "timeout", ""
        output.seek(0)
        said = output.read().decode(errors="replace")
    if code == sandbox_child.NO_SANDBOX:
        raise PhfError(
            f"generated code needs a sandbox: {said}; it takes seccomp of Linux on x86-64 or arm64"
        )
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", ""
    if code == 0 and said.endswith(token):
        return "passed", ""
    return "failed", (code == sandbox_child.FAILED and said[-80:]) or f"exit code {code}"


def check_sandbox(limits: Limits) -> None:
    """Makes sure that a program which does nothing passes.

    Raises:
        PhfError: It does not.
    """
    outcome, reason = run_python("", limits)
    if outcome != "passed":
        raise PhfError(f"the sandbox of generated code does not run an empty program: {reason or outcome}")
