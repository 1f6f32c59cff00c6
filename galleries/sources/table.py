"""A table that somebody else made: columns under other names, images somewhere else."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.sources import Found, labelled_name
from galleries.tables import Table, find_metadata, read_table


@dataclass(frozen=True)
class Condition:
    """A row is taken if its `column` is one of `values` (or, `negated`, none of them)."""

    column: str
    values: frozenset[str]
    negated: bool

    def holds(self, row: Mapping[str, str]) -> bool:
        return (row[self.column] in self.values) != self.negated


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """`COLUMN=VALUE` and `COLUMN!=VALUE`; several values for one column are alternatives.

    >>> parse_conditions(["kind=real", "kind=drawn"])[0].holds({"kind": "drawn"})
    True
    """
    values: dict[tuple[str, bool], set[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column.rstrip("!"):
            raise FinerRankError(f"{text!r}: not a condition; write COLUMN=VALUE or COLUMN!=VALUE")
        values.setdefault((column.removesuffix("!"), column.endswith("!")), set()).add(value)
    return [Condition(column, frozenset(vs), negated) for (column, negated), vs in values.items()]


def parse_assignments(texts: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """`OURS=THEIRS` (or `OURS=VALUE`) as a dictionary.

    Raises:
        FinerRankError: not of that form, or a name that no column of ours has.
    """
    pairs = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        if not equals:
            raise FinerRankError(f"{text!r}: not NAME=VALUE; write for example identity=subject")
        if ours not in known:
            raise FinerRankError(f"{text!r}: unknown column {ours!r}; known: {', '.join(known)}")
        pairs[ours] = theirs
    return pairs


def open_table(path: Path) -> Table:
    """Read a table file, or the metadata table of a folder."""
    if path.is_dir():
        metadata = find_metadata(path)
        if metadata is None:
            raise FinerRankError(f"{path}: no metadata.csv, .parquet or .jsonl; name the table itself")
        return read_table(metadata)
    return read_table(path)


def find_in_table(
    table: Table,
    known: Sequence[str],
    columns: Mapping[str, str],
    constants: Mapping[str, str],
    conditions: Sequence[Condition] = (),
    images: Path | None = None,
    inside_only: bool = True,
    unique: bool = True,
) -> tuple[list[tuple[Found, dict[str, str]]], list[Fault]]:
    """The images that the chosen rows name, each with its whole row; and what is wrong with rows.

    Args:
        known: our columns; those that the table has under our own name need no mention in `columns`.
        columns: our column → theirs.
        constants: our column → one value for all rows.
        images: folder that relative file names start from; the table's own folder by default.
        unique: refuse rows that name a file a second time.
        inside_only: refuse files outside `images`, as a stranger's table could name any file of the disk.

    Raises:
        Faults: columns that are not there.
        FinerRankError: no row fulfils the conditions.
    """
    images = images or table.path.parent
    mapping = {c: c for c in known if c in table.columns and c not in constants} | dict(columns)
    wanted = {*mapping.values(), *(condition.column for condition in conditions)}
    faults = [
        Fault(table.path.name, f"no column {column!r}", f"choose among {', '.join(table.columns)}")
        for column in sorted(wanted - set(table.columns))
    ]
    if "file_name" not in mapping:
        faults.append(Fault(table.path.name, "no column 'file_name'", "say which it is: --column file_name=THEIRS"))
    raise_if_any(str(table.path.parent), faults)
    faults = [*table.faults]
    found = []
    first_seen: dict[Path, int] = {}
    for i, row in enumerate(table.rows):
        if not all(condition.holds(row) for condition in conditions):
            continue
        values = {ours: row[theirs] for ours, theirs in mapping.items() if ours != "file_name"} | dict(constants)
        given = row[mapping["file_name"]]
        if not given:
            faults.append(Fault(table.where(i), "empty file_name", "fill it in"))
            continue
        if "\0" in given:
            faults.append(Fault(table.where(i), f"NUL in {given}", "write the file's name"))
            continue
        path, name = resolve_image(given, images)
        first = first_seen.setdefault(path, i)
        if unique and first != i:
            what = f"{given} stands in row {table.numbers[first]} too"
            faults.append(Fault(table.where(i), what, "remove one of the rows, or choose with --where"))
            continue
        if name is None:
            if inside_only:
                faults.append(Fault(table.where(i), f"{given} lies outside {images}", "name its folder with --images"))
                continue
            name = labelled_name(values, path.name)
        mask = values.get("mask_file_name", "")
        if mask:
            mask_path, mask_name = (None, None) if "\0" in mask else resolve_image(mask, images)
            if mask_path is None or (mask_name is None and inside_only):
                what = f"mask_file_name {mask} lies outside {images}"
                faults.append(Fault(table.where(i), what, "name a file inside the folder, or empty the cell"))
                continue
            values["mask_file_name"] = str(mask_path)
        found.append((Found(table.where(i), name, path, values), row))
    if not found and not faults:
        raise FinerRankError(f"{table.path}: no row is left; loosen the conditions")
    return found, faults


def resolve_image(given: str, images: Path) -> tuple[Path, str | None]:
    """The file that a table names, and its path below `images` (None if it lies outside)."""
    root = os.path.normpath(images.absolute())
    path = Path(os.path.normpath(Path(root, given)))
    inside = path.is_relative_to(root) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    return path, path.relative_to(root).as_posix() if inside else None
