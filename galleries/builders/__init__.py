"""Galleries of the literature, built from the data as its owners distribute it. One small file each.

A builder is a module with a `CARD` and `find(source, recipe)`; `BUILDERS` is the whole registry. A builder only reads
labels and names photos: `Gallery.build` checks and writes. It never downloads.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galleries.errors import Fault, FinerRankError
from galleries.photo_checks import is_file
from galleries.sources import Found

BUILDERS = ("cub", "stanford_cars", "animal_reid", "dreambooth", "dreambench_plus")


@dataclass(frozen=True)
class DataSetCard:
    """What is to be known of a data set before a gallery is made of it.

    Attributes:
        name: of the command `gallery build NAME`.
        granularity: `instance` or `category`.
        licence: under which the photos may be used, as far as their owners say.
        thumbnails: whether small copies may be shown in public: `yes`, `no`, or under which condition.
        counts: what a complete copy holds.
        download: what to fetch from where, and which folder to name then.
        mirrors: other places that were seen to hold it.
        checksums: file → digest, with its kind.
        recipes: name → what it selects; the first is the default.
    """

    name: str
    title: str
    granularity: str
    licence: str
    thumbnails: str
    citation: str
    counts: str
    download: str
    recipes: Mapping[str, str]
    mirrors: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    url: str = ""

    @property
    def default_recipe(self) -> str:
        return next(iter(self.recipes))

    @property
    def help(self) -> str:
        """Of the command: what the data set is, its recipes, and where it comes from."""
        recipes = "\n\n".join(f"--recipe {name}: {what}." for name, what in self.recipes.items())
        return f"From {self.title}.\n\n{recipes}\n\nTo get it: {self.download}."

    def missing(self, where: Path, what: str) -> FinerRankError:
        """The error of data that are not there: says what to fetch."""
        return FinerRankError(f"{where}: {what}; {self.download}")


@dataclass(frozen=True)
class Selection:
    """What a recipe selects of a data set.

    Attributes:
        images: with `category`, `identity`, `split`, and `source_id`, the name in the owners' distribution.
        notes: what a user should know.
    """

    images: tuple[Found, ...]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


def builder_of(name: str) -> Any:
    """The module of a data set by its name, such as `stanford-cars`."""
    return importlib.import_module(f"galleries.builders.{name.replace('-', '_')}")


def cards() -> list[DataSetCard]:
    return [builder_of(name).CARD for name in BUILDERS]


def read_lines(path: Path) -> list[str]:
    """The lines of a list that the owners wrote.

    Raises:
        FinerRankError: not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FinerRankError(f"{path}: byte {error.start} is not UTF-8; fetch and unpack the data again") from None
    except OSError as error:
        raise FinerRankError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def refuse_if_none_is_there(card: DataSetCard, source: Path, images: Sequence[Found]) -> None:
    """A folder without any of the photos is not half a download; a line for each would tell nobody what to do.

    Raises:
        FinerRankError: it is such a folder.
    """
    if not any(image.content is not None or is_file(image.path) for image in images):
        raise card.missing(source, f"none of its {len(images)} photos is there")


def sampled(n: int, size: int, seed: int) -> list[int]:
    """`size` positions of `range(n)` as pandas' `sample(n=size, random_state=seed)` draws them, in its order."""
    import numpy as np

    return [int(i) for i in np.random.RandomState(seed).choice(n, size=size, replace=False)]


def sampled_in_turn(counts: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Positions of each group as pandas' `groupby(...).sample(n=size, random_state=seed)` draws them.

    One generator runs through the groups.

    Raises:
        FinerRankError: a group is too small.
    """
    import numpy as np

    generator = np.random.RandomState(seed)
    return [[int(i) for i in generator.choice(n, size=size, replace=False)] for n in counts]
