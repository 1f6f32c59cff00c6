"""The triplets (2AFC) of judgements, and what is needed of them for an interval."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.human_judgements.judgements import Judgements
from benchmark.human_judgements.sources import load_judgements, source_of
from galleries.errors import FinerRankError

MIN_TARGETS = 2
"""Targets are what is drawn for an interval."""


def load_triplets(paths: Sequence[Path], *, split: str = "", subset: str = "") -> Judgements:
    """The triplets of some files and folders, pooled.

    Raises:
        FinerRankError: see `load_judgements`; also judgements of other kinds alone, or about a single target.
    """
    for path in paths:
        there = source_of(path).kinds(path)
        if "2afc" not in there:
            raise FinerRankError(
                f"{path}: holds {' and '.join(there)} judgements, but triplets are needed; give 2afc data"
            )
    found = load_judgements(paths, kind="2afc", split=split, subset=subset)
    refuse_one_target(found)
    return found


def refuse_one_target(judgements: Judgements) -> None:
    """Refuse judgements of which no interval can be given.

    Raises:
        FinerRankError: all are about one target.
    """
    if len(judgements.targets) < MIN_TARGETS:
        raise FinerRankError(
            f"{judgements.source}: {len(judgements.rows)} judgements, all about {judgements.targets[0]}; intervals are "
            f"over targets: give judgements about {MIN_TARGETS} or more"
        )
