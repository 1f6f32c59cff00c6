"""A gallery is the same rows whatever its form, order and place; its seeded split depends on the seed alone."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from handmade import Cli, DrawPhoto, change_row, encoded, noise, rows_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from galleries import Faults, FinerRankError, Gallery, GalleryCard, Photo
from galleries.image_set import table_digest
from galleries.sources import Found

CARD = GalleryCard("zoo")


def found(identity: str, number: int) -> Found:
    name = f"{identity}/{number}.png"
    return Found(name, name, Path(name), {"identity": identity})


def references_of(gallery: Gallery) -> dict[str, list[str]]:
    return {identity: [photo.file_name for photo in photos] for identity, photos in gallery.references.items()}


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "in reverse"])
def test_a_gallery_is_the_same_in_every_kind_of_table_and_order(zoo: Path, ending: str, reverse: bool) -> None:
    expected = Gallery.open(zoo)
    rows = sorted(rows_of(zoo), key=lambda row: row["file_name"], reverse=reverse)
    (zoo / "metadata.csv").unlink()
    write_rows(zoo / f"metadata{ending}", rows)
    opened = Gallery.open(zoo)
    assert (opened, opened.digest) == (expected, expected.digest)


def test_a_moved_gallery_is_the_same(zoo: Path) -> None:
    before = Gallery.open(zoo)
    after = Gallery.open(zoo.rename(zoo.with_name("moved")))
    assert (after.photos, after.digest) == (before.photos, before.digest)
    assert after.photos[0].path == zoo.with_name("moved") / "images/rex_0.png"


def test_the_digest_changes_with_every_cell(zoo: Path) -> None:
    photos = Gallery.open(zoo).photos
    columns = [field.name for field in dataclasses.fields(Photo) if field.name != "path"]
    changed = {table_digest([dataclasses.replace(photos[0], **{column: "new"}), *photos[1:]]) for column in columns}
    assert len(changed | {table_digest(photos)}) == len(columns) + 1


def test_the_table_holds_a_row_per_photo(zoo: Path) -> None:
    frame = Gallery.open(zoo).table()
    assert frame[["file_name", "category", "identity", "split"]].to_dict("records") == rows_of(zoo)


def test_a_gallery_without_a_card_is_named_after_its_folder(zoo: Path) -> None:
    (zoo / "gallery.toml").unlink()
    assert Gallery.open(zoo).card == GalleryCard("zoo", version="1", granularity="instance")


def test_a_gallery_cannot_be_changed(zoo: Path) -> None:
    gallery = Gallery.open(zoo)
    for thing in (gallery, gallery.card, gallery.photos[0]):
        for field in dataclasses.fields(thing):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(thing, field.name, None)
    assert isinstance(gallery.photos, tuple)


def test_a_frame_is_nobody_elses(zoo: Path) -> None:
    gallery = Gallery.open(zoo)
    frame = gallery.table()
    frame["identity"] = "somebody"
    assert gallery.table()["identity"].tolist() == [row["identity"] for row in rows_of(zoo)]


def test_optional_columns_are_kept(zoo: Path, photo: DrawPhoto) -> None:
    extra = {"encounter": "may", "viewpoint": "left", "bbox": "0,0,8.5,9", "source_id": "12"}
    photo(zoo / "masks/rex.png", 0)
    rows = [row | extra | {"mask_file_name": "masks/rex.png"} for row in rows_of(zoo)]
    write_rows(zoo / "metadata.csv", rows)
    gallery = Gallery.open(zoo)
    assert gallery.inspect().faults == ()
    first = gallery.photos[0]
    values = (first.encounter, first.viewpoint, first.bbox, first.source_id, first.mask_file_name)
    assert values == (*extra.values(), "masks/rex.png")


def test_all_faults_of_the_rows_are_raised_together(zoo: Path) -> None:
    change_row(zoo, 1, identity="")
    change_row(zoo, 2, category="")
    change_row(zoo, 4, split="both")
    with pytest.raises(Faults) as refused:
        Gallery.open(zoo)
    wheres = [fault.where for fault in refused.value.faults]
    for row, name in ((1, "images/rex_0.png"), (2, "images/rex_1.png"), (4, "images/tom_0.png")):
        assert f"metadata.csv row {row} ({name})" in wheres


identities = st.dictionaries(st.sampled_from("abcde"), st.integers(3, 6), min_size=1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes=identities, n_references=st.integers(0, 2), seed=st.integers(0, 3), data=st.data())
def test_a_seeded_split_does_not_depend_on_the_order_of_files(
    sizes: dict[str, int], n_references: int, seed: int, data: st.DataObject
) -> None:
    images = [found(identity, number) for identity, size in sizes.items() for number in range(size)]
    shuffled = data.draw(st.permutations(images))
    one, other = (
        Gallery.from_found(order, CARD, Path("zoo"), n_references=n_references, seed=seed)
        for order in (images, shuffled)
    )
    assert (one.photos, one.digest) == (other.photos, other.digest)
    assert {identity: len(files) for identity, files in references_of(one).items()} == (
        dict.fromkeys(sizes, n_references) if n_references else {}
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(sizes=identities, size=st.integers(3, 6), seed=st.integers(0, 3))
def test_a_new_identity_moves_no_photo_of_the_others(sizes: dict[str, int], size: int, seed: int) -> None:
    images = [found(identity, number) for identity, n in sizes.items() for number in range(n)]
    more = [*images, *(found("new", number) for number in range(size))]
    before, after = (
        references_of(Gallery.from_found(all_of, CARD, Path("zoo"), n_references=2, seed=seed))
        for all_of in (images, more)
    )
    assert len(after.pop("new")) == 2
    assert after == before


def test_another_seed_gives_another_split() -> None:
    images = [found(identity, number) for identity in "abcde" for number in range(6)]
    splits = [
        references_of(Gallery.from_found(images, CARD, Path("zoo"), n_references=2, seed=seed)) for seed in range(4)
    ]
    assert all(one != other for i, one in enumerate(splits) for other in splits[:i])


def test_every_photo_can_become_a_reference() -> None:
    images = [found("rex", number) for number in range(6)]
    drawn = Counter(
        Gallery.from_found(images, CARD, Path("zoo"), n_references=1, seed=seed).references["rex"][0].file_name
        for seed in range(600)
    )
    # Each is expected 100 times, with a standard deviation of 9.1.
    assert len(drawn) == 6
    assert all(50 < n < 150 for n in drawn.values())


def test_too_few_photos_for_the_references_are_named() -> None:
    images = [*(found("rex", number) for number in range(3)), *(found("tom", number) for number in range(2))]
    with pytest.raises(Faults) as refused:
        Gallery.from_found(images, CARD, Path("zoo"), n_references=2)
    assert [fault.where for fault in refused.value.faults] == ["tom"]
    assert "2 photos" in str(refused.value)


def test_a_photo_that_no_split_names_is_a_gallery_photo() -> None:
    split = [dataclasses.replace(found("rex", 0), values={"identity": "rex", "split": "reference"}), found("rex", 1)]
    gallery = Gallery.from_found(split, CARD, Path("zoo"))
    assert [photo.split for photo in gallery.photos] == ["reference", "gallery"]


def test_patterns_choose_identities() -> None:
    images = [found(identity, number) for identity in ("dog1", "dog2", "cat") for number in range(2)]
    gallery = Gallery.from_found(images, CARD, Path("zoo"), include=["dog?", "c[a]t"], category="pet")
    assert gallery.category_of == {"dog1": "pet", "dog2": "pet", "cat": "pet"}
    assert set(Gallery.from_found(images, CARD, Path("zoo"), include=["dog*"]).category_of) == {"dog1", "dog2"}


def test_a_gallery_of_references_alone_is_refused() -> None:
    only = dataclasses.replace(found("rex", 0), values={"identity": "rex", "split": "reference"})
    with pytest.raises(FinerRankError, match="no photo is in the gallery"):
        Gallery.from_found([only], CARD, Path("zoo"))


def test_the_same_pixels_in_another_file_are_a_leak(zoo: Path) -> None:
    (zoo / "images/rex_1.png").write_bytes(encoded(noise(0, (48, 48)), "BMP"))
    (fault,) = Gallery.open(zoo).image_faults()
    assert fault.where == "images/rex_1.png"
    assert fault.what == "near-duplicate (resized or re-encoded) of the reference images/rex_0.png"


def test_a_distractor_with_the_bytes_of_a_reference_is_a_leak(zoo: Path) -> None:
    write_rows(
        zoo / "metadata.csv",
        [*rows_of(zoo), {"file_name": "x.png", "category": "dog", "identity": "somebody", "split": "distractor"}],
    )
    (zoo / "x.png").write_bytes((zoo / "images/tom_0.png").read_bytes())
    (fault,) = Gallery.open(zoo).image_faults()
    assert (fault.where, fault.what) == ("x.png", "same bytes as the reference images/tom_0.png")


def test_what_weakens_the_scores_is_noted(zoo: Path, cli: Cli) -> None:
    write_rows(zoo / "metadata.csv", [row for row in rows_of(zoo) if row["file_name"] != "images/rex_1.png"])
    write_rows(
        zoo / "metadata.csv", [row | {"category": "cat"} if row["identity"] == "tom" else row for row in rows_of(zoo)]
    )

    for_people, for_programs = cli("gallery", "check", zoo), cli("gallery", "check", zoo, "--json")

    warnings = json.loads(for_programs.stdout)["warnings"]
    assert for_people.stderr.splitlines() == [f"note: {warning}" for warning in warnings]
    assert [warning.split(":")[0] for warning in warnings] == [
        "2 categories (cat, dog) have one identity",
        "identity 'rex' has a single gallery photo",
    ]


def test_show_counts_the_photos_of_each_category(zoo: Path, cli: Cli) -> None:
    write_rows(
        zoo / "metadata.csv", [row | {"category": "cat"} if row["identity"] == "tom" else row for row in rows_of(zoo)]
    )
    change_row(zoo, 6, identity="kit")

    table, as_json = cli("gallery", "show", zoo).stdout, json.loads(cli("gallery", "show", zoo, "--json").stdout)

    cells = {line.split()[1]: line.split()[3::2] for line in table.splitlines() if line.startswith("│")}
    assert cells == {"cat": ["2", "2", "1–1", "1", "0"], "dog": ["1", "2", "2–2", "1", "0"]}
    assert as_json["categories"] == {
        "cat": {"reference": {"tom": 1}, "gallery": {"kit": 1, "tom": 1}},
        "dog": {"reference": {"rex": 1}, "gallery": {"rex": 2}},
    }
    assert (as_json["name"], as_json["version"]) == ("zoo", "2")
    assert as_json["table_sha256"] == Gallery.open(zoo).digest
    assert as_json["table_sha256"] in table
