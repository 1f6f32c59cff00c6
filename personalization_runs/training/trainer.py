"""The loop: of one individual, steps that each follow from seed and number alone."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from personalization_runs.training.checkpoints import read_checkpoint, write_checkpoint
from personalization_runs.training.randomness import drawn_from

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from personalization_runs.training.adapters import Adapter
    from personalization_runs.training.families import Family, Text
    from personalization_runs.training.pictures import Pictures
    from personalization_runs.training.recipe import Recipe

N_PROBES = 16
MAX_GRAD_NORM = 1.0

Callback = Callable[[int, Any], None]
"""Told of the number of steps done, and handed the pipeline, ready to make images with what is learned by then."""


@dataclass
class Lesson:
    """What is to be learned of one individual.

    Attributes:
        texts: makes what the network is told: of the individual, and of the class where `prior` has images of it.
        key: whom the random numbers are for.
    """

    family: "Family"
    adapter: "Adapter"
    recipe: "Recipe"
    photos: "Pictures"
    prior: "Pictures | None"
    texts: "Callable[[], Sequence[Text]]"
    key: tuple[Any, ...]
    dtype: "torch.dtype"

    def loss(self, number: int) -> "Tensor":
        """The loss of step `number`, from 0: each photo has its turn, in another order each round."""
        import torch

        turn = torch.randperm(len(self.photos), generator=drawn_from(*self.key, "order", number // len(self.photos)))
        generator = drawn_from(*self.key, "step", number)
        latents = [self.photos.latents(int(turn[number % len(self.photos)]), generator)]
        if self.prior:
            latents.append(
                self.prior.latents(int(torch.randint(len(self.prior), (1,), generator=generator)), generator)
            )
        errors = self._errors(latents, generator, self.texts())
        # Prior preservation (Ruiz et al. 2023): the class is to stay what it was.
        return errors[0] + (self.recipe.prior_weight * errors[1] if self.prior else 0)

    def probe(self) -> float:
        """Mean loss on the photos at noises that are never trained on, and always the same: a step's own is luck."""
        import torch

        with torch.no_grad(), self.computing():
            texts = self.texts()[:1]
            total = 0.0
            for number in range(N_PROBES):
                generator = drawn_from(*self.key, "probe", number)
                latents = self.photos.latents(number % len(self.photos), generator)
                total += float(self._errors([latents], generator, texts))
        return total / N_PROBES

    def _errors(self, latents: "Sequence[Tensor]", generator: "Generator", texts: "Sequence[Text]") -> "Tensor":
        import torch

        together = torch.cat(list(latents))
        noise = torch.randn(together.shape, generator=generator).to(together.device)
        levels = self.family.levels(len(together), generator)
        text = {name: torch.cat([each[name] for each in texts]) for name in texts[0]}
        return self.family.errors(together, noise, levels, text)

    def computing(self) -> Any:
        """Networks compute in `dtype`, whatever the trained values are held in."""
        import torch

        return torch.autocast(
            self.family.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False
        )


def train(
    lesson: Lesson,
    folder: Path,
    *,
    checkpoint_every: int,
    step: Callable[[int], Any] | None = None,
    callback: Callback | None = None,
    callback_every: int = 0,
) -> list[float]:
    """Train, from the last checkpoint in `folder` on. The values to start with are in place.

    AdamW in float32, as in the paper's code but for its moments in 8 bits, which need a package of their own.

    Returns:
        The loss of each step.

    Raises:
        FinerRankError: memory does not suffice, or a loss is no number.
    """
    import torch

    adapter, recipe = lesson.adapter, lesson.recipe
    parameters = list(adapter.trained.values())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=adapter.decay)
    losses = read_checkpoint(folder, adapter, optimizer)
    if step:
        step(len(losses))

    def is_due() -> bool:
        n_done = len(losses)
        return n_done in (0, recipe.steps) or (callback_every > 0 and n_done % callback_every == 0)

    if callback and is_due():  # a kill may have come between this step's checkpoint and its call
        _call(callback, lesson, len(losses))
    while len(losses) < recipe.steps:
        try:
            with lesson.computing():
                loss = lesson.loss(len(losses))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
        except torch.OutOfMemoryError:
            raise FinerRankError(
                f"{lesson.family.device}: not enough memory to train; choose a smaller --set training_size, or a "
                "larger device"
            ) from None
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
        refuse_no_number(losses[-1], len(losses))
        if checkpoint_every and len(losses) % checkpoint_every == 0 and len(losses) < recipe.steps:
            write_checkpoint(folder, adapter, optimizer, losses)
        if callback and is_due():
            _call(callback, lesson, len(losses))
        if step:
            step(1)
    return losses


def refuse_no_number(loss: float, n_steps: int) -> None:
    if not math.isfinite(loss):
        raise FinerRankError(f"step {n_steps}: the loss is no number; choose a lower --set learning_rate")


def _call(callback: Callback, lesson: Lesson, n_steps: int) -> None:
    import torch

    with torch.no_grad(), lesson.computing():
        callback(n_steps, lesson.family.pipeline)


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Kernels that give the same bits each time, where there are such, and gradients though a caller wants none."""
    import torch

    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when its library starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
