"""`finer-rank gallery …`"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Make, check and look at galleries: identity-labelled real photos.")
build = typer.Typer(no_args_is_help=True, help="Make a gallery folder of photos that lie elsewhere.")
app.add_typer(build, name="build")

Out = Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")]
Name = Annotated[str, typer.Option(help="Name of the gallery; that of the folder by default.")]
Version = Annotated[str, typer.Option(help="Version of the gallery: raise it when the rows change.")]
Granularity = Annotated[
    str, typer.Option(help="instance (individuals) or category (identities are species, car models, …).")
]
Category = Annotated[
    str,
    typer.Option(help="One category for all photos: everybody is ranked among everybody.", show_default=False),
]
Include = Annotated[list[str] | None, typer.Option(help="Only identities of this name or pattern (dog*). Repeatable.")]
References = Annotated[
    int,
    typer.Option(min=0, help="Photos of each identity to set aside as references, where there is no split yet."),
]
Seed = Annotated[int, typer.Option(help="Seed of that choice.")]
Symlink = Annotated[bool, typer.Option(help="Link to the photos instead of copying them.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="OURS=THEIRS, for example identity=subject. Repeatable.", show_default=False),
]
Constants = Annotated[
    list[str] | None,
    typer.Option("--set", help="OURS=VALUE for all rows, for example category=dog. Repeatable.", show_default=False),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Take only rows with COLUMN=VALUE (several values of one column are alternatives) or COLUMN!=VALUE. "
        "Repeatable.",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="Folder that the table's paths start from; the table's own by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


@build.command("folder")
def build_folder(
    source: Annotated[Path, typer.Argument(help="Tree of [category/]identity/[reference|gallery|distractor/]FILES.")],
    out: Out,
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
    from galleries.gallery import SPLITS
    from galleries.sources.folder import find_in_folder

    tree = find_in_folder(source, SPLITS)
    if tree.ignored:
        note(f"{len(tree.ignored)} files are no images and were left out: {', '.join(tree.ignored[:5])}")
    options = {"category": category, "include": include or (), "n_references": references, "seed": seed}
    _build(tree.images, source, out, name, version, granularity, symlink, options, tree.faults)


@build.command("table")
def build_table(
    source: Annotated[
        Path, typer.Argument(help="A .csv, .tsv, .parquet or .jsonl table, or a folder with metadata.*.")
    ],
    out: Out,
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
    from galleries.gallery import Photo
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
    _build([found for found, _ in rows], source, out, name, version, granularity, symlink, options, faults)


@build.command("hub")
def build_hub(
    source: Annotated[str, typer.Argument(help="Hub id (owner/name), or a folder written by save_to_disk.")],
    out: Out,
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
    from galleries.sources.hub import find_in_dataset

    columns = {"identity": identity_column} | ({"category": category_column} if category_column else {})
    found = find_in_dataset(source, image_column, columns, split, revision)
    options = {"category": category, "include": include or (), "n_references": references, "seed": seed}
    _build(found, Path(source), out, name, version, granularity, False, options)


@build.command("reference-code")
def build_reference_code(
    source: Annotated[Path, typer.Argument(help="Folder with gallery_data.csv and train_data.csv.")],
    out: Out,
    images: Images = None,
    name: Name = "",
    version: Version = "1",
    granularity: Granularity = "instance",
    category: Category = "",
    include: Include = None,
    symlink: Symlink = False,
) -> None:
    """From the tables of the protocol's reference code (name, species, file_path)."""
    from galleries.sources.reference_code import find_gallery_in_reference_code

    found = find_gallery_in_reference_code(source, images)
    options = {"category": category, "include": include or ()}
    _build(found, source, out, name, version, granularity, symlink, options)


def _build(
    found: Any,
    source: Path,
    out: Path,
    name: str,
    version: str,
    granularity: str,
    symlink: bool,
    options: dict[str, Any],
    known_faults: Any = (),
) -> None:
    from galleries.console import note, progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.gallery import GRANULARITIES, Gallery, GalleryCard
    from galleries.image_set import refuse_inside

    if granularity not in GRANULARITIES:
        raise FinerRankError(f"--granularity {granularity}: unknown; write {' or '.join(GRANULARITIES)}")
    refuse_inside(out, source)
    card = GalleryCard(name or out.resolve().name, version, granularity)
    with progress_bars() as progress:
        step = progress("checking images", len(found)) if progress else None
        gallery = Gallery.build(
            found, card, source, out, known_faults=known_faults, symlink=symlink, step=step, **options
        )
    for warning in gallery.warnings():
        note(f"note: {warning}")
    say(f"{out}: {_summary(gallery)}")


@app.command()
def check(
    gallery: Annotated[
        Path, typer.Argument(help="Gallery folder, folder tree, or folder of the reference code's CSVs.")
    ],
    as_json: AsJson = False,
) -> None:
    """Look for every fault, in the table and in every image. Exit code 2 if there is one."""
    from dataclasses import asdict

    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import raise_if_any
    from galleries.gallery import Gallery

    opened, faults = Gallery.load(gallery)
    with progress_bars() as progress:
        step = progress("checking images", len(opened.photos)) if progress else None
        image_faults, image_warnings = opened.look_at_images(step)
    faults += image_faults
    if as_json and faults:
        print_json({"gallery": str(gallery), "faults": [asdict(fault) for fault in faults], "warnings": []})
    raise_if_any(str(gallery), faults)
    warnings = opened.warnings() + image_warnings
    if opened.ignored:
        warnings.append(f"{len(opened.ignored)} files are no images: {', '.join(opened.ignored[:5])}")
    if as_json:
        print_json({"gallery": str(gallery), "faults": [], "warnings": warnings})
        return
    for warning in warnings:
        note(f"note: {warning}")
    say(f"{gallery}: no faults; {_summary(opened)}")


@app.command()
def show(
    gallery: Annotated[
        Path, typer.Argument(help="Gallery folder, folder tree, or folder of the reference code's CSVs.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what is in a gallery: categories, identities, photos."""
    from dataclasses import asdict

    from galleries.console import print_json, print_table, say
    from galleries.gallery import SPLITS, Gallery

    opened = Gallery.open(gallery)
    counts: dict[str, dict[str, Counter[str]]] = {}
    for photo in opened.photos:
        counts.setdefault(photo.category, defaultdict(Counter))[photo.split][photo.identity] += 1
    if as_json:
        categories = {
            category: {split: dict(sorted(of[split].items())) for split in SPLITS if of[split]}
            for category, of in sorted(counts.items())
        }
        print_json({**asdict(opened.card), "table_sha256": opened.digest, "categories": categories})
        return
    rows = []
    for category, of in sorted(counts.items()):
        per_identity = sorted(of["gallery"].values())
        spread = f"{per_identity[0]}–{per_identity[-1]}" if per_identity else "–"
        totals = [str(sum(of[split].values())) for split in ("gallery", "reference", "distractor")]
        rows.append([category, str(len(of["gallery"])), totals[0], spread, totals[1], totals[2]])
    title = f"{opened.card.name} {opened.card.version} ({opened.card.granularity})"
    columns = ["category", "identities", "gallery photos", "per identity", "references", "distractors"]
    print_table(title, columns, rows)
    say(f"table SHA-256 {opened.digest}")


def _summary(gallery: Any) -> str:
    photos = Counter(photo.split for photo in gallery.photos)
    identities = {photo.identity for photo in gallery.split("gallery")}
    parts = [f"{len(identities)} identities", f"{photos['gallery']} gallery photos"]
    parts += [f"{photos[split]} {split}s" for split in ("reference", "distractor") if photos[split]]
    return ", ".join(parts)
