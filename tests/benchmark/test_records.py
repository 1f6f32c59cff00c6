"""Records on disk: what was written comes back, and damage is named in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from animals import ANIMALS, write_run, write_zoo
from handmade import rows_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from benchmark.embedders import load_embedder
from benchmark.protocol import evaluate
from benchmark.record_tables import as_table
from benchmark.records import FILES, Record, find_records, load_records, read_record, write_record
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.run import Run


def judged(zoo: Path, painter: Path, store: Path) -> Record:
    (evaluation,) = evaluate(Gallery.open(zoo), [Run.open(painter)], [load_embedder("classical:")], store)
    return evaluation.records[0]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("judged")
    return judged(write_zoo(folder / "zoo"), write_run(folder / "painter"), folder / "store")


@pytest.fixture(scope="module")
def of_one_identity(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A record without AUC: its gallery shows ada alone."""
    folder = tmp_path_factory.mktemp("ada")
    zoo, painter = write_zoo(folder / "zoo"), write_run(folder / "painter")
    for place in zoo, painter:
        write_rows(place / "metadata.csv", [row for row in rows_of(place) if row["identity"] == "ada"])
    return judged(zoo, painter, folder / "store")


def content(record: Record) -> tuple[Any, ...]:
    """All of a record, its summary as JSON gives it back."""
    return json.loads(json.dumps(record.summary)), record.queries, record.neighbours, record.places


