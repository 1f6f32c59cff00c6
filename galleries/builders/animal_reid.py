"""Individual animals: WildlifeReID-10k (Adam et al. 2025), or any data set of the package `wildlife-datasets`."""

import contextlib
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galleries.builders import DataSetCard, Selection, sampled
from galleries.errors import Fault, FinerRankError
from galleries.images import check_file_name
from galleries.photo_checks import is_bbox
from galleries.sources import Found
from galleries.tables import read_table

CARD = DataSetCard(
    name="animal-reid",
    title="WildlifeReID-10k",
    granularity="instance",
    licence="differs between its 37 parts, several non-commercial, some without any",
    thumbnails="no, unless the licence of the part allows it",
    citation="Adam, Čermák, Papafitsoros, Picek: WildlifeReID-10k: Wildlife re-identification dataset with 10k "
    "individual animals. FGVC workshop at CVPR 2025, arXiv 2406.09211",
    counts="140,488 photos of 10,772 animals of 22 species, from 37 data sets",
    url="https://www.kaggle.com/datasets/wildlifedatasets/wildlifereid-10k",
    download="fetch https://www.kaggle.com/datasets/wildlifedatasets/wildlifereid-10k, unpack it, and name the folder "
    "that holds metadata.csv and images",
    recipes={
        "paper": "as the code of arXiv 2512.19026: of each species the 10 animals with most photos, 4-10 reference and "
        "5-15 gallery photos each (seed 42), all other animals as distractors. Dates are not looked at",
        "encounter": "animals of which there are 2 encounters or more (photos of one day or one similarity cluster are "
        "of one): 4-10 reference photos of some, the earlier ones where that works out, 5-15 gallery photos of the "
        "others, so that no encounter is on both sides; all other animals as distractors",
    },
)

PAPER_SEED = 42
MIN_REFERENCES, MAX_REFERENCES = 4, 10
MIN_GALLERY, MAX_GALLERY = 5, 15
PER_SPECIES = 10
UNKNOWN = "unknown"
"""The package's name of animals that nobody recognised."""


@dataclass(frozen=True)
class Animal:
    """A row of the metadata: a photo with what is known of it."""

    where: str
    path: str
    identity: str
    species: str
    date: str = ""
    cluster: str = ""
    viewpoint: str = ""
    bbox: str = ""

    @property
    def encounter(self) -> str:
        """The owners' cluster of similar photos, else animal and date; "" where neither is known."""
        return self.cluster or (f"{self.identity} {self.date}" if self.date else "")


def find(source: Path, recipe: str, wildlife_class: str = "") -> Selection:
    """Photos of a recipe, labelled by animal (identity) and species (category).

    Args:
        wildlife_class: a class of `wildlife_datasets.datasets`, which reads the folder; WildlifeReID-10k where empty.

    Raises:
        FinerRankError: this is not the data set.
    """
    animals, faults = _of_package(source, wildlife_class) if wildlife_class else _of_metadata(source)
    split = _paper_split if recipe == "paper" else _encounter_split
    sides, notes = split(animals)
    if not sides and not faults:
        needed = f"{MIN_REFERENCES} reference and {MIN_GALLERY} gallery photos"
        raise FinerRankError(f"{source}: no animal has enough photos for {needed}; this recipe needs a larger data set")
    asked = {animals[i].identity for i in sides}
    images = [
        _found(source, animal, sides.get(i, "distractor"), recipe)
        for i, animal in enumerate(animals)
        if i in sides or animal.identity not in asked
    ]
    n_left_over = len(animals) - len(images)
    if n_left_over:
        notes.append(f"{n_left_over} further photos of the animals asked for are left out: they can be no distractors")
    return Selection(tuple(images), tuple(faults), tuple(notes))


def _of_metadata(source: Path) -> tuple[list[Animal], list[Fault]]:
    path = source / "metadata.csv"
    if not path.is_file():
        raise CARD.missing(source, "no metadata.csv")
    table = read_table(path)
    missing = [column for column in ("identity", "path", "species") if column not in table.columns]
    if missing:
        raise FinerRankError(f"{path}: no column {missing[0]!r} (has {', '.join(table.columns)}); fetch it again")
    return _animals([(table.where(i), row) for i, row in enumerate(table.rows)], list(table.faults))


