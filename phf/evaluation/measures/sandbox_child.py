"""Runs inside the sandbox process: a script of its own that imports nothing of the project.

    python -I -S sandbox_child.py SECONDS MEMORY_BYTES < request.json

It reads a program and a token from standard input, gives up all rights except to compute, runs the program,
and prints the token if the program reaches its end. While the program runs, the kernel allows only the system
calls below. None of them opens a file, a socket or a process, or reaches another process.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

# Modules that a program may import. They must be loaded before access to files is lost.
IMPORTS = """abc array bisect cmath collections collections.abc copy dataclasses datetime decimal enum
fractions functools heapq io itertools json math numbers operator random re statistics string textwrap time
types typing unicodedata"""

# Numbers (x86-64, arm64) of the system calls needed to compute, allocate memory, print and exit.
SYSTEM_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Exit codes besides 0.
FAILED, NO_SANDBOX = 1, 3

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2


def lock_down() -> None:
    """Installs the filter for good: a system call that is not listed fails with EPERM.

    Raises:
        OSError: The platform has no such filter, or the kernel refuses it.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in AUDIT_ARCH:
        raise OSError(f"no filter of system calls for {sys.platform} on {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [pair[machine == "aarch64"] for pair in SYSTEM_CALLS.values()]
    rules = _filter(AUDIT_ARCH[machine], numbers)
    code = ctypes.create_string_buffer(b"".join(rules))
    # struct sock_fprog: a count, padding, a pointer.
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    for call in (
        (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses to filter system calls")


def _filter(arch: int, numbers: list[int]) -> list[bytes]:
    """Builds a Berkeley packet filter program over struct seccomp_data (number at 0, architecture at 4)."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow, kill, fail = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last: errno EPERM

    def rule(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    return [
        rule(load, 0, 0, 4),
        rule(jump_if_equal, 1, 0, arch),
        rule(answer, 0, 0, kill),
        rule(load, 0, 0, 0),
        *(rule(jump_if_equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        rule(answer, 0, 0, fail),
        rule(answer, 0, 0, allow),
    ]


def main() -> None:
    """Runs the program from standard input, and ends the process."""
    seconds, memory = map(int, sys.argv[1:])
    request = json.loads(sys.stdin.buffer.read())
    for module in IMPORTS.split():
        __import__(module)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        lock_down()
    except OSError as error:
        os.write(1, str(error).encode())
        os._exit(NO_SANDBOX)
    try:
        exec(compile(request["program"], "program", "exec"), {"__name__": "program"})
    except BaseException as error:
        os.write(1, type(error).__name__.encode())
        os._exit(FAILED)
    os.write(1, request["token"].encode())
    os._exit(0)


if __name__ == "__main__":
    main()
