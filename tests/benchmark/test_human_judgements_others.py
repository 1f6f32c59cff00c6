"""THINGS and DreamBench++ in their owners' formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Refusal
from human_data import touch, write_dreambench_plus

from benchmark.human_judgements.sources import load_judgements


@pytest.mark.parametrize("images", [".", "images"])
@pytest.mark.parametrize("text", ["7 12 003\n003 7 12\n", "7\t12\t003\r\n\n 003  7 12 ", "\ufeff7 12 003\n003 7 12"])
def test_the_third_of_each_line_of_things_is_the_odd_one(tmp_path: Path, images: str, text: str) -> None:
    for name in ("7", "12", "003"):
        touch(tmp_path / images / f"{name}.png")
    (tmp_path / "valset.txt").write_bytes(text.encode())
    found = load_judgements([tmp_path / "valset.txt"])
    assert [[path.name for path in row.images] for row in found.rows] == [
        ["003.png", "7.png", "12.png"], ["7.png", "12.png", "003.png"],
    ]  # fmt: skip
    assert {row.answer for row in found.rows} == {2.0}
    assert (found.kind, found.targets) == ("odd-one-out", ("003 + 12 + 7",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a b\n", "line 1 is no triplet of THINGS"),
        (b"To be, or not to be\n" * 1000, "line 1 is no triplet of THINGS"),
        (b"a b a\n", "line 1 is no triplet of THINGS"),
        (b"a b c\na b\n", "v.txt line 2: 2 different ids; write three, the odd one last"),
        (b"a b lost\n", "line 1: no image lost.png below"),
        (b"a b ../c\n", "line 1: ../c.png leads out of"),
        (b"\n", "no triplets; each line has three ids, the odd one last"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "cannot be read"),
        (b"x" * 1_000_000, "line 1 is no triplet of THINGS"),
    ],
)
def test_a_file_that_is_no_things_is_refused(tmp_path: Path, refusal: Refusal, text: bytes, said: str) -> None:
    for name in "abc":
        touch(tmp_path / f"{name}.png")
    (tmp_path / "v.txt").write_bytes(text)
    line = refusal("agreement", "show", tmp_path / "v.txt")
    assert said in line
    assert len(line) < 1000


def test_a_lost_image_of_things_is_named_once(tmp_path: Path, refusal: Refusal) -> None:
    for name in "abd":
        touch(tmp_path / f"{name}.png")
    (tmp_path / "v.txt").write_text("a b c\na d c\nc a b\n")
    assert "line 1: no image c.png" in refusal("agreement", "show", tmp_path / "v.txt")


RATINGS = {
    "group_1/part1-emu2": {"object_00_t-shirt-0": [4, 1], "object_00_t-shirt-1": [0, 2]},
    "group_1/part2-emu2": {"live_subject_animal_07_dog-0": [3, 3]},
    "group_2/all-emu2": {"live_subject_animal_07_dog-0": [2, 4], "object_00_t-shirt-0": [None, 4]},
}


def test_ratings_of_dreambench_plus_are_joined_by_key_with_their_images(tmp_path: Path) -> None:
    found = load_judgements([write_dreambench_plus(tmp_path, RATINGS)])
    samples = tmp_path / "samples" / "emu2_gs3_step50_seed42_torch_bfloat16"
    rows = {(row.rater, *(path.relative_to(samples).as_posix() for path in row.images)): row for row in found.rows}
    images = {
        key: (f"src_image/{key}_0.jpg", f"tgt_image/{key}_0.jpg")
        for key in ("object_00_t-shirt/0", "object_00_t-shirt/1", "live_subject_animal_07_dog/0")
    }
    assert {key: row.answer for key, row in rows.items()} == {
        ("group_1", *images["object_00_t-shirt/0"]): 4,
        ("group_1", *images["object_00_t-shirt/1"]): 0,
        ("group_1", *images["live_subject_animal_07_dog/0"]): 3,
        ("group_2", *images["live_subject_animal_07_dog/0"]): 2,
    }
    assert found.targets == ("live_subject_animal_07_dog", "object_00_t-shirt")
    assert {row.subset for row in found.rows} == {"emu2"}
    assert found.left_out == ("ratings that are null or NaN: 1",)


def test_methods_are_told_apart_and_those_without_images_are_left_out(tmp_path: Path, cli: Cli) -> None:
    rating = {"object_00_t-shirt-0": [4, 1]}
    ratings = {f"g/a-{method}": rating for method in ("dreambooth_sd", "dreambooth_lora_sdxl", "blip_diffusion")}
    samples = ("dreambooth_sd_gs7_5_step100", "dreambooth_lora_sdxl_gs7_5")
    folder = write_dreambench_plus(tmp_path, ratings, samples)
    found = json.loads(cli("agreement", "show", folder, "--json").stdout)[0]
    assert [part["subset"] for part in found["parts"]] == ["dreambooth_lora_sdxl", "dreambooth_sd"]
    assert found["left_out"] == ["ratings of blip_diffusion, which has no images in samples: 1"]
    assert found["raters"] == {"g": 2}


Spoil = Callable[[Path], Any]


def content(text: str) -> Spoil:
    return lambda file: file.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (content('{"object_00_t-shirt-0": [5, 1]}'), "rating 5; ratings go from 0 to 4"),
        (content('{"object_00_t-shirt-0": ["4", 1]}'), "rating '4'; ratings go from 0 to 4"),
        (content('{"object_00_t-shirt-0": 4}'), "4 is no pair of ratings; fetch the file again"),
        (content('{"t-shirt": [4, 1]}'), "no key <id>-<prompt>"),
        (content('{"object_00_cup-0": [4, 1]}'), "src_image/object_00_cup/0_0.jpg below"),
        (content('{"../../../../x-0": [4, 1]}'), "no key <id>-<prompt>"),
        (content('{"object_00_t-shirt-0": [4, 1'), "no JSON"),
        (content("[" * 100_000), "no JSON"),
        (content("[]"), "no JSON object of ratings"),
        (lambda file: (file.unlink(), file.symlink_to("/etc/hostname")), "leads out of"),
    ],
)
def test_a_damaged_file_of_ratings_is_named(tmp_path: Path, cli: Cli, spoil: Spoil, said: str) -> None:
    folder = write_dreambench_plus(tmp_path, RATINGS)
    spoil(folder / "data_human_rating/raw_data/group_2/all-emu2.json")
    done = cli("agreement", "show", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_group_that_says_two_things_of_one_image_is_named(tmp_path: Path, refusal: Refusal) -> None:
    ratings = {**RATINGS, "group_1/part3-emu2": {"object_00_t-shirt-0": [1, 1], "object_00_t-shirt-1": [0, 0]}}
    line = refusal("agreement", "show", write_dreambench_plus(tmp_path, ratings))
    assert "part3-emu2.json, object_00_t-shirt-0: 1, but 4 in data_human_rating/raw_data/group_1/part1" in line


def test_two_folders_of_one_method_are_not_guessed_between(tmp_path: Path, refusal: Refusal) -> None:
    folder = write_dreambench_plus(tmp_path, RATINGS, ("emu2_a", "emu2_b"))
    assert "emu2_a and emu2_b are of method emu2; keep the one that was rated" in refusal("agreement", "show", folder)


def test_ratings_whose_images_are_not_there_at_all_are_refused(tmp_path: Path, refusal: Refusal) -> None:
    line = refusal("agreement", "show", write_dreambench_plus(tmp_path, RATINGS, ()))
    assert "no rating with its images (ratings of emu2, which has no images in samples: 4" in line
