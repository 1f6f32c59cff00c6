"""What a run must hold to be submitted, and where incomplete runs stand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import lacking, noise, rows_of, write_rows
from test_bundles import add, change_json, change_record, command, declare, record_of, refuse, write_run, write_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo")


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    """A run of three prompts for each animal."""
    run = declare(write_run(tmp_path / "painter", likeness=0.6), "painter")
    rows = rows_of(run)
    for i, row in enumerate(rows):
        row["prompt_id"] = f"p{i % 3}"
    write_rows(run / "metadata.csv", rows)
    return run


def keep(run: Path, **unwanted: str) -> None:
    """Leave the rows with all of these values out."""
    rows = [row for row in rows_of(run) if any(row[column] != value for column, value in unwanted.items())]
    write_rows(run / "metadata.csv", rows)


def add_incomplete(run: Path, gallery: Path, out: Path) -> Path:
    code, _, err = command("add", run, "-g", gallery, "-e", "classical:", "--out", out, "--incomplete")
    assert code == 0, err
    assert "incomplete, will not be ranked: " in err
    return out / f"zoo-1--{run.name}"


def lacks(bundle: Path) -> list[str]:
    said: list[str] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["incomplete"]
    return said


def faults_of(*arguments: object) -> str:
    code, _, err = command("check", *arguments)
    assert code == 2
    return err


# ---- prompts and sizes


def test_every_identity_of_a_category_needs_the_same_prompts(zoo: Path, painter: Path, tmp_path: Path) -> None:
    keep(painter, identity="ben", prompt_id="p1")
    keep(painter, identity="cleo", prompt_id="p2")
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, "no image for 2 of the prompt_ids", "(ben: p1, cleo: p2)", "or submit the run unranked")


def test_other_categories_may_have_other_prompts(zoo: Path, painter: Path, tmp_path: Path) -> None:
    rows = rows_of(painter)
    for row in rows:
        if row["identity"] in ("rex", "fido"):
            row["prompt_id"] = f"dog {row['prompt_id']}"
    write_rows(painter / "metadata.csv", rows)
    assert lacks(add(painter, zoo, tmp_path / "board")) == []


def test_small_images_are_refused_in_one_line(zoo: Path, painter: Path, tmp_path: Path) -> None:
    for name, size in (("ben_1", (63, 200)), ("ben_2", (200, 20)), ("rex_0", (64, 64))):
        noise(1, size).save(painter / "images" / f"{name}.png")
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, "ben_1.png: 63 × 200 pixels, less than 64", "(and 1 more images)")


# ---- incomplete runs


def test_an_incomplete_run_has_its_place_and_no_rank(zoo: Path, painter: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    add(declare(Path(shutil.copytree(painter, tmp_path / "whole")), "whole"), zoo, board)
    keep(painter, identity="cleo")
    keep(painter, identity="ada", prompt_id="p1")
    bundle = add_incomplete(painter, zoo, board)
    gaps = ["no image of 1 of the gallery's 5 identities",
            "no image for 1 of the prompt_ids that others of the category have (ada: p1)"]  # fmt: skip
    assert lacks(bundle) == gaps

    code, out, err = command("check", board)
    assert code == 0, err
    assert not lacking(out, *(f"incomplete, not ranked: painter (zoo-1--painter): {gap}" for gap in gaps))
    found = json.loads(command("check", board, "--json")[1])
    assert found["incomplete"] == [{"bundle": str(bundle), "model": "painter", "rank": None, "lacks": gaps}]
    assert [(row["rank"], row["model"]) for each in found["boards"] for row in each["rows"]] == [(1, "whole")]
    code, _, err = command("check", board, "--gallery", zoo, "--run", painter)
    assert code == 0, err


def test_a_run_that_becomes_whole_is_ranked(zoo: Path, painter: Path, tmp_path: Path) -> None:
    add(painter, zoo, tmp_path / "now")
    keep(painter, identity="cleo")
    add_incomplete(painter, zoo, tmp_path / "before")
    code, out, _ = command("check", tmp_path / "now", "--before", tmp_path / "before")
    assert code == 0
    assert not lacking(out, "changed: zoo-1--painter", "painter is new: rank 1 of 1")


def test_only_gaps_are_forgiven(zoo: Path, painter: Path, tmp_path: Path) -> None:
    keep(painter, identity="cleo")
    declare(painter, "painter", version="0")
    code, _, err = command("add", painter, "-g", zoo, "-e", "classical:", "--out", tmp_path / "board", "--incomplete")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "gallery_version = '0'" in err


@pytest.mark.parametrize("gap", ["identity", "prompt"])
def test_no_bundle_with_gaps_may_call_itself_complete(gap: str, zoo: Path, painter: Path, tmp_path: Path) -> None:
    keep(painter, identity="cleo", **({"prompt_id": "p1"} if gap == "prompt" else {}))
    bundle = add_incomplete(painter, zoo, tmp_path / "board")
    change_json(bundle / "manifest.json", lambda manifest: manifest.update(incomplete=[]))
    assert "manifest.json: incomplete: nothing, but records/" in faults_of(bundle)


def test_a_gap_that_is_none_is_refused(zoo: Path, painter: Path, tmp_path: Path) -> None:
    bundle = add(painter, zoo, tmp_path / "board")
    change_json(bundle / "manifest.json", lambda manifest: manifest.update(incomplete=["too good"]))
    assert "manifest.json: incomplete: too good, but records/" in faults_of(bundle)


def test_missing_identities_cannot_be_hidden_by_a_smaller_gallery(zoo: Path, painter: Path, tmp_path: Path) -> None:
    """Only with the images: the number of the gallery's identities is in no table."""
    keep(painter, identity="cleo")
    bundle = add_incomplete(painter, zoo, tmp_path / "board")

    def shrink(record: dict[str, Any]) -> None:
        record["n_gallery_identities"] = 4

    change_json(bundle / "manifest.json", lambda manifest: manifest.update(incomplete=[]))
    change_record(bundle, shrink)
    assert "gallery_anchors.chance" in faults_of(bundle)  # that of five animals
    assert "n_gallery_identities: 4, but a new evaluation gives 5" in faults_of_images(bundle, zoo, painter)


def faults_of_images(bundle: Path, zoo: Path, run: Path) -> str:
    """What the images say of a bundle whose anchor was made to fit, too."""
    from leaderboard.bundle_tables import read_columns
    from leaderboard.recompute import aggregates_of

    columns, faults = read_columns(record_of(bundle) / "queries.parquet", "queries")
    assert not faults

    def follow(record: dict[str, Any]) -> None:
        record["gallery_anchors"]["chance"] = aggregates_of(columns, record)["gallery_anchors"]["chance"]

    change_record(bundle, follow)
    return faults_of(bundle, "--gallery", zoo, "--run", run)
