"""Tables are read into the same strings from CSV, TSV, Parquet and JSON lines; damaged ones are refused by line."""

from pathlib import Path

import pandas as pd
import pytest
from handmade import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from galleries import FinerRankError
from galleries.tables import column_faults, read_table, write_csv

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
ROWS = [
    {"file_name": "a.png", "identity": "Rex, the dog", "seed": "007"},
    {"file_name": "b.png", "identity": 'so-called "Tom"', "seed": ""},
    {"file_name": "ä.png", "identity": "two\nlines", "seed": "-1"},
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_table_is_read_into_the_same_rows(tmp_path: Path, ending: str) -> None:
    table = read_table(write_rows(tmp_path / f"table{ending}", ROWS))
    assert table.columns == ("file_name", "identity", "seed")
    assert list(table.rows) == ROWS


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_separator_of_lines_may_stand_in_a_cell(tmp_path: Path, ending: str, separator: str) -> None:
    rows = [{"file_name": "a.png", "identity": f"Rex{separator}Tom"}]
    assert list(read_table(write_rows(tmp_path / f"table{ending}", rows)).rows) == rows


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cells=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    rows = [{"file_name": f"{i}.png", "identity": cell} for i, cell in enumerate(cells)]
    write_csv(path, ["file_name", "identity"], rows)
    assert list(read_table(path).rows) == rows


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_numbers_are_read_as_a_csv_file_would_spell_them(tmp_path: Path, ending: str) -> None:
    # One missing value turns pandas' column of integers into floats: 7.0 and NaN.
    frame = pd.DataFrame({"identity": [12, 3], "seed": [7, None], "strength": [0.5, 1e-3]})
    path = tmp_path / f"table{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert list(read_table(path).rows) == [
        {"identity": "12", "seed": "7", "strength": "0.5"},
        {"identity": "3", "seed": "", "strength": "0.001"},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,identity\na.png,Rex\n",
        "\ufefffile_name, identity \r\na.png,Rex\r\n\r\n",
        'file_name,identity\n"a.png",Rex',
    ],
    ids=["plain", "byte order mark, Windows line ends, blank line", "no line end"],
)
def test_common_dialects_of_csv_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    assert list(read_table(path).rows) == [{"file_name": "a.png", "identity": "Rex"}]


def test_an_object_of_json_lines_may_leave_columns_out(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"file_name": "a.png", "seed": null}\n\n{"file_name": "b.png", "prompt": "a dog"}\n')
    assert list(read_table(path).rows) == [
        {"file_name": "a.png", "seed": "", "prompt": ""},
        {"file_name": "b.png", "seed": "", "prompt": "a dog"},
    ]


# name of the file, its bytes, what the message must name
DAMAGED = {
    "too many fields": ("t.csv", b"file_name,identity\na.png,Rex\nb.png,Tom,3\n", ("row 2", "3 fields", "line 3")),
    "too few fields": ("t.csv", b"file_name,identity\na.png\n", ("row 1", "1 fields", "line 2")),
    "an unclosed quote": ("t.csv", b'file_name,identity,seed\na.png,"Rex,1\nb.png,Tom,2\n', ("row 1", "2 fields")),
    "a field without end": ("t.csv", b"file_name\n" + b"a" * 200_000, ("line 2", "field limit")),
    "no bytes": ("t.csv", b"", ("empty",)),
    "no UTF-8": ("t.csv", b"file_name,identity\na.png,Ren\xe9\n", ("byte 28 is not UTF-8",)),
    "no UTF-8, far down": ("t.csv", b"file_name\n" + b"a.png\n" * 5000 + b"\xe9.png\n", ("byte 30010 is not UTF-8",)),
    "UTF-16": ("t.csv", "file_name,identity\n".encode("utf-16"), ("byte 0 is not UTF-8",)),
    "a column twice": ("t.csv", b"file_name,file_name\na,b\n", ("column 'file_name' stands twice",)),
    "no JSON": ("t.jsonl", b'{"file_name": "a.png"}\n{"file_name": \n', ("row 2", "not JSON")),
    "no object": ("t.jsonl", b'["a.png"]\n', ("row 1", "not a JSON object")),
    "endless nesting": ("t.jsonl", b"[" * 100_000, ("row 1", "not JSON")),
    "no UTF-8 in JSON": ("t.jsonl", b'{"file_name": "\xff"}\n', ("byte 15 is not UTF-8",)),
    "no Parquet": ("t.parquet", b"file_name\na.png\n", ("not a readable Parquet file",)),
    "empty Parquet": ("t.parquet", b"", ("not a readable Parquet file",)),
    "a spreadsheet": ("t.xlsx", b"PK", ("not a table; give a .csv",)),
}


def complaint(path: Path) -> str:
    """What is said of a table that has one fault: one line."""
    try:
        (message,) = map(str, read_table(path).faults)
    except FinerRankError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_table_gets_one_line_that_names_the_place(tmp_path: Path, case: str) -> None:
    name, content, mentions = DAMAGED[case]
    (tmp_path / name).write_bytes(content)
    message = complaint(tmp_path / name)
    assert [part for part in (name, *mentions) if part not in message] == []


def test_damaged_rows_do_not_hide_one_another(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file_name,identity\na.png\nb.png,Rex\n\nc.png,Tom,3\n")
    table = read_table(tmp_path / "t.csv")
    assert [fault.where for fault in table.faults] == ["t.csv row 1", "t.csv row 3"]
    assert [table.where(0), table.rows[0]["file_name"]] == ["t.csv row 2", "b.png"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_parquet_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write_rows(tmp_path / "t.parquet", ROWS)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(FinerRankError, match="not a readable Parquet file"):
        read_table(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match="no such file"):
        read_table(tmp_path / "t.csv")


def test_a_misspelt_column_is_told_its_right_name_once(tmp_path: Path) -> None:
    table = read_table(write_rows(tmp_path / "t.csv", [{"file_nam": "a.png", "identity": "Rex", "weather": "sun"}]))
    messages = [str(fault) for fault in column_faults(table, ["file_name"], ["file_name", "identity"])]
    assert messages == [
        "t.csv: no column 'file_name'; rename column 'file_nam'",
        "t.csv: unknown column 'weather'; remove it (known: file_name, identity)",
    ]
