"""Qwen-Image-Edit (Wu et al. 2025): the prompt as an instruction, the reference photo as the picture to be edited."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalization_runs.methods.base import SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request

REFERENCE_PX = 1024
"""To which both pipelines bring a square reference, whatever the size of the image."""


class Generator:
    """Qwen-Image-Edit, or Plus of 2025-09 and later: whichever class the folder's `model_index.json` names."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline

        self.setup = setup
        self.pipeline = setup.pipeline_named(QwenImageEditPlusPipeline, QwenImageEditPipeline)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        # One by one: a list is a reference per prompt in one pipeline, and several of a single prompt in the other.
        return [self._made(request) for request in requests]

    def _made(self, request: "Request") -> Made:
        from personalization_runs.methods.setup import call

        picture = self.setup.picture(request.photo, (REFERENCE_PX, REFERENCE_PX))
        # What the pipeline calls guidance_scale is an input of distilled networks, which these are not.
        scales = {"true_cfg_scale": self.setup.parameters["guidance"], "guidance_scale": None}
        return call(self.pipeline, self.setup, [request], image=[picture], **scales)[0]


METHODS = (
    Method(
        "qwen-image-edit",
        "an editing model: the prompt as instruction, the reference photo as the picture to edit",
        Generator,
        paper="https://arxiv.org/abs/2508.02324",
        weights={"base": Weights("Qwen/Qwen-Image-Edit-2509", 57.7, "Apache-2.0")},
        # As the model's authors have them. Without a negative prompt, if only a blank, there would be no guidance.
        parameters={"steps": 40, "guidance": 4.0, **SQUARE, "negative_prompt": " "},
        uses_reference=True,
        max_batch=1,
        memory_gb=65,
        offloaded_gb=47,
        image_seconds=34,
        training_data="not published",
    ),
)
