"""What a training that has not ended has reached, on disk."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders.weights import read_state_dict
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

STATE = "state.json"
FORMAT = 1


class TrainingState:
    """What a training that is not finished has reached: a folder beside the one that it will write.

    `state.json` names the files of tensors that belong to it, and is moved into place last: a kill at any time leaves
    one epoch's state whole.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out.parent / f".{out.name}.training"

    @property
    def exists(self) -> bool:
        return (self.folder / STATE).is_file()

    def begin(self) -> None:
        """Make the folder; empty, but for a state that is whole.

        Raises:
            FinerRankError: it cannot be made.
        """
        if not self.exists:
            self.remove()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FinerRankError(f"{self.folder}: {error.strerror}; check --out, permissions and disk") from None

    def write(self, facts: Mapping[str, Any], tensors: "Mapping[str, Mapping[str, torch.Tensor]]") -> None:
        """Replace the state.

        Args:
            tensors: file name → its tensors. A name that is there already holds these tensors.

        Raises:
            FinerRankError: it cannot be written.
        """
        from safetensors.torch import save_file

        try:
            for name, own in tensors.items():
                if not (self.folder / name).is_file():
                    partial = self.folder / f"partial-{os.getpid()}"
                    save_file(dict(own), partial)
                    partial.replace(self.folder / name)
            partial = self.folder / f"partial-{os.getpid()}"
            partial.write_text(json.dumps({"format": FORMAT, "files": list(tensors), **facts}), encoding="utf-8")
            partial.replace(self.folder / STATE)
            for path in self.folder.iterdir():
                if path.name not in (STATE, *tensors):
                    path.unlink()
        except OSError as error:
            raise FinerRankError(f"{self.folder}: {error.strerror}; check the disk, then go on with --resume") from None

    def read(
        self, about: Mapping[str, Any], conditions: Mapping[str, str], report: Callable[[str], None]
    ) -> dict[str, Any]:
        """The facts of a state that this training can go on from.

        Args:
            about: what its beginning must share with it.
            conditions: what else last digits depend on; that others were there before is reported.

        Raises:
            FinerRankError: damaged, written by another version of this program, or of another training.
        """
        try:
            facts = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError
            for path in self.folder.iterdir():
                if path.name not in (STATE, *facts["files"]):
                    path.unlink()
            begun, before = dict(facts["about"]), dict(facts["conditions"])
        except (OSError, ValueError, KeyError, TypeError):
            raise FinerRankError(f"{self.folder}: no state that can be resumed; remove it and start again") from None
        ours = json.loads(json.dumps(about))
        differing = [key for key in ours if begun.get(key) != ours[key]]
        if differing:
            raise FinerRankError(
                f"{self.folder}: of a training with another {differing[0].replace('_', ' ')}; "
                "give the same options, or remove it and start again"
            )
        changed = [key for key, value in conditions.items() if before.get(key) != value]
        if changed:
            report(f"note: other {', '.join(changed)} than before the break: the result may differ in last digits")
        return dict(facts)

    def tensors(self, name: str) -> "dict[str, torch.Tensor]":
        """The tensors of one of its files.

        Raises:
            FinerRankError: damaged.
        """
        try:
            return read_state_dict(self.folder / name)
        except FinerRankError:
            raise FinerRankError(f"{self.folder / name}: damaged; remove the folder and start again") from None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
