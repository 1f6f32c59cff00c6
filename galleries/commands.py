"""`finer-rank gallery …`"""

from pathlib import Path
from typing import Annotated

import typer

from galleries import build_commands
from galleries.build_commands import GateEmbedder, Near, Picture
from galleries.critter_command import add_critters
from galleries.data_set_commands import add_data_sets
from galleries.mask_command import add_mask_command, open_gallery
from galleries.options import AsJson, GalleryPath

app = typer.Typer(no_args_is_help=True, help="Make, check and look at galleries: identity-labelled real photos.")
app.add_typer(build_commands.app, name="build")
add_data_sets(build_commands.app)
add_critters(build_commands.app)


@app.command()
def check(
    ctx: typer.Context,
    gallery: GalleryPath,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Look at the table, and whether the files are there; open no image.")
    ] = False,
    picture: Picture = None,
    embedder: GateEmbedder = "",
    near: Near = None,
    keep_leaks: Annotated[bool, typer.Option("--keep-leaks", help="List leaks as warnings, not as faults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for every fault and every leak, in the table and in every image. Exit code 2 if there is one.

    A leak is a gallery photo that repeats a reference: the same bytes, the same picture resized, re-encoded, cropped
    or mirrored, or of the same encounter.
    """
    from dataclasses import asdict, replace

    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import FinerRankError, raise_if_any
    from galleries.freeze import frozen_name_faults
    from galleries.gallery import Gallery
    from galleries.leaks import inspect_table
    from galleries.pair_pictures import draw_inspection
    from galleries.sources import Found

    gate = build_commands.read_gate(ctx, False, keep_leaks, picture, embedder, near)
    if table_only and (picture or embedder):
        raise FinerRankError("--table-only: opens no image; leave out --picture and --embedder")
    opened, faults = Gallery.load(gallery)
    if table_only:
        inspection = inspect_table(opened.photos)
        inspection = replace(inspection, faults=(*inspection.faults, *opened.missing_masks()))
    else:
        with progress_bars() as progress:
            inspection = opened.inspect(progress=progress, alike=gate.alike)
    if picture:
        images = {p.file_name: Found(p.file_name, p.file_name, p.path, {}) for p in opened.photos}
        if draw_inspection(inspection, images, picture):
            note(f"pairs are drawn in {picture}")
    warnings = [*opened.warnings(), *inspection.warnings, *frozen_name_faults(opened)]
    of_leaks = [leak.fault for leak in inspection.leaks]
    if keep_leaks:
        warnings += [str(fault) for fault in of_leaks]
    faults += [*inspection.faults, *([] if keep_leaks else of_leaks)]
    if opened.ignored:
        warnings.append(f"{len(opened.ignored)} files are no images: {', '.join(opened.ignored[:5])}")
    if as_json:
        print_json(
            {
                "gallery": str(gallery),
                "faults": [asdict(fault) for fault in faults],
                "leaks": [asdict(leak) for leak in inspection.leaks],
                "near_duplicates": [asdict(pair) for pair in inspection.pairs],
                "warnings": warnings,
            }
        )
    if not faults and not as_json:
        for warning in warnings:
            note(f"note: {warning}")
    raise_if_any(str(gallery), faults)
    if not as_json:
        looked = "; images were not opened" if table_only else ""
        say(f"{gallery}: no faults; {build_commands.summary(opened)}{looked}")


@app.command()
def freeze(
    gallery: GalleryPath,
    out: Annotated[Path, typer.Option(help="Manifest to write: a .toml file that does not exist yet.")],
) -> None:
    """Write a gallery's rows as a manifest: names, labels and digests, no images.

    Whoever has the photos builds the identical gallery from it: finer-rank gallery build manifest FILE PHOTOS --out G

    Example: finer-rank gallery freeze pets --out pets-1.toml
    """
    from galleries.console import progress_bars, say
    from galleries.freeze import freeze as write_manifest
    from galleries.gallery import Gallery

    opened = Gallery.open(gallery)
    with progress_bars() as progress:
        step = progress("reading photos", len(opened.photos)) if progress else None
        manifest = write_manifest(opened, out, step)
    say(f"{out}: {len(manifest.photos)} rows, table SHA-256 {manifest.table_sha256}")


@app.command("data-sets")
def data_sets(
    name: Annotated[str, typer.Argument(help="One of them; all where left out.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Say which data sets galleries are built of: licence, counts, where to get them, recipes, frozen lists.

    Example: finer-rank gallery data-sets cub
    """
    from dataclasses import asdict

    from galleries.builders import cards
    from galleries.console import print_json, print_table, say
    from galleries.errors import FinerRankError
    from galleries.freeze import published

    known = cards()
    chosen = [card for card in known if card.name == name] if name else known
    if not chosen:
        raise FinerRankError(f"{name}: no such data set; known: {', '.join(card.name for card in known)}")
    manifests = [path.stem for path in published()]
    if as_json:
        print_json([asdict(card) | {"manifests": [m for m in manifests if m.startswith(card.name)]} for card in chosen])
        return
    if not name:
        rows = [[c.name, c.counts, ", ".join(c.recipes), c.thumbnails] for c in chosen]
        print_table("data sets", ["name", "a complete copy holds", "recipes", "thumbnails may be shown"], rows)
        say("More of one: finer-rank gallery data-sets NAME")
        return
    card = chosen[0]
    lines = {
        "title": card.title,
        "holds": card.counts,
        "page": card.url,
        "to get it": card.download,
        **{f"mirror {i}": mirror for i, mirror in enumerate(card.mirrors, start=1)},
        **{f"checksum of {file}": digest for file, digest in card.checksums.items()},
        "licence": card.licence,
        "thumbnails": card.thumbnails,
        "citation": card.citation,
        **{f"--recipe {recipe}": what for recipe, what in card.recipes.items()},
        "frozen as": ", ".join(m for m in manifests if m.startswith(card.name)),
    }
    for key, value in lines.items():
        if value:
            say(f"{key}: {value}")


add_mask_command(app, "gallery", open_gallery)
