"""OmniGen (Xiao et al. 2024): one transformer reads the prompt with the reference photo in it, and denoises."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from personalization_runs.methods.base import SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """One image at a time: the rotary positions of a batch are those of its first row (diffusers 0.42)."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import OmniGenPipeline

        self.setup = setup
        self.pipeline = setup.pipeline(OmniGenPipeline)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        return [self._made(request) for request in requests]

    def _made(self, request: "Request") -> Made:
        from personalization_runs.methods.setup import call, seeded

        subject = f"The {request.class_word} is the {request.class_word} in <img><|image_1|></img>."
        side = int(self.setup.parameters["reference_px"])
        inputs = {
            "input_images": [[self.setup.picture(request.photo, (side, side))]],
            "max_input_image_size": side,
            "img_guidance_scale": self.setup.parameters["image_guidance"],
        }
        asked = replace(request, text=f"{request.text.rstrip('. ')}. {subject}")
        with seeded(request, self.setup.device):  # the reference's latents are drawn from their distribution
            return call(self.pipeline, self.setup, [asked], **inputs)[0]


METHODS = (
    Method(
        "omnigen",
        "one transformer for text and pictures, with the reference photo in its prompt",
        Generator,
        paper="https://arxiv.org/abs/2409.11340",
        weights={"base": Weights("Shitao/OmniGen-v1-diffusers", 7.7, "MIT")},
        # The pipeline's own; its negative prompt is built in.
        parameters={"steps": 50, "guidance": 2.5, "image_guidance": 1.6, **SQUARE, "reference_px": 1024},
        uses_reference=True,
        max_batch=1,
        memory_gb=18,
        offloaded_gb=12,
        image_seconds=33,
        training_data="X2I: 0.1 billion images for many tasks, subject-driven generation among them; published in part",
    ),
)
