"""`finer-rank ablate`: its grids, table and picture."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import (
    BatchSize,
    Device,
    GalleryOption,
    Interpolation,
    Precision,
    Resize,
    Size,
    Store,
    load_embedders,
    load_runs,
    one_of,
)
from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.ablation import Cell, CellScores, RunRows, Sampler
    from benchmark.embed import ImageFile, Progress
    from benchmark.embedders import Embedder
    from benchmark.store import Root
    from galleries.gallery import Gallery
    from galleries.image_set import ImageRow
    from personalization_runs.run import Run

app = typer.Typer()

PAPER_GRID = "10x10,15x10,25x10,100x10,10x1,10x5,10x20"
"""The shapes that the paper itself compares (arXiv 2512.19026)."""
MANY_IDENTITIES, MANY_PHOTOS, FIXED_IDENTITIES = 100, 10, 10
"""The default grid goes up to the first two; its row of photos has at most the third."""
MEANS = {"mAP": "mean_average_precision", "AUC": "auc", "chance_mAP": "chance"}
"""Column → field of `DrawScores`, of which it is the mean over draws."""
WITH_BAND = ("mAP", "AUC")


@app.command()
def ablate(
    gallery: GalleryOption,
    embedder: Annotated[str, typer.Option("--embedder", "-e", help="The judge; see evaluate.")],
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", "-r", help="Ask with its images, not with photos. Or a folder of runs. Repeatable."),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(
            help="Shapes: identities in each category x photos of each, such as 5x3,10x3,15x3; or paper. "
            "By default two rows that fit the gallery.",
            show_default=False,
        ),
    ] = "",
    choose: Annotated[str, typer.Option(help="How an identity's photos are chosen: random, or k-means.")] = "random",
    chooser: Annotated[
        str | None, typer.Option(help="Embedder that k-means goes by; not the judge, if possible.", show_default=False)
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="How often each shape is drawn.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    category: Annotated[str, typer.Option(help="Draw from it alone, not from each.", show_default=False)] = "",
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .png, .pdf, .svg or .webp.")] = None,
    out: Annotated[Path | None, typer.Option(help="Table to write: .csv.")] = None,
    resize: Resize = None,
    size: Size = None,
    interpolation: Interpolation = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show how the score depends on the gallery's shape: identities x photos of each.

    Galleries of each shape are drawn from the one given. Without --run, photos that a draw leaves over are the queries.

    Example: finer-rank ablate --gallery pets --embedder dinov2 --grid 5x3,10x3,25x3,10x1 --plot shape.png
    """
    from benchmark.ablation import Sampler
    from benchmark.ablation import ablate as ablate_shapes
    from benchmark.ablation_plot import draw_ablation
    from benchmark.embed import embed_gallery
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError, below, raise_if_any
    from galleries.figures import FORMATS
    from galleries.gallery import Gallery
    from galleries.tables import write_csv

    one_of("--choose", choose, ("random", "k-means"))
    if chooser is not None and choose == "random":
        raise FinerRankError(f"--chooser {chooser}: random photos need none; add --choose k-means")
    for option, path, endings in (("--plot", plot, FORMATS), ("--out", out, (".csv",))):
        if path is not None and (path.suffix.lower() not in endings or not path.parent.is_dir()):
            raise FinerRankError(f"{option} {path}: name a file in a folder there is, ending in {', '.join(endings)}")
    wanted = parse_grid(grid) if grid else ()
    [judge], root = load_embedders([embedder], resize, size, interpolation, precision, device, store)
    other = load_embedders([chooser], None, None, None, precision, device, store)[0][0] if chooser else None
    opened, faults = Gallery.load(gallery)
    runs, run_faults = load_runs(run or [])
    faults = [*below(opened.root, faults), *run_faults]
    raise_if_any("cannot be drawn from", faults)
    asked_for = asked_for_by_all(runs, opened)
    make_sampler = partial(Sampler, opened.photos, asked_for=asked_for, category=category, seed=seed)
    cells = wanted or default_grid(make_sampler())
    make_sampler().fitting(cells)  # refuses a grid before anything is embedded
    with progress_bars() as progress:
        files, notes = usable_images(opened, runs, progress)
        photos = embed_gallery(opened, judge, root, batch_size=batch_size, progress=progress, warn=note)
        asking, n_passes = embed_runs(runs, opened, files, judge, root, progress) if runs else ([], 0)
        chosen_by = (
            embed_gallery(opened, other, root, batch_size=batch_size, progress=progress, warn=note) if other else photos
        )
        sampler = make_sampler(chooser_rows=chosen_by.rows if choose == "k-means" else None)
        found = ablate_shapes(photos.photos, photos.rows, sampler, cells, runs=asking, n_draws=draws, progress=progress)
    for row in found.cells:
        if len(row.draws) < draws:
            notes.append(f"{row.cell} {row.run}: {len(row.draws)} draws; in others a category had no query to answer")
    if choose == "k-means" and chooser in (None, embedder):
        notes.append("the judge itself chose the photos, which flatters it; name another --chooser")
    rows = [as_row(row, len(sampler.categories)) for row in found.cells]
    title = f"{opened.card.name}, {embedder.partition('@')[0]}, mean of {draws} draws and their 2.5 to 97.5 % band"
    if out is not None:
        columns = list(rows[0])[:-1]
        try:
            write_csv(out, columns, [{c: "" if row[c] is None else str(row[c]) for c in columns} for row in rows])
        except OSError as error:
            raise FinerRankError(f"--out {out}: cannot be written ({error.strerror}); name another file") from None
    if plot is not None:
        draw_ablation(rows, title, plot)
    work = {judge.spec: {"images": len(files), "forward_passes": photos.n_forward_passes + n_passes}}
    if other:
        of_other = work.setdefault(other.spec, {"images": len(opened.photos), "forward_passes": 0})
        of_other["forward_passes"] += chosen_by.n_forward_passes
    if as_json:
        left_out = [{"cell": str(cell), "reason": why} for cell, why in found.left_out.items()]
        asked: dict[str, Any] = {"gallery": opened.card.name, "embedder": embedder, "categories": sampler.categories}
        asked |= {"choose": choose, "chooser": chooser, "draws": draws, "seed": seed}
        print_json({**asked, "cells": rows, "left_out": left_out, "embedding": work, "notes": notes})
    else:
        print_cells(rows, title)
    for cell, why in found.left_out.items():
        note(f"left out: {cell}: {why}")
    for remark in notes:
        note(f"note: {remark}")
    for spec, done in work.items():
        note(f"{done['images']} images, {done['forward_passes']} forward passes of {spec}")


