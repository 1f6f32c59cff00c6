"""The DreamBooth data set: 30 subjects, 4 to 6 photos each (Ruiz et al. 2023)."""

from pathlib import Path

from galleries.builders import DataSetCard, Selection, read_lines
from galleries.errors import Fault, FinerRankError
from galleries.images import READABLE_SUFFIXES
from galleries.sources import Found
from galleries.tables import is_utf8

CARD = DataSetCard(
    name="dreambooth",
    title="DreamBooth",
    granularity="instance",
    licence="CC BY 4.0; photos of Unsplash and of the authors, credited in references_and_licenses.txt",
    thumbnails="yes, with credit",
    citation="Ruiz, Li, Jampani, Pritch, Rubinstein, Aberman: DreamBooth: Fine Tuning Text-to-Image Diffusion Models "
    "for Subject-Driven Generation. CVPR 2023",
    counts="158 photos of 30 subjects of 15 classes",
    url="https://github.com/google/dreambooth",
    download="clone https://github.com/google/dreambooth, and name its folder dataset",
    mirrors=("https://huggingface.co/datasets/google/dreambooth",),
    recipes={
        "by-class": "each class of prompts_and_classes.txt is a category: dogs among dogs",
        "one-category": "every subject is ranked among all subjects",
    },
)

CLASSES_FILE = "prompts_and_classes.txt"
HEADER = "subject_name,class"


def find(source: Path, recipe: str) -> Selection:
    """All photos, labelled by subject (identity) and class (category).

    All are gallery photos: the fine-tuning methods see every photo of a subject. Set references aside with
    `--references`, and have the generator see these alone.

    Raises:
        FinerRankError: this is not the data set, or half of it.
    """
    folders = (source, source / "dataset", source / "images")
    root = next((f for f in folders if f.is_dir() and any(_photos_in(sub) for sub in _folders_in(f))), None)
    if root is None:
        raise CARD.missing(source, "no folders with photos")
    classes_file = next((f / CLASSES_FILE for f in (root, root.parent) if (f / CLASSES_FILE).is_file()), None)
    if classes_file is None:
        raise CARD.missing(source, f"no {CLASSES_FILE}")
    classes, faults = _read_classes(classes_file)
    subjects = {folder.name: _photos_in(folder) for folder in _folders_in(root)}
    subjects = {name: photos for name, photos in subjects.items() if photos}
    faults += [
        Fault(subject, f"has a class in {CLASSES_FILE}, but no photos", "fetch the data again")
        for subject in sorted(classes.keys() - subjects.keys())
    ]
    faults += [
        Fault(subject, f"has no class in {CLASSES_FILE}", "add a line SUBJECT,CLASS there")
        for subject in sorted(subjects.keys() - classes.keys())
    ]
    images = []
    for subject in sorted(subjects.keys() & classes.keys()):
        category = classes[subject] if recipe == "by-class" else "subject"
        for path in subjects[subject]:
            name = f"{subject}/{path.name}"
            if not is_utf8(name):
                faults.append(Fault(name, "file name is not UTF-8", "rename it"))
                continue
            values = {"category": category, "identity": subject, "source_id": name}
            images.append(Found(name, name, path, values))
    return Selection(tuple(images), tuple(faults))


def _folders_in(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _photos_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE_SUFFIXES and not p.name.startswith("."))


def _read_classes(path: Path) -> tuple[dict[str, str], list[Fault]]:
    """Subject → class: the lines after the header, up to the first that has no comma; and what is wrong with them."""
    lines = [line.strip() for line in read_lines(path)]
    if HEADER not in lines:
        raise FinerRankError(f"{path}: no line {HEADER!r}; fetch it again")
    classes: dict[str, str] = {}
    faults = []
    start = lines.index(HEADER) + 1
    for number, line in enumerate(lines[start:], start=start + 1):
        subject, comma, name = (part.strip() for part in line.partition(","))
        if line and not comma:
            break
        if line and (not subject or not name):
            faults.append(Fault(f"{path.name} line {number}", f"{line!r} lacks a subject or its class", "fill it in"))
        elif line and classes.setdefault(subject, name) != name:
            what = f"{subject} is a {name}, but a {classes[subject]} above"
            faults.append(Fault(f"{path.name} line {number}", what, "remove the wrong line"))
    return classes, faults
