"""Scores of the subject alone and of the background alone: they show where identity lies; each is kept apart."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from handmade import Cli, Refusal, Row, rows_of, write_rows
from PIL import Image
from pytest import approx
from scenes import judge, write_world
from sklearn.metrics import average_precision_score

from benchmark.dependence import background_dependence, dependence_of_records
from benchmark.embedders import load_embedder
from benchmark.protocol import Evaluation
from benchmark.records import FILES, Record, load_records, read_record, write_record
from benchmark.regions import REGIONS, Region, cut

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures that show their identity in the subject alone; a test may spoil anything."""
    return write_world(tmp_path, "subject")


def score(evaluation: Evaluation, metric: str = "mAP") -> float:
    return float(evaluation.records[0].summary["scores"][metric]["value"])


def held_out(evaluation: Evaluation, metric: str = "mAP") -> float:
    estimate = (evaluation.anchors["held_out"] or {})[metric]
    assert estimate is not None
    return estimate.value


def edited(path: Path, change: Callable[[Pixels, npt.NDArray[np.bool_]], None], mask: Path) -> None:
    """Change a picture's pixels in place: `change` is given them, and where the subject is."""
    pixels = np.array(Image.open(path))
    change(pixels, np.asarray(Image.open(mask)) >= 128)
    Image.fromarray(pixels).save(path)


# ---- scores


@pytest.mark.parametrize("carrier", ["subject", "background"])
def test_each_region_scores_what_it_shows(tmp_path: Path, carrier: Region) -> None:
    zoo, painter = write_world(tmp_path, carrier)
    found = judge(zoo, painter, tmp_path / "store")
    other: Region = "background" if carrier == "subject" else "subject"
    for value in score, held_out:
        assert value(found[carrier], "AUC") > 0.85
        assert abs(value(found[other], "AUC") - 0.5) < 0.15
    (dependence,) = background_dependence(list(found.values()))
    whole, bare = (found[region] for region in ("full", "background"))
    chance = whole.records[0].summary["matched_anchors"]["chance"]
    by_hand = (score(bare) - chance) / (score(whole) - chance)
    estimate = dependence.runs["painter"]
    assert estimate is not None
    assert estimate.value == approx(by_hand)
    assert dependence_of_records(whole.records[0], bare.records[0]) == estimate
    # Of the held-out photos' own rankings: 3 of 23 are right.
    chance = mean_chance(3, 23)
    assert dependence.held_out is not None
    assert dependence.held_out.value == approx((held_out(bare) - chance) / (held_out(whole) - chance))
    assert (estimate.value > 0.7) == (carrier == "background")
    assert (abs(estimate.value) < 0.3) == (carrier == "subject")


def mean_chance(n_relevant: int, n: int) -> float:
    """Mean average precision over all orders, by its closed form."""
    harmonic = sum(1 / i for i in range(1, n + 1))
    return (n_relevant - 1) / (n - 1) + (n - n_relevant) / (n * (n - 1)) * harmonic


@pytest.mark.parametrize("region", ["subject", "background"])
def test_gallery_and_queries_are_cut_alike_and_scored_as_scikit_learn_scores_them(
    world: tuple[Path, Path], tmp_path: Path, region: Region
) -> None:
    zoo, painter = world
    record = judge(zoo, painter, tmp_path / "store", region)[region].records[0]

    def rows(folder: Path, names: list[Row]) -> npt.NDArray[np.float64]:
        pictures = [
            cut(Image.open(folder / row["file_name"]), Image.open(folder / row["mask_file_name"]), region)
            for row in names
        ]
        found = load_embedder("classical:").embed(pictures).astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    photos = [row for row in rows_of(zoo) if row["split"] == "gallery"]
    similarity = rows(painter, rows_of(painter)) @ rows(zoo, photos).T
    for query, own, row in zip(rows_of(painter), similarity, record.queries.to_pylist(), strict=True):
        is_relevant = [photo["identity"] == query["identity"] for photo in photos]
        assert row["file_name"] == query["file_name"]
        assert row["average_precision"] == approx(average_precision_score(is_relevant, own), abs=1e-9)


def test_changes_outside_the_region_move_nothing(world: tuple[Path, Path], tmp_path: Path) -> None:
    """Bit by bit, when all subjects become noise."""
    zoo, painter = world
    first = judge(zoo, painter, tmp_path / "store")

    rng = np.random.default_rng(0)

    def spoil(pixels: Pixels, is_subject: npt.NDArray[np.bool_]) -> None:
        pixels[is_subject] = rng.integers(0, 256, (is_subject.sum(), 3))

    for folder in zoo, painter:
        for row in rows_of(folder):
            edited(folder / row["file_name"], spoil, folder / row["mask_file_name"])
    second = judge(zoo, painter, tmp_path / "store")
    for column in "average_precision", "auc":
        before, after = (e["background"].records[0].queries.column(column) for e in (first, second))
        assert before == after
    assert second["background"].anchors["held_out"] == first["background"].anchors["held_out"]
    assert abs(held_out(second["subject"], "AUC") - 0.5) < 0.2 < abs(held_out(first["subject"], "AUC") - 0.5)


