"""`finer-rank bench board`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.options import one_of
from galleries.options import AsJson

PARTS = ("site", "scoring")

app = typer.Typer()


@app.command()
def board(
    models: Annotated[int, typer.Option(min=2, help="Models; each has a bundle.")] = 50,
    embedders: Annotated[int, typer.Option(min=1, help="Encoders; each bundle has a record by each.")] = 10,
    queries: Annotated[int, typer.Option(min=1, help="Queries of each record; a multiple of --identities.")] = 1000,
    identities: Annotated[int, typer.Option(min=8, help="Identities of the gallery.")] = 100,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Bundles hold pictures; takes far longer.")] = False,
    browser: Annotated[
        Path | None, typer.Option(help="A Chromium; without it the one that is installed.", show_default=False)
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(
            "--embedder", "-e", help="Of the scoring, as for evaluate; three without a download by default. Repeatable."
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="One part: site or scoring; both by default.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Measure the leaderboard: a large one's site, and what it costs to score one.

    Site: bundles are made, their site is built, and a browser uses it. Scoring: a board of 7 simulated models with 150
    images each, on 150 photos and 150 references, is scored by 3 encoders, once more with an eighth model, and again
    with everything stored; forward passes are counted. The other sizes are those of the site.

    Example: finer-rank bench board --models 500 --embedders 1

    Example: finer-rank bench board --only scoring
    """
    from galleries.console import print_json, print_table, progress_bars
    from galleries.errors import FinerRankError

    one_of("--only", only or None, PARTS)
    if only == "site" and embedder:
        raise FinerRankError("--embedder: is for the scoring; leave it or --only site out")
    found: dict[str, Any] = {}
    if only != "scoring":
        from leaderboard.bench_board import TARGETS

        found = {**_site(models, embedders, queries, identities, thumbnails, browser), "targets": TARGETS}
    if only != "site":
        from benchmark.bench.scoring import TARGETS as SCORING_TARGETS
        from benchmark.bench.scoring import DrawnBoard, bench_scoring

        with progress_bars() as progress:
            scoring = bench_scoring(DrawnBoard(), embedder or (), progress=progress)
        found["scoring"] = {**scoring, "targets": SCORING_TARGETS}
    if as_json:
        print_json(found)
        return
    scoring = found.pop("scoring", {})
    for title, part in (("board", found), ("scoring", scoring)):
        if part:
            print_table(title, ["", "", "target at most"], _rows(part))


def _site(
    models: int, embedders: int, queries: int, identities: int, thumbnails: bool, browser: Path | None
) -> dict[str, Any]:
    import os
    import shutil
    from importlib.util import find_spec

    from galleries.console import note
    from galleries.errors import FinerRankError
    from leaderboard.bench_board import BROWSERS, bench_board
    from leaderboard.made_board import MadeBoard

    if queries % identities:
        raise FinerRankError(f"--queries {queries}: not a multiple of --identities {identities}; name one that is")
    if browser and not (browser.is_file() and os.access(browser, os.X_OK)):
        raise FinerRankError(f"--browser {browser}: no such program; name a Chromium, or leave --browser out")
    path = str(browser) if browser else next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None or find_spec("playwright") is None:
        note(f"left out: times in a browser; {'install Chromium' if path is None else 'pip install playwright'}")
        path = None
    return bench_board(MadeBoard(models, embedders, queries, identities, thumbnails), path)


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    targets = found["targets"]
    shown = {key: ", ".join(value) if isinstance(value, list) else value for key, value in found.items()}
    return [
        [key, f"{value:.3g}" if isinstance(value, float) else str(value), f"{targets[key]:g}" if key in targets else ""]
        for key, value in shown.items()
        if key != "targets"
    ]
