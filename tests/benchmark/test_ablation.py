"""`finer-rank ablate`: how the score depends on the number of identities and of their photos."""

import csv
import json
import shutil
import subprocess
import sys
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
from handmade import Cli, Refusal
from PIL import Image
from pytest import approx
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

import finer_rank
from benchmark.ablation import Ablation, Cell, RunRows, Sampler, ablate, choose_by_k_means
from benchmark.ablation_commands import default_grid, parse_grid
from benchmark.ablation_plot import draw_ablation
from benchmark.scores import chance_average_precision
from galleries.errors import FinerRankError
from galleries.figures import FORMATS
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


# ---- the command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gallery `zoo` and the runs `painter` and `sketcher`."""
    folder = tmp_path_factory.mktemp("world")
    write_zoo(folder / "zoo")
    write_run(folder / "runs" / "painter", "painter", likeness=0.6)
    write_run(folder / "runs" / "sketcher", "sketcher $x$", likeness=0.2)
    return folder


@pytest.fixture(scope="module")
def asked(world: Path, cli: Cli) -> dict[str, Any]:
    """What the command says of the zoo's own photos, as JSON; the table is in `table.csv`."""
    done = cli(
        "ablate", "-g", "zoo", "-e", "classical:", "--grid", "2x1,2x3,9x9", "--draws", "3", "--out", "table.csv",
        "--store", "store", "--json", cwd=world,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "33 images, 33 forward passes of classical:" in done.stderr
    assert "left out: 9x9: in category 'cats' 0 of 3 identities" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_json_holds_every_cell_down_to_the_draws(asked: dict[str, Any]) -> None:
    assert (asked["draws"], asked["seed"], asked["choose"], asked["chooser"]) == (3, 0, "random", None)
    assert asked["categories"] == ["cats", "dogs"]
    assert [left["cell"] for left in asked["left_out"]] == ["9x9"]
    assert asked["embedding"]["classical:"]["forward_passes"] == 33
    assert [row["cell"] for row in asked["cells"]] == ["2x1", "2x3"]
    for row in asked["cells"]:
        assert row["run"] is None
        assert (row["n_identities"], row["n_photos"]) == (4, 4 * row["photos_per_identity"])
        assert row["n_queries"] == 4 * (6 - row["photos_per_identity"])
        assert row["n_draws"] == len(row["draws"]) == 3
        for score in "mAP", "AUC":
            assert row[score] == approx(fmean(draw[score] for draw in row["draws"]))
            assert row[f"{score}_band_low"] <= row[score] <= row[f"{score}_band_high"]
        m = row["photos_per_identity"]
        assert row["chance_mAP"] == approx(chance_average_precision(m, 2 * m))


def test_the_csv_table_holds_what_json_does(world: Path, asked: dict[str, Any]) -> None:
    with (world / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [{k: "" if v is None else str(v) for k, v in row.items() if k != "draws"} for row in asked["cells"]]
    assert rows == expected


def test_a_second_call_embeds_nothing_and_loads_no_deep_learning_library(world: Path, asked: dict[str, Any]) -> None:
    code = (
        "import sys, finer_rank\n"
        "try:\n    finer_rank.main()\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'pandas', 'timm') if m in sys.modules], file=sys.stderr)"
    )
    arguments = ["ablate", "-g", "zoo", "-e", "classical:", "--store", "store", "--draws", "3", "--plot", "plot.png"]
    command = [sys.executable, "-c", code, *arguments, "--grid", "2x1,2x3"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=world)
    assert "33 images, 0 forward passes of classical:" in done.stderr
    assert done.stderr.strip().endswith("[]")
    for row in asked["cells"]:
        assert "{mAP:.3f} [{mAP_band_low:.3f}, {mAP_band_high:.3f}]".format(**row) in done.stdout
    assert (world / "plot.png").stat().st_size > 10_000


def test_runs_ask_of_photos_that_the_judge_chose(world: Path, cli: Cli) -> None:
    common = ("ablate", "-g", "zoo", "-e", "classical:", "--draws", "2", "--choose", "k-means", "--store", "store")
    done = cli(*common, "-r", "runs", "--category", "dogs", "--grid", "2x1,2x2,5x1", "--json", cwd=world)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["cell"], row["run"]) for row in found["cells"]] == [
        (cell, run) for cell in ("2x1", "2x2", "5x1") for run in ("painter", "sketcher $x$")
    ]
    assert {(row["n_asked"], row["n_queries"]) for row in found["cells"]} == {(2, 6)}
    assert any("flatters" in note for note in found["notes"])
    assert "note: the judge itself chose" in done.stderr
    assert [row["n_eligible_identities"] for row in found["cells"][::2]] == [5, 2, 5]


