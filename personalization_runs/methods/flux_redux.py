"""FLUX.1 Redux (Black Forest Labs 2024): tokens of the reference photo, appended to those of the prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalization_runs.methods.base import FLUX_DEV, SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """FLUX.1, which encodes the prompts, and Redux, which encodes the photos."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import FluxPipeline, FluxPriorReduxPipeline

        from personalization_runs.methods.setup import loading

        self.setup = setup
        self.pipeline = setup.pipeline_named(FluxPipeline)
        # Without text encoders, which its repository lacks: its own call adds up the embeddings of a list of photos.
        self.prior = setup.pipeline_named(FluxPriorReduxPipeline, role="redux")
        with loading(f"--weights redux={setup.weights['redux'].path}", "its tokens do not fit the base model"):
            self._try_out()

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        import torch

        from personalization_runs.methods.setup import call

        texts = [request.text for request in requests]
        words, pooled, _ = self.pipeline.encode_prompt(texts, None)
        tokens = self._tokens([self.setup.picture(request.photo, self._input_size) for request in requests])
        # The pipeline's own scale would weigh the prompt as well.
        both = torch.cat([words, float(self.setup.parameters["image_weight"]) * tokens.to(words)], dim=1)
        return call(self.pipeline, self.setup, requests, prompt=None, prompt_embeds=both, pooled_prompt_embeds=pooled)

    @property
    def _input_size(self) -> tuple[int, int]:
        input_px = self.prior.image_encoder.config.image_size
        return input_px, input_px

    def _tokens(self, pictures: "list[Image]") -> "torch.Tensor":
        """Of each picture, [pictures, patches, width of a word]."""
        tokens: torch.Tensor = self.prior.image_embedder(
            self.prior.encode_image(pictures, self.setup.device, 1)
        ).image_embeds
        return tokens

    def _try_out(self) -> None:
        """Shapes are otherwise compared when the first image is made.

        Raises:
            RuntimeError, ValueError: the parts do not belong together.
        """
        import torch
        from PIL import Image

        width = self.pipeline.transformer.config.joint_attention_dim
        with torch.inference_mode():
            tokens = self._tokens([Image.new("RGB", self._input_size)])
        if tokens.shape[-1] != width:
            raise ValueError(f"tokens of {tokens.shape[-1]} values for a model of {width}")


METHODS = (
    Method(
        "flux-redux",
        "tokens of the reference photo beside those of the prompt, as many as weigh image_weight",
        Generator,
        paper="https://huggingface.co/black-forest-labs/FLUX.1-Redux-dev",
        weights={
            "base": FLUX_DEV,
            "redux": Weights("black-forest-labs/FLUX.1-Redux-dev", 1.0, "FLUX.1 [dev] Non-Commercial", is_gated=True),
        },
        parameters={"steps": 50, "guidance": 2.5, **SQUARE, "image_weight": 1.0},
        uses_reference=True,
        memory_gb=38,
        offloaded_gb=29,
        image_seconds=11.1,
        training_data="not published; its image encoder SigLIP: WebLI",
    ),
)
