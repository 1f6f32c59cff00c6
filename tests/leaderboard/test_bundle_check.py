"""`finer-rank leaderboard check`: what a repository of bundles refuses, holds for review, and publishes."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import drop_column, lacking, noise, rows_of, write_rows
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_bundles import (
    at,
    change_json,
    change_record,
    change_table,
    command,
    declare,
    leaves,
    put,
    record_of,
    seal,
    write_run,
    write_zoo,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gallery `zoo`, the runs `painter` and `sketcher`, and the bundles of both in `board`."""
    folder = tmp_path_factory.mktemp("world")
    zoo = write_zoo(folder / "zoo")
    (zoo / "gallery.toml").write_text('name = "zoo"\nversion = "1"\nthumbnails = "yes"\n')
    for model, likeness in (("painter", 0.6), ("sketcher", 0.2)):
        declare(write_run(folder / model, likeness), model)
        with contextlib.chdir(folder):
            code, _, err = command("add", model, "-g", "zoo", "-e", "classical:", "--out", "board", "--store", "store")
        assert code == 0, err
    return folder


@contextlib.contextmanager
def copied(board: Path) -> Iterator[Path]:
    """The bundle of the painter in a folder of its own, of which a test may spoil anything."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(board / "zoo-1--painter", Path(folder) / "zoo-1--painter"))


@pytest.fixture
def bundle(world: Path) -> Iterator[Path]:
    with copied(world / "board") as folder:
        yield folder


@pytest.fixture
def board(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "board", tmp_path / "board"))


def check(*arguments: object) -> tuple[int, str, str]:
    return command("check", *arguments)


def faults_of(*arguments: object) -> str:
    """The lines with which bundles are refused."""
    code, out, err = check(*arguments)
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("finer-rank: ")
    return err


def notes_of(*arguments: object) -> str:
    """The notes beside bundles that are accepted."""
    code, _, err = check(*arguments)
    assert code == 0, err
    return err


def record_json(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))
    return content


def rename(bundle: Path, model: str, folder: str) -> Path:
    """Give a bundle another model, throughout."""
    change_record(bundle, lambda record: record["run"].update(name=model, model=model))
    change_json(bundle / "manifest.json", lambda manifest: manifest.update(model=model))
    return bundle.rename(bundle.parent / folder)


# ---- what is published


def test_sound_bundles_are_ranked_by_mean_average_precision(world: Path) -> None:
    code, out, _ = check(world / "board")
    assert code == 0
    assert out.index("painter") < out.index("sketcher") < out.index("2 bundles, no faults")
    (ranking,) = json.loads(check(world / "board", "--json")[1])["boards"]
    assert (ranking["gallery"], ranking["version"], ranking["embedder"]) == ("zoo", "1", "classical:")
    assert [(row["rank"], row["model"]) for row in ranking["rows"]] == [(1, "painter"), (2, "sketcher")]
    for row in ranking["rows"]:
        table = pq.read_table(record_of(world / "board" / row["bundle"]) / "queries.parquet").to_pandas()
        assert row["mean_average_precision"] == pytest.approx(table["average_precision"].mean())
        assert row["low"] < row["mean_average_precision"] < row["high"]


def test_a_change_is_said_in_words(board: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(board, before)
    shutil.rmtree(before / "zoo-1--painter")
    code, out, err = check(board, "--before", before)
    assert code == 0
    assert not lacking(out, "new: zoo-1--painter", "painter is new: rank 1 of 2", "sketcher: rank 1 → 2")
    code, out, err = check(before, "--before", board)
    assert (code, "removed: zoo-1--painter" in out, "sketcher: rank 2 → 1" in out) == (0, True, True)
    assert "held for review: zoo-1--painter: is not there any more" in err
    changes = json.loads(check(board, "--before", board, "--json")[1])["changes"]
    assert changes == {"new": [], "changed": [], "removed": [], "moves": []}


def test_a_folder_without_bundles_is_no_empty_board(tmp_path: Path) -> None:
    assert "holds no bundle" in faults_of(tmp_path)
    assert "no such folder" in faults_of(tmp_path / "nowhere")


# ---- every number is computed again

ONLY_IMAGES_TELL = (
    ("gallery_anchors", "held_out"),
    ("gallery_anchors", "copied_reference"),
    ("n_copied",),
)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_number_of_a_record_can_be_changed(world: Path, data: st.DataObject) -> None:
    record = record_json(world / "board" / "zoo-1--painter")
    path = data.draw(st.sampled_from([leaf for leaf in leaves(record) if not _only_images_tell(leaf)]))
    change = data.draw(st.sampled_from([lambda v: v + 1, lambda v: v - 1, lambda v: v * 1.001 + 1e-6]))
    with copied(world / "board") as bundle:
        change_record(bundle, lambda record: put(record, path, change(at(record, path))))
        lines = faults_of(bundle)
    if path[-1] == "held_out":  # of an identity: what follows from it is named
        assert "held_out" in lines or "identity_retention" in lines
    else:
        assert ("embedder" if path[0] == "embedder" else ".".join(path)) in lines


def _only_images_tell(path: tuple[str, ...]) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in ONLY_IMAGES_TELL)


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_score_of_a_query_can_be_changed(world: Path, data: st.DataObject) -> None:
    table = pq.read_table(record_of(world / "board" / "zoo-1--painter") / "queries.parquet")
    numbers = [f.name for f in table.schema if f.type in (pa.float64(), pa.int64())]
    column = data.draw(st.sampled_from(numbers))
    row = data.draw(st.integers(0, table.num_rows - 1))
    by = data.draw(st.sampled_from([1, -1, 2] if table.schema.field(column).type == pa.int64() else [1e-3, -1e-3, 2.5]))

    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] += by

    with copied(world / "board") as bundle:
        change_table(bundle, "queries", change)
        assert "queries.parquet" in faults_of(bundle)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_flattering_story_that_fits_together_is_told_from_the_neighbours(is_tied: bool, bundle: Path) -> None:
    """All queries claim perfect scores, perhaps for ties, and the record says what follows from them."""
    from leaderboard.bundle_tables import read_columns
    from leaderboard.recompute import aggregates_of

    def flatter(columns: dict[str, list[Any]]) -> None:
        for column in ("average_precision", "auc", "rank_1", "map_at_r", "inverse_negative_penalty", "first_hit_rank"):
            columns[column] = [1.0] * len(columns[column])
        columns["is_tied"] = [is_tied] * len(columns["is_tied"])

    def follow(record: dict[str, Any]) -> None:
        columns, faults = read_columns(record_of(bundle) / "queries.parquet", "queries")
        assert not faults
        found = aggregates_of(columns, record)
        found.pop("embedder"), found.pop("gallery_anchors")
        record |= found
        record["gallery_anchors"]["copied_reference"]["mAP"]["value"] = 1.0

    change_table(bundle, "queries", flatter)
    change_record(bundle, follow)
    assert not lacking(faults_of(bundle), "neighbours.parquet", "average_precision 1 cannot be", "its neighbours allow")


def _set(column: str, row: int, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] = value

    return change


def _copy_row(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.append(values[0])


def _cut_last(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


TABLES: dict[str, tuple[str, Callable[[dict[str, list[Any]]], Any], str]] = {
    "nan": ("queries", _set("average_precision", 3, float("nan")), "row 3: average_precision: not a finite number"),
    "infinity": ("queries", _set("first_hit_rank", 0, float("inf")), "first_hit_rank: not a finite number"),
    "null": ("queries", _set("rank_1", 1, None), "row 1: rank_1: null"),
    "out of range": ("queries", _set("auc", 2, 1.5), "row 2: auc: 1.5, not in [0, 1]"),
    "digest": ("queries", _set("image_sha256", 0, "A" * 64), "row 0: image_sha256: no SHA-256"),
    "leaves the folder": ("queries", _set("file_name", 0, "../x.png"), "file_name: file_name leaves the folder"),
    "nobody": ("queries", _set("identity", 0, " "), "identity: empty"),
    "another identity": ("queries", _set("identity", 0, "rex"), "category: another one"),
    "twice": ("queries", _copy_row, "row 15: file_name: asks for the same identity twice"),
    "some copies": ("queries", _set("is_copy", 0, True), "copy_rate.value: 0, but queries.parquet gives 0.0666"),
    "no copies": ("queries", lambda c: c.pop("is_copy"), "is_copy: no such column"),
    "left out": ("queries", _cut_last, "queries.parquet has 14 rows"),
    "extra column": ("queries", lambda c: c.update(extra=[1.0] * 15), "extra: unknown column"),
    "no column": ("queries", lambda c: c.pop("seed"), "seed: no such column"),
    "another type": ("queries", lambda c: c.update(is_tied=["no"] * 15), "not readable as Parquet"),
    "unspoken column": (
        "queries", lambda c: c.update(similarity_to_all_references=[0.5] * 15), "record.json does not speak of it",
    ),
    "rank": ("neighbours", _set("rank", 1, 3), "ranks are not 1, 2, 3"),
    "similarity": ("neighbours", _set("similarity", 0, 1.5), "similarity: 1.5, not in"),
    "rising": ("neighbours", _set("similarity", 4, 0.999), "similarity rises with the rank"),
    "relevance": ("neighbours", _set("is_relevant", 0, False), "is_relevant is not whether"),
    "another photo": ("neighbours", _set("image_sha256", 0, "0" * 64), "another photo or identity"),
    "nobody's": ("neighbours", _set("query", 0, 15), "15: queries.parquet has 15 rows"),
    "fewer": ("neighbours", _cut_last, "has 9 neighbours, not 10"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_damaged_tables_are_named(case: str, bundle: Path) -> None:
    table, change, why = TABLES[case]
    if case == "another type":
        (record_of(bundle) / "queries.parquet").write_bytes(b"PAR1 nothing PAR1")
        seal(bundle)
    else:
        change_table(bundle, table, change)
    assert why in faults_of(bundle)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damaged_bytes_of_a_table_are_no_crash(world: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["queries.parquet", "neighbours.parquet"]))
    with copied(world / "board") as bundle:
        content = bytearray((record_of(bundle) / name).read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (record_of(bundle) / name).write_bytes(content)
        seal(bundle)
        assert check(bundle)[0] in (0, 2)  # some bytes mean nothing, others spell a prompt


def test_a_column_of_another_type_is_named(bundle: Path) -> None:
    path = record_of(bundle) / "queries.parquet"
    table = pq.ParquetFile(path).read()
    at_column = table.schema.get_field_index("n_relevant")
    pq.write_table(table.set_column(at_column, "n_relevant", table.column("n_relevant").cast(pa.float64())), path)
    seal(bundle)
    assert "n_relevant: is double, not int64" in faults_of(bundle)


def test_fewer_neighbours_do_not_hide_a_score(bundle: Path) -> None:
    def shorten(columns: dict[str, list[Any]]) -> None:
        kept = [row for row, rank in enumerate(columns["rank"]) if rank <= 2]
        for column, values in columns.items():
            columns[column] = [values[row] for row in kept]

    change_table(bundle, "neighbours", shorten)
    assert "has 2 neighbours, not 10 (and 14 more rows)" in faults_of(bundle)


def test_few_bytes_that_stand_for_very_many_are_not_unpacked(bundle: Path) -> None:
    path = record_of(bundle) / "queries.parquet"
    table = pq.ParquetFile(path).read()
    endless = pa.array(["x" * 1_000_000] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("prompt"), "prompt", endless), path)
    seal(bundle)
    assert "prompt: a value of 1000000 bytes" in faults_of(bundle)


# ---- fields

RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown": (lambda r: r.update(rank=1), "rank: unknown field"),
    "missing": (lambda r: r["scores"].pop("AUC"), "scores.AUC: missing"),
    "text": (lambda r: r["scores"]["mAP"].update(value="0.9"), "scores.mAP.value: '0.9', not a number"),
    "percent": (lambda r: r["scores"]["mAP"].update(value=79.0), "scores.mAP.value: 79, not in [0, 1]"),
    "truth": (lambda r: r.update(n_queries=True), "n_queries: True, not a whole number"),
    "list": (lambda r: r.update(identities=[]), "identities: list, not an object"),
    "huge": (lambda r: r.update(n_images=10**400), "n_images: far more"),
    "protocol": (lambda r: r.update(protocol="0"), "protocol: '0', not '1'"),
    "format": (lambda r: r.update(format=99), "format: 99, not in"),
    "region": (lambda r: r.update(region="subject"), "region: 'subject', not 'full'"),
    "skipped": (lambda r: r.update(n_images_left_out=2), "n_images_left_out: 2, not in 0 … 0"),
    "fingerprint": (lambda r: r["embedder"].update(fingerprint="0" * 64), "embedder.fingerprint"),
    "author": (lambda r: r["run"].pop("authors"), "run.authors: missing"),
    "contact": (lambda r: r["run"].update(contact=" "), "run.contact: empty"),
    "licence": (lambda r: r["run"].update(licence="x" * 2001), "run.licence: 2001 characters"),
    "no copy rate": (lambda r: r.pop("copy_rate"), "copy_rate: missing"),
    "more identities": (lambda r: r.update(n_gallery_identities=9), "n_gallery_identities: 9, but"),
    "other model": (lambda r: r["run"].update(name="x", model="x"), "is not the model of the manifest"),
    "other gallery": (lambda r: r["gallery"].update(table_sha256="0" * 64), "is not the gallery of the manifest"),
    "deep": (lambda r: r["run"].update(parameters={"a": json.loads("[" * 50 + "]" * 50)}), "levels deep"),
    "long": (lambda r: r["run"].update(url="x" * 30_000), "30000 characters, more than"),
    "identity": (lambda r: r["identities"].update(nobody=r["identities"]["ada"]), "identities.nobody: not in"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_fields_of_a_record_are_checked(case: str, bundle: Path) -> None:
    change, why = RECORDS[case]
    change_record(bundle, change)
    assert why in faults_of(bundle)


def test_honest_ties_are_no_fault(world: Path, tmp_path: Path) -> None:
    """Copies among the gallery's photos tie, relevant and irrelevant ones alike."""
    zoo = Path(shutil.copytree(world / "zoo", tmp_path / "zoo"))
    for first, second in (("ada_2", "ben_2"), ("ada_3", "cleo_3"), ("rex_4", "stray 0_0"), ("ada_4", "ada_5")):
        shutil.copyfile(zoo / "images" / f"{first}.png", zoo / "images" / f"{second}.png")
    code, _, err = command("add", world / "painter", "-g", zoo, "-e", "classical:", "--out", tmp_path / "board")
    assert code == 0, err
    assert "queries have ties" in notes_of(tmp_path / "board")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"format": NaN}', "NaN is no number"),
        (b'{"format": -Infinity}', "-Infinity is no number"),
        (b'{"format": 1, "format": 1}', "a key stands twice"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[]", "list, not an object"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not readable as JSON"),
    ],
)
@pytest.mark.parametrize("which", ["record", "manifest"])
def test_json_that_only_looks_like_it_is_refused(content: bytes, why: str, which: str, bundle: Path) -> None:
    path = record_of(bundle) / "record.json" if which == "record" else bundle / "manifest.json"
    path.write_bytes(content)
    if which == "record":
        seal(bundle)
    assert why in faults_of(bundle)


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [each for key in value for each in _paths(value[key], (*path, key))] if isinstance(value, dict) else []
    return [*([path] if path else []), *inner]


