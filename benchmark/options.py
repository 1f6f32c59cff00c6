"""Options that commands with an embedder share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmark.embedders import Embedder
    from galleries.errors import Fault
    from personalization_runs.run import Run

RESIZES = ("squash", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")

GalleryOption = Annotated[
    Path, typer.Option("--gallery", "-g", help="Gallery folder, or any tree that gallery check accepts.")
]
Runs = Annotated[
    list[Path] | None,
    typer.Option("--run", "-r", help="Run folder, or a folder of imported runs. Repeatable."),
]
Resize = Annotated[
    str | None, typer.Option(help="squash, crop or pad, in place of the model's own way.", show_default=False)
]
Size = Annotated[int | None, typer.Option(help="Input size in pixels, in place of the model's own.")]
Interpolation = Annotated[
    str | None, typer.Option(help="bilinear, bicubic, lanczos or nearest. With --resize or --size: bicubic.")
]
Precision = Annotated[str, typer.Option(help="fp32 or bf16; recorded.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images per forward pass; halved when memory ends.")]
Store = Annotated[Path | None, typer.Option(help="Embedding store; $FINER_RANK_STORE or your cache folder by default.")]


def one_of(option: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        FinerRankError: it is not.
    """
    from galleries.errors import FinerRankError

    if value is not None and value not in known:
        raise FinerRankError(f"{option} {value}: unknown; write {', '.join(known)}")


def load_embedders(
    specs: Sequence[str],
    resize: str | None,
    size: int | None,
    interpolation: str | None,
    precision: str,
    device: str,
    store: Path | None,
) -> "tuple[list[Embedder], Path]":
    """The embedders that the options describe, and the store's folder.

    Raises:
        FinerRankError: an option that makes no sense, or an unknown embedder.
    """
    from benchmark.embedders import load_embedder
    from benchmark.store import default_store
    from galleries.errors import FinerRankError

    one_of("--resize", resize, RESIZES)
    one_of("--interpolation", interpolation, INTERPOLATIONS)
    if len(set(specs)) < len(specs):
        raise FinerRankError("--embedder: one is named twice; name each once")
    root = store or default_store()
    embedders = [
        load_embedder(
            spec,
            resize=resize,  # type: ignore[arg-type]
            size=size,
            interpolation=interpolation,  # type: ignore[arg-type]
            precision=precision,
            device=device,
            memo=root,
        )
        for spec in specs
    ]
    return embedders, root


def load_runs(paths: Sequence[Path]) -> "tuple[list[Run], list[Fault]]":
    """The runs at these paths, each a run or a folder of runs, and what is wrong with opening them."""
    from galleries.errors import below
    from personalization_runs.run import Run

    runs: list[Run] = []
    faults: list[Fault] = []
    for folder in (folder for path in paths for folder in _run_folders(path)):
        run, wrong = Run.load(folder)
        runs.append(run)
        faults += below(run.root, wrong)
    return runs, faults


def _run_folders(path: Path) -> list[Path]:
    """A run folder itself, or the runs in a folder of runs."""
    from galleries.tables import find_metadata
    from personalization_runs.run import CARD_NAME

    if not path.is_dir() or (path / CARD_NAME).is_file() or find_metadata(path):
        return [path]
    return sorted(card.parent for card in path.glob(f"*/{CARD_NAME}")) or [path]
