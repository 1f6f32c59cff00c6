"""What `ablate` saved, to be drawn again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from galleries.errors import FinerRankError, raise_if_any
from galleries.tables import read_table
from leaderboard.schema import anything, count, list_of, nullable, number, object_of, read_json, text

AGAIN = "name what finer-rank ablate wrote"

_score = nullable(number(0, 1))
_row = object_of(
    {
        "run": nullable(text()),
        "cell": text(empty=False),
        "identities_per_category": count(1),
        "photos_per_identity": count(1),
        **{f"{score}{end}": _score for score in ("mAP", "AUC") for end in ("", "_band_low", "_band_high")},
        "chance_mAP": _score,
        "n_draws": count(),
    },
    others=anything,
)
_document = object_of({"gallery": text(), "embedder": text(), "cells": list_of(_row)}, others=anything)


def read_ablation(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Cells as `draw_ablation` takes them, and a title.

    Args:
        path: `.json`, what `ablate --json` printed, or `.csv`, what `ablate --out` wrote.

    Raises:
        FinerRankError: neither, not readable, or without cells.
        Faults: fields that are missing or out of range.
    """
    if path.suffix.lower() == ".json":
        try:
            document = read_json(path)
        except FinerRankError as error:
            raise FinerRankError(f"{path}: {error}; {AGAIN}") from None
        faults = list(_document("", document))
    elif path.suffix.lower() == ".csv":
        # The table does not say of which gallery it is.
        table = read_table(path)
        rows = [{column: _value_of(column, cell) for column, cell in row.items()} for row in table.rows]
        document = {"gallery": path.stem, "embedder": "", "cells": rows}
        faults = [*table.faults, *_document("", document)]
    else:
        raise FinerRankError(f"{path}: neither .json nor .csv; {AGAIN}")
    raise_if_any(str(path), [replace(fault, remedy=AGAIN) for fault in faults[:20]])
    rows = document["cells"]
    if not rows:
        raise FinerRankError(f"{path}: holds no cell; {AGAIN}")
    n_draws = max(row["n_draws"] for row in rows)
    parts = [document["gallery"], document["embedder"].partition("@")[0]]
    parts.append(f"mean of {n_draws} draws and their 2.5 to 97.5 % band")
    return rows, ", ".join(part for part in parts if part)


def _value_of(column: str, cell: str) -> Any:
    if column in ("run", "cell"):
        return cell or None
    try:
        return json.loads(cell) if cell else None
    except ValueError:
        return cell
