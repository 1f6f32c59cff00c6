"""`finer-rank index build` and `index search`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.options import (
    BatchSize,
    Compile,
    Device,
    GalleryOption,
    Interpolation,
    Precision,
    Resize,
    Size,
    Store,
    load_embedders,
)
from galleries.options import AsJson, Out

app = typer.Typer(no_args_is_help=True, help="Nearest photos in large galleries, to look at.")


@app.command()
def build(
    gallery: GalleryOption,
    embedder: Annotated[str, typer.Option("--embedder", "-e", help="As for evaluate.")],
    out: Out,
    kind: Annotated[
        str,
        typer.Option(
            help="flat: exact, compares with every photo. ivf, hnsw: approximate, for millions; ivf is built faster, "
            "hnsw searches faster."
        ),
    ] = "flat",
    recall: Annotated[
        float, typer.Option(help="Of ivf and hnsw: share of the 10 nearest photos that searches are to find.")
    ] = 0.95,
    half: Annotated[bool, typer.Option("--half", help="Of ivf and hnsw: rows as float16, half the memory.")] = False,
    resize: Resize = None,
    size: Size = None,
    interpolation: Interpolation = None,
    precision: Precision = "fp32",
    compiled: Compile = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Write an index of a gallery's photos, references left out, as queries are ranked.

    What an approximate index finds is measured against exact search, on photos as queries. Scores never come from one.

    Example: finer-rank index build --gallery pets --embedder dinov2 --out pets-index
    """
    from dataclasses import asdict

    from benchmark.gallery_index import RECALL_AT, GalleryIndex
    from benchmark.index_settings import IndexSettings
    from galleries.console import note, print_json, print_table, progress_bars, say
    from galleries.gallery import Gallery

    settings = IndexSettings(kind, half, recall)
    [loaded], root = load_embedders([embedder], resize, size, interpolation, precision, device, store, compiled)
    opened = Gallery.open(gallery)
    with progress_bars() as progress:
        index = GalleryIndex.build(
            opened, loaded, root, out, settings, batch_size=batch_size, progress=progress, warn=note
        )
    card = index.card
    if as_json:
        print_json(asdict(card))
    elif card.recall:
        rows = [[str(entry["effort"]), f"{entry['recall']:.3f}"] for entry in card.recall]
        print_table(card.kind, ["effort", f"recall@{RECALL_AT}"], rows)
    reached = index.measured_recall(card.effort)
    if reached and reached["recall"] < recall:
        note(f"note: recall {recall:g} was not reached; searches with --effort above {card.effort} may")
    if not as_json:
        say(f"{out}: {card.kind} index of {card.n_photos} photos by {card.embedder['spec']}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="Folder that index build wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Photos to show of each image.")] = 10,
    category: Annotated[
        str | None, typer.Option(help="Search its photos alone, and exactly.", show_default=False)
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lists to look at (ivf; FAISS's nprobe), candidates to keep (hnsw; efSearch); as built by default.",
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every photo, whatever the kind.")] = False,
    embedder: Annotated[
        str | None,
        typer.Option("--embedder", "-e", help="The index's own, where its weights now lie elsewhere: NAME@FILE."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of them; needs --gallery.", show_default=False)] = None,
    gallery: Annotated[
        Path | None, typer.Option("--gallery", "-g", help="The gallery that was indexed.", show_default=False)
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show the photos nearest to images, with the exact cosine of their embeddings.

    --device cuda, written out, also searches on the GPU (flat and ivf).

    Example: finer-rank index search pets-index generated.png -k 5 --gallery pets --plot nearest.png
    """
    from dataclasses import asdict

    from benchmark.embed import embed_files
    from benchmark.gallery_index import RECALL_AT, GalleryIndex
    from benchmark.neighbour_plot import MAX_STRIPS, draw_neighbours
    from galleries.console import note, print_json, print_table, progress_bars
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from galleries.gallery import Gallery

    if (plot is None) != (gallery is None):
        raise FinerRankError("--plot FILE and --gallery FOLDER: go together; give both, or neither")
    if plot:
        check_format(plot)
    kind, _, number = device.partition(":")
    opened = GalleryIndex.open(index, gpu=int(number if number.isdecimal() else 0) if kind == "cuda" else None)
    card = opened.card
    shown = Gallery.open(gallery) if gallery else None
    if shown and shown.digest != card.gallery["table_sha256"]:
        what = f"{gallery}: not the gallery {card.gallery['name']} {card.gallery['version']} as it was indexed"
        raise FinerRankError(f"{what}; name that one, or build the index again: finer-rank index build")
    made_with = card.embedder
    [loaded], root = load_embedders(
        [embedder or made_with["spec"]],
        made_with["resize"],
        made_with["size"],
        made_with["interpolation"],
        made_with["precision"],
        device,
        store,
        made_with["is_compiled"],
    )
    is_exact = opened.is_exact(category, effort, exact)
    opened.refuse_other_embedder(loaded, str(index))
    paths = _image_paths(images)
    with progress_bars() as progress:
        rows = embed_files(paths, loaded, root, batch_size=batch_size, progress=progress, warn=note).of(paths)
    opened.refuse_other_embedder(loaded, str(index))  # a network that was built now may not be the one remembered
    found = opened.search(rows, k, category=category, effort=effort, exact=exact)
    if plot and shown:
        draw_neighbours(dict(zip(paths, found, strict=True)), shown, plot)
        if len(paths) > MAX_STRIPS:
            note(f"note: {plot}: the first {MAX_STRIPS} of {len(paths)} images")
    if as_json:
        answers = [
            {
                "image": str(path),
                "neighbours": [
                    {"rank": rank, **asdict(each.photo), "similarity": each.similarity}
                    for rank, each in enumerate(nearest, start=1)
                ],
            }
            for path, nearest in zip(paths, found, strict=True)
        ]
        how = {"kind": card.kind, "exact": is_exact, "effort": None if is_exact else effort or card.effort}
        print_json({"gallery": card.gallery, "embedder": made_with, **how, "images": answers})
    else:
        cells = [
            [
                "" if rank else str(path),
                each.photo.file_name,
                each.photo.identity,
                each.photo.category,
                f"{each.similarity:.6f}",
            ]
            for path, nearest in zip(paths, found, strict=True)
            for rank, each in enumerate(nearest)
        ]
        columns = ["image", "photo", "identity", "category", "similarity"]
        print_table(f"nearest photos of {card.gallery['name']}", columns, cells, n_left=4)
    if not is_exact:
        known = opened.measured_recall(effort or card.effort)
        measured = f"; recall@{RECALL_AT} at effort {known['effort']}: {known['recall']:.3f}" if known else ""
        note(f"note: approximate ({card.kind}){measured}; --exact compares with every photo")


def _image_paths(given: list[Path]) -> list[Path]:
    """The images that are asked for, in order, each once; of a folder, those in it and in its folders.

    Raises:
        FinerRankError: a folder without images.
        Faults: names in it that cannot be used.
    """
    from galleries.errors import raise_if_any
    from galleries.sources.folder import image_files

    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            found, _, faults = image_files(path, follow_links=True)
            raise_if_any(str(path), faults)
            paths += found
        else:
            paths.append(path)
    return list(dict.fromkeys(paths))
