"""FLUX.1."""

import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FluxControlNetModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import save_file
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tiny import parts

PACKED = 16
"""Latent channels of a token: four of the VAE's, of 2×2 latents."""
SIZES = {
    "in_channels": PACKED,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": parts.WIDTH,
    "pooled_projection_dim": parts.WIDTH,
    "axes_dims_rope": (4, 4, 8),
}
SUBJECT_DOUBLE = ("norm1.linear", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.2")
SUBJECT_SINGLE = ("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")


def transformer(*, guidance_embeds: bool = True, n_double: int = 2, n_single: int = 2) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        num_layers=n_double, num_single_layers=n_single, guidance_embeds=guidance_embeds, **SIZES
    )
    parts.amplify(model, 3, "context_embedder", "text_embedder.linear_1", "text_embedder.linear_2", "proj_out")
    parts.amplify(model, 2, "attn.norm_q", "attn.to_v", "attn.to_out.0")
    return model.eval()


def components(*, n_vae_blocks: int = 2, **sizes: Any) -> dict[str, Any]:
    return {
        "scheduler": parts.shifting_flow_euler(),
        "vae": parts.autoencoder(flow=True, n_blocks=n_vae_blocks),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder_2": parts.t5(),
        "tokenizer_2": parts.t5_tokenizer(),
        "transformer": transformer(**sizes),
    }


def save_flux(folder: Path, *, guidance_embeds: bool = True, n_double: int = 2, n_single: int = 2) -> Path:
    """For FluxPipeline, its image-to-image sister, and what is built on it; schnell has no `guidance_embeds`."""
    torch.manual_seed(0)
    sizes = {"guidance_embeds": guidance_embeds, "n_double": n_double, "n_single": n_single}
    return parts.save(FluxPipeline(**components(**sizes)), folder)


def save_schnell(folder: Path) -> Path:
    """FLUX.1-schnell, which knows no guidance."""
    return save_flux(folder, guidance_embeds=False)


def save_kontext(folder: Path) -> Path:
    """For FluxKontextPipeline, with a VAE as deep as the published one.

    By default that pipeline enlarges references to a megapixel, and 2×2 pixels a latent would be 262 144 tokens.
    """
    torch.manual_seed(0)
    pipeline = FluxKontextPipeline(**components(n_vae_blocks=4))
    parts.amplify(pipeline.transformer, 2, "attn.norm_q", "attn.to_v", "attn.to_out.0")
    return parts.save(pipeline, folder)


def save_redux(folder: Path) -> Path:
    """For FluxPriorReduxPipeline; pass it the base model's text encoders, as with the published repository.

    Without them its empty text has the width of the published model, and does not fit.
    """
    torch.manual_seed(2)
    width = 16
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=2,
    )
    prior = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
        image_embedder=ReduxImageEncoder(redux_dim=width, txt_in_features=parts.WIDTH),
    )
    parts.amplify(prior.image_encoder, 5, "patch_embedding")
    parts.amplify(prior.image_embedder, 3, "redux_up", "redux_down")
    return parts.save(prior, folder)


def save_diptych_controlnet(folder: Path) -> Path:
    """Alimama's inpainting ControlNet: no single blocks, and its input ends with the mask of the 2×2 latents."""
    torch.manual_seed(3)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its import of FluxPosEmbed is outdated
        model = FluxControlNetModel(num_layers=2, num_single_layers=0, guidance_embeds=True, **SIZES)
    model.controlnet_x_embedder = torch.nn.Linear(PACKED + 4, model.inner_dim)
    model.register_to_config(extra_condition_channels=4)
    for block in model.controlnet_blocks:  # zero in a fresh model
        torch.nn.init.normal_(block.weight, std=0.5)
    return parts.save(model.eval(), folder)


def save_subject_lora(folder: Path, *, n_double: int = 2, n_single: int = 2, rank: int = 4) -> Path:
    """OminiControl's `omini/subject_512.safetensors`, for `save_flux` with as many blocks."""
    torch.manual_seed(4)
    names = ["x_embedder"]
    names += [f"transformer_blocks.{block}.{name}" for block in range(n_double) for name in SUBJECT_DOUBLE]
    names += [f"single_transformer_blocks.{block}.{name}" for block in range(n_single) for name in SUBJECT_SINGLE]
    model = transformer(n_double=n_double, n_single=n_single)
    state = {}
    for name in names:
        n_out, n_in = model.get_submodule(name).weight.shape
        state[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, n_in) / n_in**0.5
        state[f"transformer.{name}.lora_B.weight"] = torch.randn(n_out, rank) * 0.3
    (folder / "omini").mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "omini" / "subject_512.safetensors")
    return folder
