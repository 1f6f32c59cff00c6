"""Simulated models: how much of an identity is lost is what was asked for, and scenes are the same for all."""

from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal, lacking, rows_of
from PIL import Image

from galleries.gallery import Gallery
from personalization_runs.run import Run
from personalization_runs.simulate import FAILURES, SimulatedModel, simulate

N_IDENTITIES, N_IMAGES = 6, 2


@pytest.fixture(scope="module")
def critters(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Gallery:
    out = tmp_path_factory.mktemp("world") / "critters"
    numbers = ("--species", 2, "--identities", 3, "--photos", 2, "--references", 2, "--size", 64, "--seed", 5)
    done = cli("gallery", "build", "critters", "--out", out, *numbers)
    assert done.returncode == 0, done.stderr
    return Gallery.open(out)


def drawn(gallery: Gallery, out: Path, model: SimulatedModel, seed: int = 0) -> Run:
    return simulate(gallery, model, out, "simulated", n_images=N_IMAGES, seed=seed, size_px=64)


def pixels(run: Run) -> dict[tuple[str, str], np.ndarray]:
    """Of each identity and prompt."""
    return {
        (image.identity, image.prompt_id): np.asarray(Image.open(image.path), dtype=np.float64) for image in run.images
    }


def distance(run: Run, other: Run) -> float:
    ours, theirs = pixels(run), pixels(other)
    assert ours.keys() == theirs.keys()
    return float(np.mean([np.abs(ours[key] - theirs[key]).mean() for key in ours]))


def test_the_same_seed_gives_the_same_run_and_another_one_other_scenes(critters: Gallery, tmp_path: Path) -> None:
    first, again = (drawn(critters, tmp_path / name, SimulatedModel()) for name in ("a", "b"))
    assert [image.path.read_bytes() for image in first.images] == [image.path.read_bytes() for image in again.images]
    other = drawn(critters, tmp_path / "c", SimulatedModel(), seed=1)
    assert {image.file_name for image in other.images} == {image.file_name for image in first.images}
    assert [image.path.read_bytes() for image in first.images] != [image.path.read_bytes() for image in other.images]


def test_images_move_away_from_the_faithful_ones_as_drift_grows(critters: Gallery, tmp_path: Path) -> None:
    faithful = drawn(critters, tmp_path / "0", SimulatedModel())
    apart = [
        distance(faithful, drawn(critters, tmp_path / f"{drift}", SimulatedModel(drift=drift)))
        for drift in (0.25, 0.5, 1.0)
    ]
    assert 0 < apart[0] < apart[1] < apart[2]


@pytest.mark.parametrize("group", ["pattern", "colour", "proportions"])
def test_each_group_of_details_drifts_alone(critters: Gallery, tmp_path: Path, group: str) -> None:
    faithful = drawn(critters, tmp_path / "0", SimulatedModel())
    one = distance(faithful, drawn(critters, tmp_path / "1", SimulatedModel(drift=1.0, groups=(group,))))
    everything = distance(faithful, drawn(critters, tmp_path / "all", SimulatedModel(drift=1.0)))
    assert 0 < one < everything


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_an_ordinary_run_of_the_gallery(
    cli: Cli, critters: Gallery, tmp_path: Path, failure: str
) -> None:
    done = cli(
        "run", "simulate", "-g", critters.root, "--failure", failure, "--images", N_IMAGES, "--size", 64,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checked = cli("run", "check", tmp_path / "run", "--gallery", critters.root)
    assert checked.returncode == 0, checked.stderr
    run, rows = Run.open(tmp_path / "run"), rows_of(tmp_path / "run")
    assert len(rows) == N_IDENTITIES * N_IMAGES
    assert run.is_class_only == (failure == "class-only")
    assert all(("sks" in row["prompt"]) != run.is_class_only for row in rows)
    assert len(run.queries(critters)) == len(rows) * (3 if run.is_class_only else 1)


def test_failures_draw_what_they_say(critters: Gallery, tmp_path: Path) -> None:
    runs = {
        failure: drawn(critters, tmp_path / (failure or "faithful"), SimulatedModel(failure=failure))
        for failure in ("", "copied-reference", "background-leak", "prompts-ignored", "look-alike")
    }
    references = {photo.file_name: photo.path for photo in critters.split("reference")}

    def is_near_reference(image_path: Path, reference: str) -> float:
        photo = np.asarray(Image.open(references[reference]).convert("RGB"), dtype=np.float64)
        return float(np.abs(np.asarray(Image.open(image_path), dtype=np.float64) - photo).mean())

    near = {
        failure: np.mean([is_near_reference(image.path, image.reference_file_name) for image in run.images])
        for failure, run in runs.items()
    }
    assert near["copied-reference"] < near["background-leak"] < near["look-alike"]
    assert near["prompts-ignored"] < near[""]
    copies = runs["copied-reference"].images
    assert not {image.path.read_bytes() for image in copies} & {path.read_bytes() for path in references.values()}


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--drift", 1.5), ("--drift 1.5", "0 (faithful)")),
        (("--groups", "fur"), ("--groups fur", "pattern")),
        (("--toward", "me"), ("--toward me", "other, mean")),
        (("--failure", "lazy"), ("--failure lazy", "collapse")),
        (("--failure", "collapse", "--drift", 0.5), ("leave one of them out",)),
        (("--images", 9), ("--images 9", "8 places")),
    ],
)
def test_what_makes_no_sense_is_refused(
    refusal: Refusal, critters: Gallery, tmp_path: Path, options: tuple[object, ...], mentions: tuple[str, ...]
) -> None:
    line = refusal("run", "simulate", "-g", critters.root, "--out", tmp_path / "run", *options)
    assert not lacking(line, *mentions)
    assert not (tmp_path / "run").exists()


def test_a_gallery_of_photos_is_refused(refusal: Refusal, zoo: Path, tmp_path: Path) -> None:
    assert "no gallery of critters" in refusal("run", "simulate", "-g", zoo, "--out", tmp_path / "run")


def test_a_simulated_run_can_be_submitted_as_it_is(critters: Gallery, tmp_path: Path, cli: Cli) -> None:
    run = drawn(critters, tmp_path / "faithful", SimulatedModel())
    assert (run.card.method, run.card.base_model) == ("simulated", "none: drawn by galleries.critters")
    added = cli("leaderboard", "add", run.root, "-g", critters.root, "-e", "classical", "--out", tmp_path / "board")
    assert added.returncode == 0, added.stderr
    [bundle] = (tmp_path / "board").iterdir()
    assert list((bundle / "thumbnails").iterdir())
    assert cli("leaderboard", "check", bundle).returncode == 0
