"""`finer-rank neighbours`: pictures of queries with the photos ranked nearest to them."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from boards import finer, refused
from handmade import Cli, change_row, rows_of, write_gallery, write_rows, write_run
from PIL import Image

from benchmark.embedders import load_embedder
from benchmark.protocol import evaluate
from benchmark.records import Record, read_record, write_record
from galleries.errors import FinerRankError
from galleries.figures import FORMATS
from galleries.gallery import Gallery
from leaderboard.strips import RIGHT, WRONG, choose_queries, draw_strips
from personalization_runs.run import Run


@dataclass(frozen=True)
class Scored:
    """A gallery, a run on it, and the run's record."""

    gallery: Path
    run: Path
    record: Path

    def draw(self, out: Path, rows: list[int], k: int = 2) -> bytes:
        draw_strips(read_record(self.record), Gallery.open(self.gallery), Run.open(self.run), rows, k, out)
        return out.read_bytes()


def score(folder: Path) -> Scored:
    """The gallery `zoo` and the run `run` of a folder, with a record of theirs."""
    gallery, run = Gallery.open(folder / "zoo"), Run.open(folder / "run")
    (evaluation,) = evaluate(gallery, [run], [load_embedder("classical:")], folder / "store")
    write_record(evaluation.records[0], folder / "record")
    return Scored(gallery.root, run.root, folder / "record")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    write_gallery(folder / "zoo")
    write_run(folder / "run")
    return score(folder)


@pytest.fixture
def moved(scored: Scored, tmp_path: Path) -> Scored:
    """A copy of which a test may spoil anything; its record still names the first places."""
    for source, name in ((scored.gallery, "zoo"), (scored.run, "run"), (scored.record, "record")):
        shutil.copytree(source, tmp_path / name)
    return Scored(tmp_path / "zoo", tmp_path / "run", tmp_path / "record")


def test_the_command_draws_a_picture_and_the_same_one_again(scored: Scored, tmp_path: Path, process: Cli) -> None:
    def in_a_process(*arguments: object) -> tuple[int, str, str]:
        done = process(*arguments)
        return done.returncode, done.stdout, done.stderr

    pictures = []
    for run, name in (in_a_process, "first.png"), (finer, "second.png"):
        code, said, err = run("neighbours", scored.record, "--worst", "3", "-k", "2", "--out", tmp_path / name)
        assert code == 0, err
        assert said == f"{tmp_path / name}: 3 queries\n"
        assert err == ""
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    with Image.open(tmp_path / "first.png") as image:
        assert image.format == "PNG"
        assert image.width > 300
        assert image.height > 300


@pytest.mark.parametrize("ending", [*FORMATS, ".PNG"])
def test_every_format_is_written_and_the_same_bytes_again(scored: Scored, tmp_path: Path, ending: str) -> None:
    first = scored.draw(tmp_path / f"first{ending}", [0])
    assert len(first) > 1000
    assert scored.draw(tmp_path / f"second{ending}", [0]) == first


