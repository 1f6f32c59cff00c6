"""FLUX.1 Kontext (Black Forest Labs 2025): the reference photo's latents stand beside those of the new image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalization_runs.methods.base import SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """References are brought to squares of one size: a list of them is one per prompt."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import FluxKontextPipeline

        self.setup = setup
        # FLUX.1 has the same parts, would be loaded, and does not know what a reference is.
        self.pipeline = setup.pipeline_named(FluxKontextPipeline)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        width, height = self.setup.size
        side = int(self.setup.parameters["reference_px"])
        pictures = [self.setup.picture(request.photo, (side, side)) for request in requests]
        # By default the pipeline brings both the image and the reference to a megapixel, whatever is asked for.
        return call(self.pipeline, self.setup, requests, image=pictures, max_area=width * height, _auto_resize=False)


METHODS = (
    Method(
        "flux-kontext",
        "an editing model that sees the reference photo beside the image it makes",
        Generator,
        paper="https://arxiv.org/abs/2506.15742",
        weights={
            "base": Weights("black-forest-labs/FLUX.1-Kontext-dev", 33.7, "FLUX.1 [dev] Non-Commercial", is_gated=True)
        },
        # As arXiv 2512.19026's code has them; the pipeline's own are 28 and 3.5.
        parameters={"steps": 30, "guidance": 5.0, **SQUARE, "reference_px": 1024},
        uses_reference=True,
        memory_gb=40,
        offloaded_gb=30,
        image_seconds=12.4,
        training_data="not published",
    ),
)
