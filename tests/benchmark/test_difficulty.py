"""How hard a gallery is: the anchors of evaluate, brute force over pairs, sums by hand, and pictures."""

import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from animals import ANIMALS, N_PHOTOS, N_STRAYS, write_zoo
from handmade import Cli, Refusal, change_row, lacking, rows_of, save_noise, write_rows
from PIL import Image
from pytest import approx
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmark.difficulty import (
    DIFFERENCE,
    Difficulty,
    HardPair,
    gallery_shape,
    hardest_pairs,
    identities_needed,
    measure_difficulty,
)
from benchmark.difficulty_plot import FEW, draw_difficulty
from benchmark.embed import EmbeddedGallery, embed_gallery
from benchmark.embedders import load_embedder
from benchmark.protocol import evaluate
from benchmark.scores import chance_average_precision
from galleries.errors import Faults, FinerRankError
from galleries.figures import FORMATS
from galleries.gallery import Gallery, GalleryCard, Photo

T = TypeVar("T")
Rows = npt.NDArray[np.float32]


def measured(folder: Path, store: Path) -> Difficulty:
    gallery = Gallery.open(folder)
    return measure_difficulty(gallery, embed_gallery(gallery, load_embedder("classical:"), store))


def made(photos: list[Photo], rows: Rows) -> tuple[Gallery, EmbeddedGallery]:
    """A gallery without files, and the embeddings of its photos."""
    order = sorted(range(len(photos)), key=lambda i: photos[i].file_name)
    ordered = tuple(photos[i] for i in order)
    return Gallery(GalleryCard("made"), ordered, Path("made")), EmbeddedGallery(ordered, rows[order], 0)


def known(value: T | None) -> T:
    assert value is not None
    return value


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    found: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def scattered(sizes: dict[str, int], seed: int, noise: float = 1.5, dim: int = 8) -> tuple[list[Photo], Rows]:
    """Photos of identities `category/name`, each around a point of its own."""
    rng = np.random.default_rng(seed)
    photos, rows = [], []
    for label, size in sizes.items():
        category, _, _ = label.partition("/")
        centre = rng.normal(size=dim)
        for number in range(size):
            photos.append(Photo(f"{label}_{number:02d}.png", category, label, "gallery"))
            rows.append(centre + noise * rng.normal(size=dim))
    return photos, unit(np.array(rows))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def difficulty(zoo: Path, warm: Path) -> Difficulty:
    return measured(zoo, warm)


def test_chance_and_unequal_identities_are_counted_by_category(zoo: Path) -> None:
    overall, by_category = gallery_shape(Gallery.open(zoo))
    n_dogs = 2 * N_PHOTOS + N_STRAYS
    chances = [chance_average_precision(N_PHOTOS, 3 * N_PHOTOS)] * 3 + [chance_average_precision(N_PHOTOS, n_dogs)] * 2
    assert overall.chance == approx(math.fsum(chances) / 5, abs=1e-12)
    assert by_category["dogs"].chance == approx(chances[-1], abs=1e-12)
    assert (by_category["dogs"].n_ranked, by_category["dogs"].n_gallery, overall.n_identities) == (n_dogs, 8, 5)
    assert overall.n_unequal == 0


def test_identities_are_unequal_to_the_commonest_number_of_photos() -> None:
    photos, _ = scattered({"c/a": 4, "c/b": 4, "c/c": 3, "c/d": 1, "d/e": 2}, 0)
    overall, by_category = gallery_shape(made(photos, np.ones((len(photos), 2), np.float32))[0])
    assert (overall.n_unequal, by_category["c"].n_unequal, by_category["d"].n_unequal) == (2, 2, 0)


@pytest.mark.parametrize("encounters", [False, True])
def test_the_scores_are_the_anchors_of_evaluate(tmp_path: Path, warm: Path, encounters: bool) -> None:
    folder = write_zoo(tmp_path / "zoo", encounters)
    overall = measured(folder, warm).overall
    (evaluation,) = evaluate(Gallery.open(folder), [], [load_embedder("classical:")], warm)
    for name, scores in (("held_out", overall.held_out), ("copied_reference", overall.copied_reference)):
        assert scores == {metric: (evaluation.anchors[name] or {})[metric] for metric in ("mAP", "AUC")}
    assert overall.shape.chance == known((evaluation.anchors["chance"] or {})["mAP"]).value


