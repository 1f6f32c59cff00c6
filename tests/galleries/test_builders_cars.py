"""Stanford Cars becomes the galleries that its recipes promise, from the devkit and from Hugging Face datasets."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from data_sets import (
    MODELS,
    Label,
    built,
    car_rows,
    copied,
    key,
    labels_of,
    mat_rows,
    photo_bytes,
    put,
    refused,
    save_mat,
    write_dataset,
    write_devkit,
)
from handmade import encoded, lacking, noise

from galleries import Gallery
from galleries.builders import stanford_cars
from galleries.gallery import GalleryCard

PAPER_LABELS = (1, 2, 3, 4, 6, 11, 12, 13, 18, 19, 25, 27, 28, 33, 34)
Rows = Sequence[tuple[int, str]]
TRAIN: Rows = car_rows({n: 11 if n == 2 else 1 for n in (2, 3, 4, 8, 9, 10, 13, 14, 37)}, seed=3)
TEST: Rows = car_rows({n: 1 + n % 2 for n in (2, 3, 4, 8, 9, 10, 13, 14, 38)}, seed=4)
PAPER_TEST: Rows = car_rows({n: 20 + n % 5 for n in (*(i + 1 for i in PAPER_LABELS), 1, 6, 15, 37)}, seed=5)
BY_NAME = sorted(MODELS)
AS_FOLDERS = [name.replace(" ", "_").replace("/", "") for name in BY_NAME]
TWO_MODELS = ("--recipe", "full", "--include", "Acura TL*")
"""Few photos to compare; the lists are read as a whole all the same."""
MIRRORS = "gallery data-sets stanford-cars"


@pytest.fixture(scope="module")
def paper_devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("paper") / "stanford_cars", [], PAPER_TEST)


@pytest.fixture(scope="module")
def sound_devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("cars"), TRAIN, TEST)


@pytest.fixture
def devkit(sound_devkit: Path, tmp_path: Path) -> Path:
    """A devkit of nine models, of which a test may spoil the lists, and replace photos."""
    return copied(sound_devkit, tmp_path / "cars")


def names_in_paper() -> set[Label]:
    """The first ten photos of each model of the paper, and the ten after them."""
    labels = set()
    for number in PAPER_LABELS:
        own = [f"cars_test/{name}" for label, name in PAPER_TEST if label - 1 == number]
        labels |= {("car", MODELS[number], "gallery", name) for name in own[:10]}
        labels |= {("car", MODELS[number], "reference", name) for name in own[10:20]}
    return labels


def test_the_recipe_of_the_paper_takes_the_first_ten_and_the_next(paper_devkit: Path) -> None:
    selection = stanford_cars.find(paper_devkit.parent, "paper")
    gallery = Gallery.from_found(selection.images, GalleryCard("cars"), paper_devkit)
    assert labels_of(gallery) == names_in_paper()
    assert {model.split(" ")[0] for model in gallery.category_of} == {"Acura", "Audi", "BMW"}


def test_the_command_takes_the_recipe_of_the_paper_unless_told_otherwise(paper_devkit: Path, tmp_path: Path) -> None:
    gallery = built("stanford-cars", paper_devkit, tmp_path / "zoo", "--include", "Acura*")
    assert labels_of(gallery) == {label for label in names_in_paper() if label[1].startswith("Acura")}
    assert all(photo.path.read_bytes() == (paper_devkit / photo.source_id).read_bytes() for photo in gallery.photos)
    assert (gallery.card.name, gallery.card.granularity) == ("stanford-cars-paper", "category")
    assert (gallery.card.thumbnails, gallery.card.leaks) == ("no", "none found")


def paper_bytes() -> set[tuple[str, str, str, bytes]]:
    content = {f"cars_test/{name}": photo_bytes(len(TRAIN) + i) for i, (_, name) in enumerate(PAPER_TEST)}
    return {(category, model, split, content[name]) for category, model, split, name in names_in_paper()}


@pytest.mark.parametrize(
    "names",
    [MODELS, BY_NAME, [name.lower() for name in MODELS], AS_FOLDERS, None],
    ids=["devkit order", "by name", "lower case", "folder names", "without names"],
)
def test_every_copy_gives_the_photos_of_the_paper(tmp_path: Path, names: Sequence[str] | None) -> None:
    selection = stanford_cars.find(write_dataset(tmp_path / "hub", TRAIN, PAPER_TEST, names), "paper")
    assert not selection.faults
    gallery = Gallery.from_found(selection.images, GalleryCard("cars"), tmp_path)
    content = {image.name: image.content for image in selection.images}
    found = {(p.category, p.identity, p.split, content[p.file_name]) for p in gallery.photos}
    assert found == paper_bytes()
    assert bool(selection.notes) == (names is None)


def test_a_saved_dataset_is_built_by_the_command(tmp_path: Path) -> None:
    write_dataset(tmp_path / "hub", TRAIN, TEST, BY_NAME)
    gallery = built("stanford-cars", tmp_path / "hub", tmp_path / "zoo", "--recipe", "full")
    content = [*(("train", *row) for row in TRAIN), *(("test", *row) for row in TEST)]
    original = {photo_bytes(i): (split, MODELS[label - 1]) for i, (split, label, _) in enumerate(content)}
    expected = {"reference": "train", "gallery": "test"}
    for photo in gallery.photos:
        assert original[photo.path.read_bytes()] == (expected[photo.split], photo.identity)
    assert len(gallery.photos) == len(full_labels())


def full_labels() -> set[Label]:
    """Acuras 2-4 and Aston Martins 8-10 have three models; Audis have two, and the others one in one split only."""
    labels = set()
    for label in (2, 3, 4, 8, 9, 10):
        make = "Acura" if label < 8 else "Aston Martin"
        train = [name for own, name in TRAIN if own == label][:10]
        labels |= {(make, MODELS[label - 1], "reference", f"cars_train/{name}") for name in train}
        test = [name for own, name in TEST if own == label]
        labels |= {(make, MODELS[label - 1], "gallery", f"cars_test/{name}") for name in test}
    return labels


def test_the_full_recipe_takes_makes_of_three_models_and_more(sound_devkit: Path, tmp_path: Path) -> None:
    gallery = built("stanford-cars", sound_devkit, tmp_path / "zoo", "--recipe", "full")
    assert labels_of(gallery) == full_labels()
    assert Counter(p.split for p in gallery.photos if p.identity == MODELS[1])["reference"] == 10
    assert all(photo.path.read_bytes() == (sound_devkit / photo.source_id).read_bytes() for photo in gallery.photos)


@pytest.mark.parametrize("names", [None, AS_FOLDERS], ids=["without names", "folder names"])
def test_the_full_recipe_has_the_same_makes_from_every_copy(tmp_path: Path, names: Sequence[str] | None) -> None:
    selection = stanford_cars.find(write_dataset(tmp_path / "hub", TRAIN, TEST, names), "full")
    if selection.faults:  # to refuse it is right, too; to invent makes is not
        return
    makes = {image.values["category"]: set[str]() for image in selection.images}
    for image in selection.images:
        makes[image.values["category"]].add(key(image.values["identity"]))
    assert makes == {
        "Acura": {key(MODELS[n - 1]) for n in (2, 3, 4)},
        "Aston Martin": {key(MODELS[n - 1]) for n in (8, 9, 10)},
    }


def test_boxes_count_from_zero_though_the_devkit_counts_from_one(sound_devkit: Path, tmp_path: Path) -> None:
    gallery = built("stanford-cars", sound_devkit, tmp_path / "zoo", "--recipe", "full")
    order = {f"cars_train/{name}": i for i, (_, name) in enumerate(TRAIN)}
    order |= {f"cars_test/{name}": i for i, (_, name) in enumerate(TEST)}
    for photo in gallery.photos:
        i = order[photo.source_id]
        left, right = 1 + i % 3, 20 + i % 4
        assert photo.bbox == f"{left - 1},1,{right - left + 1},23"
        x, y, width, height = (int(number) for number in photo.bbox.split(","))
        assert x + width <= 24
        assert y + height <= 24


def test_copies_at_other_places_become_the_same_gallery(sound_devkit: Path, tmp_path: Path) -> None:
    gallery = built("stanford-cars", sound_devkit, tmp_path / "zoo", "--recipe", "full")
    write_devkit(tmp_path / "a/stanford_cars", TRAIN, TEST, backwards=True)
    write_devkit(tmp_path / "b", TRAIN, TEST, doubled=True)
    for source in ("a", "b"):
        same = built("stanford-cars", tmp_path / source, tmp_path / f"zoo-{source}", "--recipe", "full")
        assert (same.digest, same.photos, same.card) == (gallery.digest, gallery.photos, gallery.card)


def test_classes_that_were_saved_as_doubles_are_whole_numbers_all_the_same(devkit: Path, tmp_path: Path) -> None:
    sound = built("stanford-cars", devkit, tmp_path / "sound", *TWO_MODELS)
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=mat_rows(TEST, np.float64))
    assert built("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS).digest == sound.digest


# ---- What is not the data set, or half of it


def test_other_folders_are_refused_with_what_to_download(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "holiday/rex/1.jpg", b"")
    put(tmp_path / "file", b"")
    for source in ("empty", "holiday", "nowhere", "file"):
        (line,) = refused("stanford-cars", tmp_path / source, tmp_path / "zoo")
        assert lacking(line, str(tmp_path / source), MIRRORS) == []


@pytest.mark.parametrize(
    "name",
    [
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
        "cars_train",
        "cars_test",
    ],
)
def test_half_a_download_is_refused_with_what_to_download(devkit: Path, tmp_path: Path, name: str) -> None:
    (devkit / name).rename(tmp_path / "gone")
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, Path(name).name, MIRRORS) == []


def test_test_labels_that_lack_the_classes_are_refused(devkit: Path, tmp_path: Path) -> None:
    rows = mat_rows(TEST)
    bare = np.array(
        [tuple(row[f] for f in ("bbox_x1", "fname")) for row in rows[0]], dtype=[("x", "O"), ("fname", "O")]
    )
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=bare.reshape(1, -1))
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, "cars_test_annos_withlabels.mat", "class", "fetch") == []


@pytest.mark.parametrize(
    "content", [b"", b"not a MATLAB file", b"MATLAB 5.0 MAT-file" + bytes(109) + b"\0\1IM" + b"x" * 90]
)
@pytest.mark.parametrize("name", ["devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"])
def test_what_is_no_matlab_file_is_refused_by_name(devkit: Path, tmp_path: Path, name: str, content: bytes) -> None:
    put(devkit / name, content)
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, name, "fetch") == []


@pytest.mark.parametrize("part", [0.3, 0.99])
@pytest.mark.parametrize("name", ["devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"])
def test_a_matlab_file_that_was_cut_off_is_refused_by_name(
    devkit: Path, tmp_path: Path, name: str, part: float
) -> None:
    content = (devkit / name).read_bytes()
    put(devkit / name, content[: int(len(content) * part)])
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, name, "fetch") == []


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("devkit/cars_meta.mat", {"names": 1}),
        ("devkit/cars_meta.mat", {"class_names": np.zeros((0, 0))}),
        ("devkit/cars_meta.mat", {"class_names": np.arange(200)}),
        ("cars_test_annos_withlabels.mat", {"rows": 1}),
        ("cars_test_annos_withlabels.mat", {"annotations": np.zeros((3, 3))}),
        ("cars_test_annos_withlabels.mat", {"annotations": np.zeros((0, 0))}),
        ("cars_test_annos_withlabels.mat", {"annotations": "text"}),
        ("cars_test_annos_withlabels.mat", {"annotations": np.array([1, "x"], dtype=object)}),
        ("cars_test_annos_withlabels.mat", {"annotations": mat_rows(TEST)[:, :0]}),
    ],
)
def test_variables_of_other_shapes_are_refused_by_name(
    devkit: Path, tmp_path: Path, name: str, variables: dict[str, object]
) -> None:
    save_mat(devkit / name, **variables)
    text = "\n".join(refused("stanford-cars", devkit, tmp_path / "zoo", "--recipe", "full"))
    assert lacking(text, Path(name).name, "fetch") == []


def test_a_list_of_one_row_is_read(devkit: Path, tmp_path: Path) -> None:
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=mat_rows(TEST[:1]))
    lines = refused("stanford-cars", devkit, tmp_path / "zoo", "--recipe", "full")
    assert sum("stands in no row of cars_test_annos_withlabels.mat" in line for line in lines) == len(TEST) - 1


def test_a_table_of_rows_and_columns_is_refused_in_lines(devkit: Path, tmp_path: Path) -> None:
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=mat_rows(TEST[:4]).reshape(2, 2))
    text = "\n".join(refused("stanford-cars", devkit, tmp_path / "zoo", "--recipe", "full"))
    assert "cars_test_annos_withlabels.mat" in text


SPOILT = next(i for i, (label, _) in enumerate(TEST) if label == 3)


def spoilt(**cells: object) -> np.ndarray:
    """The test annotations, with cells of one row changed."""
    rows = mat_rows(TEST).copy()
    for field, value in cells.items():
        rows[0, SPOILT][field] = value
    return rows


@pytest.mark.parametrize(
    "cells",
    [
        {"class": np.uint8(0)},
        {"class": np.uint8(200)},
        {"class": np.int16(-3)},
        {"class": np.float64(2.5)},
        {"class": np.float64("nan")},
        {"class": np.zeros((0, 0))},
        {"class": "Acura"},
        {"fname": ""},
        {"fname": np.zeros((0, 0))},
        {"fname": "../../secret.jpg"},
        {"fname": "/etc/hostname"},
        {"fname": "x" * 5000 + ".jpg"},
        {"fname": 7},
        {"bbox_x1": np.zeros((0, 0))},
        {"bbox_x1": np.float64("nan")},
        {"bbox_x1": "left"},
        {"bbox_x1": np.uint8(90)},
        {"bbox_y1": np.uint8(0)},
        {"bbox_x2": np.array([1, 2])},
    ],
    ids=str,
)
def test_a_changed_row_is_refused_by_its_number(devkit: Path, tmp_path: Path, cells: dict[str, object]) -> None:
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=spoilt(**cells))
    lines = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert any(f"cars_test_annos_withlabels.mat row {SPOILT + 1}" in line for line in lines)
    assert max(len(line) for line in lines) < 1300


def test_numbers_wrap_around_in_no_box(devkit: Path, tmp_path: Path) -> None:
    wide = {"bbox_x1": np.uint8(200), "bbox_x2": np.uint16(500)}
    save_mat(devkit / "cars_test_annos_withlabels.mat", annotations=spoilt(**wide))
    gallery = built("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    (photo,) = [photo for photo in gallery.photos if photo.source_id == f"cars_test/{TEST[SPOILT][1]}"]
    assert photo.bbox.startswith("199,1,301,")


def test_each_missing_photo_is_named_with_what_to_do(devkit: Path, tmp_path: Path) -> None:
    gone = [name for label, name in TEST if label in (3, 4)]
    for name in gone:
        (devkit / "cars_test" / name).unlink()
    first, *faults = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert f"{len(gone)} faults" in first
    for name in gone:
        (fault,) = [fault for fault in faults if name in fault]
        assert "remove its row" not in fault  # of a MATLAB file; and the next ten would be others
        assert "fetch" in fault or MIRRORS in fault


def test_a_photo_that_no_row_names_is_refused(devkit: Path, tmp_path: Path) -> None:
    put(devkit / "cars_test/99999.jpg", encoded(noise(999), "JPEG"))
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, "cars_test/99999.jpg", "cars_test_annos_withlabels.mat") == []


def test_the_recipe_of_the_paper_names_each_model_that_lacks_photos(devkit: Path, tmp_path: Path) -> None:
    first, *faults = refused("stanford-cars", devkit, tmp_path / "zoo")
    assert "15 faults" in first
    assert [fault for fault in faults if lacking(fault, "Acura RL Sedan 2012", "20 are needed") == []]


def test_a_hub_id_out_of_reach_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (line,) = refused("stanford-cars", "owner/stanford-cars-of-nobody", tmp_path / "zoo")
    assert lacking(line, "owner/stanford-cars-of-nobody", "save_to_disk") == []


def test_a_dataset_with_other_splits_is_refused_without_options_that_do_not_exist(tmp_path: Path) -> None:
    write_dataset(tmp_path / "hub", TRAIN, TEST, MODELS, splits=("train", "validation"))
    (line,) = refused("stanford-cars", tmp_path / "hub", tmp_path / "zoo")
    assert lacking(line, "test", "validation") == []
    assert "--split" not in line


def test_a_dataset_of_a_single_split_is_refused_without_options_that_do_not_exist(tmp_path: Path) -> None:
    write_dataset(tmp_path / "hub", TRAIN, TEST, MODELS)
    (line,) = refused("stanford-cars", tmp_path / "hub/test", tmp_path / "zoo")
    assert str(tmp_path / "hub/test") in line
    assert "--split" not in line


def test_a_dataset_with_other_columns_is_refused_without_options_that_do_not_exist(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"picture": [1], "model": [2]})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "hub"))
    (line,) = refused("stanford-cars", tmp_path / "hub", tmp_path / "zoo")
    assert lacking(line, "image", "picture") == []
    assert "--image-column" not in line


def test_a_leak_stands_in_the_way_until_it_is_dropped_or_kept(devkit: Path, tmp_path: Path) -> None:
    reference = next(f"cars_train/{name}" for label, name in TRAIN if label == 3)
    photo = next(f"cars_test/{name}" for label, name in TEST if label == 4)
    put(devkit / photo, (devkit / reference).read_bytes())
    (line,) = refused("stanford-cars", devkit, tmp_path / "zoo", *TWO_MODELS)
    assert lacking(line, Path(photo).name, Path(reference).name, "same bytes as the reference") == []
    dropped = built("stanford-cars", devkit, tmp_path / "dropped", *TWO_MODELS, "--drop-leaks")
    kept = built("stanford-cars", devkit, tmp_path / "kept", *TWO_MODELS, "--keep-leaks")
    assert {p.source_id for p in kept.photos} - {p.source_id for p in dropped.photos} == {photo}
