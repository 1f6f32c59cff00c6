"""Photos are found, with their labels, in Hugging Face datasets and in the reference code's files."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
from gallery_labels import labels_of
from handmade import (
    Cli,
    DrawPhoto,
    Refusal,
    Row,
    add_column,
    encoded,
    files_below,
    imagefolder_rows,
    noise,
    write_rows,
)
from PIL import Image

from galleries import Gallery

# ---- Hugging Face datasets


@pytest.fixture
def saved_dataset(tmp_path: Path) -> Path:
    """A dataset of two car models, two photos each, written by `save_to_disk`."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["A/4 <sedan>", "500"]),
            "maker": datasets.Value("string"),
        }
    )
    rows = {
        "image": [noise(seed) for seed in range(4)],
        "label": [0, 1, 0, 1],
        "maker": ["Audi", "Fiat", "Audi", "Fiat"],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "cars")
    return tmp_path / "cars"


def test_a_saved_dataset_is_built_with_the_names_of_its_labels(tmp_path: Path, saved_dataset: Path, cli: Cli) -> None:
    order = ("build", "hub", saved_dataset, "--category-column", "maker", "--references", 1)
    built = cli("gallery", *order, "--out", tmp_path / "zoo")
    assert (built.returncode, len(built.stdout.splitlines())) == (0, 1), built.stderr
    gallery = Gallery.open(tmp_path / "zoo")
    assert gallery.category_of == {"A/4 <sedan>": "Audi", "500": "Fiat"}
    assert gallery.card.granularity == "category"
    pixels = {(p.identity, Image.open(p.path).convert("RGB").tobytes()) for p in gallery.photos}
    assert pixels == {(("A/4 <sedan>", "500")[seed % 2], noise(seed).tobytes()) for seed in range(4)}


@pytest.mark.parametrize(
    ("options", "mention"),
    [
        (["--identity-column", "lable"], "no column 'lable'"),
        (["--image-column", "maker"], "column 'maker' holds no images"),
        (["--split", "test"], "leave --split out"),
    ],
)
def test_a_dataset_that_is_asked_for_what_it_lacks_is_refused(
    tmp_path: Path, saved_dataset: Path, refusal: Refusal, options: Sequence[str], mention: str
) -> None:
    before = files_below(tmp_path)
    assert mention in refusal("gallery", "build", "hub", saved_dataset, *options, "--out", tmp_path / "zoo")
    assert files_below(tmp_path) == before


def test_a_dataset_of_several_splits_asks_for_one(
    tmp_path: Path, saved_dataset: Path, cli: Cli, refusal: Refusal
) -> None:
    cars = datasets.load_from_disk(saved_dataset)
    datasets.DatasetDict({"train": cars, "test": cars.select([0, 1])}).save_to_disk(tmp_path / "both")
    order = ("gallery", "build", "hub", tmp_path / "both", "--out", tmp_path / "zoo")
    assert "name one with --split: train, test" in refusal(*order)
    assert cli(*order, "--split", "test").returncode == 0
    assert len(Gallery.open(tmp_path / "zoo").photos) == 2


def test_a_saved_dataset_is_not_mistaken_for_a_gallery(saved_dataset: Path, refusal: Refusal) -> None:
    assert f"finer-rank gallery build hub {saved_dataset}" in refusal("gallery", "check", saved_dataset)


def test_a_damaged_photo_of_a_dataset_is_named_by_its_row(tmp_path: Path, refusal: Refusal) -> None:
    rows = {"image": [{"bytes": encoded(noise(0), "PNG")}, {"bytes": b"no image"}], "label": ["rex", "tom"]}
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pets")
    message = refusal("gallery", "build", "hub", tmp_path / "pets", "--out", tmp_path / "zoo")
    assert "000001" in message
    assert "not a readable image" in message


def test_datasets_opens_what_we_build(tmp_path: Path, zoo: Path, photo: DrawPhoto, cli: Cli) -> None:
    photo(zoo / "masks/rex.png", 99)
    add_column(zoo, "mask_file_name", "masks/rex.png")
    assert cli("gallery", "build", "table", zoo, "--out", tmp_path / "built").returncode == 0

    rows = imagefolder_rows(tmp_path / "built", tmp_path / "cache")

    gallery = Gallery.open(tmp_path / "built")
    assert [(row["category"], row["identity"], row["split"]) for row in rows] == [
        (photo.category, photo.identity, photo.split) for photo in gallery.photos
    ]
    assert [row["image"].tobytes() for row in rows] == [Image.open(photo.path).tobytes() for photo in gallery.photos]


# ---- The reference code's files


