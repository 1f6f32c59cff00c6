"""Identities marked by side: a query should find the side that its references show, against sums by hand."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animals import ANIMALS, N_PHOTOS, write_run, write_zoo
from handmade import Cli, Refusal, add_column, change_row, rows_of, write_rows
from PIL import Image
from pytest import approx

from benchmark.embedders import load_embedder
from benchmark.pool import Asked, Pool
from benchmark.protocol import Evaluation, Options, evaluate
from benchmark.records import Record, write_record
from benchmark.scores import chance_average_precision
from galleries.errors import Faults, FinerRankError
from galleries.gallery import Gallery, Photo
from personalization_runs.run import Run

SIDES = {0: "left", 1: "right", 2: "left", 3: "right", 4: "left", 5: ""}
"""Number of an animal's photo → what its row says; 0 and 1 are references."""


def write_sided_zoo(folder: Path, encounters: bool = False) -> Path:
    """The drawn zoo with a side for most photos; all strays show their left."""
    zoo = write_zoo(folder, encounters)
    rows = []
    for row in rows_of(zoo):
        number = int(Path(row["file_name"]).stem.rpartition("_")[2])
        rows.append(row | {"viewpoint": "left" if row["split"] == "distractor" else SIDES[number]})
    write_rows(zoo / "metadata.csv", rows)
    return zoo


def judge(gallery: Path, *runs: Path, store: Path, same_viewpoint: bool = True, **options: Any) -> Evaluation:
    opened = Gallery.open(gallery), [Run.open(run) for run in runs]
    asked = Options(same_viewpoint=same_viewpoint, **options)
    (evaluation,) = evaluate(*opened, [load_embedder("classical:")], store, asked)
    return evaluation


def average_precision_by_hand(
    query: Path, identity: str, photos: Sequence[Photo], left_out: Callable[[Photo], bool]
) -> float:
    """Every photo in its place: the mean, over the right ones, of the share of right ones down to there."""
    pool = [p for p in photos if p.category == ANIMALS[identity] and p.split != "reference" and not left_out(p)]
    rows = load_embedder("classical:").embed([Image.open(p) for p in (query, *(p.path for p in pool))])
    rows = rows.astype(np.float64)
    similarity = rows[1:] @ rows[0] / np.linalg.norm(rows[1:], axis=1)
    right = [pool[i].identity == identity for i in np.argsort(-similarity)]
    shares = [sum(right[: i + 1]) / (i + 1) for i, is_right in enumerate(right) if is_right]
    return sum(shares) / len(shares)


def shows_another_side(identity: str, *sides: str) -> Callable[[Photo], bool]:
    return lambda photo: photo.identity == identity and photo.viewpoint != "" and photo.viewpoint not in sides


def table(record: Record) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = record.queries.to_pylist()
    return rows


def value(evaluation: Evaluation, anchor: str, metric: str = "mAP") -> float:
    estimate = (evaluation.anchors[anchor] or {})[metric]
    assert estimate is not None
    return estimate.value


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- what is ranked


def test_photos_of_another_side_are_neither_right_nor_wrong_and_the_score_with_them_stands_beside(
    tmp_path: Path,
) -> None:
    zoo, painter = write_sided_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    record = judge(zoo, painter, store=tmp_path / "store").records[0]
    everything = judge(zoo, painter, store=tmp_path / "store", same_viewpoint=False).records[0]
    photos = Gallery.open(zoo).photos
    for row, unrestricted in zip(table(record), table(everything), strict=True):
        identity = row["identity"]
        by_hand = average_precision_by_hand(
            painter / row["file_name"], identity, photos, shows_another_side(identity, "left")
        )
        assert row["average_precision"] == approx(by_hand, abs=1e-9)
        assert row["average_precision_with_other_viewpoints"] == unrestricted["average_precision"]
        assert (row["n_relevant"], row["n_gallery"]) == (N_PHOTOS - 1, unrestricted["n_gallery"] - 1)
        assert row["chance_average_precision"] == approx(chance_average_precision(N_PHOTOS - 1, row["n_gallery"]))
    summary = record.summary
    assert summary["with_other_viewpoints"] == everything.summary["scores"]
    assert summary["scores"]["mAP"]["value"] != everything.summary["scores"]["mAP"]["value"]
    assert (summary["positives"], everything.summary["positives"]) == ("same viewpoint", "all")
    shown = {(table(record)[n["query"]]["identity"], n["file_name"]) for n in record.neighbours.to_pylist()}
    assert not any(f"images/{identity}_3.png" == name for identity, name in shown)
    assert any("_3.png" in name for _, name in shown)


