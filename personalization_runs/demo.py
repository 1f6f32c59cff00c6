"""The demonstration: a drawn gallery, and five simulated models whose truth is known."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galleries.critters.drawn_gallery import Plan, draw_gallery
from galleries.image_set import new_folder
from personalization_runs.simulate import SimulatedModel, simulate

PLAN = Plan(n_species=4, n_identities=6, n_photos=6, n_references=2)
N_IMAGES = 4
MODELS = {
    "faithful": SimulatedModel(),
    "half-lost": SimulatedModel(drift=0.5),
    "look-alike": SimulatedModel(failure="look-alike"),
    "collapse": SimulatedModel(failure="collapse"),
    "copied-reference": SimulatedModel(failure="copied-reference"),
}
"""By name; each is asked for `N_IMAGES` images of every individual."""


def write_demo(out: Path, step: Callable[[int], Any] | None = None) -> None:
    """Write `gallery`, and `runs` with a run of each of `MODELS`, below `out`.

    Raises:
        FinerRankError: `out` exists, or cannot be written.
    """
    workers = os.cpu_count() or 1
    with new_folder(out) as partial:
        gallery = draw_gallery(PLAN, partial / "gallery", "critters", workers=workers, step=step)
        (partial / "runs").mkdir()
        for name, model in MODELS.items():
            simulate(gallery, model, partial / "runs" / name, name, n_images=N_IMAGES, workers=workers, step=step)


def total() -> int:
    """Pictures to be drawn."""
    return PLAN.total + len(MODELS) * N_IMAGES * PLAN.n_species * PLAN.n_identities
