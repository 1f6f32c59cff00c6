"""Scores of agreement as tables for people, and as files from which every number can be computed again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.human_agreement.agreement import ONE_RATER
from benchmark.human_agreement.comparisons import Comparison
from benchmark.human_agreement.score import Result, Scores
from benchmark.report import number, p_value

if TYPE_CHECKING:
    from benchmark.distances.base import Floats
    from benchmark.human_judgements.judgements import Judgements

ONE_PERSON, TWO_PEOPLE = "(one rater against the others)", "(one rater against another)"
COLUMNS = ("images", "answer", "target", "rater", "n_votes", "split", "subset", "where")


def print_scores(scores: Scores) -> None:
    """All tables on stdout."""
    from galleries.console import print_table, say

    title = f"{scores.name}: {scores.kind}, {scores.n_judgements} judgements of {scores.n_questions} questions"
    of = [f"{scores.n_targets} targets", *([f"{scores.n_raters} raters"] if scores.n_raters else [])]
    with_bounds = "95 % over targets"
    print_table(
        f"{title}, {', '.join(of)}",
        ["measure", "metric", f"score, {with_bounds}", "95 % over raters", "of"],
        [
            [each.measure, _who(each), _number(each), _over_raters(each), f"{each.n} {each.over}"]
            for each in _by_measure([r for r in (*scores.results, *scores.ceiling) if not r.subset])
        ],
        n_left=2,
    )
    if in_subsets := [r for r in (*scores.results, *scores.ceiling) if r.subset]:
        order = list(dict.fromkeys(r.subset for r in in_subsets))
        in_subsets.sort(key=lambda r: order.index(r.subset))
        print_table(
            f"{scores.main} by subset",
            ["subset", "metric", f"score, {with_bounds}", "of"],
            [[r.subset, _who(r), _number(r), f"{r.n} {r.over}"] for r in in_subsets],
            n_left=2,
        )
    if scores.reliability:
        print_table(
            "raters among themselves",
            ["measure", with_bounds, "of"],
            [[r.measure, _number(r), f"{r.n} {r.over}"] for r in scores.reliability],
        )
    if scores.comparisons:
        print_table(
            f"{scores.main}, first minus second; {scores.test}; p with Holm's correction over all "
            f"{len(scores.comparisons)}",
            ["first", "second", f"difference, {with_bounds}", "p", "p corrected"],
            [[c.first, c.second, _difference(c), p_value(c.p), p_value(c.p_holm)] for c in scores.comparisons],
            n_left=2,
        )
        say(f"tied with the best: {', '.join(scores.tied_with_best)}")


def notes_of(scores: Scores) -> Iterator[str]:
    """What was left out, and why a number is missing."""
    yield from scores.left_out
    yield from scores.notes
    missing: dict[str, list[str]] = {}
    for each in (*scores.results, *scores.ceiling, *scores.reliability):
        if each.value is None:
            who = f"{each.metric or 'people'}, {each.measure}" + (f", {each.subset}" if each.subset else "")
            missing.setdefault(each.reason, []).append(who)
    for reason, of in missing.items():
        yield f"–: {'; '.join(of)}: {reason}"


def _who(of: Result) -> str:
    return of.metric or (TWO_PEOPLE if of.measure.endswith(ONE_RATER) else ONE_PERSON)


def _by_measure(results: Sequence[Result]) -> list[Result]:
    order = list(dict.fromkeys(each.measure for each in results))
    return sorted(results, key=lambda each: order.index(each.measure))


def _number(of: Result) -> str:
    low, high = of.over_targets or (None, None)
    return number({"value": of.value, "low": low, "high": high})


def _over_raters(of: Result) -> str:
    return "–" if of.over_raters is None else f"[{of.over_raters[0]:.3f}, {of.over_raters[1]:.3f}]"


def _difference(of: Comparison) -> str:
    return number({"value": of.difference, "low": of.low, "high": of.high})


def write_scores(
    scores: Scores, judgements: "Judgements", distances: Mapping[str, "Floats"], metrics: Any, out: Path
) -> None:
    """Write `scores.json` and `judgements.csv`, a row per judgement with the distances, into a new folder.

    Args:
        metrics: spec → what decides that distance.

    Raises:
        FinerRankError: `out` exists already, or cannot be written.
    """
    from benchmark.human_agreement.compared import COMPARED
    from galleries.image_set import new_folder
    from galleries.tables import write_csv

    pairs = COMPARED[judgements.kind]
    columns = {(spec, k): f"{spec} {i}-{j}" for spec in distances for k, (i, j) in enumerate(pairs)}
    rows = []
    for place, row in enumerate(judgements.rows):
        cells = {
            "images": json.dumps([str(path) for path in row.images], ensure_ascii=False),
            "answer": repr(float(row.answer)), "target": row.target, "rater": row.rater, "n_votes": str(row.n_votes),
            "split": row.split, "subset": row.subset, "where": row.where,
        }  # fmt: skip
        cells |= {name: repr(float(distances[spec][place, k])) for (spec, k), name in columns.items()}
        rows.append(cells)
    with new_folder(out) as folder:
        content = {"metrics": metrics, **scores.as_json()}
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2, default=str)
        (folder / "scores.json").write_text(text + "\n", encoding="utf-8")
        write_csv(folder / "judgements.csv", [*COLUMNS, *columns.values()], rows)