def parse_grid(text: str) -> "tuple[Cell, ...]":
    """The cells of `5x3,10x3`, or the paper's for `paper`.

    Raises:
        FinerRankError: no such list, or a cell that is named twice.
    """
    from benchmark.ablation import Cell
    from galleries.errors import FinerRankError

    cells: list[Cell] = []
    for part in (PAPER_GRID if text.strip() == "paper" else text).split(","):
        found = re.fullmatch(r"\s*([1-9][0-9]{0,8})\s*[xX×]\s*([1-9][0-9]{0,8})\s*", part)
        if not found:
            raise FinerRankError(f"--grid {text}: {part.strip()!r} is no shape; write 5x3,10x3 for example, or paper")
        cells.append(Cell(int(found[1]), int(found[2])))
        if cells[-1] in cells[:-1]:
            raise FinerRankError(f"--grid {text}: {cells[-1]} is named twice; name each shape once")
    return tuple(cells)


def default_grid(sampler: "Sampler") -> "tuple[Cell, ...]":
    """A row of rising numbers of identities and one of rising photos, which fit every category and share a cell.

    The first has as many photos, up to `MANY_PHOTOS`, as make the largest gallery.

    Raises:
        FinerRankError: no two identities have photos enough.
    """
    from benchmark.ablation import Cell
    from galleries.errors import FinerRankError

    def size(n_photos: int) -> int:
        return min(MANY_IDENTITIES, *(sampler.n_eligible(n_photos, category) for category in sampler.categories))

    usable = [m for m in range(1, MANY_PHOTOS + 1) if not sampler.shortfall(Cell(2, m))]
    if not usable:
        raise FinerRankError(f"too few identities: {sampler.shortfall(Cell(2, 1))}, and 2 are needed; add photos")
    most = max(usable, key=lambda m: (m * size(m), m))
    fixed = min(FIXED_IDENTITIES, size(most))
    identities = {n for n in (2, 5, 10, 25, 50) if n <= 0.8 * size(most)} | {fixed, size(most)}
    photos = {1, 2, 5, most} if most > 5 else {*range(1, most + 1)}
    row = [Cell(n, most) for n in sorted(identities)]
    return tuple(dict.fromkeys([*row, *(Cell(fixed, m) for m in sorted(photos))]))


