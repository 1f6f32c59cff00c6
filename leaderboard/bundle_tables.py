"""The tables of a record that a stranger submits: read with bounds, and checked against themselves.

A query's scores follow from the ranks of the relevant photos. Those among the shown neighbours are known, the others
lie below them: which bounds every score of the query without another look at the images.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.aggregates import METRICS
from benchmark.judge import Options
from benchmark.pool import chance_scores
from benchmark.prompt_fidelity import without_identifier
from benchmark.rank import RankCounts
from benchmark.scores import QueryScores, score_query
from galleries.errors import Fault
from galleries.images import check_file_name
from leaderboard.record_schema import (
    CLIP_T_COLUMNS,
    COUNT_COLUMNS,
    DISTANCE_COLUMN,
    DISTANCE_RANGE,
    FLAG_COLUMNS,
    MAY_BE_NULL,
    NUMBER_COLUMNS,
    PROMPT_COLUMN,
    SAME_ENCOUNTER_COLUMN,
    SIMILARITIES,
    TEXT_COLUMNS,
)
from leaderboard.schema import AGAIN, MAX_TEXT, sha256

if TYPE_CHECKING:
    import pyarrow as pa

Columns = Mapping[str, Sequence[Any]]

MAX_ROWS = 2_000_000
MAX_TABLE_BYTES = 256 << 20
MAX_DECODED_BYTES = 2 << 30
ROUNDING = 1e-9
"""Of scores that are computed again from the same counts."""

METRIC_OF = {
    "average_precision": "mAP",
    "auc": "AUC",
    "rank_1": "rank_1",
    "cmc_5": "CMC@5",
    "cmc_10": "CMC@10",
    "map_at_r": "MAP@R",
    "inverse_negative_penalty": "mINP",
    "first_hit_rank": "first_hit_rank",
}
"""Column of a query's score → the aggregate that is its mean."""


def read_columns(path: Path, name: str) -> tuple[Columns, list[Fault]]:
    """The columns of `queries.parquet` or `neighbours.parquet` as lists, and what is wrong with them one by one.

    The columns are empty where the table cannot be read as one of its kind.
    """
    import pyarrow as pa

    try:
        table, faults = read_table(path, name)
        if table is None:
            return {}, faults
        columns = {column: table.column(column).to_pylist() for column in table.column_names}
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        return {}, [Fault("table", f"not readable as Parquet ({reason})", AGAIN)]
    faults = [fault for column, values in columns.items() for fault in _column_faults(name, column, values)]
    return (columns if not faults else {}), faults


