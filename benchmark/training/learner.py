"""What training moves: network, loss and optimiser."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.training.settings import Loss
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; then it falls as half a cosine."""
HEAD_RATE = 10.0
"""Learning rate of the loss's own weights, as a multiple of the network's: they begin at random."""
CLIP_NORM = 5.0


class Diverged(FinerRankError):
    """Loss, gradients or embeddings are no numbers any more."""


class Learner:
    """A network with the loss that it is trained by.

    Args:
        dimension: length of an embedding.
        n_identities: that are trained on.
        n_steps: of the whole training, which the learning rate is spread over.
    """

    def __init__(
        self,
        module: "torch.nn.Module",
        *,
        loss: Loss,
        dimension: int,
        n_identities: int,
        n_steps: int,
        learning_rate: float,
        weight_decay: float,
        device: str,
    ) -> None:
        import torch
        from pytorch_metric_learning import losses, miners
        from pytorch_metric_learning.utils.common_functions import TorchInitWrapper

        self.module = module
        self.device = device
        self.n_steps = n_steps
        self.miner: Any = miners.TripletMarginMiner() if loss == "triplet" else None
        # Only directions of these weights count: of length 1, not sqrt(dimension), they turn as fast as the rate says.
        unit_length = TorchInitWrapper(torch.nn.init.normal_, std=dimension**-0.5)
        self.loss: torch.nn.Module = {
            "arcface": lambda: losses.ArcFaceLoss(n_identities, dimension, weight_init_func=unit_length),
            "softmax": lambda: losses.NormalizedSoftmaxLoss(n_identities, dimension, weight_init_func=unit_length),
            "triplet": lambda: losses.TripletMarginLoss(),
        }[loss]().to(device)
        # Norms' scales and biases have one dimension; they are not drawn to 0.
        groups = [
            ([p for p in module.parameters() if p.ndim > 1], learning_rate, weight_decay),
            ([p for p in module.parameters() if p.ndim <= 1], learning_rate, 0.0),
            (list(self.loss.parameters()), learning_rate * HEAD_RATE, 0.0),
        ]
        self.optimiser = torch.optim.AdamW(
            [{"params": params, "peak": rate, "weight_decay": decay} for params, rate, decay in groups if params],
            lr=learning_rate,
        )

    def learn(self, pixels: npt.NDArray[np.float32], labels: Sequence[int], step: int) -> float:
        """One step, number `step` from 0, on a batch `[B, 3, H, W]`; returns the loss before it.

        Raises:
            Diverged: loss or gradients are not finite.
        """
        import torch

        self.module.train()
        features = self.module(torch.from_numpy(pixels).to(self.device))
        features = features.mean(dim=(2, 3)) if features.ndim == 4 else features
        wanted = torch.tensor(labels, device=self.device)
        loss = self.loss(features, wanted, self.miner(features, wanted) if self.miner else None)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, self.n_steps)
        self.optimiser.zero_grad()
        loss.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise Diverged(f"the loss is {loss.item():.3g}, its gradient {norm.item():.3g}")
        self.optimiser.step()
        return float(loss.item())

    def weights(self) -> "dict[str, torch.Tensor]":
        """A copy of the network's weights."""
        return {key: value.detach().cpu().clone() for key, value in self.module.state_dict().items()}

    def state(self) -> "dict[str, torch.Tensor]":
        """A copy of all that the next step depends on."""
        head = {f"loss.{key}": value.detach().cpu().clone() for key, value in self.loss.state_dict().items()}
        moments = {
            f"optimiser.{number}.{key}": value.detach().cpu().clone()
            for number, of in self.optimiser.state_dict()["state"].items()
            for key, value in of.items()
        }
        return {f"network.{key}": value for key, value in self.weights().items()} | head | moments

    def restore(self, state: "Mapping[str, torch.Tensor]") -> None:
        """Go back to a `state`."""
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "loss": {}, "optimiser": {}}
        for key, value in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in parts["optimiser"].items():
            number, _, name = key.partition(".")
            moments.setdefault(int(number), {})[name] = value
        self.module.load_state_dict(parts["network"])
        self.loss.load_state_dict(parts["loss"])
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def rate_factor(step: int, n_steps: int) -> float:
    """Learning rate of a step, as a share of its peak."""
    n_warm = max(1, round(WARM_UP * n_steps))
    if step < n_warm:
        return (step + 1) / n_warm
    return max(0.01, 0.5 * (1 + math.cos(math.pi * (step - n_warm) / max(1, n_steps - n_warm))))
