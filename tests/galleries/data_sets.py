"""Miniatures of the data sets that galleries are built of, in their owners' own formats and layouts.

Also the build commands, run in this process: a traceback is an error of the test."""

import io
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from handmade import Row, encoded, noise, write_rows
from in_process import run_here

from galleries import Gallery

Label = tuple[str, str, str, str]
"""Category, identity, split, and the photo's name in the owners' distribution."""

SPECIES = {
    112: "Great_Grey_Shrike",
    113: "Baird_Sparrow",
    114: "Black_throated_Sparrow",
    115: "Brewer_Sparrow",
    116: "Chipping_Sparrow",
    117: "Clay_colored_Sparrow",
    141: "Artic_Tern",
    143: "Caspian_Tern",
    144: "Common_Tern",
    145: "Elegant_Tern",
    146: "Forsters_Tern",
    147: "Least_Tern",
    193: "Bewick_Wren",
    194: "Cactus_Wren",
    195: "Carolina_Wren",
    196: "House_Wren",
    197: "Marsh_Wren",
}
"""Of CUB, as its classes.txt spells them."""

MODELS = (
    "AM General Hummer SUV 2000",
    "Acura RL Sedan 2012",
    "Acura TL Sedan 2012",
    "Acura TL Type-S 2008",
    "Acura TSX Sedan 2012",
    "Acura Integra Type R 2001",
    "Acura ZDX Hatchback 2012",
    "Aston Martin V8 Vantage Convertible 2012",
    "Aston Martin V8 Vantage Coupe 2012",
    "Aston Martin Virage Convertible 2012",
    "Aston Martin Virage Coupe 2012",
    "Audi RS 4 Convertible 2008",
    "Audi A5 Coupe 2012",
    "Audi TTS Coupe 2012",
    "Audi R8 Coupe 2012",
    "Audi V8 Sedan 1994",
    "Audi 100 Sedan 1994",
    "Audi 100 Wagon 1994",
    "Audi TT Hatchback 2011",
    "Audi S6 Sedan 2011",
    "Audi S5 Convertible 2012",
    "Audi S5 Coupe 2012",
    "Audi S4 Sedan 2012",
    "Audi S4 Sedan 2007",
    "Audi TT RS Coupe 2012",
    "BMW ActiveHybrid 5 Sedan 2012",
    "BMW 1 Series Convertible 2012",
    "BMW 1 Series Coupe 2012",
    "BMW 3 Series Sedan 2012",
    "BMW 3 Series Wagon 2012",
    "BMW 6 Series Convertible 2007",
    "BMW X5 SUV 2007",
    "BMW X6 SUV 2012",
    "BMW M3 Coupe 2012",
    "BMW M5 Sedan 2010",
    "BMW M6 Convertible 2010",
    "Ram C/V Cargo Van Minivan 2012",
    "smart fortwo Convertible 2012",
)
"""Of Stanford Cars, in the devkit's order."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("note: ")]


def command(*arguments: object) -> Ended:
    """Run `finer-rank ARGUMENTS` in this process."""
    done = run_here(*arguments)
    return Ended(done.returncode, done.stdout, done.stderr)


def built(data_set: str, source: object, out: Path, *options: object) -> Gallery:
    """The gallery of a build that must succeed."""
    ended = command("gallery", "build", data_set, source, "--out", out, *options)
    assert ended.code == 0, ended
    return Gallery.open(out)


def refused(data_set: str, source: object, out: Path, *options: object) -> list[str]:
    """The lines of a build that must be refused, and must leave nothing behind."""
    before = set(out.parent.iterdir())
    ended = command("gallery", "build", data_set, source, "--out", out, *options)
    lines = [line for line in ended.err.splitlines() if not line.startswith("note: ")]
    assert (ended.code, ended.out) == (2, ""), ended
    assert lines[0].startswith("finer-rank: ")
    assert lines[1:] == [line for line in lines[1:] if line.startswith("  ")]
    assert set(out.parent.iterdir()) == before
    return lines


def labels_of(gallery: Gallery) -> set[Label]:
    labels = {(p.category, p.identity, p.split, p.source_id) for p in gallery.photos}
    assert len(labels) == len(gallery.photos)
    return labels


def copied(folder: Path, to: Path) -> Path:
    """A copy whose photos are links, and whose lists may be changed."""

    def copy(source: str, target: str) -> None:
        if Path(source).suffix in (".jpg", ".png"):
            os.link(source, target)
        else:
            shutil.copyfile(source, target)

    return Path(shutil.copytree(folder, to, copy_function=copy))


def put(path: Path, content: bytes) -> None:
    """Put a file in the place of one that may be linked from elsewhere."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def photo_bytes(seed: int) -> bytes:
    return encoded(noise(seed, (24, 24)), "JPEG", quality=90)


