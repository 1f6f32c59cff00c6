"""Photos of the references' encounters and broken images are left out, counted and named, or refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from animals import ANIMALS, N_PHOTOS, write_run, write_zoo
from handmade import change_row, rows_of
from protocol_oracle import judge, mean, oracle, table, value
from pytest import approx

from benchmark.records import Record
from galleries.errors import Faults, FinerRankError
from galleries.gallery import Gallery, Photo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("painter"))


# ---- encounters


def test_photos_of_the_references_encounter_are_left_out_and_scored_with_beside(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")
    record = judge(zoo, painter, store=tmp_path / "store").records[0]
    photos = Gallery.open(zoo).photos
    rows = table(record)
    for row in rows:
        query, identity = painter / row["file_name"], row["identity"]
        masked = oracle(query, identity, photos, lambda photo, i=identity: photo.encounter == f"{i}-0")
        assert row["average_precision"] == approx(masked, abs=1e-9)
        assert row["average_precision_with_same_encounter"] == approx(oracle(query, identity, photos), abs=1e-9)
        assert row["n_relevant"] == N_PHOTOS - 1
    unmasked = record.summary["with_same_encounter"]["mAP"]["value"]
    assert unmasked == approx(mean(row["average_precision_with_same_encounter"] for row in rows))
    assert unmasked != record.summary["scores"]["mAP"]["value"]
    assert not any(n["file_name"] == f"images/{rows[n['query']]['identity']}_2.png" for n in neighbours(record))


def neighbours(record: Record) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = record.neighbours.to_pylist()
    return rows


def test_a_run_that_names_no_reference_may_have_seen_the_encounters_of_all(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter", references=False)
    change_row(zoo, 4, encounter="ada-1")  # ada's second reference is row 2, of encounter ada-1
    record = judge(zoo, painter, store=tmp_path / "store").records[0]
    n_relevant = {row["identity"]: row["n_relevant"] for row in table(record)}
    assert n_relevant == {animal: N_PHOTOS - (2 if animal == "ada" else 1) for animal in ANIMALS}


def test_held_out_photos_and_references_too_are_ranked_without_their_own_encounter(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", encounters=True)
    change_row(zoo, 5, encounter="ada-3")
    change_row(zoo, 6, encounter="ada-3")  # photos 4 and 5 of ada were taken together
    evaluation = judge(zoo, store=tmp_path / "store")
    gallery = Gallery.open(zoo)

    def scored(photo: Photo) -> float:
        return oracle(
            photo.path,
            photo.identity,
            gallery.photos,
            lambda other: other == photo or (other.encounter != "" and other.encounter == photo.encounter),
        )

    assert value(evaluation, "held_out") == approx(mean(map(scored, gallery.split("gallery"))), abs=1e-9)
    assert value(evaluation, "copied_reference") == approx(mean(map(scored, gallery.split("reference"))), abs=1e-9)


def test_an_identity_whose_photos_are_all_of_the_references_encounter_is_refused(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")
    for number, row in enumerate(rows_of(zoo), start=1):
        if row["identity"] == "rex":
            change_row(zoo, number, encounter="one day")
    with pytest.raises(Faults, match="identity 'rex': no gallery photo outside its references' encounters"):
        judge(zoo, painter, store=tmp_path / "store")


# ---- what is wrong with images


@pytest.fixture
def spoilt(tmp_path: Path) -> tuple[Path, Path]:
    """A zoo with a truncated photo of ada, and a run with an empty and a missing image of rex."""
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    photo = zoo / "images" / "ada_3.png"
    photo.write_bytes(photo.read_bytes()[:-40])
    (painter / "images" / "rex_0.png").write_bytes(b"")
    (painter / "images" / "rex_1.png").unlink()
    return zoo, painter


def test_broken_images_are_all_named_before_there_is_any_number(spoilt: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = spoilt
    with pytest.raises(Faults) as caught:
        judge(zoo, painter, store=tmp_path / "store")
    message = str(caught.value)
    for part in "rex_0.png: the file is empty", "rex_1.png: no such file":
        assert part in message


def test_skip_broken_scores_the_rest_and_counts_what_is_left_out(spoilt: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = spoilt
    evaluation = judge(zoo, painter, store=tmp_path / "store", skip_broken=True)
    assert sorted(line.split(": ")[1] for line in evaluation.left_out) == [
        "images/ada_3.png",
        "images/rex_0.png",
        "images/rex_1.png",
    ]
    record = evaluation.records[0]
    assert record.summary["n_queries"] == 13
    assert (record.summary["n_images_left_out"], record.summary["n_photos_left_out"]) == (2, 1)
    rows = table(record)
    assert {row["n_relevant"] for row in rows if row["identity"] == "ada"} == {N_PHOTOS - 1}
    photos = [p for p in Gallery.open(zoo).photos if p.file_name != "images/ada_3.png"]
    for row in rows[:4]:
        by_hand = oracle(painter / row["file_name"], row["identity"], photos)
        assert row["average_precision"] == approx(by_hand, abs=1e-9)


def test_two_copies_of_a_broken_image_count_as_two(zoo: Path, tmp_path: Path) -> None:
    painter = write_run(tmp_path / "painter")
    content = (painter / "images" / "rex_0.png").read_bytes()[:-40]
    for name in "rex_0.png", "rex_1.png":
        (painter / "images" / name).write_bytes(content)
    evaluation = judge(zoo, painter, store=tmp_path / "store", skip_broken=True)
    assert evaluation.records[0].summary["n_queries"] == 13
    assert len(evaluation.left_out) == 2


def test_a_gallery_photo_that_is_a_reference_too_is_refused_or_really_left_out(tmp_path: Path, painter: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    shutil.copy(zoo / "images" / "ada_0.png", zoo / "images" / "ada_2.png")
    with pytest.raises(Faults, match=r"ada_2\.png: same bytes as the reference"):
        judge(zoo, painter, store=tmp_path / "store")
    evaluation = judge(zoo, painter, store=tmp_path / "store", skip_broken=True)
    assert len(evaluation.left_out) == 1
    record = evaluation.records[0]
    assert {row["n_relevant"] for row in table(record) if row["identity"] == "ada"} == {N_PHOTOS - 1}
    assert "images/ada_2.png" not in {n["file_name"] for n in neighbours(record)}


def test_an_identity_left_without_a_readable_photo_is_refused_for_that_reason(tmp_path: Path, painter: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    for photo in Gallery.open(zoo).split("gallery"):
        if photo.identity == "rex":
            photo.path.write_bytes(b"broken")
    with pytest.raises(FinerRankError, match="'rex'") as caught:
        judge(zoo, painter, store=tmp_path / "store", skip_broken=True)
    assert "encounter" not in str(caught.value)


def test_a_run_that_asks_for_somebody_unknown_is_refused_before_any_image_is_read(zoo: Path, tmp_path: Path) -> None:
    painter = write_run(tmp_path / "painter")
    change_row(painter, 1, identity="adda")
    shutil.rmtree(painter / "images")
    with pytest.raises(Faults, match=r"identity 'adda': no photo of it in gallery 'zoo'.*is 'ada' meant"):
        judge(zoo, painter, store=tmp_path / "store")


def test_two_runs_of_one_name_are_refused(zoo: Path, painter: Path, tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match="two runs are named 'painter'"):
        judge(zoo, painter, write_run(tmp_path / "other"), store=tmp_path / "store")
