"""Exact ranks against the bare matrix product, and against what others do, on made rows."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.bench.timing import Times, in_turn, peak_memory_mb
from benchmark.rank import GALLERY_BLOCK, Indices, Lists, Rows, rank_counts
from benchmark.store import EmbeddingStore
from galleries.errors import FinerRankError

BLOCK = 4096
GROWN = 4


@dataclass(frozen=True)
class Size:
    """Of what is ranked.

    Attributes:
        queries: in all.
        gallery: photos, in all.
        dim: of an embedding.
        relevant: photos of each query.
        categories: pools of equal size that are ranked apart.
        half: the gallery is of float16.
    """

    queries: int = 1000
    gallery: int = 100_000
    dim: int = 512
    relevant: int = 10
    categories: int = 1
    half: bool = False


@dataclass(frozen=True)
class _Made:
    size: Size
    queries: Rows
    gallery: Rows
    relevant: Lists
    pools: Indices
    labels: Indices
    """Identity of each photo."""

    @property
    def targets(self) -> Indices:
        """Identity that each query asks for."""
        targets: Indices = self.labels[self.relevant.flat[self.relevant.starts[:-1]]]
        return targets

    def rank(self) -> Any:
        return rank_counts(queries=self.queries, gallery=self.gallery, relevant=self.relevant, pools=self.pools)

    def products(self) -> Iterator[Rows]:
        """The bare product, block by block: of all queries of a category with some of its photos."""
        n_queries, n_photos = (n // self.size.categories for n in (self.size.queries, self.size.gallery))
        for category in range(self.size.categories):
            queries = self.queries[category * n_queries : (category + 1) * n_queries]
            first = category * n_photos
            for start in range(first, first + n_photos, GALLERY_BLOCK):
                yield queries @ self.gallery[start : min(start + GALLERY_BLOCK, first + n_photos)].T

    def all_products(self) -> None:
        for _ in self.products():
            pass


def bench_ranking(size: Size, repeats: int, *, others: bool, warn: Callable[[str], Any]) -> dict[str, Any]:
    """Exact rank counts against the bare blocked product of the same float32 rows.

    Args:
        others: also measure, once, a sort per query, by torch as in code for evaluating re-identification and by numpy,
            whose sort uses AVX-512 where there is; and torchmetrics and
            pytorch-metric-learning where they are installed.
        warn: told what is left out.

    Returns:
        Seconds (medians), ratios of times taken in turn, and memory in MB: `extra_memory_mb` is what ranking takes
        beyond the rows that it is given, in a process of its own.
    """
    made = _make(size)
    times = in_turn({"bare_product": made.all_products, "ranking": made.rank}, repeats)
    found = {**asdict(size), **_summary(times)}
    if others:
        for name, function in _others(made, warn).items():
            seconds = in_turn({name: function}, 1, is_warmed=False).median(name)
            found |= {f"{name}_s": seconds, f"speedup_over_{name}": seconds / times.median("ranking")}
    found["rows_mb"] = (made.gallery.nbytes + made.queries.nbytes) / 1e6
    found |= _in_a_process("memory", size)
    return found


def bench_mapped(size: Size, repeats: int) -> dict[str, Any]:
    """Ranking a gallery that is read from a store, in blocks, and a tenth of it, in a process of its own.

    Returns:
        Seconds, `ratio_to_a_tenth`, and the most resident memory of that process, in MB.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {**asdict(size), **_in_a_process("mapped", size, folder, str(repeats))}


def bench_growth(size: Size, repeats: int) -> dict[str, Any]:
    """How the time grows when one of the four sizes is four times as large: 4 is linear.

    Returns:
        Size's name → time of the larger divided by that of the smaller, measured in turn.
    """
    grown = {
        name: replace(size, **{name: GROWN * getattr(size, name)}) for name in ("queries", "gallery", "dim", "relevant")
    }
    made = {name: _make(of) for name, of in {"": size, **grown}.items()}
    times = in_turn({name: of.rank for name, of in made.items()}, repeats)
    return {"of": asdict(size), "times": GROWN, "growth": {name: times.ratio(name, "") for name in grown}}


def _summary(times: Times) -> dict[str, float]:
    return {
        "bare_product_s": times.median("bare_product"),
        "ranking_s": times.median("ranking"),
        "ratio_to_bare_product": times.ratio("ranking", "bare_product"),
    }


def _make(size: Size) -> _Made:
    rng = np.random.default_rng(0)
    gallery, queries = unit_rows(rng, size.gallery, size.dim), unit_rows(rng, size.queries, size.dim)
    n_queries, n_photos = size.queries // size.categories, size.gallery // size.categories
    first = np.repeat(np.arange(size.categories) * n_photos, n_queries)
    # Identities of `relevant` photos each, which lie anywhere in their category.
    n_identities = n_photos // size.relevant
    place = rng.permuted(np.tile(np.arange(n_photos), (size.categories, 1)), axis=1)
    identity = rng.integers(n_identities, size=size.queries)
    members = identity[:, None] * size.relevant + np.arange(size.relevant)
    relevant = first[:, None] + place[first[:, None] // n_photos, members]
    labels = np.empty(size.gallery, dtype=np.int64)
    labels[place + np.arange(size.categories)[:, None] * n_photos] = np.arange(n_photos) // size.relevant
    labels += np.repeat(np.arange(size.categories) * (n_identities + 1), n_photos)
    starts = np.arange(size.queries + 1) * size.relevant
    rows: Any = gallery.astype(np.float16) if size.half else gallery
    pools = np.stack([first, first + n_photos], axis=1)
    return _Made(size, queries, rows, Lists(relevant.ravel(), starts), pools, labels)


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> Rows:
    """`[n, dim]` rows of length 1 that point anywhere: the worst case, as most photos are about equally far."""
    rows = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, BLOCK):  # in blocks: a temporary copy of all rows would be the peak of memory
        block = rng.standard_normal((min(BLOCK, n - start), dim), dtype=np.float32)
        rows[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _others(made: _Made, warn: Callable[[str], Any]) -> Mapping[str, Callable[[], Any]]:
    import torch

    def by_torch(similarity: Rows) -> Indices:
        found: Indices = torch.argsort(torch.from_numpy(similarity), descending=True).numpy()
        return found

    found: dict[str, Callable[[], Any]] = {
        "argsort_loop": lambda: argsort_loop(made, by_torch),
        "numpy_argsort_loop": lambda: argsort_loop(made, lambda similarity: np.argsort(-similarity)),
    }
    if made.size.categories > 1:
        warn("left out: libraries, which rank one category at a time")
        return found
    for module, function in (
        ("torchmetrics", _torchmetrics),
        ("pytorch_metric_learning", _pytorch_metric_learning),
    ):
        if find_spec(module):
            partial(function, _make(Size(2, 4, 2, 1)))()  # so that importing it is not counted
            found[module] = partial(function, made)
        else:
            warn(f"left out: {module} is not installed; run: pip install 'finer-rank[bench]'")
    return found


def argsort_loop(made: _Made, argsort: Callable[[Rows], Indices]) -> list[float]:
    """Average precision of each query by sorting its photos, one query after another."""
    found = []
    n_queries = made.size.queries // made.size.categories
    for q in range(made.size.queries):
        pool = slice(*made.pools[q].tolist())
        if q % min(256, n_queries) == 0:
            product = made.queries[q : q + min(256, n_queries)] @ made.gallery[pool].T
        order = argsort(product[q % min(256, n_queries)])
        is_hit = made.labels[pool][order] == made.targets[q]
        precision = np.cumsum(is_hit) / np.arange(1, len(order) + 1)
        found.append(float(precision[is_hit].mean()))
    return found


def _torchmetrics(made: _Made) -> list[float]:
    """Its average precision of each query; scores are shifted, as it leaves those out that are not positive."""
    import torch
    from torchmetrics.functional.retrieval import retrieval_average_precision

    queries, gallery, labels = (torch.from_numpy(of) for of in (made.queries, made.gallery, made.labels))
    found = []
    for q, target in enumerate(made.targets.tolist()):
        if q % 256 == 0:
            product = queries[q : q + 256] @ gallery.T + 2
        found.append(float(retrieval_average_precision(product[q % 256], labels == target)))
    return found


def _pytorch_metric_learning(made: _Made) -> float:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(include=("mean_average_precision",), k=None)
    found: float = calculator.get_accuracy(made.queries, made.targets, made.gallery, made.labels)[
        "mean_average_precision"
    ]
    return found


def _in_a_process(what: str, size: Size, *arguments: str) -> dict[str, Any]:
    order = [sys.executable, "-m", "benchmark.bench.ranking", what, json.dumps(asdict(size)), *arguments]
    done = subprocess.run(order, capture_output=True, text=True)
    if done.returncode:
        raise FinerRankError(f"the process that measures memory ended with {done.returncode}: {done.stderr[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _memory(size: Size) -> dict[str, float]:
    made = _make(size)
    small = replace(size, queries=size.categories, gallery=2 * size.relevant * size.categories)
    _make(small).rank()  # what the program itself takes
    before = peak_memory_mb()
    made.rank()
    return {"extra_memory_mb": peak_memory_mb() - before, "peak_memory_mb": peak_memory_mb()}


def _mapped(size: Size, folder: str, repeats: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    store = EmbeddingStore(Path(folder), "made")
    names = [f"{i:064x}" for i in range(size.gallery)]
    for start in range(0, size.gallery, BLOCK):
        own = names[start : start + BLOCK]
        store.append(own, unit_rows(rng, len(own), size.dim))
    start_s = time.perf_counter()
    _, rows = store.read(names, memory=0)
    read_s = time.perf_counter() - start_s
    queries = unit_rows(rng, size.queries, size.dim)
    n_tenth = size.gallery // 10
    relevant = Lists.of([rng.choice(n_tenth, size.relevant, replace=False) for _ in range(size.queries)])

    def rank(n: int) -> None:
        pools = np.tile([0, n], (size.queries, 1))
        rank_counts(queries=queries, gallery=rows, relevant=relevant, pools=pools)

    def product() -> None:
        for start in range(0, size.gallery, GALLERY_BLOCK):
            queries @ np.asarray(rows[start : start + GALLERY_BLOCK]).T

    times = in_turn({"tenth": lambda: rank(n_tenth), "ranking": lambda: rank(size.gallery)}, int(repeats))
    memory = peak_memory_mb()
    bare = in_turn({"bare_product": product}, 1)  # reads the file too, and lets nothing go
    return {
        "read_from_store_s": read_s,
        "tenth_s": times.median("tenth"),
        "ranking_s": times.median("ranking"),
        "ratio_to_a_tenth": times.ratio("ranking", "tenth"),
        "bare_product_s": bare.median("bare_product"),
        "ratio_to_bare_product": times.median("ranking") / bare.median("bare_product"),
        "rows_mb": rows.nbytes / 1e6,
        "peak_memory_mb": memory,
    }


if __name__ == "__main__":
    what, of, *rest = sys.argv[1:]
    print(json.dumps((_memory if what == "memory" else _mapped)(Size(**json.loads(of)), *rest)))
