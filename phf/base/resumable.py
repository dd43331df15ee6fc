"""Keeps long work in parts, each saved when it is done, so that stopped work goes on with the next part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from phf.base.files import write_text, writing


class Parts:
    """Stores the finished parts of a piece of work as JSON files in a folder.

    Args:
        folder: The folder. Parts of a different piece of work are deleted.
        identity: Everything that determines the results of the work.

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
        """Returns a part, or `None` if it is not finished."""
        try:
            return json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, name: str, content: Any) -> None:
        """Saves a part.

        Raises:
            PhfError: The part cannot be written.
        """
        write_text(self._path(name), json.dumps(content))

    def remove(self) -> None:
        """Deletes all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
