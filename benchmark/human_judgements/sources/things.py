"""THINGS, odd-one-out (Hebart et al. 2020, doi 10.1038/s41562-020-00951-3): a text file of triplets, three ids a line.

The third is the odd one. The image of an id is `<id>.png` beside the file, or in `images` beside it.
"""

from pathlib import Path

from benchmark.human_judgements.image_paths import ImagePaths
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from benchmark.human_judgements.sources import NAMES_JOIN
from galleries.errors import Fault, FinerRankError, raise_if_any

READS = "THINGS (its .txt file of triplets, images beside it)"
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {}

MAX_LINE = 1000
ODD = 2.0
"""Place of the odd one in each line."""


def is_here(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".txt"


def kinds(path: Path) -> tuple[Kind, ...]:
    return ("odd-one-out",)


def read(path: Path, kind: Kind) -> Judgements:
    """The triplets of a file, an answer a line; the target is the three ids. The same three may come several times, as
    the file does not say who answered.

    Raises:
        Faults: lines without three ids, and images that are not there, each named once.
        FinerRankError: not a text file, or empty.
    """
    images = ImagePaths(path.parent)
    known: dict[str, Path | None] = {}
    rows, faults = [], []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            number = 0
            while line := lines.readline(MAX_LINE):
                number += 1
                where = f"{path.name} line {number}"
                ids = line.split()
                if not ids:
                    continue
                if len(ids) != 3 or len(set(ids)) < 3:
                    if not known:  # another text: each of its lines would be a fault
                        raise FinerRankError(
                            f"{path}: line {number} is no triplet of THINGS; give a file of three different ids a line"
                        )
                    faults.append(Fault(where, f"{len(set(ids))} different ids", "write three, the odd one last"))
                    continue
                if not known:
                    images = ImagePaths(_folder_of(path, ids[0]))
                for name in ids:
                    if name not in known:
                        found = images.find(where, f"{name}.png")
                        known[name] = found if isinstance(found, Path) else None
                        faults += [found] if isinstance(found, Fault) else []
                paths = tuple(image for name in ids if (image := known[name]))
                if len(paths) == 3:
                    rows.append(Judgement(paths, ODD, NAMES_JOIN.join(sorted(ids)), where=where))
    except (OSError, UnicodeDecodeError) as error:
        raise FinerRankError(f"{path}: cannot be read ({error}); give the text file of the triplets") from None
    raise_if_any(str(path), faults)
    if not rows:
        raise FinerRankError(f"{path}: no triplets; each line has three ids, the odd one last")
    return Judgements("things", kind, path, tuple(rows))


def _folder_of(path: Path, name: str) -> Path:
    beside = path.parent
    return beside / "images" if not (beside / f"{name}.png").exists() and (beside / "images").is_dir() else beside
