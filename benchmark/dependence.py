"""How much of a ranking the background alone can explain."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmark.protocol import Evaluation
from benchmark.records import Record
from benchmark.statistics import Estimate, estimate_ratio

Key = tuple[str, str]
Scored = Mapping[Key, tuple[float, float]]
"""(file name, identity) of each query → its average precision, and that of a random order."""


@dataclass(frozen=True)
class BackgroundDependence:
    """(mAP of the background alone - chance) / (mAP of the full picture - chance), over the queries that both have.

    Not a share: subject and background can each suffice, so that their two values add up to anything. It is negative
    where the background misleads, and above 1 where it tells more than the full picture. None where the full picture
    is not ranked better than chance.
    """

    embedder: str
    held_out: Estimate | None
    runs: Mapping[str, Estimate | None]


def background_dependence(evaluations: list[Evaluation]) -> list[BackgroundDependence]:
    """One for each embedder that has scored both the full pictures and their background."""
    found = []
    full = {e.embedder: e for e in evaluations if e.region == "full"}
    for background in (e for e in evaluations if e.region == "background" and e.embedder in full):
        whole = full[background.embedder]
        runs = {
            record.name: dependence_of_records(record, other)
            for record, other in zip(whole.records, background.records, strict=True)
        }
        held_out = _dependence(_scored_photos(whole), _scored_photos(background))
        found.append(BackgroundDependence(background.embedder, held_out, runs))
    return found


def dependence_of_records(full: Record, background: Record) -> Estimate | None:
    """Background dependence of a run, from its two records; see `BackgroundDependence`."""
    return _dependence(_scored_queries(full), _scored_queries(background))


def _dependence(full: Scored, background: Scored) -> Estimate | None:
    shared = sorted(full.keys() & background.keys())
    return estimate_ratio(
        [background[key][0] - background[key][1] for key in shared],
        [full[key][0] - full[key][1] for key in shared],
        [identity for _, identity in shared],
    )


def _scored_queries(record: Record) -> Scored:
    columns = ("file_name", "identity", "average_precision", "chance_average_precision")
    rows = zip(*(record.queries.column(column).to_pylist() for column in columns), strict=True)
    return {(name, identity): (precision, chance) for name, identity, precision, chance in rows}


def _scored_photos(evaluation: Evaluation) -> Scored:
    return {
        (name, answer.identity): (answer.scores.average_precision, answer.chance)
        for name, answer in evaluation.held_out.items()
    }
