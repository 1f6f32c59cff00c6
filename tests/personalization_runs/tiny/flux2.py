"""FLUX.2, dev and klein."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tiny import parts

WIDTH = 16
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 37,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.25,
    "tie_word_embeddings": True,
}


def mistral() -> Mistral3ForConditionalGeneration:
    """As deep as the pipeline's default `text_encoder_out_layers` (10, 20, 30)."""
    tokenizer = parts.mistral_tokenizer()
    text = {**TEXT, "model_type": "mistral", "num_hidden_layers": 30, "vocab_size": len(tokenizer)}
    vision = {"model_type": "pixtral", "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1}
    config = Mistral3Config(
        text_config={**text, "sliding_window": None},
        vision_config={**vision, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    return Mistral3ForConditionalGeneration(config).eval()


def qwen3() -> Qwen3ForCausalLM:
    """As deep as the pipeline's default `text_encoder_out_layers` (9, 18, 27)."""
    config = Qwen3Config(**TEXT, num_hidden_layers=27, vocab_size=len(parts.qwen2_tokenizer()))
    return Qwen3ForCausalLM(config).eval()


def autoencoder() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=4,
        norm_num_groups=1,
        sample_size=32,
    )
    parts.calibrate(vae.eval())
    return vae


def transformer(*, guidance_embeds: bool) -> Flux2Transformer2DModel:
    model = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    parts.rouse(model, gain=2.5)
    return model.eval()


def save_flux2(folder: Path) -> Path:
    """For Flux2Pipeline; its references have sides of 64 pixels at least."""
    torch.manual_seed(0)
    processor = PixtralProcessor(
        PixtralImageProcessor(), parts.mistral_tokenizer(), patch_size=14, chat_template=parts.CHAT
    )
    pipeline = Flux2Pipeline(
        scheduler=parts.shifting_flow_euler(),
        vae=autoencoder(),
        text_encoder=mistral(),
        tokenizer=processor,
        transformer=transformer(guidance_embeds=True),
    )
    return parts.save(pipeline, folder)


def save_flux2_klein(folder: Path, *, is_distilled: bool = True) -> Path:
    """For Flux2KleinPipeline; the distilled model knows no guidance."""
    torch.manual_seed(0)
    pipeline = Flux2KleinPipeline(
        scheduler=parts.shifting_flow_euler(),
        vae=autoencoder(),
        text_encoder=qwen3(),
        tokenizer=parts.qwen2_tokenizer(),
        transformer=transformer(guidance_embeds=False),
        is_distilled=is_distilled,
    )
    return parts.save(pipeline, folder)
