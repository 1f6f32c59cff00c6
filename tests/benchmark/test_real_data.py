"""Real photos and real outputs of DreamBooth, under a small real encoder, through the command line.

The expected numbers were measured once outside this project. They need the data: set FINER_RANK_DATA to its folder.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Cli
from PIL import Image
from pytest import approx

from benchmark.distances import load_distance
from benchmark.distances.lpips import CHANNELS, load_trunk, published_weights
from benchmark.embedders import load_embedder

FOLDER = os.environ.get("FINER_RANK_DATA", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="real data are not at hand: FINER_RANK_DATA names no folder")

DATA = Path(FOLDER) / "data"
PHOTOS = DATA / "dreambooth" / "images"
MANIFEST = DATA / "dreambooth_outputs" / "manifest.csv"
SQUEEZENET = f"torchvision:squeezenet1_1@{FOLDER}/weights/squeezenet1_1_imagenet.safetensors"
NOT_IN_GALLERY = ("monkey_plushie", "cornell_bottle", "_class_dog", "_class_cat", "_class_bottle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def command(folder: Path, cli: Cli) -> Callable[..., str]:
    """Runs a command that must succeed, and returns what it printed."""

    def run(*arguments: object) -> str:
        done = cli(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


def evaluated(command: Callable[..., str], *arguments: object, embedder: str = SQUEEZENET) -> dict[str, Any]:
    how = ("--embedder", embedder, "--resize", "squash", "--size", "224", "--device", "cpu", "--store", "store")
    found: dict[str, Any] = json.loads(command("evaluate", *arguments, *how, "--json"))
    return found


@pytest.fixture(scope="module")
def all_photos(command: Callable[..., str]) -> dict[str, Any]:
    """Every method's images, ranked among all 158 photos."""
    leave_out = [part for subject in NOT_IN_GALLERY for part in ("--where", f"subject!={subject}")]
    command(
        "run", "import", "table", MANIFEST, "--column", "file_name=path", "--column", "identity=subject",
        "--where", "kind=generated", *leave_out, "--split-by", "method", "--gallery", PHOTOS, "--out", "runs",
    )  # fmt: skip
    return evaluated(command, "--gallery", PHOTOS, "--run", "runs")


@pytest.fixture(scope="module")
def dogs(command: Callable[..., str]) -> dict[str, Any]:
    """Images of a dog, no matter which, ranked among the photos of seven dogs."""
    command("gallery", "build", "folder", PHOTOS, "--include", "dog*", "--category", "dog", "--out", "dogs")
    command(
        "run", "import", "table", MANIFEST, "--column", "file_name=path", "--set", "category=dog",
        "--where", "subject=_class_dog", "--method", "class-only", "--model", "untuned", "--gallery", "dogs",
        "--out", "untuned",
    )  # fmt: skip
    return evaluated(command, "--gallery", "dogs", "--run", "untuned")


def test_exported_the_encoder_gives_the_same_scores(command: Callable[..., str], all_photos: dict[str, Any]) -> None:
    command("embedder", "export", SQUEEZENET, "--out", "squeezenet")
    found = evaluated(command, "--gallery", PHOTOS, "--run", "runs", embedder="checkpoint:squeezenet")
    for anchor, scores in found["anchors"].items():
        assert scores["mAP"]["value"] == approx(all_photos["anchors"][anchor]["mAP"]["value"], abs=1e-6)
    ours, theirs = ({r["run"]: r["mAP"]["value"] for r in each["records"]} for each in (found, all_photos))
    assert len(ours) > 1
    assert ours == approx(theirs, abs=1e-6)


def test_all_photos_find_their_own_subject(all_photos: dict[str, Any]) -> None:
    assert all_photos["anchors"]["held_out"]["mAP"]["value"] == approx(0.910, abs=0.004)
    (work,) = all_photos["embedding"].values()
    assert work["images"] > 158


def test_seven_dogs_are_told_apart(dogs: dict[str, Any]) -> None:
    assert dogs["anchors"]["held_out"]["mAP"]["value"] == approx(0.944, abs=0.004)
    assert dogs["records"][0]["n_gallery_identities"] == 7


@pytest.mark.parametrize(
    ("method", "subject", "expected"),
    [
        ("dreambooth_sd15_full_noPPL_classprompt", "robot_toy", 0.932),
        ("dreambooth_sd15_full_PPL_classprompt", "robot_toy", 0.506),
        ("dreambooth_sdxl_full_classprompt", "cat", 1.000),
        ("dreambooth_sdxl_full_PPL_classprompt", "cat", 0.352),
        ("dreambooth_sd15_full", "dog8", 0.825),
    ],
)
def test_the_loss_of_identity_that_the_eye_sees_is_measured(
    all_photos: dict[str, Any], method: str, subject: str, expected: float
) -> None:
    (record,) = (record for record in all_photos["records"] if record["run"] == method)
    assert record["identities"][subject]["mAP"]["value"] == approx(expected, abs=0.02)


def test_pairwise_similarity_hardly_notices_that_loss(all_photos: dict[str, Any]) -> None:
    similarity = {record["run"]: record["pairwise_similarity"]["value"] for record in all_photos["records"]}
    assert similarity["dreambooth_sd15_full_noPPL_classprompt"] == approx(0.676, abs=0.01)
    assert similarity["dreambooth_sd15_full_PPL_classprompt"] == approx(0.523, abs=0.01)


