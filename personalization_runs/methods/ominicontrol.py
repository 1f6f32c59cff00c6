"""OminiControl (Tan et al. 2025): the reference as further tokens of FLUX.1-schnell, read through a LoRA."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from personalization_runs.methods.base import Made, Method, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request

LORA = "omini/subject_512.safetensors"


class Generator:
    """FLUX.1 that sees the reference beside the image, shifted to a place of its own."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import FluxPipeline

        from personalization_runs.methods import ominicontrol_transformer

        self.setup = setup
        self.pipeline = setup.pipeline_named(FluxPipeline)
        self._load_lora()
        transformer = self.pipeline.transformer
        transformer.forward = partial(ominicontrol_transformer.forward, transformer)

    def _load_lora(self) -> None:
        from personalization_runs.methods.ominicontrol_transformer import layers_with_own_weights
        from personalization_runs.methods.setup import loading

        folder, transformer = self.setup.weights["lora"], self.pipeline.transformer
        with loading(f"--weights lora={folder.path}", f"its {LORA} does not fit the base model"):
            from safetensors import safe_open

            self.pipeline.load_lora_weights(
                folder.path, weight_name=LORA, adapter_name="subject", local_files_only=True
            )
            # The loader passes over what it cannot place.
            with safe_open(folder.path / LORA, "pt") as file:
                n_tensors = len(file.keys())
            changed = {name for name, layer in transformer.named_modules() if hasattr(layer, "lora_A")}
            if not changed or 2 * len(changed) != n_tensors:
                raise ValueError(f"{n_tensors} tensors, of which {2 * len(changed)} have a layer")
            if others := sorted(changed - layers_with_own_weights(transformer)):
                raise ValueError(f"it changes {others[0]} for image and text, too")

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        subject, ids = self._tokens(requests)
        return call(
            self.pipeline,
            self.setup,
            requests,
            joint_attention_kwargs={"subject": subject, "subject_ids": ids},
        )

    def _tokens(self, requests: "Sequence[Request]") -> "tuple[Tensor, Tensor]":
        """Each request's reference as `[request, token, channel]`, and the places of its tokens, `[token, 3]`."""
        import torch
        from torch.nn.functional import pixel_unshuffle

        vae = self.pipeline.vae
        pictures = [self.setup.picture(request.photo) for request in requests]
        pixels = self.pipeline.image_processor.preprocess(pictures).to(self.setup.device, vae.dtype)
        # Seeds of other streams of numbers than those of the images' first noise.
        noise = [torch.Generator("cpu").manual_seed(request.seed + 1) for request in requests]
        latents = vae.encode(pixels).latent_dist.sample(noise)
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        tokens = pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
        rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
        shift = round(columns * float(self.setup.parameters["position_shift"]))
        ids = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(rows), torch.arange(columns) + shift)
        return tokens, ids.to(tokens)


METHODS = (
    Method(
        "ominicontrol",
        "FLUX.1-schnell with the reference as further tokens, read through a LoRA for subjects",
        Generator,
        paper="https://arxiv.org/abs/2411.15098",
        weights={
            "base": Weights("black-forest-labs/FLUX.1-schnell", 33.7, "Apache-2.0", is_gated=True),
            "lora": Weights("Yuanshi/OminiControl", 0.03, "Apache-2.0", files=(LORA,)),
        },
        parameters={
            "steps": 30,
            "guidance": 3.5,  # heard by FLUX.1-dev only
            "width": 512,
            "height": 512,
            # In widths of the image. +1 is right for the published file, -1 for what today's training code makes
            # (issues 89 and 104 of Yuanshi9815/OminiControl).
            "position_shift": 1.0,
        },
        uses_reference=True,
        memory_gb=36,
        offloaded_gb=28,
        image_seconds=2.8,
        training_data="Subjects200K: 200 000 pairs of images of one subject, made with FLUX.1",
    ),
)
