"""Places where images with labels are found: folder trees, tables, the reference code's files, the Hub.

A source only reads: `galleries.Gallery` and `personalization_runs.Run` turn what it found into their own rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


def told_apart(found: Sequence[Found]) -> dict[str, Found]:
    """Images by name. Those that share one get the folders that tell them apart, or else a number, in front."""
    by_name: dict[str, list[Found]] = {}
    for image in found:
        by_name.setdefault(image.name, []).append(image)
    renamed = {}
    for name, images in by_name.items():
        # By path, not by row: the same images get the same names whatever the order of the table.
        for i, image in enumerate(sorted(images, key=lambda image: str(image.path)) if len(images) > 1 else images):
            own = (
                name
                if len(images) == 1
                else f"{name.rpartition('/')[0]}/same-name-{i + 1}/{image.path.name}".lstrip("/")
            )
            renamed[own] = replace(image, name=own)
    return renamed
