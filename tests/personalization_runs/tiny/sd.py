"""Stable Diffusion 1.x, with or without a safety checker."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from tiny import parts


def unet() -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=parts.WIDTH,
        norm_num_groups=4,
    )
    parts.amplify(model, 4, "attn2.to_v", "attn2.to_out.0", "attn2.to_q")
    return model.eval()


def ddim() -> DDIMScheduler:
    steps = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **steps)


def checker(flags: Literal["everything", "nothing"] | None) -> StableDiffusionSafetyChecker | None:
    """A picture is flagged when its similarity to a concept exceeds the threshold; similarities lie in [-1, 1]."""
    if flags is None:
        return None
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8}
    text = parts.clip_text_config().to_dict()
    model = StableDiffusionSafetyChecker(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    torch.nn.init.constant_(model.concept_embeds_weights, {"everything": -2.0, "nothing": 2.0}[flags])
    return model.eval()


def save_sd(folder: Path, *, flags: Literal["everything", "nothing"] | None = None) -> Path:
    """For StableDiffusionPipeline; `flags` says what the safety checker objects to, None is to have no checker."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=parts.autoencoder(scaling_factor=0.18215),
        text_encoder=parts.clip_text(),
        tokenizer=parts.clip_tokenizer(),
        unet=unet(),
        scheduler=ddim(),
        safety_checker=checker(flags),
        feature_extractor=parts.clip_image_processor(),
        requires_safety_checker=flags is not None,
    )
    return parts.save(pipeline, folder)
