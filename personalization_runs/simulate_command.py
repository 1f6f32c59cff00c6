"""`finer-rank run simulate`"""

from pathlib import Path
from typing import Annotated

import typer

from galleries.options import Out

GROUPS = "pattern,colour,proportions"


def simulate(
    out: Out,
    gallery: Annotated[Path, typer.Option("--gallery", "-g", help="Gallery made by gallery build critters.")],
    drift: Annotated[
        float, typer.Option(help="How far each individual's details are moved: 0 is faithful, 1 is somebody else.")
    ] = 0.0,
    groups: Annotated[str, typer.Option(help="Which details are moved.")] = GROUPS,
    toward: Annotated[
        str, typer.Option(help="other: somebody else of the species; mean: the species' mean.")
    ] = "other",
    failure: Annotated[
        str,
        typer.Option(
            help="class-only, look-alike, copied-reference, collapse, background-leak or prompts-ignored, in place of "
            "drift.",
            show_default=False,
        ),
    ] = "",
    images: Annotated[int, typer.Option(help="Of each individual, each in another place; 1 to 8.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Runs of one seed draw the same scenes.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=512, help="Side of the images in pixels.")] = 160,
    model: Annotated[str, typer.Option(help="Name of the model; that of the folder by default.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw; 0 for one a core.")] = 0,
) -> None:
    """Draw what a simulated model makes of a gallery of critters: its loss of identity is known.

    Example: finer-rank run simulate --gallery critters --drift 0.5 --out runs/half-lost
    """
    import os

    from galleries.console import progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_existing
    from personalization_runs.simulate import FAILURES, TOWARD, SimulatedModel
    from personalization_runs.simulate import simulate as draw_run

    for option, value, known in (("toward", toward, TOWARD), ("failure", failure, ("", *FAILURES))):
        if value not in known:
            raise FinerRankError(f"--{option} {value}: unknown; write {', '.join(filter(None, known))}")
    refuse_existing(out)
    simulated = SimulatedModel(drift, tuple(filter(None, groups.split(","))), toward, failure)  # type: ignore[arg-type]
    opened = Gallery.open(gallery)
    name = model or out.resolve().name
    with progress_bars() as progress:
        step = progress("drawing", images * len(opened.category_of)) if progress else None
        run = draw_run(
            opened, simulated, out, name,
            n_images=images, seed=seed, size_px=size, workers=workers or os.cpu_count() or 1, step=step,
        )  # fmt: skip
    say(f"{out}: {len(run.images)} images")
