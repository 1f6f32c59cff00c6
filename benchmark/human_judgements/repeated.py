"""Judgements that somebody gave twice."""

from collections.abc import Iterable
from typing import Any

from benchmark.human_judgements.judgements import Judgement, Kind
from galleries.errors import Fault


def repeated_judgements(kind: Kind, rows: Iterable[Judgement]) -> list[Fault]:
    """A fault for each judgement of the same images by the same rater after the first, whichever side they stood on.

    Rows without a rater are one unknown person's: two people's votes are told apart by name, or stand in one row as a
    share of votes.
    """
    faults = []
    first_seen: dict[Any, Judgement] = {}
    for row in rows:
        key, answer = _question(kind, row)
        first = first_seen.setdefault((row.target, row.rater, key), row)
        if first is row:
            continue
        who = f"rater {row.rater}" if row.rater else "an unnamed rater"
        how = "the same" if _question(kind, first)[1] == answer else "the contrary"
        remedy = "remove one of them" if row.rater else "remove one, name who judged in column rater, or pool votes"
        what = f"{who} judged these images in {first.where} already, and said {how}"
        faults.append(Fault(row.where, what, remedy))
    return faults


def _question(kind: Kind, row: Judgement) -> tuple[Any, Any]:
    """What was asked and what was answered, whatever the order in which the images were shown."""
    if kind == "odd-one-out":
        return tuple(sorted(row.images)), row.images[int(row.answer)]
    if kind == "jnd":
        return tuple(sorted(row.images)), row.answer
    if kind == "2afc" and row.images[1] > row.images[2]:
        return (row.images[0], row.images[2], row.images[1]), 1 - row.answer
    return row.images, row.answer
