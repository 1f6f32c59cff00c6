"""OmniGen."""

from pathlib import Path

import torch
from diffusers import OmniGenPipeline, OmniGenTransformer2DModel

from tiny import parts

WIDTH, N_HEADS = 32, 4


def transformer() -> OmniGenTransformer2DModel:
    n_frequencies = WIDTH // N_HEADS // 2
    model = OmniGenTransformer2DModel(
        in_channels=4,
        patch_size=2,
        hidden_size=WIDTH,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS,
        intermediate_size=37,
        num_layers=2,
        pad_token_id=0,
        vocab_size=len(parts.llama_tokenizer()),
        pos_embed_max_size=64,
        time_step_dim=8,
        rope_scaling={"long_factor": [1.0] * n_frequencies, "short_factor": [1.0] * n_frequencies},
    )
    parts.rouse(model)
    parts.amplify(model, 2, "embed_tokens")
    return model.eval()


def save_omnigen(folder: Path) -> Path:
    """For OmniGenPipeline, which takes it for granted that a token covers 16×16 pixels."""
    torch.manual_seed(0)
    pipeline = OmniGenPipeline(
        transformer=transformer(),
        scheduler=parts.flow_euler(shift=1.0, invert_sigmas=True, num_train_timesteps=1),
        vae=parts.autoencoder(n_blocks=4, scaling_factor=0.13),
        tokenizer=parts.llama_tokenizer(),
    )
    return parts.save(pipeline, folder)
