"""Exact rank counts against loops over exact numbers."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.rank import (
    Indices,
    RankCounts,
    Rows,
    counts_of_block,
    nearest,
    product_error,
    rank_counts,
    row_norms,
)
from benchmark.rank_kernels import MANY_RELEVANT

BLOCKS = (1, 3, 7, 8192)


def exact_place(query: npt.NDArray[np.float32], photo: npt.NDArray[np.float32]) -> Fraction:
    """The cosine's sign and square, times the query's squared length: in the order of the cosine, without rounding."""
    q, g = [Fraction(float(x)) for x in query], [Fraction(float(x)) for x in photo]
    dot = sum((a * b for a, b in zip(q, g, strict=True)), Fraction(0))
    return dot * abs(dot) / sum((b * b for b in g), Fraction(0))


def exact_counts(
    queries: Rows, gallery: Rows, relevant: list[Indices], excluded: list[Indices] | None = None
) -> list[tuple[list[int], list[int], int]]:
    """What `rank_counts` must find, by rational arithmetic: for each query n_higher, n_equal and n_gallery."""
    found = []
    for q, query in enumerate(queries):
        left_out = set(excluded[q].tolist()) if excluded else set()
        ranked = [i for i in range(len(gallery)) if i not in left_out]
        place = {i: exact_place(query, gallery[i]) for i in ranked}
        own = sorted((place[i] for i in relevant[q].tolist()), reverse=True)
        higher = [sum(place[i] > value for i in ranked) for value in own]
        equal = [sum(place[i] == value for i in ranked) - 1 for value in own]
        found.append((higher, equal, len(ranked)))
    return found


def as_lists(counts: Sequence[RankCounts]) -> list[tuple[list[int], list[int], int]]:
    return [(c.n_higher.tolist(), c.n_equal.tolist(), c.n_gallery) for c in counts]


def as_bytes(counts: Sequence[RankCounts]) -> list[bytes]:
    return [b"".join(np.asarray(part).tobytes() for part in astuple(c)) for c in counts]


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def gallery_with_near_ties(rng: np.random.Generator, dim: int = 16) -> Rows:
    """Rows, copies of some of them, and copies of which one number differs in its last bit."""
    rows = unit_rows(rng, 20, dim)
    nudged = rows[:10].copy()
    nudged[np.arange(10), rng.integers(0, dim, 10)] *= np.float32(1 + 2**-23)
    return np.concatenate([rows, rows[5:12], nudged, rows[5:8]])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("gallery_block", "device"), [*((block, "cpu") for block in BLOCKS), (7, "cpu:0")])
def test_counts_are_exact_among_duplicates_and_near_ties(seed: int, gallery_block: int, device: str) -> None:
    rng = np.random.default_rng(seed)
    gallery = gallery_with_near_ties(rng)
    # Photos 12 to 19 have no nudged copy: a cosine of 1 - 1e-17 is beyond float64, in which ranks are defined.
    queries = np.concatenate([unit_rows(rng, 2, 16), gallery[[12, 17]]])
    relevant = [rng.choice(len(gallery), n, replace=False) for n in (1, 5, 12, 3)]
    excluded = [np.setdiff1d(rng.choice(len(gallery), 6), own) for own in relevant]
    found = rank_counts(
        queries=queries,
        gallery=gallery,
        relevant=relevant,
        excluded=excluded,
        gallery_block=gallery_block,
        device=device,  # "cpu:0": by torch, as on a GPU
    )
    assert as_lists(found) == exact_counts(queries, gallery, relevant, excluded)


def test_a_difference_that_a_float32_product_cannot_see_still_orders_two_photos() -> None:
    query = np.array([[0.6, 0.8]], dtype=np.float32)
    nearly = np.float32(0.8) * np.float32(1 + 2**-23)
    gallery = np.array([[0.6, 0.8], [0.6, nearly]], dtype=np.float32)
    product = query @ gallery.T
    assert product[0, 0] >= product[0, 1] - 6e-8  # the gap lies within its rounding
    (found,) = rank_counts(queries=query, gallery=gallery, relevant=[np.array([1])])
    assert found.n_higher.tolist() == [1]
    assert found.n_equal.tolist() == [0]
    assert 1 - 1e-7 < found.similarity[0] <= 1


@pytest.mark.parametrize("n_relevant", [MANY_RELEVANT, MANY_RELEVANT + 1, 100])
def test_counts_are_exact_for_few_and_for_many_relevant_photos(n_relevant: int) -> None:
    rng = np.random.default_rng(n_relevant)
    gallery = np.concatenate([gallery_with_near_ties(rng, 6) for _ in range(3)])
    queries = unit_rows(rng, 2, 6)
    relevant = [rng.choice(len(gallery), n_relevant, replace=False) for _ in queries]
    excluded = [np.setdiff1d(np.arange(0, len(gallery), 9), own) for own in relevant]
    found = rank_counts(queries=queries, gallery=gallery, relevant=relevant, excluded=excluded)
    assert as_lists(found) == exact_counts(queries, gallery, relevant, excluded)


small_rows = st.lists(
    st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4), min_size=2, max_size=12
)  # of one length, so that rational and float64 cosines tie alike


@given(small_rows, st.data())
@settings(max_examples=60, deadline=None)
def test_counts_are_exact_where_most_photos_tie(rows: list[list[float]], data: st.DataObject) -> None:
    gallery = np.array(rows, dtype=np.float32)
    everyone = list(range(len(gallery)))
    own = data.draw(st.lists(st.sampled_from(everyone), min_size=1, unique=True))
    left_out = data.draw(st.lists(st.sampled_from(everyone), unique=True).map(lambda of: sorted(set(of) - set(own))))
    arguments = (gallery[:1], gallery, [np.array(own)], [np.array(left_out, dtype=np.int64)])
    found = rank_counts(
        queries=arguments[0], gallery=gallery, relevant=arguments[2], excluded=arguments[3], gallery_block=3
    )
    assert as_lists(found) == exact_counts(*arguments)


@given(st.integers(0, 10_000), st.sampled_from(BLOCKS), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_neither_the_order_of_photos_nor_the_block_moves_a_single_bit(seed: int, block: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    gallery = gallery_with_near_ties(rng, dim)
    queries = np.concatenate([unit_rows(rng, 3, dim), gallery[:1]])
    relevant = [rng.choice(len(gallery), 4, replace=False) for _ in queries]
    shuffle = rng.permutation(len(gallery))
    place = np.argsort(shuffle)
    plain = rank_counts(queries=queries, gallery=gallery, relevant=relevant)
    shuffled = rank_counts(
        queries=queries, gallery=gallery[shuffle], relevant=[place[own] for own in relevant], gallery_block=block
    )
    assert as_bytes(plain) == as_bytes(shuffled)


def test_a_query_is_counted_the_same_alone_and_among_others() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = unit_rows(rng, 300, 33), unit_rows(rng, 270, 33)
    relevant = [rng.choice(300, 3, replace=False) for _ in queries]
    together = as_bytes(rank_counts(queries=queries, gallery=gallery, relevant=relevant))
    for q in (0, 255, 256, 269):
        alone = rank_counts(queries=queries[q : q + 1], gallery=gallery, relevant=[relevant[q]])
        assert as_bytes(alone) == [together[q]]


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 64, 511])
def test_copies_of_a_photo_always_tie(dim: int) -> None:
    rng = np.random.default_rng(dim)
    photos = unit_rows(rng, 30, dim)
    gallery = np.repeat(photos, 4, axis=0)
    found = rank_counts(queries=unit_rows(rng, 5, dim), gallery=gallery, relevant=[np.array([8, 9, 10, 11])] * 5)
    for counts in found:
        assert len(set(counts.similarity.tolist())) == 1
        assert (counts.n_equal >= 3).all()
        assert (counts.n_higher == counts.n_higher[0]).all()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e38])
def test_rows_of_any_length_are_ranked_by_their_direction(scale: float) -> None:
    directions = np.array([[1, 0], [1, 1], [0, 1], [-1, 1]])
    gallery = (directions * scale).astype(np.float32)
    (found,) = rank_counts(queries=gallery[:1], gallery=gallery, relevant=[np.array([1, 2])])
    assert found.n_higher.tolist() == [1, 2]
    assert found.n_equal.tolist() == [0, 0]


@pytest.mark.parametrize("dim", [1, 7, 128, 768])
def test_the_filters_error_band_holds_for_every_pair(dim: int) -> None:
    rng = np.random.default_rng(dim)
    # All of one sign: rounding errors add up instead of cancelling.
    a, b = np.abs(unit_rows(rng, 200, dim)), np.abs(unit_rows(rng, 200, dim))
    exact = (a.astype(np.float64) @ b.T.astype(np.float64)) / np.outer(row_norms(a), row_norms(b))
    assert np.abs((a @ b.T) - exact).max() < product_error(dim)
    assert product_error(dim) < 1e-4


def made_ranking(seed: int, n_pools: int) -> dict[str, Any]:
    """Queries that are ranked in pools of 1 to 40 photos, with many near ties, in any order."""
    rng = np.random.default_rng(seed)
    dim = int(rng.choice([3, 8, 33, 64]))
    sizes = rng.integers(1, 40, n_pools)
    first = np.cumsum(sizes) - sizes
    gallery = unit_rows(rng, int(sizes.sum()), dim)
    gallery[rng.integers(0, len(gallery), len(gallery) // 2)] = gallery[rng.integers(0, len(gallery))]
    gallery[::3, 0] *= np.float32(1 + 2**-23)
    of = rng.integers(0, n_pools, 30)
    relevant = [first[p] + rng.choice(sizes[p], rng.integers(1, sizes[p] + 1), replace=False) for p in of]
    left_out = [np.setdiff1d(first[p] + rng.integers(0, sizes[p], 3), own) for p, own in zip(of, relevant, strict=True)]
    queries = np.concatenate([unit_rows(rng, 20, dim), gallery[rng.integers(0, len(gallery), 10)]])
    pools = np.stack([first[of], first[of] + sizes[of]], axis=1)
    return {"queries": queries, "gallery": gallery, "relevant": relevant, "excluded": left_out, "pools": pools}


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([1, 20, 8192]), st.sampled_from(["cpu", "cpu:0"]))
@settings(max_examples=60, deadline=None)
def test_pools_ranked_together_are_ranked_as_each_alone(seed: int, n_pools: int, block: int, device: str) -> None:
    made = made_ranking(seed, n_pools)
    found = rank_counts(**made, gallery_block=block, device=device)
    near = nearest(**{key: made[key] for key in ("queries", "gallery", "excluded", "pools")}, k=4, gallery_block=block)
    for q, (start, end) in enumerate(made["pools"].tolist()):
        alone = {"queries": made["queries"][q : q + 1], "gallery": made["gallery"][start:end]}
        left_out = [made["excluded"][q] - start]
        (counts,) = rank_counts(**alone, relevant=[made["relevant"][q] - start], excluded=left_out)
        assert as_bytes([found[q]]) == as_bytes([counts])
        ((rows, similarity),) = nearest(**alone, k=4, excluded=left_out)
        assert (near[q][0].tolist(), near[q][1].tolist()) == ((rows + start).tolist(), similarity.tolist())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gallery_on_disk_is_ranked_as_in_memory(tmp_path: Path, dtype: type) -> None:
    made = made_ranking(5, 9)
    made["gallery"].astype(dtype).tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype=dtype, mode="r", shape=made["gallery"].shape)
    in_memory = made | {"gallery": np.asarray(mapped).astype(np.float32)}
    for block in (3, 8192):
        found = rank_counts(**{**made, "gallery": mapped}, gallery_block=block)
        assert as_bytes(found) == as_bytes(rank_counts(**in_memory))


def test_counts_of_a_gallerys_parts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    gallery, queries = gallery_with_near_ties(rng), unit_rows(rng, 6, 16)
    relevant = [rng.choice(len(gallery), 5, replace=False) for _ in queries]
    whole = rank_counts(queries=queries, gallery=gallery, relevant=relevant)
    starts = np.arange(0, 31, 5)
    similarity = np.concatenate([counts.similarity for counts in whole])
    parts = [counts_of_block(queries, starts, similarity, part) for part in (gallery[:7], gallery[7:8], gallery[8:])]
    higher, equal = (np.sum(of, axis=0) for of in zip(*parts, strict=True))
    assert higher.tolist() == np.concatenate([counts.n_higher for counts in whole]).tolist()
    assert (equal - 1).tolist() == np.concatenate([counts.n_equal for counts in whole]).tolist()


SCRIPT = """
import hashlib
import numpy as np
from benchmark.rank import rank_counts
from benchmark.rank_kernels import MANY_RELEVANT
rng = np.random.default_rng(1)
gallery = rng.standard_normal((4000, 96), dtype=np.float32)
gallery[2000:] = gallery[:2000]
gallery[3000:, 0] *= np.float32(1 + 2**-23)
relevant = [rng.choice(4000, 1 + q % 80, replace=False) for q in range(300)]
digest = hashlib.sha256()
for c in rank_counts(queries=gallery[:300] + np.float32(0.1), gallery=gallery, relevant=relevant):
    digest.update(c.similarity.tobytes() + c.n_higher.tobytes() + c.n_equal.tobytes())
print(digest.hexdigest())
"""


def test_the_number_of_threads_moves_not_a_single_bit() -> None:
    digests = set()
    for n_threads in "1", "2":
        environment = os.environ | {"OPENBLAS_NUM_THREADS": n_threads, "OMP_NUM_THREADS": n_threads}
        run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 2 * hashlib.sha256().digest_size


def test_a_query_without_a_relevant_photo_is_refused() -> None:
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="no relevant photo"):
        rank_counts(queries=rows[:1], gallery=rows, relevant=[np.array([], dtype=np.int64)])


def test_shapes_that_do_not_fit_are_refused() -> None:
    rows = np.eye(3, dtype=np.float32)
    own = [np.array([0])]
    with pytest.raises(ValueError, match=r"\[Q, D\]"):
        rank_counts(queries=rows[:1, :2], gallery=rows, relevant=own)
    with pytest.raises(ValueError, match="entry per query"):
        rank_counts(queries=rows[:2], gallery=rows, relevant=own)
    with pytest.raises(ValueError, match="entry per query"):
        rank_counts(queries=rows[:1], gallery=rows, relevant=own, excluded=[*own, *own])
