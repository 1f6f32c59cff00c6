"""Photos are found, with their labels, in trees and tables, whatever their names."""

import os
import random
from pathlib import Path

import pytest
from gallery_labels import labels_of
from handmade import (
    Cli,
    DrawPhoto,
    Refusal,
    add_column,
    files_below,
    write_rows,
)

from galleries import FinerRankError, Gallery
from galleries.sources.table import parse_conditions

HOSTILE_NAMES = (
    "<script>alert(1)<",
    "[red]x",
    "new\nline",
    "carriage\rreturn",
    "next\x85line",
    "line\u2028separator",
    "right\u202eleft",
    "\x1b[31mred",
    "=1+1",
    "'\"`$(reboot)",
    "Rex" * 66,
    "犬" * 80,
    "CON",
    "%s{}",
)


# ---- Trees


@pytest.mark.parametrize(
    ("shape", "category", "split"),
    [
        ("{identity}/{number}.jpg", "all", ""),
        ("dog/{identity}/{number}.jpg", "dog", ""),
        ("{identity}/{split}/{number}.jpg", "all", "reference"),
        ("dog/{identity}/{split}/{number}.jpg", "dog", "reference"),
    ],
)
def test_a_tree_is_opened_and_built_with_the_labels_of_its_folders(
    tmp_path: Path, photo: DrawPhoto, cli: Cli, shape: str, category: str, split: str
) -> None:
    expected = set()
    for seed, (identity, number) in enumerate((identity, n) for identity in ("rex", "tom") for n in range(3)):
        own_split = "reference" if number == 0 else "gallery"
        path = photo(tmp_path / "pets" / shape.format(identity=identity, number=number, split=own_split), seed)
        expected.add((category, identity, own_split if split else "gallery", path.read_bytes()))

    assert labels_of(Gallery.open(tmp_path / "pets")) == expected
    assert cli("gallery", "build", "folder", tmp_path / "pets", "--out", tmp_path / "zoo").returncode == 0
    assert labels_of(Gallery.open(tmp_path / "zoo")) == expected


def test_a_folder_named_like_a_split_is_an_identity_where_no_other_is(tmp_path: Path, photo: DrawPhoto) -> None:
    photo(tmp_path / "pets/gallery/1.png", 0)
    assert Gallery.open(tmp_path / "pets").photos[0].identity == "gallery"


