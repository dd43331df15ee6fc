"""Reads and writes `.npy` arrays that may be larger than memory."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class ArrayWriter:
    """Writes a one-dimensional `.npy` file piece by piece.

    The header is written last, so that the file of a killed writer is not mistaken for a shorter array.

    Args:
        path: The file; it is overwritten.
        dtype: Type of the elements.
    """

    def __init__(self, path: Path, dtype: DTypeLike):
        self.dtype = np.dtype(dtype)
        self.size = 0
        self._file = path.open("wb")
        self._file.write(bytes(len(_header(self.dtype, 0))))

    def append(self, values: ArrayLike) -> None:
        """Appends values.

        Raises:
            OverflowError: An integer does not fit the type.
        """
        given = np.asarray(values)
        array = given.astype(self.dtype, copy=False)
        if given.dtype.kind in "iu" and not np.array_equal(array, given):
            raise OverflowError(f"{self._file.name}: a value does not fit {self.dtype}")
        self._file.write(array.tobytes())
        self.size += array.size

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.seek(0)
            self._file.write(_header(self.dtype, self.size))
        self._file.close()


def open_array(path: Path) -> NDArray[Any]:
    """Opens the array in a `.npy` file, read-only and memory-mapped."""
    # A plain view of the map is faster to slice, because np.memmap is a subclass of the array.
    return np.asarray(np.load(path, mmap_mode="r"))


def _header(dtype: np.dtype[Any], size: int) -> bytes:
    # numpy pads the header for larger sizes, so that its length does not depend on the size.
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    )
    return header.getvalue()
