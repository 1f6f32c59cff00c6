"""`finer-rank perception`: what a distance looks at."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import benchmark.perception_picture_commands
from benchmark.options import BatchSize, Device, Precision, Store, load_embedders
from benchmark.perception_options import Embedders, Metrics, Sizes, Triplets, load_metrics
from galleries.options import AsJson, Seed

if TYPE_CHECKING:
    from benchmark.perception.colours import Alignment
    from benchmark.perception.dimensions import Dimensions
    from benchmark.perception.sensitivity import Sensitivity

app = typer.Typer(
    no_args_is_help=True,
    help="What does a distance look at? The analyses of the DreamSim paper (arXiv 2306.09344), for any embedder.",
)
app.add_typer(benchmark.perception_picture_commands.app)

Split = Annotated[str, typer.Option(help="Only judgements of this split.", show_default=False)]
Subset = Annotated[str, typer.Option(help="Only judgements of this subset.", show_default=False)]
Plot = Annotated[Path | None, typer.Option(help="Picture to draw: .png, .pdf, .svg, .jpg or .webp.")]


@app.command()
def dimensions(
    judgements: Triplets,
    embedder: Embedders,
    fit: Annotated[
        Path | None,
        typer.Option(help="Folder or gallery of other images to fit on; else the split train, else other targets."),
    ] = None,
    split: Annotated[str, typer.Option(help="Judge triplets of this split alone.", show_default=False)] = "",
    subset: Subset = "",
    size: Sizes = None,
    plot: Plot = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """How many dimensions do people's choices need? 2AFC with the first 1, 2, 4, … principal components.

    Example: finer-rank perception dimensions nights -e dino -e dreamsim --plot dimensions.png
    """
    from dataclasses import asdict

    from benchmark.distances import Resources
    from benchmark.perception.dimensions import folds_of, measure_dimensions
    from benchmark.perception.photos import photos_at
    from benchmark.perception.plots import draw_dimensions
    from benchmark.perception.triplets import load_triplets
    from galleries.console import note, print_json, progress_bars
    from galleries.figures import check_format

    if plot is not None:
        check_format(plot)
    embedders, root = load_embedders(embedder, "squash" if size else None, size, None, precision, device, store)
    given = load_triplets(judgements, subset=subset)
    folds = folds_of(given.rows, [photo.path for photo in photos_at(fit)] if fit else (), split)
    with progress_bars() as progress:
        resources = Resources(root, batch_size, progress, note)
        found = [measure_dimensions(folds, each, resources) for each in embedders]
    if plot is not None:
        draw_dimensions(found, plot)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        _print_dimensions(each)


@app.command()
def colours(
    judgements: Annotated[list[Path], typer.Argument(help="Human data, as for agreement score. Several are pooled.")],
    metric: Metrics,
    kind: Annotated[str | None, typer.Option(help="Of judgements, where the data hold several kinds.")] = None,
    split: Split = "",
    subset: Subset = "",
    size: Sizes = None,
    plot: Plot = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """How far does a distance follow colours alone? Its alignment with histograms of colour and of luminance.

    Of triplets: how often both choose the same image, one half is chance. Of pairs: Spearman's correlation.

    Example: finer-rank perception colours nights --split test -m lpips -m dreamsim
    """
    from dataclasses import asdict

    from benchmark.distances import Resources
    from benchmark.human_judgements.judgements import KINDS
    from benchmark.human_judgements.sources import load_judgements
    from benchmark.options import one_of
    from benchmark.perception.colours import align
    from benchmark.perception.plots import draw_alignments
    from benchmark.perception.triplets import refuse_one_target
    from galleries.console import note, print_json, progress_bars
    from galleries.figures import check_format

    one_of("--kind", kind, KINDS)
    if plot is not None:
        check_format(plot)
    distances, root = load_metrics(metric, size, precision, device, store)
    given = load_judgements(judgements, kind=kind, split=split, subset=subset)  # type: ignore[arg-type]
    refuse_one_target(given)
    with progress_bars() as progress:
        found = align(given, distances, Resources(root, batch_size, progress, note))
    if plot is not None:
        draw_alignments(found, given.kind == "2afc", plot)
    if as_json:
        content = {"kind": given.kind, "n_judgements": len(given.rows), "n_targets": len(given.targets)}
        print_json({**content, "alignments": [asdict(each) for each in found]})
        return
    what = "choices shared with a histogram" if given.kind == "2afc" else "Spearman with a histogram's distance"
    _print_alignments(found, f"{given.name}: {what}; {len(given.rows)} judgements of {len(given.targets)} targets")


@app.command()
def sensitivity(
    photos: Annotated[Path, typer.Argument(help="Gallery, tree of identities' folders, or a folder of images.")],
    metric: Metrics,
    level: Annotated[
        list[float] | None,
        typer.Option(help="Root mean square change of the pixel values, of 1: 0.05 and 0.1. Repeatable."),
    ] = None,
    aspect: Annotated[
        list[str] | None,
        typer.Option(help="orientation, colour, shading, structure, foreground, background; all. Repeatable."),
    ] = None,
    n: Annotated[int, typer.Option("--photos", min=2, help="Photos to try, drawn from all identities in turn.")] = 60,
    seed: Seed = 0,
    size: Sizes = None,
    plot: Plot = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    as_json: AsJson = False,
) -> None:
    """What does a distance react to? Photos with one aspect changed, at equal change of the pixels.

    The number is the distance that the change makes, as a share of that between unrelated photos. Foreground and
    background need masks (finer-rank gallery mask).

    Example: finer-rank perception sensitivity dogs -m dinov2 -m lpips --plot sensitivity.png
    """
    from dataclasses import asdict

    from benchmark.perception.photos import chosen, photos_at
    from benchmark.perception.plots import draw_sensitivities
    from benchmark.perception.sensitivity import SIDE_PX, measure_sensitivity, possible_aspects
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError
    from galleries.figures import check_format

    if plot is not None:
        check_format(plot)
    levels = sorted(set(level or (0.05, 0.1)))
    if not all(0.02 <= each <= 0.5 for each in levels):
        raise FinerRankError("--level: out of range; write 0.02 to 0.5, of pixel values that lie in [0, 1]")
    distances, _ = load_metrics(metric, size, precision, device, None)
    tried = chosen(photos_at(photos), n, seed)
    aspects = possible_aspects(tried, aspect or ())
    with progress_bars() as progress:
        found = measure_sensitivity(
            tried, distances, aspects, levels, seed=seed, batch_size=batch_size or 32, progress=progress
        )
    if not aspect and "foreground" not in aspects:
        note(f"{photos}: no masks, so that foreground and background are left out; make them with gallery mask")
    if plot is not None:
        draw_sensitivities(found, plot)
    if as_json:
        print_json({"n_photos": len(tried), "side_px": SIDE_PX, "metrics": [asdict(each) for each in found]})
        return
    _print_sensitivities(found, f"{photos}: distance made by a change / distance of unrelated photos", len(tried))


def _print_dimensions(found: "Dimensions") -> None:
    from dataclasses import asdict

    from benchmark.embedders import published_spec
    from benchmark.report import number
    from galleries.console import print_table

    title = f"{published_spec(found.embedder)}: {found.n_triplets} triplets of {found.n_targets} targets, "
    title += f"components fitted on {found.fitted_on}"
    rows = [
        [
            f"all {found.n_dimensions}" if step.n_kept is None else str(step.n_kept),
            "–" if step.n_kept is None else f"{step.variance:.3f}",
            number(asdict(step.score)),
            "" if step.n_kept is None else number(asdict(step.against_all)),
        ]
        for step in found.steps
    ]
    print_table(title, ["dimensions", "variance kept", "2AFC", "difference to all"], rows)


def _print_alignments(found: "Sequence[Alignment]", title: str) -> None:
    from dataclasses import asdict

    from benchmark.embedders import published_spec
    from benchmark.perception.colours import HISTOGRAMS
    from benchmark.report import number
    from galleries.console import note, print_table

    rows = [
        [published_spec(each.metric), *(number(asdict(e) if (e := each.alignment[h]) else None) for h in HISTOGRAMS)]
        for each in found
    ]
    print_table(title, ["metric", *HISTOGRAMS], rows)
    for each in found:
        for line in each.notes:
            note(line)


def _print_sensitivities(found: "Sequence[Sensitivity]", title: str, n_photos: int) -> None:
    from dataclasses import asdict

    from benchmark.embedders import published_spec
    from benchmark.perception.changes import ASPECTS
    from benchmark.report import number
    from galleries.console import note, print_table

    rows = []
    for i, reaction in enumerate(found[0].reactions):
        unit = ASPECTS[reaction.aspect].unit
        strength = "–" if reaction.strength is None else f"{reaction.strength:.3g} {unit}"
        cells = [number(asdict(e) if (e := each.reactions[i].sensitivity) else None) for each in found]
        rows.append([reaction.aspect, f"{reaction.level:g}", str(reaction.n_photos), strength, *cells])
    columns = ["aspect", "level", "photos", "mean strength", *(published_spec(each.metric) for each in found)]
    print_table(title, columns, rows)
    if any(reaction.n_photos < n_photos for reaction in found[0].reactions):
        note(f"of {n_photos} photos; the others have no mask, or no strength changes them so much")
