"""Rows in a temporary file are the rows in memory."""

from pathlib import Path

import numpy as np
import pytest
from handmade import Refusal

from benchmark.mapped_rows import MappedRows, taken
from benchmark.rank import pair_similarity, row_norms
from benchmark.store import EmbeddingStore


def test_a_store_whose_rows_are_more_than_memory_allows_maps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 8), dtype=np.float32)
    names = [f"{i:064x}" for i in range(50)]
    store = EmbeddingStore(tmp_path, "made")
    for start in range(0, 50, 9):
        store.append(names[start : start + 9], rows[start : start + 9])
    n_bytes = rows.nbytes
    for memory, is_mapped in ((n_bytes - 1, True), (n_bytes, False)):
        row_of, found = store.read(names, memory)
        assert isinstance(found, np.memmap) == is_mapped
        assert (found[[row_of[name] for name in names]] == rows).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


def test_what_is_taken_of_mapped_rows_is_mapped_and_compared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.mapped_rows.WORTH_A_FILE", 1)
    monkeypatch.setattr("benchmark.mapped_rows.BLOCK", 7)
    monkeypatch.setattr("benchmark.similarity.PAIR_BLOCK", 5)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, 12), dtype=np.float32)
    writing = MappedRows()
    writing.append(rows[:13])
    writing.append(rows[13:])
    mapped = writing.read()
    index = rng.permutation(40)
    chosen = taken(mapped, index.tolist())
    assert isinstance(chosen, np.memmap)
    assert (chosen == rows[index]).all()
    one, other = rng.integers(0, 40, (2, 30))
    norms = row_norms(rows)
    assert (row_norms(mapped) == norms).all()
    expected = pair_similarity(rows, rows, one, other, norms, norms)
    assert (pair_similarity(mapped, mapped, one, other, norms, norms) == expected).all()


@pytest.mark.parametrize("amount", ["much", "3", "GB", "-1GB", "1 PB"])
def test_an_amount_of_memory_that_is_none_is_refused(amount: str, refusal: Refusal) -> None:
    said = refusal("evaluate", "-g", "nowhere", "-e", "classical", f"--memory={amount}")
    assert f"--memory {amount}: names no amount" in said
