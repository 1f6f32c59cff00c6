"""Steps of FLUX's attention, for methods that change what happens between them. Importing this imports torch."""

from collections.abc import Callable
from typing import Any

from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the places of all tokens, each `[tokens, head width]`."""

OF_IMAGE = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
"""The layers of text tokens, in the blocks where they have their own."""


def query_key_value(
    attention: Any,
    tokens: Tensor,
    names: tuple[str, ...] = OF_IMAGE,
    through: Callable[[Any, Tensor], Tensor] = lambda layer, x: layer(x),
) -> list[Tensor]:
    """Queries, keys and values of tokens, each `[batch, tokens, heads, head width]`, before they are rotated.

    Args:
        attention: a `FluxAttention`.
        tokens: `[batch, tokens, width]`.
        through: how tokens go through a layer of weights.
    """
    *projections, norm_query, norm_key = (getattr(attention, name) for name in names)
    query, key, value = (
        through(layer, tokens).view(*tokens.shape[:2], attention.heads, attention.head_dim) for layer in projections
    )
    return [norm_query(query), norm_key(key), value]


def rotated(tokens: Tensor, rotary: Rotary) -> Tensor:
    """Queries or keys, turned by their places."""
    turned: Tensor = apply_rotary_emb(tokens, rotary, sequence_dim=1)
    return turned


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What each query gathers from all values: `[batch, queries, width]`."""
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
