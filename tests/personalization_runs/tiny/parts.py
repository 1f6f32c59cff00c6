"""Parts that several pipelines share, with random weights. Importing this module imports torch and diffusers."""

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 32
"""Of both CLIP and T5, and of most of what listens to them."""
BYTES = sorted(ByteLevel.alphabet())
CHAT = (
    "{% for message in messages if message.role != 'system' %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text if part.type == 'text' else '[IMG]' }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Without the system's message: as single bytes it would leave too little room for the prompt."""
PRINTABLE = string.ascii_letters + string.digits + string.punctuation


@torch.no_grad()
def amplify(model: torch.nn.Module, gain: float, *endings: str) -> None:
    """Multiply the weights of the layers with these endings: a random network hardly heeds its conditions."""
    for ending in endings:
        layers = [layer for name, layer in model.named_modules() if name.endswith(ending)]
        assert layers, f"no layer ends with {ending}"
        for layer in layers:
            layer.weight.mul_(gain)


@torch.no_grad()
def rouse(transformer: torch.nn.Module, gain: float = 3) -> None:
    """Amplify a whole transformer that has no pooled text to listen to, only its attention."""
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.weight.mul_(2 if name == "proj_out" else gain)
        elif name.endswith(("norm_q", "norm_k", "norm_added_q", "norm_added_k")):
            layer.weight.mul_(2)


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*BYTES, *(piece + "</w>" for piece in BYTES), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def clip_text_config(**changes: Any) -> CLIPTextConfig:
    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "projection_dim": WIDTH}
    return CLIPTextConfig(**{**tokens, **sizes, "num_hidden_layers": 2, "num_attention_heads": 4, **changes})


def clip_text(*, projection: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(clip_text_config())
    # Letters outweigh the places they stand in, and the end of a text gathers all of it.
    amplify(model, 20, "token_embedding")
    amplify(model, 5, "q_proj", "k_proj", "v_proj", "out_proj")
    return model.eval()


def qwen2_tokenizer() -> Qwen2Tokenizer:
    """Of Qwen-Image-Edit and of FLUX.2 klein."""
    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    pieces = [*BYTES, "<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision]
    return Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        chat_template=CHAT,
        extra_special_tokens=["<|im_start|>", "<|im_end|>", *vision],
        model_max_length=4096,
    )


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Of FLUX.2: bytes and the places of pictures, padded on the left."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|im_start|>", "<|im_end|>"]
    vocab = {piece: index for index, piece in enumerate([*special, *BYTES])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special[4:],
        padding_side="left",
        model_max_length=4096,
    )


def llama_tokenizer() -> LlamaTokenizer:
    """Of OmniGen, which looks for a first token 1 and pads with 2; also of the stand-in for Emu2."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *PRINTABLE]
    return LlamaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], add_bos_token=True, pad_token="</s>"
    )


def clip_image_processor(input_px: int = 32) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": input_px}, crop_size={"height": input_px, "width": input_px})


def t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *PRINTABLE]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=4, model_max_length=512)


def t5(width: int = WIDTH) -> T5EncoderModel:
    heads = {"num_heads": 4, "d_kv": width // 4}
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_ff=37,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
        **heads,
    )
    return T5EncoderModel(config).eval()


@torch.no_grad()
def calibrate(vae: Any, *, depth: tuple[int, ...] = (), std: float = 1.0) -> None:
    """Give latents that standard deviation and hardly any noise of their own, and decoded latents a fair contrast.

    As initialised, an encoder sends all pictures to nearly one latent, and a decoder every latent to nearly one grey.
    """
    coarse = torch.rand(8, 3, 4, 4) * 2 - 1
    pictures = torch.nn.functional.interpolate(coarse, 32).reshape(8, 3, *depth, 32, 32)
    means = vae.encode(pictures).latent_dist.mean
    last, n_means = getattr(vae, "quant_conv", None) or vae.encoder.conv_out, means.shape[1]
    centre_and_scale(last.weight[:n_means], last.bias[:n_means], means, std)
    last.weight[n_means:] = 0
    last.bias[n_means:] = -12  # logarithm of the variance
    last = vae.decoder.conv_out
    centre_and_scale(last.weight, last.bias, vae.decode(std * torch.randn_like(means)).sample, 0.4)


def centre_and_scale(weight: torch.Tensor, bias: torch.Tensor, outputs: torch.Tensor, std: float) -> None:
    channels = outputs.transpose(0, 1).flatten(1)
    gain = std / (channels - channels.mean(1, keepdim=True)).std()
    weight.mul_(gain)
    bias.sub_(channels.mean(1)).mul_(gain)


def autoencoder(*, flow: bool = False, n_blocks: int = 2, **changes: Any) -> AutoencoderKL:
    """With two blocks a latent covers 2×2 pixels; `flow` for the kind that SD3 and FLUX have."""
    kind = {"shift_factor": 0.06, "scaling_factor": 1.5, "use_quant_conv": False, "use_post_quant_conv": False}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n_blocks,
        up_block_types=("UpDecoderBlock2D",) * n_blocks,
        block_out_channels=(4,) * n_blocks,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=32,
        **{**(kind if flow else {}), **changes},
    )
    calibrate(vae.eval(), std=1 / vae.config.scaling_factor)
    return vae


def euler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def flow_euler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})


def shifting_flow_euler() -> FlowMatchEulerDiscreteScheduler:
    """As FLUX has it: the noise levels depend on the size of the picture."""
    seq_len = {"base_image_seq_len": 256, "max_image_seq_len": 4096}
    return flow_euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, **seq_len)


def save(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder
