"""Speed of the embedding store, as ratios to the bare writing and reading of the same bytes."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.bench.timing import in_turn, peak_memory_mb
from benchmark.embed_loop import SHARD_IMAGES
from benchmark.store import EmbeddingStore

SMALL_ROWS = 10
"""Of a small shard: what evaluations leave that find little to embed."""
SUBSET = 100
"""One row of so many is wanted where few are."""


def bench_store(n_rows: int, dim: int, n_small: int, repeats: int) -> dict[str, Any]:
    """Append and read made embeddings in a temporary folder, in turn with files of the same bytes.

    Args:
        n_small: shards of `SMALL_ROWS` rows in another store.

    Returns:
        Seconds (medians), rates, ratios to the bare writing or reading of the same files, and peak memory of the
        process in megabytes beside that of the rows. The system's cache holds the files: the disk is written, not read.
    """
    rng = np.random.default_rng(0)
    n_made = max(n_rows, n_small * SMALL_ROWS)
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n_made)]
    rows = rng.standard_normal((n_made, dim), dtype=np.float32)
    few = digests[:n_rows:SUBSET]
    sizes = {"large": (n_rows, SHARD_IMAGES), "small": (n_small * SMALL_ROWS, SMALL_ROWS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = {size: EmbeddingStore(folder, size) for size in sizes}
        for size, (n, of_shard) in sizes.items():
            for start in range(0, n, of_shard):
                end = min(start + of_shard, n)
                stores[size].append(digests[start:end], rows[start:end])
        shards = {size: sorted((folder / size).glob("*.parquet")) for size in sizes}
        contents = [shard.read_bytes() for shard in shards["large"]]
        n_bytes = sum(map(len, contents))

        def append() -> None:
            for start in range(0, n_rows, SHARD_IMAGES):
                end = min(start + SHARD_IMAGES, n_rows)
                stores["large"].append(digests[start:end], rows[start:end])

        def write() -> None:
            for i, content in enumerate(contents):
                with (folder / f"bare {i}").open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())

        written = in_turn({"append": append, "write": write}, repeats)
        contents.clear()
        before_mb = peak_memory_mb()
        times = in_turn(
            {
                "read": lambda: stores["large"].read(digests[:n_rows]),
                "bare read": lambda: [shard.read_bytes() for shard in shards["large"]],
                "one": lambda: stores["large"].read(digests[:1]),
                "few": lambda: stores["large"].read(few),
                "none": lambda: stores["large"].read(["unknown"]),
                "small": lambda: stores["small"].read(digests[: n_small * SMALL_ROWS]),
                "bare small": lambda: [shard.read_bytes() for shard in shards["small"]],
            },
            repeats,
        )
    mb = n_bytes / 1e6
    return {
        "rows": n_rows,
        "dim": dim,
        "shards": len(shards["large"]),
        "mb": mb,
        "append_mb_per_s": mb / written.median("append"),
        "ratio_append_to_bare_write": written.ratio("append", "write"),
        "read_mb_per_s": mb / times.median("read"),
        "ratio_read_to_bare_read": times.ratio("read", "bare read"),
        "read_one_s": times.median("one"),
        "read_few_rows": len(few),
        "read_few_s": times.median("few"),
        "read_none_s": times.median("none"),
        "small_shards": len(shards["small"]),
        "small_shard_read_ms": 1e3 * times.median("small") / len(shards["small"]),
        "ratio_small_to_bare_read": times.ratio("small", "bare small"),
        "rows_mb": n_rows * dim * 4 / 1e6,
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_before_reading_mb": before_mb,
    }
