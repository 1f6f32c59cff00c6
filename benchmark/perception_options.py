"""Options that the commands of `finer-rank perception` share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmark.distances import Distance
    from benchmark.store import Root

Triplets = Annotated[
    list[Path], typer.Argument(help="Human data with triplets, as for agreement score. Several are pooled.")
]
Embedders = Annotated[list[str], typer.Option("--embedder", "-e", help="As for evaluate. Repeatable.")]
Metrics = Annotated[
    list[str],
    typer.Option("--metric", "-m", help="An embedder or a distance: dinov2, lpips. Repeatable."),
]
Sizes = Annotated[int | None, typer.Option(help="Squash images to so many pixels, in place of the model's own way.")]


def load_metrics(
    specs: Sequence[str], size: int | None, precision: str, device: str, store: "Root | None"
) -> "tuple[list[Distance], Root]":
    """The distances that the options name, and the store's folder.

    Raises:
        FinerRankError: an option that makes no sense, or an unknown metric.
    """
    from benchmark.distances import load_distance
    from benchmark.store import store_at
    from galleries.errors import FinerRankError

    if len(set(specs)) < len(specs):
        raise FinerRankError("--metric: one is named twice; name each once")
    root = store_at(store)
    return [load_distance(spec, size=size, device=device, precision=precision, memo=root) for spec in specs], root
