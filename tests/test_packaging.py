"""A wheel has everything that an installed phf needs, and nothing else at the top."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)  # the build hook of PEP 517 works on the current directory
    try:
        return folder / build.build_wheel(str(folder))
    finally:
        os.chdir(before)


def test_the_wheel_has_three_packages_with_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "phf",
        "objectives",
        "scorers",
    }
    for package in ("phf", "objectives", "scorers"):
        for source in (ROOT / package).rglob("*"):
            if source.is_file() and source.suffix in {".py", ".j2", ".css", ".js", ".jsonl"}:
                assert source.relative_to(ROOT).as_posix() in names
    for config in (ROOT / "configs").rglob("*.yaml"):
        assert f"phf/configs/{config.relative_to(ROOT / 'configs').as_posix()}" in names


def test_an_installed_wheel_works_away_from_the_clone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import phf.cli, objectives, scorers; from phf.config import find_config; "
        "assert all('site' in m.__file__ for m in (phf.cli, objectives, scorers)); "
        "assert 'site' in str(find_config('quickstart.yaml')); "
        "raise SystemExit(phf.cli.main(['quickstart', '--print-config']))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "name: quickstart" in result.stdout
