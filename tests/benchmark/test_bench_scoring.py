"""`finer-rank bench board`, the scoring: what is counted is what the board holds."""

import pytest
from handmade import Refusal

from benchmark.bench.scoring import TARGETS, DrawnBoard, bench_scoring
from galleries.critters.drawn_gallery import Plan
from galleries.errors import FinerRankError

SMALL = Plan(n_species=1, n_identities=3, n_photos=2, n_references=1, size_px=64)


def test_each_image_is_embedded_once_an_added_run_costs_its_own_and_scoring_again_nothing() -> None:
    found = bench_scoring(DrawnBoard(n_runs=2, gallery=SMALL, n_images=2), ["classical", "critter-reid"], repeats=1)
    assert found["embedders"] == ["classical", "critter-reid"]
    assert found["gallery_photos_and_references"] == 3 * (2 + 1)
    assert found["images_per_run"] == 3 * 2
    assert found["distinct_images"] == 9 + 2 * 6
    assert found["distinct_images_of_added_run"] == 6
    assert found["forward_passes"] == 2 * (9 + 2 * 6)
    assert found["forward_passes_of_added_run"] == 2 * 6
    assert found["forward_passes_of_rescoring"] == 0
    assert found["passes_per_distinct_image"] == found["passes_per_distinct_image_of_added_run"] == 1
    assert found["rescoring_cpu_s"] > 0
    assert 0 < found["rescoring_s"] <= found["rescoring_max_s"]
    assert found.keys() > TARGETS.keys()


def test_the_default_board_is_of_the_size_of_the_papers() -> None:
    board = DrawnBoard()
    assert (board.n_runs, board.images_per_run, board.total) == (7, 150, 300 + 8 * 150)
    assert board.gallery.n_photos == board.gallery.n_references


def test_what_cannot_be_scored_is_refused_before_anything_is_drawn(refusal: Refusal) -> None:
    assert "nonesuch: no such embedder" in refusal("bench", "board", "--only", "scoring", "-e", "nonesuch")
    assert "write site, scoring" in refusal("bench", "board", "--only", "speed")
    assert "--embedder" in refusal("bench", "board", "--only", "site", "-e", "classical")


def test_an_embedder_that_fails_is_named_with_the_reason() -> None:
    with pytest.raises(FinerRankError, match="cannot be scored: classical:other: has one model"):
        bench_scoring(DrawnBoard(1, SMALL, 1), ["classical:other"])