def reference_code_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a table as `pandas.DataFrame.to_csv` does: the index is a column without a name."""
    write_rows(path, [{"": str(i), **row} for i, row in enumerate(rows)])


@pytest.fixture
def reference_code(tmp_path: Path, photo: DrawPhoto) -> Path:
    """Zebras 7 and 12: a training photo and two gallery photos each, as the reference code lists them."""
    folder = tmp_path / "zebras"
    train, gallery = [], []
    for seed, (name, number) in enumerate((name, n) for name in ("7", "12") for n in range(3)):
        photo(folder / f"photos/{name}/{number}.jpg", seed)
        row = {"name": name, "species": "zebra", "file_path": f"photos/{name}/{number}.jpg"}
        (gallery if number else train).append(row)
    reference_code_csv(folder / "train_data.csv", train)
    reference_code_csv(folder / "gallery_data.csv", gallery)
    return folder


def expected_zebras(folder: Path) -> set[tuple[str, str, str, bytes]]:
    return {
        ("zebra", name, "gallery" if number else "reference", (folder / f"photos/{name}/{number}.jpg").read_bytes())
        for name in ("7", "12")
        for number in range(3)
    }


@pytest.mark.parametrize("paths", ["relative to the table", "relative to the working directory", "absolute"])
def test_the_reference_codes_gallery_is_opened_and_built(
    tmp_path: Path, reference_code: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, paths: str
) -> None:
    for name in ("train_data.csv", "gallery_data.csv"):
        if paths != "relative to the table":
            start = "zebras/photos" if paths == "relative to the working directory" else f"{reference_code}/photos"
            table = reference_code / name
            table.write_text(table.read_text().replace("photos", start))
    monkeypatch.chdir(tmp_path)
    assert labels_of(Gallery.open(reference_code)) == expected_zebras(reference_code)
    built = cli("gallery", "build", "reference-code", reference_code, "--out", tmp_path / "zoo", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert labels_of(Gallery.open(tmp_path / "zoo")) == expected_zebras(reference_code)


def test_the_reference_codes_paths_may_start_from_a_given_folder(
    tmp_path: Path, reference_code: Path, cli: Cli
) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("train_data.csv", "gallery_data.csv"):
        (reference_code / name).rename(tmp_path / "lists" / name)
    order = ("gallery", "build", "reference-code", tmp_path / "lists", "--images", reference_code)
    assert cli(*order, "--out", tmp_path / "zoo").returncode == 0
    assert labels_of(Gallery.open(tmp_path / "zoo")) == expected_zebras(reference_code)


def test_the_reference_codes_photos_of_one_name_are_told_apart(tmp_path: Path, photo: DrawPhoto) -> None:
    for seed, (table, split) in enumerate([("train_data.csv", "train"), ("gallery_data.csv", "test")]):
        path = photo(tmp_path / f"photos/{split}/rex/1.jpg", seed)
        reference_code_csv(tmp_path / "lists" / table, [{"name": "rex", "species": "dog", "file_path": str(path)}])
    photos = Gallery.open(tmp_path / "lists").photos
    assert len({photo.file_name for photo in photos}) == 2
    assert {(photo.split, photo.path.parts[-3]) for photo in photos} == {("reference", "train"), ("gallery", "test")}


def test_a_repeated_row_of_the_reference_code_counts_once(reference_code: Path) -> None:
    once = labels_of(Gallery.open(reference_code))
    table = reference_code / "gallery_data.csv"
    rows = [line.split(",", 1)[1] for line in table.read_text().splitlines()[1:]]
    table.write_text(",name,species,file_path\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows * 2)))
    assert len(Gallery.open(reference_code).photos) == len(once)
    assert labels_of(Gallery.open(reference_code)) == once


@pytest.mark.parametrize("labels", ["12,zebra", "7,horse"])
def test_one_file_under_two_labels_of_the_reference_code_is_refused(
    reference_code: Path, refusal: Refusal, labels: str
) -> None:
    with (reference_code / "gallery_data.csv").open("a") as table:
        table.write(f"9,{labels},photos/7/1.jpg\n")
    assert "photos/7/1.jpg" in refusal("gallery", "check", reference_code)


def test_a_column_that_the_reference_code_lacks_is_named(reference_code: Path, refusal: Refusal) -> None:
    table = reference_code / "gallery_data.csv"
    table.write_text(table.read_text().replace("species", "specie"))
    message = refusal("gallery", "check", reference_code)
    assert "gallery_data.csv: no column 'species'" in message


def test_reference_photos_are_not_required(reference_code: Path) -> None:
    (reference_code / "train_data.csv").unlink()
    gallery = Gallery.open(reference_code)
    assert (len(gallery.photos), gallery.references) == (4, {})
