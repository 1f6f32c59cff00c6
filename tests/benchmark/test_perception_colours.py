"""Alignment with histograms: hand-worked pictures, scipy as the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, write_rows
from judged_pictures import write_triplets
from perceiving import Told, judged, patchwork, save
from pytest import approx
from scipy.stats import spearmanr

from benchmark.distances import Resources
from benchmark.human_judgements.judgements import Judgements
from benchmark.perception.colours import HISTOGRAMS, PEOPLE, align, histograms_of

RED, BLUE = (230, 20, 20), (20, 20, 230)


def unshared(name: str, one: Path, other: Path) -> float:
    return float(np.abs(histograms_of(one)[name].astype(float) - histograms_of(other)[name]).sum() / 2)


@pytest.fixture
def resources(store: Path) -> Resources:
    return Resources(store)


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Judgements:
    folder = tmp_path_factory.mktemp("triplets")
    rows = []
    for i in range(12):
        for place in range(3):
            save(patchwork(3 * i + place, side=24), folder / f"{i}-{place}.png")
        rows.append(([f"{i}-{place}" for place in range(3)], float(i % 2), str(i)))
    return judged(folder, rows)


def test_histograms_count_colours_and_not_places(tmp_path: Path) -> None:
    left = np.zeros((16, 16, 3))
    left[:, :8], left[:, 8:] = RED, BLUE
    paths = {
        "both": save(left, tmp_path / "both.png"),
        "mirrored": save(left[:, ::-1], tmp_path / "mirrored.png"),
        "red": save(np.broadcast_to(RED, (8, 8, 3)), tmp_path / "red.png"),
        "blue": save(np.broadcast_to(BLUE, (8, 8, 3)), tmp_path / "blue.png"),
    }
    for name in HISTOGRAMS:
        assert histograms_of(paths["red"])[name].sum() == approx(1)
        assert unshared(name, paths["both"], paths["mirrored"]) == 0
        assert unshared(name, paths["red"], paths["blue"]) == approx(1, abs=0.01)
        assert unshared(name, paths["both"], paths["red"]) == approx(0.5, abs=0.01)


def test_a_colour_at_the_edge_of_a_bin_counts_for_both(tmp_path: Path) -> None:
    below, above, far = (save(np.full((4, 4, 3), value), tmp_path / f"{value}.png") for value in (127, 128, 255))
    assert unshared("rgb", below, above) < 0.65  # without smoothing 1
    assert unshared("rgb", below, far) > 0.95


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_histogram_is_aligned_with_itself(triplets: Judgements, resources: Resources, name: str) -> None:
    same, against = Told(lambda a, b: unshared(name, a, b)), Told(lambda a, b: -unshared(name, a, b))
    _, found, turned = align(triplets, [same, against], resources)
    assert found.alignment[name] is not None
    assert (found.alignment[name].value, found.alignment[name].low) == (1.0, 1.0)
    assert turned.alignment[name] is not None
    assert turned.alignment[name].value == 0.0


def test_an_undecided_distance_is_at_chance(triplets: Judgements, resources: Resources) -> None:
    _, found = align(triplets, [Told(lambda a, b: 1.0)], resources)
    assert [each.value for each in found.alignment.values() if each] == [0.5] * 3


def test_people_are_held_against_the_histograms_too(triplets: Judgements, resources: Resources) -> None:
    found = align(triplets, [], resources)[0]
    agreed = [
        row.answer if unshared("rgb", *row.images[::2]) < unshared("rgb", *row.images[:2]) else 1 - row.answer
        for row in triplets.rows
    ]
    assert found.metric == PEOPLE
    assert found.alignment["rgb"] is not None
    assert found.alignment["rgb"].value == approx(np.mean(agreed))


def test_of_pairs_the_ranks_are_correlated(triplets: Judgements, resources: Resources) -> None:
    names = [path.stem for path in triplets.images]
    rows = [((names[0], name), 1.0 + i, f"t{i % 4}") for i, name in enumerate(names[1:])]
    pairs = judged(triplets.source, rows, "ranking")
    to = {row.images: unshared("lab", *row.images) for row in pairs.rows}
    noisy = {images: value + 0.05 * np.sin(37 * i) for i, (images, value) in enumerate(to.items())}
    monotone, other = Told(lambda a, b: to[a, b] ** 3), Told(lambda a, b: noisy[a, b])
    first, second = align(pairs, [monotone, other], resources)
    assert first.alignment["lab"] is not None
    assert first.alignment["lab"].value == approx(1)
    expected = spearmanr(list(to.values()), list(noisy.values())).statistic
    found = second.alignment["lab"]
    assert found is not None
    assert found.value == approx(expected)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= expected <= found.high <= 1


def test_a_correlation_that_is_undefined_is_said_to_be(triplets: Judgements, resources: Resources) -> None:
    names = [path.stem for path in triplets.images[:5]]
    pairs = judged(triplets.source, [((names[0], name), 1.0, name) for name in names[1:]], "rating")
    (found,) = align(pairs, [Told(lambda a, b: 0.25)], resources)
    assert set(found.alignment.values()) == {None}
    assert "the same for all pairs" in found.notes[0]


def test_the_command_takes_triplets_and_pairs(tmp_path: Path, cli: Cli) -> None:
    table = write_triplets(tmp_path / "drawn", "colour", 8, side=32)
    done = cli("perception", "colours", table, "-m", "critter-reid", "--json", "--plot", tmp_path / "plot.svg")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert (content["kind"], content["n_targets"]) == ("2afc", 8)
    assert [each["metric"] for each in content["alignments"]] == ["people", "critter-reid"]
    assert (tmp_path / "plot.svg").stat().st_size > 5_000
    ranked = [
        {"target": f"{t:04d}-reference.png", "image": f"{t:04d}-same-{rule}.png", "rank": str(rank), "rater": "ann"}
        for t in range(4)
        for rank, rule in ((1, "colour"), (2, "shape"))
    ]
    pairs = write_rows(tmp_path / "drawn" / "ranked.csv", ranked)
    shown = cli("perception", "colours", pairs, "-m", "critter-reid")
    assert shown.returncode == 0, shown.stderr
    assert "Spearman" in shown.stdout
    assert "people" not in shown.stdout