def asked_for_by_all(runs: "Sequence[Run]", gallery: "Gallery") -> frozenset[str] | None:
    """The identities that every run asks for: what runs can be compared by. None without runs.

    Raises:
        FinerRankError: there is none, or two runs have one name.
    """
    from benchmark.protocol import refuse_same_names
    from galleries.errors import FinerRankError

    refuse_same_names(runs)
    if not runs:
        return None
    shared = frozenset.intersection(*(frozenset(query.identity for query in run.queries(gallery)) for run in runs))
    if not shared:
        raise FinerRankError(f"{', '.join(run.card.model for run in runs)}: share no identity; take them one by one")
    return shared


def usable_images(
    gallery: "Gallery", runs: "Sequence[Run]", progress: "Progress | None"
) -> "tuple[dict[Path, ImageFile], list[str]]":
    """All image files, and what is to be said of copies among the photos.

    Raises:
        Faults: images that cannot be used, and photos that are references too.
    """
    from benchmark.embed import image_files
    from galleries.errors import below, raise_if_any
    from galleries.photo_checks import copied_photos, leaked_photos

    sets: list[tuple[Path, Sequence[ImageRow]]] = [(gallery.root, gallery.photos)]
    sets += [(run.root, run.images) for run in runs]
    files, faults = image_files(sets, decode=False, progress=progress)
    digests = [files[photo.path].digest if photo.path in files else None for photo in gallery.photos]
    raise_if_any("cannot be drawn from", [*faults, *below(gallery.root, leaked_photos(gallery.photos, digests))])
    return files, copied_photos(gallery.photos, digests)


def embed_runs(
    runs: "Sequence[Run]",
    gallery: "Gallery",
    files: "Mapping[Path, ImageFile]",
    embedder: "Embedder",
    store: "Root",
    progress: "Progress | None",
) -> "tuple[list[RunRows], int]":
    """The runs' questions with their embeddings, and the number of forward passes.

    Raises:
        Faults: images that cannot be embedded.
    """
    from benchmark.ablation import RunRows
    from benchmark.embed import embed_images
    from galleries.console import note
    from galleries.errors import raise_if_any

    images = [files[image.path] for run in runs for image in run.images]
    found = embed_images(images, embedder, store, progress=progress, warn=note)
    raise_if_any("cannot be drawn from", found.faults)
    asking = []
    for run in runs:
        queries = run.queries(gallery)
        at = [found.row_of[files[query.image.path].digest] for query in queries]
        asking.append(RunRows(run.card.model, queries, found.rows[at]))
    return asking, found.n_forward_passes


def as_row(scores: "CellScores", n_categories: int) -> dict[str, Any]:
    """A cell for JSON and CSV, None where undefined. `draws`, the last, is for JSON alone."""
    n = scores.cell.n_identities * n_categories
    row: dict[str, Any] = {
        "run": scores.run or None,
        "cell": str(scores.cell),
        "identities_per_category": scores.cell.n_identities,
        "photos_per_identity": scores.cell.n_photos,
        "n_identities": n,
        "n_eligible_identities": scores.n_eligible,
        "n_photos": n * scores.cell.n_photos,
        "n_draws": len(scores.draws),
    }
    columns = {"n_asked": "n_asked", "n_queries": "n_queries", **MEANS}
    for name, field in columns.items():
        band = scores.band(field)
        row[name] = band.mean if band else None
        if name in WITH_BAND:
            row |= {f"{name}_band_low": band.low if band else None, f"{name}_band_high": band.high if band else None}
    draws = [{name: getattr(draw, field) for name, field in columns.items()} for draw in scores.draws]
    defined = [{name: None if math.isnan(value) else value for name, value in draw.items()} for draw in draws]
    return {**row, "draws": defined}


def print_cells(rows: Sequence[dict[str, Any]], title: str) -> None:
    """A table for people of what `as_row` returns."""
    from galleries.console import print_table

    def with_band(row: dict[str, Any], score: str) -> str:
        mean, low, high = (row[key] for key in (score, f"{score}_band_low", f"{score}_band_high"))
        return "–" if mean is None else f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    has_runs = any(row["run"] for row in rows)
    columns = ["cell", "identities", "asked for", "photos", "queries", *WITH_BAND, "chance mAP"]
    cells = []
    for row in rows:
        cell = [
            row["cell"],
            f"{row['n_identities']} of {row['n_eligible_identities']}",
            f"{round(row['n_asked'], 1):g}",
            str(row["n_photos"]),
            f"{row['n_queries']:.0f}",
            *(with_band(row, score) for score in WITH_BAND),
            f"{row['chance_mAP']:.3f}",
        ]
        cells.append([row["run"], *cell] if has_runs else cell)
    print_table(title, ["run", *columns] if has_runs else columns, cells)