def read_table(path: Path, name: str) -> "tuple[pa.Table | None, list[Fault]]":
    """The table once its size and types are known to be right; else None and what is wrong with them."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if path.stat().st_size > MAX_TABLE_BYTES:
        return None, [Fault("table", f"more than {MAX_TABLE_BYTES:,} bytes", AGAIN)]
    with pq.ParquetFile(path) as file:
        meta = file.metadata
        decoded = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        if not 0 < meta.num_rows <= MAX_ROWS or decoded > MAX_DECODED_BYTES:
            what = f"{meta.num_rows:,} rows of {decoded:,} bytes; from 1 to {MAX_ROWS:,} rows are read"
            return None, [Fault("table", what, AGAIN)]
        faults = list(_schema_faults(file.schema_arrow, name))
        if faults:
            return None, faults
        texts = [column for column in (*TEXT_COLUMNS[name], PROMPT_COLUMN) if column in file.schema_arrow.names]
    # Repeated text stays a dictionary while it is looked at: few bytes can stand for very many.
    with pq.ParquetFile(path, metadata=meta, read_dictionary=texts) as file:
        table = file.read(use_threads=False)  # tables are small: threads cost more than they save
    table.validate(full=True)
    for column in texts:
        longest = max(
            (pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in table.column(column).chunks),
            default=0,
        )
        if longest > 4 * MAX_TEXT:
            return None, [Fault(column, f"a value of {longest} bytes", AGAIN)]
    return table, []


def _schema_faults(schema: "pa.Schema", name: str) -> Iterator[Fault]:
    expected = {
        **dict.fromkeys(TEXT_COLUMNS[name], "text"),
        **dict.fromkeys(COUNT_COLUMNS[name], "int64"),
        **dict.fromkeys(FLAG_COLUMNS[name], "bool"),
        **dict.fromkeys(NUMBER_COLUMNS[name], "double"),
    }
    numbers = (
        SAME_ENCOUNTER_COLUMN,
        DISTANCE_COLUMN,
        *CLIP_T_COLUMNS,
        *(f"similarity_to_{kind}" for kind in SIMILARITIES),
    )
    optional = {PROMPT_COLUMN: "text", **dict.fromkeys(numbers, "double")}
    optional = optional if name == "queries" else {}
    for column in expected.keys() - set(schema.names):
        yield Fault(column, "no such column", AGAIN)
    for column in schema.names:
        if schema.names.count(column) > 1:
            yield Fault(column, "stands twice", AGAIN)
            return
        kind = str(schema.field(column).type)
        kind = "text" if kind == "string" else kind
        wanted = (expected | optional).get(column)
        # A column without any value has no type of its own.
        if wanted is None:
            yield Fault(column, "unknown column", AGAIN)
        elif kind != wanted and not (kind == "null" and column in MAY_BE_NULL):
            yield Fault(column, f"is {kind}, not {wanted}", AGAIN)


def _column_faults(name: str, column: str, values: Sequence[Any]) -> Iterator[Fault]:
    low, high = NUMBER_COLUMNS[name].get(column, (-math.inf, math.inf))
    if column.startswith("similarity_to_") or column in CLIP_T_COLUMNS:
        low, high = NUMBER_COLUMNS["neighbours"]["similarity"]
    elif column == DISTANCE_COLUMN:
        low, high = DISTANCE_RANGE
    elif column == SAME_ENCOUNTER_COLUMN:
        low, high = NUMBER_COLUMNS["queries"]["average_precision"]

    def wrong(value: Any) -> str:
        if value is None:
            return "" if column in MAY_BE_NULL else "null"
        if isinstance(value, str):
            if column == "image_sha256":
                return "no SHA-256" if any(sha256("", value)) else ""
            if column == "file_name":
                return check_file_name(value) or ""
            return "empty" if column in ("category", "identity") and not value.strip() else ""
        if not math.isfinite(value):
            return "not a finite number"
        return "" if low <= value <= high else f"{value:g}, not in [{low:g}, {high:g}]"

    yield from first_of(column, ((row, wrong(value)) for row, value in enumerate(values)))


def first_of(where: str, rows: Iterator[tuple[int, str]]) -> Iterator[Fault]:
    """One fault for all rows in which something is wrong, at the first of them."""
    found = [(row, what) for row, what in rows if what]
    if found:
        row, what = found[0]
        more = f" (and {len(found) - 1} more rows)" if len(found) > 1 else ""
        yield Fault(f"row {row}: {where}", what + more, AGAIN)


def scores_of(queries: Columns, row: int) -> QueryScores:
    """The scores that a table claims of a query."""
    auc = queries["auc"][row]
    return QueryScores(
        average_precision=queries["average_precision"][row],
        auc=math.nan if auc is None else auc,
        rank_1=queries["rank_1"][row],
        cmc={5: queries["cmc_5"][row], 10: queries["cmc_10"][row]},
        map_at_r=queries["map_at_r"][row],
        inverse_negative_penalty=queries["inverse_negative_penalty"][row],
        first_hit_rank=queries["first_hit_rank"][row],
        n_relevant=queries["n_relevant"][row],
        n_gallery=queries["n_gallery"][row],
        is_tied=queries["is_tied"][row],
    )


def query_faults(queries: Columns) -> Iterator[Fault]:
    """Rows that contradict each other or themselves."""
    rows = range(len(queries["file_name"]))
    names, identities = queries["file_name"], queries["identity"]
    first: dict[tuple[str, str], int] = {}
    image_of: dict[str, tuple[str, bool]] = {}
    category_of: dict[str, str] = {}

    def wrong(row: int) -> tuple[str, str]:
        n_relevant, n_gallery = queries["n_relevant"][row], queries["n_gallery"][row]
        if first.setdefault((names[row], identities[row]), row) != row:
            return "file_name", "asks for the same identity twice"
        image = queries["image_sha256"][row], queries["is_copy"][row]
        known = image_of.setdefault(names[row], image)
        if known != image:
            column = "image_sha256" if known[0] != image[0] else "is_copy"
            return column, "another one than of the same file before"
        if category_of.setdefault(identities[row], queries["category"][row]) != queries["category"][row]:
            return "category", "another one than of the same identity before"
        if not 1 <= n_relevant <= n_gallery <= MAX_ROWS:
            return "n_relevant", f"{n_relevant} of n_gallery {n_gallery}"
        if (queries["auc"][row] is None) != (n_relevant == n_gallery):
            return "auc", "is null where, and only where, every photo is relevant"
        if abs(queries["chance_average_precision"][row] - chance_scores(n_relevant, n_gallery).average_precision) > (
            ROUNDING
        ):
            return "chance_average_precision", f"not that of {n_relevant} in {n_gallery}"
        return "", ""

    found = [(row, *wrong(row)) for row in rows]
    for column in dict.fromkeys(column for _, column, _ in found if column):
        yield from first_of(column, ((row, what) for row, of, what in found if of == column))


def prompt_faults(queries: Columns, identifier: str) -> Iterator[Fault]:
    """Rows whose CLIP-T is not of their prompt.

    Args:
        identifier: token that stands for the individual in prompts; "" where the run names none.
    """

    def wrong(row: int) -> tuple[str, str]:
        prompt = queries["prompt"][row] if queries["prompt"][row].strip() else ""
        text = without_identifier(prompt, identifier) if identifier else ""
        if queries[PROMPT_COLUMN][row] != text:
            return (
                PROMPT_COLUMN,
                f"not the prompt without {identifier!r}" if identifier else "the run has no identifier",
            )
        for column, needed in zip(CLIP_T_COLUMNS, (prompt, text), strict=True):
            if (queries[column][row] is None) != (not needed):
                return column, "is null where, and only where, there is no such text"
        return "", ""

    found = [(row, *wrong(row)) for row in range(len(queries["prompt"]))]
    for column in dict.fromkeys(column for _, column, _ in found if column):
        yield from first_of(column, ((row, what) for row, of, what in found if of == column))


def neighbour_faults(queries: Columns, neighbours: Columns) -> Iterator[Fault]:
    """Neighbours that contradict each other, and queries whose scores cannot be with such neighbours."""
    shown: list[list[int]] = [[] for _ in queries["file_name"]]
    photos: dict[str, tuple[str, str]] = {}
    for row, query in enumerate(neighbours["query"]):
        if not 0 <= query < len(shown):
            yield Fault(f"neighbours row {row}: query", f"{query}: queries.parquet has {len(shown)} rows", AGAIN)
            return
        shown[query].append(row)
        photo = neighbours["image_sha256"][row], neighbours["identity"][row]
        if photos.setdefault(neighbours["file_name"][row], photo) != photo:
            yield Fault(f"neighbours row {row}: file_name", "another photo or identity than before", AGAIN)
            return
    wrong = [_wrong_neighbours(queries, neighbours, query, rows) for query, rows in enumerate(shown)]
    yield from first_of("neighbours", enumerate(wrong))
    if not any(wrong):
        impossible = [_impossible_scores(queries, neighbours, query, rows) for query, rows in enumerate(shown)]
        yield from first_of("scores", enumerate(impossible))


def _wrong_neighbours(queries: Columns, neighbours: Columns, query: int, rows: Sequence[int]) -> str:
    similarity = [neighbours["similarity"][row] for row in rows]
    # The fewer there are, the less they say of the scores.
    n_expected = min(Options.n_neighbours, queries["n_gallery"][query])
    if len(rows) != n_expected:
        return f"has {len(rows)} neighbours, not {n_expected}"
    if [neighbours["rank"][row] for row in rows] != list(range(1, len(rows) + 1)):
        return "ranks are not 1, 2, 3 …"
    if len({neighbours["file_name"][row] for row in rows}) < len(rows):
        return "a photo stands among its neighbours twice"
    if similarity != sorted(similarity, reverse=True):
        return "similarity rises with the rank"
    if any(neighbours["is_relevant"][row] != (neighbours["identity"][row] == queries["identity"][query])
           for row in rows):  # fmt: skip
        return "is_relevant is not whether the photo shows the query's identity"
    return ""


def _impossible_scores(queries: Columns, neighbours: Columns, query: int, rows: Sequence[int]) -> str:
    """Which score of a query cannot be, given its neighbours; "" if all can."""
    claimed = scores_of(queries, query)
    flags = [neighbours["is_relevant"][row] for row in rows]
    similarity = [neighbours["similarity"][row] for row in rows]
    hits = [rank for rank, is_relevant in enumerate(flags, start=1) if is_relevant]
    n_hidden = claimed.n_relevant - len(hits)
    if not 0 <= n_hidden <= claimed.n_gallery - len(rows):
        return f"{len(hits)} of {claimed.n_relevant} relevant photos are among the neighbours, which cannot be"
    mixed = any(a == b and x != y for a, b, x, y in zip(similarity, similarity[1:], flags, flags[1:], strict=False))
    if mixed and not claimed.is_tied:
        return "is_tied is false, but a relevant and an irrelevant neighbour tie"
    # Without ties each shown photo is a group of its own. The last group of ties may go on beyond the neighbours.
    sizes = [len(list(group)) for _, group in groupby(similarity)] if claimed.is_tied else [1] * len(rows) + [0]
    best, worst = _rank_bounds(flags, sizes, n_hidden, claimed.n_gallery)
    best_scores, worst_scores = _scores_at(best, claimed.n_gallery), _scores_at(worst, claimed.n_gallery)
    for column, metric in METRIC_OF.items():
        value, *ends = (METRICS[metric](scores) for scores in (claimed, best_scores, worst_scores))
        if math.isnan(value):
            continue
        low, high = min(ends) - ROUNDING, max(ends) + ROUNDING
        if not low <= value <= high:
            return f"{column} {value:.6g} cannot be: its neighbours allow {min(ends):.6g} to {max(ends):.6g}"
    return ""


def _rank_bounds(
    flags: Sequence[bool], sizes: Sequence[int], n_hidden: int, n_gallery: int
) -> tuple[list[int], list[int]]:
    """The lowest and the highest ranks that all relevant photos of a query can have.

    Args:
        flags: whether each neighbour is relevant.
        sizes: of the groups of neighbours in which any order is possible; hidden photos may belong to the last.
    """
    best: list[int] = []
    worst: list[int] = []
    before = 0
    for size in sizes[:-1]:
        n_relevant = sum(flags[before : before + size])
        best += range(before + 1, before + n_relevant + 1)
        before += size
        worst += range(before - n_relevant + 1, before + 1)
    n_last = sum(flags[before:]) + n_hidden
    best += range(before + 1, before + n_last + 1)
    worst += range(n_gallery - n_last + 1, n_gallery + 1)
    return best, worst


def _scores_at(ranks: Sequence[int], n_gallery: int) -> QueryScores:
    """Scores of a query whose relevant photos stand at these ranks, without ties."""
    n_higher = np.array(ranks, dtype=np.int64) - 1
    zeros = np.zeros(len(ranks))
    return score_query(RankCounts(zeros, n_higher, zeros.astype(np.int64), n_gallery))
