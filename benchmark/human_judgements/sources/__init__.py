"""Readers of judgements, one data set a module; `SOURCES` is the whole registry.

Each has
- `READS`: one line that says what it reads and how it is recognised;
- `is_here(path) -> bool`: whether a file or folder looks like it, without reading all of it;
- `kinds(path) -> tuple[Kind, ...]`: the kinds of judgement that lie there;
- `read(path, kind) -> Judgements`: those of one of these kinds; all faults at once;
- `PUBLISHED`: kind → `(split, subset)` → how many judgements the owners name, as a range where they round; "" is any
  split or subset. Empty where they name none.
"""

import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from benchmark.human_judgements.repeated import repeated_judgements
from galleries.errors import FinerRankError, printable, raise_if_any

SOURCES: tuple[str, ...] = ("nights", "bapps", "things", "dreambench_plus", "collected", "table")
"""Modules of this package, in the order in which a path is offered to them."""


NAMES_JOIN = " + "
"""Between the images' names in a target that is all of them."""


def source_of(path: Path) -> Any:
    """The module that reads a path.

    Raises:
        FinerRankError: there is nothing, or nothing that a reader knows.
    """
    modules = [importlib.import_module(f"{__name__}.{name}") for name in SOURCES]
    if not path.exists():
        raise FinerRankError(f"{path}: no such file or folder; check the path")
    for module in modules:
        if module.is_here(path):
            return module
    known = "; ".join(module.READS for module in modules)
    raise FinerRankError(f"{path}: holds no judgements that can be read; give one of: {known}")


def kind_of(path: Path, kind: Kind | None) -> Kind:
    """The kind of judgement to read from a path.

    Raises:
        FinerRankError: that kind is not there, or none was asked for and several are.
    """
    there: tuple[Kind, ...] = source_of(path).kinds(path)
    if kind is not None and kind not in there:
        raise FinerRankError(f"{path}: holds no {kind} judgements; give --kind {' or '.join(there)}")
    if kind is None and len(there) > 1:
        raise FinerRankError(f"{path}: holds {' and '.join(there)} judgements; choose with --kind")
    return kind or there[0]


def load_judgements(
    paths: Sequence[Path], *, kind: Kind | None = None, split: str = "", subset: str = ""
) -> Judgements:
    """The judgements of one kind from some files and folders, pooled, in an order that no file's order decides.

    Args:
        kind: needed where a path holds several.
        split, subset: only these.

    Raises:
        Faults: all that is wrong with one source, or what somebody judged in two of them.
        FinerRankError: a path that no reader knows, paths of several kinds, or nothing of that split and subset.
    """
    if not paths:
        raise FinerRankError("no judgements; name a file or a folder of them")
    kinds = [kind_of(path, kind) for path in paths]
    for path, of in zip(paths, kinds, strict=True):
        if of != kinds[0]:
            raise FinerRankError(
                f"{path}: holds {of} judgements, {paths[0]} {kinds[0]}; give those of one kind together"
            )
    parts = [source_of(path).read(path, of) for path, of in zip(paths, kinds, strict=True)]
    seen: dict[str, Path] = {}
    for path, part in zip(paths, parts, strict=True):  # a folder may stand for the table in it
        if (first := seen.setdefault(os.path.realpath(part.source), path)) is not path:
            raise FinerRankError(f"{path}: is {first}, which is given already; name it once")
    pooled = _pooled(parts) if len(parts) > 1 else parts[0]
    found = pooled.only(split=split, subset=subset)
    if not found.rows:
        asked = " and ".join(f"--{name} {value}" for name, value in (("split", split), ("subset", subset)) if value)
        there = sorted({" ".join(filter(None, (row.split, row.subset))) or "no name" for row in pooled.rows})
        raise FinerRankError(
            printable(f"{pooled.name}: no judgement of {asked or 'any kind'}; there are those of {', '.join(there)}")
        )
    return replace(found, rows=tuple(sorted(found.rows, key=_order)))


def _order(row: Judgement) -> tuple[Any, ...]:
    return (row.target, row.rater, *map(str, row.images), row.answer, row.n_votes, row.split, row.subset)


def _pooled(parts: Sequence[Judgements]) -> Judgements:
    """Several sources as one. Files of one name in two folders stay two targets."""
    files: dict[str, set[tuple[Path, ...]]] = {}
    for part in parts:
        for row in part.rows:
            if about := _files_of_target(row):
                files.setdefault(row.target, set()).add(about)
    rows = []
    for i, part in enumerate(parts, start=1):
        for row in part.rows:
            is_ambiguous = len(files.get(row.target, ())) > 1 and bool(_files_of_target(row))
            rows.append(replace(row, target=f"{i}. {part.name}: {row.target}") if is_ambiguous else row)
    name = " + ".join(part.name for part in parts)
    # The unnamed raters of two sources are taken for different people.
    raise_if_any(name, repeated_judgements(parts[0].kind, (row for row in rows if row.rater)))
    return Judgements(
        name,
        parts[0].kind,
        Path(os.path.commonpath([part.source.absolute() for part in parts])),
        tuple(rows),
        tuple(line for part in parts for line in part.left_out),
    )


def _files_of_target(row: Judgement) -> tuple[Path, ...]:
    """The files that a target is named after; none where its name is the user's."""
    names = row.target.split(NAMES_JOIN)
    found = tuple(path for path in row.images if any(path.as_posix().endswith(f"/{name}") for name in names))
    return tuple(sorted(found)) if len(found) >= len(names) else ()
