"""Emu2-Gen (Sun et al. 2024): a language model reads photo and prompt, and predicts what a UNet then decodes."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from personalization_runs.methods.base import SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request

ENCODER = "multimodal_encoder"
REFERENCE_PX = 448
"""To which the encoder brings a picture."""


class Generator:
    """The repository's own pipeline, `pipeline_emu2_gen.py`: code of strangers, which runs only where that is allowed.

    It makes one image at a call, and draws its noise from torch's own random numbers.
    """

    pipeline = None  # there is one, but its code asks where its networks lie: none can wait elsewhere

    def __init__(self, setup: "Setup") -> None:
        from diffusers import DiffusionPipeline

        self.setup = setup
        self._pipeline = setup.pipeline(
            DiffusionPipeline,
            custom_pipeline="pipeline_emu2_gen",
            trust_remote_code=setup.allow_remote_code,
            **self._components(),
        )

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        return [self._made(request) for request in requests]

    def _made(self, request: "Request") -> Made:
        from personalization_runs.methods.setup import quiet_diffusers, seeded

        parameters = self.setup.parameters
        width, height = self.setup.size
        with seeded(request, self.setup.device), quiet_diffusers():
            output = self._pipeline(
                [self.setup.picture(request.photo, (REFERENCE_PX, REFERENCE_PX)), request.text],
                height=height,
                width=width,
                num_inference_steps=parameters["steps"],
                guidance_scale=parameters["guidance"],
            )
        return Made(None, "flagged by the safety checker") if output.nsfw_content_detected else Made(output.image)

    def _components(self) -> dict[str, Any]:
        """Parts that diffusers does not load by itself: of another library than it knows, or left out on purpose."""
        from transformers import AutoModelForCausalLM

        from personalization_runs.methods.setup import loading, variant_of

        folder = self.setup.weights["base"].path
        with loading(f"--weights base={folder}", "no Emu2-Gen can be made of it"):
            index = json.loads((folder / "model_index.json").read_bytes())
            parts: dict[str, Any] = {name: None for name, part in index.items() if part == [None, None]}
            module = f"{index[ENCODER][0]}.py"
            if not (folder / ENCODER / module).is_file():
                parts[ENCODER] = AutoModelForCausalLM.from_pretrained(
                    folder / ENCODER,
                    dtype=self.setup.torch_dtype,
                    trust_remote_code=self.setup.allow_remote_code,
                    local_files_only=True,
                    use_safetensors=True,
                    **variant_of(folder),
                )
        return parts


METHODS = (
    Method(
        "emu2",
        "a language model of 37 billion parameters reads photo and prompt, a UNet decodes what it predicts",
        Generator,
        paper="https://arxiv.org/abs/2312.13286",
        weights={"base": Weights("BAAI/Emu2-Gen", 79, "non-commercial", files=(*Weights.files, "*.py", "*/*.py"))},
        parameters={"steps": 50, "guidance": 3.0, **SQUARE},
        uses_reference=True,
        max_batch=1,
        memory_gb=88,
        image_seconds=8,
        training_data="pairs of web images and texts, videos and interleaved pages, LAION and YT-Storyboard among them",
        needs_remote_code=True,
    ),
)
