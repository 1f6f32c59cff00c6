"""NIGHTS (Fu et al. 2023, arXiv 2306.09344): triplets of generated images, as they are distributed.

A folder with `data.csv`, `ref/<ddd>/<ddd>.png`, `distort/<ddd>/<ddd>_0.png` and `_1.png`; numbers have gaps. The same
folder may hold `nights_raw.csv`, the triplets before the filter, and `jnd_votes.csv`; they are read by their own paths.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from benchmark.human_judgements.image_paths import ImagePaths
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from benchmark.human_judgements.sources import table as plain_table
from benchmark.human_judgements.votes import exact_share, number_of_votes
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.tables import Table, read_table

READS = "NIGHTS (its folder with data.csv, or nights_raw.csv or jnd_votes.csv in it)"
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {
    "2afc": {  # paper, Table 3
        ("", ""): range(20019, 20020),
        ("train", ""): range(15941, 15942),
        ("val", ""): range(1958, 1959),
        ("test", ""): range(2120, 2121),
    }
}

MIN_VOTES = 6
"""Triplets of `data.csv` with fewer are left out, as in the owners' code (`dataset/dataset.py`)."""

POSITIONS = {"right_vote": 2, "ref_path": 4, "left_path": 5, "right_path": 6}
"""Columns that are needed, and where the owners' code reads them: they are found by name, or by place where a file
names none of them."""

SIDES = ("ref_path", "left_path", "right_path")
SUBSETS = {"true": "imagenet", "false": "not imagenet", "": ""}
FILTERED, RAW, JND = "data.csv", "nights_raw.csv", "jnd_votes.csv"


def is_here(path: Path) -> bool:
    if path.is_dir():
        return (path / FILTERED).is_file() and (path / "ref").is_dir()
    return path.name in (RAW, JND) or (path.name == FILTERED and not {*POSITIONS}.isdisjoint(_header(path)))


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader([file.readline(65_536)]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def kinds(path: Path) -> tuple[Kind, ...]:
    return ("jnd",) if path.name == JND else ("2afc",)


def read(path: Path, kind: Kind) -> Judgements:
    """The triplets of NIGHTS: `answer` is `right_vote`, so that b is the right image, `_1`. The target is the
    reference, the subset says whether its category is one of ImageNet.

    `nights_raw.csv` is read whole. Of `jnd_votes.csv` the owners' columns are not documented, so that it is read with
    the columns of a plain table only: rename them to `first`, `second`, `same` and `votes`.

    Raises:
        Faults: all that is wrong with the rows, and images that are not there.
        FinerRankError: columns are missing.
    """
    if path.name == JND:
        return _read_jnd(path)
    file = path / FILTERED if path.is_dir() else path
    table = read_table(file)
    columns = _columns(table)
    images = ImagePaths(file.parent)
    rows, faults, n_few = [], [*table.faults], 0
    first_seen: dict[tuple[str, ...], str] = {}
    for i, cells in enumerate(table.rows):
        row = _read_row(table.where(i), cells, columns, images)
        if isinstance(row, list):
            faults += row
        elif (first := first_seen.setdefault(tuple(cells[columns[side]] for side in SIDES), row.where)) != row.where:
            faults.append(Fault(row.where, f"the triplet of {first}", "remove one of them, or fetch the file again"))
        elif file.name == FILTERED and row.n_votes < MIN_VOTES:
            n_few += 1
        else:
            rows.append(row)
    raise_if_any(str(file), faults)
    if not rows:
        raise FinerRankError(f"{file}: no triplet with {MIN_VOTES} votes or more; fetch the file again")
    left_out = (f"triplets with fewer than {MIN_VOTES} votes: {n_few}",) if n_few else ()
    return Judgements("nights" if file.name == FILTERED else "nights raw", kind, path, tuple(rows), left_out)


def _columns(table: Table) -> Mapping[str, str]:
    """The name in the owners' file → the name in this one.

    Raises:
        FinerRankError: some are missing.
    """
    missing = [name for name in POSITIONS if name not in table.columns]
    if table.path.name == FILTERED:
        missing += [name for name in ("votes", "split") if name not in table.columns]
    if missing and len(missing) >= len(POSITIONS) and "votes" in table.columns and len(table.columns) > 7:
        return {name: table.columns[place] for name, place in POSITIONS.items()}
    if missing:
        raise FinerRankError(
            f"{table.path}: no column {missing[0]}; it has {', '.join(table.columns)}: fetch NIGHTS again, or write a "
            "plain table with columns reference, a, b, choice, votes"
        )
    return {name: name for name in POSITIONS}


def _read_row(
    where: str, cells: Mapping[str, str], columns: Mapping[str, str], images: ImagePaths
) -> Judgement | list[Fault]:
    found = [images.find(f"{where}, {side}", cells[columns[side]]) for side in ("ref_path", "left_path", "right_path")]
    faults = [each for each in found if isinstance(each, Fault)]
    paths = tuple(each for each in found if isinstance(each, Path))
    if not faults and len(set(paths)) < 3:
        faults.append(Fault(where, "reference, left and right are not three files", "fetch the file again"))
    split = cells.get("split", "")
    if split not in plain_table.SPLITS:
        faults.append(Fault(where, f"split {split!r}", "it should be train, val or test"))
    subset = SUBSETS.get(cells.get("is_imagenet", "").lower())
    if subset is None:
        faults.append(Fault(where, f"is_imagenet {cells['is_imagenet']!r}", "it should be True or False"))
    votes, given = number_of_votes(cells.get("votes", "1")), cells[columns["right_vote"]]
    if votes is None:
        return [*faults, Fault(where, f"votes {cells['votes']!r}", "it should be how many people judged")]
    try:
        answer = exact_share(float(given), votes)
    except ValueError:
        answer = None
    if answer is None:
        what = f"right_vote {given!r} is no share of {votes} votes"
        faults.append(Fault(where, what, "it should be 0 (left is nearer), 1, or a share of the votes"))
    if faults or answer is None or subset is None:
        return faults
    return Judgement(paths, answer, images.name_of(paths[0]), "", votes, split, subset, where)


def _read_jnd(path: Path) -> Judgements:
    columns = read_table(path).columns
    if not {"first", "second", "same"} <= {*columns}:
        raise FinerRankError(
            f"{path}: has columns {', '.join(columns)}, whose meaning its owners do not document; rename those of the "
            "two images to first and second, of the share that saw no difference to same, of the people to votes"
        )
    return plain_table.read(path, "jnd")
