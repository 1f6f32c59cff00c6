"""Judgements by people, whatever data set or page they come from.

`SOURCES` in `benchmark.human_judgements.sources` is the registry of readers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["2afc", "jnd", "odd-one-out", "ranking", "rating"]
KINDS: tuple[Kind, ...] = get_args(Kind)

N_IMAGES: Mapping[Kind, int] = {"2afc": 3, "jnd": 2, "odd-one-out": 3, "ranking": 2, "rating": 2}


@dataclass(frozen=True)
class Judgement:
    """One answer about some images: of one person, or the mean of several.

    Attributes:
        images: of `2afc` the reference, a and b; of `jnd` the two compared; of `odd-one-out` the three shown; of
            `ranking` and `rating` the target and the image that is compared with it.
        answer: `2afc`: share of votes for b, so that one vote is 0 (a is nearer) or 1. `jnd`: share that took both for
            the same. `odd-one-out`: place in `images` of the odd one, 0 to 2. `ranking`: rank of the image among those
            of its target, from 1, the nearest. `rating`: higher is more alike.
        target: what the question was about. Answers about one target are not independent: targets are what is drawn
            for an interval, and what is held out in tuning.
        rater: who; "" where the data do not say.
        n_votes: people whose mean the answer is.
        split: `train`, `val`, `test`, or "".
        subset: part of the data that is scored on its own too, such as BAPPS' kind of distortion; or "".
        where: file and row, for messages.
    """

    images: tuple[Path, ...]
    answer: float
    target: str
    rater: str = ""
    n_votes: int = 1
    split: str = ""
    subset: str = ""
    where: str = ""


@dataclass(frozen=True)
class Judgements:
    """Judgements of one kind.

    Attributes:
        name: of the data set, such as `nights`.
        source: file or folder that was read.
        left_out: what was not taken, a line each (raters who failed a sentinel, unanimity not reached …).
    """

    name: str
    kind: Kind
    source: Path
    rows: tuple[Judgement, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """Distinct files, sorted."""
        return tuple(sorted({path for row in self.rows for path in row.images}))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Distinct, sorted."""
        return tuple(sorted({row.target for row in self.rows}))

    @cached_property
    def raters(self) -> tuple[str, ...]:
        """Distinct names, sorted; without those that are unknown."""
        return tuple(sorted({row.rater for row in self.rows if row.rater}))

    def only(self, *, split: str = "", subset: str = "", targets: Iterable[str] | None = None) -> "Judgements":
        """Those of a split, a subset, or some targets; all where nothing is said."""
        wanted = None if targets is None else set(targets)
        rows = [
            row
            for row in self.rows
            if (not split or row.split == split)
            and (not subset or row.subset == subset)
            and (wanted is None or row.target in wanted)
        ]
        return replace(self, rows=tuple(rows))