def test_another_embedder_chooses_the_photos(world: Path) -> None:
    from networks import save_torchvision

    weights = save_torchvision(world / "squeezenet.safetensors")
    judge = ("-e", f"torchvision:squeezenet1_1@{weights}", "--resize", "squash", "--size", "32", "--device", "cpu")
    how = ("--choose", "k-means", "--chooser", "classical:", "--draws", "2", "--grid", "2x2")
    arguments = ["ablate", "-g", world / "zoo", *judge, *how, "--store", world / "store", "--json"]
    # In this process: loading the network's library once is slow enough.
    done = CliRunner().invoke(finer_rank.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    passes = [(spec.partition(":")[0], work["forward_passes"]) for spec, work in found["embedding"].items()]
    assert passes == [("torchvision", 33), ("classical", 0)]
    assert found["notes"] == []


@pytest.mark.parametrize("ending", FORMATS)
def test_pictures_of_the_same_rows_are_the_same_bytes(asked: dict[str, Any], tmp_path: Path, ending: str) -> None:
    drawn = []
    for name in "one", "two":
        draw_ablation(asked["cells"], "zoo, $classical:$", tmp_path / f"{name}{ending}")
        drawn.append((tmp_path / f"{name}{ending}").read_bytes())
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 5000


def test_any_table_can_be_drawn(asked: dict[str, Any], tmp_path: Path) -> None:
    undefined = dict.fromkeys(("AUC", "AUC_band_low", "AUC_band_high", "mAP_band_low", "mAP_band_high"))
    first, second = asked["cells"]
    several_runs = [{**row, "run": run} for row in (first, second) for run in ("a" * 90, "b $", "c_d")]
    for rows in [first], [first | undefined, second | undefined], several_runs, [{**first, "run": "a"}]:
        draw_ablation(rows, "zoo", tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            assert image.width > 300


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (("--grid", "5x3,9x9"), ("too small", "5x3", "9x9", "'cats' 3 of 3 identities have 3 gallery photos")),
        (("--grid", "5by3"), ("--grid 5by3", "5x3,10x3")),
        (("--chooser", "classical:"), ("--chooser", "--choose k-means")),
        (("--choose", "best"), ("--choose best", "random, k-means")),
        (("--category", "birds"), ("--category birds", "cats, dogs")),
        (("--plot", "plot.gif"), ("plot.gif", ".png, .pdf, .svg, .jpg, .webp")),
        (("--out", "nowhere/table.csv"), ("nowhere/table.csv", "a folder there is")),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    world: Path, refusal: Refusal, arguments: tuple[str, ...], mentions: tuple[str, ...]
) -> None:
    line = refusal("ablate", "-g", "zoo", "-e", "classical:", *arguments, cwd=world)
    assert [mention for mention in mentions if mention not in line] == []


def test_a_photo_that_is_a_reference_too_is_refused(world: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(world / "zoo", tmp_path / "zoo")
    shutil.copy(tmp_path / "zoo/images/ada_0.png", tmp_path / "zoo/images/ada_3.png")
    line = refusal("ablate", "-g", "zoo", "-e", "classical:", cwd=tmp_path)
    assert "images/ada_3.png: same bytes as the reference images/ada_0.png" in line
