"""A frozen gallery: everybody with the photos builds the identical one from its manifest, or is told why not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import tomli_w
from data_sets import command
from handmade import add_column, change_row, encoded, files_below, lacking, noise, rows_of, save_noise, write_rows

from galleries import Gallery
from galleries.freeze import frozen_digest, published, read_manifest
from galleries.gallery import Photo


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Photos as their owner keeps them, by identity and split."""
    for seed in range(6):
        identity, split = ("rex", "tom")[seed % 2], "reference" if seed < 2 else "gallery"
        save_noise(tmp_path / f"pets/{identity}/{split}/{seed}.png", seed)
    return tmp_path / "pets"


@pytest.fixture
def built(tmp_path: Path, pets: Path) -> Path:
    ended = command("gallery", "build", "folder", pets, "--out", tmp_path / "built", "--name", "pets", "--version", "3")
    assert ended.code == 0, ended
    return tmp_path / "built"


@pytest.fixture
def manifest(tmp_path: Path, built: Path) -> Path:
    frozen(built, tmp_path / "pets-3.toml")
    return tmp_path / "pets-3.toml"


def frozen(gallery: Path, out: Path) -> None:
    ended = command("gallery", "freeze", gallery, "--out", out)
    digest = Gallery.open(gallery).digest
    assert ended.code == 0, ended.err
    assert ended.out == f"{out}: {len(Gallery.open(gallery).photos)} rows, table SHA-256 {digest}\n"


def assert_rebuilt(manifest: Path, source: object, like: Path, *options: str, is_table_as_written: bool = True) -> None:
    """The rebuilt gallery is the frozen one, to the byte."""
    out = manifest.parent / "again"
    ended = command("gallery", "build", "manifest", manifest, source, "--out", out, *options)
    assert ended.code == 0, ended.err
    assert files_below(out) == files_below(like)
    table = ["metadata.csv"] if is_table_as_written else []
    for name in (*table, *(photo.file_name for photo in Gallery.open(like).photos)):
        assert (out / name).read_bytes() == (like / name).read_bytes()
    assert Gallery.open(out).digest == Gallery.open(like).digest == read_manifest(manifest).table_sha256
    shutil.rmtree(out)


def refused(folder: Path, *arguments: object) -> str:
    """The message of a build from a manifest that must be refused and leave nothing behind."""
    before = files_below(folder)
    ended = command("gallery", "build", "manifest", *arguments, "--out", folder / "again")
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("finer-rank: ")
    assert lacking(ended.err, "Traceback", ".partial") == ["Traceback", ".partial"]
    assert files_below(folder) == before
    return ended.err


def test_the_photos_as_they_lie_and_a_copy_of_the_gallery_give_the_same_gallery(
    manifest: Path, pets: Path, built: Path
) -> None:
    copy = shutil.copytree(built, built.parent / "copy")
    for source in (pets, built, copy):
        assert_rebuilt(manifest, source, built)
    assert_rebuilt(manifest, pets, built, "--symlink")
    frozen(copy, manifest.parent / "copy.toml")
    assert (manifest.parent / "copy.toml").read_bytes() == manifest.read_bytes()


def test_a_rebuilt_gallery_has_the_frozen_card(manifest: Path, pets: Path, built: Path) -> None:
    command("gallery", "build", "manifest", manifest, pets, "--out", built.parent / "again")
    assert Gallery.open(built.parent / "again").card == Gallery.open(built).card


def test_rows_of_every_column_and_hostile_text_are_frozen_as_they_are(tmp_path: Path, built: Path) -> None:
    texts = {"encounter": 'a "quoted", \\back\\slash, """ and 犬', "viewpoint": "two\nlines", "bbox": "1,2,3,4"}
    for column, text in texts.items():
        add_column(built, column, text, 2)
    frozen(built, tmp_path / "odd.toml")
    assert_rebuilt(tmp_path / "odd.toml", built, built, is_table_as_written=False)


