"""How long, how fast and on what an adapter is trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from galleries.errors import FinerRankError
from personalization_runs.methods.base import Parameter

SIZE_STEP = 16
"""Of training sizes: 8 pixels a latent, 2 latents a token."""


@dataclass(frozen=True)
class Recipe:
    """The parameters of a method that decide its training.

    Attributes:
        size: width and height in pixels of what is trained on.
        prior_weight: of the loss on class images; none are made where it is 0.
        prior_steps: of the making of a class image.
    """

    steps: int
    learning_rate: float
    size: int
    prior_weight: float = 0.0
    n_prior_images: int = 0
    prior_steps: int = 0

    @classmethod
    def of(cls, parameters: Mapping[str, Parameter], dtype: str) -> "Recipe":
        """Raises:
        FinerRankError: a number, or a type of numbers, that nothing can be trained with.
        """
        if dtype == "float16":
            raise FinerRankError("--dtype float16: gradients vanish in it; train in bfloat16 or float32")
        recipe = cls(
            int(parameters["training_steps"]),
            float(parameters["learning_rate"]),
            int(parameters["training_size"]),
            float(parameters.get("prior_weight", 0)),
            int(parameters.get("n_prior_images", 0)),
            int(parameters.get("prior_steps", 0)),
        )
        if not (math.isfinite(recipe.learning_rate) and recipe.learning_rate > 0):
            raise FinerRankError(f"--set learning_rate={recipe.learning_rate}: must be above 0")
        if not (math.isfinite(recipe.prior_weight) and recipe.prior_weight >= 0):
            raise FinerRankError(f"--set prior_weight={recipe.prior_weight}: must be 0 or more")
        if recipe.size % SIZE_STEP:
            raise FinerRankError(f"--set training_size={recipe.size}: must be a multiple of {SIZE_STEP}")
        return recipe