def test_a_run_that_names_no_reference_should_find_the_sides_of_all(tmp_path: Path) -> None:
    zoo, painter = write_sided_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter", references=False)
    change_row(zoo, 2, viewpoint="left")  # ada's second reference
    change_row(zoo, 8, viewpoint="")  # ben's: nobody knows what else the generator saw of him
    rows = table(judge(zoo, painter, store=tmp_path / "store").records[0])
    n_relevant = {row["identity"]: row["n_relevant"] for row in rows}
    assert n_relevant == {a: N_PHOTOS - (a in ("ada", "ben")) for a in ANIMALS}
    photos = Gallery.open(zoo).photos
    sides = {"ada": ["left"], "ben": ["left"]}
    for row in rows:
        identity = row["identity"]
        left_out = shows_another_side(identity, *sides.get(identity, ["left", "right"]))
        by_hand = average_precision_by_hand(painter / row["file_name"], identity, photos, left_out)
        assert row["average_precision"] == approx(by_hand, abs=1e-9)


def test_held_out_photos_and_references_should_find_their_own_side(tmp_path: Path) -> None:
    zoo = write_sided_zoo(tmp_path / "zoo")
    evaluation = judge(zoo, store=tmp_path / "store")
    gallery = Gallery.open(zoo)

    def scored(photo: Photo) -> float:
        other_side = shows_another_side(photo.identity, photo.viewpoint)
        return average_precision_by_hand(
            photo.path,
            photo.identity,
            gallery.photos,
            lambda p: p == photo or (photo.viewpoint != "" and other_side(p)),
        )

    assert value(evaluation, "held_out") == approx(mean([scored(p) for p in gallery.split("gallery")]), abs=1e-9)
    copied = [scored(p) for p in gallery.split("reference")]
    assert value(evaluation, "copied_reference") == approx(mean(copied), abs=1e-9)
    n_unknown = len(ANIMALS)
    assert f"held-out anchor: {n_unknown} of {len(ANIMALS) * N_PHOTOS} photos are not restricted" in " ".join(
        evaluation.notes
    )


def test_chance_counts_what_the_references_sides_leave(tmp_path: Path) -> None:
    zoo = write_sided_zoo(tmp_path / "zoo")
    change_row(zoo, 2, viewpoint="left")  # both of ada's references show her left
    n_ranked = {"cats": 3 * N_PHOTOS, "dogs": 2 * N_PHOTOS + 3}
    closed = [
        chance_average_precision(N_PHOTOS - (animal == "ada"), n_ranked[category] - (animal == "ada"))
        for animal, category in ANIMALS.items()
    ]
    assert value(judge(zoo, store=tmp_path / "store"), "chance") == approx(mean(closed))


def test_encounters_and_viewpoints_are_left_out_together_and_lifted_one_by_one(tmp_path: Path) -> None:
    # Each animal's photo 2 is of the encounter of its reference 0, which shows the left.
    zoo, painter = write_sided_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")
    record = judge(zoo, painter, store=tmp_path / "store").records[0]
    photos = Gallery.open(zoo).photos
    for row in table(record):
        identity, query = row["identity"], painter / row["file_name"]
        other_side = shows_another_side(identity, "left")

        def same_encounter(photo: Photo, identity: str = identity) -> bool:
            return photo.encounter == f"{identity}-0"

        both = average_precision_by_hand(query, identity, photos, lambda p: other_side(p) or same_encounter(p))  # noqa: B023
        assert row["average_precision"] == approx(both, abs=1e-9)
        no_side = average_precision_by_hand(query, identity, photos, same_encounter)
        assert row["average_precision_with_other_viewpoints"] == approx(no_side, abs=1e-9)
        no_encounter = average_precision_by_hand(query, identity, photos, other_side)
        assert row["average_precision_with_same_encounter"] == approx(no_encounter, abs=1e-9)


def test_a_pool_without_asked_viewpoints_is_the_pool_of_before(tmp_path: Path) -> None:
    photos = Gallery.open(write_sided_zoo(tmp_path / "zoo")).split("gallery", "distractor")
    rows = np.random.default_rng(0).normal(size=(len(photos), 8)).astype(np.float32)
    pool = Pool(photos, rows, 7)
    queries = np.random.default_rng(1).normal(size=(1, 8)).astype(np.float32)
    plain = Asked(0, "ada", "cats")
    assert pool.n_ranked(plain) == (N_PHOTOS, 3 * N_PHOTOS)
    assert pool.n_ranked(Asked(0, "ada", "cats", viewpoints=frozenset({"left"}))) == (3, 3 * N_PHOTOS - 1)
    assert pool.n_ranked(Asked(0, "ada", "birds")) == (0, 0)
    every_side = Asked(0, "ada", "cats", viewpoints=frozenset({"left", "right"}))
    assert pool.score([plain], queries) == pool.score([every_side], queries)


# ---- what is unknown


