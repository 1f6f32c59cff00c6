"""`finer-rank neighbours`"""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.options import Device

app = typer.Typer()


@app.command()
def neighbours(
    record: Annotated[Path, typer.Argument(help="A record folder that evaluate --out wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf, .svg, .jpg or .webp.")],
    worst: Annotated[int, typer.Option(min=1, max=100, help="How many queries, the worst first.")] = 12,
    best: Annotated[bool, typer.Option(help="The highest instead.")] = False,
    identity: Annotated[str, typer.Option(help="Only queries that ask for this identity.", show_default=False)] = "",
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours to draw.")] = 6,
    gallery: Annotated[Path | None, typer.Option(help="Where the gallery lies now, if it was moved.")] = None,
    run: Annotated[Path | None, typer.Option(help="Where the run lies now, if it was moved.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Below: where the encoder looked. No score.")] = False,
    embedder: Annotated[
        str, typer.Option(help="The record's encoder with its weights file, for --explain.", show_default=False)
    ] = "",
    matches: Annotated[
        str,
        typer.Option(
            help="Below: keypoints that a model matches: FOLDER, or ETH-CVG/lightglue_superpoint.", show_default=False
        ),
    ] = "",
    device: Device = "auto",
) -> None:
    """Draw queries with their nearest gallery photos, right ones and wrong ones told apart.

    Example: finer-rank neighbours records/ip_adapter--dinov2--1a2b3c4d --worst 8 --out strips.png
    """
    from benchmark.records import read_record
    from galleries.console import say
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from galleries.gallery import Gallery
    from leaderboard.strips import choose_queries, draw_strips
    from personalization_runs.run import Run

    read = read_record(record)
    places = {"gallery": gallery, "run": run}
    for name, given in places.items():
        if given is None and name not in read.places:
            raise FinerRankError(f"{record}: does not say where the {name} lies; name it with --{name}")
    opened_gallery = Gallery.open(gallery or read.places["gallery"])
    opened_run = Run.open(run or read.places["run"])
    rows = choose_queries(read, worst, best, identity)
    check_format(out)
    explanation = None
    if embedder and not explain:
        raise FinerRankError(f"--embedder {embedder}: says what to explain; add --explain")
    if explain or matches:
        from benchmark.explain import KeypointMatcher
        from leaderboard.explanations import Explanation, recorded_embedder

        looking = recorded_embedder(read, embedder, device) if explain else None
        matcher = KeypointMatcher(matches, device) if matches else None
        explanation = Explanation(read, opened_gallery, opened_run, looking, matcher)
    draw_strips(read, opened_gallery, opened_run, rows, k, out, explanation)
    say(f"{out}: {len(rows)} queries")