@pytest.mark.parametrize("text", ["two\r\nlines", "a\rb", "tab\there", "nul\0", "\x1b[31m", " \u2028 "])
def test_freezing_takes_any_text_or_leaves_nothing(tmp_path: Path, built: Path, text: str) -> None:
    add_column(built, "encounter", f"x{text}y", 2)
    if command("gallery", "check", built).code:
        return  # no gallery either
    ended = command("gallery", "freeze", built, "--out", tmp_path / "odd.toml")
    assert ended.code == 0, ended.err
    assert read_manifest(tmp_path / "odd.toml").photos == Gallery.open(built).photos


@pytest.mark.parametrize(
    "source_id", ["https://photos.org/1.png", "../elsewhere/1.png", "/abs/1.png", "c:1", "a" * 300]
)
def test_a_gallery_whose_photos_came_from_anywhere_can_be_frozen(tmp_path: Path, built: Path, source_id: str) -> None:
    change_row(built, 1, source_id=source_id)
    assert command("gallery", "check", built).code == 0
    frozen(built, tmp_path / "odd.toml")
    assert_rebuilt(tmp_path / "odd.toml", built, built, is_table_as_written=False)


@pytest.mark.parametrize(
    "names",
    [
        ("Rex.png", "rex.png"),
        ("a:b.png", "a_b.png"),
        (f"{'a' * 120}1.png", f"{'a' * 120}2.png"),
        ("ä.png", "a\u0308.png"),
    ],
    ids=["case", "colon", "long", "two ways to write"],
)
def test_photos_with_awkward_names_are_rebuilt(tmp_path: Path, pets: Path, names: tuple[str, str]) -> None:
    for seed, name in enumerate(names):
        save_noise(pets / "rex/gallery" / name, 50 + seed)
    assert command("gallery", "build", "folder", pets, "--out", tmp_path / "built").code == 0
    frozen(tmp_path / "built", tmp_path / "odd.toml")
    for source in (pets, tmp_path / "built"):
        assert_rebuilt(tmp_path / "odd.toml", source, tmp_path / "built")


def test_a_folder_with_a_long_name_is_rebuilt(tmp_path: Path, pets: Path) -> None:
    (pets / "rex").rename(pets / f"{'r' * 99} {'x' * 20}")
    assert command("gallery", "build", "folder", pets, "--out", tmp_path / "built").code == 0
    frozen(tmp_path / "built", tmp_path / "odd.toml")
    assert_rebuilt(tmp_path / "odd.toml", pets, tmp_path / "built")


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x83")


