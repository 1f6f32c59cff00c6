"""Images that a safety checker keeps back: said everywhere, scored nowhere, and missing where whole runs compete."""

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import Cli, Refusal, files_below, lacking, rows_of, write_rows
from PIL import Image
from tiny.sd import save_sd

from leaderboard.bundle_check import check_bundle
from leaderboard.record_schema import DECLARED

FLAGGED = "flagged by the safety checker"
PROMPTS = {"snow": "a {subject} in snow", "sea": "a {subject} in the sea"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion with a safety checker that flags nothing."""
    return save_sd(tmp_path_factory.mktemp("careless") / "sd", flags="nothing")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one that flags everything."""
    return save_sd(tmp_path_factory.mktemp("strict") / "sd", flags="everything")


@pytest.fixture
def prudish(careless: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one that flags the second image that it is shown."""
    checkers = importlib.import_module("diffusers.pipelines.stable_diffusion.safety_checker")
    check, shown = checkers.StableDiffusionSafetyChecker.forward, []

    def forward(self: Any, clip_input: Any, images: Any) -> Any:
        images, flags = check(self, clip_input, images)
        shown.extend(flags)
        return images, [n == 1 for n in range(len(shown) - len(flags), len(shown))]

    monkeypatch.setattr(checkers.StableDiffusionSafetyChecker, "forward", forward)
    return careless


def order(zoo: Path, weights: Path, out: Path) -> tuple[object, ...]:
    rows = [{"prompt_id": prompt_id, "prompt": prompt} for prompt_id, prompt in PROMPTS.items()]
    prompts = write_rows(zoo.parent / "prompts.csv", rows)
    sizes = [word for size in ("steps=1", "width=32", "height=32") for word in ("--set", size)]
    which = ("-g", zoo, "-m", "class-only", "--prompts", prompts, "--weights", weights)
    return ("run", "generate", *which, *sizes, "--out", out, "--device", "cpu")


def refused_rows(run: Path) -> list[dict[str, str]]:
    with (run / "refused.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scored(cli: Cli, zoo: Path, run: Path, out: Path) -> tuple[dict[str, Any], str]:
    """The record of a run, and what was said on the way."""
    done = cli("evaluate", "-g", zoo, "-r", run, "--embedder", "classical", "--out", out)
    assert done.returncode == 0, done.stderr
    [path] = out.rglob("record.json")
    return json.loads(path.read_bytes()), done.stderr


def test_a_flagged_image_is_said_everywhere_and_scored_nowhere(
    zoo: Path, prudish: Path, tmp_path: Path, cli: Cli
) -> None:
    run = tmp_path / "run"
    made = cli(*order(zoo, prudish, run), "--batch-size", 3)
    assert "3 images of 2 identities, 1 more refused by a filter" in made.stdout, made.stderr
    [refused] = refused_rows(run)
    assert not {"identity": "rex", "prompt": "a dog in the sea", "prompt_id": "sea", "reason": FLAGGED}.items() - (
        refused.items()
    )
    assert refused["seed"].isdecimal()
    rows = rows_of(run)
    assert [(row["identity"], row["prompt_id"]) for row in rows] == [("rex", "snow"), ("tom", "sea"), ("tom", "snow")]
    assert refused["seed"] not in {row["seed"] for row in rows}
    assert len(list(run.rglob("*.png"))) == 3
    for command in (("show", run), ("check", run, "--gallery", zoo)):
        assert "1 more refused by a filter" in cli("run", *command).stdout

    record, said = scored(cli, zoo, run, tmp_path / "records")
    assert (record["n_images"], record["run"]["n_refused"]) == (3, 1)
    assert "note: class-only: 1 images were refused by a filter: not scored\n" in said
    done = cli("evaluate", "-g", zoo, "-r", run, "--embedder", "classical", "--json")
    assert json.loads(done.stdout)["records"][0]["n_refused"] == 1


def test_a_checker_that_flags_nothing_leaves_no_trace(zoo: Path, careless: Path, tmp_path: Path, cli: Cli) -> None:
    made = cli(*order(zoo, careless, tmp_path / "run"), "--json")
    assert [row["refused"] for row in json.loads(made.stdout)] == [0]
    assert not (tmp_path / "run" / "refused.csv").exists()
    record, said = scored(cli, zoo, tmp_path / "run", tmp_path / "records")
    assert "n_refused" not in record["run"]
    assert "refused" not in said


def test_no_run_is_made_of_refusals_alone(
    zoo: Path, strict: Path, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refusal(*order(zoo, strict, tmp_path / "run"))
    assert not lacking(line, f"every image was refused ({FLAGGED})", "--weights", str(tmp_path / ".run.generating"))
    assert not (tmp_path / "run").exists()
    there = files_below(tmp_path)
    assert sum(name.endswith(".png.json") for name in there) == 4
    from diffusers import StableDiffusionPipeline

    monkeypatch.delattr(StableDiffusionPipeline, "__call__")
    assert refusal(*order(zoo, strict, tmp_path / "run")) == line, "what is known is asked for again"
    assert files_below(tmp_path) == there


# ---- as a submission


@pytest.fixture
def declared(painted: Path) -> Path:
    """A run with all that a submission declares, and an image more that was refused."""
    card = dict.fromkeys(DECLARED, "said") | {"model": "painter", "gallery": "zoo", "gallery_version": "2"}
    (painted / "run.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in card.items()))
    rows = [row | {"prompt_id": "asleep"} for row in rows_of(painted)]  # every identity has every prompt
    write_rows(painted / "metadata.csv", rows)
    for row in rows:  # which is too small to be submitted
        path = painted / row["file_name"]
        Image.open(path).resize((64, 64)).save(path)
    write_rows(painted / "refused.csv", [{"identity": "tom", "prompt_id": "asleep", "reason": FLAGGED}])
    return painted


def test_a_refused_image_counts_as_missing(
    zoo: Path, declared: Path, tmp_path: Path, cli: Cli, refusal: Refusal
) -> None:
    add = ("leaderboard", "add", declared, "-g", zoo, "-e", "classical", "--out", tmp_path / "board")
    line = refusal(*add)
    said = f"1 images were refused by a filter, and count as missing (first tom: asleep, {FLAGGED})"
    assert not lacking(line, "refused.csv", said, "--incomplete")

    done = cli(*add, "--incomplete")
    assert done.returncode == 0, done.stderr
    assert "incomplete, will not be ranked: 1 images were refused by a filter\n" in done.stderr
    [bundle] = (tmp_path / "board").iterdir()
    assert check_bundle(bundle).manifest["incomplete"] == ["1 images were refused by a filter"]
    assert cli("leaderboard", "check", bundle, "--gallery", zoo, "--run", declared).returncode == 0


def test_refusals_cannot_be_hidden_in_the_manifest(zoo: Path, declared: Path, tmp_path: Path, cli: Cli) -> None:
    board = tmp_path / "board"
    cli("leaderboard", "add", declared, "-g", zoo, "-e", "classical", "--out", board, "--incomplete")
    [bundle] = board.iterdir()
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"incomplete": []}))
    assert any("lacks 1 images were refused" in str(fault) for fault in check_bundle(bundle).faults)
