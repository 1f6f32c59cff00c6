"""SDEdit (Meng et al. 2022): the reference photo, noised by a strength and painted again from the prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError
from personalization_runs.methods.base import NEGATIVE_PROMPT, SDXL, SQUARE, Made, Method

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """Stable Diffusion, SDXL, SD3 or FLUX: whichever class the folder's `model_index.json` names."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import AutoPipelineForImage2Image

        strength, steps = float(setup.parameters["strength"]), int(setup.parameters["steps"])
        if int(steps * strength) < 1 or strength > 1:  # as the pipelines count them
            raise FinerRankError(f"--set strength={strength:g}: must be 1/steps ({1 / steps:g}) to 1")
        self.setup = setup
        self.pipeline = setup.pipeline(AutoPipelineForImage2Image)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        pictures = [self.setup.picture(request.photo) for request in requests]
        return call(self.pipeline, self.setup, requests, image=pictures, strength=self.setup.parameters["strength"])


METHODS = (
    Method(
        "img2img",
        "the reference photo, noised by a strength and painted again from the prompt",
        Generator,
        paper="https://arxiv.org/abs/2108.01073",
        weights={"base": SDXL},
        parameters={"steps": 50, "guidance": 5.0, "strength": 0.6, **SQUARE, "negative_prompt": NEGATIVE_PROMPT},
        uses_reference=True,
        memory_gb=11,
        offloaded_gb=8,
        image_seconds=3,
    ),
)
