"""`finer-rank agreement score`: how well distances agree with people."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import BatchSize, Device, Store
from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.distances.base import Floats

app = typer.Typer()


@app.command()
def score(
    judgements: Annotated[
        list[Path], typer.Argument(help="Human data: a table, or the folder of a data set. Several are pooled.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", help="Distance or embedder, such as lpips:alex or dinov2. Repeatable. None: people alone."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="2afc, jnd, odd-one-out, ranking or rating.")] = None,
    split: Annotated[str, typer.Option(help="Only train, val or test.")] = "",
    subset: Annotated[str, typer.Option(help="Only this part of the data.")] = "",
    size: Annotated[int | None, typer.Option(help="Squash images to so many pixels.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write: scores.json, and judgements.csv with all distances.", show_default=False),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of scores and ceiling.", show_default=False)] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Hold distances against human judgements: scores with intervals, the human ceiling, and which differ.

    Example: finer-rank agreement score nights --split test --metric dreamsim:ensemble --metric dinov2 --metric lpips
    """
    from benchmark.distances import Resources, load_distance
    from benchmark.human_agreement.compared import distances_of
    from benchmark.human_agreement.plot import draw_scores
    from benchmark.human_agreement.report import notes_of, print_scores, write_scores
    from benchmark.human_agreement.score import score_distances
    from benchmark.human_judgements.judgements import KINDS
    from benchmark.human_judgements.sources import load_judgements
    from benchmark.options import one_of
    from benchmark.store import store_at
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from galleries.image_set import refuse_existing

    specs = metric or []
    one_of("--kind", kind, KINDS)
    if len(set(specs)) < len(specs):
        raise FinerRankError("--metric: one is named twice; name each once")
    if plot is not None:
        check_format(plot)
        if not specs:
            raise FinerRankError("--plot: draws the scores of distances; give --metric, or leave it out")
    if out is not None:
        refuse_existing(out)
    root = store_at(store)
    metrics = [load_distance(spec, size=size, device=device, memo=root) for spec in specs]
    given = load_judgements(judgements, kind=kind, split=split, subset=subset)  # type: ignore[arg-type]
    with progress_bars() as progress:
        resources = Resources(root, batch_size, progress, note)
        distances: dict[str, Floats] = {}
        names: dict[str, str] = {}
        for spec, each in zip(specs, metrics, strict=True):
            twin = names.setdefault(each.fingerprint, spec)
            if twin != spec:
                raise FinerRankError(f"--metric: {twin} and {spec} are the same distance; name one of them")
            distances[spec] = distances_of(given, each, resources)
    scores = score_distances(given, distances)
    described = {
        spec: {"fingerprint": each.fingerprint, **each.description} for spec, each in zip(specs, metrics, strict=True)
    }
    if out is not None:
        write_scores(scores, given, distances, described, out)
    if as_json:
        print_json({"metrics": described, **scores.as_json()})
    else:
        print_scores(scores)
        for line in notes_of(scores):
            note(line)
    if plot is not None:
        draw_scores(scores, plot)
