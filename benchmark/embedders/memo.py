"""Fingerprints of networks that were built before, so that a second evaluation builds none."""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class FingerprintMemo:
    """What was found out about embedders, a file each in one folder.

    An entry holds as long as the files that decided it, and the folders that were searched for them, stay the same.

    Args:
        folder: None to remember nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, key: str) -> dict[str, Any] | None:
        """The description kept under `key`; None if there is none, or something that it rests on has changed."""
        memo = self._entry(key)
        # JSON knows no tuples; the digest does not tell them from lists.
        return dict(memo["description"]) if memo else None

    def files(self, key: str) -> list[Path] | None:
        """The files that decided what is kept under `key`; None where `read` gives none."""
        memo = self._entry(key)
        return [Path(path) for path in memo["files"] if Path(path).is_file()] if memo else None

    def _entry(self, key: str) -> Any:
        if self.folder is None:
            return None
        try:
            memo = json.loads((self.folder / f"{key}.json").read_text())
            if any(signature != _signature(file) for file, signature in memo["files"].items()):
                return None
            dict(memo["description"])
            return memo
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, key: str, description: Mapping[str, Any], files: Iterable[Path], is_searched: bool) -> None:
        """Keep a description.

        Args:
            files: that decided it.
            is_searched: whether they were found in their folder, where another one may be added that goes first.
        """
        if self.folder is None:
            return
        watched = [file.absolute() for file in files]
        if is_searched:
            watched += sorted({file.parent for file in watched})
        # A branch of the hub's cache may come to mean another commit.
        snapshots = sorted({file.parents[1] for file in watched if len(file.parents) > 2})
        refs = [folder.with_name("refs") for folder in snapshots if folder.name == "snapshots"]
        watched += sorted(ref for folder in refs for ref in folder.glob("*") if ref.is_file())
        memo = {"description": description, "files": {str(path): _signature(path) for path in watched}}
        with contextlib.suppress(OSError):  # the store itself says where it cannot be written
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / f"{key}.json"
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(memo, indent=1))
            partial.replace(target)


def _signature(path: Path | str) -> list[int]:
    """What changes when a file's content does, without reading it."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
