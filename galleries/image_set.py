"""What a gallery and a run have in common on disk: a card in TOML, a table with a row per image, images."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from galleries.errors import Fault, FinerRankError
from galleries.images import check_file_name, image_fault, in_threads
from galleries.photo_checks import is_file
from galleries.sources import Found
from galleries.tables import column_faults, find_metadata, read_table, write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance


class ImageRow(Protocol):
    """A row of an image table: a frozen dataclass whose fields are the columns, and `path`, the file itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def file_name(self) -> str: ...
    @property
    def mask_file_name(self) -> str: ...
    @property
    def path(self) -> Path: ...


Row = TypeVar("Row", bound=ImageRow)
Card = TypeVar("Card", bound="DataclassInstance")


def column_names(row_type: type[Any]) -> tuple[str, ...]:
    """The table's columns: all fields of the row type but `path`."""
    return tuple(f.name for f in dataclasses.fields(row_type) if f.name != "path")


def values_of(row: Any) -> dict[str, str]:
    return {column: getattr(row, column) for column in column_names(type(row))}


def read_rows(
    folder: Path, row_type: type[Row], required: Sequence[str], labels: Sequence[str]
) -> tuple[list[tuple[str, Row]], list[Fault]]:
    """The rows of a folder's metadata table, each with where it stands, and all that is wrong with the table.

    Args:
        required: columns that must be there.
        labels: columns that must be filled in.

    Raises:
        FinerRankError: no table, or one that cannot be read at all.
    """
    path = find_metadata(folder)
    if path is None:
        raise FinerRankError(f"{folder}: no metadata.csv, .parquet or .jsonl; add the table, or name the folder of one")
    table = read_table(path)
    known = column_names(row_type)
    faults = [*table.faults, *column_faults(table, required, known)]
    if not table.rows and not faults:
        raise FinerRankError(f"{path}: no rows; add a row per image")
    if "file_name" not in table.columns:
        return [], faults
    make: Callable[..., Row] = row_type
    columns = {*known} & {*table.columns} | {*required}
    rows = []
    first_seen: dict[str, int] = {}
    for i, cells in enumerate(table.rows):
        file_name = cells["file_name"]
        wrong = check_file_name(file_name)
        if wrong:
            faults.append(Fault(f"{table.where(i)} ({file_name})", wrong, "name a file inside the folder"))
            continue
        first = first_seen.setdefault(PurePosixPath(file_name).as_posix(), i)
        if first != i:
            what = f"file_name {file_name!r} stands in row {table.numbers[first]} too"
            faults.append(Fault(table.where(i), what, "remove one of the rows"))
            continue
        where = f"{table.where(i)} ({file_name})"
        faults += [
            Fault(where, f"empty {label}", "fill it in")
            for label in labels
            if label in table.columns and not cells[label].strip()
        ]
        faults += spaced_labels(where, cells)
        rows.append((where, make(path=folder / file_name, **{c: cells.get(c, "") for c in columns})))
    return rows, faults


def checked_mask(where: str, row: Row) -> tuple[Row, list[Fault]]:
    """A row without its mask's name where that leaves the folder, and the fault."""
    wrong = check_file_name(row.mask_file_name) if row.mask_file_name else None
    if not wrong:
        return row, []
    what = f"mask_file_name {row.mask_file_name}: {wrong.replace('file_name ', '')}"
    return dataclasses.replace(row, mask_file_name=""), [Fault(where, what, "name a file inside the folder")]


def missing_masks(rows: Iterable[ImageRow], root: Path) -> list[Fault]:
    """Masks that rows name and that are not there."""
    remedy = "put the file there, or empty the cell"
    return [
        Fault(row.mask_file_name, f"no such mask, named by {row.file_name}", remedy)
        for row in rows
        if row.mask_file_name and not is_file(root / row.mask_file_name)
    ]


def spaced_labels(where: str, values: Mapping[str, str]) -> list[Fault]:
    """Labels that begin or end with a space, and so are others than they look."""
    return [
        Fault(where, f"{label} {value!r} begins or ends with a space", "remove it")
        for label in ("category", "identity", "split", "encounter", "viewpoint")
        if (value := values.get(label, "")).strip() and value != value.strip()
    ]


def read_card(path: Path, card_type: type[Card], **defaults: Any) -> tuple[Card, list[Fault]]:
    """Read a TOML card, and what is wrong with it. Absent fields take `defaults`, then the dataclass's own.

    Raises:
        FinerRankError: not TOML.
    """
    values: dict[str, Any] = {}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise FinerRankError(f"{path}: not TOML ({error}); mend the line") from None
    fields = {f.name: f for f in dataclasses.fields(card_type)}
    good, faults = {}, []
    for key, value in values.items():
        if key not in fields:
            faults.append(Fault(path.name, f"unknown field {key!r}", f"remove it (known: {', '.join(fields)})"))
        elif not isinstance(value, dict if key == "parameters" else str):
            kind = "a table" if key == "parameters" else "text in quotes"
            faults.append(Fault(path.name, f"{key} = {value!r}", f"write {kind}"))
        elif not _is_json(value):
            faults.append(Fault(path.name, f"{key} holds nan or inf", "write a number"))
        elif value:
            good[key] = value
    return card_type(**{**defaults, **good}), faults


