"""FLUX's transformer with a third stream beside text and image: the tokens of a subject. Importing this imports torch.

Of arXiv 2411.15098 and its code (Yuanshi9815/OminiControl 331dd34): the subject's tokens are never noisy, so that they
are modulated as at timestep 0, and the LoRA acts on them alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from personalization_runs.methods.flux_attention import (
    OF_IMAGE,
    OF_TEXT,
    Rotary,
    attended,
    query_key_value,
    rotated,
)

IN_DOUBLE = ("norm1.linear", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.2")
IN_SINGLE = ("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")


def layers_with_own_weights(transformer: Any) -> set[str]:
    """Names of the layers that a LoRA may change for the subject's tokens."""
    return {
        "x_embedder",
        *(f"transformer_blocks.{i}.{name}" for i in range(len(transformer.transformer_blocks)) for name in IN_DOUBLE),
        *(
            f"single_transformer_blocks.{i}.{name}"
            for i in range(len(transformer.single_transformer_blocks))
            for name in IN_SINGLE
        ),
    }


@dataclass
class Stream:
    """Tokens of one kind on their way through the blocks.

    Attributes:
        tokens: `[batch, tokens, width]`.
        modulation: embedding of timestep, guidance and pooled text, `[batch, width]`.
        is_subject: the LoRA acts on them.
    """

    tokens: Tensor
    modulation: Tensor
    is_subject: bool = False

    def through(self, layer: Any, tokens: Tensor) -> Tensor:
        """Tokens of this stream, after a layer of weights."""
        result: Tensor = (layer if self.is_subject else getattr(layer, "base_layer", layer))(tokens)
        return result

    def normed(self, norm: Any, n_parts: int) -> tuple[Tensor, list[Tensor]]:
        """The tokens, normalised, scaled and shifted; and the other parts of what the norm makes of the modulation."""
        parts = self.through(norm.linear, norm.silu(self.modulation))[:, None].chunk(n_parts, dim=-1)
        shift, scale, *others = parts
        return norm.norm(self.tokens) * (1 + scale) + shift, others

    def add(self, update: Tensor) -> None:
        self.tokens = self.tokens + update
        if self.tokens.dtype == torch.float16:  # FLUX outgrows it
            self.tokens = self.tokens.clip(-65504, 65504)


def forward(
    transformer: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    pooled_projections: Tensor,
    timestep: Tensor,
    img_ids: Tensor,
    txt_ids: Tensor,
    joint_attention_kwargs: dict[str, Tensor],
    guidance: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor]:
    """In place of `FluxTransformer2DModel.forward`, as `FluxPipeline` calls it.

    Args:
        joint_attention_kwargs: `subject`, its latents packed to `[batch, tokens, channels]`, and `subject_ids`, their
            places, `[tokens, 3]`.
    """

    def modulation(timestep: Tensor, guidance: Tensor | None) -> Tensor:
        numbers = [timestep] if guidance is None else [timestep, guidance]
        embedding: Tensor = transformer.time_text_embed(
            *(1000 * number.to(hidden_states.dtype) for number in numbers), pooled_projections
        )
        return embedding

    now = modulation(timestep, guidance)
    clean = modulation(torch.zeros_like(timestep), None if guidance is None else torch.ones_like(guidance))
    text = Stream(transformer.context_embedder(encoder_hidden_states), now)
    image = Stream(hidden_states, now)
    subject = Stream(joint_attention_kwargs["subject"], clean, is_subject=True)
    for stream in (image, subject):
        stream.tokens = stream.through(transformer.x_embedder, stream.tokens)
    rotary = transformer.pos_embed(torch.cat([txt_ids, img_ids, joint_attention_kwargs["subject_ids"]]))
    for block in transformer.transformer_blocks:
        _double_block(block, (text, image, subject), rotary)
    for block in transformer.single_transformer_blocks:
        _single_block(block, (text, image, subject), rotary)
    return (transformer.proj_out(transformer.norm_out(image.tokens, image.modulation)),)


def _double_block(block: Any, streams: Sequence[Stream], rotary: Rotary) -> None:
    """Text has layers of its own."""
    attention = block.attn
    of_text = (block.norm1_context, OF_TEXT, attention.to_add_out, block.norm2_context, block.ff_context)
    of_image = (block.norm1, OF_IMAGE, attention.to_out[0], block.norm2, block.ff)
    layers = (of_text, of_image, of_image)
    normed = [stream.normed(norm, 6) for stream, (norm, *_) in zip(streams, layers, strict=True)]
    heads = [
        query_key_value(attention, tokens, names, stream.through)
        for stream, (_, names, *_), (tokens, _) in zip(streams, layers, normed, strict=True)
    ]
    gathered = _gathered(heads, rotary)
    for stream, own, (*_, out, norm, feed_forward), (_, (gate, shift, scale, feed_forward_gate)) in zip(
        streams, gathered, layers, normed, strict=True
    ):
        stream.tokens = stream.tokens + gate * stream.through(out, own)
        inner = feed_forward.net[0](norm(stream.tokens) * (1 + scale) + shift)
        stream.add(feed_forward_gate * stream.through(feed_forward.net[2], inner))


def _single_block(block: Any, streams: Sequence[Stream], rotary: Rotary) -> None:
    """All have the same layers, and attention and feed-forward network work side by side."""
    normed = [stream.normed(block.norm, 3) for stream in streams]
    heads = [
        query_key_value(block.attn, tokens, OF_IMAGE, stream.through)
        for stream, (tokens, _) in zip(streams, normed, strict=True)
    ]
    for stream, own, (tokens, (gate,)) in zip(streams, _gathered(heads, rotary), normed, strict=True):
        inner = block.act_mlp(stream.through(block.proj_mlp, tokens))
        stream.add(gate * stream.through(block.proj_out, torch.cat([own, inner], dim=-1)))


def _gathered(heads: Sequence[Sequence[Tensor]], rotary: Rotary) -> tuple[Tensor, ...]:
    """What each stream's queries gather from the values of all streams."""
    query, key, value = (torch.cat(own, dim=1) for own in zip(*heads, strict=True))
    together = attended(rotated(query, rotary), rotated(key, rotary), value)
    *ends, _ = accumulate(own.shape[1] for own, *_ in heads)
    return together.tensor_split(ends, dim=1)
