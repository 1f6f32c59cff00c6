"""A class of the package wildlife_datasets reads a folder in its owners' layout, for the same recipes."""

import importlib
import tomllib
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_sets import built, refused, write_macaques
from handmade import lacking

MACAQUES = {"Abe": 9, "Bea": 14, "Cid": 3}


@pytest.fixture
def macaques(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        importlib.import_module("wildlife_datasets.datasets")
    return write_macaques(tmp_path / "macaques", MACAQUES)


def test_a_class_of_the_package_reads_its_own_layout(macaques: Path, tmp_path: Path) -> None:
    gallery = built("animal-reid", macaques, tmp_path / "zoo", "--class", "MacaqueFaces")
    assert Counter((p.identity, p.split) for p in gallery.photos) == {
        ("Abe", "reference"): 4,
        ("Abe", "gallery"): 5,
        ("Bea", "reference"): 9,
        ("Bea", "gallery"): 5,
        ("Cid", "distractor"): 3,
    }
    assert {p.category for p in gallery.photos} == {"MacaqueFaces"}
    assert all(p.path.read_bytes() == (macaques / p.source_id).read_bytes() for p in gallery.photos)
    assert "WildlifeReID-10k" not in gallery.card.citation + gallery.card.description


def test_dates_of_a_class_keep_encounters_apart(macaques: Path, tmp_path: Path) -> None:
    options = ("--class", "MacaqueFaces", "--recipe", "encounter")
    gallery = built("animal-reid", macaques, tmp_path / "zoo", *options)
    assert {p.identity for p in gallery.split("gallery")} == {"Bea"}
    days = {split: {p.encounter[-2:] for p in gallery.split(split)} for split in ("reference", "gallery")}
    assert days == {"reference": {"10", "11"}, "gallery": {"12", "13", "14"}}


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        ("MacaqueFace", ["--class MacaqueFace", "MacaqueFaces"]),
        ("os", ["--class os"]),
        ("WildlifeDataset", ["WildlifeDataset"]),
        ("SeaTurtleID2022", ["SeaTurtleID2022", "get_data"]),
    ],
)
def test_a_class_that_is_unknown_or_reads_something_else_is_refused(
    macaques: Path, tmp_path: Path, name: str, mentions: list[str]
) -> None:
    (line,) = refused("animal-reid", macaques, tmp_path / "zoo", "--class", name)
    assert lacking(line, *mentions) == []


def test_half_a_download_of_a_class_is_refused_by_the_missing_file(macaques: Path, tmp_path: Path) -> None:
    (macaques / "MacaqueFaces/ModelSet/Bea/Bea_3.jpg").unlink()
    (line,) = refused("animal-reid", macaques, tmp_path / "zoo", "--class", "MacaqueFaces")
    assert "Bea_3.jpg" in line


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bbox", [1, 2, 3.5, 4]),
        ("bbox", np.array([1, 2, 3.5, 4])),
        ("bbox", "[1, 2, 3.5, 4]"),
        ("species", ["zebra"]),
        ("species", pd.NA),
        ("date", pd.Timestamp("2020-05-01 10:30")),
        ("date", pd.NaT),
        ("orientation", None),
    ],
    ids=str,
)
def test_cells_of_any_kind_that_classes_give_are_read(
    macaques: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: object
) -> None:
    from wildlife_datasets import datasets

    own = datasets.MacaqueFaces.create_catalogue

    def with_cells(self: object) -> pd.DataFrame:
        frame = own(self)
        kind = "string" if value is pd.NA else object
        return frame.assign(**{column: pd.Series([value] * len(frame), dtype=kind)})

    monkeypatch.setattr(datasets.MacaqueFaces, "create_catalogue", with_cells)
    gallery = built("animal-reid", macaques, tmp_path / "zoo", "--class", "MacaqueFaces", "--include", "Abe")
    assert len(gallery.photos) == 9
    if column == "bbox":
        assert {tuple(float(x) for x in p.bbox.strip("[]").split(",")) for p in gallery.photos} == {(1, 2, 3.5, 4)}
    if column == "species":
        assert {p.category for p in gallery.photos} == {"zebra" if isinstance(value, list) else "MacaqueFaces"}


def test_the_package_that_is_missing_is_installed_by_an_extra_that_exists() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any("wildlife-datasets" in requirement for requirement in extras.get("wildlife", ()))
