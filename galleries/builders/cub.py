"""CUB-200-2011: 200 bird species (Wah et al. 2011)."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from galleries.builders import DataSetCard, Selection, read_lines, sampled_in_turn
from galleries.errors import Fault
from galleries.images import check_file_name
from galleries.photo_checks import is_bbox
from galleries.sources import Found

CARD = DataSetCard(
    name="cub",
    title="Caltech-UCSD Birds-200-2011",
    granularity="category",
    licence="photos of Flickr users, for non-commercial research; the owners state no licence",
    thumbnails="no",
    citation="Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset. "
    "CNS-TR-2011-001, California Institute of Technology, 2011",
    counts="11,788 photos of 200 species; masks of all in a separate archive",
    url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    download="fetch CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158, unpack it, and name the folder "
    "CUB_200_2011 (for masks, unpack segmentations.tgz from https://data.caltech.edu/records/w9d68-gec53 beside it)",
    mirrors=("https://www.kaggle.com/datasets/xiaojiu1414/cub-200-2011",),
    checksums={
        "CUB_200_2011.tgz": "md5 97eceeb196236b17998738112f37df78",
        "segmentations.tgz": "md5 4d47ba1228eae64f2fa547c47bc65255",
    },
    recipes={
        "paper": "the 15 species of arXiv 2512.19026: wrens 193-197, terns 143-147, sparrows 113-117; 10 gallery and "
        "10 reference photos each, drawn as its code draws them (seed 101)",
        "full": "all families with at least 3 species: 10 reference photos each, all others gallery",
    },
)

PAPER = {"wren": range(193, 198), "tern": range(143, 148), "sparrow": range(113, 118)}
PAPER_SEED = 101
N_REFERENCES = N_GALLERY = 10
AGAIN = "unpack the archive again"
MIN_SPECIES = 3


@dataclass(frozen=True)
class Bird:
    """A photo with its labels; `number` and `species` are those of the owners' lists."""

    number: int
    path: str
    species: int
    bbox: str


def find(source: Path, recipe: str) -> Selection:
    """Photos of a recipe, labelled by species (identity) and family (category).

    Raises:
        FinerRankError: this is not the data set, or half of it.
    """
    root = next((r for r in (source, source / "CUB_200_2011") if (r / "images.txt").is_file()), None)
    if root is None:
        raise CARD.missing(source, "no images.txt")
    if not (root / "images").is_dir():
        raise CARD.missing(root, "no folder images")
    names, birds, faults = _read(root)
    faults += _unlisted(root, birds)
    masks = next((m for m in (root / "segmentations", root.parent / "segmentations") if m.is_dir()), None)
    families = PAPER if recipe == "paper" else _families(names)
    images: list[Found] = []
    for family, species in families.items():
        faults += [
            Fault(f"classes.txt, class {n}", f"is {names[n]}, and should be a {family}", AGAIN)
            for n in species
            if n in names and _family(names[n]) != family
        ]
        own = {n: [bird for bird in birds if bird.species == n] for n in species}
        split = _paper_split if recipe == "paper" else _full_split
        chosen, too_few = split(own, names)
        faults += too_few
        images += [_found(root, masks, bird, family, names[bird.species], side) for bird, side in chosen]
    return Selection(tuple(images), tuple(faults))


def _read(root: Path) -> tuple[dict[int, str], list[Bird], list[Fault]]:
    """Species' names by number, photos in the owners' order, and what is wrong with the lists."""
    faults: list[Fault] = []

    def table(name: str, n_fields: int) -> dict[int, list[str]]:
        rows: dict[int, list[str]] = {}
        if not (root / name).is_file():
            raise CARD.missing(root, f"no {name}")
        for i, line in enumerate(read_lines(root / name), start=1):
            fields = line.rstrip().split(" ", n_fields - 1) if n_fields == 2 else line.split()
            if not line.strip():
                continue
            if len(fields) != n_fields or not fields[0].isdecimal() or not all(field.strip() for field in fields):
                faults.append(Fault(f"{name} line {i}", f"{line!r} is not {n_fields} fields", AGAIN))
            elif name == "images.txt" and (wrong := check_file_name(fields[1])):
                faults.append(Fault(f"{name} line {i}", f"{fields[1]}: {wrong}", AGAIN))
            elif name == "bounding_boxes.txt" and not is_bbox(",".join(fields[1:])):
                faults.append(Fault(f"{name} line {i}", f"{line!r} is no box", AGAIN))
            else:
                rows[int(fields[0])] = fields[1:]
        return rows

    classes = table("classes.txt", 2)
    paths = table("images.txt", 2)
    labels = table("image_class_labels.txt", 2)
    has_boxes = (root / "bounding_boxes.txt").is_file()
    boxes = table("bounding_boxes.txt", 5) if has_boxes else {}
    names = {number: fields[0].partition(".")[2] or fields[0] for number, fields in classes.items()}
    birds = []
    for number, (path,) in paths.items():
        label = labels.get(number, [""])[0]
        if not label.isdecimal() or int(label) not in names:
            what = f"{path} has the class {label!r}, which classes.txt lacks" if label else f"{path} has no class"
            faults.append(Fault(f"image_class_labels.txt, image {number}", what, AGAIN))
        elif path.partition("/")[0] != classes[int(label)][0]:
            what = f"{path} has the class {classes[int(label)][0]}, and lies in another's folder"
            faults.append(Fault(f"image_class_labels.txt, image {number}", what, AGAIN))
        elif has_boxes and number not in boxes:
            faults.append(Fault(f"bounding_boxes.txt, image {number}", f"{path} has no box", AGAIN))
        else:
            birds.append(Bird(number, path, int(label), ",".join(boxes.get(number, []))))
    for number in sorted(labels.keys() - paths.keys()):
        faults.append(Fault(f"images.txt, image {number}", "has a class but no name", AGAIN))
    return names, birds, faults


