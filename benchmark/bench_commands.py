"""`finer-rank bench …`: speed as ratios measured side by side."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.options import BatchSize, Compile, Device, Precision, load_embedders
from galleries.options import AsJson

app = typer.Typer(no_args_is_help=True, help="Measure speed, as ratios within one run.")


@app.command()
def ranking(
    queries: Annotated[int, typer.Option(min=1, help="Generated images.")] = 1000,
    gallery: Annotated[int, typer.Option(min=2, help="Photos.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of an embedding.")] = 512,
    relevant: Annotated[int, typer.Option(min=1, help="Relevant photos of each query.")] = 10,
    categories: Annotated[
        int, typer.Option(min=1, help="Pools that are ranked apart; queries and photos are divided among them.")
    ] = 1,
    half: Annotated[bool, typer.Option("--half", help="The gallery is of float16.")] = False,
    mapped: Annotated[
        bool, typer.Option("--mapped", help="Read the gallery from a store on disk, in blocks; a tenth of it as well.")
    ] = False,
    growth: Annotated[
        bool, typer.Option("--growth", help="How time grows with each of --queries, --gallery, --dim, --relevant.")
    ] = False,
    others: Annotated[bool, typer.Option(help="Measure an argsort loop and other libraries too; takes longer.")] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Exact ranks against the bare matrix product, side by side in this process, on made rows.

    Rows point anywhere, which is the worst case. Memory is that of a process of its own.

    Example: finer-rank bench ranking --queries 50000 --gallery 500000 --categories 10000
    """
    from benchmark.bench.ranking import GROWN, Size, bench_growth, bench_mapped, bench_ranking
    from galleries.console import note, print_json, print_table
    from galleries.errors import FinerRankError

    for option, value in (("--queries", queries), ("--gallery", gallery)):
        if value % categories:
            raise FinerRankError(f"{option} {value}: not a multiple of --categories {categories}; name one that is")
    most = gallery // categories // (10 if mapped else GROWN if growth else 1) - 1
    if relevant > most:
        raise FinerRankError(f"--relevant {relevant}: at most {most} with so few photos; name fewer, or more --gallery")
    if mapped + growth + half > 1 or (mapped and categories > 1):
        raise FinerRankError("--mapped, --growth, --half: name one of them, and --mapped without --categories")
    size = Size(queries, gallery, dim, relevant, categories, half)
    if mapped:
        found = bench_mapped(size, repeats)
    elif growth:
        found = bench_growth(size, repeats)
    else:
        found = bench_ranking(size, repeats, others=others and not half, warn=note)
    if as_json:
        print_json(found)
        return
    rows = {key: value for key, value in found.items() if not isinstance(value, dict)}
    rows |= {f"{key} of {k}": v for key, value in found.items() if isinstance(value, dict) for k, v in value.items()}
    print_table("ranking", ["", ""], [[k, f"{v:.3g}" if isinstance(v, float) else str(v)] for k, v in rows.items()])


@app.command()
def embedding(
    embedder: Annotated[
        list[str], typer.Option("--embedder", "-e", help="Name, or family:model\\[@weights file]. Repeatable.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, with those below it; made JPEGs without it.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, at most.")] = 128,
    made_px: Annotated[int, typer.Option("--made-px", min=16, help="Width and height of made JPEGs.")] = 512,
    batch_size: BatchSize = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 3,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Take random weights, where those of the network are not at hand.")
    ] = False,
    precision: Precision = "fp32",
    compiled: Compile = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Image files to stored embeddings against the bare forward pass, side by side in this process.

    Several embedders are also measured in one pass against one after another. Building networks is not counted.

    Example: finer-rank bench embedding -e timm:vit_base_patch16_224 --random-weights --images photos
    """
    import tempfile
    from contextlib import nullcontext

    from benchmark.bench.embedding import bench_embedding, images_below, made_images, with_random_weights
    from galleries.console import print_json, print_table

    source = nullcontext(images_below(images, count)) if images else made_images(count, made_px)
    with tempfile.TemporaryDirectory(prefix="finer-rank-") as folder, source as paths:
        specs = [with_random_weights(spec, Path(folder)) for spec in embedder] if random_weights else embedder
        loaded, _ = load_embedders(specs, None, None, None, precision, device, Path(folder), compiled)
        found = bench_embedding(loaded, paths, batch_size, repeats)
    if as_json:
        print_json(found)
        return

    def shown(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    for one in found.pop("embedders"):
        print_table(one.pop("embedder"), ["", ""], [[key, shown(value)] for key, value in one.items()])
    print_table("embedding", ["", ""], [[key, shown(value)] for key, value in found.items()])


@app.command()
def store(
    rows: Annotated[int, typer.Option(min=1, help="Embeddings.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of an embedding.")] = 768,
    small: Annotated[int, typer.Option(min=1, help="Shards of ten embeddings, of which many are read.")] = 500,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """The embedding store against the bare writing and reading of the same bytes, in a temporary folder.

    Example: finer-rank bench store --rows 1000000
    """
    from benchmark.bench.store import bench_store
    from galleries.console import print_json, print_table

    found = bench_store(rows, dim, small, repeats)
    if as_json:
        print_json(found)
        return
    print_table("store", ["", ""], [[k, f"{v:.3g}" if isinstance(v, float) else str(v)] for k, v in found.items()])