def test_queries_whose_references_viewpoint_is_unknown_are_not_restricted_and_counted(tmp_path: Path) -> None:
    zoo, painter = write_sided_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    change_row(zoo, 1, viewpoint="")  # ada's first reference, which her three images were made from
    evaluation = judge(zoo, painter, store=tmp_path / "store")
    summary = evaluation.records[0].summary
    rows = table(evaluation.records[0])
    assert {row["n_relevant"] for row in rows if row["identity"] == "ada"} == {N_PHOTOS}
    assert {row["n_relevant"] for row in rows if row["identity"] != "ada"} == {N_PHOTOS - 1}
    assert summary["n_queries_of_unknown_viewpoint"] == 3
    assert any("painter: 3 of 15 queries are not restricted to a viewpoint" in note for note in evaluation.notes)


def test_nothing_left_to_find_is_refused_and_named_by_viewpoint(tmp_path: Path) -> None:
    zoo, painter = write_sided_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")
    for number, row in enumerate(rows_of(zoo), start=1):
        if row["identity"] == "rex" and row["split"] == "gallery":
            change_row(zoo, number, viewpoint="right")
    with pytest.raises(Faults) as caught:
        judge(zoo, painter, store=tmp_path / "store")
    message = str(caught.value)
    assert "identity 'rex': no gallery photo of its references' viewpoint (left)" in message
    assert "--same-viewpoint" in message
    assert "ada" not in message
    # Of the right side there is one photo, and that is of the reference's encounter: sides are not to blame.
    for number, row in enumerate(rows_of(zoo), start=1):
        if row["identity"] == "rex":
            change_row(zoo, number, encounter="one day")
    with pytest.raises(Faults, match="'rex': no gallery photo outside its references' encounters"):
        judge(zoo, painter, store=tmp_path / "store")


def test_a_gallery_that_knows_no_viewpoint_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    for column in "", " ":
        if column:
            add_column(zoo, "viewpoint", column)
        with pytest.raises(FinerRankError, match=r"no photo has a viewpoint; fill in the column viewpoint"):
            judge(zoo, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("spelling", "said"), [("Left", "differ in capitals"), ("left ", "ends with a space")])
def test_another_spelling_of_a_side_is_not_silently_another_side(tmp_path: Path, spelling: str, said: str) -> None:
    zoo = write_sided_zoo(tmp_path / "zoo")
    change_row(zoo, 3, viewpoint=spelling)
    with pytest.raises(FinerRankError, match=said):
        judge(zoo, store=tmp_path / "store")


def test_an_unrestricted_evaluation_does_not_look_at_viewpoints(tmp_path: Path) -> None:
    plain, sided = write_zoo(tmp_path / "plain"), write_sided_zoo(tmp_path / "sided")
    painter = write_run(tmp_path / "painter")
    first, second = (
        judge(zoo, painter, store=tmp_path / "store", same_viewpoint=False).records[0] for zoo in (plain, sided)
    )
    assert first.queries.equals(second.queries)
    assert first.summary["scores"] == second.summary["scores"]
    assert "with_other_viewpoints" not in second.summary


# ---- records


def test_a_record_does_not_depend_on_the_order_of_rows_nor_on_blocks(tmp_path: Path) -> None:
    zoo, painter = write_sided_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")

    def files(name: str, **options: Any) -> list[bytes]:
        write_record(judge(zoo, painter, store=tmp_path / "store", **options).records[0], tmp_path / name)
        return [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]

    expected = files("first")
    shuffle = random.Random(0)
    for folder in zoo, painter:
        rows = rows_of(folder)
        shuffle.shuffle(rows)
        write_rows(folder / "metadata.csv", rows)
    assert files("second", gallery_block=3, batch_size=2) == expected


def test_the_command_keeps_both_kinds_of_records_apart(tmp_path: Path, cli: Cli, refusal: Refusal) -> None:
    zoo = write_sided_zoo(tmp_path / "zoo")
    for name in "painter", "sketcher":
        write_run(tmp_path / "runs" / name, name)
    command = ("evaluate", "-g", zoo, "-r", tmp_path / "runs", "-e", "classical:", "--out", tmp_path / "records")
    assert cli(*command).returncode == 0
    shown = cli(*command, "--same-viewpoint")
    assert shown.returncode == 0, shown.stderr
    assert "positives: same viewpoint" in shown.stdout
    assert "other viewpoints" in shown.stdout
    printed = json.loads(cli(*command, "--same-viewpoint", "--json").stdout)
    assert {record["positives"] for record in printed["records"]} == {"same viewpoint"}
    assert printed["records"][0]["with_other_viewpoints"]["mAP"]["value"] > 0
    folders = sorted(path.name for path in (tmp_path / "records").iterdir())
    assert len(folders) == 4
    assert sum(name.endswith("--same-viewpoint") for name in folders) == 2
    painters = [tmp_path / "records" / name for name in folders if name.startswith("painter")]
    sketchers = [tmp_path / "records" / name for name in folders if name.startswith("sketcher")]
    assert "choice of positives" in refusal("compare", painters[0], sketchers[1])
    for pair in zip(painters, sketchers, strict=True):
        assert cli("compare", *pair).returncode == 0
