"""Copies are told from other pictures: edits of real photos of scikit-image, made by Pillow."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
from handmade import encoded, write_rows
from PIL import Image, ImageOps

from benchmark.copies import with_copies
from benchmark.embedders import load_embedder
from benchmark.protocol import evaluate
from benchmark.records import Record
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.run import Run

Edit = Callable[[Image.Image], Image.Image]

REFERENCE, SHOWN = "astronaut", "chelsea"
"""Photos of the one identity, `mila`: its reference, and its photo in the gallery. `otto` has others."""
PHOTOS = {"mila": (REFERENCE, SHOWN), "otto": ("rocket", "coffee")}


def photo(name: str) -> Image.Image:
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    image.thumbnail((300, 300))
    return image


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 20, width - width // 10, height - height // 10))


def compressed(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return Image.open(io.BytesIO(encoded(small, "JPEG", quality=60))).convert("RGB")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("gallery")
    rows = []
    for identity, names in PHOTOS.items():
        for split, name in zip(("reference", "gallery"), names, strict=True):
            rows.append({"file_name": f"{name}.png", "category": "all", "identity": identity, "split": split})
            photo(name).save(folder / f"{name}.png")
    write_rows(folder / "metadata.csv", rows)
    return Gallery.open(folder)


def scored(pictures: dict[str, Image.Image | bytes], gallery: Gallery, folder: Path) -> tuple[Record, Run]:
    """The record of a run of these pictures, all of which should show mila."""
    (folder / "run").mkdir()
    write_rows(folder / "run" / "metadata.csv", [{"file_name": f"{name}.png", "identity": "mila"} for name in pictures])
    for name, picture in pictures.items():
        path = folder / "run" / f"{name}.png"
        path.write_bytes(picture if isinstance(picture, bytes) else encoded(picture, "PNG"))
    run = Run.open(folder / "run")
    [evaluation] = evaluate(gallery, [run], [load_embedder("classical")], folder / "store")
    return evaluation.records[0], run


def copies_among(pictures: dict[str, Image.Image | bytes], gallery: Gallery, folder: Path) -> dict[str, bool]:
    record, run = scored(pictures, gallery, folder)
    queries = with_copies([record], gallery, run)[0].queries
    return dict(zip(queries.column("file_name").to_pylist(), queries.column("is_copy").to_pylist(), strict=True))


@pytest.mark.parametrize("name", [REFERENCE, SHOWN])
def test_an_edited_reference_or_gallery_photo_is_a_copy(name: str, gallery: Gallery, tmp_path: Path) -> None:
    pictures: dict[str, Image.Image | bytes] = {
        "cropped": cropped(photo(name)),
        "mirrored": ImageOps.mirror(photo(name)),
        "compressed": compressed(photo(name)),
    }
    assert copies_among(pictures, gallery, tmp_path) == {
        "compressed.png": True, "cropped.png": True, "mirrored.png": True,
    }  # fmt: skip


def test_other_pictures_are_no_copies_and_the_rate_is_their_share(gallery: Gallery, tmp_path: Path) -> None:
    pictures: dict[str, Image.Image | bytes] = {
        "a copy": cropped(photo(REFERENCE)),
        "camera": photo("camera"),
        "retina": photo("retina"),
        "upside down": ImageOps.flip(photo(REFERENCE)),
    }
    record, run = scored(pictures, gallery, tmp_path)
    [found] = with_copies([record], gallery, run)
    assert found.queries.column("is_copy").to_pylist() == [True, False, False, False]
    assert found.summary["copy_rate"] == {"value": 0.25, "low": None, "high": None}  # of one identity: no interval
    unchanged = {key: value for key, value in found.summary.items() if key != "copy_rate"}
    assert unchanged == record.summary
    assert found.queries.drop_columns(["is_copy"]).equals(record.queries)


def test_the_bytes_of_any_photo_are_a_copy(gallery: Gallery, tmp_path: Path) -> None:
    """Also of a reference of somebody else, which the image is not compared with."""
    somebody_elses = (gallery.root / "rocket.png").read_bytes()
    assert copies_among({"same": somebody_elses}, gallery, tmp_path) == {"same.png": True}


def test_an_image_that_vanished_is_named(gallery: Gallery, tmp_path: Path) -> None:
    record, run = scored({"gone": photo("camera")}, gallery, tmp_path)
    (run.root / "gone.png").unlink()
    with pytest.raises(FinerRankError, match=r"run/gone\.png: .*; "):
        with_copies([record], gallery, run)