NONSENSE = [None, [], {}, "", "x", "\ud800", -1, 0, 1e308, 10**300, True, [[]], {"": None}, {"value": None}]


@given(data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_nonsense_anywhere_is_a_fault_and_no_crash(world: Path, data: st.DataObject) -> None:
    whole = world / "board" / "zoo-1--painter"
    with copied(world / "board") as bundle:
        if data.draw(st.booleans()):
            record = record_json(whole)
            path = data.draw(st.sampled_from(_paths(record)))
            value = data.draw(st.sampled_from(NONSENSE))
            assume(value is not at(record, path))
            change_record(bundle, lambda record: put(record, path, value))
        else:
            manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
            path = data.draw(st.sampled_from([p for p in _paths(manifest) if p[0] != "files" or len(p) == 1]))
            value = data.draw(st.sampled_from(NONSENSE))
            change_json(bundle / "manifest.json", lambda manifest: put(manifest, path, value))
        code, out, err = check(bundle)
    is_free = path[0] in ("versions", "run", "gallery") or _only_images_tell(path) or path[-1] == "gallery_seen"
    assert code == 2 or (code == 0 and is_free), (path, value, out, err)


def test_infinity_in_disguise_is_refused(bundle: Path) -> None:
    path = record_of(bundle) / "record.json"
    number = json.dumps(record_json(bundle)["scores"]["mAP"]["value"])
    path.write_text(path.read_text(encoding="utf-8").replace(number, "1e999", 1), encoding="utf-8")
    seal(bundle)
    assert "not a finite number" in faults_of(bundle)


# ---- files


def _swap(bundle: Path) -> None:
    first, second = sorted((bundle / "thumbnails").iterdir())[:2]
    first.write_bytes(second.read_bytes())


def _link(bundle: Path) -> None:
    path = record_of(bundle) / "record.json"
    shutil.move(path, bundle.parent / "record.json")
    path.symlink_to(bundle.parent / "record.json")


def _link_folder(bundle: Path) -> None:
    shutil.move(bundle / "thumbnails", bundle.parent / "thumbnails")
    (bundle / "thumbnails").symlink_to(bundle.parent / "thumbnails")


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "extra": (lambda b: (b / "thumbnails" / "x.html").write_text("<script>"), "thumbnails/x.html: not in the manifest"),
    "places": (lambda b: (record_of(b) / "places.json").write_text("{}"), "places.json: not in the manifest"),
    "changed": (_swap, "its SHA-256 is another"),
    "gone": (lambda b: (record_of(b) / "neighbours.parquet").unlink(), "no such file, but the manifest lists it"),
    "link": (_link, "record.json: is a link"),
    "linked folder": (_link_folder, "thumbnails: is a link"),
    "fifo": (lambda b: os.mkfifo(b / "manifest"), "is a device or another special file"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "holds no bundle"),
    "renamed": (lambda b: b.rename(b.parent / "zoo-1--master"), "is not named zoo-1--painter"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_are_those_of_the_manifest(case: str, bundle: Path) -> None:
    change, why = FILES[case]
    change(bundle)
    if case == "no manifest":  # among others, it must not vanish silently
        assert "manifest.json: no such file" in faults_of(bundle.parent)
        return
    assert why in faults_of(bundle.parent)


def test_files_that_are_no_part_of_a_bundle_are_refused_also_where_the_manifest_lists_them(bundle: Path) -> None:
    (bundle / "index.html").write_text("<script>")
    seal(bundle)
    assert "index.html: is no part of a bundle" in faults_of(bundle)


def _large_thumbnail(path: Path) -> None:
    noise(1, (300, 20)).save(path, "WEBP")


def _placed_thumbnail(path: Path) -> None:
    place = Image.Exif()
    place[0x010E] = "at home"
    noise(1).save(path, "WEBP", exif=place)


THUMBNAILS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no picture": (lambda path: path.write_bytes(b"<svg onload=alert(1)>"), "not a readable image"),
    "png": (lambda path: noise(1).save(path, "PNG"), "is PNG, not WebP"),
    "large": (_large_thumbnail, "300 × 20 pixels"),
    "metadata": (_placed_thumbnail, "carries metadata"),
    "gone": (lambda path: path.unlink(), "no such thumbnail"),
    "of nothing": (lambda path: path.rename(path.with_name("0" * 64 + ".webp")), "is of no picture"),
}


@pytest.mark.parametrize("case", THUMBNAILS)
def test_thumbnails_are_small_pictures_of_what_is_shown(case: str, bundle: Path) -> None:
    change, why = THUMBNAILS[case]
    change(min((bundle / "thumbnails").iterdir()))
    seal(bundle)
    assert why in faults_of(bundle)


def test_thumbnails_that_the_gallery_does_not_allow_are_refused(bundle: Path) -> None:
    change_record(bundle, lambda record: record["gallery"].update(thumbnails="no"))
    assert "the gallery's card does not allow them" in faults_of(bundle)


def test_names_from_strangers_do_not_reach_the_terminal(bundle: Path) -> None:
    (bundle / "evil\x1b[2J\nfiner-rank: all is well").write_text("")
    lines = faults_of(bundle)
    assert "\x1b" not in lines
    assert len(lines.splitlines()) == 1


def test_faults_are_a_line_each_and_machines_get_them_too(board: Path) -> None:
    change_record(board / "zoo-1--painter", lambda r: r.update(n_queries="many", rank=1))
    (board / "zoo-1--sketcher" / "notes.txt").write_text("")
    code, out, err = check(board, "--json")
    assert code == 2
    assert len(err.splitlines()) == 4
    content = json.loads(out)
    assert {Path(b["bundle"]).name: len(b["faults"]) for b in content["bundles"]} == {
        "zoo-1--painter": 2, "zoo-1--sketcher": 1,
    }  # fmt: skip
    assert all(set(fault) == {"where", "what", "remedy"} for b in content["bundles"] for fault in b["faults"])
    assert content["boards"] == []  # nothing that failed reaches the order


# ---- bundles together


def test_two_bundles_of_one_model_are_refused_however_its_name_is_spelt(board: Path) -> None:
    rename(board / "zoo-1--sketcher", "PAINTER", "zoo-1--other")
    lines = faults_of(board)
    assert "zoo-1--other: folder: is not named zoo-1--painter" in lines
    twin = board / "twins" / "zoo-1--painter"
    shutil.copytree(board / "zoo-1--painter", twin)
    assert "'painter' has a bundle on zoo 1 already" in faults_of(board / "zoo-1--painter", twin)


def test_galleries_that_share_only_their_name_are_refused(board: Path) -> None:
    other = board / "zoo-1--sketcher"
    change_json(other / "manifest.json", lambda manifest: manifest["gallery"].update(images_sha256="0" * 64))
    change_record(other, lambda record: record["gallery"].update(images_sha256="0" * 64))
    assert not lacking(faults_of(board), "zoo-1--sketcher: gallery: zoo 1 with other photos or rows than in")


# ---- held for review


def test_one_run_under_two_names_is_held_for_review(board: Path) -> None:
    shutil.rmtree(board / "zoo-1--sketcher")
    shutil.copytree(board / "zoo-1--painter", board / "copy")
    rename(board / "copy", "genius", "zoo-1--genius")
    assert "its images are those of zoo-1--genius" in notes_of(board)


def test_a_score_above_the_copied_references_is_held_for_review(bundle: Path) -> None:
    anchor = {"value": 0.5, "low": 0.4, "high": 0.6}
    change_record(bundle, lambda r: r["gallery_anchors"]["copied_reference"].update(mAP=anchor))
    lines = notes_of(bundle)
    assert not lacking(lines, "held for review", "is above the anchor copied_reference (0.500)")
    found = json.loads(check(bundle, "--json")[1])["bundles"]
    assert ["above the anchor" in line for line in found[0]["review"]] == [True]


def test_anchors_that_disagree_are_held_for_review(board: Path) -> None:
    change_record(
        board / "zoo-1--sketcher",
        lambda r: r["gallery_anchors"]["copied_reference"]["mAP"].update(value=0.99),
    )
    assert "the anchor copied_reference is not that of zoo-1--painter" in notes_of(board)


def test_an_embedder_is_what_its_fingerprint_says(board: Path) -> None:
    change_record(board / "zoo-1--sketcher", lambda r: r["embedder"].update(precision="bf16"))
    assert "embedder.fingerprint" in faults_of(board)


def test_identical_images_are_held_for_review(world: Path, tmp_path: Path) -> None:
    lazy = declare(write_run(tmp_path / "lazy"), "lazy")
    same = (lazy / "images" / "rex_0.png").read_bytes()
    for path in (lazy / "images").iterdir():
        path.write_bytes(same)
    code, _, err = command("add", lazy, "-g", world / "zoo", "-e", "classical:", "--out", tmp_path / "board")
    assert code == 0, err
    assert "15 of 15 query images are identical" in notes_of(tmp_path / "board")


# ---- with the images at hand


def with_images(world: Path, board: Path, run: str = "painter") -> tuple[object, ...]:
    return board, "--gallery", world / "zoo", "--run", world / run, "--store", world / "store"


def test_what_was_scored_is_scored_again(world: Path, board: Path) -> None:
    assert notes_of(*with_images(world, board)) == ""
    assert notes_of(*with_images(world, board), "--embedder", "classical:", "--tolerance", 0) == ""
    assert "name both" in faults_of(board, "--gallery", world / "zoo")
    assert "of which 0 bundles were named" in faults_of(*with_images(world, board / "zoo-1--sketcher"))


def test_anchors_that_only_the_images_refute_are_refused(world: Path, bundle: Path) -> None:
    change_record(bundle, lambda r: r["gallery_anchors"]["copied_reference"]["mAP"].update(value=0.99))
    notes_of(bundle)
    lines = faults_of(*with_images(world, bundle))
    assert not lacking(lines, "gallery_anchors.copied_reference.mAP.value: 0.99, but a new evaluation gives")


def test_scores_of_other_images_are_refused(world: Path, board: Path) -> None:
    shutil.rmtree(board / "zoo-1--sketcher")
    better = rename(board / "zoo-1--painter", "sketcher", "zoo-1--sketcher")
    lines = faults_of(*with_images(world, better, "sketcher"))
    assert not lacking(lines, "scores.mAP.value", "run.images_sha256")


def test_a_thumbnail_of_something_else_is_refused(world: Path, bundle: Path) -> None:
    noise(3, (40, 32)).save(min((bundle / "thumbnails").iterdir()), "WEBP")
    seal(bundle)
    notes_of(bundle)
    assert "does not show" in faults_of(*with_images(world, bundle))


def test_one_similarity_everywhere_is_held_for_review(tmp_path: Path) -> None:
    zoo, run = write_zoo(tmp_path / "zoo"), declare(write_run(tmp_path / "run"), "blank")
    write_rows(zoo / "metadata.csv", [row for row in rows_of(zoo) if row["split"] != "reference"])
    drop_column(run, "reference_file_name")
    for path in [*(zoo / "images").iterdir(), *(run / "images").iterdir()]:
        noise(1, (64, 64)).save(path)
    code, _, err = command("add", run, "-g", zoo, "-e", "classical:", "--out", tmp_path / "board")
    assert code == 0, err
    lines = notes_of(tmp_path / "board")
    assert not lacking(lines, "the images are not told apart", "15 of 15 queries have ties", "15 images are photos of")
