"""How the score depends on the number of identities and of their photos, against scikit-learn, whatever the order."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from animals import write_run, write_zoo
from pytest import approx
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmark.ablation import Ablation, Cell, RunRows, Sampler, ablate, choose_by_k_means
from benchmark.ablation_commands import default_grid, parse_grid
from benchmark.scores import chance_average_precision
from galleries.errors import FinerRankError
from galleries.gallery import Gallery, Photo
from personalization_runs.run import GeneratedImage, Query, Run

Rows = npt.NDArray[np.float32]
NO_GRIDS = ["", "5", "5x", "x3", "5x3,", "0x3", "5x0", "-1x2", "5x3x2", "5*3", "five x 3", "5.0x3", "٣x3"]
GRID = [Cell(2, 2), Cell(3, 2), Cell(4, 2), Cell(3, 1), Cell(3, 4)]


def unit(rows: npt.NDArray[Any]) -> Rows:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made(category: str, n_identities: int, n_photos: int, split: str = "gallery", n_references: int = 0) -> list[Photo]:
    """Photos of so many identities of a category; references besides."""
    kind = "stray" if split == "distractor" else "own"
    return [
        Photo(f"{category}/{kind}{i}/{n}.png", category, f"{category} {kind} {i}", "reference" if n < 0 else split)
        for i in range(n_identities)
        for n in range(-n_references, n_photos)
    ]


def embedded(photos: Sequence[Photo], likeness: float = 1.0, dim: int = 12) -> Rows:
    """Rows that are part their identity's and part their own; each depends on the photo's names alone."""

    def of(name: str) -> npt.NDArray[Any]:
        return np.random.default_rng(list(name.encode())).normal(size=dim)

    return unit(np.array([likeness * of(photo.identity) + of(photo.file_name) for photo in photos]))


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    """Four cats with references, three dogs without, and stray dogs who are not asked for."""
    return [*made("cat", 4, 5, n_references=1), *made("dog", 3, 6), *made("dog", 4, 4, split="distractor")]


def names(photos: Sequence[Photo], positions: Sequence[int]) -> list[str]:
    return [photos[i].file_name for i in positions]


# ---- scores


def test_each_draw_scores_what_scikit_learn_says_of_the_photos_it_chose(photos: list[Photo]) -> None:
    rows = embedded(photos)
    sampler = Sampler(photos, seed=3)
    found = ablate(photos, rows, sampler, GRID, n_draws=3)
    assert [of.cell for of in found.cells] == GRID
    assert not found.left_out
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    for of in found.cells:
        for number, draw in enumerate(of.draws):
            drawn = sampler.draw(of.cell, number)
            precision: dict[str, list[float]] = {"cat": [], "dog": []}
            auc: dict[str, list[float]] = {"cat": [], "dog": []}
            n_queries = 0
            for identity, left in drawn.left_over.items():
                category = identity[:3]
                pool = [i for who, own in drawn.chosen.items() if who[:3] == category for i in own]
                shown = [photos[i].identity == identity for i in pool]
                precision[category].append(fmean(average_precision_score(shown, cosine[q, pool]) for q in left))
                auc[category].append(fmean(roc_auc_score(shown, cosine[q, pool]) for q in left))
                n_queries += len(left)
            assert draw.mean_average_precision == approx(fmean(map(fmean, precision.values())), abs=1e-12)
            assert draw.auc == approx(fmean(map(fmean, auc.values())), abs=1e-12)
            n, m = of.cell.n_identities, of.cell.n_photos
            assert draw.chance == approx(chance_average_precision(m, n * m), abs=1e-12)
            assert draw.n_queries == n_queries
        values = [draw.mean_average_precision for draw in of.draws]
        band = of.band("mean_average_precision")
        assert band is not None
        assert band.mean == approx(fmean(values))
        assert (band.low, band.high) == approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_queries_are_all_photos_of_the_identity_that_were_not_chosen(photos: list[Photo]) -> None:
    drawn = Sampler(photos).draw(Cell(3, 2), 0)
    for identity, left in drawn.left_over.items():
        everything = [i for i, photo in enumerate(photos) if photo.identity == identity]
        assert sorted([*left, *drawn.chosen[identity]]) == everything
        assert all(photos[i].split == "gallery" for i in drawn.chosen[identity])
    assert set(drawn.left_over) == {identity for identity in drawn.chosen if "own" in identity}


def test_with_equal_embeddings_every_cell_scores_chance(photos: list[Photo]) -> None:
    found = ablate(photos, np.ones((len(photos), 4), dtype=np.float32), Sampler(photos), GRID, n_draws=2)
    for of in found.cells:
        for draw in of.draws:
            assert draw.mean_average_precision == draw.chance
            assert draw.auc == 0.5


def test_more_identities_lower_map_but_not_auc() -> None:
    photos = made("cat", 40, 6)
    found = ablate(photos, embedded(photos, likeness=0.6), Sampler(photos), [Cell(n, 4) for n in (5, 10, 20, 40)])
    precision = [fmean(draw.mean_average_precision for draw in of.draws) for of in found.cells]
    assert all(more > fewer + 0.05 for more, fewer in pairwise(precision))
    auc = [fmean(draw.auc for draw in of.draws) for of in found.cells]
    assert max(auc) - min(auc) < 0.02


def test_auc_is_undefined_where_nobody_else_is_ranked() -> None:
    photos = made("cat", 3, 3)
    [of] = ablate(photos, embedded(photos), Sampler(photos), [Cell(1, 2)], n_draws=2).cells
    assert of.band("auc") is None
    assert all(draw.mean_average_precision == draw.chance == 1 for draw in of.draws)


def test_one_draw_has_no_band(photos: list[Photo]) -> None:
    for of in ablate(photos, embedded(photos), Sampler(photos), GRID, n_draws=1).cells:
        band = of.band("mean_average_precision")
        assert band is not None
        assert (band.low, band.high) == (None, None)


# ---- draws


def scored(photos: Sequence[Photo], grid: Sequence[Cell] = GRID, **options: Any) -> Ablation:
    rows = embedded(photos)
    chooser_rows = embedded(photos, dim=5) if options.pop("by_k_means", False) else None
    return ablate(photos, rows, Sampler(photos, chooser_rows=chooser_rows, **options), grid, n_draws=2)


@pytest.mark.parametrize("by_k_means", [False, True])
def test_nothing_depends_on_the_order_of_photos_or_on_other_cells(photos: list[Photo], by_k_means: bool) -> None:
    expected = scored(photos, by_k_means=by_k_means)
    assert scored(photos[::-1], by_k_means=by_k_means) == expected
    shuffled = [photos[i] for i in np.random.default_rng(0).permutation(len(photos))]
    assert scored(shuffled, [GRID[4], GRID[1]], by_k_means=by_k_means).cells == (expected.cells[4], expected.cells[1])
    assert scored(photos, by_k_means=by_k_means, seed=1) != expected


def test_cells_are_nested_within_a_draw_and_draws_differ(photos: list[Photo]) -> None:
    sampler = Sampler(photos)
    for number in range(5):
        for fewer, more in pairwise([Cell(1, 2), Cell(2, 2), Cell(3, 2), Cell(4, 2)]):
            small, large = sampler.draw(fewer, number).chosen, sampler.draw(more, number).chosen
            assert small.items() <= large.items()
        for fewer, more in pairwise([Cell(3, 1), Cell(3, 2), Cell(3, 3), Cell(3, 4)]):
            small, large = sampler.draw(fewer, number).chosen, sampler.draw(more, number).chosen
            assert small.keys() == large.keys()
            assert all(set(small[identity]) < set(large[identity]) for identity in small)
    draws = [frozenset(sampler.draw(Cell(2, 2), number).chosen.items()) for number in range(5)]
    assert len(set(draws)) == 5


def test_a_new_identity_reshuffles_nobody_elses_photos(photos: list[Photo]) -> None:
    more = [*made("cat", 6, 5, n_references=1)[-12:], *photos]
    before, after = Sampler(photos), Sampler(more)
    for number in range(3):
        old, grown = before.draw(Cell(4, 3), number).chosen, after.draw(Cell(4, 3), number).chosen
        for identity in old.keys() & grown.keys():
            assert names(photos, old[identity]) == names(more, grown[identity])
        # Those who stay keep their order: the new ones stand between them.
        staying = [identity for identity in grown if identity in old]
        assert staying == [identity for identity in old if identity in grown]


def test_those_asked_for_come_first_and_distractors_fill_up() -> None:
    photos = [*made("dog", 2, 4), *made("dog", 6, 2, split="distractor")]
    grid = [Cell(1, 2), Cell(2, 2), Cell(8, 2)]
    found = ablate(photos, embedded(photos), Sampler(photos), grid, n_draws=4)
    assert [{draw.n_asked for draw in of.draws} for of in found.cells] == [{1}, {2}, {2}]
    drawn = Sampler(photos).draw(Cell(8, 2), 0)
    assert list(drawn.left_over) == list(drawn.chosen)[:2]
    assert found.left_out == {}


def test_cells_that_the_gallery_is_too_small_for_are_left_out_with_the_reason() -> None:
    photos = [*made("cat", 4, 5), *made("dog", 3, 9)]
    grid = [Cell(3, 4), Cell(4, 4), Cell(3, 5)]
    found = ablate(photos, embedded(photos), Sampler(photos), grid, n_draws=1)
    assert [of.cell for of in found.cells] == [Cell(3, 4)]
    assert list(found.left_out) == [Cell(4, 4), Cell(3, 5)]
    assert "'dog' 3 of 3 identities" in found.left_out[Cell(4, 4)]
    assert "'cat' 0 of 4 identities have 5 gallery photos and one more" in found.left_out[Cell(3, 5)]
    only_dogs = ablate(photos, embedded(photos), Sampler(photos, category="dog"), grid, n_draws=1)
    assert [of.cell for of in only_dogs.cells] == [Cell(3, 4), Cell(3, 5)]


@pytest.mark.parametrize(
    ("photos", "fixed", "most"),
    [(made("cat", 30, 5), 10, Cell(30, 4)), (made("cat", 3, 4, n_references=2), 3, Cell(3, 4))],
)
def test_the_default_grid_fits_and_has_a_row_of_each_kind(photos: list[Photo], fixed: int, most: Cell) -> None:
    sampler = Sampler(photos)
    grid = default_grid(sampler)
    assert not any(sampler.shortfall(cell) for cell in grid)
    assert most in grid
    rising = [cell.n_identities for cell in grid if cell.n_photos == most.n_photos]
    assert rising == sorted(set(rising))
    assert [cell.n_photos for cell in grid if cell.n_identities == fixed][-most.n_photos + 1 :] == [1, 2, 3]


def test_two_identities_are_the_least() -> None:
    with pytest.raises(FinerRankError, match=r"'cat' 1 of 1 identities .* 2 are needed"):
        default_grid(Sampler(made("cat", 1, 4)))
    with pytest.raises(FinerRankError, match="nobody has two photos"):
        Sampler(made("cat", 3, 1))


# ---- encounters


def test_photos_of_a_querys_own_encounter_are_not_ranked() -> None:
    photos = [replace(p, encounter=f"{p.identity} {int(p.file_name[-5]) // 2}") for p in made("cat", 3, 4)]
    rows = embedded(photos)
    sampler = Sampler(photos)
    [of] = ablate(photos, rows, sampler, [Cell(3, 2)], n_draws=6).cells
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    for number, draw in enumerate(of.draws):
        drawn = sampler.draw(Cell(3, 2), number)
        means = []
        for identity, left in drawn.left_over.items():
            precisions = []
            for q in left:
                pool = [i for own in drawn.chosen.values() for i in own if photos[i].encounter != photos[q].encounter]
                shown = [photos[i].identity == identity for i in pool]
                precisions += [average_precision_score(shown, cosine[q, pool])] if any(shown) else []
            means += [fmean(precisions)] if precisions else []
        assert draw.mean_average_precision == approx(fmean(means), abs=1e-12)
        assert draw.n_asked == len(means)


def test_a_gallery_of_one_encounter_each_cannot_be_scored() -> None:
    photos = [replace(p, encounter=p.identity) for p in made("cat", 3, 4)]
    with pytest.raises(FinerRankError, match="encounter"):
        ablate(photos, embedded(photos), Sampler(photos), [Cell(2, 2)], n_draws=2)


def test_photos_of_the_encounter_that_a_generator_saw_are_not_ranked(tmp_path: Path) -> None:
    gallery, run = Gallery.open(write_zoo(tmp_path / "zoo", encounters=True)), Run.open(write_run(tmp_path / "run"))
    queries = run.queries(gallery)
    asking = RunRows("painter", queries, unit(np.random.default_rng(0).normal(size=(len(queries), 12))))
    sampler = Sampler(gallery.photos, asked_for=frozenset(query.identity for query in queries))
    found = ablate(gallery.photos, embedded(gallery.photos), sampler, [Cell(2, 4)], runs=[asking], n_draws=3)
    for draw in found.cells[0].draws:
        assert draw.chance == approx(chance_average_precision(3, 7))  # of 4 of 8, without the one of that encounter
        assert draw.n_queries == 4 * 3


# ---- k-means


def similarity_of(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = unit(rows).astype(np.float64)
    return exact @ exact.T


@pytest.mark.parametrize("seed", range(5))
def test_k_means_takes_the_middle_photo_of_each_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spread = np.array([0.0, 0.3, -0.3])[None, :, None] * rng.normal(size=(4, 1, 16))
    rows = (10 * np.eye(16)[:4, None, :] + spread).reshape(12, 16)
    assert sorted(choose_by_k_means(similarity_of(rows), 4, seed)) == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "rows", [np.ones((6, 3)), np.repeat(np.eye(3), 2, axis=0), np.random.default_rng(0).normal(size=(6, 3))]
)
def test_k_means_chooses_different_photos_even_among_copies(rows: npt.NDArray[Any]) -> None:
    for k in range(1, 7):
        chosen = choose_by_k_means(similarity_of(rows), k, seed=k)
        assert len(set(chosen)) == k
        assert choose_by_k_means(similarity_of(rows), k, seed=k) == chosen


# ---- runs


def test_runs_ask_of_the_same_galleries_and_only_for_whom_all_ask(photos: list[Photo]) -> None:
    asked = frozenset({"cat own 0", "cat own 2"})
    queries = [Query(GeneratedImage(f"{i}.png"), who, "cat", None) for who in sorted(asked) for i in range(2)]
    others = [Query(GeneratedImage("x.png"), "cat own 1", "cat", None)]
    rows = embedded([Photo(f"{i}.png", "cat", q.identity, "") for i, q in enumerate([*queries, *others])])
    runs = [RunRows("one", queries, rows[:4]), RunRows("more", [*queries, *others], rows)]
    found = ablate(photos, embedded(photos), Sampler(photos, asked_for=asked), GRID[:3], runs=runs, n_draws=2)
    assert [(of.cell, of.run) for of in found.cells] == [(cell, run) for cell in GRID[:3] for run in ("one", "more")]
    for one, more in zip(found.cells[::2], found.cells[1::2], strict=True):
        assert one.draws == more.draws
        assert {draw.n_queries for draw in one.draws} == {4}


# ---- grids


@pytest.mark.parametrize("text", NO_GRIDS)
def test_what_is_no_grid_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FinerRankError, match=r"5x3,10x3"):
        parse_grid(text)


def test_grids_are_read() -> None:
    assert parse_grid("5x3, 10X3,2×1") == (Cell(5, 3), Cell(10, 3), Cell(2, 1))
    paper = {(15, 10), (25, 10), (10, 10), (100, 10), (10, 1), (10, 5), (10, 20)}
    assert {(cell.n_identities, cell.n_photos) for cell in parse_grid("paper")} == paper
    with pytest.raises(FinerRankError, match="5x3 is named twice"):
        parse_grid("5x3,1x1,5x3")
