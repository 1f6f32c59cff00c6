"""Embeddings on disk: the only cache. Each image is embedded once by each embedder.

Key: (SHA-256 of the image file's bytes, fingerprint of the embedder). Of a region of a picture, `Treatment.key` stands
for the former: it names the mask's bytes too. Layout, in a folder or under the URL of an object store:

    store/<fingerprint>/<SHA-256 of the shard's bytes>.parquet      columns: digest, embedding
    store/<fingerprint>/<SHA-256 of the shard's bytes>.digests      of a long one: SHA-256 of the rest, and digests

Shards are never changed. Each is written under a temporary name and moved into place, or put as a whole into an object
store, so that a kill loses at most the shard in flight, and several processes and machines may write at once. The name
proves the content: a damaged shard is reported when something is wanted of it, set aside as `*.damaged`, and its images
are embedded again. Nothing is made of a shard's bytes before they are proven. A long shard's list of digests, proven by
itself, says whether anything is wanted of it; where the list is missing or damaged, the shard is read.
"""

import contextlib
import hashlib
import math
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.mapped_rows import MappedRows
from benchmark.shard_folders import SUFFIX, Root, as_root, shard_folder
from galleries.errors import FinerRankError
from galleries.images import in_threads, n_decoding_threads

__all__ = ["EmbeddingStore", "Root", "default_store", "memo_folder", "print_to_stderr", "store_at"]

Rows = npt.NDArray[np.float32]

ENVIRONMENT_VARIABLE = "FINER_RANK_STORE"

READ_AT_ONCE = 1 << 18
"""Bytes of a shard up to which all of it is read at once; of a longer one first the list of digests, by which it may
be passed over."""
_RANGES: dict[str, tuple[str, str]] = {}
"""Shard → its first and last digest, of all that this process has looked at: shards never change. Workers that embed a
sorted list part by part pass over one another's by them."""
MANY_SMALL = 1000
"""Above so many shards of that size in a folder, they are merged: opening each costs more than reading it."""
MERGED_ROWS = 4096


