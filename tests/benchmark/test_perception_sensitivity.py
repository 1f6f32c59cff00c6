"""Sensitivity to aspects: what a change does to the pixels, and networks that are blind to one of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, Refusal, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from perceiving import as_distance, left_half, luma_of_parts, mean_colour, patchwork, save
from pytest import approx
from scenes import draw_scene

from benchmark.perception.changes import ASPECTS, LUMA, Subject, changed
from benchmark.perception.photos import chosen, photos_at
from benchmark.perception.sensitivity import measure_sensitivity

SIDE = 48


def subject(seed: int) -> Subject:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < (SIDE / 3) ** 2
    one, other = (patchwork(seed + i, SIDE).astype(np.float32) / 255 for i in (0, 1000))
    return Subject(one, disc, other, seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.sampled_from([*ASPECTS]), st.sampled_from([0.02, 0.05, 0.1]))
def test_all_changes_of_a_level_move_the_pixels_equally_far(seed: int, aspect: str, level: float) -> None:
    own = subject(seed)
    found = changed(own, aspect, level)
    assert found is not None
    pixels, strength = found
    apart = pixels / 255 - own.pixels.astype(np.float64)
    assert np.sqrt(np.mean(apart**2)) == approx(level, abs=0.005 * level + 0.5 / 255)  # what rounding can take
    assert 0 < strength <= ASPECTS[aspect].most
    if aspect == "colour":
        assert np.abs(apart @ LUMA).max() < 0.6 / 255
    if aspect == "foreground":
        assert np.abs(apart[~own.is_subject]).max() < 0.6 / 255
    if aspect == "background":
        assert np.abs(apart[own.is_subject]).max() < 0.6 / 255


def test_what_cannot_be_changed_so_much_is_left() -> None:
    grey = np.full((SIDE, SIDE, 3), 0.5, dtype=np.float32)
    flat = Subject(grey, None, grey, 0)
    assert changed(flat, "orientation", 0.05) is None
    assert changed(flat, "structure", 0.05) is None
    assert changed(flat, "colour", 0.05) is not None


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(8):
        save(patchwork(seed, 64), folder / f"{seed}.png")
    return folder


def sensitivities(folder: Path, distance: Any, aspects: list[str]) -> dict[str, float]:
    (found,) = measure_sensitivity(photos_at(folder), [distance], aspects, [0.05])
    return {each.aspect: each.sensitivity.value for each in found.reactions if each.sensitivity is not None}


def test_a_network_blind_to_colour_does_not_react_to_it(photos: Path, tmp_path: Path) -> None:
    found = sensitivities(photos, as_distance(tmp_path, luma_of_parts), ["colour", "shading", "structure"])
    assert found["colour"] < 1e-4
    assert found["shading"] > 1e-3
    assert found["structure"] > 1e-3


def test_a_network_blind_to_place_reacts_to_colour_most(photos: Path, tmp_path: Path) -> None:
    found = sensitivities(photos, as_distance(tmp_path, mean_colour), ["colour", "orientation", "structure"])
    assert found["colour"] > 20 * max(found["orientation"], found["structure"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery whose masks are the left halves."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = []
    for i in range(6):
        row = draw_scene(folder, f"s{i}", f"subject {i}", f"background {i}", i)
        rows.append({**row, "identity": f"toy {i // 2}", "split": "gallery", "category": "toys"})
        mask = np.zeros((64, 96, 3))
        mask[:, :48] = 255
        save(mask, folder / row["mask_file_name"])
    write_rows(folder / "metadata.csv", rows)
    return folder


def test_a_network_that_reads_the_subject_alone_ignores_the_background(scenes: Path, tmp_path: Path) -> None:
    found = sensitivities(scenes, as_distance(tmp_path, left_half), ["foreground", "background"])
    assert found["background"] < found["foreground"] / 100


def test_names_and_order_of_the_photos_move_no_number(photos: Path, tmp_path: Path, cli: Cli) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in photos.iterdir():
        shutil.copyfile(path, renamed / f"x{9 - int(path.stem)}.png")
    command = ("-m", "critter-reid", "--level", 0.05, "--photos", 3, "--json")
    one, other = (cli("perception", "sensitivity", folder, *command) for folder in (photos, renamed))
    assert one.returncode == 0, one.stderr
    assert one.stdout == other.stdout
    assert "no masks" in one.stderr


def test_photos_are_drawn_from_all_identities_in_turn(scenes: Path) -> None:
    found = photos_at(scenes)
    for seed in range(3):
        assert {photo.identity for photo in chosen(found, 3, seed)} == {"toy 0", "toy 1", "toy 2"}
    assert chosen(found, 3, 0) == chosen(found[::-1], 3, 0)


def test_the_command_says_what_each_metric_reacts_to(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "perception", "sensitivity", scenes, "-m", "critter-reid", "-m", "ssim", "--level", 0.05, "--photos", 3,
        "--json", "--plot", tmp_path / "plot.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [each["metric"] for each in content["metrics"]] == ["critter-reid", "ssim"]
    for metric in content["metrics"]:
        assert [each["aspect"] for each in metric["reactions"]] == [*ASPECTS]
        assert all(each["sensitivity"]["value"] > 0 for each in metric["reactions"])
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_what_cannot_be_tried_is_refused(photos: Path, tmp_path: Path, refusal: Refusal) -> None:
    command = ("perception", "sensitivity", photos, "-m", "critter-reid")
    assert "no photo has a mask; make them with finer-rank gallery mask" in refusal(*command, "--aspect", "background")
    assert "--aspect pose: unknown" in refusal(*command, "--aspect", "pose")
    assert "--level: out of range" in refusal(*command, "--level", 5)
    assert "psnr: its distances do not count from 0" in refusal(*command[:-1], "psnr")
    assert "nowhere: no such file or folder" in refusal(*command[:2], tmp_path / "nowhere", *command[3:])
    save(patchwork(1), tmp_path / "tree" / "rex" / "1.png")
    save(patchwork(2), tmp_path / "tree" / "rex" / "2.png")
    assert "all of one identity" in refusal("perception", "sensitivity", tmp_path / "tree", "-m", "critter-reid")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    save(patchwork(3), tmp_path / "broken" / "b.png")
    assert "a.png" in refusal("perception", "sensitivity", tmp_path / "broken", "-m", "critter-reid")