def test_each_category_and_identity_is_scored_as_scikit_learn_scores_it(zoo: Path, difficulty: Difficulty) -> None:
    photos = [p for p in Gallery.open(zoo).photos if p.split != "reference"]
    rows = load_embedder("classical:").embed([Image.open(p.path) for p in photos]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: dict[str, list[tuple[float, float]]] = {animal: [] for animal in ANIMALS}
    for i, query in enumerate(photos):
        others = [j for j, p in enumerate(photos) if p.category == query.category and j != i]
        is_relevant = [photos[j].identity == query.identity for j in others]
        if query.split == "gallery":
            args = is_relevant, rows[others] @ rows[i]
            found[query.identity].append((average_precision_score(*args), roc_auc_score(*args)))
    for identity in difficulty.identities:
        assert identity.precisions == approx(sorted(ap for ap, _ in found[identity.identity]), abs=1e-9)
    for category, level in difficulty.categories.items():
        own = [score for animal, scores in found.items() if ANIMALS[animal] == category for score in scores]
        for metric, values in zip(("mAP", "AUC"), zip(*own, strict=True), strict=True):
            assert known(level.held_out[metric]).value == approx(statistics.fmean(values), abs=1e-9)


def test_without_distractors_is_the_gallery_that_has_none(
    zoo: Path, difficulty: Difficulty, warm: Path, tmp_path: Path
) -> None:
    bare = write_zoo(tmp_path / "bare")
    write_rows(bare / "metadata.csv", [row for row in rows_of(bare) if row["split"] != "distractor"])
    alone = measured(bare, warm)
    assert difficulty.overall.without_distractors == alone.overall.held_out
    assert difficulty.categories["dogs"].without_distractors == alone.categories["dogs"].held_out
    assert (alone.overall.without_distractors, alone.overall.lost_to_distractors) == ({}, None)
    for level in (difficulty.overall, difficulty.categories["dogs"]):
        difference = known(level.without_distractors["mAP"]).value - known(level.held_out["mAP"]).value
        assert known(level.lost_to_distractors).value == approx(difference, abs=1e-12)
        assert difference > 0
    assert difficulty.categories["cats"].without_distractors == {}
    assert difficulty.categories["cats"].lost_to_distractors is None


def test_an_encoder_of_one_point_is_at_chance() -> None:
    photos, _ = scattered({"c/a": 3, "c/b": 3, "c/c": 3}, 0)
    found = measure_difficulty(*made(photos, np.ones((9, 4), np.float32)))
    assert known(found.overall.held_out["AUC"]).value == 0.5
    assert [pair.confusion for pair in found.pairs] == [0.5] * 3
    assert [i.mean for i in found.identities] == approx([chance_average_precision(2, 8)] * 3, abs=1e-12)


def test_photos_that_are_references_too_are_refused(zoo: Path, warm: Path, tmp_path: Path) -> None:
    folder = write_zoo(tmp_path / "leaky")
    (folder / "images/rex_3.png").write_bytes((folder / "images/rex_0.png").read_bytes())
    with pytest.raises(Faults, match=r"rex_3.png: same bytes as the reference images/rex_0.png"):
        measured(folder, warm)


# ---- pairs


def brute_force(photos: list[Photo], rows: Rows) -> dict[tuple[str, str], float]:
    """Each ordered pair of identities of a category with its confusion, query by query."""
    similarity = np.array([[math.fsum((a.astype(np.float64) * b).tolist()) for b in rows] for a in rows])
    norms = np.sqrt(np.diag(similarity))
    similarity = np.round(similarity / norms / norms[:, None], 12)  # ties are ties
    found = {}
    for a, b in itertools.permutations({p.identity: p.category for p in photos}.items(), 2):
        if a[1] != b[1]:
            continue
        aucs = []
        for q, query in enumerate(photos):
            ranked = [
                j
                for j, p in enumerate(photos)
                if j != q and p.identity in (a[0], b[0]) and not (p.encounter and p.encounter == query.encounter)
            ]
            is_relevant = [photos[j].identity == a[0] for j in ranked]
            if query.identity == a[0] and 0 < sum(is_relevant) < len(ranked):
                aucs.append(roc_auc_score(is_relevant, similarity[q, ranked]))
        if aucs:
            found[a[0], b[0]] = 1 - statistics.fmean(aucs)
    return found


def with_copies(photos: list[Photo], rows: Rows, seed: int) -> tuple[list[Photo], Rows]:
    """Some embeddings repeated, so that there are ties, and some photos of one encounter."""
    rng = np.random.default_rng(seed)
    rows = rows.copy()
    rows[rng.integers(len(rows), size=8)] = rows[rng.integers(len(rows), size=8)]
    seen = rng.integers(-6, 4, size=len(photos))
    return [replace(p, encounter=f"day {e}" if e >= 0 else "") for p, e in zip(photos, seen, strict=True)], rows


SIZES = {"c/a": 4, "c/b": 3, "c/c": 5, "c/d": 1, "c/e": 4, "d/f": 3, "d/g": 2}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("copies", [False, True])
def test_pairs_are_those_of_brute_force(seed: int, copies: bool) -> None:
    photos, rows = scattered(SIZES, seed)
    if copies:
        photos, rows = with_copies(photos, rows, seed)
    found, n_compared, n_pairs = hardest_pairs(photos, rows, n_hardest=100)
    expected = brute_force(photos, rows)
    worst = {
        frozenset(pair): max(expected.get(pair, -1.0), expected.get(pair[::-1], -1.0))
        for pair in itertools.combinations(SIZES, 2)
    }
    assert {frozenset((p.asked, p.other)) for p in found} == {names for names, value in worst.items() if value > 1e-9}
    for pair in found:
        assert pair.confusion == approx(worst[frozenset((pair.asked, pair.other))], abs=1e-9)
        assert pair.confusion == approx(expected[pair.asked, pair.other], abs=1e-9)
        assert pair.reverse == approx(expected.get((pair.other, pair.asked)), abs=1e-9)
    assert [p.confusion for p in found] == sorted((p.confusion for p in found), reverse=True)
    assert (n_compared, n_pairs) == (11, 11)


@pytest.mark.parametrize("n_hardest", [1, 3, 10])
def test_the_hardest_of_many_are_the_first_of_all(n_hardest: int) -> None:
    photos, rows = scattered({f"c/{i:02d}": 3 for i in range(20)}, 1, noise=0.7)
    everything, _, _ = hardest_pairs(photos, rows, n_hardest=1000)
    assert hardest_pairs(photos, rows, n_hardest)[0] == everything[:n_hardest]
    assert len(everything) > 20
    assert hardest_pairs(*scattered({f"c/{i}": 4 for i in range(6)}, 0, noise=0.01)) == ([], 15, 15)  # never confused


def test_in_a_large_category_only_near_candidates_are_compared() -> None:
    # Twenty pairs of look-alikes, far from each other: whoever is confused is near.
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(20, 16)), 2, axis=0)
    photos = [Photo(f"{i:02d}_{n}.png", "c", f"{i:02d}", "gallery") for i in range(40) for n in range(4)]
    rows = unit(np.repeat(centres, 4, axis=0) + 0.1 * rng.normal(size=(160, 16)))
    all_of_them, n_compared, n_pairs = hardest_pairs(photos, rows)
    assert (n_compared, n_pairs) == (780, 780)
    near, n_near, n_there = hardest_pairs(photos, rows, n_candidates=3)
    assert near == all_of_them
    assert 60 <= n_near <= 120
    assert n_there == 780


