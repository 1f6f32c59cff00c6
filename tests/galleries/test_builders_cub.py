"""CUB-200-2011 becomes the galleries that its recipes promise, or is refused by one line a fault."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from data_sets import SPECIES, Label, built, copied, labels_of, lines_of, put, refused, write_cub, write_lines
from handmade import Cli, encoded, lacking, noise

from galleries import Gallery

PAPER = {"wren": range(193, 198), "tern": range(143, 148), "sparrow": range(113, 118)}
WRENS = {193: 13, 194: 11, 195: 11}
ONE_WREN = ("--recipe", "full", "--include", "Bewick_Wren")
"""Few photos to compare; the lists are read as a whole all the same."""
TITLE = "Caltech-UCSD Birds-200-2011"
DOWNLOAD = "https://data.caltech.edu/records/65de6-vp158"


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The species of the paper, no two of a family with equally many photos, and two others."""
    return write_cub(tmp_path_factory.mktemp("birds"), {number: 20 + number % 5 for number in SPECIES})


@pytest.fixture(scope="module")
def sound_wrens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cub(tmp_path_factory.mktemp("wrens"), WRENS)


@pytest.fixture
def wrens(sound_wrens: Path, tmp_path: Path) -> Path:
    """A data set of three species, of which a test may spoil the lists, and replace photos."""
    return copied(sound_wrens, tmp_path / "CUB_200_2011")


def table_of(root: Path) -> pd.DataFrame:
    """The owners' lists as one table."""
    frame = pd.read_csv(root / "images.txt", sep=" ", names=["number", "path"])
    labels = pd.read_csv(root / "image_class_labels.txt", sep=" ", names=["number", "species"])
    frame = frame.merge(labels, on="number")
    frame["name"] = frame["species"].map(SPECIES)
    return frame


def drawn_by_pandas(root: Path) -> set[Label]:
    """What the code of the paper draws."""
    labels = set()
    frame = table_of(root)
    for family, species in PAPER.items():
        own = frame[frame["species"].isin(species)]
        gallery = own.groupby("name", group_keys=False).sample(n=10, random_state=101)
        rest = own[~own["path"].isin(gallery["path"])]
        reference = rest.groupby("name", group_keys=False).sample(n=10, random_state=101)
        for split, chosen in (("gallery", gallery), ("reference", reference)):
            labels |= {(family, SPECIES[row.species], split, f"images/{row.path}") for row in chosen.itertuples()}
    return labels


def test_the_recipe_of_the_paper_draws_the_photos_that_pandas_draws(birds: Path, tmp_path: Path) -> None:
    gallery = built("cub", birds, tmp_path / "zoo")
    assert labels_of(gallery) == drawn_by_pandas(birds)
    assert Counter((p.identity, p.split) for p in gallery.photos) == {
        (SPECIES[n], split): 10 for own in PAPER.values() for n in own for split in ("gallery", "reference")
    }
    assert all(photo.path.read_bytes() == (birds / photo.source_id).read_bytes() for photo in gallery.photos)
    card = gallery.card
    assert (card.name, card.granularity, card.thumbnails, card.leaks) == ("cub-paper", "category", "no", "none found")
    assert lacking(card.citation + card.licence + card.source, "Wah", "non-commercial", "vision.caltech.edu") == []