def _of_package(source: Path, name: str) -> tuple[list[Animal], list[Fault]]:
    try:
        from wildlife_datasets import datasets  # three seconds of imports, and AGPL: only on request
    except ImportError:
        raise FinerRankError(
            "--class: needs the package wildlife-datasets (AGPL); pip install 'finer-rank[wildlife]'"
        ) from None
    known = sorted(datasets.names_all, key=lambda c: c.__name__) if hasattr(datasets, "names_all") else []
    data_set = getattr(datasets, name, None)
    if not isinstance(data_set, type) or not hasattr(data_set, "create_catalogue"):
        from difflib import get_close_matches

        near = get_close_matches(name, [c.__name__ for c in known], n=3)
        hint = f"{' or '.join(near)} is meant? " if near else ""
        raise FinerRankError(f"--class {name}: no class of wildlife_datasets.datasets; {hint}see its documentation")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # which our own answers own
            frame = data_set(str(source), check_files=False).df
    except Exception as error:  # each class reads its own files in its own way
        reason = (str(error).splitlines() or [""])[0]
        raise FinerRankError(
            f"{source}: {name} cannot read it ({type(error).__name__}: {reason}); fetch the data with "
            f"wildlife_datasets.datasets.{name}.get_data(FOLDER), and name that folder"
        ) from None
    if "path" not in frame.columns:
        raise FinerRankError(f"{source}: {name} names no files; build from its own images with gallery build table")
    rows = [
        (f"{name} row {i + 1}", {column: _text(value) for column, value in row.items()})
        for i, row in enumerate(frame.to_dict("records"))
    ]
    for _, row in rows:
        row.setdefault("species", name)
        row["species"] = row["species"] or name
    return _animals(rows, [])


def _text(value: Any) -> str:
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, list | tuple):
        return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if value is None or str(value) in ("nan", "NaT", "<NA>"):
        return ""
    return str(value)


def _animals(rows: Sequence[tuple[str, Mapping[str, str]]], faults: list[Fault]) -> tuple[list[Animal], list[Fault]]:
    animals = []
    seen: dict[str, str] = {}
    for where, row in rows:
        cells = {name: row.get(name, "").strip() for name in ("path", "identity", "species")}
        empty = [name for name, value in cells.items() if not value]
        if empty:
            faults.append(Fault(where, f"empty {' and '.join(empty)}", "fetch the metadata again, or fill it in"))
            continue
        path = cells["path"].replace("\\", "/")
        if wrong := check_file_name(path):
            faults.append(Fault(f"{where} ({path})", wrong, "name a file inside the folder"))
            continue
        bbox = row.get("bbox", "")
        if bbox and not is_bbox(bbox):
            faults.append(Fault(f"{where} ({path})", f"bbox {bbox!r}", "write x,y,width,height in pixels"))
            continue
        if path in seen:
            if seen[path] != cells["identity"]:
                what = f"{path} shows {cells['identity']!r}, but {seen[path]!r} in another row"
                faults.append(Fault(where, what, "one animal a photo: crop them apart, or remove both rows"))
            continue
        seen[path] = cells["identity"]
        if cells["identity"] == UNKNOWN:
            continue
        animals.append(
            Animal(
                where,
                path,
                cells["identity"],
                cells["species"],
                date=row.get("date", "").strip()[:10],  # the day: hours would tell the photos of a burst apart
                cluster=row.get("cluster_id", "").strip(),
                viewpoint=row.get("orientation", "").strip(),
                bbox=bbox,
            )
        )
    return animals, faults


Split = tuple[dict[int, str], list[str]]
"""Position of a photo → reference or gallery; and notes."""


def _by_identity(animals: Sequence[Animal]) -> dict[str, list[int]]:
    own: dict[str, list[int]] = defaultdict(list)
    for i, animal in enumerate(animals):
        own[animal.identity].append(i)
    return dict(sorted(own.items()))


