"""Finds the files of `documents.path`, and names the shards that they make."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from phf.base.errors import ConfigError
from phf.base.files import is_file, is_folder
from phf.config import DocumentsConfig


def find_files(path: str, pattern: str, leave_out: Sequence[Path]) -> tuple[Path, list[Path]]:
    """Finds the files of a path; hidden files are left out.

    Args:
        path: A file, a folder or a glob.
        pattern: A glob of the files in a folder.
        leave_out: Folders whose files are left out.

    Returns:
        The folder that the file names are relative to, and the files in sorted order.

    Raises:
        ConfigError: There is no such file.
    """
    root = Path(path)
    if is_file(root):
        return root.parent, [root]
    if not is_folder(root):
        parts = root.parts
        wild = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
        if wild is None:
            hint = "" if root.suffix else " or folder"
            name = " (a dataset of the Hugging Face hub needs documents.format=huggingface)" if hint else ""
            raise ConfigError(f"documents.path: no such file{hint}: {path:.200}{name}")
        root, pattern = Path(*parts[:wild]), str(Path(*parts[wild:]))
    top = root.resolve()
    left_out = {path.relative_to(top) for path in (p.resolve() for p in leave_out) if top in path.parents}
    try:
        found = [
            file
            for file in root.glob(pattern)
            if file.is_file()
            and _is_visible(place := file.relative_to(root))
            and left_out.isdisjoint(place.parents)
        ]
    except (ValueError, NotImplementedError, OSError) as error:
        raise ConfigError(
            f"documents.pattern: {pattern!r:.200} is not a pattern of files: {error}"
        ) from error
    if not found:
        raise ConfigError(f"documents.path: no file in {root} matches {pattern}")
    return root, sorted(found)


def choose_files(
    config: DocumentsConfig, leave_out: Sequence[Path], suffixes: Sequence[str]
) -> tuple[Path, list[Path]]:
    """Finds the files of a format.

    In a folder, these are the files with one of the format's suffixes, unless `documents.pattern` is set.

    Raises:
        ConfigError: There is no such file.
    """
    root, files = find_files(str(config.path), config.pattern, leave_out)
    if config.pattern != DocumentsConfig.pattern or not is_folder(str(config.path)):
        return root, files
    rows = [file for file in files if file.name.endswith(tuple(suffixes))]
    if not rows:
        raise ConfigError(f"documents.path: {config.path} holds no file that ends in {', '.join(suffixes)}")
    return root, rows


def shard_name(path: str) -> str:
    """Returns a file's path, or a similar name with a hash if the path is not a safe file name everywhere."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", path):
        return path
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:10]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path)[-80:].strip("-") + f"-{digest}"


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