def _unlisted(root: Path, birds: list[Bird]) -> list[Fault]:
    """Photos that no list names. Some copies hold recoloured ones, `*_rgb.jpg`, which are nobody's loss."""
    listed = {bird.path for bird in birds}
    found = (path.relative_to(root / "images").as_posix() for path in sorted((root / "images").glob("*/*.jpg")))
    return [
        Fault(f"images/{name}", "stands in no line of images.txt", f"{AGAIN}, or remove it")
        for name in found
        if name not in listed and not name.endswith("_rgb.jpg")
    ]


def _families(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Species by the last word of their English names, where there are enough of them: `Bewick_Wren` is a wren."""
    families: dict[str, list[int]] = defaultdict(list)
    for number, name in sorted(names.items()):
        families[_family(name)].append(number)
    return {family: species for family, species in sorted(families.items()) if len(species) >= MIN_SPECIES}


def _family(name: str) -> str:
    return name.rpartition("_")[2].lower()


Chosen = tuple[list[tuple[Bird, str]], list[Fault]]
Split = Callable[[Mapping[int, list[Bird]], Mapping[int, str]], Chosen]


def _paper_split(own: Mapping[int, list[Bird]], names: Mapping[int, str]) -> Chosen:
    """As the protocol's code: species in the order of their names, gallery first, then references of what is left."""
    faults = [
        _too_few(names.get(n, str(n)), len(birds), N_GALLERY + N_REFERENCES)
        for n, birds in own.items()
        if len(birds) < N_GALLERY + N_REFERENCES
    ]
    if faults:
        return [], faults
    groups = [own[n] for n in sorted(own, key=lambda n: names[n])]
    chosen: list[tuple[Bird, str]] = []
    for side, size in (("gallery", N_GALLERY), ("reference", N_REFERENCES)):
        drawn = sampled_in_turn([len(group) for group in groups], size, PAPER_SEED)
        chosen += [(group[i], side) for group, places in zip(groups, drawn, strict=True) for i in places]
        groups = [
            [bird for i, bird in enumerate(group) if i not in set(places)]
            for group, places in zip(groups, drawn, strict=True)
        ]
    return chosen, []


def _full_split(own: Mapping[int, list[Bird]], names: Mapping[int, str]) -> Chosen:
    """The first photos in the owners' order, which is none of time or place, are the references."""
    faults = [
        _too_few(names[n], len(birds), N_REFERENCES + 1) for n, birds in own.items() if len(birds) <= N_REFERENCES
    ]
    chosen = [
        (bird, "reference" if i < N_REFERENCES else "gallery") for birds in own.values() for i, bird in enumerate(birds)
    ]
    return chosen, faults


def _too_few(name: str, n: int, needed: int) -> Fault:
    return Fault(name, f"{n} photos, of which {needed} are needed", AGAIN)


def _found(root: Path, masks: Path | None, bird: Bird, family: str, species: str, split: str) -> Found:
    values = {
        "category": family,
        "identity": species,
        "split": split,
        "bbox": bird.bbox,
        "source_id": f"images/{bird.path}",
    }
    mask = masks / Path(bird.path).with_suffix(".png") if masks else None
    if mask:
        values["mask_file_name"] = str(mask.absolute())
    return Found(f"images.txt, image {bird.number}", f"{family}/{bird.path}", root / "images" / bird.path, values)
