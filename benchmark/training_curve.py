"""Identity and prompts while a generator learns: a row per step, a table on disk, and the step to pick."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.tables import Table, column_faults, read_table, write_csv

PROMPTS_KEPT = 0.95
"""Share of the first step's CLIP-T that a step has to keep to be picked."""

AGAIN = "name a curve.csv that benchmark.identity_callback wrote"


@dataclass(frozen=True)
class ScoredStep:
    """What a generator's images are worth after some steps of training.

    Attributes:
        mAP: of the identity's images among the photos of its category, as `finer-rank evaluate` has it; in (0, 1].
        AUC: in [0, 1].
        similarity: mean cosine to the identity's references, -1 to 1.
        clip_t: mean cosine to the prompts without the identifier; None where no encoder compares them.
        n_images: scored; a filter may have kept others back.
    """

    step: int
    mAP: float
    AUC: float
    similarity: float
    clip_t: float | None
    n_images: int


@dataclass(frozen=True)
class Choice:
    """The step to pick, and why, in a sentence."""

    scored: ScoredStep
    reason: str


@dataclass(frozen=True)
class TrainingCurve:
    """The scored steps of one training, ascending, and what they are measured by.

    Attributes:
        gallery: its name and version.
        embedder, prompt_embedder: specs; the latter is "" where no encoder compares images with prompts.
        settings: digest of all that has to be the same for two steps to be comparable.
        chance: mAP of a random order.
        held_out: mAP of the identity's own gallery photos; None where it has only one.
    """

    identity: str
    gallery: str
    embedder: str
    prompt_embedder: str
    settings: str
    chance: float
    held_out: float | None
    steps: tuple[ScoredStep, ...] = ()

    def with_step(self, scored: ScoredStep) -> "TrainingCurve":
        """The curve up to a step, which is the last one: later ones are of a training that was gone back on."""
        return replace(self, steps=(*(s for s in self.steps if s.step < scored.step), scored))

    def best(self, prompts_kept: float = PROMPTS_KEPT) -> Choice:
        """The step of the highest mAP among those whose prompts still work; of equal ones the earliest.

        Prompts work while CLIP-T, taken without the identifier, is at least the share `prompts_kept` of the first
        step's (step 0: the generator before training). Without CLIP-T every step counts.

        Raises:
            FinerRankError: no step is scored yet; a share that is none.
        """
        if not 0 < prompts_kept <= 1:
            raise FinerRankError(f"share of CLIP-T to be kept {prompts_kept:g}: out of range; write 0.95, at most 1")
        if not self.steps:
            raise FinerRankError(f"identity {self.identity!r}: no step is scored yet; call the callback at step 0")
        least, able = self.least_clip_t(prompts_kept), self.steps
        among = f"{len(able)} steps, prompts not looked at"
        if least is not None:
            able = tuple(s for s in self.steps if s.clip_t is not None and s.clip_t >= least)
            first = self.steps[0].step
            among = f"{len(able)} of {len(self.steps)} steps that keep {prompts_kept:.0%} of step {first}’s CLIP-T"
        chosen = max(able, key=lambda s: (s.mAP, -s.step))
        return Choice(chosen, f"step {chosen.step}: highest mAP ({chosen.mAP:.3f}) of the {among}")

    def least_clip_t(self, prompts_kept: float) -> float | None:
        """The CLIP-T from which on prompts work; None where the first step has none."""
        first = self.steps[0].clip_t
        return None if first is None else first - (1 - prompts_kept) * abs(first)  # cosines may be negative

    def write(self, path: Path) -> None:
        """Write a table of `COLUMNS`; a kill leaves the old one.

        Raises:
            FinerRankError: it cannot be written.
        """
        about = {name: getattr(self, name) for name in _ABOUT}
        rows = [{**{name: getattr(s, name) for name in _OF_STEP}, **about} for s in self.steps]
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_csv(partial, COLUMNS, [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows])
            partial.replace(path)
        except OSError as error:
            raise FinerRankError(f"{path}: cannot be written ({error.strerror}); mend that, or name another") from None

    @classmethod
    def read(cls, path: Path) -> "TrainingCurve":
        """Read what `write` wrote.

        Raises:
            FinerRankError: no such table, or no row.
            Faults: columns or values that are missing or out of range, steps out of order, rows of several curves.
        """
        table = read_table(path)
        faults = [*table.faults, *column_faults(table, COLUMNS, COLUMNS)]
        rows, wrong = _values(table) if not faults else ([], [])
        raise_if_any(str(path), [*faults, *wrong])
        if not rows:
            raise FinerRankError(f"{path}: holds no step; {AGAIN}")
        steps = tuple(ScoredStep(**{name: row[name] for name in _OF_STEP}) for row in rows)
        return cls(**{name: rows[0][name] for name in _ABOUT}, steps=steps)


_OF_STEP = tuple(field.name for field in fields(ScoredStep))
_ABOUT = tuple(field.name for field in fields(TrainingCurve) if field.name != "steps")
COLUMNS = (*_OF_STEP, *_ABOUT)
_EMPTY = ("clip_t", "held_out", "prompt_embedder")
"""Columns that may be empty."""


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(cell: str) -> float:
        value = float(cell)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    return read


def _count(cell: str) -> int:
    if not cell.isdecimal():
        raise ValueError
    return int(cell)


_COSINE = _number(-1.000001, 1.000001)  # of rounded rows
_SHARE = _number(0, 1)
_READERS: Mapping[str, Callable[[str], Any]] = {
    "step": _count,
    "n_images": _count,
    **dict.fromkeys(("mAP", "AUC", "chance", "held_out"), _SHARE),
    **dict.fromkeys(("similarity", "clip_t"), _COSINE),
}


def _values(table: Table) -> tuple[list[dict[str, Any]], list[Fault]]:
    rows: list[dict[str, Any]] = []
    faults = []
    for i, cells in enumerate(table.rows):
        values: dict[str, Any] = {}
        for column in COLUMNS:
            cell = cells[column]
            try:
                if not cell and column not in _EMPTY:
                    raise ValueError
                values[column] = _READERS.get(column, str)(cell) if cell else None if column in _READERS else ""
            except ValueError:
                faults.append(Fault(table.where(i), f"{column} {cell!r}", AGAIN))
        if rows and values.keys() == rows[-1].keys():
            if any(values[name] != rows[-1][name] for name in _ABOUT):
                faults.append(Fault(table.where(i), "of another curve than the row before", AGAIN))
            elif values["step"] <= rows[-1]["step"]:
                faults.append(Fault(table.where(i), f"step {values['step']} after {rows[-1]['step']}", AGAIN))
        rows.append(values)
    return rows, faults
