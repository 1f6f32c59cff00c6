"""The CSV files of the protocol's reference code: `name, species, file_path[, ref_path]`."""

from dataclasses import replace
from pathlib import Path

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.sources import Found, told_apart
from galleries.sources.table import find_in_table
from galleries.tables import read_table

GALLERY_FILES = {"train_data.csv": "reference", "gallery_data.csv": "gallery"}
RUN_FILE = "generated_data.csv"
COLUMNS = {"file_name": "file_path", "identity": "name", "category": "species"}
REFERENCE_COLUMN = "ref_path"


def find_reference_code(csv_path: Path, images: Path | None = None) -> list[Found]:
    """The images of one of the reference code's tables.

    Their paths may be absolute, or relative to the table's folder, to the working directory or to `images`.
    Rows that repeat a file are dropped: the code's resume branch writes its rows again and again.

    Raises:
        FinerRankError: no such table, or columns missing.
    """
    table = read_table(csv_path)
    columns = dict(COLUMNS)
    if REFERENCE_COLUMN in table.columns:
        columns["reference_file_name"] = REFERENCE_COLUMN
    roots = [images] if images else [csv_path.parent, Path.cwd()]
    first_path = next((row.get(columns["file_name"], "") for row in table.rows), "")
    root = next((root for root in roots if (root / first_path).exists()), roots[0])
    rows, faults = find_in_table(table, (), columns, {}, images=root, inside_only=False, unique=False)
    found: dict[Path, Found] = {}
    for image, row in rows:
        values = {**image.values, "source_id": row[columns["file_name"]]}
        first = found.setdefault(image.path, replace(image, values=values))
        for label in ("identity", "category"):
            if first.values[label] != image.values[label]:
                labels = f"{image.values[label]!r}, but {first.values[label]!r} in {first.where}"
                faults.append(Fault(image.where, f"{values['source_id']} is {labels}", "remove the wrong row"))
    raise_if_any(str(csv_path.parent), faults)
    return list(found.values())


def find_gallery_in_reference_code(folder: Path, images: Path | None = None) -> list[Found]:
    """The photos that `train_data.csv` and `gallery_data.csv` of a folder name, with their split."""
    if not (folder / "gallery_data.csv").is_file():
        raise FinerRankError(f"{folder}: no gallery_data.csv; name the folder that the reference code wrote")
    found = []
    for name, split in GALLERY_FILES.items():
        if (folder / name).is_file():
            rows = find_reference_code(folder / name, images)
            found += [replace(f, values={**f.values, "split": split}) for f in rows]
    return list(told_apart(found).values())
