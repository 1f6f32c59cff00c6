"""BAPPS (Zhang et al. 2018, arXiv 1801.03924): patches and their distortions, as they are distributed.

`2afc/{train,val}/<kind>/{ref,p0,p1}/<id>.png` with `judge/<id>.npy`, the share that took p1 for the nearer, and
`jnd/val/<kind>/{p0,p1}/<id>.png` with `same/<id>.npy`. Any folder of that tree may be named.
"""

import io
import math
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.human_judgements.image_paths import ImagePaths
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from benchmark.human_judgements.votes import exact_share
from galleries.errors import Fault, FinerRankError, raise_if_any

READS = "BAPPS (the folder of 2afc and jnd, or one in it)"
FORMS: dict[Kind, str] = {"2afc": "2afc", "jnd": "jnd"}
SIDES: dict[Kind, tuple[str, ...]] = {"2afc": ("ref", "p0", "p1"), "jnd": ("p0", "p1")}
ANSWERS: dict[Kind, str] = {"2afc": "judge", "jnd": "same"}
N_VOTES: dict[tuple[Kind, str], int] = {("2afc", "train"): 2, ("2afc", "val"): 5, ("jnd", "val"): 3}

_IN_THOUSANDS = {
    ("train", "traditional"): 56.6, ("train", "cnn"): 38.1, ("train", "mix"): 56.6,
    ("val", "traditional"): 4.7, ("val", "cnn"): 4.7, ("val", "superres"): 10.9, ("val", "deblur"): 9.4,
    ("val", "color"): 4.7, ("val", "frameinterp"): 1.9,
}  # fmt: skip
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {
    "2afc": {key: range(round(n * 1000) - 50, round(n * 1000) + 51) for key, n in _IN_THOUSANDS.items()}
}
"""The paper's Table 2, rounded to hundreds there."""

MAX_BYTES = 4096
"""Of an answer's file, which holds one number."""


def is_here(path: Path) -> bool:
    return path.is_dir() and bool(_folders(path))


def kinds(path: Path) -> tuple[Kind, ...]:
    return tuple(kind for kind in FORMS if any(form == kind for form, _ in _folders(path)))


def _folders(path: Path) -> list[tuple[Kind, Path]]:
    """The folders `<form>/<split>/<kind>` at or below a path, each with its kind of judgement."""
    whole = Path(os.path.normpath(path.absolute()))
    patterns = {
        **{kind: f"{form}/*/*" for kind, form in FORMS.items()},
        **{kind: "*/*" for kind, form in FORMS.items() if whole.name == form},
        **{kind: "*" for kind, form in FORMS.items() if whole.parent.name == form},
        **{kind: "." for kind, form in FORMS.items() if whole.parent.parent.name == form},
    }
    found = []
    for kind, pattern in patterns.items():
        folders = [path] if pattern == "." else sorted(path.glob(pattern))
        found += [(kind, folder) for folder in folders if (folder / ANSWERS[kind]).is_dir()]
    return found


def read(path: Path, kind: Kind) -> Judgements:
    """The answers of BAPPS: b is p1, the subset is the kind of distortion, the target is the patch.

    Raises:
        Faults: answers that cannot be read or are no share of the votes, images that are not there.
        FinerRankError: a split or a folder that BAPPS has not, or no answers.
    """
    rows: list[Judgement] = []
    faults: list[Fault] = []
    images = ImagePaths(path)
    for form, folder in _folders(path):
        if form != kind:
            continue
        split, subset = Path(os.path.normpath(folder.absolute())).parts[-2:]
        if (kind, split) not in N_VOTES:
            known = " or ".join(known for form, known in N_VOTES if form == kind)
            raise FinerRankError(f"{folder}: lies in {split}; BAPPS has {known} there")
        if not (folder / ANSWERS[kind]).resolve().is_relative_to(path.resolve()):
            raise FinerRankError(f"{folder}: leads out of {path}; name the folder itself")
        inside = "" if folder == path else f"{folder.relative_to(path).as_posix()}/"
        with os.scandir(folder / ANSWERS[kind]) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".npy"))
        for name in names:
            row = _read_one(inside, name.removesuffix(".npy"), kind, split, subset, images)
            if isinstance(row, Judgement):
                rows.append(row)
            else:
                faults += row
    raise_if_any(str(path), faults)
    if not rows:
        raise FinerRankError(f"{path}: no answers (.npy) in {ANSWERS[kind]}; fetch BAPPS again")
    return Judgements("bapps", kind, path, tuple(rows))


def _read_one(
    inside: str, patch: str, kind: Kind, split: str, subset: str, images: ImagePaths
) -> Judgement | list[Fault]:
    where = f"{inside}{ANSWERS[kind]}/{patch}.npy"
    found = [images.find(where, f"{inside}{side}/{patch}.png") for side in SIDES[kind]]
    faults = [each for each in found if isinstance(each, Fault)]
    n_votes = N_VOTES[kind, split]
    try:
        share = _number_in(images.root / where)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [*faults, Fault(where, f"is no file of one number ({reason})", "fetch it again")]
    answer = exact_share(share, n_votes)
    if answer is None:
        faults.append(Fault(where, f"{share:g} is no share of {n_votes} votes", "fetch it again"))
    if faults or answer is None:
        return faults
    paths = tuple(each for each in found if isinstance(each, Path))
    return Judgement(paths, answer, f"{split}/{subset}/{patch}", "", n_votes, split, subset, where)


def _number_in(path: Path) -> float:
    """The one number of a `.npy` file. Its header is looked at first: it could ask for any amount of memory."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("a link, or no regular file")
    with path.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    n_header = 10 + int.from_bytes(content[8:10], "little")  # of version 1, which numpy writes headers so short in
    return float(np.frombuffer(content[n_header:], _type_of_one(content[:n_header]), count=1)[0])


@lru_cache(maxsize=16)
def _type_of_one(header: bytes) -> np.dtype[Any]:
    """The type of the number whose `.npy` header this is; all files of a data set have the same."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("no .npy file of version 1")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape) != 1 or dtype.kind not in "fiu":
        raise ValueError(f"shape {shape}, type {dtype}")
    return dtype
