"""Embeddings that are larger than the memory they may take: in a temporary file, of which blocks are read.

The file lies where the system keeps temporary files (`$TMPDIR`), has no name, and is gone with the process.
"""

import tempfile
from collections.abc import Iterable
from typing import IO

import numpy as np
import numpy.typing as npt

from galleries.errors import FinerRankError

Rows = npt.NDArray[np.float32]

WORTH_A_FILE = 1 << 26
"""Bytes from which a part of mapped rows is mapped too."""
BLOCK = 4096


class MappedRows:
    """Rows written one block after another, then read as a `numpy.memmap`."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._n, self._dim = 0, 0

    def __bool__(self) -> bool:
        return self._n > 0

    def append(self, rows: Rows) -> None:
        """Write `[n, D]` float32.

        Raises:
            FinerRankError: there is no space.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `read`)
            self._file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
        except OSError as error:
            raise FinerRankError(
                f"{tempfile.gettempdir()}: cannot be written ({error.strerror}); free space there, name another folder "
                "by $TMPDIR, or allow more --memory"
            ) from None
        self._n, self._dim = self._n + len(rows), rows.shape[1]

    def read(self) -> Rows:
        """All that was written, `[N, D]`. Ends the writing: the file lives on in what is returned."""
        assert self._file is not None
        with self._file as file:
            file.flush()
            return np.memmap(file, dtype=np.float32, mode="r", shape=(self._n, self._dim))


def taken(rows: Rows, index: Iterable[int]) -> Rows:
    """`rows[index]`, mapped like `rows` where these are and there are many."""
    chosen = np.asarray(list(index), dtype=np.int64)
    if not isinstance(rows, np.memmap) or len(chosen) * rows.shape[1] * 4 < WORTH_A_FILE:
        return rows[chosen]
    new = MappedRows()
    for start in range(0, len(chosen), BLOCK):
        new.append(rows[chosen[start : start + BLOCK]])
    return new.read()
