"""FLUX.2 (Black Forest Labs 2025): the reference photo's latents stand beside those of the new image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError
from personalization_runs.methods.base import SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """FLUX.2 dev or klein: whichever class the folder's `model_index.json` names."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import Flux2KleinPipeline, Flux2Pipeline

        if int(setup.parameters["reference_px"]) < 64:
            raise FinerRankError(f"--set reference_px={setup.parameters['reference_px']}: must be at least 64")
        self.setup = setup
        self.pipeline = setup.pipeline_named(Flux2Pipeline, Flux2KleinPipeline)

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        side = int(self.setup.parameters["reference_px"])
        # One by one: every prompt of a call is given every picture of it.
        return [
            made
            for request in requests
            for made in call(
                self.pipeline, self.setup, [request], image=[self.setup.picture(request.photo, (side, side))]
            )
        ]


METHODS = (
    Method(
        "flux2",
        "an editing model that sees the reference photo beside the image it makes",
        Generator,
        paper="https://github.com/black-forest-labs/flux2",
        weights={"base": Weights("black-forest-labs/FLUX.2-dev", 111, "FLUX [dev] Non-Commercial", is_gated=True)},
        parameters={"steps": 50, "guidance": 4.0, **SQUARE, "reference_px": 1024},
        uses_reference=True,
        max_batch=1,
        memory_gb=118,
        offloaded_gb=74,
        image_seconds=73,
        training_data="not published",
    ),
    Method(
        "flux2-klein",
        "the small FLUX.2, distilled to four steps",
        Generator,
        paper="https://github.com/black-forest-labs/flux2",
        weights={"base": Weights("black-forest-labs/FLUX.2-klein-4B", 16, "Apache-2.0")},
        parameters={"steps": 4, "guidance": 1.0, **SQUARE, "reference_px": 1024},
        uses_reference=True,
        max_batch=1,
        memory_gb=20,
        offloaded_gb=12,
        image_seconds=0.8,
        training_data="not published",
    ),
)
