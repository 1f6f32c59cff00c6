"""`finer-rank bench board`."""

from pathlib import Path
from typing import Annotated

import typer

from galleries.options import AsJson

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
    as_json: AsJson = False,
) -> None:
    """Measure the leaderboard at size: bundles are made, their site is built, and a browser uses it.

    Example: finer-rank bench board --models 500 --embedders 1
    """
    import os
    import shutil
    from importlib.util import find_spec

    from galleries.console import note, print_json, print_table
    from galleries.errors import FinerRankError
    from leaderboard.bench_board import BROWSERS, TARGETS, bench_board
    from leaderboard.made_board import MadeBoard

    if queries % identities:
        raise FinerRankError(f"--queries {queries}: not a multiple of --identities {identities}; name one that is")
    if browser and not (browser.is_file() and os.access(browser, os.X_OK)):
        raise FinerRankError(f"--browser {browser}: no such program; name a Chromium, or leave --browser out")
    path = str(browser) if browser else next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None or find_spec("playwright") is None:
        note(f"left out: times in a browser; {'install Chromium' if path is None else 'pip install playwright'}")
        path = None
    found = bench_board(MadeBoard(models, embedders, queries, identities, thumbnails), path)
    if as_json:
        print_json({**found, "targets": TARGETS})
        return
    rows = [
        [key, f"{value:.3g}" if isinstance(value, float) else str(value), f"{TARGETS[key]:g}" if key in TARGETS else ""]
        for key, value in found.items()
    ]
    print_table("board", ["", "", "target at most"], rows)
