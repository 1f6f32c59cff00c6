"""`finer-rank ablate` says what its tables hold, embeds nothing twice and refuses a mistake in one line."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from animals import write_run, write_zoo
from handmade import Cli, Refusal
from PIL import Image
from pytest import approx
from typer.testing import CliRunner

import finer_rank
from benchmark.ablation_plot import draw_ablation
from benchmark.scores import chance_average_precision
from galleries.figures import FORMATS


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
