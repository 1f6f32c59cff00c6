"""What diptych prompting changes in FLUX's networks. Importing this imports torch and diffusers."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlNetModel
from safetensors.torch import load_file
from torch import Tensor

from personalization_runs.methods.flux_attention import (
    OF_TEXT,
    Rotary,
    attended,
    query_key_value,
    rotated,
)

SIZES = ("in_channels", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "pooled_projection_dim")
"""What a ControlNet and its base model have in common."""


class PanelControlNet(FluxControlNetModel):  # type: ignore[misc]
    """Alimama's inpainting ControlNet: each token's latents are followed by its mask, here 1 in the left panel."""

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> "PanelControlNet":
        """The published repository. diffusers' own class forgets `extra_condition_channels`.

        Raises:
            RuntimeError: weights of another model.
        """
        config = cls.load_config(folder, local_files_only=True)
        with torch.device("meta"):
            network: PanelControlNet = cls.from_config(config)
            network.n_mask_channels = config.get("extra_condition_channels", 4)
            network.controlnet_x_embedder = torch.nn.Linear(
                network.config.in_channels + network.n_mask_channels, network.inner_dim
            )
        state = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
        network.load_state_dict(state, assign=True)
        network.to(dtype).eval()
        return network

    def forward(self, *, controlnet_cond: Tensor, img_ids: Tensor, **others: Any) -> Any:
        column = img_ids[:, 2]
        is_left = (2 * column < column.max() + 1).to(controlnet_cond.dtype)
        mask = is_left[None, :, None].expand(len(controlnet_cond), -1, self.n_mask_channels)
        return super().forward(controlnet_cond=torch.cat([controlnet_cond, mask], dim=-1), img_ids=img_ids, **others)


class PanelAttention:
    """FLUX's attention, in which the right panel's tokens heed those of the left panel more than they would.

    After the softmax, their weights are multiplied by a factor, and not brought back to a sum of one.

    Args:
        rows, columns: of the canvas, in tokens.
    """

    def __init__(self, rows: int, columns: int, factor: float) -> None:
        self.rows, self.columns = rows, columns
        self.factor = factor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """In place of `FluxAttnProcessor`. Text tokens come apart from the image's, or stand before them."""
        assert image_rotary_emb is not None
        heads = query_key_value(attn, hidden_states)
        if encoder_hidden_states is not None:
            of_text = query_key_value(attn, encoder_hidden_states, OF_TEXT)
            heads = [torch.cat(pair, dim=1) for pair in zip(of_text, heads, strict=True)]
        query, key, value = rotated(heads[0], image_rotary_emb), rotated(heads[1], image_rotary_emb), heads[2]
        gathered = attended(query, key, value)
        if self.factor != 1:
            # With all other values at zero, attention gathers just what comes from the left: exactly, and without
            # writing out a matrix of weights.
            of_left = torch.zeros_like(value)
            self._panels(of_left)[0].copy_(self._panels(value)[0])
            from_left = attended(self._panels(query)[1].flatten(1, 2), key, of_left)
            right = self._panels(gathered)[1]
            right += (self.factor - 1) * from_left.view(right.shape)
        if encoder_hidden_states is None:
            return gathered
        text, image = gathered.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[0](image), attn.to_add_out(text)

    def _panels(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the left and the right panel's tokens, `[batch, rows, columns, …]`; text stands before them."""
        image = tokens[:, -self.rows * self.columns :]
        left, right = image.view(len(tokens), self.rows, self.columns, *tokens.shape[2:]).tensor_split(2, dim=2)
        return left, right