@pytest.mark.parametrize("n_candidates", [2, 50])
def test_results_do_not_depend_on_the_order_of_rows(n_candidates: int) -> None:
    photos, rows = with_copies(*scattered(SIZES, 3), 3)
    expected = hardest_pairs(photos, rows, n_candidates=n_candidates)
    whole = measure_difficulty(*made(photos, rows))
    for seed in range(4):
        order = random.Random(seed).sample(range(len(photos)), len(photos))
        shuffled = [photos[i] for i in order], rows[order]
        assert hardest_pairs(*shuffled, n_candidates=n_candidates) == expected
        assert measure_difficulty(*made(*shuffled)) == whole


# ---- identities needed


def test_identities_needed_are_those_of_the_formula() -> None:
    one_score, paired = map(known, identities_needed([(0.5, 0.7), (0.8, 0.8), (0.9,), ()]))
    sd = statistics.stdev([0.6, 0.8, 0.9])
    assert one_score.sd == approx(sd)
    assert one_score.n_identities == math.ceil(((1.960 + 0.842) * sd / DIFFERENCE) ** 2) == 458
    assert paired.sd == approx(math.sqrt((0.2**2 + 0) / 2))  # the halves of two queries differ by 0.2, or by nothing
    assert identities_needed([(0.5, 0.4)]) == (None, None)


