"""SDXL and its two IP-Adapters."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tiny import parts

CROSS = 2 * parts.WIDTH


def unet(cross: int = CROSS, pooled: int = parts.WIDTH) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=cross,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + pooled,
        norm_num_groups=4,
    )
    parts.amplify(model, 4, "attn2.to_v", "attn2.to_out.0")
    return model.eval()


def save_sdxl(folder: Path) -> Path:
    """For StableDiffusionXLPipeline and its image-to-image sister."""
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        vae=parts.autoencoder(scaling_factor=0.13),
        text_encoder=parts.clip_text(),
        text_encoder_2=parts.clip_text(projection=True),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.clip_tokenizer(),
        unet=unet(),
        scheduler=parts.euler(),
        add_watermarker=False,
    )
    return parts.save(pipeline, folder)


def save_vision(folder: Path, projection_dim: int) -> Path:
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        projection_dim=projection_dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    model = CLIPVisionModelWithProjection(config)
    parts.amplify(model, 10, "patch_embedding", "q_proj", "k_proj", "v_proj", "out_proj")
    return parts.save(model.eval(), folder)


def plain_projection(projection_dim: int) -> dict[str, torch.Tensor]:
    wide = 4 * CROSS
    return {
        "proj.weight": torch.randn(wide, projection_dim),
        "proj.bias": torch.zeros(wide),
        "norm.weight": torch.ones(CROSS),
        "norm.bias": torch.zeros(CROSS),
    }


def resampler(vision_width: int = 32, width: int = 64, n_tokens: int = 16) -> dict[str, torch.Tensor]:
    """Four layers with one head of 64, the width that heads have in every published file."""

    def linear(n_out: int, n_in: int) -> torch.Tensor:
        return torch.randn(n_out, n_in) / n_in**0.5

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}

    state = {"latents": torch.randn(1, n_tokens, width)}
    for name, n_out, n_in in (("proj_in", width, vision_width), ("proj_out", CROSS, width)):
        state |= {f"{name}.weight": linear(n_out, n_in), f"{name}.bias": torch.zeros(n_out)}
    state |= norm("norm_out", CROSS)
    for layer in range(4):
        attention, feed_forward = f"layers.{layer}.0", f"layers.{layer}.1"
        state |= (
            norm(f"{attention}.norm1", width) | norm(f"{attention}.norm2", width) | norm(f"{feed_forward}.0", width)
        )
        state[f"{attention}.to_q.weight"] = linear(64, width)
        state[f"{attention}.to_kv.weight"] = linear(128, width)
        state[f"{attention}.to_out.weight"] = linear(width, 64)
        state[f"{feed_forward}.1.weight"] = linear(4 * width, width)
        state[f"{feed_forward}.3.weight"] = linear(width, 4 * width)
    return state


def key_values() -> dict[str, torch.Tensor]:
    """A key and a value layer for the picture, beside each of the UNet's for the text."""
    layers = [module for name, module in unet().named_modules() if name.endswith("attn2")]
    state = {}
    for index, layer in enumerate(layers):
        for name in ("to_k_ip", "to_v_ip"):
            state[f"{2 * index + 1}.{name}.weight"] = torch.randn(layer.inner_dim, CROSS) / CROSS**0.5 * 8
    return state


def save_ip_adapters(folder: Path) -> Path:
    """The layout of h94/IP-Adapter, as far as SDXL's `ip-adapter_sdxl` and `ip-adapter-plus_sdxl_vit-h` need it."""
    torch.manual_seed(1)
    projection_dim = 48
    save_vision(folder / "sdxl_models" / "image_encoder", projection_dim)
    save_vision(folder / "models" / "image_encoder", parts.WIDTH)
    plain = {"image_proj": plain_projection(projection_dim), "ip_adapter": key_values()}
    plus = {"image_proj": resampler(), "ip_adapter": key_values()}
    for name, adapter in (("ip-adapter_sdxl", plain), ("ip-adapter-plus_sdxl_vit-h", plus)):
        state = {f"{part}.{key}": value for part, tensors in adapter.items() for key, value in tensors.items()}
        save_file(state, folder / "sdxl_models" / f"{name}.safetensors")
    return folder
