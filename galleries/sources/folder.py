"""A tree of folders: `[category/]identity/*.jpg`, with `reference/` and `gallery/` below where photos are split."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galleries.errors import Fault, FinerRankError
from galleries.images import READABLE_SUFFIXES, SUFFIXES
from galleries.sources import Found
from galleries.tables import is_utf8


@dataclass(frozen=True)
class Tree:
    """The images of a tree, the files passed over because they are no images, and what is wrong with the tree."""

    images: tuple[Found, ...]
    ignored: tuple[str, ...]
    faults: tuple[Fault, ...]


def find_in_folder(root: Path, splits: Sequence[str] = (), follow_links: bool = True) -> Tree:
    """All images below `root`, labelled by their folders.

    Faults: images outside any identity, too deep, or at two depths.

    Args:
        splits: folder names below an identity that say which split its images belong to.
        follow_links: follow symbolic links, wherever they lead. Never for folders of strangers.

    Raises:
        FinerRankError: no such folder, or no image in it.
    """
    paths, ignored, faults = image_files(root, follow_links)
    images = []
    depths: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        name = path.relative_to(root).as_posix()
        labels = list(path.relative_to(root).parts[:-1])
        split = labels.pop() if len(labels) > 1 and labels[-1] in splits else ""
        if not 1 <= len(labels) <= 2:
            what = "lies in no identity's folder" if not labels else "lies too deep"
            shape = "[category/]identity/" + (f"[{'|'.join(splits)}/]" if splits else "")
            faults.append(Fault(name, what, f"arrange images as {shape}FILE"))
            continue
        depths[len(labels)].append(name)
        values = {"category": labels[0] if len(labels) == 2 else "", "identity": labels[-1], "split": split}
        images.append(Found(name, name, path, values))
    if len(depths) == 2:
        faults.append(
            Fault(
                depths[1][0],
                f"this folder is an identity, but that of {depths[2][0]} a category",
                "put every identity at the same depth",
            )
        )
    return Tree(tuple(images), tuple(ignored), tuple(sorted(faults)))


def image_files(root: Path, follow_links: bool) -> tuple[list[Path], list[str], list[Fault]]:
    """The image files below `root`, the names of those passed over because they are none, and what is wrong.

    Raises:
        FinerRankError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise FinerRankError(f"{root}: no such folder; check the path")
    images, ignored, faults = [], [], []
    inside = os.path.realpath(root)
    for path in _files_below(root, follow_links):
        name = path.relative_to(root).as_posix()
        if not is_utf8(name):
            faults.append(Fault(name, "file name is not UTF-8", "rename it"))
        elif path.suffix.lower() not in SUFFIXES:
            ignored.append(name)
        elif not follow_links and not Path(os.path.realpath(path)).is_relative_to(inside):
            faults.append(Fault(name, "is a link that leaves the folder", "put the image itself there"))
        else:
            images.append(path)
    if not images and not faults:
        raise FinerRankError(f"{root}: no image files in its folders; known endings are {' '.join(READABLE_SUFFIXES)}")
    return images, ignored, faults


def _files_below(root: Path, follow_links: bool) -> list[Path]:
    """Files below `root` in a fixed order, leaving out hidden ones, and links to a folder that they lie in."""
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root, followlinks=follow_links):
        if Path(folder) != root and _is_loop(Path(folder), root):
            subfolders.clear()
            continue
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__MACOSX")))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _is_loop(folder: Path, root: Path) -> bool:
    real = os.path.realpath(folder)
    above = (parent for parent in folder.parents if parent == root or root in parent.parents)
    return folder.is_symlink() and any(os.path.realpath(parent) == real for parent in above)
