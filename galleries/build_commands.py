"""`finer-rank gallery build …`"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galleries.options import (
    Category,
    Columns,
    Conditions,
    Constants,
    Granularity,
    Images,
    Include,
    Name,
    Out,
    References,
    Seed,
    Symlink,
    Version,
)

if TYPE_CHECKING:
    from galleries.errors import Fault
    from galleries.gallery import Gallery, GalleryCard
    from galleries.leaks import Alike, Inspection
    from galleries.sources import Found

app = typer.Typer(no_args_is_help=True, help="Make a gallery folder of photos that lie elsewhere.")

DropLeaks = Annotated[
    bool, typer.Option("--drop-leaks", help="Leave out gallery photos that repeat a reference; the card says how many.")
]
KeepLeaks = Annotated[bool, typer.Option("--keep-leaks", help="Keep them; the card says how many.")]
Picture = Annotated[
    Path | None,
    typer.Option(help="Draw the pairs that the leak gate found: .png, .pdf, .svg, .jpg or .webp.", show_default=False),
]
GateEmbedder = Annotated[
    str,
    typer.Option("--embedder", "-e", help="Let an encoder propose near-duplicates too.", show_default=False),
]
Near = Annotated[
    float | None,
    typer.Option(min=-1, max=1, help="Cosine of that encoder from which a pair is a leak.", show_default=False),
]


@dataclass(frozen=True)
class Gate:
    """The leak gate as asked for on the command line."""

    leaks: str
    picture: Path | None
    alike: "Alike | None"


def read_gate(
    ctx: typer.Context,
    drop_leaks: DropLeaks = False,
    keep_leaks: KeepLeaks = False,
    picture: Picture = None,
    embedder: GateEmbedder = "",
    near: Near = None,
) -> Gate:
    """The gate of these options.

    Raises:
        FinerRankError: options that contradict each other, or an unknown embedder.
    """
    from galleries.errors import FinerRankError
    from galleries.figures import check_format

    if drop_leaks and keep_leaks:
        raise FinerRankError("--drop-leaks and --keep-leaks: give one of the two")
    if near is not None and not embedder:
        raise FinerRankError("--near: of which encoder? Name it with --embedder")
    if picture:
        check_format(picture)
    # Embedders live in a package above this one, which hands them down through the context.
    alike = ctx.obj(embedder, near) if embedder else None
    return Gate("drop" if drop_leaks else "keep" if keep_leaks else "refuse", picture, alike)


def gated(command: Callable[..., None]) -> Callable[..., None]:
    """Give a build command the options of the leak gate; it gets them as `gate`."""
    options = inspect.signature(read_gate).parameters
    own = {name: p for name, p in inspect.signature(command).parameters.items() if name != "gate"}

    def run(**given: Any) -> None:
        asked = {name: given.pop(name) for name in options}
        command(**given, gate=read_gate(**asked))

    everything = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own.values(), *options.values())]
    run.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in everything}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@app.command("folder")
@gated
def build_folder(
    source: Annotated[
        Path, typer.Argument(help="Tree of \\[category/]identity/\\[reference|gallery|distractor/]FILES.")
    ],
    out: Out,
    gate: Gate,
    name: Name = "",
    version: Version = "1",
    granularity: Granularity = "instance",
    category: Category = "",
    include: Include = None,
    references: References = 0,
    seed: Seed = 0,
    symlink: Symlink = False,
) -> None:
    """From a tree of folders, one per identity.

    Example: finer-rank gallery build folder ~/pets --references 3 --out pets
    """
    from galleries.console import note
    from galleries.gallery import SPLITS, GalleryCard
    from galleries.sources.folder import find_in_folder

    tree = find_in_folder(source, SPLITS)
    if tree.ignored:
        note(f"{len(tree.ignored)} files are no images and were left out: {', '.join(tree.ignored[:5])}")
    options = {"category": category, "include": include or (), "n_references": references, "seed": seed}
    card = GalleryCard(name or out.resolve().name, version, granularity)
    build(tree.images, source, out, card, gate, options, tree.faults, symlink=symlink)


@app.command("table")
@gated
def build_table(
    source: Annotated[
        Path, typer.Argument(help="A .csv, .tsv, .parquet or .jsonl table, or a folder with metadata.*.")
    ],
    out: Out,
    gate: Gate,
    column: Columns = None,
    constant: Constants = None,
    where: Conditions = None,
    images: Images = None,
    name: Name = "",
    version: Version = "1",
    granularity: Granularity = "instance",
    category: Category = "",
    include: Include = None,
    references: References = 0,
    seed: Seed = 0,
    symlink: Symlink = False,
) -> None:
    """From a table with other column names.

    Example: finer-rank gallery build table photos.csv --column file_name=path --column identity=animal --out zoo
    """
    from galleries.gallery import GalleryCard, Photo
    from galleries.image_set import column_names
    from galleries.sources.table import find_in_table, open_table, parse_assignments, parse_conditions

    known = column_names(Photo)
    columns, constants = parse_assignments(column or [], known), parse_assignments(constant or [], known)
    rows, faults = find_in_table(
        open_table(source),
        known,
        columns,
        constants,
        parse_conditions(where or []),
        images,
        inside_only=False,
    )
    options = {"category": category, "include": include or (), "n_references": references, "seed": seed}
    card = GalleryCard(name or out.resolve().name, version, granularity)
    build([found for found, _ in rows], source, out, card, gate, options, faults, symlink=symlink)


@app.command("hub")
@gated
def build_hub(
    source: Annotated[str, typer.Argument(help="Hub id (owner/name), or a folder written by save_to_disk.")],
    out: Out,
    gate: Gate,
    image_column: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    identity_column: Annotated[str, typer.Option(help="Column of the identities.")] = "label",
    category_column: Annotated[str, typer.Option(help="Column of the categories.", show_default=False)] = "",
    split: Annotated[str | None, typer.Option(help="The dataset's own split, where it has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
    name: Name = "",
    version: Version = "1",
    granularity: Granularity = "category",
    category: Category = "",
    include: Include = None,
    references: References = 0,
    seed: Seed = 0,
) -> None:
    """From a Hugging Face dataset.

    Example: finer-rank gallery build hub owner/cars --identity-column label --split test --references 10 --out cars
    """
    from galleries.gallery import GalleryCard
    from galleries.sources.hub import find_in_dataset

    columns = {"identity": identity_column} | ({"category": category_column} if category_column else {})
    found = find_in_dataset(source, image_column, columns, split, revision)
    options = {"category": category, "include": include or (), "n_references": references, "seed": seed}
    card = GalleryCard(name or out.resolve().name, version, granularity)
    build(found, Path(source), out, card, gate, options)


@app.command("reference-code")
@gated
def build_reference_code(
    source: Annotated[Path, typer.Argument(help="Folder with gallery_data.csv and train_data.csv.")],
    out: Out,
    gate: Gate,
    images: Images = None,
    name: Name = "",
    version: Version = "1",
    granularity: Granularity = "instance",
    category: Category = "",
    include: Include = None,
    symlink: Symlink = False,
) -> None:
    """From the tables of the protocol's reference code (name, species, file_path)."""
    from galleries.gallery import GalleryCard
    from galleries.sources.reference_code import find_gallery_in_reference_code

    found = find_gallery_in_reference_code(source, images)
    options = {"category": category, "include": include or ()}
    card = GalleryCard(name or out.resolve().name, version, granularity)
    build(found, source, out, card, gate, options, symlink=symlink)


