"""What scoring a board costs: forward passes, counted, and the time of `finer-rank evaluate` as it is run by hand."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.embedders import published_spec
from benchmark.options import load_embedders
from galleries.console import Progress
from galleries.critters.drawn_gallery import Plan, draw_gallery
from galleries.errors import FinerRankError
from galleries.images import sha256_of
from personalization_runs.simulate import SimulatedModel, simulate

TARGETS: dict[str, float] = {
    "passes_per_distinct_image": 1,
    "passes_per_distinct_image_of_added_run": 1,
    "forward_passes_of_rescoring": 0,
    "rescoring_s": 5,
}
"""At most, of the default board on two cores. Passes are counted per embedder."""
PAPER = Plan(n_species=5, n_identities=6, n_photos=5, n_references=5)
"""150 photos and 150 references, as many as in arXiv 2512.19026."""
RANDOM_NETWORK = "test_vit"
"""A small one of timm's architectures."""
FORMATS = (".jpg", ".png")


@dataclass(frozen=True)
class DrawnBoard:
    """A board of simulated models on drawn animals; by default of the size of the paper's.

    Attributes:
        n_runs: models to begin with; one more is added.
        n_images: by each model of each individual, 8 at most.
    """

    n_runs: int = 7
    gallery: Plan = PAPER
    n_images: int = 5

    @property
    def images_per_run(self) -> int:
        return self.n_images * self.gallery.n_species * self.gallery.n_identities

    @property
    def total(self) -> int:
        """Pictures to be drawn."""
        return self.gallery.total + (self.n_runs + 1) * self.images_per_run

    def draw(self, folder: Path, progress: Progress | None) -> tuple[Path, list[Path]]:
        """The gallery's folder, and those of the runs, the added one last."""
        workers = os.cpu_count() or 1
        step = progress("drawing", self.total) if progress else None
        gallery = draw_gallery(self.gallery, folder / "gallery", "critters", workers=workers, step=step)
        runs = []
        for i in range(self.n_runs + 1):
            model, out = SimulatedModel(drift=i / self.n_runs), folder / f"drift-{i}"
            simulate(gallery, model, out, out.name, n_images=self.n_images, workers=workers, step=step)
            runs.append(out)
        return gallery.root, runs


def bench_scoring(
    board: DrawnBoard, embedders: Sequence[str] = (), repeats: int = 3, progress: Progress | None = None
) -> dict[str, Any]:
    """Score a drawn board from an empty store, with a run more, and again: each in a process of its own.

    Args:
        embedders: specs; where empty, three that need no download: classical features, critter-reid, and a small
            vision transformer with random weights.
        repeats: of scoring again.

    Returns:
        What is on the board; forward passes as `evaluate --json` counts them beside the number of files that differ in
        content; seconds from the start of the process to its end, with records written, and of its processors' time.

    Raises:
        FinerRankError: the board cannot be scored by one of the embedders.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_embedders(embedders, None, None, None, "fp32", "auto", folder)  # unknown ones, before anything is drawn
        gallery, runs = board.draw(folder, progress)
        specs = list(embedders) or ["classical", "critter-reid", _random_network(folder)]
        load = os.getloadavg()[0]
        step = progress("scoring", 2 + repeats) if progress else lambda n: None
        scored = []
        for shown in (runs[:-1], *([runs] * (1 + repeats))):
            scored.append(_evaluate(gallery, shown, specs, folder))
            step(1)
        first, added, *rescored = scored
        before, after = (_distinct_images([gallery, *shown]) for shown in (runs[:-1], runs))
    return {
        "embedders": [published_spec(spec) for spec in specs],
        "runs": board.n_runs,
        "images_per_run": board.images_per_run,
        "gallery_photos_and_references": board.gallery.total,
        "distinct_images": before,
        "distinct_images_of_added_run": after - before,
        "forward_passes": first.forward_passes,
        "forward_passes_of_added_run": added.forward_passes,
        "forward_passes_of_rescoring": max(each.forward_passes for each in rescored),
        "passes_per_distinct_image": first.forward_passes / (before * len(specs)),
        "passes_per_distinct_image_of_added_run": added.forward_passes / ((after - before) * len(specs)),
        "scoring_s": first.seconds,
        "scoring_with_added_run_s": added.seconds,
        "rescoring_s": statistics.median(each.seconds for each in rescored),
        "rescoring_max_s": max(each.seconds for each in rescored),
        "rescoring_cpu_s": statistics.median(each.cpu_s for each in rescored),
        "cores": os.cpu_count(),
        "load_at_start": round(load, 2),
    }


def _random_network(folder: Path) -> str:
    """The spec of a small network with random weights, which it saves."""
    import timm
    import torch
    from safetensors.torch import save_file

    weights = folder / "random.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(RANDOM_NETWORK, num_classes=0).state_dict(), weights)
    return f"timm:{RANDOM_NETWORK}@{weights}"


@dataclass(frozen=True)
class _Scored:
    """What a process took, and its forward passes over all embedders."""

    seconds: float
    cpu_s: float
    forward_passes: int


def _evaluate(gallery: Path, runs: Sequence[Path], embedders: Sequence[str], folder: Path) -> _Scored:
    """Run `finer-rank evaluate`."""
    options = {"--gallery": [gallery], "--run": runs, "--embedder": embedders}
    options |= {"--store": [folder / "store"], "--out": [folder / "records"]}
    named = [str(part) for option, values in options.items() for value in values for part in (option, value)]
    used, start = _cpu_s_of_children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "finer_rank", "evaluate", *named, "--json"], capture_output=True, encoding="utf-8"
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        reason = (done.stderr.splitlines() or ["no reason given"])[-1]
        raise FinerRankError(f"the drawn board cannot be scored: {reason.removeprefix('finer-rank: ')}")
    passes = sum(of["forward_passes"] for of in json.loads(done.stdout)["embedding"].values())
    return _Scored(seconds, _cpu_s_of_children() - used, passes)


def _cpu_s_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _distinct_images(folders: Sequence[Path]) -> int:
    """Image files below the folders that differ in content; what `evaluate` says is not asked."""
    files = (path for folder in folders for path in folder.rglob("*") if path.suffix in FORMATS)
    return len({sha256_of(path.read_bytes()) for path in files})
