"""The leak gate: a photo that the generator has seen does not pass for a photo of the gallery unnoticed."""

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import pytest
import skimage.data
from critter_pictures import SPOTTED, critter
from data_sets import Ended, command, put, write_dreambooth
from handmade import add_column, change_row, encoded, files_below, lacking, noise, rows_of, write_rows
from PIL import Image, ImageOps

from galleries import Gallery
from galleries.leaks import Inspection, Leak
from galleries.overlays import same_detail
from galleries.pair_pictures import draw_inspection
from galleries.sources import Found

Picture = Image.Image
SEEN = "images/rex_0.png"
"""The reference that is leaked in what follows."""


def astronaut() -> Picture:
    return Image.fromarray(skimage.data.astronaut()).resize((256, 256))


def crop(image: Picture) -> Picture:
    return image.crop((40, 10, 240, 210))


def jpeg(image: Picture) -> Picture:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=70))).convert("RGB")


def write_zoo(folder: Path, n: int = 4) -> Path:
    """A gallery of two dogs and a stranger, all photos different; photo 0 of each dog is its reference."""
    rows = []
    for i, (identity, split) in enumerate([("rex", "gallery"), ("tom", "gallery"), ("stray", "distractor")]):
        for k in range(n):
            own = "reference" if k == 0 and split == "gallery" else split
            name = f"images/{identity}_{k}.png"
            rows.append({"file_name": name, "category": "dog", "identity": identity, "split": own})
            image = astronaut() if name == SEEN else critter(SPOTTED, i, 10 * i + k)
            (folder / "images").mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text('name = "zoo"\n')
    return folder


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("sound") / "zoo")


@pytest.fixture
def zoo(tmp_path: Path, sound: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "zoo"))


def plant(zoo: Path, edit: str, name: str) -> None:
    """Put a copy of the reference in the place of a photo."""
    if edit == "same bytes":
        shutil.copy(zoo / SEEN, zoo / name)
    else:
        with Image.open(zoo / SEEN) as seen:
            EDITS[edit][0](seen.convert("RGB")).save(zoo / name)


EDITS: dict[str, tuple[Callable[[Picture], Picture], str]] = {
    "same bytes": (lambda p: p, "same bytes as the reference"),
    "resized": (lambda p: p.resize((100, 90)), "near-duplicate (resized or re-encoded) of the reference"),
    "saved again": (jpeg, "near-duplicate (resized or re-encoded) of the reference"),
    "cropped": (lambda p: jpeg(crop(p)), "near-duplicate (cropped) of the reference"),
    "mirrored": (ImageOps.mirror, "near-duplicate (mirrored) of the reference"),
    "a mirrored crop": (lambda p: ImageOps.mirror(crop(p)), "near-duplicate (mirrored and cropped) of the reference"),
    "grey": (lambda p: p.convert("L"), "near-duplicate (resized or re-encoded) of the reference"),
}

PLACES = ("images/rex_2.png", "images/tom_1.png", "images/stray_3.png")


@pytest.mark.parametrize("edit", EDITS)
def test_check_names_each_photo_that_repeats_a_reference_and_how(zoo: Path, edit: str) -> None:
    for place in PLACES:
        plant(zoo, edit, place)
    ended = command("gallery", "check", zoo)
    words = f"{EDITS[edit][1]} {SEEN}; keep one of the two (gallery build --drop-leaks drops this one)"
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[0] == f"finer-rank: {zoo}: 3 faults"
    assert sorted(ended.err.splitlines()[1:]) == [f"  {place}: {words}" for place in sorted(PLACES)]


@pytest.mark.parametrize("edit", ["cropped", "a mirrored crop"])
def test_a_reference_that_is_an_edit_of_a_gallery_photo_is_found_too(zoo: Path, edit: str) -> None:
    plant(zoo, edit, "images/rex_3.png")
    change_row(zoo, 1, split="gallery")
    change_row(zoo, 4, split="reference")
    ended = command("gallery", "check", zoo)
    assert ended.code == 2
    assert f"{SEEN}: {EDITS[edit][1]} images/rex_3.png" in ended.err


