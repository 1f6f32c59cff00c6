"""`finer-rank agreement show`: what human data hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.human_judgements.judgements import Judgements

app = typer.Typer()

MAX_NAMES = 10


@app.command()
def show(
    judgements: Annotated[
        list[Path],
        typer.Argument(help="NIGHTS, BAPPS, THINGS, DreamBench++, a plain table, a result of collect."),
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="Only these: 2afc, jnd, odd-one-out, ranking or rating.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what human data hold: judgements by split and subset, targets, raters, votes, what is left out and why, and
    whether a published data set is whole. All images must be there.

    Example: finer-rank agreement show nights bapps/2afc/val answers.csv
    """
    from benchmark.human_judgements.judgements import KINDS
    from benchmark.human_judgements.sources import kind_of, source_of
    from benchmark.options import one_of
    from galleries.console import print_json

    one_of("--kind", kind, KINDS)
    asked: Any = kind
    found = []
    for path in judgements:
        source = source_of(path)
        for each in (kind_of(path, asked),) if asked else source.kinds(path):
            found.append(_described(source.read(path, each), source.PUBLISHED.get(each, {})))
    if as_json:
        print_json(found)
        return
    for description in found:
        _print(description)


def _described(judgements: "Judgements", published: dict[tuple[str, str], range]) -> dict[str, Any]:
    from collections import Counter

    rows = judgements.rows
    counts = Counter((row.split, row.subset) for row in rows)
    by_rater = Counter(row.rater for row in rows if row.rater)
    return {
        "name": judgements.name,
        "kind": judgements.kind,
        "path": judgements.source,
        "n_judgements": len(rows),
        "n_images": len({path for row in rows for path in row.images}),
        "n_targets": len(judgements.targets),
        "raters": dict(sorted(by_rater.items())),
        "raters_with_one_judgement": sorted(rater for rater, n in by_rater.items() if n == 1),
        "votes": {str(n): count for n, count in sorted(Counter(row.n_votes for row in rows).items())},
        "parts": [
            {"split": split, "subset": subset, "n_judgements": n} for (split, subset), n in sorted(counts.items())
        ],
        "left_out": judgements.left_out,
        "published": [
            {
                "split": split,
                "subset": subset,
                "n_judgements": n,
                "lowest": expected.start,
                "highest": expected.stop - 1,
                "is_whole": n in expected,
            }
            for (split, subset), expected in published.items()
            if (n := len(judgements.only(split=split, subset=subset).rows)) or not split
        ],
    }


def _print(found: dict[str, Any]) -> None:
    from galleries.console import print_table, say

    parts = [[part["split"] or "–", part["subset"] or "–", f"{part['n_judgements']:,}"] for part in found["parts"]]
    say(
        f"{found['name']}: {found['n_judgements']:,} {found['kind']} judgements about {found['n_targets']:,} targets, "
        f"{found['n_images']:,} images"
    )
    print_table("", ["split", "subset", "judgements"], parts, n_left=2)
    votes = ", ".join(f"{n} in {count:,}" for n, count in found["votes"].items())
    say(f"votes per judgement: {votes}")
    n_raters, alone = len(found["raters"]), found["raters_with_one_judgement"]
    say(f"raters: {n_raters:,}" if n_raters else "raters: not named")
    if alone:
        more = f" and {len(alone) - MAX_NAMES:,} more" if len(alone) > MAX_NAMES else ""
        say(f"raters with a single judgement: {', '.join(alone[:MAX_NAMES])}{more}")
    for line in found["left_out"]:
        say(f"left out: {line}")
    for part in found["published"]:
        name = " ".join(filter(None, (part["split"], part["subset"]))) or "all"
        low, high = part["lowest"], part["highest"]
        expected = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        verdict = "as published" if part["is_whole"] else f"not as published: {expected} are expected"
        say(f"{name}: {part['n_judgements']:,}, {verdict}")