@app.command("manifest")
@gated
def build_manifest(
    manifest: Annotated[str, typer.Argument(help="A .toml file, or the name of a published one.")],
    source: Annotated[
        str, typer.Argument(help="The data set's folder as its owners distribute it, or a copy of the gallery.")
    ],
    out: Out,
    gate: Gate,
    symlink: Symlink = False,
) -> None:
    """From a frozen list of rows: everybody with the photos builds the identical gallery.

    Example: finer-rank gallery build manifest cub-paper-1 CUB_200_2011 --out cub
    """
    from galleries.console import note, progress_bars
    from galleries.errors import FinerRankError
    from galleries.freeze import find_manifest, rebuild
    from galleries.image_set import refuse_existing, refuse_inside

    if gate.leaks == "drop":
        raise FinerRankError("--drop-leaks: a frozen gallery keeps its rows; build from the data set instead")
    refuse_existing(out)
    refuse_inside(out, Path(source))
    frozen = find_manifest(manifest)

    def report(inspection: "Inspection", images: "Mapping[str, Found]") -> None:
        _report(inspection, images, gate)

    with progress_bars() as progress:
        gallery = rebuild(frozen, source, out, symlink=symlink, progress=progress, alike=gate.alike, report=report)
    if not frozen.contents:
        note(f"note: {manifest} knows the photos' names, not their bytes: a changed photo would not be noticed")
    close(gallery, out)


def build(
    found: "Sequence[Found]",
    source: Path,
    out: Path,
    card: "GalleryCard",
    gate: Gate,
    options: dict[str, Any],
    known_faults: "Sequence[Fault]" = (),
    symlink: bool = False,
    if_missing: str = "",
) -> None:
    from galleries.console import progress_bars
    from galleries.errors import FinerRankError
    from galleries.gallery import GRANULARITIES, Gallery
    from galleries.image_set import refuse_existing, refuse_inside
    from galleries.sources import told_apart

    if card.granularity not in GRANULARITIES:
        raise FinerRankError(f"--granularity {card.granularity}: unknown; write {' or '.join(GRANULARITIES)}")
    if gate.alike and any(image.content is not None for image in found):
        raise FinerRankError("--embedder: embeds files, and these photos are none yet; build, then gallery check")
    refuse_existing(out)
    refuse_inside(out, source)

    def report(inspection: "Inspection") -> None:
        _report(inspection, told_apart(found), gate)

    with progress_bars() as progress:
        gallery = Gallery.build(
            found,
            card,
            source,
            out,
            known_faults=known_faults,
            symlink=symlink,
            leaks=gate.leaks,
            progress=progress,
            alike=gate.alike,
            report=report,
            if_missing=if_missing,
            **options,
        )
    close(gallery, out)


def _report(inspection: "Inspection", images: "Mapping[str, Found]", gate: Gate) -> None:
    """Draw what the leak gate found, and say what is worth a look."""
    from galleries.console import note
    from galleries.pair_pictures import draw_inspection

    if gate.picture and draw_inspection(inspection, images, gate.picture):
        note(f"pairs are drawn in {gate.picture}")
    for warning in inspection.warnings:
        note(f"note: {warning}")


def close(gallery: "Gallery", out: Path) -> None:
    """Say what was built."""
    from galleries.console import note, say

    for warning in gallery.warnings():
        note(f"note: {warning}")
    say(f"{out}: {summary(gallery)}")


def summary(gallery: "Gallery") -> str:
    """`7 identities, 28 gallery photos, 7 references; leaks: none found`"""
    photos = Counter(photo.split for photo in gallery.photos)
    identities = {photo.identity for photo in gallery.split("gallery")}
    parts = [f"{len(identities)} identities", f"{photos['gallery']} gallery photos"]
    parts += [f"{photos[split]} {split}s" for split in ("reference", "distractor") if photos[split]]
    leaks = f"; leaks: {gallery.card.leaks}" if gallery.card.leaks else ""
    return ", ".join(parts) + leaks
