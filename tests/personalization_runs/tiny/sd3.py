"""Stable Diffusion 3."""

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from tiny import parts


def transformer() -> SD3Transformer2DModel:
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * parts.WIDTH,
        pooled_projection_dim=2 * parts.WIDTH,
        out_channels=4,
        pos_embed_max_size=64,
    )
    parts.amplify(model, 3, "context_embedder", "text_embedder.linear_1", "text_embedder.linear_2", "proj_out")
    return model.eval()


def save_sd3(folder: Path) -> Path:
    """For StableDiffusion3Pipeline and its image-to-image sister."""
    torch.manual_seed(0)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=parts.flow_euler(),
        vae=parts.autoencoder(flow=True),
        text_encoder=parts.clip_text(projection=True),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.clip_text(projection=True),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5(2 * parts.WIDTH),
        tokenizer_3=parts.t5_tokenizer(),
    )
    return parts.save(pipeline, folder)