def test_split_halves_are_averaged_over_all_ways_to_split() -> None:
    precisions = [(0.2, 0.5, 0.9), (0.1, 0.4, 0.6, 1.0), (0.3, 0.3, 0.3, 0.8, 0.9)]
    squares = []
    for own in precisions:
        halves = [sum(half) for half in itertools.combinations(own, len(own) // 2)]
        n, m = len(own) // 2, len(own) - len(own) // 2
        squares.append(statistics.fmean((half / n - (sum(own) - half) / m) ** 2 for half in halves))
    _, paired = identities_needed(precisions)
    assert known(paired).sd == approx(math.sqrt(statistics.fmean(squares)))


def test_a_photo_alone_is_no_query(zoo: Path, warm: Path, tmp_path: Path) -> None:
    folder = write_zoo(tmp_path / "zoo")
    gone = [f"images/ada_{number}.png" for number in (3, 4, 5)]
    write_rows(folder / "metadata.csv", [row for row in rows_of(folder) if row["file_name"] not in gone])
    found = measured(folder, warm)
    ada = next(identity for identity in found.identities if identity.identity == "ada")
    assert (found.n_unanswerable, ada.precisions, ada.mean, ada.n_gallery) == (1, (), None, 1)
    draw_difficulty(Gallery.open(folder), found, "classical:", tmp_path / "picture.png")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_has_the_same_bytes_again(zoo: Path, difficulty: Difficulty, tmp_path: Path, ending: str) -> None:
    gallery = Gallery.open(zoo)
    for name in ("first", "second"):
        draw_difficulty(gallery, difficulty, "classical:", tmp_path / f"{name}{ending}")
    first = (tmp_path / f"first{ending}").read_bytes()
    assert first == (tmp_path / f"second{ending}").read_bytes()
    assert len(first) > 5000


SETS = {"two": {"c/$a_1$": 3, "c/犬": 2}, "many": {f"c/{i:02d}": 2 + i % 3 for i in range(FEW + 1)}, "one": {"c/a": 3}}


@pytest.mark.parametrize("sizes", [*SETS.values(), {"c/a": 1, "c/b": 1}], ids=[*SETS, "single photos"])
@pytest.mark.parametrize("noise", [0.001, 3.0])
def test_pictures_of_any_size_are_drawn(tmp_path: Path, sizes: dict[str, int], noise: float) -> None:
    photos, rows = scattered(sizes, 0, noise)
    picture = save_noise(tmp_path / "photo.png", 0, (30, 70))
    gallery, embedded = made([replace(p, path=picture) for p in photos], rows)
    draw_difficulty(gallery, measure_difficulty(gallery, embedded), "made", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert min(image.size) > 400


def test_what_cannot_be_drawn_is_said(zoo: Path, difficulty: Difficulty, tmp_path: Path) -> None:
    gallery = Gallery.open(zoo)
    with pytest.raises(FinerRankError, match="cannot be written"):
        draw_difficulty(gallery, difficulty, "classical:", tmp_path / "nowhere/out.png")
    missing = replace(gallery, photos=tuple(replace(p, path=tmp_path / "gone.png") for p in gallery.photos))
    with pytest.raises(FinerRankError, match="no such file"):
        draw_difficulty(missing, difficulty, "classical:", tmp_path / "out.png")


# ---- the command


def test_show_says_what_evaluate_says(zoo: Path, cli: Cli, difficulty: Difficulty) -> None:
    shown = json.loads(cli("gallery", "show", zoo, "--embedder", "classical:", "--json").stdout)
    anchors = json.loads(cli("evaluate", "--gallery", zoo, "--embedder", "classical:", "--json").stdout)["anchors"]
    overall = shown["difficulty"]["overall"]
    for metric in ("mAP", "AUC"):
        assert overall["held_out"][metric] == anchors["held_out"][metric]
        assert overall["copied_reference"][metric] == anchors["copied_reference"][metric]
    assert overall["chance_mAP"] == shown["shape"]["chance"] == anchors["chance"]["mAP"]["value"]
    assert [HardPair(**pair) for pair in shown["difficulty"]["hardest_pairs"]] == list(difficulty.pairs)
    assert shown["near_duplicates"] == []


def test_show_prints_tables_and_draws(zoo: Path, cli: Cli, tmp_path: Path, difficulty: Difficulty) -> None:
    picture = tmp_path / "picture.png"
    shown = cli("gallery", "show", zoo, "--embedder", "classical:", "--by", "identity", "--plot", picture)
    assert shown.returncode == 0, shown.stderr
    pair, mean = difficulty.pairs[0], known(difficulty.overall.held_out["mAP"])
    expected = (
        f"{mean.value:.3f} [{mean.low:.3f}",
        f"{pair.confusion:.3f}",
        "lost to distractors",
        "two runs, at least",
    )
    assert lacking(shown.stdout, *expected) == []
    lines = [line for line in shown.stdout.splitlines() if line.startswith("│ ada")]
    assert f"{difficulty.identities[0].mean:.3f}" in lines[-1]
    assert "forward passes of classical:" in shown.stderr
    assert picture.stat().st_size > 5000


def test_show_counts_unequal_identities_without_an_embedder(cli: Cli, tmp_path: Path) -> None:
    folder = write_zoo(tmp_path / "zoo")
    change_row(folder, 3, split="reference")
    shown, by = cli("gallery", "show", folder), cli("gallery", "show", folder, "--by", "identity")
    chance = statistics.fmean(chance_average_precision(n, 11) for n in (3, 4, 4))
    assert f"cats: chance mAP {chance:.3f}; 1 of 3 identities have another number of photos" in shown.stdout
    assert "over all 5 identities: chance mAP" in shown.stdout
    assert by.stdout.count("│ ada ") == 1
    assert "│ ada " not in shown.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--plot", "out.png"], "--plot: draws what an embedder sees; name one with --embedder"),
        (["--plot", "out.doc", "--embedder", "classical:"], "out.doc: no picture format"),
        (["--by", "category"], "--by category: unknown; write identity"),
        (["--embedder", "classical:", "--resize", "stretch"], "--resize stretch: unknown"),
        (["--embedder", "nobody"], "nobody: no such embedder"),
    ],
)
def test_wrong_options_are_refused(zoo: Path, refusal: Refusal, options: list[str], complaint: str) -> None:
    assert complaint in refusal("gallery", "show", zoo, *options)


def test_show_from_a_warm_store_imports_no_deep_learning_library(zoo: Path, tmp_path: Path) -> None:
    code = (
        "import sys, finer_rank\n"
        "try:\n    finer_rank.main()\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'pandas', 'timm') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "gallery", "show", str(zoo), "--embedder", "classical:", "--plot", "out.png"]
    said = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stderr for _ in "12"]
    assert " 0 forward passes" in said[1]
    assert said[1].strip().endswith("[]")
