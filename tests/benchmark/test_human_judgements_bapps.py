"""BAPPS in its owners' format."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal
from human_data import touch, write_bapps

from benchmark.human_judgements.sources import load_judgements
from benchmark.human_judgements.sources.bapps import PUBLISHED

ANSWERS = {
    "2afc/train/traditional/000": 0.5,
    "2afc/train/mix/000": 1.0,
    "2afc/val/cnn/000": 0.2,
    "2afc/val/cnn/001": 0.8,
    "2afc/val/color/000": 0.0,
    "jnd/val/cnn/000": 1 / 3,
    "jnd/val/traditional/004": 1.0,
}


@pytest.fixture
def bapps(tmp_path: Path) -> Path:
    return write_bapps(tmp_path / "bapps", ANSWERS)


def test_shares_are_for_p1_and_votes_are_those_of_the_split(bapps: Path) -> None:
    found = {row.target: row for row in load_judgements([bapps], kind="2afc").rows}
    assert {target: (row.answer, row.n_votes) for target, row in found.items()} == {
        "train/traditional/000": (0.5, 2), "train/mix/000": (1.0, 2),
        "val/cnn/000": (0.2, 5), "val/cnn/001": (0.8, 5), "val/color/000": (0.0, 5),
    }  # fmt: skip
    row = found["val/cnn/001"]
    assert row.images == tuple(bapps / f"2afc/val/cnn/{side}/001.png" for side in ("ref", "p0", "p1"))
    assert (row.split, row.subset) == ("val", "cnn")


def test_just_noticeable_differences_have_three_votes(bapps: Path) -> None:
    found = load_judgements([bapps], kind="jnd")
    assert [(row.answer, row.n_votes, row.subset) for row in found.rows] == [
        (1 / 3, 3, "cnn"), (1.0, 3, "traditional")
    ]  # fmt: skip
    assert found.rows[0].images == (bapps / "jnd/val/cnn/p0/000.png", bapps / "jnd/val/cnn/p1/000.png")


@pytest.mark.parametrize(("inside", "n"), [("2afc", 5), ("2afc/val", 3), ("2afc/val/cnn", 2), ("jnd", 2)])
def test_any_folder_of_the_tree_is_read_alone_with_the_same_targets(bapps: Path, inside: str, n: int) -> None:
    kind = "jnd" if inside == "jnd" else "2afc"
    whole = {row.target: row.answer for row in load_judgements([bapps], kind=kind).rows}  # type: ignore[arg-type]
    part = load_judgements([bapps / inside])
    assert len(part.rows) == n
    assert {row.target: row.answer for row in part.rows}.items() <= whole.items()


def test_the_folder_may_be_the_working_directory(bapps: Path, cli: Cli) -> None:
    for folder in ("2afc", "2afc/val", "2afc/val/cnn"):
        found = json.loads(cli("agreement", "show", ".", "--json", cwd=bapps / folder).stdout)
        assert {"split": "val", "subset": "cnn", "n_judgements": 2} in found[0]["parts"]


def test_two_kinds_ask_which_is_meant_and_show_tells_of_both(bapps: Path, refusal: Refusal, cli: Cli) -> None:
    with pytest.raises(Exception, match="holds 2afc and jnd judgements; choose with --kind"):
        load_judgements([bapps])
    found = json.loads(cli("agreement", "show", bapps, "--json").stdout)
    assert [(each["kind"], each["n_judgements"]) for each in found] == [("2afc", 5), ("jnd", 2)]
    only = json.loads(cli("agreement", "show", bapps, "--kind", "jnd", "--json").stdout)
    assert only == found[1:]
    assert "--kind 2AFC: unknown; write 2afc, jnd" in refusal("agreement", "show", bapps, "--kind", "2AFC")


def test_published_counts_are_those_of_the_paper_to_a_hundred(bapps: Path, cli: Cli) -> None:
    """36.3k patches of validation and 151.4k of training in all: Zhang et al. 2018, Table 2."""
    for split, low, high in (("val", 36_000, 36_600), ("train", 151_100, 151_500)):
        middles = [span[len(span) // 2] for (of, _), span in PUBLISHED["2afc"].items() if of == split]
        assert low <= sum(middles) <= high
    shown = cli("agreement", "show", bapps / "2afc" / "val").stdout
    assert "val cnn: 2, not as published: 4,650 to 4,750 are expected" in shown
    assert "superres" not in shown


def header_that_asks_for(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def saved(array: object, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(array, dtype=object if pickled else None), allow_pickle=pickled)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved(np.float32(0.3)), "0.3 is no share of 5 votes"),
        (saved(np.float32(1.2)), "1.2 is no share of 5 votes"),
        (saved(np.float32(np.nan)), "nan is no share of 5 votes"),
        (saved([0.2, 0.4]), "is no file of one number (shape (2,)"),
        (saved(["0.2"]), "is no file of one number"),
        (saved([0.2], pickled=True), "is no file of one number (shape (1,), type object)"),
        (saved(np.array([0.2]))[:-2], "is no file of one number"),
        (saved(np.array([0.2]))[:20], "is no file of one number"),
        (b"", "is no file of one number"),
        (b"GIF89a and no array", "is no file of one number"),
        (header_that_asks_for((10**12,)), "is no file of one number (shape (1000000000000,)"),
        (saved(np.zeros(3000)), "more than 4,096 bytes"),
    ],
)
def test_a_damaged_answer_is_refused_without_asking_for_its_memory(
    bapps: Path, refusal: Refusal, content: bytes, said: str
) -> None:
    (bapps / "2afc/val/cnn/judge/001.npy").write_bytes(content)
    line = refusal("agreement", "show", bapps, "--kind", "2afc")
    assert said in line
    assert "2afc/val/cnn/judge/001.npy" in line
    assert line.endswith("; fetch it again")


def test_lost_patches_and_links_that_lead_out_are_named(bapps: Path, cli: Cli, tmp_path: Path) -> None:
    (bapps / "2afc/val/cnn/p1/000.png").unlink()
    (bapps / "2afc/val/color/judge/000.npy").unlink()
    (bapps / "2afc/val/color/judge/000.npy").symlink_to("/dev/zero")
    (bapps / "2afc/val/cnn/ref/001.png").unlink()
    (bapps / "2afc/val/cnn/ref/001.png").symlink_to(touch(tmp_path / "elsewhere.png"))
    done = cli("agreement", "show", bapps / "2afc")
    assert (done.returncode, done.stdout) == (2, "")
    assert "val/cnn/judge/000.npy: no image val/cnn/p1/000.png below" in done.stderr
    assert "val/color/judge/000.npy: is no file of one number (a link" in done.stderr
    assert "val/cnn/judge/001.npy: val/cnn/ref/001.png leads out of" in done.stderr


def test_a_split_that_bapps_has_not_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    folder = write_bapps(tmp_path, {"2afc/test/cnn/000": 0.2})
    assert "lies in test; BAPPS has train or val there" in refusal("agreement", "show", folder)


def test_a_kind_of_distortion_that_is_a_link_to_elsewhere_is_refused(
    bapps: Path, tmp_path: Path, refusal: Refusal
) -> None:
    other = write_bapps(tmp_path / "other", {"2afc/val/blur/000": 0.2})
    (bapps / "2afc/val/blur").symlink_to(other / "2afc/val/blur")
    assert "leads out of" in refusal("agreement", "show", bapps, "--kind", "2afc")
