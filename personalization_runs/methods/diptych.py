"""Diptych prompting (Shin et al. 2025): the subject stands on the left, and FLUX.1 fills in the panel on its right."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError
from personalization_runs.methods.base import FLUX_DEV, NEGATIVE_PROMPT, Made, Method, Weights

if TYPE_CHECKING:
    from PIL.Image import Image

    from galleries.gallery import Photo
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request

MARGIN = 8
"""Pixels on each side that a panel is larger than its image: there the panels run into one another."""


class Generator:
    """FLUX.1-dev with an inpainting ControlNet, on a canvas of two panels."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import FluxControlNetPipeline

        from personalization_runs.methods.diptych_networks import SIZES, PanelAttention, PanelControlNet
        from personalization_runs.methods.setup import loading

        self.setup = setup
        folder = setup.weights["controlnet"]
        with loading(f"--weights controlnet={folder.path}", "no inpainting ControlNet of FLUX.1 can be made of it"):
            controlnet = PanelControlNet.load(folder.path, setup.torch_dtype)
        self.pipeline = setup.pipeline(FluxControlNetPipeline, controlnet=controlnet)
        transformer = self.pipeline.transformer
        with loading(f"--weights controlnet={folder.path}", "does not fit the base model"):
            for name in SIZES:
                own, wanted = controlnet.config[name], transformer.config[name]
                if own != wanted:
                    raise ValueError(f"{name} {own}, not {wanted}")
        width, height = (side + 2 * MARGIN for side in setup.size)  # whole tokens of 16 pixels, as the image's are
        self.panel = width, height
        token_px = 2 * self.pipeline.vae_scale_factor
        enforcement = float(setup.parameters["enforcement"])
        transformer.set_attn_processor(PanelAttention(height // token_px, 2 * width // token_px, enforcement))

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        parameters, (width, height) = self.setup.parameters, self.panel
        made = call(
            self.pipeline,
            self.setup,
            requests,
            prompt=[diptych_prompt(request) for request in requests],
            width=2 * width,
            height=height,
            control_image=[self._canvas(request.photo) for request in requests],
            controlnet_conditioning_scale=parameters["control"],
            true_cfg_scale=parameters["true_cfg_scale"],
        )
        return [replace(each, image=each.image and self._image(each.image)) for each in made]

    def _canvas(self, photo: "Photo") -> "Image":
        """The subject on white on the left; black, which stands for the unknown, on the right."""
        from PIL import Image

        from personalization_runs.methods.setup import fitted

        width, height = self.panel
        canvas = Image.new("RGB", (2 * width, height))
        canvas.paste(fitted(cut_out(photo), self.panel, self.setup.fit))
        return canvas

    def _image(self, canvas: "Image") -> "Image":
        """The right panel without its margins."""
        width, height = self.panel
        return canvas.crop((width + MARGIN, MARGIN, 2 * width - MARGIN, height - MARGIN))


def diptych_prompt(request: "Request") -> str:
    """The prompt of both panels."""
    word = request.class_word
    return (
        f"A diptych: two photos side by side of one and the same {word}. On the left, the {word} on a white "
        f"background. On the right, exactly this {word} again, but as {request.text}"
    )


def cut_out(photo: "Photo") -> "Image":
    """A photo's subject on white, of the photo's size.

    Raises:
        FinerRankError: a mask that cannot be used.
    """
    import numpy as np
    from PIL import Image

    from galleries.images import BadImage
    from galleries.mask_files import read_mask
    from galleries.segmenters import THRESHOLD
    from personalization_runs.methods.setup import rgb

    image = rgb(photo)
    path = photo.mask_path
    try:
        mask = read_mask(path, image.size, THRESHOLD)
        if not mask.any():
            raise BadImage("no part of the picture is subject", "draw it anew")
    except BadImage as error:
        raise FinerRankError(f"mask {path}: {error.what}; {error.remedy}") from None
    white = Image.new("RGB", image.size, "white")
    return Image.composite(image, white, Image.fromarray(mask.astype(np.uint8) * np.uint8(255)))


METHODS = (
    Method(
        "diptych",
        "FLUX.1-dev fills in the right panel beside the reference's subject, cut out by its mask",
        Generator,
        paper="https://arxiv.org/abs/2411.15466",
        weights={
            "base": FLUX_DEV,
            "controlnet": Weights(
                "alimama-creative/FLUX.1-dev-Controlnet-Inpainting-Beta",
                4.3,
                "FLUX.1 [dev] Non-Commercial",
                files=("config.json", "*.safetensors"),
            ),
        },
        parameters={
            "steps": 30,
            "guidance": 3.5,
            "true_cfg_scale": 3.5,
            "control": 0.95,
            "enforcement": 1.3,
            "width": 768,
            "height": 768,
            "negative_prompt": NEGATIVE_PROMPT,
        },
        uses_reference=True,
        uses_masks=True,
        memory_gb=50,
        offloaded_gb=34,
        image_seconds=15,
        training_data="its inpainting ControlNet: 12 million images of LAION-2B and of its authors'",
    ),
)
