"""Tables on disk: a row per image, as CSV, Parquet or JSON lines, read into strings."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from galleries.errors import Fault, FinerRankError

METADATA_NAMES = ("metadata.csv", "metadata.parquet", "metadata.jsonl")


@dataclass(frozen=True)
class Table:
    """Rows of strings. An absent value is "".

    Attributes:
        numbers: of the rows in the file, from 1; damaged rows are left out of both.
        faults: of the damaged rows.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    numbers: tuple[int, ...]
    faults: tuple[Fault, ...] = ()

    def where(self, row: int) -> str:
        return f"{self.path.name} row {self.numbers[row]}"


def find_metadata(folder: Path) -> Path | None:
    """The metadata table of an ImageFolder, or None.

    Raises:
        FinerRankError: two tables, of which either might be meant.
    """
    found = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise FinerRankError(f"{folder}: has {' and '.join(p.name for p in found)}; keep the one that is meant")
    return found[0] if found else None


def read_table(path: Path) -> Table:
    """Read a `.csv`, `.tsv`, `.parquet` or `.jsonl` table.

    Raises:
        FinerRankError: no such file, unknown kind, or not readable at all. Damaged rows are in `faults`.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise FinerRankError(f"{path}: not a table; give a {', '.join(readers)} file")
    if not path.is_file():
        raise FinerRankError(f"{path}: no such file; check the path")
    try:
        table = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise FinerRankError(f"{path}: byte {error.start} is not UTF-8; save the table as UTF-8") from None
    except OSError as error:
        raise FinerRankError(f"{path}: cannot be read ({error}); check its permissions") from None
    repeated = {column for column in table.columns if table.columns.count(column) > 1}
    if repeated:
        raise FinerRankError(f"{path}: column {sorted(repeated)[0]!r} stands twice; rename one")
    return table


def _read_csv(path: Path) -> Table:
    rows, numbers, faults = [], [], []
    text = path.read_bytes().decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        header = next(reader, None)
        if header is None:
            raise FinerRankError(f"{path}: empty; its first line must name the columns")
        columns = tuple(column.strip() for column in header)
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
            if len(columns) == 1 and separator in columns[0]:
                expected = "tabs" if path.suffix.lower() == ".tsv" else "commas"
                raise FinerRankError(f"{path}: its columns are separated by {name}; save it with {expected}")
        for number, fields in enumerate((fields for fields in reader if fields), start=1):
            if len(fields) != len(columns):
                what = f"{len(fields)} fields where the header has {len(columns)} (line {reader.line_num})"
                remedy = "mend the line, quoting fields that hold commas"
                faults.append(Fault(f"{path.name} row {number}", what, remedy))
                continue
            rows.append(dict(zip(columns, fields, strict=True)))
            numbers.append(number)
    except csv.Error as error:
        raise FinerRankError(f"{path}: line {reader.line_num}: {error}; mend the line") from None
    return Table(path, columns, tuple(rows), tuple(numbers), tuple(faults))


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FinerRankError(f"{path}: not a readable Parquet file ({reason}); write it again") from None
    columns = tuple(table.column_names)
    values = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    rows = tuple(dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
    return Table(path, columns, rows, tuple(range(1, len(rows) + 1)))


def _read_jsonl(path: Path) -> Table:
    objects, numbers, faults = [], [], []
    lines = (line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip())
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits are no JSONDecodeError
            faults.append(Fault(f"{path.name} row {number}", f"not JSON ({error})", "mend the line"))
            continue
        if not isinstance(value, dict):
            faults.append(Fault(f"{path.name} row {number}", "not a JSON object", "write one {…} a line"))
            continue
        if not is_utf8(line) or not is_utf8("".join(_as_text(v) for v in value.values())):
            faults.append(Fault(f"{path.name} row {number}", "holds half a character", "write the text as UTF-8"))
            continue
        objects.append(value)
        numbers.append(number)
    columns = tuple(dict.fromkeys(key for value in objects for key in value))
    rows = tuple({c: _as_text(value.get(c)) for c in columns} for value in objects)
    return Table(path, columns, rows, tuple(numbers), tuple(faults))


def _as_text(value: object) -> str:
    """A cell as text. Whole floats lose the `.0` that a column of integers gets from one missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value)


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: names of files and JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    # The csv module leaves a lone carriage return unquoted, and then reads it as the end of the row.
    unsafe = any("\r" in value for row in rows for value in row.values())
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if unsafe else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)


def column_faults(table: Table, required: Sequence[str], known: Sequence[str]) -> list[Fault]:
    """Columns that are missing, and columns that nobody knows."""
    if not table.columns:  # no row of it could be read
        return []
    faults = []
    misspelt = set()
    for column in required:
        if column not in table.columns:
            near = get_close_matches(column, set(table.columns) - set(known), n=1)
            misspelt.update(near)
            hint = f"rename column {near[0]!r}" if near else f"add it (columns here: {', '.join(table.columns)})"
            faults.append(Fault(table.path.name, f"no column {column!r}", hint))
    for column in table.columns:
        if column not in known and column not in misspelt:
            near = get_close_matches(column, known, n=1)
            hint = (
                f"{near[0]!r} is meant? Rename it, or remove it" if near else f"remove it (known: {', '.join(known)})"
            )
            faults.append(Fault(table.path.name, f"unknown column {column!r}", hint))
    return faults
