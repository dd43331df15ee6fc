"""A real Slurm of two simulated nodes on this machine, for the tests of `slurm/`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SBATCH_FILES = HERE.parents[1] / "slurm"
ENDED = {"CD", "F", "CA", "TO", "NF", "OOM", "DL", "BF"}
SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    Attributes:
        environment: What the Slurm commands and the jobs need.
    """

    environment: dict[str, str]

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = (), folder: Path) -> str:
        """Submits a file of `slurm/` from `folder`, and returns the number of the job."""
        command = ["sbatch", "--parsable", *options, str(SBATCH_FILES / script), *arguments]
        return self._run(command, cwd=folder).strip()

    def wait(self, job: str, seconds: float = 180) -> list[str]:
        """Waits until a job and all tasks of its array have ended.

        Returns:
            The state of each, such as `CD` for completed and `F` for failed.
        """
        end = time.monotonic() + seconds
        while True:
            states = self._run(["squeue", "-h", "-r", "-j", job, "-t", "all", "-o", "%t"]).split()
            if states and set(states) <= ENDED:
                return states
            assert time.monotonic() < end, f"job {job} is still {states} after {seconds} seconds"
            time.sleep(0.3)

    def signal(self, job: str, name: str) -> None:
        """Sends a signal to the processes of a job, not to its script."""
        self._run(["scancel", "-s", name, job])

    def _run(self, command: list[str], cwd: Path | None = None) -> str:
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    path = os.pathsep.join([os.environ["PATH"], SBIN])
    missing = [c for c in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(c, path=path)]
    if missing:
        pytest.skip(f"no {missing[0]} on this machine: apt-get install slurmctld slurmd slurm-client munge")
    # Not in pytest's own folder: its path is too long for Unix sockets.
    folder = Path(tempfile.mkdtemp(prefix="phf-slurm-"))
    folder.chmod(0o755)
    # Variables of a job that the tests may themselves run in would confuse the cluster's commands.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    environment |= {
        "PATH": path,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PHF": str(Path(sys.executable).with_name("phf")),
    }
    try:
        subprocess.run([HERE / "start_slurm.sh", folder], env=environment, check=True, timeout=120)
        yield Slurm(environment)
    finally:
        subprocess.run([HERE / "stop_slurm.sh", folder], env=environment, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
