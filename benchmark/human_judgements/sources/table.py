"""A plain table of judgements: one answer a row, its columns say of which kind. Images lie below the table's folder."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmark.human_judgements.image_paths import ImagePaths
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from benchmark.human_judgements.repeated import repeated_judgements
from benchmark.human_judgements.sources import NAMES_JOIN
from benchmark.human_judgements.votes import MOST_VOTES, exact_share, number_of_votes
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.tables import column_faults, read_table

READS = (
    "a table .csv, .tsv, .parquet or .jsonl with columns reference, a, b, choice (or another of the kinds), or a "
    "folder that holds one, named triplets or judgements"
)
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {}

IMAGES: dict[Kind, tuple[str, ...]] = {
    "2afc": ("reference", "a", "b"),
    "jnd": ("first", "second"),
    "odd-one-out": ("one", "two", "three"),
    "ranking": ("target", "image"),
    "rating": ("target", "image"),
}
"""Columns that name the images, in the order of `Judgement.images`."""

ANSWER: dict[Kind, str] = {"2afc": "choice", "jnd": "same", "odd-one-out": "odd", "ranking": "rank", "rating": "rating"}

SPLITS = ("", "train", "val", "test")
ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
LABELS = ("rater", "target", "split", "subset")
LARGEST = 1e9
"""Of ranks and ratings: statistics square them."""


def is_here(path: Path) -> bool:
    path = _table(path)
    return path.is_file() and path.suffix.lower() in ENDINGS


def _table(path: Path) -> Path:
    """The table itself; of a folder the one that `agreement triplets` writes there, or a `judgements` of the user's."""
    known = [path / f"{name}{ending}" for name in ("triplets", "judgements") for ending in ENDINGS]
    try:
        found = [file for file in known if file.is_file()]
    except OSError:  # a folder that must not be looked into
        return path
    return found[0] if len(found) == 1 else path


def kinds(path: Path) -> tuple[Kind, ...]:
    """What the columns hold answers of.

    Raises:
        FinerRankError: no kind has such columns.
    """
    path = _table(path)
    table = read_table(path)
    if not table.columns:
        raise_if_any(str(path), table.faults)
    columns = table.columns
    found = tuple(kind for kind in IMAGES if {*IMAGES[kind], ANSWER[kind]} <= {*columns})
    if found:
        return found
    forms = {kind: (*IMAGES[kind], ANSWER[kind]) for kind in IMAGES}
    nearest = max(forms, key=lambda kind: len({*forms[kind]} & {*columns}))
    if len({*forms[nearest]} & {*columns}) * 2 > len(forms[nearest]):
        return (nearest,)  # reading it says which columns are amiss
    known = "; or ".join(f"{', '.join(form)} ({kind})" for kind, form in forms.items())
    raise FinerRankError(f"{path}: has columns {', '.join(columns) or '–'}; judgements have {known}")


def read(path: Path, kind: Kind) -> Judgements:
    """The judgements of a table.

    Columns are those of `IMAGES` and `ANSWER`, and for all kinds `rater`, `split`, `subset`; for 2afc, jnd and
    odd-one-out also `target`, what the question was about: the reference, or all images, where it is not said; for
    2afc and jnd `votes`, how many people an answer is the mean of. `choice` is a or b, or the share of votes for b;
    `same` is yes or no, or the share that took both for the same; `odd` is one, two or three; `rank` counts from 1, the
    nearest, equal ranks are ties; `rating` is higher for what is more alike.

    Raises:
        Faults: all that is wrong with the table, and images that are not there.
    """
    path = _table(path)
    table = read_table(path)
    sides, answer = IMAGES[kind], ANSWER[kind]
    others = [column for other in kinds(path) for column in (*IMAGES[other], ANSWER[other])]
    optional = ["rater", "split", "subset", *(["target"] if kind not in ("ranking", "rating") else [])]
    if kind in ("2afc", "jnd"):
        optional.append("votes")
    faults = column_faults(table, (*sides, answer), tuple(dict.fromkeys((*sides, answer, *optional, *others))))
    if not table.rows and not table.faults and not faults:
        faults.append(Fault(path.name, "no rows", "add a row for each judgement"))
    raise_if_any(str(path), faults)
    faults = [*table.faults]
    images = ImagePaths(path.parent)
    rows = []
    for i, cells in enumerate(table.rows):
        row = _read_row(table.where(i), cells, kind, images)
        if isinstance(row, Judgement):
            rows.append(row)
        else:
            faults += row
    faults += repeated_judgements(kind, rows)
    raise_if_any(str(path), faults)
    return Judgements(path.stem, kind, path, tuple(rows))


