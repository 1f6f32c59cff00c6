"""Pairwise distances in bundles: what `leaderboard add --pairwise` writes, and what `leaderboard check` refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from handmade import lacking
from pytest import approx
from test_bundles import change_record, change_table, command, declare, record_of, write_run, write_zoo
from trunks import write_trunk


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a gallery, a small network, a run and its bundle."""
    folder = tmp_path_factory.mktemp("world")
    write_zoo(folder / "zoo")
    write_trunk(folder / "squeeze.safetensors", "squeeze")
    run = declare(write_run(folder / "painter", likeness=0.6), "painter")
    code, _, err = command(
        "add", run, "-g", folder / "zoo", "-e", "classical:", "--pairwise", spec(folder), "--out", folder / "board",
        "--store", folder / "store",
    )  # fmt: skip
    assert code == 0, err
    return folder


def spec(world: Path) -> str:
    return f"lpips:squeeze@{world / 'squeeze.safetensors'}"


@pytest.fixture
def bundle(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "board" / "zoo-1--painter", tmp_path / "zoo-1--painter"))


def test_a_bundle_says_how_far_images_are_from_their_references(bundle: Path) -> None:
    code, _, err = command("check", bundle)
    assert code == 0, err
    found = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))["pairwise_distance"]
    values = pq.read_table(record_of(bundle) / "queries.parquet").column("pairwise_distance").to_pylist()
    assert found["metric"] == "lpips:squeeze@squeeze.safetensors"
    assert found["size"] == 256
    assert found["value"] == approx(sum(values) / len(values))
    assert min(values) > 0


Change = Callable[[dict[str, Any]], Any]
TABLES: dict[str, tuple[Change, str]] = {
    "nearer": (lambda c: c["pairwise_distance"].__setitem__(0, 0.0), "pairwise_distance.value"),
    "out of range": (lambda c: c["pairwise_distance"].__setitem__(1, -900.0), "row 1: pairwise_distance: -900"),
    "not a number": (lambda c: c["pairwise_distance"].__setitem__(1, float("nan")), "not a finite number"),
    "no column": (lambda c: c.pop("pairwise_distance"), "no such column, but record.json speaks of it"),
}
RECORDS: dict[str, tuple[Change, str]] = {
    "gone": (lambda r: r.pop("pairwise_distance"), "pairwise_distance: record.json does not speak of it"),
    "mean": (lambda r: r["pairwise_distance"].update(value=0.0), "pairwise_distance.value: 0"),
    "partners": (lambda r: r["pairwise_distance"].update(to="gallery_photos"), "pairwise_distance.to"),
    "field": (lambda r: r["pairwise_distance"].update(best=True), "pairwise_distance.best: unknown field"),
    "digest": (lambda r: r["pairwise_distance"].update(fingerprint="x"), "pairwise_distance.fingerprint"),
}


@pytest.mark.parametrize("case", TABLES)
def test_distances_are_checked(case: str, bundle: Path) -> None:
    change, why = TABLES[case]
    change_table(bundle, "queries", change)
    code, _, err = command("check", bundle)
    assert (code, why in err) == (2, True), err


@pytest.mark.parametrize("case", RECORDS)
def test_what_a_record_says_of_distances_is_checked(case: str, bundle: Path) -> None:
    change, why = RECORDS[case]
    change_record(bundle, change)
    code, _, err = command("check", bundle)
    assert (code, why in err) == (2, True), err


def test_distances_are_measured_again_with_the_images_at_hand(world: Path, bundle: Path) -> None:
    again = (bundle, "--gallery", world / "zoo", "--run", world / "painter", "--store", world / "store")
    code, _, err = command("check", *again, "--pairwise", spec(world), "--tolerance", 1e-6)
    assert (code, err) == (0, "")
    code, _, err = command("check", *again)  # the record does not say where the weights lie
    assert code == 2
    assert not lacking(err, "pairwise_distance: lpips:squeeze", "name the distance that was used with --pairwise")
    code, _, err = command("check", *again, "--pairwise", "ssim")
    assert code == 2
    assert not lacking(err, "ssim is here", "name the distance that was used with --pairwise")

    def other(columns: dict[str, list[Any]]) -> None:
        first, second = columns["pairwise_distance"][:2]  # of one identity: means and intervals stay as they are
        columns["pairwise_distance"][:2] = [second, first]

    change_table(bundle, "queries", other)
    code, _, err = command("check", bundle)
    assert code == 0, err
    code, _, err = command("check", *again, "--pairwise", spec(world), "--tolerance", 1e-6)
    assert code == 2
    assert not lacking(err, "ada_0.png", "pairwise_distance", "a new evaluation gives")
