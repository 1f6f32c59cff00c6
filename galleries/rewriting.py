"""A folder's metadata table and card, rewritten in place: one column and one field change, all else stays."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from galleries.errors import FinerRankError
from galleries.tables import read_table, write_csv


def fill_column(table: Path, column: str, values: Mapping[str, str], card: Path, field: str, content: str) -> None:
    """Fill a column of a table, by `file_name`, and a text field of a card. Both files change, or neither.

    Raises:
        FinerRankError: a row that `values` lack, or a folder that cannot be written to.
    """
    new_table, new_card = partial(table), partial(card)
    try:
        cells = [values[row["file_name"]] for row in read_table(table).rows]
    except KeyError as error:
        raise FinerRankError(f"{table}: {error} was added meanwhile; run again") from None
    try:
        write = {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[table.suffix]
        write(table, column, cells, new_table)
        text = card.read_text(encoding="utf-8") if card.exists() else ""
        new_card.write_text(with_field(text, field, content), encoding="utf-8")
        new_card.replace(card)
        new_table.replace(table)
    except OSError as error:
        raise FinerRankError(
            f"{error.filename or table}: cannot be written ({error.strerror}); check permissions and disk"
        ) from None
    finally:
        for path in (new_table, new_card):
            path.unlink(missing_ok=True)


def partial(path: Path) -> Path:
    """Where a file is written before it takes its place. One name, so that the next try replaces what a kill left."""
    return path.with_name(f".{path.name}.partial")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    new = partial(path)
    new.unlink(missing_ok=True)  # a link there would be followed
    new.write_bytes(content)
    new.replace(path)


def _write_csv(table: Path, column: str, cells: list[str], out: Path) -> None:
    read = read_table(table)
    columns = [*read.columns, *((column,) if column not in read.columns else ())]
    write_csv(out, columns, [{**row, column: cell} for row, cell in zip(read.rows, cells, strict=True)])


def _write_jsonl(table: Path, column: str, cells: list[str], out: Path) -> None:
    lines = [line for line in table.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    rows = [{**json.loads(line), column: cell} for line, cell in zip(lines, cells, strict=True)]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(table: Path, column: str, cells: list[str], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = pq.ParquetFile(table).read()
    filled = pa.array(cells, pa.string())
    if column in read.column_names:
        read = read.set_column(read.column_names.index(column), column, filled)
    else:
        read = read.append_column(column, filled)
    # `datasets` notes there which columns the file has, and refuses it when they are others.
    notes = {key: value for key, value in (read.schema.metadata or {}).items() if key != b"huggingface"}
    pq.write_table(read.replace_schema_metadata(notes), out)


def with_field(text: str, field: str, content: str) -> str:
    """A card's TOML with one top-level text field set. Comments stay where that is possible.

    >>> with_field('name = "zoo" # ours', "mask_source", "hand")
    'name = "zoo" # ours\\nmask_source = "hand"\\n'
    """
    import tomli_w

    wanted = {**tomllib.loads(text), field: content}
    lines = [line for line in text.splitlines() if line.partition("=")[0].strip() != field]
    end = next((i for i, line in enumerate(lines) if line.startswith("[")), len(lines))
    changed = "\n".join([*lines[:end], tomli_w.dumps({field: content}).rstrip(), *lines[end:]]) + "\n"
    try:
        if tomllib.loads(changed) == wanted:
            return changed
    except tomllib.TOMLDecodeError:
        pass  # a text of several lines, cut apart
    tables_last = dict(sorted(wanted.items(), key=lambda item: isinstance(item[1], dict)))
    return tomli_w.dumps(tables_last)