# What happened to the photos, what the message must name.
LOSSES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "gone": (lambda pets: (pets / "rex/gallery/2.png").unlink(), ("rex/gallery/2.png: is missing",)),
    "renamed": (
        lambda pets: (pets / "rex/gallery/2.png").rename(pets / "rex/gallery/two.png"),
        ("rex/gallery/2.png: is missing",),
    ),
    "changed by a byte": (lambda pets: flip(pets / "rex/gallery/2.png"), ("2.png", "has other bytes than the frozen")),
    "another's": (
        lambda pets: shutil.copy(pets / "tom/gallery/3.png", pets / "rex/gallery/2.png"),
        ("2.png", "has other bytes than the frozen"),
    ),
    "two of them gone": (
        lambda pets: [(pets / f"rex/gallery/{i}.png").unlink() for i in (2, 4)],
        ("2 faults", "rex/gallery/2.png", "rex/gallery/4.png"),
    ),
    "a folder": (
        lambda pets: [(pets / "rex/gallery/2.png").unlink(), (pets / "rex/gallery/2.png").mkdir()],
        ("rex/gallery/2.png: is missing",),
    ),
    "all gone": (lambda pets: shutil.rmtree(pets), ("pets: no such folder",)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_photos_that_are_not_the_frozen_ones_are_named(tmp_path: Path, manifest: Path, pets: Path, loss: str) -> None:
    change, mentions = LOSSES[loss]
    change(pets)
    assert lacking(refused(tmp_path, manifest, pets), *mentions) == []


def with_rows(manifest: Path, *photos: Photo, **fields: object) -> Path:
    """A manifest as a stranger may write it: rows and digest agree."""
    rows = ["file_name,category,identity,split,source_id"]
    rows += [f"{p.file_name},{p.category},{p.identity},{p.split},{p.source_id}" for p in photos]
    content = {"name": "x", "version": "1", "table_sha256": frozen_digest(photos), "rows": rows}
    manifest.write_text(tomli_w.dumps(content | fields), encoding="utf-8")
    return manifest


def dog(
    file_name: str, source_id: str = "", split: str = "gallery", identity: str = "rex", category: str = "dog"
) -> Photo:
    return Photo(file_name, category, identity, split, source_id=source_id)


@pytest.mark.parametrize(
    "name", ["../x.png", "images/../../x.png", "/x.png", "a\0b.png", "images\\x.png", "c:/x.png", ""]
)
@pytest.mark.parametrize("column", ["file_name", "source_id"])
def test_a_manifest_never_reaches_outside(tmp_path: Path, pets: Path, name: str, column: str) -> None:
    save_noise(tmp_path / "x.png", 1)
    hostile = dog(name) if column == "file_name" else dog("images/x.png", name)
    message = refused(tmp_path, with_rows(tmp_path / "hostile.toml", hostile, dog("images/y.png")), pets)
    assert lacking(message, "hostile.toml" if name else "") == []


# What stands in the manifest, what the message must name.
TAMPERED: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "another label": (lambda text: text.replace(",tom,reference,", ",rex,reference,"), ("not those it was frozen",)),
    "a row less": (lambda text: "\n".join(line for line in text.split("\n") if "2.png" not in line), ("not those",)),
    "a field more": (lambda text: text.replace(",gallery,", ",gallery,x,", 1), ("row", "number of fields")),
    "half of it": (lambda text: text[: len(text) // 2], ("not TOML",)),
    "nothing": (lambda text: "", ("no name",)),
    "a number for a name": (lambda text: text.replace('version = "3"', "version = 3"), ("no version",)),
    "a quote without end": (lambda text: text.replace("images/", '\\"images/', 1), ("fetch it again",)),
    "a quote without end, and much": (
        lambda text: text.replace("images/", f'\\"{"x" * 140_000}images/', 1),
        ("fetch it again",),
    ),
    "endless brackets": (lambda text: f"x = {'[' * 20_000}\n{text}", ("not TOML",)),
    "no rows": (lambda text: text.replace("rows = ", "rowz = "), ("no rows",)),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_manifest_that_was_changed_is_refused(tmp_path: Path, manifest: Path, pets: Path, change: str) -> None:
    spoil, mentions = TAMPERED[change]
    manifest.write_text(spoil(manifest.read_text()))
    message = refused(tmp_path, manifest, pets)
    assert lacking(message, "pets-3.toml", *mentions) == []
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("photos", "mention"),
    [
        ([dog("images/rex/2.png", "rex/gallery/2.png", split="test")], "split"),
        ([dog("images/rex/2.png", "rex/gallery/2.png", identity="")], "identity"),
        ([dog("images/rex/2.png", "rex/gallery/2.png", split="reference")], "no photo is in the gallery"),
        ([dog(f"images/{i}.png", f"rex/gallery/{i}.png", category=f"dog{i}") for i in (2, 4)], "categories"),
        ([dog("images/2.png", "rex/gallery/2.png")] * 2, "twice"),
        ([dog("images/2.png", "rex/gallery/2.png"), dog("images/2.PNG", "rex/gallery/4.png")], "hostile.toml"),
        ([], "hostile.toml"),
    ],
    ids=["no such split", "nobody", "no gallery", "two categories", "a row twice", "a case apart", "no row"],
)
def test_a_manifest_of_no_gallery_is_refused(tmp_path: Path, pets: Path, photos: list[Photo], mention: str) -> None:
    assert mention in refused(tmp_path, with_rows(tmp_path / "hostile.toml", *photos), pets)


@pytest.mark.parametrize("name", [path.stem for path in published()])
def test_a_published_manifest_is_found_by_name_and_names_what_is_missing(tmp_path: Path, pets: Path, name: str) -> None:
    message = refused(tmp_path, name, pets)
    assert lacking(message, "is missing", "fetch the data again") == []
    near = refused(tmp_path, f"{name[:-2]}s-1", pets)
    assert lacking(near, "no such manifest", f"{name} is meant?", "published:") == []


@pytest.mark.parametrize("name", ["nothing-like-it", "nowhere.toml", ".", "../pets", ""])
def test_an_unknown_manifest_is_answered_with_those_there_are(tmp_path: Path, pets: Path, name: str) -> None:
    assert lacking(refused(tmp_path, name, pets), "no such manifest", *(path.stem for path in published())) == []


def test_a_gallery_that_only_calls_itself_like_a_published_one_is_warned_of(tmp_path: Path, pets: Path) -> None:
    card = read_manifest(published()[0]).card
    options = ("--name", card.name, "--version", card.version)
    build = command("gallery", "build", "folder", pets, "--out", tmp_path / "built", *options)
    check = command("gallery", "check", tmp_path / "built")
    assert (build.code, check.code) == (0, 0)
    assert lacking(check.err, f"calls itself {card.name} {card.version}", published()[0].stem) == []
    own = command("gallery", "build", "folder", pets, "--out", tmp_path / "own", "--name", card.name, "--version", "99")
    assert own.code == 0
    assert "calls itself" not in command("gallery", "check", tmp_path / "own").err


def test_a_dataset_is_frozen_and_rebuilt(tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": encoded(noise(i), "PNG"), "path": None} for i in range(8)],
        "label": list("aabbccdd"),
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    options = ("--references", "1", "--out", tmp_path / "built")
    assert command("gallery", "build", "hub", tmp_path / "saved", *options).code == 0
    frozen(tmp_path / "built", tmp_path / "set.toml")
    assert_rebuilt(tmp_path / "set.toml", tmp_path / "built", tmp_path / "built")
    assert_rebuilt(tmp_path / "set.toml", tmp_path / "saved", tmp_path / "built")


def test_what_exists_is_never_overwritten(tmp_path: Path, manifest: Path, pets: Path, built: Path) -> None:
    content = manifest.read_bytes()
    again = command("gallery", "freeze", built, "--out", manifest)
    assert (again.code, len(again.err.splitlines()), manifest.read_bytes()) == (2, 1, content)
    before = files_below(tmp_path)
    onto = command("gallery", "build", "manifest", manifest, pets, "--out", built)
    assert (onto.code, "exists already" in onto.err, files_below(tmp_path)) == (2, True, before)


def test_only_a_sound_built_gallery_is_frozen(tmp_path: Path, pets: Path, built: Path) -> None:
    (built / "images/rex/gallery/2.png").unlink()
    before = files_below(tmp_path)
    for gallery, out, mention in (
        (pets, "a.toml", "not a built gallery"),
        (built, "a.toml", "no such file"),
        (built, "a.json", "end its name in .toml"),
        (tmp_path / "nowhere", "a.toml", "no such gallery"),
        (built, "pets/rex/gallery/2.png/a.toml", ""),
    ):
        ended = command("gallery", "freeze", gallery, "--out", tmp_path / out)
        assert (ended.code, len(ended.err.splitlines()), mention in ended.err) == (2, 1, True), ended
    assert files_below(tmp_path) == before


def test_a_frozen_gallery_keeps_its_leaks_and_says_so(tmp_path: Path, built: Path) -> None:
    names = [row["file_name"] for row in rows_of(built)]
    reference = next(row["file_name"] for row in rows_of(built) if row["split"] == "reference")
    photo = next(name for name in names if name.startswith("images/tom/gallery"))
    shutil.copy(built / reference, built / photo)
    frozen(built, tmp_path / "leaky.toml")
    assert "--drop-leaks" in refused(tmp_path, tmp_path / "leaky.toml", built, "--drop-leaks")
    picture = ("--picture", tmp_path / "pairs.png")
    ended = command("gallery", "build", "manifest", tmp_path / "leaky.toml", built, "--out", tmp_path / "b", *picture)
    assert ended.out.endswith("; leaks: kept 1 photo: 1 same bytes\n")
    assert (tmp_path / "pairs.png").is_file()


def test_masks_and_row_order_are_not_frozen(tmp_path: Path, manifest: Path, built: Path) -> None:
    write_rows(built / "metadata.csv", rows_of(built)[::-1])
    (built / "masks").mkdir()
    noise(1).convert("L").save(built / "masks/1.png")
    add_column(built, "mask_file_name", "masks/1.png")
    frozen(built, tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_bytes() == manifest.read_bytes()
