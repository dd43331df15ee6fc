"""A benchmark runs; what it measures is not for a test to judge."""

import subprocess
import sys
from pathlib import Path


def test_the_head_is_measured():
    script = Path(__file__).parents[1] / "benchmarks" / "head.py"
    arguments = "--tokens 64 --width 16 --vocabulary 300 --repeats 1 --heads fused linear_cross_entropy"
    command = [sys.executable, str(script), *arguments.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split()[0] for line in result.stdout.splitlines()[2:]]
    assert rows == ["plain", "fused", "linear_cross_entropy"]
