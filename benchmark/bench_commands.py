"""`finer-rank bench …`: speed as ratios measured side by side."""

from typing import Annotated

import typer

from galleries.options import AsJson

app = typer.Typer(no_args_is_help=True, help="Measure speed, as ratios within one run.")


@app.command()
def ranking(
    queries: Annotated[int, typer.Option(min=1, help="Generated images.")] = 1000,
    gallery: Annotated[int, typer.Option(min=2, help="Photos.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of an embedding.")] = 512,
    relevant: Annotated[int, typer.Option(min=1, help="Relevant photos of each query.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Exact ranks against the bare matrix product, side by side in this process, on made data."""
    from benchmark.bench.ranking import bench_ranking
    from galleries.console import print_json, print_table
    from galleries.errors import FinerRankError

    if relevant >= gallery:
        raise FinerRankError(f"--relevant {relevant}: must be less than --gallery {gallery}")
    found = bench_ranking(queries, gallery, dim, relevant, repeats)
    if as_json:
        print_json(found)
        return
    print_table("ranking", ["", ""], [[k, f"{v:.3g}" if isinstance(v, float) else str(v)] for k, v in found.items()])