def has_colour(picture: Path, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(picture) as image:
        return bool((np.asarray(image.convert("RGB")) == wanted).all(axis=-1).any())


def test_right_and_wrong_neighbours_have_frames_of_two_colours(scored: Scored, tmp_path: Path) -> None:
    nearest = [n for n in read_record(scored.record).neighbours.to_pylist() if n["rank"] == 1]
    assert {n["is_relevant"] for n in nearest} == {True, False}
    for neighbour in nearest:
        picture = tmp_path / f"{neighbour['query']}.png"
        scored.draw(picture, [neighbour["query"]], k=1)
        assert has_colour(picture, RIGHT) == neighbour["is_relevant"]
        assert has_colour(picture, WRONG) != neighbour["is_relevant"]


def precision(record: Record, rows: list[int]) -> list[float]:
    values = record.queries.column("average_precision").to_pylist()
    return [values[row] for row in rows]


def test_the_worst_queries_come_first_or_the_best_on_request(scored: Scored) -> None:
    record = read_record(scored.record)
    everyone = choose_queries(record, 99, best=False, identity="")
    assert sorted(everyone) == list(range(4))
    assert precision(record, everyone) == sorted(precision(record, everyone))
    assert choose_queries(record, 2, best=False, identity="") == everyone[:2]
    best = choose_queries(record, 99, best=True, identity="")
    assert precision(record, best) == sorted(precision(record, best), reverse=True)


def test_queries_of_one_identity_can_be_chosen(scored: Scored) -> None:
    record = read_record(scored.record)
    chosen = choose_queries(record, 99, best=False, identity="rex")
    assert {record.queries.column("identity").to_pylist()[row] for row in chosen} == {"rex"}
    assert len(chosen) == 2
    with pytest.raises(FinerRankError, match="no query asks for it; asked for: rex, tom"):
        choose_queries(record, 99, best=False, identity="max")


def test_more_neighbours_than_were_kept_draws_those_that_were(scored: Scored, tmp_path: Path) -> None:
    assert scored.draw(tmp_path / "many.png", [0], k=500) == scored.draw(tmp_path / "all.png", [0], k=4)


def test_an_ending_that_is_no_picture_is_refused(scored: Scored, tmp_path: Path) -> None:
    for name in "strips.txt", "strips", "strips.tiff":
        assert ".png, .pdf, .svg" in refused("neighbours", scored.record, "--out", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_named(scored: Scored, tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match="cannot be written"):
        scored.draw(tmp_path / "no folder" / "strips.png", [0])


def test_a_published_record_needs_to_be_told_where_its_images_lie(moved: Scored) -> None:
    (moved.record / "places.json").unlink()
    out = moved.record.parent / "strips.png"
    assert "name it with --gallery" in refused("neighbours", moved.record, "--out", out)
    told = ("--gallery", moved.gallery, "--run", moved.run, "--worst", "1", "-k", "1")
    code, _, err = finer("neighbours", moved.record, "--out", out, *told)
    assert code == 0, err
    assert out.is_file()


def test_a_place_that_is_gone_is_named(moved: Scored) -> None:
    (moved.record / "places.json").write_text('{"gallery": "/nowhere/zoo", "run": "/nowhere/run"}')
    assert "/nowhere/zoo" in refused("neighbours", moved.record, "--out", moved.record.parent / "strips.png")


def test_an_image_that_is_gone_or_broken_is_named(moved: Scored, tmp_path: Path) -> None:
    out = tmp_path / "strips.png"
    (moved.run / "images" / "rex_0.png").write_bytes(b"broken")
    with pytest.raises(FinerRankError, match=r"rex_0\.png is not the picture that was scored"):
        moved.draw(out, [0])
    write_rows(moved.run / "metadata.csv", [row for row in rows_of(moved.run) if "rex_0" not in row["file_name"]])
    with pytest.raises(FinerRankError, match=r"has no images/rex_0\.png; name the folders that were evaluated"):
        moved.draw(out, [0])
    assert not out.exists()


@pytest.mark.parametrize(
    "name",
    ["$x_{1", "$\\frac{1}{0}$", "rex\x1b[31m\ttom", "a" * 300, "犬の太郎", "كلب", "🐕", "%s {0} \\n"],
    ids=["dollar", "TeX", "escape", "long", "Japanese", "Arabic", "emoji", "format"],
)
def test_names_of_strangers_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    zoo, run = write_gallery(tmp_path / "zoo"), write_run(tmp_path / "run")
    for folder in zoo, run:
        for number, row in enumerate(rows_of(folder), start=1):
            if row["identity"] == "rex":
                change_row(folder, number, identity=name, **({"prompt": name} if folder == run else {}))
    scored = score(tmp_path)
    rows = choose_queries(read_record(scored.record), 1, best=False, identity=name)
    assert len(scored.draw(tmp_path / "strips.png", rows)) > 1000


def test_a_query_without_a_reference_is_shown_beside_a_photo_of_its_identity(scored: Scored, tmp_path: Path) -> None:
    record = read_record(scored.record)
    queries = record.queries.to_pylist()
    column = record.queries.column_names.index("reference_file_name")
    nameless = record.queries.set_column(column, "reference_file_name", pa.array([""] * len(queries)))
    unknown = replace(record, queries=nameless)
    gallery, run = Gallery.open(scored.gallery), Run.open(scored.run)
    draw_strips(unknown, gallery, run, [0], 2, tmp_path / "without.png")
    # The reference is the first photo of rex either way.
    assert (tmp_path / "without.png").read_bytes() == scored.draw(tmp_path / "with.png", [0])
