"""Programs that misbehave, each in the real sandbox."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phf.base.errors import PhfError
from phf.evaluation.measures import sandbox, sandbox_child
from phf.evaluation.measures.sandbox import Limits, check_sandbox, run_python

LIMITS = Limits(seconds=1, memory_mb=256)


@pytest.mark.parametrize(
    "program",
    [
        "assert sorted([3, 1, 2]) == [1, 2, 3]",
        "import math, re, collections, itertools\nassert re.match('a+', 'aa') and math.pi > 3",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nassert A(1) == A(1)",
        "print('x' * 1000)\nassert sum(range(10 ** 6)) == 499999500000",
        "x = '\\u00e9\\ud83d\\ude00'",
    ],
)
def test_what_computes_passes(program):
    assert run_python(program, LIMITS) == ("passed", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "outcome", "reason"),
    [
        ("assert False", "failed", "AssertionError"),
        ("def f(:", "failed", "SyntaxError"),
        ("x" * 10**6 + "(", "failed", "SyntaxError"),
        ("def f(n): return f(n)\nf(0)", "failed", "RecursionError"),
        # An end that is not the end.
        ("raise SystemExit(0)", "failed", "SystemExit"),
        ("import os; os._exit(0)", "failed", "exit code 0"),
        ("import os; os.write(1, b'done'); os._exit(0)", "failed", "exit code 0"),
        # Time and memory.
        ("while True: pass", "timeout", ""),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout", ""),
        ("x = 'x' * 10 ** 10", "failed", "MemoryError"),
        ("x = []\nwhile True: x.append(' ' * 10 ** 6)", "failed", "MemoryError"),
        ("import os\nwhile True: os.write(1, b'x' * 1000)", "failed", "x" * 80),
        # Processes and threads.
        ("import os\nwhile True: os.fork()", "failed", "PermissionError"),
        ("import os; os.execv('/bin/sh', ['sh'])", "failed", "PermissionError"),
        ("import os; os.posix_spawn('/bin/true', ['true'], {})", "failed", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "failed", "PermissionError"),
        ("import _thread; _thread.start_new_thread(print, ())", "failed", "RuntimeError"),
        # Files.
        ("open('/etc/passwd').read()", "failed", "PermissionError"),
        ("import os; os.listdir('/')", "failed", "PermissionError"),
        ("import os; os.unlink('/tmp/x')", "failed", "PermissionError"),
        ("import os; os.mkdir('/tmp/x')", "failed", "PermissionError"),
        # Network. The module is a file, too.
        ("import socket", "failed", "ModuleNotFoundError"),
        # No way around the interpreter: the kernel says no.
        (
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "assert libc.socket(2, 1, 0) == -1 and ctypes.get_errno() == 1\n"
            "assert libc.open(b'/etc/passwd', 0) == -1 and ctypes.get_errno() == 1\n"
            "assert libc.fork() == -1 and ctypes.get_errno() == 1\n"
            "assert libc.ptrace(16, 1, 0, 0) == -1 and ctypes.get_errno() == 1\n"
            "assert libc.prctl(22, 0, 0, 0, 0) == -1\nraise KeyError",
            "failed",
            "KeyError",
        ),
    ],
)  # fmt: skip
def test_what_misbehaves_fails_fast(program, outcome, reason):
    started = time.monotonic()
    assert run_python(program, LIMITS) == (outcome, reason)
    assert time.monotonic() - started < 12


def test_writing_outside_leaves_nothing(tmp_path):
    target = tmp_path / "file"
    program = f"open({str(target)!r}, 'w').write('x')"
    assert run_python(program, LIMITS) == ("failed", "PermissionError")
    assert not target.exists()
    target.write_text("kept")
    assert run_python(program, LIMITS) == ("failed", "PermissionError")
    assert run_python(f"import os; os.truncate({str(target)!r}, 0)", LIMITS)[1] == "PermissionError"
    assert target.read_text() == "kept"


def test_the_environment_is_out_of_reach(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "12345")
    program = "import os, sys\nassert 'SECRET_KEY' not in os.environ and '12345' not in str(sys.argv)"
    assert run_python(program, LIMITS) == ("passed", "")


@pytest.mark.slow
def test_a_sleeper_ends_with_the_clock_and_with_its_parent(monkeypatch):
    """Also one whose parent is killed: no process stays behind."""
    request = json.dumps({"program": "import time; time.sleep(1000)", "token": ""})
    parent = subprocess.Popen(
        [
            sys.executable, "-c",
            "import subprocess, sys; child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE);"
            f"child.stdin.write({request.encode()!r}); child.stdin.close(); print(child.pid, flush=True);"
            "child.wait()",
            sys.executable, "-I", "-S", sandbox_child.__file__, "1", str(2**28),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(parent.stdout.readline())
    assert _until(lambda: "Seccomp:\t2" in Path(f"/proc/{child}/status").read_text())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _until(lambda: not Path(f"/proc/{child}").exists() or _is_dead(child))
    run = subprocess.run
    monkeypatch.setattr(sandbox.subprocess, "run", lambda *a, **k: run(*a, **k | {"timeout": 1}))
    assert run_python("import time; time.sleep(1000)", LIMITS) == ("timeout", "")


def _until(condition):
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def _is_dead(pid):
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """The script of the sandbox with something replaced."""

    def change(old, new):
        script = Path(sandbox_child.__file__).read_text()
        assert old in script
        (tmp_path / "changed.py").write_text(script.replace(old, new))
        monkeypatch.setattr(sandbox_child, "__file__", str(tmp_path / "changed.py"))

    return change


def test_where_there_is_no_sandbox_nothing_runs(changed):
    """On another platform the program does not even begin."""
    changed('sys.platform != "linux"', 'sys.platform != "plan9"')
    with pytest.raises(PhfError, match=r"needs a sandbox: no filter .*; use Linux with seccomp"):
        run_python("import os; os.write(1, b'ran')", LIMITS)


def test_a_sandbox_in_which_nothing_runs_is_told(changed):
    check_sandbox(LIMITS)
    changed('"""abc', '"""abc missing')
    with pytest.raises(PhfError, match="does not run an empty program: exit code 1"):
        check_sandbox(LIMITS)
