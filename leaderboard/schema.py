"""Schemas of JSON that strangers wrote: every field, its type and its range."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from galleries.errors import Fault, FinerRankError

Check = Callable[[str, Any], Iterator[Fault]]
"""(where a value stands, the value) → what is wrong with it."""

MAX_TEXT = 20_000
MAX_DEPTH = 12
MAX_JSON_BYTES = 32 << 20

AGAIN = "submit what finer-rank leaderboard add wrote"
"""The remedy: files of a bundle are made by the program, not by hand."""


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FinerRankError: too large, not JSON, NaN or infinity, a key that stands twice, too deep.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FinerRankError(f"not readable as JSON ({reason})") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def text(max_length: int = MAX_TEXT, *, one_of: tuple[str, ...] = (), empty: bool = True) -> Check:
    def check(where: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield _wrong(where, value, "text")
        elif len(value) > max_length:
            yield Fault(where, f"{len(value)} characters, more than {max_length}", AGAIN)
        elif one_of and value not in one_of:
            yield _wrong(where, value, " or ".join(map(repr, one_of)))
        elif not empty and not value.strip():
            yield Fault(where, "empty", AGAIN)

    return check


def sha256(where: str, value: Any) -> Iterator[Fault]:
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        yield _wrong(where, value, "a SHA-256 in 64 hexadecimal digits")


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number from `low` to `high`."""

    def check(where: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield _wrong(where, value, "a number")
        elif not _is_finite(value):
            yield Fault(where, "not a finite number", AGAIN)
        elif not low <= value <= high:
            yield Fault(where, f"{value:g}, not in [{low:g}, {high:g}]", AGAIN)

    return check


def count(low: int = 0, high: int = 10**9) -> Check:
    def check(where: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield _wrong(where, value, "a whole number")
        elif not low <= value <= high:
            # Too long an integer cannot even be printed.
            shown = value if abs(value) < 10**18 else "far more"
            yield Fault(where, f"{shown}, not in {low} … {high}", AGAIN)

    return check


def nullable(of: Check) -> Check:
    return lambda where, value: iter(()) if value is None else of(where, value)


def object_of(
    required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, others: Check | None = None
) -> Check:
    """An object with these fields.

    Args:
        others: what fields of other names must be; None where there may be none.
    """
    known = {**(optional or {}), **required}

    def check(where: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield _wrong(where, value, "an object")
            return
        for key in required:
            if key not in value:
                yield Fault(below(where, key), "missing", AGAIN)
        for key, each in value.items():
            of = known.get(key, others)
            if of is None:
                yield Fault(below(where, key), "unknown field", AGAIN)
            else:
                yield from of(below(where, key), each)

    return check


def map_of(of: Check, max_key: int = 4096) -> Check:
    """An object whose keys are labels."""

    def check(where: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield _wrong(where, value, "an object")
            return
        for key, each in value.items():
            if len(key) > max_key:
                yield Fault(where, f"a key of {len(key)} characters, more than {max_key}", AGAIN)
            yield from of(below(where, key), each)

    return check


def list_of(of: Check, max_length: int = 1_000_000) -> Check:
    def check(where: str, value: Any) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield _wrong(where, value, "a list")
        elif len(value) > max_length:
            yield Fault(where, f"{len(value)} entries, more than {max_length}", AGAIN)
        else:
            for i, each in enumerate(value):
                yield from of(f"{where}[{i}]", each)

    return check


def anything(where: str, value: Any, depth: int = 0) -> Iterator[Fault]:
    """Free text and numbers: finite, not endless, not too deep."""
    if depth > MAX_DEPTH:
        yield Fault(where, f"more than {MAX_DEPTH} levels deep", AGAIN)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from anything(below(where, key), each, depth + 1)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from anything(f"{where}[{i}]", each, depth + 1)
    elif isinstance(value, str):
        yield from text()(where, value)
    elif isinstance(value, int | float) and not _is_finite(value):
        yield Fault(where, "not a finite number", AGAIN)


def below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _wrong(where: str, value: Any, expected: str) -> Fault:
    shown = "null" if value is None else type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.80}"
    return Fault(where or "content", f"{shown}, not {expected}", AGAIN)
