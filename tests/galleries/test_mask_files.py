"""Masks that somebody drew: found by name, checked, and taken over."""

import json
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal, add_column, files_below, lacking, rows_of
from PIL import Image
from test_masks import gallery_of, masks_of

from galleries import Gallery
from galleries.errors import Faults, FinerRankError
from galleries.mask_command import open_gallery
from galleries.masks import copy_masks
from personalization_runs import Run


def drawn(width: int = 48, height: int = 48, subject: int = 255) -> Image.Image:
    """A mask whose left quarter is subject."""
    grey = np.zeros((height, width), dtype=np.uint8)
    grey[:, : width // 4] = subject
    return Image.fromarray(grey)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def draw_all(zoo: Path, folder: Path) -> Path:
    for row in rows_of(zoo):
        save(drawn(), folder / Path(row["file_name"]).relative_to("images"))
    return folder


def faults_of(zoo: Path, folder: Path) -> list[str]:
    before = files_below(zoo)
    with pytest.raises(Faults) as error:
        copy_masks(open_gallery(zoo), folder, "hand")
    assert files_below(zoo) == before
    return [str(fault) for fault in error.value.faults]


def test_given_masks_are_taken_by_their_images_names(cli: Cli, zoo: Path, painted: Path, tmp_path: Path) -> None:
    digest = Gallery.open(zoo).digest
    folder = draw_all(zoo, tmp_path / "drawn")
    save(drawn(), folder / "nobody.png")
    done = cli("gallery", "mask", zoo, "--from", folder, "--source", "drawn by hand", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["share"]["median"], said["unused"], said["mask_source"]) == (0.25, ["nobody.png"], "drawn by hand")
    assert "1 mask files are no image's: nobody.png" in done.stderr
    gallery = Gallery.open(zoo)
    assert (gallery.card.mask_source, gallery.digest, gallery.image_faults()) == ("drawn by hand", digest, [])
    assert all((mask == np.asarray(drawn())).all() for mask in masks_of(zoo))

    done = cli("run", "mask", painted, "--from", folder, "--source", "drawn by hand")
    assert done.returncode == 0, done.stderr
    assert Run.open(painted).card.mask_source == "drawn by hand"


def test_names_may_differ_in_their_ending_or_be_the_source_id_or_the_stem(tmp_path: Path) -> None:
    black = Image.new("RGB", (48, 48))
    zoo = gallery_of(tmp_path / "zoo", black, black, black, black)  # images/0.png, of source shot0.png
    folder = tmp_path / "drawn"
    save(drawn(), folder / "0.jpg")
    save(drawn(), folder / "shot1.webp", lossless=True)
    save(drawn(), folder / "2.png.png")
    save(drawn(), folder / "deep" / "below" / "3.bmp")
    assert copy_masks(open_gallery(zoo), folder, "hand").unused == []
    assert [abs(mask.mean() / 255 - 0.25) < 0.01 for mask in masks_of(zoo)] == [True] * 4


def test_masks_take_their_pictures_size_where_the_shape_is_the_same(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", size) for size in ((96, 48), (97, 49), (48, 24))]
    zoo = gallery_of(tmp_path / "zoo", *pictures)
    for i in range(3):
        save(drawn(96, 48), tmp_path / "drawn" / f"{i}.png")
    copy_masks(open_gallery(zoo), tmp_path / "drawn", "hand")
    masks = masks_of(zoo)
    assert [mask.shape[::-1] for mask in masks] == [picture.size for picture in pictures]
    assert [abs(mask.mean() / 255 - 0.25) < 0.02 for mask in masks] == [True] * 3


def test_votes_above_the_threshold_are_subject(zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "votes"
    for i, row in enumerate(rows_of(zoo)):
        save(drawn(subject=51 * i), folder / Path(row["file_name"]).name)  # i of 5 people
    report = copy_masks(open_gallery(zoo), folder, "votes")
    assert [share > 0 for share in report.shares.values()] == [False, False, False, True, True, True]
    assert report.empty == ["images/rex_0.png", "images/rex_1.png", "images/rex_2.png"]
    report = copy_masks(open_gallery(zoo), folder, "votes", threshold=0.3, force=True)
    assert [share > 0 for share in report.shares.values()] == [False, False, True, True, True, True]
    assert Gallery.open(zoo).card.mask_source == "votes threshold 0.3"


def test_everything_wrong_with_given_masks_is_listed_and_nothing_is_written(zoo: Path, tmp_path: Path) -> None:
    folder = draw_all(zoo, tmp_path / "drawn")
    (folder / "rex_0.png").unlink()
    save(drawn(), folder / "rex_1.bmp")
    save(drawn(48, 40), folder / "rex_2.png")
    palette = drawn(subject=1).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    save(palette, folder / "tom_0.png")
    save(drawn(subject=2), folder / "tom_1.png")
    (folder / "tom_2.png").write_bytes(b"no image")
    expected = [
        ["images/rex_0.png: no mask in", "put it there as rex_0.png"],
        ["images/rex_1.png: several masks", "rex_1.bmp, rex_1.png"],
        ["rex_2.png (of images/rex_2.png): 48 × 40 pixels, but the picture has 48 × 48"],
        ["tom_0.png", "is coloured"],
        ["tom_1.png", "0 to 2: class numbers"],
        ["tom_2.png (of images/tom_2.png): not a readable image"],
    ]
    faults = faults_of(zoo, folder)
    assert [lacking(fault, *mentions) for fault, mentions in zip(faults, expected, strict=True)] == [[]] * 6


def test_a_mask_that_lies_as_the_file_and_not_as_the_picture_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    zoo = gallery_of(tmp_path / "zoo", Image.new("RGB", (48, 30)), exif=exif)
    save(drawn(48, 30), tmp_path / "drawn" / "0.png")
    [fault] = faults_of(zoo, tmp_path / "drawn")
    assert lacking(fault, "48 × 30 pixels, but the picture has 30 × 48", "turn it as the picture is shown") == []


def test_transparent_masks_are_refused_and_opaque_ones_taken(zoo: Path, tmp_path: Path) -> None:
    folder = draw_all(zoo, tmp_path / "drawn")
    opaque, cut_out = drawn().convert("RGBA"), drawn().convert("RGBA")
    cut_out.putalpha(drawn())
    save(opaque, folder / "rex_0.png")
    save(cut_out, folder / "tom_0.png")
    [fault] = faults_of(zoo, folder)
    assert lacking(fault, "tom_0.png", "partly transparent", "white subject") == []
    save(opaque, folder / "tom_0.png")
    assert set(copy_masks(open_gallery(zoo), folder, "hand").shares.values()) == {0.25}


def test_masks_that_a_table_names_already_are_replaced_only_when_that_is_asked_for(zoo: Path, tmp_path: Path) -> None:
    folder = draw_all(zoo, tmp_path / "drawn")
    save(drawn(), zoo / "own.png")
    add_column(zoo, "mask_file_name", "own.png")
    with pytest.raises(
        FinerRankError, match=r"has masks of its own \(of 1 images, first images/rex_0.png\); .*--force"
    ):
        copy_masks(open_gallery(zoo), folder, "hand")
    copy_masks(open_gallery(zoo), folder, "hand", force=True)
    copy_masks(open_gallery(zoo), folder, "hand")  # mended masks are taken again
    assert all(row["mask_file_name"].startswith("masks/hand-") for row in rows_of(zoo))
    assert (zoo / "own.png").is_file()


def test_names_of_sources_that_look_alike_are_kept_apart(zoo: Path, tmp_path: Path) -> None:
    folder = draw_all(zoo, tmp_path / "drawn")
    for source in ("CUB 2011", "CUB-2011", "../CUB", "犬"):
        copy_masks(open_gallery(zoo), folder, source, force=True)
    assert len(list((zoo / "masks").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ((), ["--model", "--from"]),
        (("--model", "m", "--from", "drawn", "--source", "x"), ["either --model", "--from"]),
        (("--from", "drawn"), ["--source"]),
        (("--model", "a/b", "--source", "x"), ["--source"]),
        (("--from", "drawn", "--source", "x", "--label", "dog"), ["--label", "leave them out"]),
        (("--from", "no such", "--source", "x"), ["no such", "no such folder"]),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    zoo: Path, tmp_path: Path, refusal: Refusal, arguments: tuple[str, ...], mentions: list[str]
) -> None:
    draw_all(zoo, tmp_path / "drawn")
    assert lacking(refusal("gallery", "mask", zoo, *arguments, cwd=tmp_path), *mentions) == []
