"""Feature inversion: a linear network gives back what it keeps; the command, by seed and with its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal
from perceiving import coarse, patchwork, pixels_of, save, seeing
from PIL import Image
from pytest import approx

from benchmark.embedders import load_embedder
from benchmark.perception.inversion import WAYS, Settings, Way, invert


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        save(patchwork(seed, 64), folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_what_a_linear_network_keeps_comes_back(photos: Path, tmp_path: Path, way: Way) -> None:
    embedder = seeing(tmp_path, coarse)
    target = embedder.embed([photos / "0.png"])[0]
    found = invert(embedder, target, Settings(way, steps={"pixels": 100, "prior": 60}[way]))
    assert found.distance < {"pixels": 0.003, "prior": 0.03}[way]
    assert found.distance == approx(1 - float(found.row @ target), abs=1e-6)
    assert np.mean(found.curve[-20:]) < np.mean(found.curve[:20]) / {"pixels": 8, "prior": 4}[way]
    cells = [np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float64) - 127.5
             for image in (Image.fromarray(found.pixels), Image.open(photos / "0.png"))]  # fmt: skip
    assert np.corrcoef(cells[0].ravel(), cells[1].ravel())[0, 1] > 0.85


@pytest.mark.parametrize("way", WAYS)
def test_the_seed_decides_the_picture(photos: Path, tmp_path: Path, way: Way) -> None:
    embedder = seeing(tmp_path, coarse)
    target = embedder.embed([photos / "1.png"])[0]
    one, again, other = (invert(embedder, target, Settings(way, 4, seed)) for seed in (3, 3, 4))
    assert (one.pixels == again.pixels).all()
    assert one.curve == again.curve
    assert (one.pixels != other.pixels).any()


def test_the_command_writes_pictures_that_are_taken_for_their_targets(photos: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    namesake = save(patchwork(1, 64), tmp_path / "0.png")  # of the name of another, with the content of 1.png
    command = ("perception", "inversion", photos / "0.png", "-e", "critter-reid", "--steps", 40, "--by", "pixels")
    done = cli(*command, namesake, "--among", photos, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert json.loads((out / "inversion.json").read_text()) == content
    assert {each["target"] for each in content["inversions"]} == {str(photos / "0.png"), str(namesake)}
    for each in content["inversions"]:
        assert each["distance"] < each["before"] / 3
        assert (each["rank"], each["n_photos"]) == (1, 4)
        assert each["nearest_other"] > each["distance"]
        # The PNG itself is what was measured.
        embedder = load_embedder("critter-reid", device="cpu")
        rows = embedder.embed([out / each["file"], each["target"]]).astype(np.float64)
        assert each["distance"] == approx(1 - rows[0] @ rows[1], abs=1e-5)
        assert pixels_of(out / each["file"]).shape == (96, 96, 3)
    assert {path.name for path in out.iterdir()} == {
        "inversion.json", "inversion.png", "curves.png", *(each["file"] for each in content["inversions"])
    }  # fmt: skip
    alone = cli(*command, "--among", photos, "--out", tmp_path / "alone", "--json")
    same = json.loads(alone.stdout)["inversions"][0]
    beside = next(each for each in content["inversions"] if each["target"] == str(photos / "0.png"))
    assert {**same, "nearest": ""} == {**beside, "nearest": ""}  # the namesake's content has another name here


def test_what_cannot_be_inverted_is_refused(photos: Path, tmp_path: Path, refusal: Refusal) -> None:
    command = ("perception", "inversion", photos / "0.png", "--out", tmp_path / "out")
    assert "classical: no network of torch" in refusal(*command, "-e", "classical")
    ensemble = "ensemble:critter-reid=0.5,classical=0.5"
    assert "name one of its members" in refusal(*command, "-e", ensemble)
    assert "--by dream: unknown" in refusal(*command, "-e", "critter-reid", "--by", "dream")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    taken = ("perception", "inversion", photos / "0.png", "-e", "critter-reid", "--out", tmp_path / "taken")
    assert "exists already" in refusal(*taken)
    assert not (tmp_path / "out").exists()
