"""The base model, prompted with the class alone: how like one another do its dogs look anyway?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalization_runs.methods.base import NEGATIVE_PROMPT, SDXL, SQUARE, Made, Method

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """Stable Diffusion, SDXL, SD3 or FLUX: whichever class the folder's `model_index.json` names."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import AutoPipelineForText2Image

        self.setup = setup
        self.pipeline = setup.pipeline(AutoPipelineForText2Image)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        return call(self.pipeline, self.setup, requests)


METHODS = (
    Method(
        "class-only",
        "the base model with the class alone, nothing personalized: an anchor",
        Generator,
        weights={"base": SDXL},
        parameters={"steps": 50, "guidance": 5.0, **SQUARE, "negative_prompt": NEGATIVE_PROMPT},
        memory_gb=10,
        offloaded_gb=8,
        image_seconds=4,
    ),
)