@pytest.mark.parametrize("edit", ["same bytes", "resized", "mirrored"])
def test_a_copy_in_another_category_is_a_leak(zoo: Path, edit: str) -> None:
    plant(zoo, edit, "images/tom_1.png")
    for row in range(5, 9):
        change_row(zoo, row, category="wolf")
    assert f"images/tom_1.png: {EDITS[edit][1]} {SEEN}" in command("gallery", "check", zoo).err


def test_a_sound_gallery_holds_no_leak_and_no_pair_to_draw(tmp_path: Path, sound: Path) -> None:
    ended = command("gallery", "check", sound, "--json", "--picture", tmp_path / "pairs.png")
    found = json.loads(ended.out)
    assert (ended.code, found["faults"], found["leaks"], found["near_duplicates"]) == (0, [], [], [])
    assert list(tmp_path.iterdir()) == []


def as_tree(zoo: Path, to: Path) -> Path:
    for row in rows_of(zoo):
        target = to / row["identity"] / row["split"] / Path(row["file_name"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(zoo / row["file_name"], target)
    return to


def as_dataset(zoo: Path, to: Path) -> Path:
    rows = rows_of(zoo)
    columns = {"image": [{"bytes": (zoo / r["file_name"]).read_bytes(), "path": None} for r in rows]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    labels = {"label": [row["identity"] for row in rows]}
    datasets.Dataset.from_dict(columns | labels, features=features).save_to_disk(str(to))
    return to


def as_reference_code(zoo: Path, to: Path) -> Path:
    rows = [{"name": r["identity"], "species": r["category"], "file_path": r["file_name"]} | r for r in rows_of(zoo)]
    for table, splits in (("gallery_data.csv", ("gallery",)), ("train_data.csv", ("reference",))):
        own = [{k: row[k] for k in ("name", "species", "file_path")} for row in rows if row["split"] in splits]
        write_rows(to / table, own)
    shutil.copytree(zoo / "images", to / "images")
    return to


def as_dreambooth(zoo: Path, to: Path) -> Path:
    dataset = write_dreambooth(to, dict.fromkeys(("rex", "tom", "stray"), "dog"))
    for row in rows_of(zoo):
        identity, number = Path(row["file_name"]).stem.split("_")
        with Image.open(zoo / row["file_name"]) as image:
            put(dataset / identity / f"{2 * int(number):02d}.jpg", encoded(image.convert("RGB"), "JPEG", quality=95))
    return dataset


def as_owners_tree(zoo: Path, to: Path) -> Path:
    """Without a split of its own."""
    tree = as_dreambooth(zoo, to)
    for text in tree.glob("*.txt"):
        text.unlink()
    return tree


# How the gallery is laid out, the command that builds from it.
BUILDS: dict[str, tuple[Callable[[Path, Path], Path], list[str]]] = {
    "folder": (as_tree, ["folder"]),
    "table": (lambda zoo, _: zoo, ["table"]),
    "linked table": (lambda zoo, _: zoo, ["table", "--symlink"]),
    "reference code": (as_reference_code, ["reference-code"]),
    "folder, seeded split": (as_owners_tree, ["folder", "--references", "2"]),
    "dataset": (as_dataset, ["hub", "--references", "2"]),
    "dreambooth": (as_dreambooth, ["dreambooth", "--references", "2"]),
}


@pytest.mark.parametrize("kind", BUILDS)
def test_every_build_refuses_a_leak_unless_told_what_to_do(tmp_path: Path, zoo: Path, kind: str) -> None:
    # With two references of four, a seed must part these four near-identical photos.
    for k, edit in ((1, "resized"), (2, "mirrored"), (3, "cropped")):
        plant(zoo, edit, f"images/rex_{k}.png")
    lay_out, (name, *options) = BUILDS[kind]
    source = lay_out(zoo, tmp_path / "source")
    before = files_below(tmp_path)

    def build(*more: str) -> Ended:
        return command("gallery", "build", name, source, *options, "--out", tmp_path / "built", *more)

    refused = build()
    assert (refused.code, refused.out) == (2, "")
    assert lacking(refused.err, "near-duplicate", "of the reference", "--drop-leaks") == []
    assert files_below(tmp_path) == before

    n = 2 if "--references" in options else 3
    words = f"{n} photos: {n} near-duplicate"
    if kind in ("table", "dataset"):
        kept = build("--keep-leaks")
        assert (kept.code, kept.out.endswith(f"; leaks: kept {words}\n")) == (0, True), kept
        assert Gallery.open(tmp_path / "built").card.leaks == f"kept {words}"
        shutil.rmtree(tmp_path / "built")

    dropped = build("--drop-leaks")
    assert dropped.code == 0, dropped.err
    assert dropped.out.endswith(f"; leaks: dropped {words}\n")
    gallery = Gallery.open(tmp_path / "built")
    assert (gallery.card.leaks, {p.split for p in gallery.photos if p.identity == "rex"}) == (
        f"dropped {words}", {"reference"},
    )  # fmt: skip
    assert "'rex' has references but no gallery photo" in dropped.err


def leaky(zoo: Path) -> Path:
    """One leak of each kind, and one photo that is two at once."""
    add_column(zoo, "encounter", "monday")  # of rex_0
    change_row(zoo, 2, encounter="monday")
    change_row(zoo, 3, encounter="monday")
    plant(zoo, "same bytes", "images/rex_2.png")
    plant(zoo, "a mirrored crop", "images/stray_0.png")
    return zoo


def test_dropping_takes_the_gallerys_side_alone_and_counts_each_photo_once(tmp_path: Path, zoo: Path) -> None:
    ended = command("gallery", "build", "table", leaky(zoo), "--out", tmp_path / "built", "--drop-leaks")
    words = "dropped 3 photos: 1 same bytes, 1 near-duplicate, 1 same encounter"
    summary = "2 identities, 4 gallery photos, 2 references, 3 distractors"
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'built'}: {summary}; leaks: {words}\n")
    gone = {f"images/{name}" for name in ("rex_1.png", "rex_2.png", "stray_0.png")}
    left = {photo.source_id for photo in Gallery.open(tmp_path / "built").photos}
    assert {f"images/{name}" for name in left} | left >= {row["file_name"] for row in rows_of(zoo)} - gone
    assert len(left) == 9
    assert command("gallery", "check", tmp_path / "built").out.endswith(f"leaks: {words}\n")


def test_a_check_may_keep_leaks_and_lists_them_all_the_same(zoo: Path) -> None:
    ended = command("gallery", "check", leaky(zoo), "--keep-leaks")
    assert (ended.code, ended.out.startswith(f"{zoo}: no faults")) == (0, True)
    mentions = ("images/rex_1.png: same encounter (monday)", "images/rex_2.png: same bytes", "images/stray_0.png: near")
    assert lacking(ended.err, *mentions) == []


@pytest.mark.parametrize("options", [[], ["--keep-leaks"]], ids=["refused", "kept"])
def test_json_lists_leaks(zoo: Path, options: list[str]) -> None:
    ended = command("gallery", "check", leaky(zoo), "--json", *options)
    found = json.loads(ended.out)
    assert ended.code == (0 if options else 2)
    assert found["leaks"] == [
        {"photo": "images/rex_1.png", "reference": SEEN, "kind": "same encounter", "detail": "monday"},
        {"photo": "images/rex_2.png", "reference": SEEN, "kind": "same bytes", "detail": ""},
        {"photo": "images/stray_0.png", "reference": SEEN, "kind": "near-duplicate", "detail": "mirrored and cropped"},
    ]


def test_a_gallery_that_is_all_leaks_is_never_written(tmp_path: Path, zoo: Path) -> None:
    for row in rows_of(zoo):
        if row["split"] == "gallery":
            plant(zoo, "same bytes", row["file_name"])
    ended = command("gallery", "build", "table", zoo, "--out", tmp_path / "built", "--drop-leaks")
    assert (ended.code, len(ended.err.splitlines())) == (2, len(ended.notes) + 1)
    assert not (tmp_path / "built").exists()


def test_dropping_and_keeping_contradict_each_other(tmp_path: Path, zoo: Path) -> None:
    ended = command("gallery", "build", "table", zoo, "--out", tmp_path / "built", "--drop-leaks", "--keep-leaks")
    assert (ended.code, ended.err) == (2, "finer-rank: --drop-leaks and --keep-leaks: give one of the two\n")


@pytest.mark.parametrize(("identity", "code"), [("rex", 2), ("tom", 0)])
def test_an_encounter_is_shared_by_one_animal_with_itself_only(zoo: Path, identity: str, code: int) -> None:
    add_column(zoo, "encounter", "monday")  # of rex_0, a reference
    change_row(zoo, {"rex": 2, "tom": 6}[identity], encounter="monday")
    for options in ([], ["--table-only"]):
        ended = command("gallery", "check", zoo, *options)
        assert ended.code == code, ended.err
        if code:
            assert f"images/rex_1.png: same encounter (monday) as the reference {SEEN}" in ended.err


def test_the_table_alone_shows_missing_files_but_no_broken_ones(zoo: Path) -> None:
    (zoo / "images/tom_1.png").write_bytes(b"no image")
    plant(zoo, "same bytes", "images/rex_1.png")
    assert command("gallery", "check", zoo, "--table-only").code == 0
    (zoo / "images/tom_2.png").unlink()
    ended = command("gallery", "check", zoo, "--table-only")
    assert (ended.code, ended.err) == (
        2, f"finer-rank: {zoo}: images/tom_2.png: no such file; put the file there, or remove its row\n",
    )  # fmt: skip


@pytest.mark.parametrize("option", [["--picture", "p.png"], ["--embedder", "classical:"]])
def test_the_table_alone_draws_and_embeds_nothing(zoo: Path, option: list[str]) -> None:
    ended = command("gallery", "check", zoo, "--table-only", *option)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)


HOSTILE = ("$x_{", "$\\frac{1", "\x1b[31m\u202ered", "two\nlines", "\u1f15", "a" * 200)


def drawn(folder: Path, n: int, ending: str, words: str = "") -> bytes:
    """The picture of `n` leaks, whose photos have hostile names."""
    folder.mkdir()
    image = encoded(astronaut().resize((40, 40)), "PNG")
    names = [f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(n)]
    images = {name: Found(name, name, Path(), {}, image) for name in ("reference", *names)}
    leaks = tuple(Leak(name, "reference", "near-duplicate", words) for name in names)
    assert draw_inspection(Inspection((), leaks, (), ()), images, folder / f"pairs{ending}")
    return (folder / f"pairs{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".pdf", ".svg"])
def test_pairs_of_any_name_are_drawn_the_same_each_time(tmp_path: Path, ending: str) -> None:
    first, second = (drawn(tmp_path / folder, 7, ending, "$^$") for folder in ("one", "two"))
    assert first == second
    if ending in (".png", ".jpg", ".webp"):
        with Image.open(io.BytesIO(first)) as image:
            image.load()
            assert len(image.convert("RGB").getcolors(2**24) or []) > 100


def test_of_very_many_pairs_the_first_sixty_are_drawn(tmp_path: Path) -> None:
    svg = drawn(tmp_path / "drawn", 61, ".svg")
    assert svg.count(b"<image ") == 120


@pytest.mark.parametrize("order", [["check"], ["build", "table", "--out", "built"]], ids=["check", "build"])
def test_a_command_draws_the_leaks_for_which_it_refuses(tmp_path: Path, zoo: Path, order: list[str]) -> None:
    order = [str(tmp_path / part) if part == "built" else part for part in order]
    ended = command("gallery", *order, leaky(zoo), "--picture", tmp_path / "pairs.svg")
    assert (ended.code, f"pairs are drawn in {tmp_path / 'pairs.svg'}" in ended.err) == (2, True)
    assert (tmp_path / "pairs.svg").read_text().count("<image ") == 6


def test_copies_without_number_are_compared_quickly(zoo: Path) -> None:
    """Files of the same bytes need no second look."""
    content = (zoo / SEEN).read_bytes()
    rows = rows_of(zoo)
    for i in range(30):
        rows.append(rows[1] | {"file_name": f"images/copy_{i:02d}.png"})
        (zoo / rows[-1]["file_name"]).write_bytes(content)
    write_rows(zoo / "metadata.csv", rows)
    with patch("galleries.near_duplicates.same_detail", wraps=same_detail) as looked:
        inspection = Gallery.open(zoo).inspect()
    assert Counter(leak.kind for leak in inspection.leaks) == {"same bytes": 30}
    assert looked.call_count < 200


def test_a_picture_of_no_format_is_refused_before_a_photo_is_read(tmp_path: Path, zoo: Path) -> None:
    (zoo / "images/tom_1.png").write_bytes(b"no image")
    ended = command("gallery", "check", zoo, "--picture", tmp_path / "pairs.txt")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "pairs.txt: no picture format" in ended.err


def test_an_encoder_proposes_and_with_a_threshold_accuses(zoo: Path) -> None:
    assert command("gallery", "check", zoo, "--embedder", "classical:").code == 0
    ended = command("gallery", "check", zoo, "--embedder", "classical:", "--near", "0.2", "--json")
    leaks = json.loads(ended.out)["leaks"]
    assert ended.code == 2
    assert {leak["kind"] for leak in leaks} == {"alike for the encoder"}
    assert all(float(leak["detail"].removeprefix("cosine ")) >= 0.2 for leak in leaks)
    assert {leak["reference"] for leak in leaks} <= {SEEN, "images/tom_0.png"}
    assert "--near" in command("gallery", "check", zoo, "--near", "0.9").err
    assert command("gallery", "check", zoo, "--embedder", "nobody:nothing").code == 2


def test_what_is_found_does_not_depend_on_the_order_of_rows(zoo: Path) -> None:
    leaky(zoo)

    def found() -> Mapping[str, Any]:
        return json.loads(command("gallery", "check", zoo, "--json", "--embedder", "classical:", "--near", "0.5").out)

    expected = found()
    assert len(expected["leaks"]) >= 3
    write_rows(zoo / "metadata.csv", random.Random(3).sample(rows_of(zoo), 12))
    assert found() == expected


def test_near_duplicates_within_the_gallery_are_noted_but_allowed(zoo: Path) -> None:
    astronaut().save(zoo / SEEN)
    crop(Image.open(zoo / "images/rex_1.png").resize((256, 256))).save(zoo / "images/rex_2.png")
    ImageOps.mirror(Image.open(zoo / "images/rex_1.png")).save(zoo / "images/tom_1.png")
    ended = command("gallery", "check", zoo)
    assert (ended.code, ended.out.startswith(f"{zoo}: no faults")) == (0, True)
    assert "note: near-duplicates: images/rex_1.png ~ images/rex_2.png" in ended.err
    assert "near-duplicates under two identities: images/rex_1.png ~ images/tom_1.png" in ended.err


def test_leaks_are_found_beside_broken_photos_and_all_are_listed(zoo: Path) -> None:
    plant(zoo, "mirrored", "images/rex_1.png")
    (zoo / "images/tom_1.png").write_bytes(noise(1).tobytes())
    (zoo / "images/tom_3.png").unlink()
    ended = command("gallery", "check", zoo)
    assert ended.err.splitlines()[0] == f"finer-rank: {zoo}: 3 faults"
    assert lacking(ended.err, "images/tom_1.png: not a", "images/tom_3.png: no such file", "(mirrored)") == []