# ---- the store


def test_each_pair_of_photo_and_mask_is_embedded_once(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    store = tmp_path / "store"
    n = len(rows_of(zoo)) + len(rows_of(painter))
    first = judge(zoo, painter, store)
    assert [first[region].n_forward_passes for region in REGIONS] == [n, n, n]
    again = judge(zoo, painter, store)
    assert [again[region].n_forward_passes for region in REGIONS] == [0, 0, 0]
    for region in REGIONS:
        assert again[region].anchors == first[region].anchors
        assert again[region].records[0].summary == first[region].records[0].summary
    mask = Image.open(painter / "masks" / "toy_a_5.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask.save(painter / "masks" / "toy_a_5.png")
    changed = judge(zoo, painter, store)
    assert [changed[region].n_forward_passes for region in REGIONS] == [0, 1, 1]
    # A copy of picture and mask is nothing new; a copy of the picture under another mask is.
    shutil.copy(painter / "images" / "toy_b_5.png", painter / "images" / "toy_b_6.png")
    shutil.copy(painter / "masks" / "toy_b_5.png", painter / "masks" / "toy_b_6.png")
    shutil.copy(painter / "images" / "toy_c_5.png", painter / "images" / "toy_c_6.png")
    Image.open(painter / "masks" / "toy_c_5.png").transpose(Image.Transpose.ROTATE_180).save(
        painter / "masks" / "toy_c_6.png"
    )
    copied = judge(zoo, painter, store)
    assert [copied[region].n_forward_passes for region in REGIONS] == [0, 1, 1]
    assert [copied[region].n_distinct for region in REGIONS] == [n - 2, n - 1, n - 1]


def test_full_pictures_are_scored_as_if_there_were_no_masks(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    masked = judge(zoo, painter, tmp_path / "store")["full"].records[0]
    for folder in zoo, painter:
        write_rows(
            folder / "metadata.csv",
            [{k: v for k, v in row.items() if k != "mask_file_name"} for row in rows_of(folder)],
        )
        shutil.rmtree(folder / "masks")
    bare = judge(zoo, painter, tmp_path / "elsewhere", "full")["full"].records[0]
    assert files_of(masked, tmp_path / "masked") == files_of(bare, tmp_path / "bare")


def files_of(record: Record, folder: Path) -> dict[str, bytes]:
    write_record(record, folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_records_do_not_depend_on_the_order_of_rows_nor_on_batches(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    first = judge(zoo, painter, tmp_path / "store")
    shuffle = random.Random(0)
    for folder in zoo, painter:
        rows = rows_of(folder)
        shuffle.shuffle(rows)
        write_rows(folder / "metadata.csv", rows)
    again = judge(zoo, painter, tmp_path / "other store", *REGIONS[::-1], batch_size=5, gallery_block=7)
    for region in REGIONS:
        expected, found = (e[region].records[0] for e in (first, again))
        assert files_of(found, tmp_path / f"again {region}") == files_of(expected, tmp_path / f"first {region}")


# ---- records


def test_a_record_says_which_masks_it_used_and_whose(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    found = judge(zoo, painter, tmp_path / "store")
    summary = {region: found[region].records[0].summary for region in REGIONS}
    assert [summary[region]["region"] for region in REGIONS] == list(REGIONS)
    assert "masks" not in summary["full"]
    assert "masks_sha256" not in summary["full"]["gallery"]
    assert summary["subject"]["masks"] == {"treatment": "1", "same_source": True}
    assert summary["subject"]["run"]["mask_source"] == summary["subject"]["gallery"]["mask_source"] == "by hand"
    assert not any("mask" in note for e in found.values() for note in e.notes)

    (painter / "run.toml").write_text('model = "painter"\nmask_source = "a network"\n')
    Image.open(painter / "masks" / "toy_a_6.png").save(painter / "masks" / "toy_a_5.png")
    other = judge(zoo, painter, tmp_path / "store", "subject")["subject"]
    assert other.records[0].summary["masks"]["same_source"] is False
    assert any("several sources (the gallery: 'by hand', painter: 'a network')" in note for note in other.notes)
    digests = [
        (s["gallery"]["masks_sha256"], s["run"]["masks_sha256"]) for s in (summary["subject"], other.records[0].summary)
    ]
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]
    assert other.records[0].summary["run"]["table_sha256"] == summary["full"]["run"]["table_sha256"]

    (painter / "run.toml").write_text('model = "painter"\n')
    unsaid = judge(zoo, painter, tmp_path / "store", "subject")["subject"]
    assert unsaid.records[0].summary["masks"]["same_source"] is None
    assert any("no mask_source says what drew the masks of painter" in note for note in unsaid.notes)


# ---- the command


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, dict[str, Any]]:
    """The folder of two runs, of three regions, and what was printed; records below `records`; to be read only."""
    folder = tmp_path_factory.mktemp("scored")
    _, painter = write_world(folder, "subject")
    shutil.copytree(painter, folder / "sketcher")
    (folder / "sketcher" / "run.toml").write_text('model = "sketcher"\nmask_source = "a network"\n')
    regions = [part for region in ("background", "full", "subject") for part in ("--region", region)]
    command = ("evaluate", "-g", "zoo", "-r", "painter", "-r", "sketcher", "-e", "classical:", *regions)
    command += ("--store", folder / "store")
    done = cli(*command, "--out", "records", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    shown = cli(*command, cwd=folder)
    for part in "subject only", "background only", "background dependence", "(held-out photos)":
        assert part in shown.stdout
    assert "not a share" in shown.stderr
    assert shown.stderr.count("several sources") == 1
    assert shown.stderr.count(" 0 forward passes") == 3
    return folder, json.loads(done.stdout)


@pytest.fixture
def evaluated(scored: tuple[Path, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """What was printed of two runs, whose files a test may spoil."""
    folder, found = scored
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return found


def test_the_command_tells_regions_apart(evaluated: dict[str, Any], tmp_path: Path) -> None:
    assert list(evaluated["by_region"]) == list(REGIONS)
    assert evaluated["anchors"] == evaluated["by_region"]["full"]["anchors_by_embedder"]["classical:"]
    assert len({json.dumps(of["anchors_by_embedder"]) for of in evaluated["by_region"].values()}) == 3
    dependence = evaluated["background_dependence"]["classical:"]
    assert set(dependence["runs"]) == {"painter", "sketcher"}
    assert dependence["held_out"]["low"] <= dependence["held_out"]["value"] <= dependence["held_out"]["high"]
    assert len(list((tmp_path / "records").iterdir())) == 6
    for printed in evaluated["records"]:
        record = read_record(tmp_path / printed["record"])
        assert (record.name, record.region) == (printed["run"], printed["region"])
        assert printed["record"].endswith(f"--{record.region}") == (record.region != "full")
        assert record.summary["scores"]["mAP"] == printed["mAP"]
    frame = load_records(tmp_path / "records")
    assert sorted(frame["region"]) == sorted(2 * REGIONS)


def test_records_of_different_regions_or_masks_are_not_compared(
    evaluated: dict[str, Any], tmp_path: Path, cli: Cli, refusal: Refusal
) -> None:
    of = {(record["run"], record["region"]): tmp_path / record["record"] for record in evaluated["records"]}
    refused = refusal("compare", of["painter", "subject"], of["sketcher", "full"])
    assert "another region than" in refused
    assert "--region" in refused
    assert "another region than" in refusal("compare", tmp_path / "records")
    for region in REGIONS:
        compared = cli("compare", tmp_path / "records", "--region", region)
        assert compared.returncode == 0, compared.stderr
        assert ("several sources (a network, by hand)" in compared.stderr) == (region != "full")
    zoo, painter = tmp_path / "zoo", tmp_path / "painter"
    mask = zoo / "masks" / "toy_a_2.png"
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    command = ("evaluate", "-g", zoo, "-r", painter, "-e", "classical:", "--region", "subject", "--region", "full")
    command += ("--store", tmp_path / "store")
    assert cli(*command, "--out", tmp_path / "others").returncode == 0
    others = {read_record(folder).region: folder for folder in (tmp_path / "others").iterdir()}
    assert "another gallery" in refusal("compare", others["subject"], of["sketcher", "subject"])
    assert cli("compare", others["full"], of["sketcher", "full"]).returncode == 0


def test_neighbours_of_a_region_are_drawn(evaluated: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    for record in evaluated["records"][-1], evaluated["records"][0]:
        drawn = cli("neighbours", record["record"], "--worst", "2", "--out", "strips.png", cwd=tmp_path)
        assert drawn.returncode == 0, drawn.stderr
        with Image.open(tmp_path / "strips.png") as strips:
            assert strips.width > 400


def test_a_record_of_before_there_were_regions_is_one_of_full_pictures(
    evaluated: dict[str, Any], tmp_path: Path, cli: Cli, refusal: Refusal
) -> None:
    of = {(record["run"], record["region"]): tmp_path / record["record"] for record in evaluated["records"]}
    old = of["painter", "full"] / "record.json"
    summary = {k: v for k, v in json.loads(old.read_text()).items() if k not in ("region", "positives")}
    old.write_text(json.dumps(summary))
    read = read_record(old.parent)
    assert (read.region, read.positives) == ("full", "all")
    assert cli("compare", old.parent, of["sketcher", "full"]).returncode == 0
    assert "another region" in refusal("compare", old.parent, of["sketcher", "subject"])


def test_an_unknown_region_is_refused(world: tuple[Path, Path], refusal: Refusal) -> None:
    said = refusal("evaluate", "-g", world[0], "-e", "classical:", "--region", "foreground")
    assert "--region foreground: unknown; write full, subject, background" in said
