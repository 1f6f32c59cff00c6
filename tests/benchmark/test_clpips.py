"""`agreement tune --recipe clpips` and the distances that it writes, on a SqueezeNet of random weights."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Cli, Refusal
from judged_pictures import Rule, write_triplets
from PIL import Image
from pytest import approx
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torchvision import models

from benchmark.distances import Resources, load_distance
from benchmark.distances.lpips import load_trunk, published_weights
from benchmark.human_agreement.compared import distances_of
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.sources import load_judgements
from galleries.errors import FinerRankError

SIZE = 64
RULES: tuple[Rule, Rule] = ("colour", "shape")
Tune = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clpips")


@pytest.fixture(scope="module")
def trunk(folder: Path) -> Path:
    torch.manual_seed(2)
    path = folder / "trunk.safetensors"
    save_file(models.squeezenet1_1(weights=None).features.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tune(folder: Path, trunk: Path, cli: Cli) -> Tune:
    def run(*arguments: object, out: str) -> dict[str, Any]:
        own = ("--recipe", "clpips", "--network", "squeeze", "--trunk", trunk, "--device", "cpu", "--json")
        done = cli("agreement", "tune", *arguments, *own, "--out", folder / out)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.fixture(scope="module")
def judges(folder: Path, tune: Tune) -> dict[Rule, dict[str, Any]]:
    """What came of tuning to somebody who sees colour alone, and to somebody who sees shape alone."""
    found = {}
    for rule in RULES:
        table = write_triplets(folder / rule, rule, 100, seed=1, drawing="inked", tint=0.22)
        how = ("--size", SIZE, "--per", "channel", "--pull", 0.0001, "--held-out", 0.5)
        found[rule] = tune(table, *how, out=f"{rule}-tuned")
    return found


def agreement(spec: str, table: Path) -> float:
    judgements = load_judgements([table])
    of = distances_of(judgements, load_distance(spec, size=SIZE, device="cpu"), Resources(table.parent / "store"))
    return float(two_afc_scores(of[:, 0], of[:, 1], np.array([row.answer for row in judgements.rows])).mean())


def test_each_judge_is_learned_and_the_other_is_lost(
    folder: Path, trunk: Path, judges: dict[Rule, dict[str, Any]]
) -> None:
    new = write_triplets(folder / "new", "colour", 60, seed=7, drawing="inked", tint=0.22)
    untuned, by_colour, by_shape = (
        agreement(f"{spec}@{trunk}", new)
        for spec in ("lpips:squeeze", f"clpips:{folder}/colour-tuned", f"clpips:{folder}/shape-tuned")
    )
    assert 0.3 < untuned < 0.7
    assert by_colour >= 0.85
    assert 1 - by_shape >= 0.85  # whoever judges by shape says the contrary of each
    for rule in RULES:
        held_out = judges[rule]["changes"][0]
        assert 0.3 < held_out["before"]["value"] < 0.7
        assert held_out["after"]["value"] >= 0.85
        assert judges[rule]["has_helped"]


def test_a_tuned_distance_is_a_few_kilobytes_of_weights_at_or_above_0(
    folder: Path, judges: dict[Rule, dict[str, Any]]
) -> None:
    path = folder / "colour-tuned" / "model.safetensors"
    assert path.stat().st_size < 12_000
    state = load_file(path)
    assert {key: tuple(value.shape) for key, value in state.items()} == {"weights": (2240,)}
    assert (state["weights"] >= 0).all()


def ranked(folder: Path, trunk: Path) -> tuple[Path, list[list[Any]]]:
    """12 drawn pictures, each the target of 6 others. Anna ranks by the first layer of LPIPS alone, Berta by chance."""
    random = np.random.default_rng(5)
    names = [f"{path.parent.name}/{path.name}" for path in sorted(folder.glob("drawn/*.png"))][:12]
    pictures = [Image.open(folder / name).resize((48, 48), Image.Resampling.BICUBIC) for name in names]
    network = load_trunk("squeeze", trunk, "cpu")
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
        first_layer = network.unit_features(pixels.float() / 255)[0]
    weights = published_weights("squeeze")[:64]
    rows: list[list[Any]] = []
    for t, target in enumerate(names):
        others = random.choice([i for i in range(len(names)) if i != t], 6, replace=False)
        apart = [float((first_layer[t] - first_layer[i]).square().mean(dim=(1, 2)) @ weights) for i in others]
        for rank, place in enumerate(np.argsort(apart), start=1):
            rows.append([target, names[others[place]], rank, "anna"])
        for rank, place in enumerate(random.permutation(6), start=1):
            rows.append([target, names[others[place]], rank, "berta"])
    return write_table(folder / "rankings.csv", rows), rows


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["target", "image", "rank", "rater"], *rows])
    return path


@pytest.fixture(scope="module")
def rankings(folder: Path, trunk: Path) -> tuple[Path, list[list[Any]]]:
    write_triplets(folder / "ranked" / "drawn", "colour", 4, drawing="inked")
    return ranked(folder / "ranked", trunk)


@pytest.fixture(scope="module")
def both(tune: Tune, rankings: tuple[Path, list[list[Any]]]) -> dict[str, Any]:
    return tune(rankings[0], "--size", 48, out="both")


def of(record: dict[str, Any], rater: str, measure: str = "Spearman") -> dict[str, Any]:
    (found,) = (c for c in record["changes"] if (c["rater"], c["measure"]) == (rater, measure))
    return dict(found)


def test_spearman_before_tuning_is_that_of_lpips(
    both: dict[str, Any], rankings: tuple[Path, list[list[Any]]], trunk: Path
) -> None:
    path, rows = rankings
    pairs = [(path.parent / row[0], path.parent / row[1]) for row in rows]
    distance = load_distance(f"lpips:squeeze@{trunk}", size=48, device="cpu")
    distances = distance.of_pairs(pairs, Resources(path.parent / "store"))
    for rater in ("anna", "berta"):
        own = []
        for target in sorted({row[0] for row in rows}):
            some = [i for i, row in enumerate(rows) if (row[0], row[3]) == (target, rater)]
            own.append(spearmanr(distances[some], [rows[i][2] for i in some]).statistic)
        assert of(both, rater)["before"]["value"] == approx(np.mean(own), abs=1e-9)


def test_one_who_ranks_by_a_layer_is_learned_on_targets_never_seen_and_chance_is_not(
    tune: Tune, rankings: tuple[Path, list[list[Any]]]
) -> None:
    anna, berta = (
        tune(rankings[0], "--size", 48, "--pull", 0.001, "--rater", name, out=name) for name in ("anna", "berta")
    )
    learned = of(anna, "everybody")
    assert learned["after"]["value"] > max(0.8, learned["before"]["value"])
    assert of(anna, "everybody", "ICC(A,1)")["after"]["value"] > 0.8
    assert anna["has_helped"]
    assert max(range(7), key=anna["layer_scales"].__getitem__) == 0
    assert not berta["has_helped"]
    assert abs(of(berta, "everybody")["after"]["value"]) < 0.4
    assert (anna["n_raters"], anna["n_rankings"], anna["n_targets"]) == (1, 12, 12)


def test_a_strong_pull_leaves_lpips_as_it_is(
    tune: Tune, rankings: tuple[Path, list[list[Any]]], folder: Path, trunk: Path
) -> None:
    path, rows = rankings
    tune(path, "--size", 48, "--pull", 1e6, "--per", "channel", out="pulled")
    pairs = [(path.parent / row[0], path.parent / row[1]) for row in rows[:8]]
    ours, lpips = (
        load_distance(f"{spec}@{trunk}", size=48, device="cpu").of_pairs(pairs, Resources(path.parent / "store"))
        for spec in (f"clpips:{folder}/pulled", "lpips:squeeze")
    )
    assert ours == approx(lpips, rel=1e-4)


def test_the_order_of_rows_moves_no_weight(
    tune: Tune, rankings: tuple[Path, list[list[Any]]], both: dict[str, Any], folder: Path
) -> None:
    path, rows = rankings
    shuffled = write_table(
        path.with_name("shuffled.csv"), [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    )
    again = tune(shuffled, "--size", 48, out="again")
    assert again["changes"] == both["changes"]
    one, other = (load_file(folder / name / "model.safetensors")["weights"] for name in ("both", "again"))
    assert torch.equal(one, other)


def test_the_size_of_the_tuning_is_that_of_the_distance(folder: Path, both: dict[str, Any], trunk: Path) -> None:
    plain = load_distance(f"clpips:{folder}/both@{trunk}", device="cpu")
    assert plain.description["size"] == 48
    assert plain.fingerprint == load_distance(f"clpips:{folder}/both@{trunk}", size=48, device="cpu").fingerprint


def test_targets_of_the_split_test_are_never_tuned_to(
    tune: Tune, rankings: tuple[Path, list[list[Any]]], folder: Path, trunk: Path, refusal: Refusal
) -> None:
    path, rows = rankings
    header = ["target", "image", "rank", "rater", "split"]
    weights = []
    for name, last in (("told", 1), ("turned", -1)):
        own = [[*row[:2], row[2] if row[0] < "drawn/0002" else last * row[2] + 7 * (last < 0), row[3],
                "train" if row[0] < "drawn/0002" else "test"] for row in rows]  # fmt: skip
        table = path.with_name(f"{name}.csv")
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([header, *own])
        record = tune(table, "--size", 48, out=name)
        assert record["changes"][0]["n_targets"] == 6
        weights.append(load_file(folder / name / "model.safetensors")["weights"])
    assert torch.equal(*weights)
    table.write_text(table.read_text().replace(",train", ",test"))
    assert "which is never tuned to" in refused(refusal, table, trunk, folder / "none")


def test_people_are_told_what_came_of_it(
    cli: Cli, rankings: tuple[Path, list[list[Any]]], trunk: Path, tmp_path: Path
) -> None:
    how = ("--recipe", "clpips", "--network", "squeeze", "--trunk", trunk, "--size", 48, "--device", "cpu")
    done = cli("agreement", "tune", rankings[0], *how, "--out", tmp_path / "out")
    lines = done.stdout.splitlines()
    assert lines[0] == "360 pairs of 24 rankings; 12 targets, each held out once, in 10 rounds"
    assert lines[1].startswith("held-out Spearman ")
    assert lines[2].startswith("held-out ICC(A,1) ")
    assert [line.split(":")[0] for line in lines[3:5]] == ["  anna", "  berta"]
    assert lines[-1].startswith("tuning ")


def refused(refusal: Refusal, table: Path, trunk: Path, out: Path, *more: object) -> str:
    how = ("--recipe", "clpips", "--network", "squeeze", "--trunk", trunk, "--size", 48, "--device", "cpu")
    line = refusal("agreement", "tune", table, *how, *more, "--out", out)
    assert not out.exists()
    return line


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        (lambda row: [*row[:2], 1, row[3]], (), "no two pictures of one target stand at different ranks"),
        (lambda row: row if row[0] < "drawn/0000-same-shape" else None, (), "give 3 at least"),
        (lambda row: row, ("--rater", "Anna"), "--rater Anna: judged nothing here; known: anna, berta"),
        (lambda row: row, ("--resume",), "--resume: clpips tunes in one go"),
        (lambda row: row, ("--epochs", 3), "--epochs: is no option of the recipe clpips"),
        (lambda row: row, ("--per", "pixel"), "--per pixel: out of range; write channel or layer"),
        (lambda row: row, ("--pull", 0), "--pull 0.0: out of range"),
        (lambda row: row, ("--trunk", "none.pth"), "--trunk none.pth: no such file; give squeeze's weights"),
        (lambda row: [*row[:2], 7 - row[2], row[3]] if row[3] == "anna" else None, ("--pull", 0.001), "is the nearest"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_to_is_refused_in_a_line(
    change: Callable[[list[Any]], list[Any] | None], more: tuple[object, ...], expected: str,
    rankings: tuple[Path, list[list[Any]]], trunk: Path, tmp_path: Path, refusal: Refusal,
) -> None:  # fmt: skip
    path, rows = rankings
    table = write_table(path.with_name("changed.csv"), [new for row in rows if (new := change(row)) is not None])
    assert expected in refused(refusal, table, trunk, tmp_path / "out", *more)


def test_a_rater_of_one_picture_is_named(
    cli: Cli, rankings: tuple[Path, list[list[Any]]], trunk: Path, tmp_path: Path
) -> None:
    path, rows = rankings
    few = [row for row in rows if row[0] < "drawn/0001-same-colour"]
    table = write_table(path.with_name("one.csv"), [*few, [rows[0][0], rows[0][1], 1, "cleo"]])
    how = ("--recipe", "clpips", "--network", "squeeze", "--trunk", trunk, "--size", 48, "--device", "cpu")
    done = cli("agreement", "tune", table, *how, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "8 rankings, fewer than a dozen" in done.stderr
    assert "rater cleo: no held-out target with two pictures that they hold apart; left out" in done.stderr
    assert "nan" not in done.stdout.lower()


def spoilt(folder: Path, tmp_path: Path, **tensors: torch.Tensor) -> Path:
    copy = tmp_path / "spoilt"
    shutil.copytree(folder / "both", copy)
    if tensors:
        save_file(tensors, copy / "model.safetensors")
    return copy


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (torch.full((2240,), -1e-6), "a weight is below 0 or no number"),
        (torch.full((2240,), torch.nan), "a weight is below 0 or no number"),
        (torch.zeros(2240), "all weights are 0"),
        (torch.ones(1152), "holds other tensors than weights of 2240 channels"),
        (torch.ones(2240, dtype=torch.int64), "a weight is below 0 or no number"),
    ],
)
def test_weights_that_no_tuning_gives_are_refused(
    weights: torch.Tensor, expected: str, folder: Path, both: dict[str, Any], trunk: Path, tmp_path: Path
) -> None:
    copy = spoilt(folder, tmp_path, weights=weights)
    with pytest.raises(FinerRankError, match=expected):
        _ = load_distance(f"clpips:{copy}@{trunk}", device="cpu").fingerprint
    (copy / "model.safetensors").unlink()
    with pytest.raises(FinerRankError, match=r"model\.safetensors: is missing; tune it again"):
        _ = load_distance(f"clpips:{copy}@{trunk}", device="cpu").fingerprint


def test_another_trunk_is_refused(folder: Path, both: dict[str, Any], trunk: Path, tmp_path: Path) -> None:
    state = load_file(trunk)
    state["0.bias"][0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(FinerRankError, match="was tuned on another trunk of squeeze"):
        _ = load_distance(f"clpips:{folder}/both@{tmp_path}/other.safetensors", device="cpu").fingerprint


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('network = "squeeze"', 'network = "resnet"', "network is none of alex, vgg, squeeze"),
        ("size = 48", "size = 4", "size is none of 17 to 4096 pixels"),
        ("format = 1", "format = 2", "this program reads 1; tune it again"),
        ("size = 48", "size = 48\nclamp = 1", "unknown entry 'clamp'"),
        ("size = 48\n", "", "lacks 'size'"),
    ],
)
def test_a_description_that_is_none_is_refused(
    old: str, new: str, expected: str, folder: Path, both: dict[str, Any], tmp_path: Path
) -> None:
    path = spoilt(folder, tmp_path) / "distance.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FinerRankError, match=expected):
        load_distance(f"clpips:{path.parent}")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for spec in ("clpips", f"clpips:{tmp_path}"):
        with pytest.raises(FinerRankError, match=r"no distance.toml there"):
            load_distance(spec)
