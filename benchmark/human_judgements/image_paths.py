"""The image files that human data name: below their folder, and there."""

import os
from pathlib import Path

from galleries.errors import Fault


class ImagePaths:
    """Looks for files below a folder. Each folder is listed once, so that a hundred thousand names cost little."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._below = os.path.normpath(root.absolute()).rstrip(os.sep) + os.sep
        self._real = os.path.realpath(root)
        self._n_root = len(str(root / "_")) - 1
        self._listed: dict[str, dict[str, bool] | None] = {}

    def find(self, where: str, given: str) -> Path | Fault:
        """The file of that name, relative to the folder; or what is wrong with it.

        An absolute name is accepted where it lies below the folder. Neither names nor links may lead out of it.
        """
        if not given.strip():
            return Fault(where, "an image's name is empty", "fill it in")
        if "\\" in given or "\0" in given:
            return Fault(where, f"backslash or NUL in {given}", "write folders with /")
        # Text, not `Path`s, which take several times as long over a hundred thousand names.
        path = os.path.normpath(given if given.startswith(os.sep) else self._below + given)
        if not path.startswith(self._below):
            return self._outside(where, given)
        relative = path[len(self._below) :]
        folder, _, name = relative.rpartition(os.sep)
        names = self._names(folder)
        if names is None:
            return self._outside(where, given)
        if name not in names:
            return Fault(where, f"no image {given} below {self.root}", "put the file there, or remove the row")
        if names[name] and not self._is_inside(os.path.realpath(path)):
            return self._outside(where, given)
        return self.root / relative

    def name_of(self, path: Path) -> str:
        """The name of a file that was found, relative to the folder."""
        return str(path)[self._n_root :]

    def _outside(self, where: str, given: str) -> Fault:
        return Fault(where, f"{given} leads out of {self.root}", "put the image below that folder")

    def _names(self, folder: str) -> dict[str, bool] | None:
        """Name of each file of a folder → whether it is a link; None where the folder itself lies outside."""
        if folder not in self._listed:
            self._listed[folder] = self._list(self._below + folder)
        return self._listed[folder]

    def _list(self, folder: str) -> dict[str, bool] | None:
        if not self._is_inside(os.path.realpath(folder)):
            return None
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
        except (OSError, ValueError):
            return {}

    def _is_inside(self, real: str) -> bool:
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)
