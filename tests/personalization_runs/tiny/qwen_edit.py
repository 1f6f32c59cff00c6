"""Qwen-Image-Edit, and Plus for several references."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from pytest import MonkeyPatch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tiny import parts

WIDTH = 16


def language_model() -> Qwen2_5_VLForConditionalGeneration:
    tokenizer = parts.qwen2_tokenizer()
    ids = tokenizer.get_vocab()
    vision = {"depth": 2, "hidden_size": WIDTH, "intermediate_size": 37, "num_heads": 2, "out_hidden_size": WIDTH}
    text = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.6}
    text |= {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1], "initializer_range": 0.6},
        text_config={**text, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def autoencoder() -> AutoencoderKLQwenImage:
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    parts.calibrate(vae.eval(), depth=(1,))
    return vae


def transformer() -> QwenImageTransformer2DModel:
    model = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    parts.rouse(model)
    return model.eval()


def components() -> dict[str, Any]:
    tokenizer = parts.qwen2_tokenizer()
    return {
        "scheduler": parts.shifting_flow_euler(),
        "vae": autoencoder(),
        "text_encoder": language_model(),
        "tokenizer": tokenizer,
        "processor": Qwen2VLProcessor(
            Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112}),
            tokenizer,
            Qwen2VLVideoProcessor(),
            chat_template=parts.CHAT,
        ),
        "transformer": transformer(),
    }


def save_qwen_edit(folder: Path) -> Path:
    """For QwenImageEditPipeline."""
    torch.manual_seed(0)
    return parts.save(QwenImageEditPipeline(**components()), folder)


def save_qwen_edit_plus(folder: Path) -> Path:
    """For QwenImageEditPlusPipeline."""
    torch.manual_seed(0)
    return parts.save(QwenImageEditPlusPipeline(**components()), folder)


def shrink_references(monkeypatch: MonkeyPatch, side_px: int = 32) -> None:
    """Both pipelines enlarge references to a megapixel, which takes seconds even here."""
    dimensions = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda _, ratio: dimensions(side_px**2, ratio))
    for name in ("VAE_IMAGE_SIZE", "CONDITION_IMAGE_SIZE"):
        monkeypatch.setattr(pipeline_qwenimage_edit_plus, name, side_px**2)
