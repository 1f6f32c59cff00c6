"""Boards as tables: CSV and JSON for programs, LaTeX for papers, Markdown, and model cards of the Hugging Face Hub."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmark.report import SIMILARITY_NAMES
from galleries.errors import FinerRankError, printable
from leaderboard.board_plots import short_names
from leaderboard.bundle import bundle_name
from leaderboard.record_schema import DECLARED
from leaderboard.standings import Board, Embedder, Estimate, MetricCard, Row, Standings

MODEL, ANCHOR, INCOMPLETE = "model", "anchor", "incomplete"
OF_RUN = (*(field for field in DECLARED if field not in ("model", "gallery", "gallery_version")), "url")
"""Declared fields beside a row's scores."""
NAME_LENGTH = 60
"""Of names in a paper's table."""


@dataclass(frozen=True)
class Table:
    """A board's standings under an embedder, of all categories or of one ("" is all)."""

    board: Board
    embedder: Embedder
    category: str
    standings: Standings

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """Each row with its kind: models in the order of the standings, anchors, incomplete runs."""
        of = self.standings
        kinds = ((MODEL, of.rows), (ANCHOR, of.anchors), (INCOMPLETE, of.incomplete))
        return [(kind, row) for kind, rows in kinds for row in rows]


def as_json(tables: Sequence[Table], cards: Sequence[MetricCard]) -> str:
    """One document: `{"boards": [{gallery, version, protocol, embedder, …, rows, anchors, incomplete}]}`."""
    boards = []
    for table in tables:
        found: dict[str, list[dict[str, Any]]] = {MODEL: [], ANCHOR: [], INCOMPLETE: []}
        for kind, row in table.rows:
            scores = {card.key: _known(row.scores.get(card.key)) for card in cards}
            of_model = {
                "rank": row.rank,
                "rank_range": row.ranks and list(row.ranks),
                "tied_with_best": row.tied_with_best,
            }
            found[kind].append(
                {
                    "model": row.model,
                    **(of_model if kind == MODEL else {}),
                    "n_queries": row.n_queries,
                    "n_identities": row.n_identities,
                    "scores": scores,
                    "similarity_to": row.similarity_to or None,
                    "clip_t_by": row.clip_t_by or None,
                    "flags": list(row.flags),
                    "declared": _declared(table, row),
                }
            )
        boards.append(
            {
                "gallery": table.board.gallery,
                "version": table.board.version,
                "protocol": table.board.protocol,
                "embedder": table.embedder.spec,
                "embedder_fingerprint": table.embedder.fingerprint,
                "gallery_seen": table.embedder.gallery_seen,
                "category": table.category or None,
                "can_tell_models_apart": table.standings.can_tell,
                "rows": found[MODEL],
                "anchors": found[ANCHOR],
                "incomplete": found[INCOMPLETE],
            }
        )
    return json.dumps({"boards": boards}, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def as_csv(tables: Sequence[Table], cards: Sequence[MetricCard]) -> str:
    """One table of all boards; numbers in full. Empty cells are what is unknown.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    lines = []
    for table in tables:
        for kind, row in table.rows:
            ranks = row.ranks or ("", "")
            lines.append(
                {
                    "gallery": _guarded(table.board.gallery),
                    "version": _guarded(table.board.version),
                    "protocol": _guarded(table.board.protocol),
                    "embedder": _guarded(table.embedder.spec),
                    "embedder_fingerprint": table.embedder.fingerprint,
                    "gallery_seen": table.embedder.gallery_seen,
                    "category": _guarded(table.category),
                    "kind": kind,
                    "model": _guarded(row.model),
                    "rank": "" if row.rank is None else row.rank,
                    "rank_best": ranks[0],
                    "rank_worst": ranks[1],
                    "tied_with_best": str(row.tied_with_best).lower() if kind == MODEL else "",
                    "n_queries": "" if row.n_queries is None else row.n_queries,
                    "n_identities": "" if row.n_identities is None else row.n_identities,
                    **{column: cell for card in cards for column, cell in _cells(card, row).items()},
                    "similarity_to": row.similarity_to,
                    "clip_t_by": _guarded(row.clip_t_by),
                    "flags": _guarded("; ".join(row.flags)),
                    **{field: _guarded(value) for field, value in _declared(table, row).items()},
                }
            )
    file = io.StringIO(newline="")
    # The csv module leaves a lone carriage return unquoted, and then reads it as the end of the row.
    unsafe = any("\r" in str(cell) for line in lines for cell in line.values())
    writer = csv.DictWriter(
        file, list(lines[0]), lineterminator="\n", quoting=csv.QUOTE_ALL if unsafe else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def as_latex(tables: Sequence[Table], cards: Sequence[MetricCard]) -> str:
    """A `table*` per board and embedder, for booktabs: intervals are sub- and superscripts, the best are bold."""
    return "\n".join(_latex(table, cards) for table in tables)


def _latex(table: Table, cards: Sequence[MetricCard]) -> str:
    columns = _columns(table, cards)
    best = _best(table.standings.rows, columns)
    names = short_names([row.model for _, row in table.rows], NAME_LENGTH)
    body = []
    for row in table.standings.rows:
        cells = [_rank(row), latex_text(names[row.model]) + (r"$^{\dagger}$" if row.flags else "")]
        cells += [_latex_number(column, row, (column.label, row.bundle) in best) for column in columns]
        body.append(" & ".join(cells) + r" \\")
    if table.standings.rows and table.standings.anchors:
        body.append(r"\midrule")
    for row in table.standings.anchors:
        cells = ["", rf"\textit{{{latex_text(names[row.model])}}}"]
        body.append(" & ".join([*cells, *(_latex_number(column, row, False) for column in columns)]) + r" \\")
    head = " & ".join(["rank", "model", *(latex_text(column.label) for column in columns)])
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(_caption(table))}}}",
        rf"\begin{{tabular}}{{@{{}}ll{'r' * len(columns)}@{{}}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ]
    return "\n".join(lines)


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}", "†": r"$\dagger$",
    "[": "{[}", "]": "{]}", "*": "{*}", **{c: "\\" + c for c in "{}&%$#_"},
}  # fmt: skip
"""Brackets and asterisks too: behind a line's end they would be taken for its options."""


def latex_text(text: str) -> str:
    r"""Text that LaTeX sets as it is; control characters are shown by their numbers.

    >>> print(latex_text(r"50% of \input{x}"))
    50\% of \textbackslash{}input\{x\}
    """
    return "".join(_LATEX.get(c, c) for c in printable(text)).replace("--", "-{}-").replace("--", "-{}-")


def _latex_number(column: "Column", row: Row, is_best: bool) -> str:
    found = column.cell(row)
    if found is None:
        return "--"
    value, low, high = found
    bounds = f"_{{{low}}}^{{{high}}}" if low else ""
    shown = rf"\mathbf{{{value}}}" if is_best else value
    return f"${shown}{bounds}$"


def as_markdown(tables: Sequence[Table], cards: Sequence[MetricCard]) -> str:
    """A table per board and embedder, with its caption before it."""
    return "\n".join(_markdown(table, cards) for table in tables)


def _markdown(table: Table, cards: Sequence[MetricCard]) -> str:
    columns = _columns(table, cards)
    best = _best(table.standings.rows, columns)
    lines = [markdown_text(_caption(table)), "", _line(["rank", "model", *(markdown_text(c.label) for c in columns)])]
    lines.append(_line(["---", "---", *["---:"] * len(columns)]))
    for row in table.standings.rows:
        cells = [_rank(row), markdown_text(row.model) + (" †" if row.flags else "")]
        lines.append(_line([*cells, *(_markdown_number(c, row, (c.label, row.bundle) in best) for c in columns)]))
    for row in table.standings.anchors:
        cells = ["", f"*{markdown_text(row.model)}*"]
        lines.append(_line([*cells, *(_markdown_number(column, row, False) for column in columns)]))
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    r"""Text that Markdown shows as it is, also inside a table.

    >>> print(markdown_text("<b>*a|b*"))
    &lt;b&gt;\*a\|b\*
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#!|~$])", r"\\\1", text)


def _markdown_number(column: "Column", row: Row, is_best: bool) -> str:
    found = column.cell(row)
    if found is None:
        return "–"
    value, low, high = found
    return (f"**{value}**" if is_best else value) + (f" [{low}, {high}]" if low else "")


TASK = "text-to-image"
TASK_NAME = "Personalized image generation (Finer-Personalization Rank)"


def model_cards(tables: Sequence[Table], cards: Sequence[MetricCard]) -> dict[str, str]:
    """File name → YAML front matter with `model-index`, one for each model that is ranked."""
    from huggingface_hub import EvalResult, ModelCardData

    results: dict[str, list[EvalResult]] = {}
    names: dict[str, str] = {}
    for table in tables:
        board, embedder = table.board, table.embedder
        for row in table.standings.rows:
            # Models whose names differ in case or width alone share a file, as they share a bundle.
            file_name = bundle_name({"name": "finer", "version": "rank"}, row.model) + ".md"
            names.setdefault(file_name, row.model)
            judged = f"by {embedder.spec}" + (f", {table.category}" if table.category else "")
            common: dict[str, Any] = {
                "task_type": TASK,
                "task_name": TASK_NAME,
                "dataset_type": board.gallery,
                "dataset_name": f"{board.gallery} {board.version}",
                "dataset_revision": board.version,
                "dataset_config": f"{embedder.key}{f', {table.category}' if table.category else ''}",
                "dataset_args": {"protocol": board.protocol, "embedder": embedder.spec,
                                 "embedder_fingerprint": embedder.fingerprint, "gallery_seen": embedder.gallery_seen},
            }  # fmt: skip
            for card in cards:
                estimate = _known(row.scores.get(card.key))
                if estimate:
                    bounds = {key: estimate[key] for key in ("low", "high") if estimate[key] is not None}
                    to = {"to": row.similarity_to} if card.key == "similarity" else {}
                    by = {"by": row.clip_t_by} if card.key == "clip_t" else {}
                    args = {**({"confidence": 0.95, **bounds} if bounds else {}), **to, **by}
                    results.setdefault(file_name, []).append(
                        EvalResult(
                            metric_type=card.key, metric_name=f"{card.label} {judged}",
                            metric_value=estimate["value"], metric_args=args or None, **common,
                        )
                    )  # fmt: skip
    return {
        name: f"---\n{ModelCardData(model_name=names[name], eval_results=of).to_yaml()}\n---\n"
        for name, of in results.items()
    }


@dataclass(frozen=True)
class Column:
    """A metric in a table for people; `kind` and `kind_of` keep apart what is measured in several ways.

    Attributes:
        kinds: bundle → how its value is measured.
    """

    card: MetricCard
    label: str
    kind: str
    kinds: Mapping[str, str]

    @property
    def digits(self) -> int:
        return 1 if self.card.key == "first_hit_rank" else 3

    def value(self, row: Row) -> Estimate | None:
        of_kind = self.kinds.get(row.bundle, "") == self.kind
        return _known(row.scores.get(self.card.key)) if of_kind else None

    def cell(self, row: Row) -> tuple[str, str, str] | None:
        """Value and bounds in words; the bounds are "" where there is no interval."""
        estimate = self.value(row)
        if estimate is None:
            return None
        value, low, high = (
            "" if each is None else f"{each:.{self.digits}f}"
            for each in (estimate[k] for k in ("value", "low", "high"))
        )
        return value, low, high


def _columns(table: Table, cards: Sequence[MetricCard]) -> list[Column]:
    """Those of which there is a value; similarities to different photos, and CLIP-T of different encoders, apart."""
    rows = [*table.standings.rows, *table.standings.anchors]
    columns = []
    for card in cards:
        kind_of = {"similarity": attrgetter("similarity_to"), "clip_t": attrgetter("clip_t_by")}.get(card.key)
        kinds = {row.bundle: kind_of(row) for row in rows if row.bundle} if kind_of else {}
        present = sorted({kinds.get(row.bundle, "") for row in rows if _known(row.scores.get(card.key))})
        for kind in present:
            label = SIMILARITY_NAMES.get(kind, card.label)
            label += f" by {kind}" if card.key == "clip_t" and len(present) > 1 else ""
            columns.append(Column(card, label, kind, kinds))
    return columns


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> set[tuple[str, str]]:
    """(column's label, bundle) of what is bold: by mAP all that are tied with the best, else the highest as shown."""
    found = set()
    for column in columns:
        if column.card.higher_is_better is None:
            continue
        shown = {row.bundle: column.cell(row) for row in rows}
        values = {bundle: float(cell[0]) for bundle, cell in shown.items() if cell}
        if values:
            top = max(values.values()) if column.card.higher_is_better else min(values.values())
            found |= {(column.label, bundle) for bundle, value in values.items() if value == top}
        if column.card.key == "mAP":
            found |= {(column.label, row.bundle) for row in rows if row.tied_with_best}
    return found


def _caption(table: Table) -> str:
    board, embedder = table.board, table.embedder
    counts = [
        f"{low} {what}" if low == high else f"{low} to {high} {what}"
        for what, own in (
            ("identities", [row.n_identities for row in table.standings.rows if row.n_identities is not None]),
            ("queries for each model", [row.n_queries for row in table.standings.rows if row.n_queries is not None]),
        )
        for low, high in ([(min(own), max(own))] if own else [])
    ]
    parts = [f"Gallery {board.gallery}, version {board.version}"]
    parts += [f"category {table.category}"] if table.category else []
    parts += [f"encoder {embedder.spec} (gallery: {embedder.gallery_seen})", f"protocol {board.protocol}", *counts]
    text = (
        f"{'; '.join(parts)}. With 95 % bootstrap intervals over identities; rank ranges by paired permutation tests "
        "with Holm's correction; bold: the best of a column, and by mAP all that are tied with it."
    )
    flags = sorted({flag for row in table.standings.rows for flag in row.flags})
    return text + (f" †: {', '.join(flags)}." if flags else "")


def _rank(row: Row) -> str:
    if row.rank is None or row.ranks is None:
        return ""
    best, worst = row.ranks
    return f"{row.rank}" if best == worst else f"{row.rank} ({best}–{worst})"


def _known(estimate: Estimate | None) -> Estimate | None:
    return estimate if estimate and estimate["value"] is not None else None


def _cells(card: MetricCard, row: Row) -> dict[str, Any]:
    estimate = _known(row.scores.get(card.key)) or {}
    found = {card.key: estimate.get("value"), f"{card.key}_low": estimate.get("low"),
             f"{card.key}_high": estimate.get("high")}  # fmt: skip
    return {column: "" if value is None else value for column, value in found.items()}


def _declared(table: Table, row: Row) -> dict[str, str]:
    run = next((bundle.run for bundle in table.board.bundles if bundle.name == row.bundle), {})
    return {field: str(run.get(field, "")) for field in OF_RUN}


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def write_text(text: str, out: Path) -> None:
    """Raises: FinerRankError: `out` cannot be written."""
    try:
        # Half of a surrogate pair, which JSON may hold, is no UTF-8.
        out.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise FinerRankError(f"{out}: cannot be written ({error.strerror}); name another --out") from None
