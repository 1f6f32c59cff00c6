"""IP-Adapter (Ye et al. 2023): cross-attention to a few tokens of the reference photo, beside that to the prompt."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from personalization_runs.methods.base import NEGATIVE_PROMPT, SDXL, SQUARE, Made, Method, Weights

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """SDXL, and the adapter and image encoder that the method's weights name first and second."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import StableDiffusionXLPipeline

        from personalization_runs.methods.setup import loading

        self.setup = setup
        self.pipeline = setup.pipeline_named(StableDiffusionXLPipeline)
        folder = setup.weights["adapter"].path
        adapter, encoder = (PurePosixPath(name) for name in setup.method.weights["adapter"].files[:2])
        with loading(f"--weights adapter={folder}", f"{adapter} cannot be put into the base model"):
            self._compare_layers(folder / adapter)
            if not list((folder / encoder.parent).glob("*.safetensors")):  # a pickle would do for the library
                raise ValueError(f"{encoder.parent} has no weights in safetensors")
            self.pipeline.load_ip_adapter(
                str(folder),
                subfolder=str(adapter.parent),
                weight_name=adapter.name,
                image_encoder_folder=str(encoder.parent),
                local_files_only=True,
            )
        with loading(
            f"--weights adapter={folder}", f"{encoder.parent}, {adapter} and the base model do not fit together"
        ):
            self._try_out()
        self.pipeline.set_ip_adapter_scale(setup.parameters["scale"])
        self.pipeline.prepare_ip_adapter_image_embeds = self._embeddings

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        pictures = [self.setup.picture(request.photo, self._input_size) for request in requests]
        return call(self.pipeline, self.setup, requests, ip_adapter_image=pictures)

    @property
    def _input_size(self) -> tuple[int, int]:
        """A square, of which the encoder's preprocessing cuts nothing off."""
        input_px = self.pipeline.image_encoder.config.image_size
        return input_px, input_px

    def _embeddings(
        self, pictures: "list[Image]", _: object, device: "torch.device | str", __: int, is_guided: bool
    ) -> "list[torch.Tensor]":
        """In place of the pipeline's own, which gives every image of a batch all of its references.

        Returns:
            For the one adapter: [images, 1, ...], those without a reference before those with theirs where guided.
        """
        import torch

        # As the pipeline decides it: plain adapters look at the pooled embedding, the others at hidden states.
        [projection] = self.pipeline.unet.encoder_hid_proj.image_projection_layers
        takes_patches = type(projection).__name__ != "ImageProjection"
        own, none = self.pipeline.encode_image(pictures, device, 1, takes_patches)
        return [(torch.cat([none, own]) if is_guided else own)[:, None]]

    def _compare_layers(self, adapter: Path) -> None:
        """Layers of the adapter that the base model lacks would be dropped without a word.

        Raises:
            ValueError: its keys and values are for others than the base model's layers of cross-attention.
        """
        from safetensors import safe_open

        unet = self.pipeline.unet
        names = [name.removesuffix(".processor") for name in unet.attn_processors if "attn1" not in name]
        wanted = {
            f"ip_adapter.{2 * n + 1}.to_{kind}_ip.weight": list(unet.get_submodule(name).to_k.weight.shape)
            for n, name in enumerate(names)
            for kind in "kv"
        }
        with safe_open(adapter, "pt") as file:
            there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        if {name: shape for name, shape in there.items() if name.endswith("_ip.weight")} != wanted:
            raise ValueError("it is no IP-Adapter, or one for a model with other layers")
        if not any(name.startswith("image_proj.") for name in there):
            raise ValueError("it has no image projection")

    def _try_out(self) -> None:
        """Shapes are otherwise compared when the first image is made.

        Raises:
            RuntimeError, ValueError: the encoder, the adapter and the base model do not belong together.
        """
        import torch
        from PIL import Image

        unet = self.pipeline.unet
        with torch.inference_mode():
            rows = self._embeddings([Image.new("RGB", self._input_size)], None, self.setup.device, 1, False)
            [tokens] = unet.encoder_hid_proj([row.to(unet.device) for row in rows])
        if tokens.shape[-1] != unet.config.cross_attention_dim:
            raise ValueError(f"tokens of {tokens.shape[-1]} values for a model of {unet.config.cross_attention_dim}")


def _method(name: str, summary: str, weights: Weights, memory_gb: float) -> Method:
    return Method(
        name,
        summary,
        Generator,
        paper="https://arxiv.org/abs/2308.06721",
        weights={"base": SDXL, "adapter": weights},
        # As arXiv 2512.19026's code has them.
        parameters={"steps": 50, "guidance": 5.0, "scale": 0.6, **SQUARE, "negative_prompt": NEGATIVE_PROMPT},
        uses_reference=True,
        memory_gb=memory_gb,
        offloaded_gb=9,
        image_seconds=4.5,
        training_data="about 10 million image-text pairs of LAION-2B and COYO-700M; its image encoder: LAION-2B",
    )


METHODS = (
    _method(
        "ip-adapter",
        "4 tokens of the reference, from one embedding of the whole photo",
        Weights(
            "h94/IP-Adapter",
            4.4,
            "Apache-2.0",
            files=(
                "sdxl_models/ip-adapter_sdxl.safetensors",
                "sdxl_models/image_encoder/config.json",
                "sdxl_models/image_encoder/model.safetensors",
            ),
        ),
        memory_gb=14,
    ),
    _method(
        "ip-adapter-plus",
        "16 tokens of the reference, from the embeddings of its patches",
        Weights(
            "h94/IP-Adapter",
            3.4,
            "Apache-2.0",
            files=(
                "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
                "models/image_encoder/config.json",
                "models/image_encoder/model.safetensors",
            ),
        ),
        memory_gb=12,
    ),
)