def _read_row(where: str, cells: Mapping[str, str], kind: Kind, images: ImagePaths) -> Judgement | list[Fault]:
    faults = [
        Fault(where, f"{label} {cells[label]!r} begins or ends with a space", "remove it")
        for label in LABELS
        if cells.get(label, "") != cells.get(label, "").strip()
    ]
    found = [images.find(f"{where}, {side}", cells[side]) for side in IMAGES[kind]]
    paths = tuple(path for path in found if isinstance(path, Path))
    faults += [fault for fault in found if isinstance(fault, Fault)]
    if len(set(paths)) < len(paths):
        faults.append(Fault(where, f"{' and '.join(IMAGES[kind])} are not different files", "mend the row"))
    split = cells.get("split", "")
    if split not in SPLITS:
        faults.append(Fault(where, f"split {split!r}", "write train, val or test, or leave it empty"))
    try:
        n_votes = _n_votes(cells.get("votes", ""))
        answer = READERS[kind](cells[ANSWER[kind]].strip().lower(), n_votes)
    except _BadAnswer as wrong:
        return [*faults, Fault(where, wrong.what, wrong.remedy)]
    if faults:
        return faults
    names = [images.name_of(path) for path in paths]
    named_after = names[:1] if kind in ("2afc", "ranking", "rating") else sorted(names)
    asked_about = cells.get("target", "") if "target" not in IMAGES[kind] else ""
    return Judgement(
        paths,
        answer,
        asked_about or NAMES_JOIN.join(named_after),
        cells.get("rater", ""),
        n_votes,
        split,
        cells.get("subset", ""),
        where,
    )


class _BadAnswer(Exception):
    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy


def _n_votes(text: str) -> int:
    if not text.strip():
        return 1
    votes = number_of_votes(text)
    if votes is None:
        raise _BadAnswer(f"votes {text!r}", f"write how many people judged: 1 or more, up to {MOST_VOTES:,}")
    return votes


def _share(text: str, n_votes: int, words: Mapping[str, float], column: str, of: str) -> float:
    """A share of `n_votes` votes, exact although it was written with two decimals or more."""
    allowed = f"write {' or '.join(words)}, or the share of votes {of}, 0 to 1"
    if text in words:
        if n_votes > 1:
            raise _BadAnswer(f"{column} {text!r} of {n_votes} votes", f"write the share of votes {of}, 0 to 1")
        return words[text]
    share = _number(text, column, allowed)
    if not 0 <= share <= 1:
        raise _BadAnswer(f"{column} {text!r}", allowed)
    exact = exact_share(share, n_votes)
    if exact is None:
        what = f"{column} {text!r} is no share of {n_votes} vote{'s' if n_votes > 1 else ''}"
        raise _BadAnswer(what, "say in column votes how many people judged, or mend the share")
    return exact


def _number(text: str, column: str, remedy: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _BadAnswer(f"{column} {text!r} is no number" if text else f"{column} is empty", remedy)
    if abs(number) > LARGEST:
        raise _BadAnswer(f"{column} {text!r} is out of range", f"write numbers up to {LARGEST:g}")
    return number


def _rank(text: str, n_votes: int) -> float:
    rank = _number(text, "rank", "write 1 for the nearest, 2 for the next; equal ranks are ties")
    if rank < 1:
        raise _BadAnswer(f"rank {text!r}", "ranks count from 1, the nearest")
    return rank


def _odd(text: str, n_votes: int) -> float:
    places = {"one": 0.0, "two": 1.0, "three": 2.0}
    if text not in places:
        raise _BadAnswer(f"odd {text!r}", "write one, two or three")
    return places[text]


READERS: dict[Kind, Callable[[str, int], float]] = {
    "2afc": lambda text, n: _share(text, n, {"a": 0.0, "b": 1.0}, "choice", "for b"),
    "jnd": lambda text, n: _share(text, n, {"yes": 1.0, "no": 0.0}, "same", "that say yes"),
    "odd-one-out": _odd,
    "ranking": _rank,
    "rating": lambda text, n: _number(text, "rating", "write a number, higher for what is more alike"),
}
