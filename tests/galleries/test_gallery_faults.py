"""Whatever is wrong with a gallery, the command says it in one line, exits with 2 and leaves nothing behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import (
    Cli,
    Refusal,
    add_column,
    append,
    change_row,
    drop_column,
    encoded,
    files_below,
    half,
    lacking,
    noise,
    raw_png,
    relink,
    rename_column,
    replace_table,
    rows_of,
    save_noise,
    several_frames,
    write_gallery,
    write_rows,
)

Spoil = Callable[[Path], object]
PHOTO = "images/rex_1.png"  # the second row

# Each spoils a sound gallery in one way; the message must hold all these words.
IMAGE_FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (lambda zoo: (zoo / PHOTO).unlink(), ("no such file",)),
    "a broken link": (lambda zoo: relink(zoo / PHOTO, zoo / "nowhere.png"), ("no such file",)),
    "text": (lambda zoo: (zoo / PHOTO).write_text("<html>404</html>"), ("not a readable image",)),
    "of no bytes": (lambda zoo: (zoo / PHOTO).write_bytes(b""), ("empty (0 bytes)",)),
    "a folder": (lambda zoo: refold(zoo / PHOTO), ("not a regular file",)),
    "a pipe": (lambda zoo: repipe(zoo / PHOTO), ("not a regular file",)),
    "a truncated JPEG": (lambda zoo: fill(zoo, half(encoded(noise(9, (64, 64)), "JPEG"))), ("truncated",)),
    "a truncated PNG": (lambda zoo: fill(zoo, half(encoded(noise(9), "PNG"))), ("truncated",)),
    "a truncated WebP": (lambda zoo: fill(zoo, half(encoded(noise(9), "WEBP"))), ("truncated",)),
    "a truncated TIFF": (
        lambda zoo: fill(zoo, half(encoded(noise(9), "TIFF", compression="tiff_lzw"))),
        ("not a readable image",),
    ),
    "a truncated animation": (lambda zoo: fill(zoo, several_frames("GIF")[:2500]), ("truncated",)),
    "a truncated file of several pages": (lambda zoo: fill(zoo, half(several_frames("TIFF"))), ("truncated",)),
    "an animated GIF": (lambda zoo: fill(zoo, several_frames("GIF")), ("3 frames",)),
    "an animated WebP": (lambda zoo: fill(zoo, several_frames("WEBP")), ("3 frames",)),
    "an animated PNG": (lambda zoo: fill(zoo, several_frames("PNG")), ("3 frames",)),
    "a TIFF of several pages": (lambda zoo: fill(zoo, several_frames("TIFF")), ("3 frames",)),
    "a small file of 81 megapixels": (lambda zoo: fill(zoo, raw_png(9000, 9000, 8, 2, b"")), ("80 megapixels",)),
    "a small file of 100 megapixels": (lambda zoo: fill(zoo, raw_png(10**4, 10**4, 8, 2, b"")), ("80 megapixels",)),
    "a decompression bomb": (lambda zoo: fill(zoo, raw_png(10**6, 10**6, 8, 2, b"")), ("80 megapixels",)),
    "the reference again": (lambda zoo: shutil.copy(zoo / "images/rex_0.png", zoo / PHOTO), ("images/rex_0.png",)),
}

ROW_FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a name twice": (
        lambda zoo: write_rows(zoo / "metadata.csv", [*rows_of(zoo), rows_of(zoo)[1]]),
        ("row 7", PHOTO, "row 2"),
    ),
    "a name twice, spelt otherwise": (
        lambda zoo: write_rows(zoo / "metadata.csv", [*rows_of(zoo), rows_of(zoo)[1] | {"file_name": f"./{PHOTO}"}]),
        ("row 7", PHOTO, "row 2"),
    ),
    "an empty name": (lambda zoo: change_row(zoo, 2, file_name=""), ("row 2", "empty file_name")),
    "an absolute name": (lambda zoo: change_row(zoo, 2, file_name=str(zoo / PHOTO)), ("row 2", "file_name")),
    "a name that climbs out": (lambda zoo: change_row(zoo, 2, file_name="../a.png"), ("row 2", "../a.png")),
    "a name that climbs out and back": (lambda zoo: change_row(zoo, 2, file_name=f"../zoo/{PHOTO}"), ("row 2",)),
    "a Windows name": (lambda zoo: change_row(zoo, 2, file_name=r"images\rex_1.png"), ("row 2", "backslash")),
    "an endless name": (lambda zoo: change_row(zoo, 2, file_name=f"images/{'a' * 300}.png"), ("aaa.png",)),
    "a name with a NUL": (lambda zoo: change_row(zoo, 2, file_name="images/a\0.png"), ("row 2", r"a\x00.png")),
    "no identity": (lambda zoo: change_row(zoo, 2, identity=" "), ("row 2", PHOTO, "empty identity")),
    "no category": (lambda zoo: change_row(zoo, 2, category=""), ("row 2", PHOTO, "empty category")),
    "two categories": (lambda zoo: change_row(zoo, 2, category="cat"), ("identity 'rex'", "cat, dog")),
    "no such split": (lambda zoo: change_row(zoo, 2, split="test"), ("row 2", PHOTO, "split is 'test'")),
    "a distractor who is asked for": (
        lambda zoo: change_row(zoo, 2, split="distractor"),
        ("identity 'rex'", "both a distractor and asked for"),
    ),
    "a box of three numbers": (lambda zoo: add_column(zoo, "bbox", "1,2,3"), ("row 1", "bbox '1,2,3'")),
    "a mask that is not there": (
        lambda zoo: add_column(zoo, "mask_file_name", "masks/1.png"),
        ("masks/1.png", "images/rex_0.png"),
    ),
    "a mask with an endless name": (
        lambda zoo: add_column(zoo, "mask_file_name", "a" * 300),
        ("aaa", "images/rex_0.png"),
    ),
    "a mask that lies elsewhere": (
        lambda zoo: add_column(zoo, "mask_file_name", "../zoo/images/rex_0.png"),
        ("row 1", "../zoo/images/rex_0.png"),
    ),
}

JSON_LINES = b'{"file_name": "images/rex_1.png", "category": "dog", "identity": "rex", "split": "gallery"}\n'

TABLE_FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a misspelt column": (lambda zoo: rename_column(zoo, "split", "splitt"), ("no column 'split'", "'splitt'")),
    "an unknown column": (lambda zoo: add_column(zoo, "viewpoin", "left"), ("'viewpoin'", "'viewpoint' is meant")),
    "a missing column": (lambda zoo: drop_column(zoo, "identity"), ("metadata.csv", "no column 'identity'")),
    "no row": (lambda zoo: (zoo / "metadata.csv").write_text("file_name,category,identity,split\n"), ("no rows",)),
    "two tables": (
        lambda zoo: shutil.copy(zoo / "metadata.csv", zoo / "metadata.jsonl"),
        ("metadata.csv and metadata.jsonl",),
    ),
    "no table": (lambda zoo: (zoo / "metadata.csv").unlink(), ("no metadata.csv",)),
    "a line with a comma too many": (
        lambda zoo: append(zoo / "metadata.csv", b"images/a,b.png,dog,rex,gallery\n"),
        ("metadata.csv row 7", "5 fields"),
    ),
    "a table that is not UTF-8": (
        lambda zoo: append(zoo / "metadata.csv", "images/é.png,dog,rex,gallery\n".encode("latin-1")),
        ("metadata.csv", "not UTF-8"),
    ),
    "a damaged JSON table": (
        lambda zoo: replace_table(zoo, "metadata.jsonl", JSON_LINES + b'{"file_name": \n'),
        ("metadata.jsonl row 2", "not JSON"),
    ),
    "a JSON table with a number of thousands of digits": (
        lambda zoo: replace_table(zoo, "metadata.jsonl", JSON_LINES + b'{"file_name": ' + b"9" * 5000 + b"}\n"),
        ("metadata.jsonl row 2", "not JSON"),
    ),
    "a damaged Parquet table": (
        lambda zoo: replace_table(zoo, "metadata.parquet", b"PAR1 and so on PAR1"),
        ("metadata.parquet", "not a readable Parquet file"),
    ),
    "a card that is not TOML": (
        lambda zoo: (zoo / "gallery.toml").write_text("name = zoo\n"),
        ("gallery.toml", "line 1"),
    ),
    "a card that is a folder": (lambda zoo: refold(zoo / "gallery.toml"), ("gallery.toml",)),
    "an unknown field of the card": (
        lambda zoo: (zoo / "gallery.toml").write_text('title = "zoo"\n'),
        ("gallery.toml", "unknown field 'title'"),
    ),
    "a number where text is due": (
        lambda zoo: (zoo / "gallery.toml").write_text("version = 2\n"),
        ("gallery.toml", "version = 2", "quotes"),
    ),
    "an unknown granularity": (
        lambda zoo: (zoo / "gallery.toml").write_text('granularity = "species"\n'),
        ("gallery.toml", "granularity 'species'"),
    ),
}

TREE_FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a HEIC photo": (lambda pets: fill(pets, b"\0", "rex/1.HEIC"), ("rex/1.HEIC", "convert it")),
    "a photo of nobody": (lambda pets: save_noise(pets / "1.png", 9), ("1.png", "no identity's folder")),
    "a photo too deep": (lambda pets: save_noise(pets / "a/b/c/1.png", 9), ("a/b/c/1.png", "too deep")),
    "photos at mixed depths": (
        lambda pets: save_noise(pets / "cats/kit/1.png", 9),
        ("rex/", "cats/kit/1.png", "same depth"),
    ),
    "no photo at all": (lambda pets: [shutil.rmtree(pets / name) for name in ("rex", "tom")], ("no image files",)),
    "a name that is not UTF-8": (
        lambda pets: (pets / "tom/1.png").rename(pets / "tom" / os.fsdecode(b"Ren\xe9.png")),
        (r"tom/Ren\udce9.png", "not UTF-8"),
    ),
}


def fill(folder: Path, content: bytes, name: str = PHOTO) -> None:
    (folder / name).write_bytes(content)


def refold(path: Path) -> None:
    path.unlink()
    path.mkdir()


def repipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A sound tree of folders, one per identity."""
    for seed, name in enumerate(["rex/1.png", "rex/2.png", "tom/1.png", "tom/2.png"]):
        save_noise(tmp_path / "pets" / name, seed)
    return tmp_path / "pets"


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_check_names_a_photo_that_cannot_be_used(zoo: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = IMAGE_FAULTS[fault]
    spoil(zoo)
    assert lacking(refusal("gallery", "check", zoo), str(zoo), PHOTO, *mentions) == []


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_check_names_a_row_that_is_wrong(zoo: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = ROW_FAULTS[fault]
    spoil(zoo)
    assert lacking(refusal("gallery", "check", zoo), str(zoo), *mentions) == []


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_check_names_a_table_or_card_that_is_wrong(zoo: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = TABLE_FAULTS[fault]
    spoil(zoo)
    assert lacking(refusal("gallery", "check", zoo), str(zoo), *mentions) == []


@pytest.mark.parametrize("fault", TREE_FAULTS)
def test_check_names_what_is_wrong_with_a_tree(pets: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = TREE_FAULTS[fault]
    spoil(pets)
    assert lacking(refusal("gallery", "check", pets), str(pets), *mentions) == []


@pytest.mark.parametrize("fault", TREE_FAULTS)
def test_build_folder_writes_nothing_of_a_wrong_tree(tmp_path: Path, pets: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = TREE_FAULTS[fault]
    spoil(pets)
    before = files_below(tmp_path)
    assert lacking(refusal("gallery", "build", "folder", pets, "--out", tmp_path / "new/zoo"), *mentions) == []
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "fault",
    ["missing", "a pipe", "text", "a truncated PNG", "an animated GIF", "a decompression bomb", "the reference again"],
)
@pytest.mark.parametrize("options", [[], ["--symlink"]], ids=["copied", "linked"])
def test_build_writes_nothing_where_a_photo_is_wrong(
    tmp_path: Path, zoo: Path, refusal: Refusal, fault: str, options: list[str]
) -> None:
    spoil, mentions = IMAGE_FAULTS[fault]
    spoil(zoo)
    before = files_below(tmp_path)
    message = refusal("gallery", "build", "table", zoo, "--out", tmp_path / "built", *options)
    assert lacking(message, str(zoo), PHOTO, *mentions) == []
    assert ".partial" not in message
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "fault",
    [
        "a name twice",
        "an empty name",
        "an endless name",
        "a name with a NUL",
        "no identity",
        "two categories",
        "no such split",
    ],
)
def test_build_writes_nothing_where_a_row_is_wrong(tmp_path: Path, zoo: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = ROW_FAULTS[fault]
    spoil(zoo)
    before = files_below(tmp_path)
    message = refusal("gallery", "build", "table", zoo, "--out", tmp_path / "built")
    # Which words name the row is the check's business; here it is enough that one of them is there.
    assert set(mentions) - set(lacking(message, *mentions))
    assert files_below(tmp_path) == before


def test_every_fault_of_the_photos_is_listed_at_once(zoo: Path, cli: Cli) -> None:
    (zoo / "images/rex_0.png").unlink()
    (zoo / "images/rex_1.png").write_text("<html>404</html>")
    (zoo / "images/rex_2.png").write_bytes(half((zoo / "images/rex_2.png").read_bytes()))
    (zoo / "images/tom_0.png").write_bytes(several_frames("GIF"))
    (zoo / "images/tom_1.png").write_bytes(b"")

    result = cli("gallery", "check", zoo)

    head, *faults = result.stderr.splitlines()
    assert (result.returncode, result.stdout, head) == (2, "", f"finer-rank: {zoo}: 5 faults")
    assert [fault.split(";")[0].strip() for fault in faults] == [
        "images/rex_0.png: no such file",
        "images/rex_1.png: not a readable image",
        "images/rex_2.png: truncated or damaged (image file is truncated)",
        "images/tom_0.png: animated or several pages (3 frames)",
        "images/tom_1.png: the file is empty (0 bytes)",
    ]


def test_faults_of_card_table_rows_and_photos_are_listed_at_once(zoo: Path, cli: Cli) -> None:
    (zoo / "gallery.toml").write_text('title = "zoo"\n')
    change_row(zoo, 1, identity="")
    change_row(zoo, 2, split="test")
    change_row(zoo, 3, file_name="../rex_2.png")
    add_column(zoo, "weather", "sun")
    append(zoo / "metadata.csv", b"images/tom_3.png,dog\n")
    (zoo / "images/tom_1.png").write_text("<html>404</html>")

    result = cli("gallery", "check", zoo)

    assert (result.returncode, result.stdout) == (2, "")
    mentions = ("'title'", "row 1", "row 2", "row 3", "'weather'", "row 7", "images/tom_1.png")
    assert lacking(result.stderr, *mentions) == []
    assert "Traceback" not in result.stderr


def test_build_lists_faults_of_rows_and_photos_at_once(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    change_row(zoo, 1, identity="")
    change_row(zoo, 2, split="test")
    change_row(zoo, 3, file_name="images/nowhere.png")
    change_row(zoo, 4, file_name="")
    (zoo / "images/tom_1.png").write_text("<html>404</html>")

    result = cli("gallery", "build", "table", zoo, "--out", tmp_path / "built")

    head, *faults = result.stderr.splitlines()
    assert (result.returncode, result.stdout, head) == (2, "", f"finer-rank: {zoo}: 5 faults")
    names = ("images/rex_0.png", "images/rex_1.png", "images/nowhere.png", "metadata.csv row 4", "images/tom_1.png")
    assert lacking(" ".join(faults), *names) == []
    assert files_below(tmp_path) == {"zoo", *(f"zoo/{name}" for name in files_below(zoo))}


@pytest.mark.parametrize("occupied_by", ["a file", "a folder with a file"])
def test_build_never_overwrites(tmp_path: Path, zoo: Path, refusal: Refusal, occupied_by: str) -> None:
    mine = tmp_path / "built" if occupied_by == "a file" else tmp_path / "built/mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = files_below(tmp_path)
    message = refusal("gallery", "build", "table", zoo, "--out", tmp_path / "built")
    assert lacking(message, str(tmp_path / "built"), "exists already") == []
    assert (files_below(tmp_path), mine.read_text()) == (before, "mine")


def test_build_fills_an_empty_folder(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    (tmp_path / "built").mkdir()
    assert cli("gallery", "build", "table", zoo, "--out", tmp_path / "built").returncode == 0
    assert (tmp_path / "built/metadata.csv").is_file()


# command line, what the message must name
WRONG_ORDERS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "no gallery there": (["check", "nowhere"], ("nowhere: no such gallery folder",)),
    "a gallery that is a file": (["check", "zoo/gallery.toml"], ("zoo/gallery.toml: no such gallery folder",)),
    "a gallery whose name breaks lines": (["check", "no\nwhere"], (r"no\nwhere",)),
    "an unknown granularity": (["build", "table", "zoo", "--granularity", "big", "--out", "o"], ("--granularity big",)),
    "a column that we do not have": (["build", "table", "zoo", "--column", "name=a", "--out", "o"], ("'name'",)),
    "a column that they do not have": (
        ["build", "table", "zoo", "--column", "identity=animal", "--out", "o"],
        ("metadata.csv", "'animal'"),
    ),
    "no assignment": (["build", "table", "zoo", "--set", "category", "--out", "o"], ("'category'", "NAME=VALUE")),
    "no condition": (["build", "table", "zoo", "--where", "split", "--out", "o"], ("'split'", "COLUMN=VALUE")),
    "a condition that no row meets": (
        ["build", "table", "zoo", "--where", "split=x", "--out", "o"],
        ("no row is left",),
    ),
    "nobody of that name": (["build", "table", "zoo", "--include", "b*", "--out", "o"], ("b*", "--include")),
    "a second split": (["build", "table", "zoo", "--references", "1", "--out", "o"], ("leave --references out",)),
    "a folder that is no dataset": (["build", "hub", "zoo", "--out", "o"], ("zoo", "save_to_disk")),
    "a dataset that nobody has": (["build", "hub", "nobody/nothing", "--out", "o"], ("nobody/nothing",)),
    "no files of the reference code": (["build", "reference-code", "zoo", "--out", "o"], ("no gallery_data.csv",)),
    "a folder where none can be": (["build", "table", "zoo", "--out", "zoo/gallery.toml/o"], ("zoo/gallery.toml",)),
}


@pytest.mark.parametrize("order", WRONG_ORDERS)
def test_a_wrong_order_is_answered_in_one_line(tmp_path: Path, zoo: Path, refusal: Refusal, order: str) -> None:
    arguments, mentions = WRONG_ORDERS[order]
    before = files_below(tmp_path)
    assert lacking(refusal("gallery", *arguments, cwd=tmp_path), *mentions) == []
    assert files_below(tmp_path) == before


def test_a_sound_gallery_has_no_faults(zoo: Path, cli: Cli) -> None:
    result = cli("gallery", "check", zoo)
    expected = f"{zoo}: no faults; 2 identities, 4 gallery photos, 2 references\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_a_photo_twice_in_the_gallery_is_no_leak(tmp_path: Path, cli: Cli) -> None:
    zoo = write_gallery(tmp_path / "zoo")
    shutil.copy(zoo / "images/rex_2.png", zoo / PHOTO)
    assert cli("gallery", "check", zoo).returncode == 0
