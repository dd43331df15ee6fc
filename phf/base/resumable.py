"""Long work in parts, each of which is kept as soon as it is done: what is stopped goes on with the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from phf.base.errors import writing


class Parts:
    """The finished parts of a piece of work, as JSON files in a folder.

    Args:
        folder: The folder; what is there of another piece of work goes.
        identity: All that decides the work.

    Raises:
        PhfError: The folder cannot be written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder = folder
        if self.read("identity") != identity:
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            self.write("identity", identity)

    def read(self, name: str) -> Any:
        """A part; `None` if it is not done."""
        try:
            return json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, name: str, content: Any) -> None:
        """Keeps a part.

        Raises:
            PhfError: It cannot be written.
        """
        temporary = self.folder / f".{name}.tmp"
        with writing(self._path(name)):
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self._path(name))

    def remove(self) -> None:
        """Deletes them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
