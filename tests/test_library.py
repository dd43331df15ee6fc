"""The package as a library: its names, and what an import of it costs."""

import subprocess
import sys

import pytest

import phf


def test_every_public_name_is_there():
    for name in phf.__all__:
        assert getattr(phf, name).__name__ == name
    assert set(phf.__all__) <= set(dir(phf))
    with pytest.raises(AttributeError, match="module 'phf' has no attribute 'pretraine'"):
        phf.pretraine  # noqa: B018


def test_an_import_is_quick():
    slow = ("torch", "transformers", "lightning", "pyarrow", "omegaconf")
    code = f"import sys, phf; print([name for name in {slow} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
