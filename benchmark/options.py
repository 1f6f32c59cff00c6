"""Options that commands with an embedder share."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmark.cluster import Cluster
    from benchmark.embedders import Embedder
    from benchmark.store import Root
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
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile networks by torch.compile: minutes at first, faster after; recorded, as bits change."
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images per forward pass; halved when memory ends.")]
Store = Annotated[
    str | None,
    typer.Option(help="Embedding store, a folder or s3://…; $FINER_RANK_STORE or your cache folder by default."),
]

Memory = Annotated[
    str,
    typer.Option(
        help="For the rows of an embedder, such as 500MB or 8GB: more of them are read from a file (in $TMPDIR), block "
        "by block. Half of this machine's by default.",
        show_default=False,
    ),
]
Engine = Annotated[str, typer.Option(help="local: embed in this process; ray: by workers (extra cluster).")]
Address = Annotated[
    str,
    typer.Option(help="With --engine ray: a cluster, such as auto; this machine by default.", show_default=False),
]
Workers = Annotated[
    int, typer.Option(min=0, help="With --engine ray: how many; 0: one per GPU, or per machine without any.")
]
ENGINES = ("local", "ray")


def one_of(option: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        FinerRankError: it is not.
    """
    from galleries.errors import FinerRankError

    if value is not None and value not in known:
        raise FinerRankError(f"{option} {value}: unknown; write {', '.join(known)}")


def memory_bytes(text: str) -> int:
    """The bytes that `--memory` allows.

    Raises:
        FinerRankError: it names no amount.
    """
    from galleries.errors import FinerRankError

    if not text:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 * 10**9
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB)", text.strip(), re.IGNORECASE)
    if not found:
        raise FinerRankError(f"--memory {text}: names no amount; write such as 500MB or 8GB")
    return int(float(found[1]) * {"MB": 10**6, "GB": 10**9, "TB": 10**12}[found[2].upper()])


def cluster_of(engine: str, address: str, workers: int, device: str) -> "Cluster | None":
    """The cluster that the options describe; None where this process is to embed.

    Raises:
        FinerRankError: options that exclude one another.
    """
    from galleries.errors import FinerRankError

    one_of("--engine", engine, ENGINES)
    if engine == "local":
        for option, value in ("--address", address), ("--workers", workers):
            if value:
                raise FinerRankError(f"{option} {value}: is for workers; give --engine ray with it")
        return None
    from benchmark.cluster import Cluster

    return Cluster(address, workers, device)


def load_embedders(
    specs: Sequence[str],
    resize: str | None,
    size: int | None,
    interpolation: str | None,
    precision: str,
    device: str,
    store: "Root | None",
    is_compiled: bool = False,
) -> "tuple[list[Embedder], Root]":
    """The embedders that the options describe, and the store's folder or URL.

    Raises:
        FinerRankError: an option that makes no sense, or an unknown embedder.
    """
    from benchmark.embedders import load_embedder
    from benchmark.store import store_at
    from galleries.errors import FinerRankError

    one_of("--resize", resize, RESIZES)
    one_of("--interpolation", interpolation, INTERPOLATIONS)
    if len(set(specs)) < len(specs):
        raise FinerRankError("--embedder: one is named twice; name each once")
    root = store_at(store)
    embedders = [
        load_embedder(
            spec,
            resize=resize,  # type: ignore[arg-type]
            size=size,
            interpolation=interpolation,  # type: ignore[arg-type]
            precision=precision,
            device=device,
            memo=root,
            is_compiled=is_compiled,
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