def write_photos(paths: Sequence[Path], backwards: bool = False) -> None:
    """A photo for each path, the same whatever the order in which they are made."""
    numbered = list(enumerate(paths))
    for number, path in reversed(numbered) if backwards else numbered:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes(number))


def write_lines(path: Path, lines: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def write_cub(folder: Path, counts: Mapping[int, int], backwards: bool = False) -> Path:
    """CUB-200-2011 with so many photos of each species; in a species, the lists' order is not that of the names."""
    root = folder / "CUB_200_2011"
    shuffle = random.Random(1)
    photos: list[tuple[str, int]] = []
    for number, n in sorted(counts.items()):
        name = f"{number:03d}.{SPECIES[number]}"
        own = [f"{name}/{SPECIES[number].title()}_{i:04d}_{100000 + number * 100 + i}.jpg" for i in range(n)]
        photos += [(path, number) for path in shuffle.sample(own, n)]
    numbered = list(enumerate(photos, start=1))
    write_lines(root / "classes.txt", [f"{n} {n:03d}.{SPECIES[n]}" for n in sorted(counts)])
    write_lines(root / "images.txt", [f"{i} {path}" for i, (path, _) in numbered])
    write_lines(root / "image_class_labels.txt", [f"{i} {species}" for i, (_, species) in numbered])
    write_lines(root / "train_test_split.txt", [f"{i} {i % 2}" for i, _ in numbered])
    write_lines(root / "bounding_boxes.txt", [f"{i} {i % 5}.0 2.0 {10 + i % 7}.0 12.0" for i, _ in numbered])
    write_photos([root / "images" / path for path, _ in photos], backwards)
    return root


def mat_rows(rows: Sequence[tuple[int, str]], numbers: type = np.uint8) -> np.ndarray:
    """The struct array `annotations` of the devkit, of `(class from 1, file name)`."""
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    corners = [(1 + i % 3, 2, 20 + i % 4, 24) for i in range(len(rows))]
    cells = [
        (*(numbers(corner) for corner in corners[i]), numbers(label), name) for i, (label, name) in enumerate(rows)
    ]
    return np.array(cells, dtype=[(field, object) for field in fields]).reshape(1, -1)


def save_mat(path: Path, **variables: object) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def car_rows(counts: Mapping[int, int], seed: int) -> list[tuple[int, str]]:
    """`(class from 1, file name)` in the devkit's order, which is none of models."""
    labels = [label for label, n in sorted(counts.items()) for _ in range(n)]
    random.Random(seed).shuffle(labels)
    return [(label, f"{i:05d}.jpg") for i, label in enumerate(labels, start=1)]


def write_devkit(
    root: Path,
    train: Sequence[tuple[int, str]],
    test: Sequence[tuple[int, str]],
    doubled: bool = False,
    backwards: bool = False,
) -> Path:
    """Stanford Cars as its owners packed it; photos lie one folder deeper in the copy on Kaggle (`doubled`)."""
    names = np.array(MODELS, dtype=object).reshape(1, -1)
    save_mat(root / "devkit/cars_meta.mat", class_names=names)
    save_mat(root / "devkit/cars_train_annos.mat", annotations=mat_rows(train))
    save_mat(root / "cars_test_annos_withlabels.mat", annotations=mat_rows(test))
    for split in ("train", "test"):
        (root / f"cars_{split}").mkdir()
    write_photos(
        [
            root / "/".join([f"cars_{split}"] * (2 if doubled else 1)) / name
            for split, rows in (("train", train), ("test", test))
            for _, name in rows
        ],
        backwards,
    )
    return root


def write_dataset(
    folder: Path,
    train: Sequence[tuple[int, str]],
    test: Sequence[tuple[int, str]],
    names: Sequence[str] | None,
    splits: Sequence[str] = ("train", "test"),
) -> Path:
    """The same photos in the same order as `write_devkit`, as a Hugging Face dataset that `save_to_disk` wrote.

    Args:
        names: of the labels, in the order of their numbers; where None, labels are bare numbers from 0.
    """
    import datasets

    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    position = {key(name): i for i, name in enumerate(names or MODELS)}
    parts = {}
    for split, rows, first in ((splits[0], train, 0), (splits[1], test, len(train))):
        images = [{"bytes": photo_bytes(first + i), "path": None} for i in range(len(rows))]
        labels = [position[key(MODELS[number - 1])] for number, _ in rows]
        parts[split] = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    with redirect_stderr(io.StringIO()):
        datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def key(model: str) -> str:
    return "".join(c for c in model.lower() if c.isalnum())


ANIMAL_COLUMNS = ("identity", "path", "date", "orientation", "species", "split", "dataset", "cluster_id")


def animal_row(identity: str, number: int, species: str = "zebra", **more: str) -> Row:
    """A row of the metadata of WildlifeReID-10k."""
    row = {"identity": f"Herd_{identity}", "path": f"images/Herd/{identity}/{number:03d}.jpg", "species": species}
    return dict.fromkeys(ANIMAL_COLUMNS, "") | row | {"split": "train", "dataset": "Herd"} | more


def write_animals(root: Path, rows: Sequence[Row], backwards: bool = False) -> Path:
    """WildlifeReID-10k of these rows, with a photo each."""
    write_rows(root / "metadata.csv", rows)
    write_photos([root / path for path in dict.fromkeys(row["path"] for row in rows)], backwards)
    return root


def write_macaques(root: Path, counts: Mapping[str, int]) -> Path:
    """MacaqueFaces as its owners packed it: every third photo of an animal was taken a day later."""
    rows = [
        {
            "Path": f"ModelSet/{name}",
            "FileName": f"{name}_{i}.jpg",
            "ID": name,
            "Category": "Adult",
            "DateTaken": f"{10 + i // 3:02d}-06-2014",
        }
        for name, n in counts.items()
        for i in range(n)
    ]
    write_rows(root / "MacaqueFaces_ImageInfo.csv", rows)
    write_photos([root / "MacaqueFaces" / row["Path"] / row["FileName"] for row in rows])
    return root


PROMPTS = ("", "Prompts", "", "Object Prompts", "", "prompt_list = [", "'a {0} {1}, wet'.format(token, name),", "]")


def write_dreambooth(root: Path, classes: Mapping[str, str], n: int = 4, backwards: bool = False) -> Path:
    """The folder `dataset` of google/dreambooth: numbers of photos have gaps."""
    lines = [f"{subject},{name}" for subject, name in classes.items()]
    write_lines(root / "dataset/prompts_and_classes.txt", ["Classes", "", "subject_name,class", *lines, *PROMPTS])
    write_lines(root / "dataset/references_and_licenses.txt", ["cat - Unsplash"])
    write_photos([root / f"dataset/{subject}/{2 * i:02d}.jpg" for subject in classes for i in range(n)], backwards)
    return root / "dataset"


def write_dreambench(root: Path, subjects: Mapping[str, Sequence[str]], backwards: bool = False) -> Path:
    """The folder `data` of DreamBench++: a picture and a caption file for each subject of each category."""
    named = [(category, f"{i:02d}", name) for category, own in subjects.items() for i, name in enumerate(own)]
    for category, stem, name in reversed(named) if backwards else named:
        prompts = [f"a photo of a {name}, no. {i}" for i in range(9)]
        write_lines(root / f"data/captions/{category}/{stem}.txt", [name, *prompts])
    write_photos([root / f"data/images/{category}/{stem}.jpg" for category, stem, _ in named], backwards)
    return root / "data"
