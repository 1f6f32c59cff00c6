"""Where the numbers of a training are looked at: TensorBoard, W&B, or what is like them. Imported only if asked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from galleries.errors import FinerRankError


def logging_to(logger: Any, out: Path | None) -> Callable[[Mapping[str, float], int], Any]:
    """What writes values of a step where the user looks.

    Raises:
        FinerRankError: no such logger, or its package is missing.
    """
    if logger is None:
        return lambda values, step: None
    if logger == "tensorboard":
        if out is None:
            raise FinerRankError("logger 'tensorboard': nowhere to write; give out, or hand over a SummaryWriter")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise FinerRankError("logger 'tensorboard': not installed; run: pip install tensorboard") from None
        logger = SummaryWriter(str(out / "tensorboard"))
    elif logger == "wandb":
        try:
            import wandb
        except ImportError:
            raise FinerRankError("logger 'wandb': not installed; run: pip install wandb") from None
        logger = wandb.run or wandb.init(project="finer-rank")
    if hasattr(logger, "add_scalar"):

        def add(values: Mapping[str, float], step: int) -> None:
            for tag, value in values.items():
                logger.add_scalar(tag, value, step)

        return add
    if hasattr(logger, "log"):
        return lambda values, step: logger.log(dict(values), step=step)
    what = repr(logger) if isinstance(logger, str) else type(logger).__name__
    raise FinerRankError(f"logger {what}: has neither add_scalar nor log; write tensorboard or wandb, or hand over one")
