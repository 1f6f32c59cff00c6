"""`finer-rank gallery build critters`"""

from typing import Annotated

import typer

from galleries.build_commands import close
from galleries.options import Name, Out, Version

Species = Annotated[int, typer.Option(help="Categories: species of drawn animals.")]
Identities = Annotated[int, typer.Option(help="Individuals of each species.")]
Photos = Annotated[int, typer.Option(help="Gallery photos of each individual.")]
References = Annotated[int, typer.Option(help="References of each individual, besides these.")]
Size = Annotated[int, typer.Option(help="Side of the photos in pixels, 64 to 512.")]
Seed = Annotated[int, typer.Option(help="Galleries of two seeds share no species and no individual.")]
Masks = Annotated[bool, typer.Option("--masks", help="Write each animal's mask too.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that draw; 0 for one a core. The photos are the same, to the byte.")
]


def build_critters(
    out: Out,
    species: Species = 4,
    identities: Identities = 8,
    photos: Photos = 8,
    references: References = 3,
    size: Size = 160,
    seed: Seed = 1,
    masks: Masks = False,
    workers: Workers = 0,
    name: Name = "",
    version: Version = "1",
) -> None:
    """Drawn animals, whose identity is known: for demonstrations, tests, and to calibrate scores.

    Individuals of a species differ in details only: spots, markings, small proportions. Photos differ in pose, light,
    place and lens. References and gallery photos never share an encounter, and no scene is drawn twice.

    Example: finer-rank gallery build critters --out critters
    """
    import os

    from galleries.console import progress_bars
    from galleries.critters.drawn_gallery import Plan, draw_gallery

    plan = Plan(seed, species, identities, photos, references, size, masks)
    with progress_bars() as progress:
        step = progress("drawing", plan.total) if progress else None
        gallery = draw_gallery(plan, out, name, version, workers=workers or os.cpu_count() or 1, step=step)
    close(gallery, out)


def add_critters(app: typer.Typer) -> None:
    """Give `gallery build` its `critters`."""
    app.command("critters")(build_critters)
