"""Places where images with labels are found: folder trees, tables, the reference code's files, the Hub.

A source only reads: `galleries.Gallery` and `personalization_runs.Run` turn what it found into their own rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """An image that a source found.

    Attributes:
        where: the row or file it came from, for messages.
        name: relative file name for the copy under `images/`.
        path: the file; unused where `content` holds the bytes.
        values: what the source says of it, under our column names.
    """

    where: str
    name: str
    path: Path
    values: dict[str, str]
    content: bytes | None = None


def labelled_name(values: Mapping[str, str], base_name: str) -> str:
    """`category/identity/base_name`, for images that have no path of their own worth keeping."""
    labels = [values.get("category", ""), values.get("identity", "")]
    return "/".join([*(label.replace("/", "_") for label in labels if label), base_name])
