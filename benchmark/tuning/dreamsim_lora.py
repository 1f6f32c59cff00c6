"""Low-rank updates of Vision Transformers' fused query, key and value (LoRA: Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.embedders import Embedder
from benchmark.embedders.base import Preprocessing
from benchmark.training.pictures import Pictures
from galleries.errors import FinerRankError
from galleries.images import in_threads

if TYPE_CHECKING:
    import torch

FAMILIES = ("timm", "open_clip")
PREFIX = "lora_"
"""Of the parameters that peft adds."""


class Adapted:
    """Encoders with an adapter each, whose features stand side by side.

    Args:
        embedders: of Vision Transformers.
        pictures: squashed to the size that they take.

    Raises:
        FinerRankError: an encoder that cannot be adapted.
    """

    def __init__(
        self,
        embedders: Sequence[Embedder],
        pictures: Pictures,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        seed: int,
        device: str,
    ) -> None:
        import torch

        self.pictures = pictures
        self.device = device
        torch.manual_seed(seed)  # of the adapters' first half; the second begins at zero, and with it the update
        self._branches = [_Branch(embedder, rank, alpha, dropout, device) for embedder in embedders]

    def parameters(self) -> "dict[str, torch.Tensor]":
        """What is trained, by name."""
        return {
            f"{i}.{name}": parameter
            for i, branch in enumerate(self._branches)
            for name, parameter in branch.module.named_parameters()
            if PREFIX in name
        }

    def train(self, is_training: bool) -> None:
        """Whether dropout is at work: that of the adapters, for the encoders stay as they are."""
        for branch in self._branches:
            for layer in branch.layers():
                layer.train(is_training)

    def features(self, places: Sequence[int]) -> "torch.Tensor":
        """`[B, D]` of pictures by their places."""
        import torch

        squashed = np.stack(list(in_threads(lambda i: np.asarray(self.pictures[i]), places)))
        pixels = torch.from_numpy(squashed).to(self.device).permute(0, 3, 1, 2).float() / 255
        return torch.cat([branch(pixels).float() for branch in self._branches], dim=1)

    def merge(self) -> None:
        """Add the updates to the weights and take the adapters out: the encoders as they came, with other weights."""
        for branch in self._branches:
            branch.merge()


class _Branch:
    def __init__(self, embedder: Embedder, rank: int, alpha: float, dropout: float, device: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        loaded = embedder.model
        if loaded.module is None or loaded.encode is None or embedder.request.family not in FAMILIES:
            raise unfit(embedder)
        self.module: Any = loaded.module
        self.encode = loaded.encode
        preprocessing = loaded.preprocess
        assert isinstance(preprocessing, Preprocessing)
        self.mean, self.std = preprocessing.mean, preprocessing.std
        self.unfused = _fuse_attention(self.module)
        tower = "visual." if embedder.request.family == "open_clip" else ""
        self.targets = [
            name
            for name, layer in self.module.named_modules()
            if name.startswith(tower) and name.endswith("attn.qkv") and hasattr(layer, "weight")
        ]
        if not self.targets:
            raise unfit(embedder)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=self.targets, bias="none")
        inject_adapter_in_model(config, self.module)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(PREFIX in name)
        self.module.eval().to(device)

    def layers(self) -> Iterator[Any]:
        return (self.module.get_submodule(name) for name in self.targets)

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        mean, std = (pixels.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        return self.encode((pixels - mean) / std)

    def merge(self) -> None:
        for name in self.targets:
            layer = self.module.get_submodule(name)
            layer.merge()
            self.module.set_submodule(name, layer.get_base_layer())
        for name, attention in self.unfused.items():
            self.module.set_submodule(name, attention)
        self.targets = []
        self.module.requires_grad_(False)


def unfit(embedder: Embedder) -> FinerRankError:
    return FinerRankError(
        f"{embedder.spec}: no Vision Transformer of timm or open_clip, whose attention --method lora adapts; "
        "name another --backbone, or take --method mlp"
    )


def _fuse_attention(module: Any) -> dict[str, Any]:
    """Give OpenCLIP's image tower attention with a layer `qkv` of the same weights; returns what was there, by name."""
    import torch

    found = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.MultiheadAttention)
        and name.startswith("visual.transformer.")
        and layer.in_proj_weight is not None
        and layer.batch_first
    }
    for name, attention in found.items():
        module.set_submodule(name, _fused(attention))
    return found


def _fused(attention: Any) -> Any:
    """torch's multi-head attention of a sequence to itself, its input projection a layer of its own.

    The weights are shared: what is merged into them is in both.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    class FusedAttention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = attention.embed_dim
            self.n_heads = attention.num_heads
            self.qkv = torch.nn.Linear(width, 3 * width, device="meta")
            self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
            self.proj = attention.out_proj

        def forward(
            self, query: "torch.Tensor", key: Any, value: Any, need_weights: bool, attn_mask: "torch.Tensor | None"
        ) -> "tuple[torch.Tensor, None]":
            n, length, width = query.shape
            heads = self.qkv(query).reshape(n, length, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
            mixed = scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask)
            return self.proj(mixed.transpose(1, 2).reshape(n, length, width)), None

    return FusedAttention()