def _paper_split(animals: Sequence[Animal]) -> Split:
    own = {name: rows for name, rows in _by_identity(animals).items() if len(rows) >= MIN_REFERENCES + MIN_GALLERY}
    drawn = {
        name: [rows[i] for i in sampled(len(rows), min(len(rows) - MIN_GALLERY, MAX_REFERENCES), PAPER_SEED)]
        for name, rows in own.items()
    }
    per_species: dict[str, list[str]] = defaultdict(list)
    for name, rows in own.items():
        per_species[animals[rows[0]].species].append(name)
    sides: dict[int, str] = {}
    for names in per_species.values():
        # Many animals tie at 10 references; the published code leaves their order to the sorting of its pandas.
        for name in sorted(names, key=lambda name: (-len(drawn[name]), name))[:PER_SPECIES]:
            sides |= dict.fromkeys(drawn[name], "reference")
            left = [row for row in own[name] if row not in set(drawn[name])]
            chosen = sampled(len(left), min(len(left), MAX_GALLERY), PAPER_SEED)
            sides |= {left[i]: "gallery" for i in chosen}
    shared = {(animals[i].identity, animals[i].encounter) for i, side in sides.items() if side == "reference"}
    n_shared = sum(
        side == "gallery" and bool(animals[i].encounter) and (animals[i].identity, animals[i].encounter) in shared
        for i, side in sides.items()
    )
    n_gallery = Counter(sides.values())["gallery"]
    notes = []
    if n_shared:
        notes.append(
            f"{n_shared} of {n_gallery} gallery photos are of an encounter (cluster or date) that a reference is of: "
            "this recipe splits at random; --recipe encounter does not"
        )
    return sides, notes


def _encounter_split(animals: Sequence[Animal]) -> Split:
    sides: dict[int, str] = {}
    for rows in _by_identity(animals).values():
        encounters = _encounters(animals, rows)
        in_time = sorted(encounters, key=lambda of: (min(animals[r].date for r in of), animals[of[0]].path))
        chosen = _divided([len(of) for of in in_time])
        if chosen is None:
            continue
        references = [row for i in chosen for row in in_time[i]]
        gallery = [row for i, of in enumerate(in_time) if i not in chosen for row in of]
        sides |= dict.fromkeys(_some(animals, references, MAX_REFERENCES), "reference")
        sides |= dict.fromkeys(_some(animals, gallery, MAX_GALLERY), "gallery")
    n_unknown = sum(not animal.encounter for animal in animals)
    notes = [f"{n_unknown} photos have neither cluster nor date: no encounter of theirs is known"] if n_unknown else []
    return sides, notes


def _encounters(animals: Sequence[Animal], rows: Sequence[int]) -> list[list[int]]:
    """Photos of one animal, parted by what is known: those of a day, or of a cluster, are never parted."""
    parts: list[tuple[set[str], list[int]]] = []
    for row in rows:
        known = {f"cluster {animals[row].cluster}"} if animals[row].cluster else set()
        known |= {f"date {animals[row].date}"} if animals[row].date else set()
        if not known:
            continue
        touching = [part for part in parts if part[0] & known]
        parts = [part for part in parts if not part[0] & known]
        parts.append((known.union(*(names for names, _ in touching)), [r for _, of in touching for r in of] + [row]))
    return [sorted(of, key=lambda row: animals[row].path) for _, of in parts]


def _divided(sizes: Sequence[int]) -> tuple[int, ...] | None:
    """Which encounters are the references': the first ones if enough is left, else any that divide; None if none do."""
    most = sum(sizes) - MIN_GALLERY
    total = 0
    for i, size in enumerate(sizes):
        total += size
        if MIN_REFERENCES <= total <= most:
            return tuple(range(i + 1))
    reachable: dict[int, tuple[int, ...]] = {0: ()}
    for i, size in enumerate(sizes):
        for total, chosen in sorted(reachable.items()):
            if total + size <= most:
                reachable.setdefault(total + size, (*chosen, i))
    return reachable[min(good)] if (good := [total for total in reachable if total >= MIN_REFERENCES]) else None


def _some(animals: Sequence[Animal], rows: Sequence[int], n: int) -> list[int]:
    """`n` rows by a keyed hash: the same whatever the order of the table."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{PAPER_SEED}\0{animals[row].path}".encode()).digest())[:n]


def _found(source: Path, animal: Animal, split: str, recipe: str) -> Found:
    values = {
        "category": animal.species,
        "identity": animal.identity,
        "split": split,
        "viewpoint": animal.viewpoint,
        "bbox": animal.bbox,
        "source_id": animal.path,
    }
    if recipe == "encounter":
        values["encounter"] = animal.encounter
    name = animal.path.removeprefix("images/")
    return Found(animal.where, name, source / animal.path, values)