def test_a_dog_of_nobody_is_everybody_a_little_and_one_dog_a_lot(dogs: dict[str, Any]) -> None:
    (untuned,) = dogs["records"]
    assert untuned["mAP"]["value"] == approx(0.261, abs=0.02)
    assert untuned["mAP"] == dogs["anchors"]["class_only"]["mAP"]
    by_identity = {identity: part["mAP"]["value"] for identity, part in untuned["identities"].items()}
    assert by_identity["dog6"] == approx(0.482, abs=0.02)
    assert len(by_identity) == 7
    assert dogs["anchors"]["chance"]["mAP"]["value"] == approx(0.22, abs=0.01)


def test_lpips_is_the_one_measured_elsewhere() -> None:
    weights = Path(FOLDER) / "weights" / "squeezenet1_1_imagenet.safetensors"
    photos = [PHOTOS / "backpack" / f"0{i}.jpg" for i in (0, 1)]
    distance = load_distance(f"lpips:squeeze@{weights}", size=224, device="cpu")
    assert distance.between(photos[:1], photos[1:])[0] == approx(0.347863, abs=1e-5)
    squashed = [np.asarray(Image.open(p).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) for p in photos]
    one, other = (torch.tensor(pixels).permute(2, 0, 1)[None] / 255 for pixels in squashed)
    trunk = load_trunk("squeeze", weights, "cpu")
    weighed = trunk.differences(one, other)[0] * published_weights("squeeze")
    layers = [float(layer.sum()) for layer in weighed.split(CHANNELS["squeeze"])]
    assert layers == approx([0.038285, 0.007041, 0.050369, 0.112882, 0.068219, 0.029078, 0.041989], abs=1e-5)
    black, grey, white = (torch.full((1, 3, 64, 64), level) for level in (0.0, 0.5, 1.0))
    for dark, expected in ((black, 0.589138), (grey, 0.203119)):
        assert float(trunk.differences(dark, white)[0] @ published_weights("squeeze")) == approx(expected, abs=1e-5)


def test_cosines_are_those_measured_elsewhere() -> None:
    embedder = load_embedder(SQUEEZENET, resize="squash", size=224, device="cpu")
    photos = [Image.open(PHOTOS / name).convert("RGB") for name in ("dog/00.jpg", "dog/01.jpg", "cat/00.jpg")]
    dog, same_dog, cat = embedder.embed(photos)
    assert dog @ same_dog == approx(0.908964, abs=1e-4)
    assert dog @ cat == approx(0.408636, abs=1e-4)


@pytest.fixture(scope="module")
def subjects(command: Callable[..., str], folder: Path) -> Path:
    command("gallery", "build", "dreambooth", DATA / "dreambooth", "--recipe", "one-category", "--out", "subjects")
    return folder / "subjects"


def test_the_leak_gate_finds_the_two_photos_that_were_published_twice(
    command: Callable[..., str], subjects: Path
) -> None:
    found = json.loads(command("gallery", "check", subjects, "--json"))["near_duplicates"]
    assert {(pair["first"], pair["second"], pair["what"]) for pair in found} == {
        ("images/cat/02.jpg", "images/cat/03.jpg", "near-duplicate (cropped)"),
        ("images/dog5/02.jpg", "images/dog5/03.jpg", "near-duplicate (mirrored)"),
    }


def test_no_two_photos_of_the_seven_dogs_but_these_are_taken_for_one(folder: Path, cli: Cli) -> None:
    build = ("gallery", "build", "dreambooth", DATA / "dreambooth", "--include", "dog*", "--references", "2")
    refused = cli(*build, "--out", "gated", cwd=folder)
    assert refused.returncode == 2
    assert "dog5/02.jpg: near-duplicate (mirrored) of the reference dog5/03.jpg" in refused.stderr
    built = cli(*build, "--out", "gated", "--drop-leaks", cwd=folder)
    assert built.returncode == 0
    assert "dropped 1 photo: 1 near-duplicate" in built.stdout


def test_map_falls_with_identities_and_auc_does_not(command: Callable[..., str], subjects: Path) -> None:
    how = ("--embedder", SQUEEZENET, "--resize", "squash", "--size", "224", "--device", "cpu", "--store", "store")
    evaluated(command, "--gallery", subjects)
    found = json.loads(command("ablate", "--gallery", subjects, *how, "--grid", "5x3,10x3,28x3", "--json"))
    assert [work["forward_passes"] for work in found["embedding"].values()] == [0]
    m_ap, auc = ([cell[score] for cell in found["cells"]] for score in ("mAP", "AUC"))
    assert m_ap[0] > m_ap[1] > m_ap[2] + 0.01
    assert max(auc) - min(auc) < 0.005


def test_clpips_is_tuned_to_the_same_subject_and_judged_on_subjects_never_seen(
    command: Callable[..., str],
) -> None:
    command(
        "agreement", "triplets", "--gallery", PHOTOS, "--out", "same", "--n", "200", "--split", "0.5,0,0.5",
    )  # fmt: skip
    how = ("--network", "squeeze", "--trunk", SQUEEZENET.partition("@")[2], "--size", "96", "--device", "cpu", "--json")
    record = json.loads(command("agreement", "tune", "same/triplets.csv", "--recipe", "clpips", *how, "--out", "tuned"))
    (change,) = record["changes"]
    assert (change["measure"], change["n_targets"]) == ("2AFC", 15)
    assert change["before"]["value"] > 0.8
    assert change["after"]["value"] > 0.8
    assert change["gain"]["low"] <= change["after"]["value"] - change["before"]["value"] <= change["gain"]["high"]
