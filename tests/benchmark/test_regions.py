"""Cutting pictures along masks: what is cut has no influence, and every unusable mask is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, Refusal, change_row, encoded, noise, relink, rows_of
from PIL import Image, ImageDraw
from scenes import IDENTITIES, N_IMAGES, SIZE, judge, write_world

from benchmark.regions import NEUTRAL, REGIONS, cut, decode_mask, smoothly_filled
from galleries.errors import Faults
from galleries.images import BadImage
from personalization_runs.run import Run


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures that show their identity in the subject alone; a test may spoil anything."""
    return write_world(tmp_path, "subject")


# ---- cutting


def ellipse(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


@pytest.mark.parametrize("size", [(96, 64), (1000, 700), (129, 400), (31, 17)])
def test_what_is_cut_has_no_influence_on_any_pixel(size: tuple[int, int]) -> None:
    width, height = size
    mask = ellipse(size, (width // 3, height // 3, 2 * width // 3, 2 * height // 3))
    inside = np.asarray(mask) >= 128
    first, other = np.asarray(noise(0, size)), np.asarray(noise(1, size))
    for region, stays in (("subject", inside), ("background", ~inside)):
        changed = Image.fromarray(np.where(stays[:, :, None], first, other))
        results = [np.asarray(cut(picture, mask, region)) for picture in (Image.fromarray(first), changed)]  # type: ignore[arg-type]
        assert (results[0] == results[1]).all()
        assert results[0].shape == first.shape
    alone = np.asarray(cut(Image.fromarray(first), mask, "subject"))
    assert (alone == np.where(inside[:, :, None], first, NEUTRAL)).all()
    assert cut(Image.fromarray(first), mask, "full").tobytes() == first.tobytes()


def test_the_background_tells_nothing_of_the_outline() -> None:
    box = (30, 20, 60, 50)
    rectangle = Image.new("L", SIZE)
    rectangle.paste(255, (*box[:2], box[2] + 1, box[3] + 1))
    cross = Image.new("L", SIZE)
    cross.paste(255, (30, 34, 61, 37))
    cross.paste(255, (44, 20, 47, 51))
    results = {cut(noise(0, SIZE), mask, "background").tobytes() for mask in (rectangle, cross, ellipse(SIZE, box))}
    assert len(results) == 1


def test_around_the_enlarged_box_every_pixel_stays() -> None:
    picture, mask = noise(0, (400, 300)), ellipse((400, 300), (100, 80, 299, 219))
    before, after = np.asarray(picture), np.asarray(cut(picture, mask, "background"))
    changed = (before != after).any(axis=2)
    rows, columns = np.nonzero(changed)
    # 5 % of 200 pixels, and up to 3 more to a whole cell of 4 × 4 pixels.
    assert (10 <= 80 - rows.min() <= 13, 10 <= 100 - columns.min() <= 13) == (True, True)
    assert (10 <= rows.max() - 219 <= 13, 10 <= columns.max() - 299 <= 13) == (True, True)


def test_a_fill_is_nearly_the_membrane_over_its_frame() -> None:
    """Against the exact solution: every unknown colour is the mean of its neighbours."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    colours = np.asarray(small.resize((40, 40), Image.Resampling.BICUBIC), dtype=np.float32)
    is_known = np.ones((40, 40), dtype=bool)
    is_known[8:30, 12:36] = False
    exact = np.where(is_known[:, :, None], colours, 128).astype(np.float64)
    for _ in range(5000):
        mean = (exact[:-2, 1:-1] + exact[2:, 1:-1] + exact[1:-1, :-2] + exact[1:-1, 2:]) / 4
        exact[1:-1, 1:-1] = np.where(is_known[1:-1, 1:-1, None], exact[1:-1, 1:-1], mean)
    noisy = np.where(is_known[:, :, None], colours, np.float32(np.nan))
    filled = smoothly_filled(noisy, is_known)
    assert filled.dtype == np.float32
    assert (filled[is_known] == colours[is_known]).all()
    assert np.abs(filled - exact).mean() < 6
    steps = [np.abs(np.diff(filled[8:30, 12:36], axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 40


def test_one_colour_around_gives_that_colour_within() -> None:
    plain = Image.new("RGB", (300, 200), (10, 200, 60))
    picture = plain.copy()
    picture.paste("red", (100, 50, 200, 150))
    mask = ellipse((300, 200), (90, 40, 210, 160))
    assert cut(picture, mask, "background").tobytes() == plain.tobytes()


# ---- masks


def png(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "PNG", **options)


def test_masks_of_other_sizes_and_kinds_come_to_the_same() -> None:
    mask = ellipse((200, 100), (40, 20, 120, 80))
    expected = np.asarray(decode_mask(png(mask), (200, 100)))
    assert set(np.unique(expected)) == {0, 255}
    opaque = mask.convert("RGB")
    opaque.putalpha(255)
    kinds = [mask.convert("1"), mask.convert("RGB"), opaque, mask.point([0] + [200] * 255), mask.convert("P")]
    for image in kinds:
        assert (np.asarray(decode_mask(png(image), (200, 100))) == expected).all()
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0))
    assert (np.asarray(decode_mask(png(ramp), (256, 4))) == np.where(np.arange(256) >= 128, 255, 0)).all()
    grey = mask.point([v // 2 for v in range(256)])
    with pytest.raises(BadImage, match="brightest pixel is 127"):
        decode_mask(png(grey), (200, 100))
    small = decode_mask(png(mask.resize((50, 25))), (200, 100))
    assert small.size == (200, 100)
    assert np.mean(np.asarray(small) != expected) < 0.03
    # 100 × 33 is 300 × 100, rounded.
    assert decode_mask(png(mask.resize((100, 33))), (300, 100)).size == (300, 100)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("a mask"), "not a readable image"),
    "zero bytes": (lambda path: path.write_bytes(b""), "the file is empty"),
    "not there": (lambda path: path.unlink(), "no such file"),
    "cut off": (lambda path: path.write_bytes(png(noise(0, SIZE))[:-900]), "truncated"),
    "of another shape": (
        lambda path: Image.new("L", (64, 96), 255).save(path),
        "64 × 96 pixels, but the picture has 96",
    ),
    "without subject": (lambda path: Image.new("L", SIZE).save(path), "shows no subject (its brightest pixel is 0"),
    "of ones": (lambda path: Image.new("L", SIZE, 1).save(path), "brightest pixel is 1, subject is 128 to 255"),
    "a cut-out": (lambda path: Image.new("RGBA", SIZE, (9, 9, 9, 0)).save(path), "partly transparent"),
    "an animation": (
        lambda path: noise(0, SIZE).save(path, save_all=True, append_images=[noise(1, SIZE)]),
        "animated",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mask_that_cannot_be_used_is_a_fault_that_names_it(
    world: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    spoil, said = FAULTS[fault]
    zoo, painter = world
    spoil(zoo / "masks" / "toy_a_2.png")
    spoil(painter / "masks" / "toy_b_5.png")
    with pytest.raises(Faults) as caught:
        judge(zoo, painter, tmp_path / "store")
    lines = caught.value.lines()[1:]
    assert len(lines) == 2  # although two regions need each mask
    for line, name in zip(sorted(lines), ["painter: .*toy_b_5.png", "zoo: .*toy_a_2.png"], strict=True):
        assert name.split(".*")[1] in line
        assert said in line
    assert judge(zoo, painter, tmp_path / "store", "full")["full"].n_left_out == 0
    left = judge(zoo, painter, tmp_path / "store", skip_broken=True)
    assert [left[region].n_left_out for region in REGIONS] == [0, 2, 2]
    assert left["full"].left_out == ()
    summary = left["subject"].records[0].summary
    assert (summary["n_images_left_out"], summary["n_photos_left_out"]) == (1, 1)


def test_all_faults_of_masks_are_listed_at_once(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    for number, (spoil, _) in enumerate(FAULTS.values()):
        spoil(painter / "masks" / f"toy_{'abcdef'[number // 2]}_{5 + number % 2}.png")
    Image.new("L", SIZE, 255).save(zoo / "masks" / "toy_a_2.png")
    change_row(zoo, 1, mask_file_name="")
    with pytest.raises(Faults) as caught:
        judge(zoo, painter, tmp_path / "store")
    message = str(caught.value)
    assert len(caught.value.faults) == len(FAULTS) + 2
    assert [said for _, said in FAULTS.values() if said not in message] == []
    assert "leaves no background" in message
    assert "1 of 30 images have no mask" in message


def test_a_full_mask_leaves_a_subject_but_no_background(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    Image.new("L", SIZE, 255).save(painter / "masks" / "toy_a_5.png")
    judge(zoo, painter, tmp_path / "store", "subject")
    with pytest.raises(Faults, match=r"toy_a_5.png: mask .*: leaves no background"):
        judge(zoo, painter, tmp_path / "store", "background")


def test_masks_fit_pictures_as_they_are_shown_upright(world: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, painter = world
    path = painter / "images" / "toy_a_5.png"
    shown = Image.open(path)
    expected = judge(zoo, painter, tmp_path / "store", "subject")["subject"]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    shown.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    again = judge(zoo, painter, tmp_path / "store", "subject")["subject"]
    assert again.n_forward_passes == 1
    precision = [e.records[0].queries.column("average_precision") for e in (expected, again)]
    assert precision[0] == precision[1]


@pytest.mark.parametrize("n_lacking", [2, N_IMAGES * len(IDENTITIES)])
def test_missing_masks_are_one_fault_with_what_to_do(world: tuple[Path, Path], tmp_path: Path, n_lacking: int) -> None:
    zoo, painter = world
    for number in range(1, n_lacking + 1):
        change_row(painter, number, mask_file_name="")
    with pytest.raises(Faults) as caught:
        judge(zoo, painter, tmp_path / "store")
    (fault,) = caught.value.faults
    assert fault.what == f"{n_lacking} of 18 images have no mask (first images/toy_a_5.png)"
    assert "finer-rank run mask" in fault.remedy
    judge(zoo, painter, tmp_path / "store", "full")
    if n_lacking == 2:
        left = judge(zoo, painter, tmp_path / "store", skip_broken=True)["subject"]
        assert (left.n_left_out, len(left.left_out)) == (2, 1)
    else:
        with pytest.raises(Faults, match="18 of 18 images have no mask"):
            judge(zoo, painter, tmp_path / "store", skip_broken=True)
    for number in range(1, len(rows_of(zoo)) + 1):
        change_row(zoo, number, mask_file_name="")
    with pytest.raises(Faults, match=r"30 of 30 images have no mask.*finer-rank gallery mask"):
        judge(zoo, painter, tmp_path / "store", "background")


def test_a_runs_mask_must_lie_in_its_folder(
    world: tuple[Path, Path], cli: Cli, refusal: Refusal, tmp_path: Path
) -> None:
    zoo, painter = world
    relink(painter / "masks" / "toy_a_5.png", zoo / "masks" / "toy_a_2.png")
    assert "masks/toy_a_5.png: is a link that leaves the folder" in refusal("run", "check", painter)
    change_row(painter, 1, mask_file_name="../zoo/masks/toy_a_2.png")
    assert "mask_file_name ../zoo/masks/toy_a_2.png: leaves the folder" in refusal("run", "check", painter)
    command = ("run", "import", "table", painter / "metadata.csv", "--out", tmp_path / "imported")
    assert "mask_file_name ../zoo/masks/toy_a_2.png lies outside" in refusal(*command)
    change_row(painter, 1, mask_file_name="masks/gone.png")
    for refused in (command, ("run", "check", painter)):
        assert "gone.png: no such mask, named by" in refusal(*refused)
    change_row(painter, 1, mask_file_name="masks/toy_a_6.png")
    assert cli(*command).returncode == 0
    imported = Run.open(tmp_path / "imported")
    for image, before in zip(imported.images, Run.open(painter).images, strict=True):
        copy, mask = (tmp_path / "imported" / image.mask_file_name), (painter / before.mask_file_name)
        assert copy.read_bytes() == mask.read_bytes()
