"""A Hugging Face dataset: a hub id, or a folder that `save_to_disk` wrote."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galleries.errors import FinerRankError
from galleries.sources import Found, labelled_name

ENDINGS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"BM": ".bmp",
}


def find_in_dataset(
    name: str,
    image_column: str,
    columns: Mapping[str, str],
    split: str | None = None,
    revision: str | None = None,
) -> list[Found]:
    """The images of a dataset, as the bytes that its owner stored.

    Args:
        name: hub id or folder.
        columns: our column → theirs. Class labels are written as their names.
        split: the dataset's own split; may be left out where it has one only.

    Raises:
        FinerRankError: the hub cannot be reached, or a column or split does not exist.
    """
    import datasets

    dataset = _load(name, split, revision)
    wanted = {image_column, *columns.values()}
    missing = sorted(wanted - set(dataset.column_names))
    if missing:
        raise FinerRankError(
            f"{name}: no column {missing[0]!r}; choose among {', '.join(dataset.column_names)} "
            "(--image-column, --column OURS=THEIRS)"
        )
    features = dataset.features
    if not isinstance(features[image_column], datasets.Image):
        raise FinerRankError(
            f"{name}: column {image_column!r} holds no images; name the one that does (--image-column)"
        )
    labels = {c: features[c].names for c in columns.values() if isinstance(features[c], datasets.ClassLabel)}
    dataset = dataset.select_columns(sorted(wanted)).cast_column(image_column, datasets.Image(decode=False))
    found = []
    for i, row in enumerate(dataset):
        values = {ours: _label(row[theirs], labels.get(theirs)) for ours, theirs in columns.items()}
        image = row[image_column]
        if image is None:
            raise FinerRankError(f"{name} row {i + 1}: no image; remove the row")
        content = image["bytes"] or None
        path = Path(image["path"] or "")
        stem = re.sub(r"\W+", "_", path.stem) or "image"
        ending = next((e for magic, e in ENDINGS.items() if content and content.startswith(magic)), path.suffix)
        file_name = labelled_name(values, f"{i:06d}_{stem}{ending}")
        found.append(Found(f"{name} row {i + 1}", file_name, path, values, content))
    if not found:
        raise FinerRankError(f"{name}: no rows; name another split (--split)")
    return found


def find_all(name: str) -> dict[str, list[Found]]:
    """Every image of a dataset that has a single column of them, by split; "" where it has no splits.

    Raises:
        FinerRankError: it cannot be loaded, or has no such column.
    """
    import datasets

    loaded = _open(name, None)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    found = {}
    for split, dataset in splits.items():
        columns = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
        if len(columns) != 1:
            raise FinerRankError(f"{name}: {len(columns)} columns of images; take a copy with one")
        found[split] = find_in_dataset(name, columns[0], {}, split or None)
    return found


def _open(name: str, revision: str | None) -> Any:
    import datasets

    folder = Path(name)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
        elif folder.exists():
            raise FinerRankError(f"{name}: not a folder written by save_to_disk; name one, or a hub id (owner/name)")
        else:
            loaded = datasets.load_dataset(name, revision=revision)
    except FinerRankError:
        raise
    except Exception as error:  # the loader raises many kinds: connection, gated, not found, script, damaged file
        raise FinerRankError(
            f"{name}: cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "bring it as a folder: datasets.load_dataset(…).save_to_disk(FOLDER) on a machine that reaches the hub"
        ) from None
    return loaded


def _load(name: str, split: str | None, revision: str | None) -> Any:
    import datasets

    loaded = _open(name, revision)
    if not isinstance(loaded, datasets.DatasetDict):
        if split:
            raise FinerRankError(f"{name}: a single dataset without splits; leave --split out")
        return loaded
    names = list(loaded)
    if split is None and len(names) == 1:
        return loaded[names[0]]
    if split is None:
        raise FinerRankError(f"{name}: has several splits; name one with --split: {', '.join(names)}")
    if split not in names:
        raise FinerRankError(f"{name}: no split {split!r}; name one with --split: {', '.join(names)}")
    return loaded[split]


def _label(value: object, names: list[str] | None) -> str:
    if value is None:
        return ""
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""
    return str(value)
