"""`finer-rank calibrate`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import BatchSize, Device, Precision, Store, load_embedders
from galleries.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.calibration import Calibration

DEFAULT_EMBEDDERS = ("critter-reid", "classical")

app = typer.Typer()


@app.command()
def calibrate(
    embedder: Annotated[
        list[str] | None,
        typer.Option("--embedder", "-e", help="As for evaluate; critter-reid and classical by default. Repeatable."),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option("--gallery", "-g", help="Folder made by gallery build critters; without it one is drawn."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for calibration.json and, in world/, what was drawn.")] = Path(
        "calibration"
    ),
    species: Annotated[int | None, typer.Option(min=1, help="Species of a drawn gallery: 4.")] = None,
    identities: Annotated[int | None, typer.Option(min=2, help="Individuals of each species: 8.")] = None,
    images: Annotated[int, typer.Option(min=1, max=8, help="Of each individual by each simulated model.")] = 4,
    levels: Annotated[int, typer.Option(min=3, help="Levels of drift, from none to full.")] = 9,
    size: Annotated[int, typer.Option(min=64, max=512, help="Side of the pictures in pixels.")] = 160,
    seed: Annotated[int, typer.Option(min=0, help="Of the world.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Picture of the scores against drift.", show_default=False)] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say which scores follow identity under an embedder: on drawn animals, by models whose loss of identity is known.

    A world that lies in --out already is used again, so that another embedder costs no drawing.

    Example: finer-rank calibrate --embedder critter-reid --embedder dinov2 --plot calibration.png
    """
    import json

    from benchmark.calibration import calibrations, make_world
    from benchmark.calibration_plot import draw_calibrations
    from galleries.console import note, print_json, progress_bars
    from galleries.critters.drawn_gallery import Plan
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from galleries.gallery import Gallery

    if plot is not None:
        check_format(plot)
    # The word critters, where there is no such folder, asks for the gallery that is drawn without the option.
    is_given = gallery is not None and (gallery != Path("critters") or gallery.exists())
    if is_given and (species or identities):
        raise FinerRankError(f"--gallery {gallery}: has its own; leave --species and --identities out")
    embedders, root = load_embedders(embedder or DEFAULT_EMBEDDERS, None, None, None, precision, device, store)
    of = Gallery.open(gallery) if gallery and is_given else Plan(seed, species or 4, identities or 8, size_px=size)
    with progress_bars() as progress:
        world = make_world(
            out / "world", of, n_images=images, n_levels=levels, seed=seed, size_px=size, progress=progress
        )
        found = calibrations(world, embedders, root, batch_size=batch_size, progress=progress, warn=note)
    content = [each.as_json() for each in found]
    (out / "calibration.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if plot is not None:
        draw_calibrations(found, plot)
    if as_json:
        print_json(content)
        return
    _print(found)
    note(f"{out}: calibration.json, world")


def _print(found: "Sequence[Calibration]") -> None:
    from dataclasses import asdict

    from benchmark.report import number
    from galleries.console import print_table

    for each in found:
        rows = [
            [
                response.metric,
                number(asdict(response.values[0])),
                number(asdict(response.values[-1])),
                number(asdict(response.change) if response.change else None),
                number(asdict(response.spearman) if response.spearman else None),
                f"{response.n_down} of {len(each.levels) - 1}",
                "never" if response.told_apart_from is None else f"{response.told_apart_from:.3g}",
                *("never" if drift is None else f"{drift:.3g}" for drift in response.told_apart_with.values()),
            ]
            for response in each.responses
        ]
        sizes = list(each.responses[0].told_apart_with) if each.responses else []
        columns = ["score", "no drift", "full drift", "relative change", "Spearman", "steps down", "told apart from"]
        print_table(f"{each.embedder}: scores against drift", [*columns, *(f"with {n}" for n in sizes)], rows)
        failures = list(dict.fromkeys(reaction.failure for reaction in each.reactions))
        cells = {(r.metric, r.failure): f"{r.value.value:.3f} {r.verdict}" for r in each.reactions}
        print_table(
            f"{each.embedder}: failures against the faithful model",
            ["score", *failures],
            [
                [metric, *(cells.get((metric, f), "–") for f in failures)]
                for metric in dict.fromkeys(m for m, _ in cells)
            ],
        )