def test_other_files_are_passed_over_and_named(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    for number in range(2):
        photo(tmp_path / f"pets/rex/{number}.PNG", number)
    for name in ("pets/rex/notes.txt", "pets/rex/.hidden.jpg", "pets/.git/1.jpg", "pets/__MACOSX/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    result = cli("gallery", "check", tmp_path / "pets")
    assert (result.returncode, "no faults; 1 identities, 2 gallery photos" in result.stdout) == (0, True)
    assert "note: 1 files are no images: rex/notes.txt" in result.stderr.splitlines()


def test_links_are_followed_but_never_in_circles(tmp_path: Path, photo: DrawPhoto) -> None:
    photo(tmp_path / "elsewhere/1.png", 0)
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/rex").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "pets")
    assert [photo.file_name for photo in Gallery.open(tmp_path / "pets").photos] == ["rex/1.png"]


def test_the_seeded_split_does_not_depend_on_the_order_in_which_files_were_made(
    tmp_path: Path, photo: DrawPhoto, cli: Cli
) -> None:
    names = [f"{identity}/{number}.png" for identity in ("rex", "tom", "kit") for number in range(4)]
    for copy, order in enumerate((names, random.Random(0).sample(names, len(names)))):
        for name in order:
            photo(tmp_path / f"pets{copy}" / name, names.index(name))

    def build(pets: str, out: str, *options: object) -> Gallery:
        made = cli("gallery", "build", "folder", tmp_path / pets, "--out", tmp_path / out, "--name", "zoo", *options)
        assert made.returncode == 0
        return Gallery.open(tmp_path / out)

    one, same = (build(f"pets{copy}", f"zoo{copy}", "--references", 2, "--seed", 7) for copy in range(2))
    other = build("pets0", "zoo2", "--references", 2, "--seed", 8)

    assert (one.photos, one.digest) == (same.photos, same.digest)
    assert {identity: len(photos) for identity, photos in one.references.items()} == {"rex": 2, "tom": 2, "kit": 2}
    assert one.references != other.references


def test_more_references_than_photos_are_refused(tmp_path: Path, photo: DrawPhoto, refusal: Refusal) -> None:
    for number, name in enumerate(["rex/1.png", "rex/2.png", "rex/3.png", "tom/1.png", "tom/2.png"]):
        photo(tmp_path / "pets" / name, number)
    message = refusal("gallery", "build", "folder", tmp_path / "pets", "--references", 2, "--out", tmp_path / "zoo")
    assert "tom: 2 photos, of which 2 would be references" in message
    assert not (tmp_path / "zoo").exists()


def test_links_instead_of_copies_show_the_same_photos(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    for number in range(2):
        photo(tmp_path / f"pets/rex/{number}.png", number)
    source = os.path.relpath(tmp_path / "pets", tmp_path)
    made = cli("gallery", "build", "folder", source, "--symlink", "--out", "zoo", cwd=tmp_path)
    assert made.returncode == 0
    photos = Gallery.open(tmp_path / "zoo").photos
    assert all(photo.path.is_symlink() for photo in photos)
    assert labels_of(Gallery.open(tmp_path / "zoo")) == labels_of(Gallery.open(tmp_path / "pets"))


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    for number, name in enumerate(["rex/a.png", "rex/A.png", "rex/a.PNG"]):
        photo(tmp_path / "pets" / name, number)
    assert cli("gallery", "build", "folder", tmp_path / "pets", "--out", tmp_path / "zoo").returncode == 0
    built = Gallery.open(tmp_path / "zoo")
    assert len({photo.file_name.lower() for photo in built.photos}) == 3
    assert labels_of(built) == labels_of(Gallery.open(tmp_path / "pets"))


# ---- Tables


def test_a_table_is_taken_by_its_own_column_names(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    rows = []
    for number in range(6):
        photo(tmp_path / f"photos/{number}.png", number)
        kind = ("real", "real", "drawn")[number % 3]
        rows.append({"path": f"{number}.png", "animal": "rex" if number < 3 else "tom", "kind": kind, "day": "may"})
    table = write_rows(tmp_path / "lists/all.tsv", rows)
    columns = ["--column", "file_name=path", "--column", "identity=animal", "--column", "encounter=day"]
    chosen = ["--where", "kind=real", "--set", "category=dog", "--images", tmp_path / "photos"]
    made = cli("gallery", "build", "table", table, *columns, *chosen, "--out", tmp_path / "zoo", "--version", "3")
    assert made.returncode == 0
    gallery = Gallery.open(tmp_path / "zoo")
    assert [(p.file_name, p.identity, p.category, p.encounter) for p in gallery.photos] == [
        ("images/0.png", "rex", "dog", "may"),
        ("images/1.png", "rex", "dog", "may"),
        ("images/3.png", "tom", "dog", "may"),
        ("images/4.png", "tom", "dog", "may"),
    ]
    assert (gallery.card.name, gallery.card.version) == ("zoo", "3")


def test_conditions_on_one_column_are_alternatives_and_on_several_all_hold() -> None:
    conditions = parse_conditions(["kind=real", "kind=drawn", "day!=may", "day!=june"])

    def is_taken(kind: str, day: str) -> bool:
        return all(condition.holds({"kind": kind, "day": day}) for condition in conditions)

    assert [is_taken("real", "july"), is_taken("drawn", "july")] == [True, True]
    assert [is_taken("film", "july"), is_taken("real", "may"), is_taken("real", "june")] == [False] * 3


def test_a_value_may_hold_an_equals_sign() -> None:
    (condition,) = parse_conditions(["prompt=a=b"])
    assert condition.holds({"prompt": "a=b"})


@pytest.mark.parametrize("condition", ["kind", "=real", "!=real", ""])
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(FinerRankError, match="not a condition"):
        parse_conditions([condition])


def test_a_gallery_built_of_a_built_gallery_has_the_same_photos(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    assert cli("gallery", "build", "table", zoo, "--out", tmp_path / "copy").returncode == 0
    assert labels_of(Gallery.open(tmp_path / "copy")) == labels_of(Gallery.open(zoo))


def test_masks_are_built_along(tmp_path: Path, zoo: Path, photo: DrawPhoto, cli: Cli) -> None:
    mask = photo(zoo / "masks/rex.png", 99)
    add_column(zoo, "mask_file_name", "masks/rex.png")
    made = cli("gallery", "build", "table", zoo, "--out", tmp_path / "copy")
    assert (made.returncode, made.stderr) == (0, "")
    first = Gallery.open(tmp_path / "copy").photos[0]
    assert (tmp_path / "copy" / first.mask_file_name).read_bytes() == mask.read_bytes()


def test_photos_of_one_name_from_several_folders_all_stay_whatever_the_order_of_rows(
    tmp_path: Path, photo: DrawPhoto, cli: Cli
) -> None:
    rows = []
    for number, day in enumerate(("may", "june", "july", "august")):
        path = photo(tmp_path / day / "1.png", number)
        rows.append({"file_name": str(path), "identity": "rex"})
    references = []
    for copy, order in enumerate((rows, rows[::-1])):
        table = write_rows(tmp_path / f"lists/{copy}.csv", order)
        out = tmp_path / f"zoo{copy}"
        assert cli("gallery", "build", "table", table, "--references", 2, "--out", out).returncode == 0
        gallery = Gallery.open(out)
        assert {p.path.read_bytes() for p in gallery.photos} == {Path(row["file_name"]).read_bytes() for row in rows}
        references.append({p.path.read_bytes() for p in gallery.references["rex"]})
    assert references[0] == references[1]


# ---- Names that nobody should have


def test_hostile_names_stay_names(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        for copy in range(2):
            photo(tmp_path / "pets" / f"pool {name}" / name / f"{copy}{name[:40]}.png", 2 * number + copy)
    before = files_below(tmp_path)

    checked = cli("gallery", "check", tmp_path / "pets")
    built = cli("gallery", "build", "folder", tmp_path / "pets", "--out", tmp_path / "zoo")
    shown = cli("gallery", "show", tmp_path / "zoo")

    assert [result.returncode for result in (checked, built, shown)] == [0, 0, 0], (checked, built, shown)
    for result in (checked, built, shown):
        assert [c for c in result.stdout + result.stderr if not c.isprintable() and c != "\n"] == []
    assert len(checked.stdout.splitlines()) == len(built.stdout.splitlines()) == 1
    assert len(checked.stderr.splitlines()) == 1  # a note on categories of one identity
    assert {photo.identity for photo in Gallery.open(tmp_path / "zoo").photos} == set(HOSTILE_NAMES)
    rows = [line for line in shown.stdout.splitlines() if line.startswith("│") and "│ pool" in line]
    assert len(rows) == len(HOSTILE_NAMES)
    new = files_below(tmp_path) - before
    assert [name for name in new if not f"{name}/".startswith("zoo/")] == []


@pytest.mark.parametrize(
    "identity",
    [
        "../../escape",
        "/etc/escape",
        "..",
        "a/../../b",
        "x" * 300,
        "犬" * 300,
        "😀" * 300,
    ],
)
def test_an_identity_never_leads_out_of_the_new_folder(
    tmp_path: Path, photo: DrawPhoto, cli: Cli, identity: str
) -> None:
    # Photos outside the table's folder are named after their labels.
    rows = [
        {"file_name": str(photo(tmp_path / f"photos/{number}.png", number)), "category": identity, "identity": identity}
        for number in range(2)
    ]
    table = write_rows(tmp_path / "list/table.csv", rows)
    before = files_below(tmp_path)
    result = cli("gallery", "build", "table", table, "--out", tmp_path / "list/zoo")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1), result.stderr
    assert {photo.identity for photo in Gallery.open(tmp_path / "list/zoo").photos} == {identity}
    new = files_below(tmp_path) - before
    assert [name for name in new if not f"{name}/".startswith("list/zoo/")] == []


@pytest.mark.parametrize("name", ["[red]zoo", "[/red]", "z\\noo", "\\u001b[31mzoo"])
def test_the_name_of_a_gallery_is_shown_as_it_is(zoo: Path, cli: Cli, name: str) -> None:
    (zoo / "gallery.toml").write_text(f'name = "{name}"\n')
    shown = cli("gallery", "show", zoo)
    assert (shown.returncode, shown.stderr) == (0, "")
    # TOML and we escape a line break alike, and an escape character as \u001b and \x1b.
    assert shown.stdout.splitlines()[0].rstrip() == f"{name} 1 (instance)".replace(r"\u001b", r"\x1b")


@pytest.mark.parametrize("command", ["check", "show"])
def test_half_a_surrogate_pair_is_no_name(zoo: Path, refusal: Refusal, command: str) -> None:
    (zoo / "metadata.csv").unlink()
    (zoo / "metadata.jsonl").write_text(
        r'{"file_name": "images/rex_1.png", "category": "dog", "identity": "\ud800", "split": "gallery"}'
    )
    assert "metadata.jsonl row 1" in refusal("gallery", command, zoo)