def test_a_record_comes_back_as_it_was_written(record: Record, of_one_identity: Record, tmp_path: Path) -> None:
    for each in record, of_one_identity:
        # The second replaces the first as a whole.
        write_record(each, tmp_path / "record")
        assert content(read_record(tmp_path / "record")) == content(each)
        assert {path.name for path in (tmp_path / "record").iterdir()} == set(FILES)
        assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_a_folder_that_holds_something_else_is_left_alone(record: Record, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(FinerRankError, match="holds something that is not a record"):
        write_record(record, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FinerRankError, match="holds something that is not a record"):
        write_record(record, tmp_path / "file")


def test_a_record_says_all_that_scoring_it_again_needs_and_nothing_of_this_machine(
    record: Record, tmp_path: Path
) -> None:
    write_record(record, tmp_path / "record")
    text = (tmp_path / "record" / "record.json").read_text()
    summary = json.loads(text)
    assert summary["embedder"]["family"] == "classical"
    assert set(summary["embedder"]) >= {"spec", "fingerprint", "model", "weights_sha256", "preprocessing", "precision"}
    assert {"name", "version", "table_sha256", "images_sha256"} <= set(summary["gallery"])
    assert {"name", "table_sha256", "images_sha256"} <= set(summary["run"])
    assert {"finer-rank", "torch", "pillow", "numpy"} <= set(summary["versions"])
    folder = str(Path(record.places["gallery"]).parent)
    assert folder not in text
    assert folder.encode() not in (tmp_path / "record" / "queries.parquet").read_bytes()
    assert folder.encode() not in (tmp_path / "record" / "neighbours.parquet").read_bytes()


def test_the_digest_of_images_changes_with_a_single_pixel(record: Record, tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    image = painter / "images" / "ada_0.png"
    image.write_bytes((painter / "images" / "ben_0.png").read_bytes())
    changed = judged(zoo, painter, tmp_path / "store").summary
    assert changed["run"]["images_sha256"] != record.summary["run"]["images_sha256"]
    assert changed["run"]["table_sha256"] == record.summary["run"]["table_sha256"]
    assert changed["gallery"]["images_sha256"] == record.summary["gallery"]["images_sha256"]


KINDS = (st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.integers(0, 9) | st.floats(0, 1))


@given(st.one_of([st.lists(st.none() | kind, max_size=20) for kind in KINDS]))
@settings(deadline=None)
def test_the_columns_of_a_table_are_those_that_arrow_makes_of_the_values(values: list[Any]) -> None:
    ours, theirs = as_table({"column": values}), pa.table({"column": values})
    ours.validate(full=True)
    assert ours.schema == theirs.schema
    assert repr(ours.to_pydict()) == repr(theirs.to_pydict())  # -0.0 and NaN too


def test_means_of_identities_are_those_of_their_queries(record: Record) -> None:
    rows = record.queries.to_pylist()
    for column in "average_precision", "auc":
        by_hand = {}
        for animal in ANIMALS:
            own = [row[column] for row in rows if row["identity"] == animal]
            by_hand[animal] = sum(own) / len(own)
        assert record.identity_means(column) == approx(by_hand)


def test_a_score_that_is_undefined_for_an_identity_has_no_mean(of_one_identity: Record) -> None:
    assert of_one_identity.identity_means("auc") == {}
    assert of_one_identity.identity_means("average_precision") == {"ada": 1.0}


def test_records_are_found_in_given_folders_once_each(record: Record, tmp_path: Path) -> None:
    for name in "b", "a":
        write_record(record, tmp_path / "records" / name)
    found = find_records([tmp_path / "records" / "b", tmp_path / "records"])
    assert found == [tmp_path / "records" / "b", tmp_path / "records" / "a"]
    (tmp_path / "empty").mkdir()
    for place in tmp_path / "empty", tmp_path / "gone":
        with pytest.raises(FinerRankError, match="holds no record"):
            find_records([place])


def test_records_open_as_a_table_for_analysis(record: Record, of_one_identity: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "a")
    write_record(of_one_identity, tmp_path / "b")
    frame = load_records(tmp_path / "a", tmp_path / "b")
    assert frame["run"].tolist() == ["painter", "painter"]
    assert frame["mAP"].tolist() == [record.summary["scores"]["mAP"]["value"], 1.0]
    assert frame["mAP low"][0] < frame["mAP"][0] < frame["mAP high"][0]
    assert frame["AUC"].isna().tolist() == [False, True]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_column(folder: Path) -> None:
    table = pq.read_table(folder / "queries.parquet")
    pq.write_table(table.drop_columns(["average_precision"]), folder / "queries.parquet")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated json": lambda f: (f / "record.json").write_text((f / "record.json").read_text()[:500]),
    "empty json": lambda f: (f / "record.json").write_text(""),
    "a list": lambda f: (f / "record.json").write_text("[]"),
    "not UTF-8": lambda f: (f / "record.json").write_bytes(b'{"format": "\xff"}'),
    "another format": lambda f: edit(f / "record.json", lambda r: r.update(format=99)),
    "no gallery": lambda f: edit(f / "record.json", lambda r: r.pop("gallery")),
    "no scores": lambda f: edit(f / "record.json", lambda r: r.pop("scores")),
    "scores of text": lambda f: edit(f / "record.json", lambda r: r.update(scores="good")),
    "truncated queries": lambda f: (f / "queries.parquet").write_bytes((f / "queries.parquet").read_bytes()[:-30]),
    "no queries": lambda f: (f / "queries.parquet").unlink(),
    "queries without scores": without_column,
    "no neighbours": lambda f: (f / "neighbours.parquet").unlink(),
    "neighbours of another kind": lambda f: pq.write_table(pa.table({"a": [1]}), f / "neighbours.parquet"),
    "damaged places": lambda f: (f / "places.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_in_one_line(record: Record, tmp_path: Path, damage: str) -> None:
    write_record(record, tmp_path / "record")
    DAMAGES[damage](tmp_path / "record")
    with pytest.raises(FinerRankError) as caught:
        read_record(tmp_path / "record")
    message = str(caught.value)
    assert str(tmp_path / "record") in message
    assert "\n" not in message


def test_a_published_record_without_its_places_is_read(record: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "record")
    (tmp_path / "record" / "places.json").unlink()
    assert read_record(tmp_path / "record").places == {}
