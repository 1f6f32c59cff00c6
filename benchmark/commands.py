"""`finer-rank evaluate`, `doctor` and `bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.options import (
    Address,
    BatchSize,
    Compile,
    Device,
    Engine,
    GalleryOption,
    Interpolation,
    Memory,
    Precision,
    Resize,
    Runs,
    Size,
    Store,
    Workers,
    cluster_of,
    load_embedders,
    load_runs,
    memory_bytes,
    one_of,
)
from galleries.options import AsJson

app = typer.Typer()


@app.command()
def evaluate(
    gallery: GalleryOption,
    embedder: Annotated[
        list[str],
        typer.Option(
            "--embedder",
            "-e",
            help="A name (finer-rank embedder list), family:model\\[@weights file], or "
            "ensemble:NAME=WEIGHT,NAME=WEIGHT. Repeatable.",
        ),
    ],
    run: Runs = None,
    more_runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Further runs, so that --run runs/* works."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the records, one per run and embedder; none are kept without it."),
    ] = None,
    by: Annotated[str, typer.Option(help="Also print scores by: identity, or category.", show_default=False)] = "",
    resize: Resize = None,
    size: Size = None,
    interpolation: Interpolation = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of each picture to score: full (the default), subject or background, cut along the masks that "
            "gallery and runs name in their column mask_file_name. Repeatable: full and background together also say "
            "how much the background alone explains.",
            show_default=False,
        ),
    ] = None,
    same_viewpoint: Annotated[
        bool,
        typer.Option(
            help="For identities marked by side: photos of the right identity that are known to show it from a side "
            "which the query's references do not show are left out of its ranking.",
        ),
    ] = False,
    clip_t: Annotated[
        str,
        typer.Option(
            help="Also say how well images match their prompts, by this model with a text side, such as clip.",
            show_default=False,
        ),
    ] = "",
    pairwise: Annotated[
        str,
        typer.Option(
            help="Also say how far images are from their references by this distance: lpips, dists, ssim, psnr, or any "
            "embedder, for 1 - cosine.",
            show_default=False,
        ),
    ] = "",
    pairwise_size: Annotated[
        int | None,
        typer.Option(help="Squash pictures to so many pixels for it: 256, or an embedder's own geometry."),
    ] = None,
    precision: Precision = "fp32",
    compiled: Compile = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    engine: Engine = "local",
    address: Address = "",
    workers: Workers = 0,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest photos to keep of each query.")] = 10,
    memory: Memory = "",
    skip_broken: Annotated[bool, typer.Option(help="Score the readable images when some are not.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Score runs on a gallery: retrieval mAP with intervals, between anchors.

    Without --run the anchors alone. Images embedded before are not embedded again.

    Example: finer-rank evaluate --gallery pets --run runs/ip_adapter --embedder dinov2 --out records
    """
    from benchmark.dependence import background_dependence
    from benchmark.pairwise_distance import pairwise_judge
    from benchmark.protocol import Options
    from benchmark.protocol import evaluate as evaluate_runs
    from benchmark.records import refuse_other_record, write_record
    from benchmark.regions import FULL, REGIONS
    from benchmark.report import evaluations_as_json, print_background_dependence, print_evaluation
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError, below
    from galleries.gallery import Gallery

    most = memory_bytes(memory)
    cluster = cluster_of(engine, address, workers, device)
    one_of("--by", by or None, ("identity", "category"))
    asked = region or [FULL]
    for name in asked:
        one_of("--region", name, REGIONS)
    regions = tuple(name for name in REGIONS if name in asked)
    if cluster and device.startswith("cuda"):
        device = "auto"  # the GPUs are the workers'; this machine may have none
    embedders, root = load_embedders(embedder, resize, size, interpolation, precision, device, store, compiled)
    opened, faults = Gallery.load(gallery)
    runs, run_faults = load_runs([*(run or []), *(more_runs or [])])
    faults = [*below(opened.root, faults), *run_faults]
    if out is not None and not runs:
        raise FinerRankError("--out: records are of runs, and there is none; name one with --run, or leave --out out")
    judge = load_embedders([clip_t], None, None, None, precision, device, store)[0][0] if clip_t else None
    if judge and not runs:
        raise FinerRankError("--clip-t: compares generated images with their prompts; name a run with --run")
    if pairwise and not runs:
        raise FinerRankError("--pairwise: compares generated images with their references; name a run with --run")
    if pairwise_size is not None and not pairwise:
        raise FinerRankError("--pairwise-size: is for --pairwise; name a distance, such as --pairwise lpips")
    distance = pairwise_judge(pairwise, pairwise_size, device, root) if pairwise else None
    options = Options(
        neighbours,
        skip_broken,
        batch_size,
        regions=regions,
        same_viewpoint=same_viewpoint,
        prompt_judge=judge,
        pairwise=distance,
        cluster=cluster,
        ranking_device=_ranking_device(device),
        memory=most,
    )
    with progress_bars("/s" if distance else "images/s") as progress:
        evaluations = evaluate_runs(opened, runs, embedders, root, options, progress, note, faults)
    dependences = background_dependence(evaluations)
    folders: dict[tuple[str, str, str], str] = {}
    if out is not None:
        records = [(e.embedder, record, out / _record_name(record)) for e in evaluations for record in e.records]
        for _, record, folder in records:
            refuse_other_record(record, folder)
        for spec, record, folder in records:
            write_record(record, folder)
            folders[record.name, spec, record.region] = str(folder)
    if as_json:
        print_json(evaluations_as_json(evaluations, folders, dependences))
    else:
        for evaluation in evaluations:
            print_evaluation(opened.card.name, evaluation, by)
        for dependence in dependences:
            print_background_dependence(opened.card.name, dependence)
    for line in dict.fromkeys(line for evaluation in evaluations for line in evaluation.left_out):
        note(f"left out: {line}")
    notes = [*opened.warnings(), *(remark for evaluation in evaluations for remark in evaluation.notes)]
    if dependences:
        notes.append(
            "background dependence: mAP of the background alone relative to that of the full picture, both above "
            "chance; it is not a share, subject and background can each suffice"
        )
    for remark in dict.fromkeys(notes):
        note(f"note: {remark}")
    for evaluation in evaluations:
        of_region = "" if evaluation.region == FULL else f", {evaluation.region} only"
        if evaluation.left_out:
            note(f"{evaluation.n_left_out} broken images were left out of every number{of_region}")
        note(
            f"{evaluation.n_images} images, {evaluation.n_distinct} distinct, "
            f"{evaluation.n_forward_passes} forward passes of {evaluation.embedder}{of_region}"
        )
    if folders:
        note(f"records: {out}")


