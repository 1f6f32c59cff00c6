"""What a gallery and a run have in common on disk: a card in TOML, a table with a row per image, images."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from galleries.errors import Fault, Faults, FinerRankError
from galleries.images import check_file_name, image_fault, in_threads
from galleries.sources import Found
from galleries.tables import Table, column_faults, find_metadata, read_table, write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance


class ImageRow(Protocol):
    """A row of an image table: a frozen dataclass whose fields are the columns, and `path`, the file itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def file_name(self) -> str: ...
    @property
    def path(self) -> Path: ...


Row = TypeVar("Row", bound=ImageRow)
Card = TypeVar("Card", bound="DataclassInstance")


def column_names(row_type: type[Any]) -> tuple[str, ...]:
    """The table's columns: all fields of the row type but `path`."""
    return tuple(f.name for f in dataclasses.fields(row_type) if f.name != "path")


def values_of(row: Any) -> dict[str, str]:
    return {column: getattr(row, column) for column in column_names(type(row))}


def read_rows(folder: Path, row_type: type[Row], required: Sequence[str]) -> tuple[Table, list[Row]]:
    """The rows of a folder's metadata table.

    Raises:
        Faults: unknown or missing columns.
        FinerRankError: no table, or a damaged one.
    """
    path = find_metadata(folder)
    if path is None:
        raise FinerRankError(f"{folder}: no metadata.csv, .parquet or .jsonl; add the table, or name the folder of one")
    table = read_table(path)
    faults = column_faults(table, required, column_names(row_type))
    if faults:
        raise Faults(str(folder), faults)
    if not table.rows:
        raise FinerRankError(f"{path}: no rows; add a row per image")
    make: Callable[..., Row] = row_type
    return table, [make(path=folder / row["file_name"], **row) for row in table.rows]


def row_faults(table: Table, rows: Sequence[ImageRow], labels: Sequence[str]) -> list[Fault]:
    """File names that are empty, repeated or lead out of the folder, and empty labels."""
    faults = []
    first_seen: dict[str, int] = {}
    for i, row in enumerate(rows):
        wrong = check_file_name(row.file_name)
        if wrong:
            faults.append(Fault(f"{table.where(i)} ({row.file_name})", wrong, "name a file inside the folder"))
        first = first_seen.setdefault(row.file_name, i)
        if first != i:
            faults.append(
                Fault(
                    table.where(i),
                    f"file_name {row.file_name!r} stands in row {first + 1} too",
                    "remove one of the rows",
                )
            )
        faults += [
            Fault(f"{table.where(i)} ({row.file_name})", f"empty {label}", "fill it in")
            for label in labels
            if not getattr(row, label).strip()
        ]
    return faults


def read_card(path: Path, card_type: type[Card], **defaults: Any) -> Card:
    """Read a TOML card. Absent fields take `defaults`, then the dataclass's own.

    Raises:
        Faults: not TOML, unknown fields, or values of another type.
    """
    values: dict[str, Any] = {}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FinerRankError(f"{path}: not TOML ({error}); mend the line") from None
    fields = {f.name: f for f in dataclasses.fields(card_type)}
    faults = []
    for key, value in values.items():
        if key not in fields:
            faults.append(Fault(path.name, f"unknown field {key!r}", f"remove it (known: {', '.join(fields)})"))
        elif not isinstance(value, dict if key == "parameters" else str):
            kind = "a table" if key == "parameters" else "text in quotes"
            faults.append(Fault(path.name, f"{key} = {value!r}", f"write {kind}"))
    if faults:
        raise Faults(str(path.parent), faults)
    return card_type(**{**defaults, **values})


def image_digests(
    rows: Sequence[ImageRow], decode: bool, step: Callable[[int], Any] | None = None
) -> tuple[list[str | None], list[Fault]]:
    """SHA-256 of each row's image file, in order; None and a fault where a file cannot be used.

    Args:
        decode: look at the pixels too, not at the header alone.
        step: told of each image done.
    """
    digests: list[str | None] = []
    faults = []
    for result in in_threads(lambda row: image_fault(row.file_name, row.path, decode), rows):
        if isinstance(result, Fault):
            faults.append(result)
        digests.append(None if isinstance(result, Fault) else result)
        if step:
            step(1)
    return digests, faults


def table_digest(rows: Iterable[ImageRow]) -> str:
    """SHA-256 over the rows, whatever their order in the file."""
    lines = sorted(json.dumps(values_of(row), sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def new_folder(out: Path) -> "Iterator[Path]":
    """A temporary sibling that becomes `out` when the block ends well and vanishes when it does not.

    Raises:
        FinerRankError: `out` exists already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FinerRankError(f"{out}: exists already; give another --out, or remove it first")
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise FinerRankError(
            f"{error.filename or out}: {error.strerror}; check the path, permissions and disk"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_image_set(
    folder: Path,
    card_name: str,
    card: Any,
    row_type: type[Any],
    rows: Sequence[tuple[dict[str, str], Found]],
    symlink: bool,
) -> None:
    """Write card, `metadata.csv` and `images/` into an existing, empty folder; rows are sorted by file name."""
    import tomli_w

    written = []
    taken: set[str] = set()
    for values, found in sorted(rows, key=lambda row: row[1].name):
        file_name = _free_name(f"images/{found.name}", taken)
        target = folder / file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.content is not None:
            target.write_bytes(found.content)
        elif symlink:
            target.symlink_to(found.path.resolve())
        else:
            shutil.copyfile(found.path, target)
        written.append({**values, "file_name": file_name})
    columns = [c for c in column_names(row_type) if any(row.get(c) for row in written)]
    write_csv(folder / "metadata.csv", columns, [{c: row.get(c, "") for c in columns} for row in written])
    fields = {key: value for key, value in dataclasses.asdict(card).items() if value}
    (folder / card_name).write_text(tomli_w.dumps(fields), encoding="utf-8")


def _free_name(file_name: str, taken: set[str]) -> str:
    """`file_name`, made safe for any file system and told apart from names that differ only in case."""
    *folders, last = [
        re.sub(r'[<>:"\\|?*\x00-\x1f\x7f]', "_", part).strip(". ") or "_" for part in file_name.split("/")
    ]
    stem, suffix = Path(last).stem, Path(last).suffix
    start = "/".join([*(folder[:100] for folder in folders), stem[:100]])
    name, n = f"{start}{suffix[:10]}", 1
    while name.lower() in taken:
        n += 1
        name = f"{start}-{n}{suffix[:10]}"
    taken.add(name.lower())
    return name