def _is_json(value: object) -> bool:
    """Whether a record can hold a card's value; dates are held as text."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def image_digests(
    rows: Sequence[ImageRow],
    decode: bool,
    step: Callable[[int], Any] | None = None,
    contents: Mapping[str, bytes] | None = None,
) -> tuple[list[str | None], list[Fault]]:
    """SHA-256 of each row's image file, in order; None and a fault where a file cannot be used.

    Args:
        decode: look at the pixels too, not at the header alone.
        step: told of each image done.
        contents: file name → bytes, of images that are not files yet.
    """
    given = contents or {}
    digests: list[str | None] = []
    faults = []
    for result in in_threads(lambda row: image_fault(row.file_name, row.path, decode, given.get(row.file_name)), rows):
        if isinstance(result, Fault):
            faults.append(result)
        digests.append(None if isinstance(result, Fault) else result)
        if step:
            step(1)
    return digests, faults


def table_digest(rows: Iterable[ImageRow], without: Sequence[str] = ()) -> str:
    """SHA-256 over the rows, whatever their order in the file; columns `without` do not count."""
    lines = sorted(
        json.dumps({k: v for k, v in values_of(row).items() if k not in without}, sort_keys=True, ensure_ascii=False)
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def refuse_inside(out: Path, source: Path) -> None:
    """A new folder inside the tree that it is made of would be taken for a part of it the next time.

    Raises:
        FinerRankError: `out` lies inside `source`.
    """
    if source.is_dir() and find_metadata(source) is None and out.resolve().is_relative_to(source.resolve()):
        raise FinerRankError(f"{out}: lies inside {source}, which it is made of; give an --out beside it")


def refuse_existing(out: Path) -> None:
    """Refuse to write where something is, before anything long is begun.

    Raises:
        FinerRankError: `out` exists, and is no empty folder; or no folder can have that name.
    """
    try:
        is_there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise FinerRankError(f"{out}: {error.strerror}; give another --out") from None
    if is_there:
        raise FinerRankError(f"{out}: exists already; give another --out, or remove it first")
    if out.name in ("", ".."):  # nothing can be moved there
        raise FinerRankError(f"{out}: is no name of a new folder; give another --out")


@contextmanager
def new_folder(out: Path) -> "Iterator[Path]":
    """A temporary sibling that becomes `out` when the block ends well and vanishes when it does not.

    Raises:
        FinerRankError: `out` exists already.
    """
    refuse_existing(out)
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
    keep_names: bool = False,
) -> None:
    """Write card, `metadata.csv` and `images/` into an existing, empty folder; rows are sorted by file name.

    Args:
        keep_names: the images' names are those to be written, and none needs to be made safe.
    """
    written = []
    taken: set[str] = set()
    for values, found in sorted(rows, key=lambda row: row[1].name):
        file_name = found.name if keep_names else free_name(f"images/{found.name}", taken)
        target = folder / file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.content is not None:
            target.write_bytes(found.content)
        elif symlink:
            target.symlink_to(found.path.resolve())
        else:
            shutil.copyfile(found.path, target)
        written.append({**values, "file_name": file_name})
        if values.get("mask_file_name"):
            mask = Path(values["mask_file_name"])
            written[-1]["mask_file_name"] = free_name(f"masks/{found.name}{mask.suffix}", taken)
            copy = folder / written[-1]["mask_file_name"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(mask, copy)
    written.sort(key=lambda row: row["file_name"])
    columns = [c for c in column_names(row_type) if any(row.get(c) for row in written)]
    write_csv(folder / "metadata.csv", columns, [{c: row.get(c, "") for c in columns} for row in written])
    write_card(folder / card_name, card)


def write_card(path: Path, card: Any) -> None:
    """Write what a card says, without what it leaves open."""
    import tomli_w

    fields = {key: value for key, value in dataclasses.asdict(card).items() if value}
    path.write_text(tomli_w.dumps(fields), encoding="utf-8")


def free_name(file_name: str, taken: set[str]) -> str:
    """`file_name`, safe for any file system and unlike each of `taken` but for case, which it is added to."""
    parts = [re.sub(r'[<>:"\\|?*\x00-\x1f\x7f]', "_", part).strip(". ") or "_" for part in file_name.split("/")]
    suffix = _cut(Path(parts[-1]).suffix, 16)
    start = "/".join([*(_cut(part, 100) for part in parts[:-1]), _cut(Path(parts[-1]).stem, 100)])
    name, n = f"{start}{suffix}", 1
    while name.lower() in taken:
        n += 1
        name = f"{start}-{n}{suffix}"
    taken.add(name.lower())
    return name


def _cut(text: str, n_bytes: int) -> str:
    """The beginning of `text` that fits into so many bytes of UTF-8."""
    return text.encode()[:n_bytes].decode(errors="ignore")
