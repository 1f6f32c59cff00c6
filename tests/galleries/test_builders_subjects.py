"""DreamBooth and DreamBench++ become galleries of subjects, or are refused by one line a fault."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from data_sets import built, copied, labels_of, lines_of, put, refused, write_dreambench, write_dreambooth, write_lines
from handmade import Cli, encoded, lacking, noise

from galleries import Gallery

CLASSES = {"backpack_dog": "backpack", "cat": "cat", "cat2": "cat", "dog": "dog", "bear_plushie": "stuffed animal"}
SUBJECTS = {
    "animal": ["Dog", "maine coon cat"],
    "human": ["Woman", "old man"],
    "object": ["teapot", "Rubik's cube", "teapot"],
    "style": ["ink painting", "Ukiyo-e"],
}
BOOTH = "https://github.com/google/dreambooth"
BENCH = "https://huggingface.co/datasets/yuangpeng/dreambench_plus"
Change = Callable[[bytes], bytes]
WINDOWS: list[Change] = [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text]


@pytest.fixture
def booth(tmp_path: Path) -> Path:
    return write_dreambooth(tmp_path / "dreambooth", CLASSES)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return write_dreambench(tmp_path / "plus", SUBJECTS)


# ---- DreamBooth


@pytest.mark.parametrize("recipe", ["by-class", "one-category"])
def test_all_photos_of_a_subject_are_gallery_photos(booth: Path, tmp_path: Path, recipe: str) -> None:
    gallery = built("dreambooth", booth, tmp_path / "zoo", "--recipe", recipe)
    assert labels_of(gallery) == {
        (CLASSES[subject] if recipe == "by-class" else "subject", subject, "gallery", f"{subject}/{2 * i:02d}.jpg")
        for subject in CLASSES
        for i in range(4)
    }
    assert all(photo.path.read_bytes() == (booth / photo.source_id).read_bytes() for photo in gallery.photos)
    card = gallery.card
    assert (card.name, card.granularity, card.thumbnails) == (f"dreambooth-{recipe}", "instance", "yes, with credit")


def test_references_are_set_aside_by_a_seed(booth: Path, tmp_path: Path) -> None:
    one, same, other = (
        built("dreambooth", source, tmp_path / f"zoo{i}", "--references", 2, "--seed", seed)
        for i, (source, seed) in enumerate([(booth, 1), (booth.parent, 1), (booth, 2)])
    )
    assert Counter(photo.identity for photo in one.split("reference")) == dict.fromkeys(CLASSES, 2)
    assert one.digest == same.digest != other.digest


def test_copies_of_dreambooth_become_the_same_gallery(
    booth: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = built("dreambooth", booth, tmp_path / "zoo", "--references", 1)
    write_dreambooth(tmp_path / "elsewhere/again", CLASSES, backwards=True)
    monkeypatch.setenv("LC_ALL", "C")
    made = cli("gallery", "build", "dreambooth", "again", "--references", 1, "--out", "zoo", cwd=tmp_path / "elsewhere")
    assert made.returncode == 0, made
    assert Gallery.open(tmp_path / "elsewhere/zoo").digest == gallery.digest


@pytest.mark.parametrize("change", WINDOWS)
@pytest.mark.parametrize("has_title", [True, False])
def test_classes_that_went_through_windows_are_read(
    booth: Path, tmp_path: Path, change: Change, has_title: bool
) -> None:
    path = booth / "prompts_and_classes.txt"
    path.write_bytes(change(path.read_bytes().removeprefix(b"" if has_title else b"Classes\n\n")))
    assert built("dreambooth", booth, tmp_path / "zoo").category_of == CLASSES


def test_other_folders_are_no_dreambooth(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "holiday/rex/1.jpg", encoded(noise(0), "JPEG"))
    put(tmp_path / "file", b"")
    for source in ("empty", "holiday", "nowhere", "file"):
        (line,) = refused("dreambooth", tmp_path / source, tmp_path / "zoo")
        assert lacking(line, str(tmp_path / source), BOOTH) == []


def test_half_of_dreambooth_is_refused_by_subject(booth: Path, tmp_path: Path) -> None:
    for path in (booth / "cat2").iterdir():
        path.unlink()
    put(booth / "vase/00.jpg", encoded(noise(99), "JPEG"))
    first, *faults = refused("dreambooth", booth, tmp_path / "zoo")
    assert "2 faults" in first
    assert any(lacking(fault, "cat2", "no photos", "fetch") == [] for fault in faults)
    assert any(lacking(fault, "vase", "no class", "prompts_and_classes.txt") == [] for fault in faults)


@pytest.mark.parametrize("content", [b"", b"Classes\n\n", b"\xff\xfe\x00S\x00u", b"subject;class\ncat;cat\n"])
def test_a_list_of_classes_that_is_none_is_refused_by_name(booth: Path, tmp_path: Path, content: bytes) -> None:
    put(booth / "prompts_and_classes.txt", content)
    (line,) = refused("dreambooth", booth, tmp_path / "zoo")
    assert lacking(line, "prompts_and_classes.txt", "fetch") == []


@pytest.mark.parametrize(
    ("line", "mentions"),
    [("cat,", ["cat", "class"]), (",cat", ["prompts_and_classes.txt"])],
)
def test_a_changed_class_is_refused(booth: Path, tmp_path: Path, line: str, mentions: list[str]) -> None:
    lines = lines_of(booth / "prompts_and_classes.txt")
    number = lines.index("cat,cat")
    write_lines(booth / "prompts_and_classes.txt", [*lines[:number], line, *lines[number + 1 :]])
    assert lacking("\n".join(refused("dreambooth", booth, tmp_path / "zoo")), *mentions) == []


def test_a_subject_with_two_classes_is_refused(booth: Path, tmp_path: Path) -> None:
    lines = lines_of(booth / "prompts_and_classes.txt")
    write_lines(booth / "prompts_and_classes.txt", [*lines[:3], "dog,teapot", *lines[3:]])
    assert lacking("\n".join(refused("dreambooth", booth, tmp_path / "zoo")), "dog", "teapot") == []


def test_a_photo_whose_name_is_no_text_is_refused(booth: Path, tmp_path: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(booth) + b"/dog/\xff.jpg")), encoded(noise(99), "JPEG"))
    (line,) = refused("dreambooth", booth, tmp_path / "zoo")
    assert "dog" in line


def test_a_damaged_photo_is_refused_by_name(booth: Path, tmp_path: Path) -> None:
    put(booth / "dog/02.jpg", (booth / "dog/02.jpg").read_bytes()[:200])
    (line,) = refused("dreambooth", booth, tmp_path / "zoo")
    assert "dog/02.jpg" in line


def test_more_references_than_photos_are_refused(booth: Path, tmp_path: Path) -> None:
    text = "\n".join(refused("dreambooth", booth, tmp_path / "zoo", "--references", 4))
    assert lacking(text, *(f"{subject}: 4 photos, of which 4 would be references" for subject in CLASSES)) == []


def test_a_leak_of_dreambooth_stands_in_the_way(booth: Path, tmp_path: Path) -> None:
    sound = built("dreambooth", booth, tmp_path / "sound", "--references", 2)
    reference, photo = (next(p.source_id for p in sound.split(side)) for side in ("reference", "gallery"))
    put(booth / photo, (booth / reference).read_bytes())
    (line,) = refused("dreambooth", booth, tmp_path / "zoo", "--references", 2)
    assert lacking(line, photo, reference, "same bytes") == []
    dropped = built("dreambooth", booth, tmp_path / "dropped", "--references", 2, "--drop-leaks")
    kept = built("dreambooth", booth, tmp_path / "kept", "--references", 2, "--keep-leaks")
    assert {p.source_id for p in kept.photos} - {p.source_id for p in dropped.photos} == {photo}


# ---- DreamBench++


def test_subjects_carry_the_ids_of_the_owners_collection(bench: Path, tmp_path: Path) -> None:
    gallery = built("dreambench-plus", bench, tmp_path / "zoo")
    ids = {
        "animal": ["live_subject_animal_00_dog", "live_subject_animal_01_maine_coon_cat"],
        "human": ["live_subject_human_00_woman", "live_subject_human_01_old_man"],
        "object": ["object_00_teapot", "object_01_rubik's_cube", "object_02_teapot"],
    }
    assert labels_of(gallery) == {
        (category, identity, "gallery", f"images/{category}/{i:02d}.jpg")
        for category, own in ids.items()
        for i, identity in enumerate(own)
    }
    assert all(photo.path.read_bytes() == (bench / photo.source_id).read_bytes() for photo in gallery.photos)
    assert (gallery.card.granularity, gallery.card.thumbnails) == ("instance", "no")


def test_the_recipe_all_takes_styles_too(bench: Path, tmp_path: Path) -> None:
    gallery = built("dreambench-plus", bench.parent, tmp_path / "zoo", "--recipe", "all")
    styles = {photo.identity for photo in gallery.photos if photo.category == "style"}
    assert (styles, len(gallery.photos)) == ({"style_00_ink_painting", "style_01_ukiyo-e"}, 9)


@pytest.mark.parametrize("change", WINDOWS)
def test_copies_of_dreambench_become_the_same_gallery(bench: Path, tmp_path: Path, change: Change) -> None:
    sound = built("dreambench-plus", bench, tmp_path / "sound")
    again = write_dreambench(tmp_path / "again", SUBJECTS, backwards=True)
    assert built("dreambench-plus", again, tmp_path / "zoo").digest == sound.digest
    for path in again.glob("captions/*/*.txt"):
        path.write_bytes(change(path.read_bytes()))
    assert built("dreambench-plus", again, tmp_path / "windows").digest == sound.digest


def test_other_folders_are_no_dreambench(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow/images").mkdir(parents=True)
    (tmp_path / "hollow/captions").mkdir()
    put(tmp_path / "holiday/rex/1.jpg", encoded(noise(0), "JPEG"))
    put(tmp_path / "file", b"")
    for source in ("empty", "hollow", "holiday", "nowhere", "file"):
        (line,) = refused("dreambench-plus", tmp_path / source, tmp_path / "zoo")
        assert lacking(line, str(tmp_path / source), BENCH) == []


@pytest.mark.parametrize("gone", [["captions"], ["images"], ["images/human", "captions/human"]])
def test_half_of_dreambench_is_refused_with_what_to_download(bench: Path, tmp_path: Path, gone: list[str]) -> None:
    for i, name in enumerate(gone):
        (bench / name).rename(tmp_path / f"gone{i}")
    (line,) = refused("dreambench-plus", bench, tmp_path / "zoo")
    assert lacking(line, gone[0].rpartition("/")[2], BENCH) == []


def test_pictures_and_captions_without_each_other_are_refused_by_name(bench: Path, tmp_path: Path) -> None:
    (bench / "captions/animal/01.txt").unlink()
    (bench / "images/object/02.jpg").unlink()
    first, *faults = refused("dreambench-plus", bench, tmp_path / "zoo")
    assert "2 faults" in first
    assert any(lacking(fault, "images/animal/01.jpg", "no caption", "fetch") == [] for fault in faults)
    assert any(lacking(fault, "captions/object/02.txt", "no picture", "fetch") == [] for fault in faults)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \nprompt\n", b"\xff\xfe\x00"])
def test_a_caption_that_names_nobody_is_refused_by_name(bench: Path, tmp_path: Path, content: bytes) -> None:
    put(bench / "captions/human/00.txt", content)
    (line,) = refused("dreambench-plus", bench, tmp_path / "zoo")
    assert lacking(line, "captions/human/00.txt", "fetch") == []


def test_two_pictures_of_one_caption_are_refused(bench: Path, tmp_path: Path) -> None:
    put(bench / "images/human/00.png", encoded(noise(99), "PNG"))
    assert "human/00" in "\n".join(refused("dreambench-plus", bench, tmp_path / "zoo"))


def test_long_and_foreign_subjects_are_names_like_others(bench: Path, tmp_path: Path) -> None:
    write_lines(bench / "captions/human/00.txt", ["mädchen 女孩 " * 200, "prompt"])
    gallery = built("dreambench-plus", copied(bench, tmp_path / "copy"), tmp_path / "zoo")
    assert sum("mädchen_女孩" in photo.identity for photo in gallery.photos) == 1


def test_a_score_on_single_pictures_is_warned_of(bench: Path, tmp_path: Path, cli: Cli) -> None:
    made = cli("gallery", "build", "dreambench-plus", bench, "--out", tmp_path / "zoo")
    assert (made.returncode, "rewards copying" in made.stderr) == (0, True)
