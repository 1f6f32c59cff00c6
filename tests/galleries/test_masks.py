"""Masks made by models: which pixels, in which files, and what happens when something is in the way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from handmade import (
    Cli,
    files_below,
    half,
    imagefolder_rows,
    lacking,
    rows_of,
    save_noise,
    write_gallery,
    write_rows,
)
from in_process import refused_here, run_here
from PIL import Image
from segmentation_models import save_mask2former, save_red, save_segformer

from galleries import Gallery
from galleries.errors import Faults, FinerRankError
from galleries.mask_command import open_gallery
from galleries.masks import MaskReport, make_masks
from galleries.rewriting import fill_column, with_field
from galleries.segmenters import find_segmenter
from personalization_runs import Run

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `red`, `segformer` and `mask2former`."""
    folder = tmp_path_factory.mktemp("models")
    save_red(folder / "red")
    save_segformer(folder / "segformer")
    save_mask2former(folder / "mask2former")
    return folder


def gallery_of(folder: Path, *pictures: Image.Image, **save: object) -> Path:
    """A gallery of dogs with these photos, as `images/0.png` and so on."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        picture.save(folder / "images" / f"{i}.png", **save)
        row = {"file_name": f"images/{i}.png", "category": "dog", "identity": f"dog {i}"}
        rows.append({**row, "split": "gallery", "source_id": f"shot{i}.png"})
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text('name = "kennel" # ours\n')
    return folder


def masked(gallery: Path, model: Path, force: bool = False, batch_size: int = 4, **options: object) -> MaskReport:
    options = {"trust_remote_code": True, "size": 64, **options} if (model / "red.py").exists() else options
    segmenter = find_segmenter(str(model), **options)
    return make_masks(open_gallery(gallery), segmenter, batch_size=batch_size, force=force)


def masks_of(gallery: Path) -> list[Pixels]:
    masks = [Image.open(gallery / row["mask_file_name"]) for row in rows_of(gallery)]
    assert {mask.mode for mask in masks} == {"L"}
    pixels = [np.asarray(mask) for mask in masks]
    assert set(np.unique(np.concatenate([own.ravel() for own in pixels]))) <= {0, 255}
    return pixels


def red(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (width, height), (0, 200, 200))
    picture.paste((255, 200, 200), box)
    return picture


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_foreground_mask_is_where_the_models_probability_is_above_the_threshold(
    tmp_path: Path, models: Path, threshold: float
) -> None:
    ramp = np.zeros((64, 64, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(64) * 4
    gallery = gallery_of(tmp_path / "zoo", Image.fromarray(ramp))
    report = masked(gallery, models / "red", threshold=threshold)
    expected = sigmoid(16 * (ramp[:, :, 0] / 255 - 0.5)) > threshold
    [mask] = masks_of(gallery)
    assert ((mask == 255) == expected).all()
    assert report.shares == {"images/0.png": expected.mean()}


def test_a_mask_lies_on_the_picture_as_it_is_shown(tmp_path: Path, models: Path) -> None:
    shown = red(96, 160, (0, 0, 48, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stored = shown.transpose(Image.Transpose.ROTATE_90)
    gallery = gallery_of(tmp_path / "zoo", stored, exif=exif)
    masked(gallery, models / "red")
    [mask] = masks_of(gallery)
    assert mask.shape == (160, 96)
    truth = np.asarray(shown)[:, :, 0] == 255
    differs = (mask == 255) != truth
    # The network sees 64 × 64 pixels: a border may be off by one of them.
    assert not differs[44:].any()
    assert not differs[:, 51:].any()
    assert not differs[:36, :45].any()


def test_pictures_of_any_shape_get_masks_of_their_own_size(tmp_path: Path, models: Path) -> None:
    sizes = [(64, 64), (1, 1), (3, 200), (1500, 20), (64, 64), (33, 47)]
    gallery = gallery_of(tmp_path / "zoo", *(red(*size, (0, 0, *size)) for size in sizes))
    for model in ("red", "segformer", "mask2former"):
        report = masked(gallery, models / model, force=True)
        assert [mask.shape[::-1] for mask in masks_of(gallery)] == sizes
        assert model != "red" or set(report.shares.values()) == {1.0}


def test_code_of_a_model_runs_only_when_that_is_asked_for(zoo: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    model = save_red(tmp_path / "trap", code=f"open({str(marker)!r}, 'w')")
    line = refused_here("gallery", "mask", zoo, "--model", model)
    assert lacking(line, "comes with code of its own", "--trust-remote-code") == []
    assert not marker.exists()
    with pytest.raises(FinerRankError, match="its code does not run"):
        masked(zoo, model)
    assert marker.exists()


def test_a_gallery_and_a_run_are_masked_by_the_command(process: Cli, zoo: Path, painted: Path, models: Path) -> None:
    done = process("gallery", "mask", zoo, "--model", models / "red", "--trust-remote-code", "--size", 64, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # what the model's code prints is not in it
    assert said["mask_source"].endswith(" threshold 0.5 size 64")
    assert (said["n_images"], said["n_kept"], said["empty"], said["faults"]) == (6, 0, [], [])
    assert 0.4 < said["share"]["min"] <= said["share"]["median"] <= said["share"]["max"] < 0.6

    done = run_here("run", "mask", painted, "--model", models / "segformer", "--label", "dog", "--label", "cat")
    assert done.returncode == 0, done.stderr
    assert "subject's share of the picture: min" in done.stderr
    run = Run.open(painted)
    assert "label cat, dog" in run.card.mask_source
    assert all((painted / image.mask_file_name).is_file() for image in run.images)
    assert run.image_faults() == []


def test_masks_change_nothing_else_in_a_gallery(zoo: Path, models: Path, tmp_path: Path) -> None:
    before = Gallery.open(zoo)
    rows = rows_of(zoo)
    masked(zoo, models / "segformer")
    after = Gallery.open(zoo)
    assert (after.digest, len(after.photos)) == (before.digest, 6)
    assert after.image_faults() == []
    assert [{key: value for key, value in row.items() if key != "mask_file_name"} for row in rows_of(zoo)] == rows
    loaded = imagefolder_rows(zoo, tmp_path / "cache")
    assert [row["image"].size for row in loaded] == [(48, 48)] * 6


def test_a_semantic_mask_is_where_the_likeliest_class_is_the_subject(tmp_path: Path, models: Path) -> None:
    pictures = [Image.open(save_noise(tmp_path / f"{i}.png", i, (40 + i, 90))) for i in range(3)]
    gallery = gallery_of(tmp_path / "zoo", *pictures)
    masked(gallery, models / "segformer")  # the category is "dog"
    processor = transformers.SegformerImageProcessor.from_pretrained(models / "segformer")
    network = transformers.SegformerForSemanticSegmentation.from_pretrained(models / "segformer").eval()
    for picture, mask in zip(pictures, masks_of(gallery), strict=True):
        with torch.inference_mode():
            logits = network(**processor(images=picture, return_tensors="pt")).logits
        full = torch.nn.functional.interpolate(logits, picture.size[::-1], mode="bilinear", align_corners=False)
        expected = (full[0].argmax(0) == 1).numpy()
        assert 0 < expected.mean() < 1
        assert ((mask == 255) == expected).all()


def test_objects_of_the_class_are_the_subject_and_what_lies_around_them_is_not(tmp_path: Path, models: Path) -> None:
    picture = Image.open(save_noise(tmp_path / "noise.png", 0, (80, 60)))
    gallery = gallery_of(tmp_path / "zoo", picture)
    masked(gallery, models / "mask2former", labels=["domestic dog"])
    processor = transformers.Mask2FormerImageProcessor.from_pretrained(models / "mask2former")
    network = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(models / "mask2former").eval()
    with torch.inference_mode():
        logits = network(**processor(images=picture, return_tensors="pt")).masks_queries_logits
    interpolate = torch.nn.functional.interpolate
    objects = interpolate(logits, (384, 384), mode="bilinear", align_corners=False) > 0
    expected = interpolate(objects.float(), (60, 80), mode="nearest")[0].any(0).numpy()
    assert 0 < expected.mean() < 1
    [mask] = masks_of(gallery)
    assert ((mask == 255) == expected).all()

    report = masked(gallery, models / "mask2former", labels=["cat"], force=True)
    assert report.empty == ["images/0.png"]


def test_what_shares_a_batch_changes_no_mask(tmp_path: Path, models: Path) -> None:
    pictures = [Image.open(save_noise(tmp_path / f"{i}.png", i, (40 + 8 * (i % 3), 60))) for i in range(7)]
    gallery = gallery_of(tmp_path / "zoo", *pictures)
    for model in ("segformer", "mask2former"):
        masked(gallery, models / model, force=True, batch_size=1)
        alone = masks_of(gallery)
        masked(gallery, models / model, force=True, batch_size=5)
        assert all((one == other).all() for one, other in zip(alone, masks_of(gallery), strict=True))


def test_images_in_which_nothing_is_found_are_listed_and_no_error(zoo: Path, tmp_path: Path) -> None:
    model = save_segformer(tmp_path / "dogs everywhere", always=1)
    done = run_here("gallery", "mask", zoo, "--model", model, "--label", "cat")
    assert done.returncode == 0
    assert lacking(done.stderr, "min 0.0%", "6 masks are empty", "images/rex_0.png", "images/tom_1.png…") == []
    assert not any(mask.any() for mask in masks_of(zoo))

    report = masked(zoo, model, force=True)
    assert report.touching == list(report.shares)
    assert all(mask.all() for mask in masks_of(zoo))


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, models: Path) -> None:
    zoo = write_gallery(tmp_path / "zoo")
    table, card = (zoo / "metadata.csv").read_bytes(), (zoo / "gallery.toml").read_bytes()
    arguments = ["gallery", "mask", str(zoo), "--model", str(models / "red")]
    arguments += ["--trust-remote-code", "--size", "64", "--batch-size", "2", "--json"]
    command = [sys.executable, "-m", "finer_rank", *arguments]
    killed = subprocess.run(command, env={**os.environ, "KILL_AT_BATCH": "3"}, capture_output=True)
    assert killed.returncode == -9
    assert len(list(zoo.glob("masks/**/*.png"))) == 4
    assert ((zoo / "metadata.csv").read_bytes(), (zoo / "gallery.toml").read_bytes()) == (table, card)

    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["n_kept"], "4 masks were there already" in done.stderr) == (4, True)
    other = write_gallery(tmp_path / "other")
    masked(other, models / "red")
    assert files_below(zoo) == files_below(other)
    assert all(
        (zoo / name).read_bytes() == (other / name).read_bytes() for name in files_below(zoo) if "." in name[-5:]
    )


def test_broken_images_are_all_listed_and_the_table_stays(zoo: Path, models: Path) -> None:
    table, card = (zoo / "metadata.csv").read_bytes(), (zoo / "gallery.toml").read_bytes()
    (zoo / "images/rex_1.png").unlink()
    (zoo / "images/tom_2.png").write_bytes((zoo / "images/tom_1.png").read_bytes()[:500])
    arguments = ("gallery", "mask", zoo, "--model", models / "segformer")
    done = run_here(*arguments, "--json")
    assert done.returncode == 2
    assert [fault["where"] for fault in json.loads(done.stdout)["faults"]] == ["images/rex_1.png", "images/tom_2.png"]
    assert lacking(done.stderr, "2 faults", "images/rex_1.png: no such file", "images/tom_2.png: truncated") == []
    assert ((zoo / "metadata.csv").read_bytes(), (zoo / "gallery.toml").read_bytes()) == (table, card)
    assert len(list(zoo.glob("masks/**/*.png"))) == 4


def test_only_masks_of_changed_images_are_made_again(zoo: Path, models: Path) -> None:
    assert masked(zoo, models / "segformer").kept == []
    first, second, _, fourth, *_ = (zoo / row["mask_file_name"] for row in rows_of(zoo))
    Image.new("L", (48, 48), 255).save(first)  # retouched by a person
    second.write_bytes(second.read_bytes()[:100])  # damaged
    fourth.write_bytes(half(fourth.read_bytes()))
    save_noise(zoo / "images/rex_2.png", 99, (50, 30))
    report = masked(zoo, models / "segformer")
    assert report.kept == ["images/rex_0.png", "images/tom_1.png", "images/tom_2.png"]
    assert report.shares["images/rex_0.png"] == 1
    assert masks_of(zoo)[2].shape == (30, 50)
    assert masked(zoo, models / "segformer", force=True).kept == []

    Image.new("L", (9, 48), 255).save(first)
    with pytest.raises(Faults, match=r"changed by hand: 9 × 48 pixels, but the picture has 48 × 48.* or delete it"):
        masked(zoo, models / "segformer")


def test_masks_of_another_source_are_replaced_only_when_that_is_asked_for(zoo: Path, models: Path) -> None:
    masked(zoo, models / "segformer")
    names = {row["mask_file_name"] for row in rows_of(zoo)}
    with pytest.raises(FinerRankError, match=r"has masks of 'segformer@\w+ label by category' .*--force"):
        masked(zoo, models / "red")
    masked(zoo, models / "red", force=True)
    assert names.isdisjoint(row["mask_file_name"] for row in rows_of(zoo))
    assert all((zoo / name).is_file() for name in names)


def test_nothing_is_written_outside_the_folder(zoo: Path, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (zoo / "masks").symlink_to(outside)
    with pytest.raises(FinerRankError, match="is a link that leaves"):
        masked(zoo, models / "segformer")
    assert not any(outside.iterdir())

    (zoo / "masks").unlink()
    shutil.move(zoo / "images", outside / "images")
    (zoo / "images").symlink_to(outside / "images")
    photos = files_below(outside)
    masked(zoo, models / "segformer")
    assert Gallery.open(zoo).image_faults() == []
    for row in rows_of(zoo):  # links in the masks' places are replaced, not followed
        path = zoo / row["mask_file_name"]
        path.unlink()
        path.symlink_to(outside / "images/rex_0.png")
    assert masked(zoo, models / "segformer").kept == []
    assert files_below(outside) == photos
    assert not any((zoo / row["mask_file_name"]).is_symlink() for row in rows_of(zoo))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_table_keeps_its_format_and_its_types(zoo: Path, models: Path, kind: str) -> None:
    rows = [{**row, "source_id": i} for i, row in enumerate(rows_of(zoo))]
    (zoo / "metadata.csv").unlink()
    table = zoo / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        masked(zoo, models / "segformer")
        written = (
            pq.read_table(table).to_pylist()
            if kind == "parquet"
            else [json.loads(line) for line in table.read_text().splitlines()]
        )
        assert [{key: row[key] for key in rows[0]} for row in written] == rows
        assert [row["mask_file_name"] for row in written] == [p.mask_file_name for p in Gallery.open(zoo).photos]
    assert len(Gallery.open(zoo).photos) == 6


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ('# hand-made\nname = "zoo"  # ours\n', "# hand-made"),
        ('model = "m"\n\n[parameters]\nsteps = 3 # few\n', "steps = 3 # few"),
        ('name = "zoo"\nmask_source = "old"\n', 'name = "zoo"'),
        ('description = """\nmask_source = 1\n"""\n[parameters]\na = 1\n', "[parameters]"),
        ('mask_source = """a\nb"""\nname = "zoo"\n', 'name = "zoo"'),
    ],
)
def test_a_card_keeps_what_else_it_says(text: str, kept: str) -> None:
    import tomllib

    changed = with_field(text, "mask_source", 'a "quoted" name')
    assert tomllib.loads(changed) == {**tomllib.loads(text), "mask_source": 'a "quoted" name'}
    assert kept in changed


def test_a_tree_of_photos_must_be_built_first(tmp_path: Path, models: Path) -> None:
    for identity in ("rex", "tom"):
        save_noise(tmp_path / "pets" / identity / "1.png", 1)
    line = refused_here("gallery", "mask", tmp_path / "pets", "--model", models / "segformer")
    assert lacking(line, "pets", "no table", "finer-rank gallery build") == []
    line = refused_here("run", "mask", tmp_path / "pets", "--model", models / "segformer")
    assert lacking(line, "no table", "finer-rank run import") == []


def test_a_gallery_without_a_card_gets_one(zoo: Path, models: Path) -> None:
    (zoo / "gallery.toml").unlink()
    report = masked(zoo, models / "segformer")
    assert Gallery.open(zoo).card.mask_source == report.source


def test_a_row_that_was_added_meanwhile_leaves_table_and_card_as_they_were(zoo: Path) -> None:
    before = {path: path.read_bytes() for path in zoo.iterdir() if path.is_file()}
    card = zoo / "gallery.toml"
    with pytest.raises(FinerRankError, match=r"'images/rex_1.png' was added meanwhile; run again"):
        fill_column(zoo / "metadata.csv", "mask_file_name", {"images/rex_0.png": "m.png"}, card, "mask_source", "x")
    assert {path: path.read_bytes() for path in zoo.iterdir() if path.is_file()} == before
