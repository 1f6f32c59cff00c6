"""Specs: `NAME`, `NAME@WEIGHTS`, `family:model[@weights]`, `ensemble:NAME=WEIGHT,NAME=WEIGHT`; what they ask for."""

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from benchmark.embedders.base import Request
from benchmark.embedders.zoo import EncoderCard, zoo
from galleries.errors import FinerRankError

FAMILIES = ("timm", "open_clip", "torchvision", "transformers", "miewid", "dreamsim", "checkpoint", "classical")
ENTRY_POINTS = "finer_rank.embedders"
FOLDERS = ("local-dir:", "checkpoint:")
"""What stands before a folder in a spec."""


class UnknownEmbedder(FinerRankError):
    """A name that is no embedder's."""


def parse(spec: str) -> tuple[EncoderCard | None, Request]:
    """What a spec asks for, and the card of its name, if it has one. Not of ensembles.

    Raises:
        FinerRankError: unknown name or family, or no weights.
    """
    name, at, after = spec.partition("@")
    card = zoo().get("classical" if spec == "classical:" else name)
    family, colon, rest = (card.spec if card else spec).partition(":")
    if not colon or (family not in FAMILIES and family not in foreign_families()):
        raise _unknown(spec)
    if card is None:
        model, weights = (rest, None) if family == "checkpoint" else _split_weights(rest)
        return None, Request(spec, family, model, weights)
    if family == "checkpoint":
        rest = str(Path(__file__).with_name(rest))  # it comes with this package
    if at and not after:
        raise FinerRankError(f"{spec}: no file follows the '@'; write {name}, or {name}@FILE")
    brought = Path(after) if at else None
    if rest.startswith("hf-hub:"):
        if brought is not None:
            rest = f"local-dir:{brought}"
        elif card.published and card.published.revision:
            rest = f"{rest}@{card.published.revision}"
        brought = None
    elif brought is not None and brought.is_dir() and card.published and (brought / card.published.file).is_file():
        brought = brought / card.published.file
    if brought is None and card.published is None and family not in ("classical", "checkpoint"):
        raise FinerRankError(f"{spec}: nobody publishes its weights; train it, and write {name}@FILE")
    published = None if at else card.published
    request = Request(spec, family, rest, brought, published=published, preprocessing=card.preprocessing)
    return card, replace(request, pooling=card.pooling)


def _unknown(spec: str) -> UnknownEmbedder:
    families = [f"{family}:" for family in (*FAMILIES, *foreign_families(), "ensemble")]
    if spec and Path(spec).is_dir():
        raise FinerRankError(f"{spec}: is a folder; write checkpoint:{spec}, timm:local-dir:{spec} or NAME@{spec}")
    if Path(spec).is_file():
        raise FinerRankError(f"{spec}: is a file; say what it holds the weights of: NAME@{spec}")
    family, colon, _ = spec.lower().partition(":")
    near = get_close_matches(family + colon, [*zoo(), *families], n=3, cutoff=0.6)
    hint = f"{' or '.join(map(repr, near))} is meant? " if near else ""
    return UnknownEmbedder(
        f"{spec}: no such embedder; {hint}known: the names that finer-rank embedder list shows, and family:model"
        f"[@weights file] with {', '.join(families)}"
    )


def weighted(spec: str) -> list[tuple[str, float]]:
    """The members of `ensemble:NAME[=WEIGHT],NAME[=WEIGHT]…` with their weights, which add up to 1.

    Raises:
        FinerRankError: fewer than two members, one twice, or a weight that is none.
    """
    members: dict[str, float] = {}
    for part in spec.removeprefix("ensemble:").split(","):
        name, _, weight = part.strip().rpartition("=") if "=" in part else (part.strip(), "", "1")
        if not name or name.startswith("ensemble:"):
            raise FinerRankError(f"{spec}: {part!r} is no member; write ensemble:dinov2=0.7,clip=0.3")
        if name in members:
            raise FinerRankError(f"{spec}: {name} is a member twice; name each once, with a weight: {name}=2")
        try:
            members[name] = float(weight)
        except ValueError:
            raise FinerRankError(f"{spec}: {weight!r} is no weight; write a number: {name}=0.5") from None
        if not (members[name] > 0 and math.isfinite(members[name])):
            raise FinerRankError(f"{spec}: weight {weight} of {name} is out of range; write one above 0")
    if len(members) < 2:
        raise FinerRankError(f"{spec}: one member is no ensemble; write ensemble:dinov2=0.7,clip=0.3")
    largest = max(members.values())  # their sum may be more than a float holds
    total = math.fsum(weight / largest for weight in members.values())
    return [(name, weight / largest / total) for name, weight in members.items()]


@cache
def foreign_families() -> Mapping[str, EntryPoint]:
    """Families of other packages: entry points of the group `finer_rank.embedders`, each a module like ours."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in FAMILIES}


def _split_weights(rest: str) -> tuple[str, Path | None]:
    if rest.startswith("local-dir:") and Path(rest.removeprefix("local-dir:")).is_dir():
        return rest, None
    model, at, after = rest.partition("@")
    if model.startswith("hf-hub:"):  # there the first @ names a revision
        revision, second_at, file = after.partition("@")
        return (f"{model}{at}{revision}", Path(file)) if second_at else (rest, None)
    return model, Path(after) if at else None


def published_spec(spec: str) -> str:
    """A spec whose files are named without their folders: records are published."""
    if spec.startswith("ensemble:"):
        parts = [part.partition("=") for part in spec.removeprefix("ensemble:").split(",")]
        return "ensemble:" + ",".join(f"{published_spec(name)}{equals}{weight}" for name, equals, weight in parts)
    if spec.startswith("clpips:"):  # a folder, and a file after it
        folder, at, trunk = spec.removeprefix("clpips:").partition("@")
        return f"clpips:{Path(folder).name}{at}{Path(trunk).name if at else ''}"
    for marker in FOLDERS:
        start, found, folder = spec.partition(marker)
        if found and "@" not in start:
            return f"{start}{found}{Path(folder).name}"
    model, at, rest = spec.partition("@")
    if "hf-hub:" not in model:
        return f"{model}{at}{Path(rest).name}" if at else spec
    revision, second_at, file = rest.partition("@")
    return f"{model}{at}{revision}{second_at}{Path(file).name if second_at else ''}"
