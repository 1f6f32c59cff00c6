"""Our own board, `leaderboard/records`: sound, as the code makes it today, without a picture that may not be shown."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from boards import finer
from pytest import approx

from galleries.critters.drawn_gallery import draw_gallery
from galleries.freeze import find_manifest
from personalization_runs.demo import MODELS, N_IMAGES, PLAN
from personalization_runs.simulate import simulate

ROOT = Path(__file__).parent.parent.parent
RECORDS = ROOT / "leaderboard" / "records"
FROZEN = ("dreambooth-outputs", "dreambooth-prior", "dreambooth-sdxl")
BUNDLES = sorted(folder for folder in RECORDS.iterdir() if folder.is_dir())
DATA = os.environ.get("FINER_RANK_DATA", "")


def manifest_of(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return content


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, content in value.items():
            yield key
            yield from strings_in(content)
    elif isinstance(value, list):
        for content in value:
            yield from strings_in(content)
    elif isinstance(value, str):
        yield value


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    code, said, err = finer("leaderboard", "check", RECORDS, "--json")
    assert code == 0, err
    content: dict[str, Any] = json.loads(said)
    return content


def test_our_bundles_may_be_published(checked: dict[str, Any]) -> None:
    assert {Path(each["bundle"]).name for each in checked["bundles"]} == {folder.name for folder in BUNDLES}
    assert not any(each["faults"] for each in checked["bundles"])
    assert {board["gallery"] for board in checked["boards"]} == {"critters", *FROZEN}


def test_untuned_models_are_anchors_and_only_whole_runs_are_ranked(checked: dict[str, Any]) -> None:
    ranked = {(board["gallery"], row["model"]) for board in checked["boards"] for row in board["rows"]}
    assert not any(model.startswith("untuned") for _, model in ranked)
    assert {gallery for gallery, model in ranked if model == "all published outputs"} == {"dreambooth-outputs"}
    assert {model for gallery, model in ranked if gallery == "critters"} == {*MODELS, "background-leak"}
    assert all(Path(each["bundle"]).name.startswith("dreambooth-outputs-1--") for each in checked["incomplete"])


def test_the_board_says_what_the_readme_says(checked: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| ([a-z-]+) \| [^|]+ \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \|", readme, re.MULTILINE)
    (rows,) = (b["rows"] for b in checked["boards"] if (b["gallery"], b["embedder"]) == ("critters", "critter-reid"))
    found = {row["model"]: [row["mean_average_precision"], row["low"], row["high"]] for row in rows}
    assert len(shown) == len(MODELS)
    for model, *numbers in shown:
        assert [float(number) for number in numbers] == approx(found[model], abs=0.0006)


def test_the_page_says_of_prior_preservation_what_the_records_say() -> None:
    page = (ROOT / "docs" / "our-board.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    shown = {name: [float(number) for number in numbers] for name, *numbers in rows}
    found: dict[str, list[float]] = {}
    for bundle in RECORDS.glob("dreambooth-prior-1--*"):
        (path,) = bundle.glob("records/torchvision*/record.json")
        record = json.loads(path.read_text(encoding="utf-8"))
        subjects = [record["identities"][name] for name in ("dog", "cat", "robot_toy")]
        found[record["run"]["name"]] = [subject["mAP"]["value"] for subject in subjects]
        found["chance"] = [subject["chance"] for subject in subjects]
    assert shown.keys() == found.keys()
    for name, numbers in shown.items():
        assert numbers == approx(found[name], abs=0.0006)


def test_records_name_no_place_of_the_machine_that_made_them() -> None:
    for path in RECORDS.rglob("*.json"):
        for said in strings_in(json.loads(path.read_text(encoding="utf-8"))):
            assert not said.startswith(("/", "~", "..", "\\")), path
            assert "@/" not in said, path


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in RECORDS.rglob("*") if path.is_file()) < 12_000_000


def test_no_picture_of_dreambooth_is_in_the_repository() -> None:
    photos = {digest for name in FROZEN for digest in find_manifest(f"{name}-1").contents.values()}
    assert len(photos) == 156
    for bundle in BUNDLES:
        manifest = manifest_of(bundle)
        pictures = {Path(name).stem for name in manifest["files"] if name.endswith(".webp")}
        assert not pictures & photos
        if manifest["gallery"]["name"] in FROZEN:
            assert {path.suffix for path in bundle.rglob("*") if path.is_file()} == {".json", ".parquet"}
            assert manifest["references"] == []
        else:
            assert len(pictures) > 90
    for path in (*RECORDS.rglob("*.webp"), *(ROOT / "docs").rglob("*.webp")):
        assert hashlib.sha256(path.read_bytes()).hexdigest() not in photos


def test_a_site_of_them_shows_every_board(tmp_path: Path) -> None:
    code, _, err = finer("leaderboard", "build", RECORDS, "--out", tmp_path / "site")
    assert code == 0, err
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for gallery in ("critters", *FROZEN):
        assert f'href="{gallery}-1-protocol-1/index.html"' in start
    shown = {name for bundle in BUNDLES for name in manifest_of(bundle)["files"] if name.endswith(".webp")}
    assert len(list((tmp_path / "site" / "thumbnails").iterdir())) == len(shown)


def test_the_workflows_that_publish_a_board_are_whole(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    workflows = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    assert [workflow["name"] for workflow in workflows] == ["pages", "submission"]
    for workflow in workflows:
        assert workflow["permissions"]["contents"] == "read"
        (job,) = workflow["jobs"].values()
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
        commands = [step["run"].split() for step in job["steps"] if step.get("run", "").startswith("finer-rank ")]
        assert [command[2] for command in commands] == ["check", "build"]
        for _, *arguments in commands:
            # On one small bundle; all of them are checked and built above.
            changed = [re.sub(r".*leaderboard/records", str(BUNDLES[-1]), argument) for argument in arguments]
            code, _, err = finer(*(str(tmp_path / "site") if argument == "site" else argument for argument in changed))
            assert code == 0, err


def test_drawn_and_scored_today_the_faithful_model_gives_the_same_bundle(tmp_path: Path) -> None:
    gallery = draw_gallery(PLAN, tmp_path / "gallery", "critters")
    run = tmp_path / "faithful"
    simulate(gallery, MODELS["faithful"], run, "faithful", n_images=N_IMAGES)
    bundle = RECORDS / "critters-1--faithful"
    code, _, err = finer("leaderboard", "check", bundle, "--gallery", tmp_path / "gallery", "--run", run)
    assert code == 0, err


@pytest.mark.skipif(not DATA, reason="real data are not at hand: FINER_RANK_DATA names no folder")
def test_the_documented_commands_make_the_runs_of_dreambooth_again(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "our-board.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    start, *parts = re.split(r"^# ", block, flags=re.MULTILINE)
    (part,) = (part.partition("\n")[2] for part in parts if part.startswith("with and without prior preservation\n"))
    program = f'finer-rank() {{ "{sys.executable}" -m finer_rank "$@"; }}\n'
    environment = {**os.environ, "DATA": f"{DATA}/data", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", program + start + part], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    code, _, err = finer(
        "leaderboard", "check", RECORDS / "dreambooth-prior-1--with_prior_preservation-8d1740",
        "--gallery", tmp_path / "dreambooth" / "dreambooth-prior", "--run", tmp_path / "dreambooth/runs/prior/with",
        "--embedder", f"torchvision:squeezenet1_1@{DATA}/weights/squeezenet1_1_imagenet.safetensors",
    )  # fmt: skip
    assert code == 0, err
