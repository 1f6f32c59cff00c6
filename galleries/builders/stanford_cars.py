"""Stanford Cars: 196 car models (Krause et al. 2013), as the owners' devkit or as a Hugging Face dataset."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from galleries.builders import DataSetCard, Selection
from galleries.errors import Fault, FinerRankError
from galleries.images import check_file_name
from galleries.sources import Found

CARD = DataSetCard(
    name="stanford-cars",
    title="Stanford Cars",
    granularity="category",
    licence="photos from the web, for research; no licence of the owners is known",
    thumbnails="no",
    citation="Krause, Stark, Deng, Fei-Fei: 3D Object Representations for Fine-Grained Categorization. "
    "3dRR workshop at ICCV 2013",
    counts="16,185 photos of 196 models: 8,144 train, 8,041 test",
    url="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    download="the owners' server is gone: fetch a mirror (gallery data-sets stanford-cars lists them), and name a "
    "folder with devkit/cars_meta.mat, cars_train/, cars_test/ and cars_test_annos_withlabels.mat, or a Hugging Face "
    "dataset with the columns image and label that save_to_disk wrote",
    mirrors=(
        "https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset (photos)",
        "https://github.com/pytorch/vision/issues/7545 (where devkit and test labels are)",
        "https://huggingface.co/datasets/tanganke/stanford_cars",
        "https://huggingface.co/datasets/Donghyun99/Stanford-Cars (used by the protocol's code)",
    ),
    checksums={
        "car_devkit.tgz": "md5 c3b158d763b6e2245038c8ad08e45376",
        "cars_train.tgz": "md5 065e5b463ae28d29e77c1b4b166cfe61",
        "cars_test.tgz": "md5 4ce7ebf6a94d07f1952d94dd34c4d501",
        "cars_test_annos_withlabels.mat": "md5 b0a2b23655a3edd16d84508592a98d10",
    },
    recipes={
        "paper": "the 15 models of arXiv 2512.19026 (Acura, Audi, BMW) as one category, of the test split: the first "
        "10 photos gallery, the next 10 reference. Its code numbers them 1-4, 6, 11-13, 18, 19, 25, 27, 28, 33, 34, "
        "counting from 0; here they go by name",
        "full": "every make with at least 3 models is a category: 10 photos of the train split are references, all of "
        "the test split gallery",
    },
)

PAPER = (
    "Acura RL Sedan 2012",
    "Acura TL Sedan 2012",
    "Acura TL Type-S 2008",
    "Acura TSX Sedan 2012",
    "Acura ZDX Hatchback 2012",
    "Audi RS 4 Convertible 2008",
    "Audi A5 Coupe 2012",
    "Audi TTS Coupe 2012",
    "Audi TT Hatchback 2011",
    "Audi S6 Sedan 2011",
    "BMW ActiveHybrid 5 Sedan 2012",
    "BMW 1 Series Coupe 2012",
    "BMW 3 Series Sedan 2012",
    "BMW M3 Coupe 2012",
    "BMW M5 Sedan 2010",
)
PAPER_LABELS = (1, 2, 3, 4, 6, 11, 12, 13, 18, 19, 25, 27, 28, 33, 34)
"""Of the same models, counting from 0 in the devkit's order: for labels without names."""
N_GALLERY = N_REFERENCES = 10
MIN_MODELS = 3
TWO_WORD_MAKES = ("AM General", "Aston Martin", "Land Rover")


@dataclass(frozen=True)
class Car:
    """A photo with its model's name."""

    image: Found
    model: str


def find(source: Path, recipe: str) -> Selection:
    """Photos of a recipe, labelled by model (identity) and make (category; `car` for all in the paper's recipe).

    Raises:
        FinerRankError: this is not the data set, or half of it.
    """
    devkit = next((d for d in (source, source / "stanford_cars") if (d / "devkit").is_dir()), None)
    is_devkit = devkit is not None or (source / "cars_meta.mat").is_file()
    faults: list[Fault] = []
    notes: list[str] = []

    def cars(split: str) -> list[Car]:
        if is_devkit:
            return _of_devkit(devkit or source, split, faults)
        return _of_dataset(source, split, recipe, faults, notes)

    images = _paper(cars("test"), faults) if recipe == "paper" else _full(cars("train"), cars("test"), faults)
    return Selection(tuple(images), tuple(faults), tuple(dict.fromkeys(notes)))