def _record_name(record: Any) -> str:
    from benchmark.records import ALL
    from benchmark.regions import FULL
    from galleries.images import sha256_of

    spec = _as_file_name(record.embedder.partition("@")[0])
    name = _as_file_name(record.name)
    if name != record.name:  # other names may come to the same
        name += f"-{sha256_of(record.name.encode())[:6]}"
    parts = [name, spec, record.summary["embedder"]["fingerprint"][:8]]
    parts += [record.region] if record.region != FULL else []
    parts += [_as_file_name(record.positives.replace(" ", "-"))] if record.positives != ALL else []
    return "--".join(parts)


def _ranking_device(device: str) -> str:
    """A GPU that was asked for, where there is one: with all in the store, or workers elsewhere, none is needed."""
    if not device.startswith("cuda"):
        return "cpu"
    import torch

    return device if torch.cuda.is_available() else "cpu"


def _as_file_name(text: str) -> str:
    short = "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
    return short.encode()[:80].decode(errors="ignore").lstrip(".") or "_"


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which devices are there, where caches lie, and what is missing."""
    from benchmark.doctor import report
    from galleries.console import print_json, print_table

    found = report()
    if as_json:
        print_json(found)
        return
    for title, part in found.items():
        print_table(title, ["", ""], [[key, str(value)] for key, value in part.items()])