def default_store() -> Root:
    """`$FINER_RANK_STORE`, else this user's cache folder.

    Raises:
        FinerRankError: the variable names no usable store.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return as_root(given) if given else _cache_folder()


def store_at(given: Root | None) -> Root:
    """The store that was asked for, else the default one.

    Raises:
        FinerRankError: the option or the variable names no usable store.
    """
    return as_root(str(given)) if given else default_store()


def memo_folder(root: Root) -> Path:
    """Where this machine keeps what it knows of its own files for a store: beside the shards, if these are its own."""
    return root if isinstance(root, Path) else _cache_folder()


def _cache_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("finer-rank") / "embeddings"


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


class EmbeddingStore:
    """The embeddings of one embedder.

    Args:
        root: the store's folder or URL.
        fingerprint: of the embedder.
        warn: told of damaged shards, one line each.
    """

    def __init__(self, root: Root, fingerprint: str, warn: Callable[[str], None] = print_to_stderr) -> None:
        self._folder = shard_folder(root, fingerprint)
        self._warn = warn

    def read(self, digests: Iterable[str], memory: float = math.inf) -> tuple[Mapping[str, int], Rows]:
        """Those of the wanted embeddings that the store holds: digest → row, and the rows `[N, D]` float32.

        Args:
            memory: bytes above which the rows are a `numpy.memmap` of a temporary file.

        Raises:
            FinerRankError: the store cannot be reached, or a damaged shard cannot be set aside.
        """
        wanted = set(digests)
        row_of: dict[str, int] = {}
        rows = _NO_ROWS
        mapped = MappedRows()
        for ids, found in self._shards(wanted):
            new = [i for i, digest in enumerate(ids) if digest not in row_of]
            is_mapped = len(wanted) * found.shape[1] * found.itemsize > memory
            if not row_of and new and not is_mapped:
                # As many as there can be: what is never written takes no memory, and nothing is copied in the end.
                rows = np.empty((len(wanted), found.shape[1]), dtype=np.float32)
            first = len(row_of)
            chosen = found if len(new) == len(ids) else found[new]
            if is_mapped:
                mapped.append(chosen)
            else:
                rows[first : first + len(new)] = chosen
            row_of.update({ids[i]: first + n for n, i in enumerate(new)})
        small = [name for name, size in self._folder.sizes().items() if size <= READ_AT_ONCE] if wanted else []
        if len(small) > MANY_SMALL:
            at_once = 4 * MANY_SMALL  # less than 1 GB
            for i in range(0, len(small), at_once):
                self._merge(small[i : i + at_once])
        return row_of, mapped.read() if mapped else rows[: len(row_of)]

    def held(self, digests: Iterable[str]) -> set[str]:
        """Those of the wanted that have an embedding in the store, for all that it says: nothing is verified here.

        Raises:
            FinerRankError: the store cannot be reached.
        """
        wanted = set(digests)
        in_order = sorted(wanted)
        names = self._folder.sizes() if wanted else ()

        def digests_of(name: str) -> list[str]:
            ids = self._digests(name, in_order)
            if ids is not None:
                return ids
            with contextlib.suppress(FileNotFoundError):
                content = self._folder.read(name)
                if _sha256(content) == name.removesuffix(SUFFIX):
                    return _chosen(content, wanted)[0]
            return []

        of_shards = in_threads(digests_of, names, _LOOK_AHEAD)
        return {digest for ids in of_shards for digest in ids if digest in wanted}

    def append(self, digests: Sequence[str], rows: Rows) -> str:
        """Add embeddings `[N, D]` float32 as one new shard, and return its name; of no rows "".

        Raises:
            FinerRankError: the store cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not digests:
            return ""
        order = np.argsort(np.array(digests))
        values = np.ascontiguousarray(rows[order], dtype=np.float32)
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = pa.table({"digest": [digests[i] for i in order], "embedding": embeddings})
        sink = pa.BufferOutputStream()
        # Random float mantissas do not compress: spending time on them, or on a dictionary, gains nothing.
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        content = sink.getvalue()
        name = f"{_sha256(content)}{SUFFIX}"
        self._folder.write(name, content)
        if len(content) > READ_AT_ONCE:
            listed = "\n".join(digests[i] for i in order).encode()
            self._folder.write(_list_of(name), _sha256(listed).encode() + b"\n" + listed)
        return name

    def _shards(self, wanted: set[str]) -> Iterator[tuple[list[str], Rows]]:
        """Of each shard that holds any of the wanted: their digests, and their rows `[n, D]`."""

        in_order = sorted(wanted)

        def wanted_of(name: str) -> tuple[list[str], Rows] | str:
            if name in _RANGES and not _are_any_between(in_order, *_RANGES[name]):
                return [], _NO_ROWS
            if sizes[name] > READ_AT_ONCE:
                ids = self._digests(name, in_order)
                if ids is not None and wanted.isdisjoint(ids):
                    return [], _NO_ROWS
            try:
                content = self._folder.read(name)
            except FileNotFoundError:
                return GONE
            return _chosen(content, wanted) if _sha256(content) == name.removesuffix(SUFFIX) else DAMAGED

        seen: set[str] = set()
        # Until nothing is new: what another process merged meanwhile is in a shard that was not listed yet, and what it
        # removed while a folder was listed may not have been listed either.
        while wanted and (sizes := {name: size for name, size in self._folder.sizes().items() if name not in seen}):
            seen.update(sizes)
            for name, found in zip(sizes, in_threads(wanted_of, sizes, _LOOK_AHEAD), strict=True):
                if found == DAMAGED:
                    self._set_aside(name)
                elif not isinstance(found, str) and found[0]:
                    yield found

    def _merge(self, names: Sequence[str]) -> None:
        """Put what lies in many small shards into few; these are there before those go, whoever else does the same."""
        row_of: dict[str, Rows] = {}
        merged = []
        for name in names:
            try:
                content = self._folder.read(name)
            except FileNotFoundError:
                continue
            if _sha256(content) == name.removesuffix(SUFFIX):
                ids, rows = _chosen(content, None)
                for digest, row in zip(ids, rows, strict=True):
                    row_of.setdefault(digest, row)
                merged.append(name)
        with contextlib.suppress(FinerRankError):  # a store that may only be read is as good as before
            ids = sorted(row_of)
            parts = [ids[i : i + MERGED_ROWS] for i in range(0, len(ids), MERGED_ROWS)]
            new = {self.append(part, np.stack([row_of[digest] for digest in part])) for part in parts}
            for name in merged:
                if name not in new:
                    self._folder.remove(name)

    def _digests(self, name: str, wanted: Sequence[str]) -> list[str] | None:
        """The digests in a shard, none if the wanted ones, in order, lie outside; None where its list is not there."""
        try:
            check, _, listed = self._folder.read(_list_of(name)).partition(b"\n")
        except FileNotFoundError:
            return None
        if _sha256(listed).encode() != check:
            return None
        ids = listed.decode().split("\n")
        _RANGES[name] = ids[0], ids[-1]
        return ids if _are_any_between(wanted, *_RANGES[name]) else []

    def _set_aside(self, name: str) -> None:
        if self._folder.rename(name, name.removesuffix(SUFFIX) + ".damaged"):  # else another reader was faster
            self._folder.remove(_list_of(name))
            self._warn(f"{name}: damaged shard of the embedding store, set aside; its images are embedded again")


_LOOK_AHEAD = n_decoding_threads() + 1
_NO_ROWS = np.zeros((0, 0), dtype=np.float32)
GONE, DAMAGED = "gone", "damaged"


def _are_any_between(in_order: Sequence[str], first: str, last: str) -> bool:
    """Whether any of the strings, which are in ascending order, lies between two, these included."""
    at = bisect_left(in_order, first)
    return at < len(in_order) and in_order[at] <= last


def _list_of(name: str) -> str:
    return name.removesuffix(SUFFIX) + ".digests"


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _chosen(content: Any, wanted: set[str] | None) -> tuple[list[str], Rows]:
    """The wanted digests among those in a shard's bytes, and their rows; all of them where None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(content)).read()  # read_table would import pandas
    ids = table.column("digest").to_pylist()
    chosen = [i for i, digest in enumerate(ids) if wanted is None or digest in wanted]
    if not chosen:
        return [], _NO_ROWS
    values = table.column("embedding").combine_chunks().flatten()
    # Not to_numpy(), which imports pandas.
    rows = np.frombuffer(values.buffers()[1], np.float32, len(values), 4 * values.offset).reshape(len(ids), -1)
    return (ids, rows) if len(chosen) == len(ids) else ([ids[i] for i in chosen], rows[chosen])