def test_copies_at_other_places_become_the_same_gallery(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_cub(tmp_path / "one", WRENS)
    write_cub(tmp_path / "elsewhere/ünd so", WRENS, backwards=True)
    gallery = built("cub", one, tmp_path / "zoo", "--recipe", "full")
    for name, value in {"LC_ALL": "C", "LANG": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}.items():
        monkeypatch.setenv(name, value)
    made = cli("gallery", "build", "cub", "ünd so", "--recipe", "full", "--out", "zoo", cwd=tmp_path / "elsewhere")
    assert made.returncode == 0, made
    same = Gallery.open(tmp_path / "elsewhere/zoo")
    assert (same.digest, same.photos, same.card) == (gallery.digest, gallery.photos, gallery.card)


def test_the_full_recipe_takes_families_of_three_species_and_more(tmp_path: Path) -> None:
    root = write_cub(tmp_path, {193: 13, 194: 12, 195: 11, 143: 12, 144: 12, 112: 12})
    gallery = built("cub", root, tmp_path / "zoo", "--recipe", "full")
    expected = {
        ("wren", SPECIES[row.species], "reference" if place < 10 else "gallery", f"images/{row.path}")
        for number in WRENS
        for place, row in enumerate(table_of(root).query("species == @number").itertuples())
    }
    assert labels_of(gallery) == expected
    assert gallery.card.name == "cub-full"


def test_boxes_are_those_of_the_list(wrens: Path, tmp_path: Path) -> None:
    gallery = built("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    boxes = dict(line.split(" ", 1) for line in lines_of(wrens / "bounding_boxes.txt"))
    numbers = {
        f"images/{path}": number for number, path in (line.split(" ") for line in lines_of(wrens / "images.txt"))
    }
    for photo in gallery.photos:
        assert [float(x) for x in photo.bbox.split(",")] == [float(x) for x in boxes[numbers[photo.source_id]].split()]


@pytest.mark.parametrize("place", ["segmentations", "CUB_200_2011/segmentations"])
def test_the_owners_masks_are_carried_and_do_not_move_the_digest(wrens: Path, tmp_path: Path, place: str) -> None:
    bare = built("cub", wrens, tmp_path / "bare", *ONE_WREN)
    for seed, line in enumerate(lines_of(wrens / "images.txt")):
        mask = (tmp_path / place / line.split(" ")[1]).with_suffix(".png")
        put(mask, encoded(noise(seed, (24, 24)).convert("L"), "PNG"))
    gallery = built("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    for photo in gallery.photos:
        own = (tmp_path / place / photo.source_id.removeprefix("images/")).with_suffix(".png")
        assert (gallery.root / photo.mask_file_name).read_bytes() == own.read_bytes()
    assert gallery.digest == bare.digest
    assert (gallery.card.mask_source, bare.card.mask_source) == (f"{TITLE}: the owners' own", "")


def test_a_missing_mask_is_named(wrens: Path, tmp_path: Path) -> None:
    paths = [line.split(" ")[1] for line in lines_of(wrens / "images.txt")]
    for seed, path in enumerate(paths[1:]):
        put((tmp_path / "segmentations" / path).with_suffix(".png"), encoded(noise(seed).convert("L"), "PNG"))
    (line,) = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking(line, Path(paths[0]).stem, "mask") == []


def test_recoloured_photos_of_some_copies_are_passed_over(wrens: Path, tmp_path: Path) -> None:
    put(wrens / "images/193.Bewick_Wren/Bewick_Wren_0001_1_rgb.jpg", b"no list names it")
    assert len(built("cub", wrens.parent, tmp_path.parent / f"{tmp_path.name}-zoo", *ONE_WREN).photos) == 13


@pytest.mark.parametrize("change", [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text])
def test_lists_that_went_through_windows_are_read(
    wrens: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    sound = built("cub", wrens, tmp_path / "sound", *ONE_WREN)
    for path in wrens.glob("*.txt"):
        path.write_bytes(change(path.read_bytes()))
    assert built("cub", wrens, tmp_path / "zoo", *ONE_WREN).digest == sound.digest


def test_names_may_be_of_any_script(wrens: Path, tmp_path: Path) -> None:
    old, new = lines_of(wrens / "images.txt")[0].split(" ")[1], "193.Bewick_Wren/Zaunkönig 鷦鷯 #1, ‘junc’.jpg"
    (wrens / "images" / old).rename(wrens / "images" / new)
    text = (wrens / "images.txt").read_text(encoding="utf-8")
    (wrens / "images.txt").write_text(text.replace(old, new), encoding="utf-8")
    gallery = built("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert f"images/{new}" in {photo.source_id for photo in gallery.photos}


# ---- What is not the data set, or half of it


def test_other_folders_are_refused_with_what_to_download(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "holiday/rex/1.jpg", b"")
    put(tmp_path / "file", b"")
    for source in ("empty", "holiday", "nowhere", "file"):
        (line,) = refused("cub", tmp_path / source, tmp_path / "zoo")
        assert lacking(line, str(tmp_path / source), DOWNLOAD) == []


@pytest.mark.parametrize("name", ["images.txt", "classes.txt", "image_class_labels.txt", "images"])
def test_half_a_download_is_refused_with_what_to_download(wrens: Path, tmp_path: Path, name: str) -> None:
    (wrens / name).rename(tmp_path / "gone")
    (line,) = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking(line, name, DOWNLOAD) == []


def test_each_missing_photo_is_named_with_what_to_do(wrens: Path, tmp_path: Path) -> None:
    gone = [line.split(" ")[1] for line in lines_of(wrens / "images.txt")][0:13:4]
    for path in gone:
        (wrens / "images" / path).unlink()
    first, *faults = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert f"{len(gone)} faults" in first
    for path in gone:
        (fault,) = [fault for fault in faults if path in fault]
        assert "remove its row" not in fault  # that would change whom the seed draws
        assert "unpack" in fault or DOWNLOAD in fault


def test_a_download_without_any_photo_is_refused_in_few_words(wrens: Path, tmp_path: Path) -> None:
    for path in (wrens / "images").glob("*/*"):
        path.unlink()
    lines = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert DOWNLOAD in lines[0]
    assert len(lines) == 1


def cut_list(root: Path, name: str, n_lines: int, n_characters: int = 0) -> None:
    text = (root / name).read_text(encoding="utf-8")
    kept = "".join(text.splitlines(keepends=True)[: -n_lines or None])
    (root / name).write_text(kept[: -n_characters or None], encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "n_lines", "n_characters"),
    [
        ("images.txt", 3, 0),
        ("images.txt", 0, 6),
        ("images.txt", 0, 70),
        ("image_class_labels.txt", 3, 0),
        ("image_class_labels.txt", 0, 3),
        ("classes.txt", 1, 0),
        ("bounding_boxes.txt", 3, 0),
        ("bounding_boxes.txt", 0, 6),
    ],
)
def test_a_list_that_was_cut_off_is_refused_by_name(
    wrens: Path, tmp_path: Path, name: str, n_lines: int, n_characters: int
) -> None:
    cut_list(wrens, name, n_lines, n_characters)
    lines = refused("cub", wrens, tmp_path / "zoo", *(("--recipe", "full") if name == "classes.txt" else ONE_WREN))
    assert any(name in line and "unpack" in line for line in lines)


def change_line(root: Path, name: str, number: int, new: str) -> None:
    lines = lines_of(root / name)
    lines[number - 1] = new
    write_lines(root / name, lines)


@pytest.mark.parametrize(
    ("name", "new", "mentions"),
    [
        ("images.txt", "", ["images.txt"]),
        ("images.txt", "1", ["images.txt line 1"]),
        ("images.txt", "1 ", ["images.txt line 1"]),
        ("images.txt", "one 193.Bewick_Wren/a.jpg", ["images.txt line 1", "one"]),
        ("images.txt", f"1 193.Bewick_Wren/{'x' * 5000}.jpg", ["xxx"]),
        ("images.txt", "1 193.Bewick_Wren/\0.jpg", ["\\x00"]),
        ("image_class_labels.txt", "1 7", ["image_class_labels.txt", "image 1", "7"]),
        ("image_class_labels.txt", "1 0", ["image 1", "0"]),
        ("image_class_labels.txt", "1 -193", ["image 1", "-193"]),
        ("image_class_labels.txt", "1 194", ["image 1", "194"]),
        ("image_class_labels.txt", "2 193", ["2"]),
        ("image_class_labels.txt", "999 193", ["image 999"]),
        ("bounding_boxes.txt", "1 a b c d", ["bounding_boxes.txt", "a"]),
        ("bounding_boxes.txt", "1 1.0 2.0 -3.0 4.0", ["bounding_boxes.txt", "-3.0"]),
        ("bounding_boxes.txt", "1 nan nan nan nan", ["bounding_boxes.txt", "nan"]),
    ],
)
def test_a_changed_line_is_refused_with_list_and_number(
    wrens: Path, tmp_path: Path, name: str, new: str, mentions: list[str]
) -> None:
    change_line(wrens, name, 1, new)
    lines = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking("\n".join(lines), *mentions) == []
    assert max(len(line) for line in lines) < 1300


@pytest.mark.parametrize("path", ["../../secret.jpg", "193.Bewick_Wren/../../../secret.jpg", "{root}/secret.jpg"])
def test_a_list_can_reach_no_photo_outside_of_the_folder(wrens: Path, tmp_path: Path, path: str) -> None:
    put(tmp_path / "secret.jpg", encoded(noise(99), "JPEG"))
    (wrens / "images" / lines_of(wrens / "images.txt")[0].split(" ")[1]).unlink()
    change_line(wrens, "images.txt", 1, f"1 {path.format(root=tmp_path)}")
    assert "secret.jpg" in "\n".join(refused("cub", wrens, tmp_path / "zoo", *ONE_WREN))


def test_a_photo_without_a_name_is_refused_where_there_are_masks_too(wrens: Path, tmp_path: Path) -> None:
    (tmp_path / "segmentations").mkdir()
    change_line(wrens, "images.txt", 1, "1 ")
    assert "images.txt line 1" in "\n".join(refused("cub", wrens, tmp_path / "zoo", *ONE_WREN))


def test_a_photo_that_stands_under_two_numbers_is_refused(wrens: Path, tmp_path: Path) -> None:
    lines = lines_of(wrens / "images.txt")
    change_line(wrens, "images.txt", 2, f"2 {lines[0].split(' ')[1]}")
    assert "images.txt" in "\n".join(refused("cub", wrens, tmp_path / "zoo", *ONE_WREN))


def test_a_list_in_another_encoding_is_refused_by_name(wrens: Path, tmp_path: Path) -> None:
    (wrens / "classes.txt").write_bytes("193 193.Bewick_Wr\xe9n\n".encode("latin-1"))
    (line,) = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking(line, "classes.txt", "UTF-8", "unpack") == []


def test_a_photo_that_no_list_names_is_refused(wrens: Path, tmp_path: Path) -> None:
    put(wrens / "images/193.Bewick_Wren/Bewick_Wren_new.jpg", encoded(noise(99), "JPEG"))
    (line,) = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking(line, "193.Bewick_Wren/Bewick_Wren_new.jpg", "images.txt") == []


def test_the_recipe_of_the_paper_names_each_species_that_lacks_photos(tmp_path: Path) -> None:
    counts = {number: 2 for own in PAPER.values() for number in own} | {113: 19, 196: 20}
    first, *faults = refused("cub", write_cub(tmp_path, counts), tmp_path / "zoo")
    assert "14 faults" in first
    assert any(lacking(fault, "Baird_Sparrow", "19 photos", "20 are needed") == [] for fault in faults)
    assert not any("House_Wren" in fault for fault in faults)


def test_the_recipe_of_the_paper_names_each_species_that_is_not_there(wrens: Path, tmp_path: Path) -> None:
    lines = refused("cub", wrens, tmp_path / "zoo")
    assert lacking("\n".join(lines), "147", "113", "197") == []


def test_numbers_that_mean_other_species_are_refused_by_the_recipe_of_the_paper(birds: Path, tmp_path: Path) -> None:
    root = copied(birds, tmp_path / "CUB_200_2011")
    swapped = {"193": "112", "112": "193"}
    for name, place in (("classes.txt", 0), ("image_class_labels.txt", 1)):
        rows = [line.split(" ") for line in lines_of(root / name)]
        write_lines(
            root / name,
            [" ".join(swapped.get(x, x) if i == place else x for i, x in enumerate(row)) for row in rows],
        )
    assert "Great_Grey_Shrike" in "\n".join(refused("cub", root, tmp_path / "zoo", "--include", "Cactus_Wren"))


def test_a_leak_stands_in_the_way_until_it_is_dropped_or_kept(wrens: Path, tmp_path: Path) -> None:
    paths = [line.split(" ")[1] for line in lines_of(wrens / "images.txt")]
    put(wrens / "images" / paths[12], (wrens / "images" / paths[0]).read_bytes())
    (line,) = refused("cub", wrens, tmp_path / "zoo", *ONE_WREN)
    assert lacking(line, paths[0], paths[12], "same bytes as the reference", "--drop-leaks") == []
    dropped = built("cub", wrens, tmp_path / "dropped", *ONE_WREN, "--drop-leaks")
    kept = built("cub", wrens, tmp_path / "kept", *ONE_WREN, "--keep-leaks")
    assert {p.source_id for p in kept.photos} - {p.source_id for p in dropped.photos} == {f"images/{paths[12]}"}
    assert (dropped.card.leaks, kept.card.leaks) == ("dropped 1 photo: 1 same bytes", "kept 1 photo: 1 same bytes")
