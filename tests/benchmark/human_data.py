"""Miniatures of published human data, in their owners' formats. Images are files of a few bytes: readers open none."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NIGHTS_COLUMNS = (
    "id", "left_vote", "right_vote", "prompt", "ref_path", "left_path", "right_path", "split", "is_imagenet", "votes",
)  # fmt: skip


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


def nights_row(
    i: int, right_vote: object = 1, split: str = "train", imagenet: bool = True, votes: int = 8
) -> list[Any]:
    folder, file = f"{i // 1000:03d}", f"{i % 1000:03d}"
    left, right = (f"distort/{folder}/{file}_{side}.png" for side in (0, 1))
    return [i, "", right_vote, "an image of a cat", f"ref/{folder}/{file}.png", left, right, split, imagenet, votes]


def write_nights(
    folder: Path, rows: Sequence[Sequence[Any]], columns: Sequence[str] = NIGHTS_COLUMNS, name: str = "data.csv"
) -> Path:
    """`data.csv` and the images that its rows name."""
    for row in rows:
        for image in row[4:7]:
            touch(folder / image)
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder


def write_bapps(folder: Path, answers: Mapping[str, float]) -> Path:
    """Answers by `<form>/<split>/<kind>/<id>`, with their patches."""
    for name, share in answers.items():
        form, split, kind, patch = name.split("/")
        of = folder / form / split / kind
        for side in ("ref", "p0", "p1") if form == "2afc" else ("p0", "p1"):
            touch(of / side / f"{patch}.png")
        answer = of / ("judge" if form == "2afc" else "same") / f"{patch}.npy"
        answer.parent.mkdir(parents=True, exist_ok=True)
        np.save(answer, np.array([share], dtype=np.float32))
    return folder


def write_dreambench_plus(
    folder: Path,
    ratings: Mapping[str, Mapping[str, Any]],
    samples: Sequence[str] = ("emu2_gs3_step50_seed42_torch_bfloat16",),
    shown: Sequence[str] = ("object_00_t-shirt/0", "object_00_t-shirt/1", "live_subject_animal_07_dog/0"),
) -> Path:
    """Ratings by `<group>/<file>`, and the samples of some methods."""
    for name, content in ratings.items():
        file = folder / "data_human_rating" / "raw_data" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    for method in samples:
        for side in ("src_image", "tgt_image"):
            for image in shown:
                for n in range(2):
                    touch(folder / "samples" / method / side / f"{image}_{n}.jpg")
    return folder
