"""Where a training stands: what it has learned, and what AdamW remembers. No pickle, and no random state."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError
from personalization_runs.training.files import read_safetensors, write_safetensors

if TYPE_CHECKING:
    import torch

    from personalization_runs.training.adapters import Adapter

NAME = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def write_checkpoint(
    folder: Path, adapter: "Adapter", optimizer: "torch.optim.Optimizer", losses: Sequence[float]
) -> None:
    """Put the checkpoint after `len(losses)` steps in the place of the last one."""
    import torch

    tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, parameter in adapter.trained.items():
        tensors[f"value/{name}"] = parameter
        tensors |= {f"{moment}/{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    write_safetensors(folder / NAME, tensors, {"step": str(len(losses))})


def read_checkpoint(folder: Path, adapter: "Adapter", optimizer: "torch.optim.Optimizer") -> list[float]:
    """Go on from the checkpoint, if there is one.

    Returns:
        The losses of the steps that are done.

    Raises:
        FinerRankError: it is damaged.
    """
    import torch

    path = folder / NAME
    if not path.is_file():
        return []
    tensors, _ = read_safetensors(path)
    try:
        losses: list[float] = tensors.pop("losses").tolist()
        for name, parameter in adapter.trained.items():
            moments = {moment: tensors.pop(f"{moment}/{name}").to(parameter.device) for moment in MOMENTS}
            if any(moment.shape != parameter.shape for moment in moments.values()):
                raise ValueError
            optimizer.state[parameter] = {"step": torch.tensor(float(len(losses))), **moments}
    except (KeyError, ValueError):
        raise FinerRankError(f"{path}: damaged; remove the folder {folder}, and train again") from None
    adapter.put({name.removeprefix("value/"): tensor for name, tensor in tensors.items()}, path)
    return losses