def _paper(test: Iterable[Car], faults: list[Fault]) -> list[Found]:
    wanted = {_key(model): model for model in PAPER}
    own: dict[str, list[Found]] = {model: [] for model in PAPER}
    for car in test:
        if model := wanted.get(_key(car.model)):
            own[model].append(car.image)
    needed = N_GALLERY + N_REFERENCES
    faults += [
        Fault(model, f"{len(photos)} photos in the test split, of which {needed} are needed", "fetch the data again")
        for model, photos in own.items()
        if len(photos) < needed
    ]
    return [
        _labelled(photo, "car", model, "gallery" if i < N_GALLERY else "reference")
        for model, photos in own.items()
        for i, photo in enumerate(photos[:needed])
    ]


def _full(train: Iterable[Car], test: Iterable[Car], faults: list[Fault]) -> list[Found]:
    splits: dict[str, dict[str, list[Found]]] = {"reference": defaultdict(list), "gallery": defaultdict(list)}
    for split, of in (("reference", train), ("gallery", test)):
        for car in of:
            splits[split][car.model].append(car.image)
    models = sorted(splits["gallery"].keys() & splits["reference"].keys())
    makes = defaultdict(list)
    for model in models:
        makes[_make(model)].append(model)
    images = []
    for make, own in sorted(makes.items()):
        if len(own) < MIN_MODELS:
            continue
        for model in own:
            images += [_labelled(p, make, model, "reference") for p in splits["reference"][model][:N_REFERENCES]]
            images += [_labelled(p, make, model, "gallery") for p in splits["gallery"][model]]
    if not images and not faults:
        faults.append(Fault("classes", f"no make has {MIN_MODELS} models in both splits", "fetch the data again"))
    return images


def _make(model: str) -> str:
    known = next((make for make in TWO_WORD_MAKES if _key(model).startswith(_key(make))), None)
    return known or re.split(r"[ _]", model)[0]


def _key(model: str) -> str:
    """A model's name as all copies of the data set agree on it, whatever case and punctuation they write."""
    return re.sub(r"[^a-z0-9]", "", model.lower())


def _labelled(photo: Found, make: str, model: str, split: str) -> Found:
    values = {**photo.values, "category": make, "identity": model, "split": split}
    folder = "/".join(label.replace("/", "_") for label in (make, model))
    return replace(photo, name=f"{folder}/{photo.name}", values=values)


def _of_devkit(root: Path, split: str, faults: list[Fault]) -> list[Car]:
    names_file = _file(root, "cars_meta.mat")
    names = [name for name in _read_mat(names_file, "class_names") if isinstance(name, str) and name.strip()]
    if not names:
        raise FinerRankError(f"{names_file}: class_names holds no names; fetch it again")
    annotations = "cars_test_annos_withlabels.mat" if split == "test" else "cars_train_annos.mat"
    rows = _read_mat(_file(root, annotations), "annotations")
    folder = next((f for f in (root / f"cars_{split}" / f"cars_{split}", root / f"cars_{split}") if f.is_dir()), None)
    if folder is None:
        raise CARD.missing(root, f"no folder cars_{split}")
    if rows.dtype.names is None or not {"class", "fname"} <= set(rows.dtype.names):
        has = ", ".join(rows.dtype.names or ()) or "no fields"
        raise FinerRankError(f"{root}: {annotations} holds {has}, not class and fname; fetch the labels of all photos")
    found = []
    for i, row in enumerate(rows):
        where = f"{annotations} row {i + 1}"
        label, file_name = _whole(row["class"]), row["fname"]
        if not isinstance(file_name, str) or not file_name:
            faults.append(Fault(where, f"fname is {file_name!r}", "fetch the labels again"))
            continue
        if label is None or not 1 <= label <= len(names):
            what = f"class {row['class']} of {file_name}"
            faults.append(Fault(where, what, f"classes go from 1 to {len(names)}: fetch the labels again"))
            continue
        if wrong := check_file_name(file_name):
            faults.append(Fault(where, f"{file_name}: {wrong}", "fetch the labels again"))
            continue
        bbox = _bbox(row)
        if bbox is None:
            faults.append(Fault(where, f"{file_name} has no box, but {_corners(row)}", "fetch the labels again"))
            continue
        values = {"source_id": f"cars_{split}/{file_name}", **({"bbox": bbox} if bbox else {})}
        image = Found(where, f"{split}_{file_name}", folder / file_name, values)
        found.append(Car(image, names[label - 1]))
    listed = {str(row["fname"]) for row in rows}
    faults += [
        Fault(f"cars_{split}/{path.name}", f"stands in no row of {annotations}", "fetch the labels again, or remove it")
        for path in sorted(folder.glob("*.jpg"))
        if path.name not in listed
    ]
    return found


CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def _corners(row: Any) -> list[Any]:
    return [row[field] for field in CORNERS]


def _bbox(row: Any) -> str | None:
    """`x,y,width,height` of corners that count pixels from 1, both included; "" without any, None of wrong ones."""
    if not set(CORNERS) <= set(row.dtype.names):
        return ""
    corners = [_whole(corner) for corner in _corners(row)]
    if any(corner is None for corner in corners):
        return None
    left, top, right, bottom = (corner or 0 for corner in corners)
    if not (1 <= left <= right and 1 <= top <= bottom):
        return None
    return f"{left - 1},{top - 1},{right - left + 1},{bottom - top + 1}"


def _whole(value: Any) -> int | None:
    """A MATLAB number as an integer: MATLAB writes doubles unless told otherwise."""
    try:
        return int(value) if float(value) == int(value) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _file(root: Path, name: str) -> Path:
    for folder in (root, root / "devkit"):
        if (folder / name).is_file():
            return folder / name
    raise CARD.missing(root, f"no {name}")


def _read_mat(path: Path, variable: str) -> Any:
    """A variable of a MATLAB file, one-dimensional."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content: Mapping[str, Any] = loadmat(path, squeeze_me=True, variable_names=[variable])
    except Exception as error:  # the reader raises many kinds on bytes that are no MATLAB file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FinerRankError(f"{path}: not a readable MATLAB file ({reason}); fetch it again") from None
    if variable not in content:
        raise FinerRankError(f"{path}: holds no {variable}; fetch it again")
    return np.atleast_1d(content[variable])


def _of_dataset(source: Path, split: str, recipe: str, faults: list[Fault], notes: list[str]) -> list[Car]:
    from galleries.sources.hub import find_in_dataset

    is_hub_id = not source.exists() and not source.is_absolute() and len(source.parts) == 2
    is_saved = any((source / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if not is_hub_id and not is_saved:
        raise CARD.missing(source, "neither the devkit nor a saved Hugging Face dataset")
    try:
        found = find_in_dataset(str(source), "image", {"identity": "label"}, split)
    except FinerRankError as error:
        said = str(error).removeprefix(f"{source}: ").partition(" (--")[0].partition("; leave")[0]
        why = said.replace("; name one with --split:", ", but").replace("; choose among", ", but")
        raise CARD.missing(
            source, f"not a copy with the splits train and test and the columns image, label ({why})"
        ) from None
    labels = {image.values["identity"] for image in found}
    has_names = not all(label.isdecimal() for label in labels)
    if not has_names and recipe != "paper":
        faults.append(Fault("label", "has no names, so that makes are unknown", "take a copy with names"))
        return []
    if not has_names:
        notes.append("its labels have no names: they are taken to count from 0 in the devkit's order")
    by_number = {str(number): model for number, model in zip(PAPER_LABELS, PAPER, strict=True)}
    cars = []
    for i, image in enumerate(found):
        label = image.values["identity"]
        model = label if has_names else by_number.get(label, f"model {label}")
        values = {"source_id": f"{split}/{i:06d}"}
        cars.append(Car(replace(image, name=f"{split}_{image.name.rpartition('/')[2]}", values=values), model))
    return cars
