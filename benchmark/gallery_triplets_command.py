"""`finer-rank agreement triplets`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import GalleryOption
from galleries.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmark.gallery_triplets import Triplet
    from galleries.gallery import Gallery

app = typer.Typer()


@app.command()
def triplets(
    gallery: GalleryOption,
    out: Annotated[
        Path,
        typer.Option(
            help="Table to write (.csv) in the photos' folder or above it; or a folder for a table and copies of the "
            "photos. Must not exist yet."
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Triplets in all.")] = 1000,
    split: Annotated[
        str, typer.Option(help="Shares of the identities for train, val and test; 0 for a part that is not wanted.")
    ] = "0.6,0.2,0.2",
    seed: Annotated[
        int, typer.Option(min=0, help="Of who is held out, which photos are drawn, which side they take.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Triplets from a gallery: a reference, another photo of its identity, and one of a look-alike; the same is nearer.

    The table is read like people's judgements, by agreement score, tune and identity. Nobody stands in two splits.

    Example: finer-rank agreement triplets --gallery dogs --out dogs.csv --n 1000
    """
    import os

    from benchmark.embed import image_files
    from benchmark.gallery_triplets import PARTS, gallery_triplets
    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import FinerRankError, raise_if_any
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_existing

    shares = _shares(split)
    refuse_existing(out)
    opened = Gallery.open(gallery)
    is_table = out.suffix.lower() == ".csv"
    if is_table:
        _check_below(out.parent, opened)
    with progress_bars() as progress:
        files, faults = image_files([(opened.root, opened.photos)], decode=False, progress=progress)
    raise_if_any(str(gallery), faults)
    digests = {path: file.digest for path, file in files.items()}
    try:
        found = gallery_triplets(opened.photos, digests, n, seed=seed, shares=shares)
    except FinerRankError as error:
        raise FinerRankError(f"{gallery}: {error}") from None
    if is_table:
        start = out.parent.resolve()
        names = {path: os.path.relpath(path.parent.resolve() / path.name, start) for path in files}
        _write_table(out, found.rows, names)
    else:
        _write_folder(out, found.rows)
    parts = [part for part, share in zip(PARTS, shares, strict=True) if share]
    n_rows = {part: sum(row.part == part for row in found.rows) for part in parts}
    if as_json:
        print_json(
            {
                "out": out,
                "gallery": {"name": opened.card.name, "version": opened.card.version, "table_sha256": opened.digest},
                "seed": seed,
                "splits": {
                    part: {"triplets": n_rows[part], "identities": sorted(found.identities[part])} for part in parts
                },
                "notes": found.notes,
            }
        )
        return
    for remark in found.notes:
        note(remark)
    said = ", ".join(f"{part} {n_rows[part]} of {len(found.identities[part])} identities" for part in parts)
    say(f"{out}: {len(found.rows)} triplets ({said}); who is nearer is told by the labels, not by people")


def _shares(text: str) -> tuple[float, ...]:
    """Three shares that add up to 1.

    Raises:
        FinerRankError: they are not.
    """
    import math

    from galleries.errors import FinerRankError

    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1):
        raise FinerRankError(f"--split {text}: write three shares that add up to 1, such as 0.6,0.2,0.2")
    return shares


def _check_below(folder: Path, gallery: "Gallery") -> None:
    """Refuse a table that could not name the photos: a table of judgements names no file outside its own folder.

    Raises:
        FinerRankError: a photo, or what it links to, lies elsewhere.
    """
    from galleries.errors import FinerRankError

    start = folder.resolve()
    outside = next((photo for photo in gallery.photos if not photo.path.resolve().is_relative_to(start)), None)
    if outside:
        raise FinerRankError(
            f"{outside.path}: does not lie below {folder or Path()}, and a table names no images elsewhere; write "
            "the table into the gallery's folder, or let --out be a folder (no .csv): the photos are copied there"
        )


def _write_folder(out: Path, rows: "tuple[Triplet, ...]") -> None:
    """`triplets.csv` and copies of the photos that it names.

    Raises:
        FinerRankError: the folder cannot be written.
    """
    import shutil

    from galleries.image_set import free_name, new_folder

    taken: set[str] = set()
    names: dict[Path, str] = {}
    with new_folder(out) as folder:
        for photo in sorted({p for row in rows for p in (row.reference, row.a, row.b)}, key=lambda p: p.file_name):
            name = free_name(f"images/{photo.file_name.removeprefix('images/')}", taken)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo.path, folder / name)
            names[photo.path] = name
        _write_table(folder / "triplets.csv", rows, names)


def _write_table(out: Path, rows: "tuple[Triplet, ...]", names: "Mapping[Path, str]") -> None:
    """The table, under its name only when it is whole.

    Args:
        names: photo → its name from the table's folder.

    Raises:
        FinerRankError: it cannot be written.
    """
    from galleries.errors import FinerRankError
    from galleries.tables import write_csv

    columns = ("reference", "a", "b", "choice", "target", "split", "subset")
    cells = [
        {
            **{side: names[getattr(row, side).path] for side in ("reference", "a", "b")},
            "choice": row.choice,
            "target": row.reference.identity,
            "split": row.part,
            "subset": row.reference.category,
        }
        for row in rows
    ]
    partial = out.with_name(f".{out.name}.partial")
    try:
        write_csv(partial, columns, cells)
        partial.rename(out)
    except OSError as error:
        raise FinerRankError(f"{out}: {error.strerror}; check the path, permissions and disk") from None
    finally:
        partial.unlink(missing_ok=True)
