"""`finer-rank distance`"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import BatchSize, Device, Precision, Store
from galleries.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.distances.base import Floats

    Pairs = Sequence[tuple[Path, Path]]

app = typer.Typer()


@app.command()
def distance(
    first: Annotated[Path | None, typer.Argument(help="An image, or a folder of images.", show_default=False)] = None,
    second: Annotated[
        Path | None,
        typer.Argument(help="Another image, or a folder with images of the same names.", show_default=False),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="lpips (lpips:alex, lpips:vgg, lpips:squeeze), dists, ssim, psnr, or an embedder as for evaluate, "
            "such as mae or dreamsim, for 1 - cosine. With @FILE: weights of your own. lpips by default. Repeatable.",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Instead of two paths: a table with columns first and second.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the table's paths start from; the table's own by default.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Squash images to so many pixels; as they are, or the embedder's own way, without."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Table to write: .csv; must not exist yet.")] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say how far apart pictures are: two images, two folders with the same names, or any pairs of a table.

    Smaller is nearer under every metric: ssim stands for 1 - SSIM, psnr for -PSNR in dB.

    Example: finer-rank distance reference.jpg generated.png --metric lpips --metric ssim --size 256

    Example: finer-rank distance photos generated --metric dreamsim --out distances.csv
    """
    import numpy as np

    from benchmark.distances import Resources, load_distance
    from benchmark.embedders import published_spec
    from benchmark.store import store_at
    from galleries.console import note, print_json, print_table, progress_bars
    from galleries.errors import FinerRankError

    if out is not None:
        _check_out(out)
    specs = metric or ["lpips"]
    if len(set(specs)) < len(specs):
        raise FinerRankError("--metric: one is named twice; name each once")
    root = store_at(store)
    distances = [load_distance(spec, size=size, device=device, precision=precision, memo=root) for spec in specs]
    asked = _asked(first, second, pairs, images)
    with progress_bars() as progress:
        resources = Resources(root, batch_size, progress, note)
        found = {spec: each.of_pairs(asked, resources) for spec, each in zip(specs, distances, strict=True)}
        means = {spec: float(np.mean(values)) for spec, values in found.items()}
    if out is not None:
        _write(out, asked, found)
    if as_json:
        metrics = [
            {"metric": spec, "fingerprint": each.fingerprint, "mean": means[spec], "description": each.description}
            for spec, each in zip(specs, distances, strict=True)
        ]
        rows = [
            {"first": str(a), "second": str(b), **{spec: float(found[spec][i]) for spec in specs}}
            for i, (a, b) in enumerate(asked)
        ]
        print_json({"metrics": metrics, "pairs": rows})
        return
    cells = [[str(a), str(b), *(f"{found[spec][i]:.6f}" for spec in specs)] for i, (a, b) in enumerate(asked)]
    if len(asked) > 1:
        cells.append(["(mean)", f"{len(asked)} pairs", *(f"{means[spec]:.6f}" for spec in specs)])
    print_table("distances, smaller is nearer", ["first", "second", *map(published_spec, specs)], cells, n_left=2)


def _check_out(out: Path) -> None:
    from galleries.errors import FinerRankError

    for is_wrong, what in (
        (out.suffix != ".csv", "is no .csv"),
        (out.exists(), "is there already"),
        (not out.parent.is_dir(), f"there is no folder {out.parent}"),
    ):
        if is_wrong:
            raise FinerRankError(f"--out {out}: {what}; name a new .csv file")


def _asked(first: Path | None, second: Path | None, pairs: Path | None, images: Path | None) -> "Pairs":
    """The pairs of files that are asked for.

    Raises:
        FinerRankError: two ways to ask at once, or none; a table or folders without any pair.
        Faults: paths that are not there; files without a partner; rows that cannot be used.
    """
    from galleries.errors import Fault, FinerRankError, raise_if_any

    if pairs is not None:
        if first or second:
            raise FinerRankError("--pairs: names all pairs; leave the two paths out")
        return _of_table(pairs, images or pairs.parent)
    if images is not None:
        raise FinerRankError("--images: is for the paths of a table; give --pairs with it")
    if first is None or second is None:
        raise FinerRankError("two images or two folders are needed; write both, or --pairs TABLE")
    missing = [Fault(str(path), "no such file or folder", "check the path") for path in (first, second) if _lacks(path)]
    raise_if_any("paths", missing)
    if first.is_dir() != second.is_dir():
        folder, file = (first, second) if first.is_dir() else (second, first)
        raise FinerRankError(f"{folder} is a folder and {file} is not; give two files, two folders, or --pairs TABLE")
    return _of_folders(first, second) if first.is_dir() else [(first, second)]


def _lacks(path: Path) -> bool:
    try:
        return not path.exists()
    except (OSError, ValueError):  # too long a name, a NUL, or a folder that must not be entered: said when it is read
        return False


def _of_folders(first: Path, second: Path) -> "Pairs":
    from galleries.errors import Fault, FinerRankError, raise_if_any

    here, there = _image_names(first), _image_names(second)
    faults = [
        Fault(str(folder / name), f"no image of that name in {other}", "add it, remove this one, or give --pairs TABLE")
        for folder, names, other in ((first, here - there, second), (second, there - here, first))
        for name in sorted(names)
    ]
    raise_if_any("images without a partner", faults)
    if not here:
        raise FinerRankError(f"{first}: holds no images; name two folders with images of the same names")
    return [(first / name, second / name) for name in sorted(here)]


def _image_names(folder: Path) -> set[str]:
    """Images of a folder and its folders, relative to it; hidden ones are left out."""
    from galleries.images import SUFFIXES

    names = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {str(name) for name in names if not any(part.startswith(".") for part in name.parts)}


def _of_table(path: Path, root: Path) -> "Pairs":
    from galleries.errors import Fault, FinerRankError, raise_if_any
    from galleries.tables import column_faults, read_table

    table = read_table(path)
    columns = ("first", "second")
    faults = [*column_faults(table, columns, table.columns), *table.faults]
    if not faults:
        faults = [
            Fault(f"{table.where(i)}, {column}", *wrong)
            for i, row in enumerate(table.rows)
            for column in columns
            if (wrong := _wrong_with(row[column]))
        ]
    raise_if_any(str(path), faults)
    if not table.rows:
        raise FinerRankError(f"{path}: has no rows; write a pair of images a row")
    return [(root / row["first"], root / row["second"]) for row in table.rows]


def _wrong_with(name: str) -> tuple[str, str] | None:
    if not name.strip():
        return "an image's name is empty", "name an image, or remove the row"
    if "\0" in name or ("\\" in name and os.sep == "/"):
        return f"backslash or NUL in {name}", "write folders with /"
    if name != name.strip():
        return f"{name!r} begins or ends with a space", "remove it"
    return None


def _write(out: Path, pairs: "Pairs", found: "dict[str, Floats]") -> None:
    from galleries.errors import FinerRankError
    from galleries.tables import write_csv

    rows: list[dict[str, Any]] = [
        {"first": str(a), "second": str(b), **{spec: repr(float(values[i])) for spec, values in found.items()}}
        for i, (a, b) in enumerate(pairs)
    ]
    partial = out.with_name(f".{out.name}.partial")
    try:
        write_csv(partial, ["first", "second", *found], rows)
        partial.rename(out)
    except OSError as error:
        raise FinerRankError(f"{out}: cannot be written ({error.strerror}); name another --out") from None
    finally:
        partial.unlink(missing_ok=True)
