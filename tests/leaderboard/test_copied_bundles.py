"""Copies in bundles: counted, held for review, and not to be denied."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import lacking, rows_of
from PIL import Image
from test_bundles import add, change_record, change_table, command, declare, record_of, write_run, write_zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "zoo")


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    return declare(write_run(tmp_path / "painter", likeness=0.6), "painter")


def test_the_copy_rate_is_held_for_review_above_its_limit(zoo: Path, painter: Path, tmp_path: Path) -> None:
    honest = add(painter, zoo, tmp_path / "honest")
    assert "copy rate" not in command("check", honest)[2]
    reference = Image.open(zoo / "images" / "rex_0.png")
    reference.resize((160, 128), Image.Resampling.BICUBIC).save(painter / "images" / "rex_1.png")
    bundle = add(painter, zoo, tmp_path / "board")
    record = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))
    assert record["copy_rate"]["value"] == pytest.approx(1 / 15)
    assert record["n_copied"] == 0
    code, _, err = command("check", bundle)
    assert (code, "held for review" in err, "copy rate 0.067" in err) == (0, True, True)


def test_copies_that_the_tables_show_cannot_be_denied(zoo: Path, painter: Path, tmp_path: Path) -> None:
    for row in rows_of(painter):
        shutil.copyfile(zoo / "images" / f"{row['identity']}_2.png", painter / row["file_name"])
    bundle = add(painter, zoo, tmp_path / "board")

    def deny(columns: dict[str, list[Any]]) -> None:
        columns["is_copy"] = [False] * 15

    change_table(bundle, "queries", deny)
    change_record(bundle, lambda r: r.update(n_copied=0, copy_rate={"value": 0.0, "low": 0.0, "high": 0.0}))
    code, _, err = command("check", bundle)
    assert code == 2
    assert not lacking(err, "n_copied: 0, but 15 images are", "is_copy: true for 0 images, but 15 are photos")
