"""Embeddings on disk: the only cache. Each image is embedded once by each embedder.

Key: (SHA-256 of the image file's bytes, fingerprint of the embedder). Of a region of a picture, `Treatment.key` stands
for the former: it names the mask's bytes too. Layout:

    store/<fingerprint>/<SHA-256 of the shard's bytes>.parquet      columns: digest, embedding

Shards are never changed. Each is written under a temporary name and moved into place, so that a kill loses at
most the shard in flight, and several processes may write at once. The name proves the content: a damaged shard
is reported, set aside as `*.damaged`, and its images are embedded again.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from galleries.errors import FinerRankError

Rows = npt.NDArray[np.float32]

ENVIRONMENT_VARIABLE = "FINER_RANK_STORE"


def default_store() -> Path:
    """`$FINER_RANK_STORE`, else this user's cache folder."""
    import platformdirs

    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given) if given else platformdirs.user_cache_path("finer-rank") / "embeddings"


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


class EmbeddingStore:
    """The embeddings of one embedder.

    Args:
        root: the store's folder.
        fingerprint: of the embedder.
        warn: told of damaged shards, one line each.
    """

    def __init__(self, root: Path, fingerprint: str, warn: Callable[[str], None] = print_to_stderr) -> None:
        self.folder = root / fingerprint
        self._warn = warn

    def read(self, digests: Iterable[str]) -> tuple[Mapping[str, int], Rows]:
        """Those of the wanted embeddings that the store holds: digest → row, and the rows `[N, D]` float32."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = set(digests)
        row_of: dict[str, int] = {}
        blocks: list[Rows] = []
        if not self.folder.is_dir():
            return row_of, np.zeros((0, 0), dtype=np.float32)
        for shard in sorted(self.folder.glob("*.parquet")):
            try:
                content = shard.read_bytes()
            except FileNotFoundError:  # another process set it aside
                continue
            if hashlib.sha256(content).hexdigest() != shard.stem:
                self._set_aside(shard)
                continue
            table = pq.ParquetFile(pa.BufferReader(content)).read()  # read_table would import pandas
            ids = table.column("digest").to_pylist()
            chosen = [i for i, digest in enumerate(ids) if digest in wanted and digest not in row_of]
            if not chosen:
                continue
            values = table.column("embedding").combine_chunks().flatten()
            # Not to_numpy(), which imports pandas.
            rows = np.frombuffer(values.buffers()[1], np.float32, len(values), 4 * values.offset).reshape(len(ids), -1)
            first = len(row_of)
            row_of.update({ids[i]: first + n for n, i in enumerate(chosen)})
            blocks.append(rows[chosen])
        if not blocks:
            return row_of, np.zeros((0, 0), dtype=np.float32)
        return row_of, blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def append(self, digests: Sequence[str], rows: Rows) -> None:
        """Add embeddings `[N, D]` float32 as one new shard.

        Raises:
            FinerRankError: the folder cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not digests:
            return
        order = np.argsort(np.array(digests))
        values = np.ascontiguousarray(rows[order], dtype=np.float32)
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = pa.table({"digest": [digests[i] for i in order], "embedding": embeddings})
        sink = pa.BufferOutputStream()
        # Random float mantissas do not compress: spending time on them, or on a dictionary, gains nothing.
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        content = sink.getvalue().to_pybytes()
        target = self.folder / f"{hashlib.sha256(content).hexdigest()}.parquet"
        partial = self.folder / f".{target.name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise FinerRankError(
                f"{self.folder}: cannot be written ({error.strerror}); free space there, or name another --store"
            ) from None

    def _set_aside(self, shard: Path) -> None:
        aside = shard.with_suffix(".damaged")
        try:
            shard.replace(aside)
        except FileNotFoundError:  # another reader was faster
            return
        except OSError as error:
            raise FinerRankError(f"{shard}: damaged, and cannot be set aside ({error.strerror}); remove it") from None
        self._warn(f"{shard.name}: damaged shard of the embedding store, set aside; its images are embedded again")
