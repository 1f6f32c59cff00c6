"""NIGHTS in its owners' format: a miniature, and one of full size."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Refusal
from human_data import NIGHTS_COLUMNS, nights_row, touch, write_nights

from benchmark.human_judgements.sources import load_judgements

SIZES = {"train": 15941, "val": 1958, "test": 2120}


def test_the_right_image_is_b_and_the_reference_the_target(tmp_path: Path) -> None:
    folder = write_nights(tmp_path, [nights_row(4, 1, "val", False, 7), nights_row(12, 0, "test", True, 6)])
    first, second = load_judgements([folder]).rows
    assert first.images == tuple(
        folder / name for name in ("ref/000/004.png", "distort/000/004_0.png", "distort/000/004_1.png")
    )
    assert (first.answer, first.target, first.rater, first.n_votes, first.split, first.subset) == (
        1.0, "ref/000/004.png", "", 7, "val", "not imagenet",
    )  # fmt: skip
    assert (second.answer, second.split, second.subset) == (0.0, "test", "imagenet")


def test_the_folder_and_its_table_are_the_same_data(tmp_path: Path) -> None:
    folder = write_nights(tmp_path, [nights_row(4)])
    by_file, by_folder = load_judgements([folder / "data.csv"]), load_judgements([folder])
    assert (by_file.name, by_file.rows) == (by_folder.name, by_folder.rows)
    assert by_file.name == "nights"


def test_triplets_without_six_votes_are_left_out_and_counted(tmp_path: Path, cli: Cli) -> None:
    folder = write_nights(tmp_path, [nights_row(i, votes=votes) for i, votes in enumerate((5, 6, 7, 2))])
    found = json.loads(cli("agreement", "show", folder, "--json").stdout)[0]
    assert (found["n_judgements"], found["votes"]) == (2, {"6": 1, "7": 1})
    assert found["left_out"] == ["triplets with fewer than 6 votes: 2"]


def test_the_raw_votes_are_read_whole_with_their_shares(tmp_path: Path) -> None:
    rows = [nights_row(0, 0.6, "", "", 5), nights_row(1, "0.3333", "", "", 3)]
    folder = write_nights(tmp_path, rows, name="nights_raw.csv")
    found = load_judgements([folder / "nights_raw.csv"])
    assert [(row.answer, row.n_votes) for row in found.rows] == [(0.6, 5), (1 / 3, 3)]
    assert (found.name, found.left_out) == ("nights raw", ())


def test_columns_are_found_by_name_in_any_order_or_by_place_where_none_is_named(tmp_path: Path) -> None:
    rows = [nights_row(0), nights_row(1, 0)]
    named = load_judgements([write_nights(tmp_path / "named", rows)])
    turned = tmp_path / "turned"
    write_nights(turned, rows)
    (turned / "data.csv").write_text(
        "\n".join(",".join(str(cell) for cell in reversed(row)) for row in [list(NIGHTS_COLUMNS), *rows]) + "\n"
    )
    other_names = ("id", "v0", "v1", "category", "path", "path0", "path1", "split", "is_imagenet", "votes")
    by_place = load_judgements([write_nights(tmp_path / "placed", rows, other_names)])
    for found in (load_judgements([turned]), by_place):
        assert [(row.answer, row.target, row.subset) for row in found.rows] == [
            (row.answer, row.target, row.subset) for row in named.rows
        ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (nights_row(0, 2), "right_vote '2' is no share of 8 votes; it should be 0 (left is nearer), 1, or a share"),
        (nights_row(0, 0.3), "right_vote '0.3' is no share of 8 votes"),
        (nights_row(0, "right"), "right_vote 'right' is no share"),
        (nights_row(0, "nan"), "right_vote 'nan' is no share"),
        (nights_row(0, votes="many"), "votes 'many'; it should be how many people judged"),
        (nights_row(0, split="dev"), "split 'dev'; it should be train, val or test"),
        (nights_row(0, imagenet="maybe"), "is_imagenet 'maybe'; it should be True or False"),
        ([*nights_row(0)[:4], *["ref/000/000.png"] * 3, "train", True, 8], "left and right are not three files"),
    ],
)
def test_a_row_that_nights_cannot_hold_is_refused(tmp_path: Path, refusal: Refusal, row: list[Any], said: str) -> None:
    line = refusal("agreement", "show", write_nights(tmp_path, [row]))
    assert said in line
    assert "data.csv row 1" in line


def test_lost_images_and_repeated_triplets_are_all_named(tmp_path: Path, cli: Cli) -> None:
    folder = write_nights(tmp_path, [nights_row(0), nights_row(1), nights_row(0, 0), nights_row(3)])
    (folder / "distort/000/001_1.png").unlink()
    (folder / "ref/000/003.png").unlink()
    (folder / "ref/000/003.png").symlink_to("/etc/hostname")
    done = cli("agreement", "show", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 faults" in done.stderr
    assert "row 2, right_path: no image distort/000/001_1.png below" in done.stderr
    assert "row 3: the triplet of data.csv row 1; remove one of them" in done.stderr
    assert "row 4, ref_path: ref/000/003.png leads out of" in done.stderr


def test_a_table_without_its_columns_is_refused_with_those_it_has(tmp_path: Path, refusal: Refusal) -> None:
    folder = write_nights(tmp_path, [nights_row(0)[:9]], NIGHTS_COLUMNS[:9])
    assert "data.csv: no column votes; it has id, left_vote, right_vote" in refusal("agreement", "show", folder)


def test_votes_on_just_noticeable_differences_need_columns_of_known_meaning(tmp_path: Path, refusal: Refusal) -> None:
    folder = write_nights(tmp_path, [nights_row(0)])
    path = folder / "jnd_votes.csv"
    path.write_text("some_id,answer\n0,1\n")
    assert load_judgements([folder]).kind == "2afc"
    line = refusal("agreement", "show", path)
    assert "has columns some_id, answer, whose meaning its owners do not document; rename" in line
    path.write_text("first,second,same,votes\nref/000/000.png,distort/000/000_0.png,0.67,3\n")
    (row,) = load_judgements([path]).rows
    assert (row.answer, row.n_votes) == (2 / 3, 3)


def test_a_whole_nights_has_the_published_counts(tmp_path: Path, cli: Cli) -> None:
    """As many triplets as are published, all different, of few images."""
    references = [f"ref/000/{i:03d}.png" for i in range(30)]
    distorted = [f"distort/000/{i:03d}_{side}.png" for i in range(15) for side in (0, 1)]
    for name in (*references, *distorted):
        touch(tmp_path / name)
    triplets = ((ref, *pair) for ref in references for pair in permutations(distorted, 2))
    rows = [
        [i, "", i % 2, "a cat", *triplet, split, i % 3 == 0, 6 + i % 5]
        for i, (triplet, split) in enumerate(
            zip(triplets, (s for s, n in SIZES.items() for _ in range(n)), strict=False)
        )
    ]
    write_nights(tmp_path, [])
    lines = [",".join(map(str, row)) for row in [list(NIGHTS_COLUMNS), *rows]]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    done = cli("agreement", "show", tmp_path)
    assert done.returncode == 0, done.stderr
    for part, n in {"all": 20019, **SIZES}.items():
        assert f"{part}: {n:,}, as published" in done.stdout


def test_a_nights_with_a_row_too_few_is_told_from_a_whole_one(tmp_path: Path, cli: Cli) -> None:
    folder = write_nights(tmp_path, [nights_row(i, split="val") for i in range(3)])
    found = cli("agreement", "show", folder).stdout
    assert "val: 3, not as published: 1,958 are expected" in found
    assert "train: 0, not as published: 15,941 are expected" not in found
    assert "all: 3, not as published: 20,019 are expected" in found
