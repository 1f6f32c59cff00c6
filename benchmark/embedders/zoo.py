"""The zoo: encoders by name, and a card of each. `zoo.toml` is the whole table, `training_data.toml` what they saw."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark.embedders.base import Preprocessing, Published

SeenState = Literal["trained on it", "same data set family", "unknown", "unseen"]
SEEN_STATES: tuple[SeenState, ...] = ("trained on it", "same data set family", "unknown", "unseen")
"""What an encoder knows of a gallery; the worst first."""

NORMALISATIONS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "halves": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an encoder. Absent values are "".

    Attributes:
        spec: `family:model`, as `load_embedder` takes it.
        kind: `generic`, or `specialised` in telling individuals or fine-grained classes apart.
        dimension: length of an embedding.
        token: what of the network's output is the embedding.
        trained_on: ids of `training_data()`; None where it is not known.
        published: where the weights are; None where nobody publishes them.
        preprocessing: None where the weights' own configuration is read.
        pooling: passed to the family where its library would pool in another way.
        variant_of: the entry with the same weights, which another publication prepares or reads out differently.
    """

    name: str
    title: str
    spec: str
    kind: str
    dimension: int
    token: str
    licence: str = ""
    paper: str = ""
    trained_on: tuple[str, ...] | None = None
    published: Published | None = None
    preprocessing: Preprocessing | None = None
    pooling: str = ""
    variant_of: str = ""
    note: str = ""


@dataclass(frozen=True)
class DataSet:
    """Pictures that encoders are trained on, or galleries are made of.

    Attributes:
        web: gathered from the open web, or not published: it may hold anything.
        contains: ids of data sets that are inside.
        related: ids of data sets that share pictures with it, or that it was gathered to resemble.
        sources: what a gallery made of it names as its source.
    """

    title: str
    web: bool = False
    contains: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    note: str = field(default="", compare=False)


@cache
def zoo() -> Mapping[str, EncoderCard]:
    """All cards by name, in the order of the table. A variant's row says what differs from the entry that it is of."""
    table = _table("zoo.toml")
    return {name: read_card(name, {**table.get(row.get("variant_of"), {}), **row}) for name, row in table.items()}


@cache
def training_data() -> Mapping[str, DataSet]:
    """All data sets by id."""

    def read(row: Mapping[str, Any]) -> DataSet:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return DataSet(**fields)

    return {name: read(row) for name, row in _table("training_data.toml").items()}


def read_card(name: str, row: Mapping[str, Any]) -> EncoderCard:
    """A card from its row of the table.

    Raises:
        KeyError, TypeError, ValueError: a row that is none.
    """
    row = dict(row)
    where = {key: row.pop(key, "") for key in ("repository", "file", "revision", "sha256")}
    geometry = row.pop("preprocessing", None)
    trained_on = row.pop("trained_on", None)
    return EncoderCard(
        name=name,
        published=Published(**where) if where["repository"] else None,
        preprocessing=_preprocessing(geometry) if geometry else None,
        trained_on=None if trained_on is None else tuple(trained_on),
        **row,
    )


def _preprocessing(row: Mapping[str, Any]) -> Preprocessing:
    size, to = int(row["size"]), int(row["resize_to"])
    how = row["resize"], (to, to), row["interpolation"]
    half_pixel = row.get("half_pixel", "even")
    return Preprocessing((size, size), *how, *NORMALISATIONS[row["normalisation"]], half_pixel=half_pixel)


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def data_set_of(source: str) -> str:
    """Id of the data set that a gallery names as its source: by its id, title or address; "" if it is none known."""
    for name, each in training_data().items():
        if each.sources and source.strip().lower() in (name, each.title.lower()):
            return name
    known = [
        (len(address), name)
        for name, each in training_data().items()
        for address in each.sources
        if _lies_under(source, address.rstrip("/"))
    ]
    return max(known, default=(0, ""))[1]


def _lies_under(source: str, address: str) -> bool:
    """Whether a source is an address, a page under it, or the address with remarks; not another one that begins so."""
    after = source.removeprefix(address)[:1] if source.startswith(address) else "-"
    return not (after.isalnum() or after in tuple("-_."))


def seen_state(trained_on: Sequence[str] | None, source: str) -> SeenState:
    """Whether an encoder saw a gallery's photos, or others of their kind, when it was trained.

    Args:
        trained_on: ids of data sets, of which one that the table lacks may hold anything; empty for an encoder
            without training, None where nobody says.
        source: what the gallery names as its source.
    """
    if trained_on is not None and not trained_on:
        return "unseen"
    data_set = data_set_of(source)
    if trained_on is None or not data_set:
        return "unknown"
    own, seen = inside([data_set]), inside(trained_on)
    if own & seen:
        return "trained on it"
    table = training_data()
    known = seen & table.keys()
    if any(own & set(table[name].related) for name in known) or any(seen & set(table[name].related) for name in own):
        return "same data set family"
    return "unknown" if known < seen or any(table[name].web for name in known) else "unseen"


def inside(names: Sequence[str]) -> frozenset[str]:
    """The data sets named, and all that they contain."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += training_data()[name].contains if name in training_data() else ()
    return frozenset(found)


def worst_state(states: Sequence[SeenState]) -> SeenState:
    """Of an ensemble: what its least innocent member knows."""
    return min(states, key=SEEN_STATES.index)
