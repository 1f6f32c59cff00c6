"""Where a distance looks when it decides (DreamSim, Fig. 18): a map over each picture of a judgement.

Three ways, of which only the first speaks of the decision itself:

*occlusion*: how much the decision moves when a cell of the picture is hidden under the picture's mean colour (Zeiler &
Fergus, Visualizing and Understanding Convolutional Networks, 2014). Any distance. The decision of a triplet is by how
much b is farther from the reference than a; that of a pair is its distance.

*parts*: which parts of the feature map make two pictures similar, as `benchmark.explain` has it; of a triplet's
reference the difference between its two comparisons. Encoders that keep a feature map.

*class-token*: what the class token of a Vision Transformer of timm's attends to in the last block, mean over heads
(Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021). It knows nothing of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmark.distances import Distance
from benchmark.distances.base import Floats
from benchmark.distances.embeddings import EmbeddingDistance, cosine_distances
from benchmark.embedders import Embedder
from benchmark.embedders.base import Preprocessing
from benchmark.explain import Box, Parts, contributions, counterparts, parts_of, seen_box
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from PIL import Image

Way = Literal["occlusion", "parts", "class-token"]
WAYS: tuple[Way, ...] = get_args(Way)

LONGER_SIDE_PX = 256
"""Of the pictures that are looked at."""


@dataclass(frozen=True)
class AttentionMap:
    """Where in one picture.

    Attributes:
        weights: `[height, width]`, at least 0, from the top left. They add up to 1, or are all 0 where nothing matters.
        box: left, top, right and bottom of what they are spread over, in pixels of the picture.
    """

    weights: Floats
    box: Box

    def on_picture(self, size: tuple[int, int]) -> Floats:
        """`[height, width]` of a picture of `size` (width, height): each pixel's share; they add up to 1, or are 0."""
        left, top, right, bottom = self.box
        n_rows, n_columns = self.weights.shape
        rows = np.floor((np.arange(size[1]) + 0.5 - top) / (bottom - top) * n_rows).astype(int)
        columns = np.floor((np.arange(size[0]) + 0.5 - left) / (right - left) * n_columns).astype(int)
        inside = ((rows >= 0) & (rows < n_rows))[:, None] & ((columns >= 0) & (columns < n_columns))[None]
        spread = self.weights[np.clip(rows, 0, n_rows - 1)][:, np.clip(columns, 0, n_columns - 1)] * inside
        shares: Floats = spread / (spread.sum() or 1.0)
        return shares

    def share_on(self, mask: npt.NDArray[np.bool_]) -> float | None:
        """Share of the weight that lies on `[height, width]`'s true pixels, in [0, 1]; None where nothing matters."""
        shares = self.on_picture((mask.shape[1], mask.shape[0]))
        return float(shares[mask].sum()) if shares.any() else None


def look(
    distance: Distance, pictures: Sequence["Image.Image"], way: Way, *, grid: int = 8, batch_size: int = 32
) -> list[AttentionMap]:
    """The map of each picture of one judgement.

    Args:
        pictures: two, or three: the reference, a and b. RGB.
        grid: cells along each side, for occlusion.

    Raises:
        FinerRankError: the distance has no such maps.
    """
    if way == "occlusion":
        return _hidden(distance, pictures, grid, batch_size)
    if not isinstance(distance, EmbeddingDistance):
        raise FinerRankError(f"{distance.spec}: is no embedder; look at it by occlusion")
    if way == "class-token":
        return _class_token(distance.embedder, pictures)
    return _parts(parts_of(distance.embedder, pictures))


def decision(to_others: Sequence[float]) -> float:
    """Of a pair its distance; of a triplet by how much b is farther from the reference than a."""
    return to_others[-1] - (to_others[0] if len(to_others) > 1 else 0.0)


def _hidden(distance: Distance, pictures: Sequence["Image.Image"], grid: int, batch_size: int) -> list[AttentionMap]:
    cells = [(picture, *cell) for picture, own in enumerate(pictures) for cell in _cells(own.size, grid)]
    variants = list(pictures)
    pairs = [(0, other) for other in range(1, len(pictures))]
    for picture, left, top, right, bottom in cells:
        covered = pictures[picture].copy()
        mean = np.asarray(covered).reshape(-1, 3).mean(axis=0)
        covered.paste(tuple(np.rint(mean).astype(int).tolist()), (left, top, right, bottom))
        variants.append(covered)
        place = len(variants) - 1
        pairs += [(place if picture == 0 else 0, place if picture == o else o) for o in range(1, len(pictures))]
    found = _of_pairs(distance, variants, np.array(pairs), batch_size).reshape(-1, len(pictures) - 1)
    moved = np.abs([decision(row) - decision(found[0]) for row in found[1:].tolist()])
    maps = []
    for own, values in zip(pictures, moved.reshape(len(pictures), grid, grid), strict=True):
        maps.append(AttentionMap(values / (values.sum() or 1.0), (0, 0, *own.size)))
    return maps


def _cells(size: tuple[int, int], grid: int) -> list[tuple[int, int, int, int]]:
    xs, ys = (np.linspace(0, side, grid + 1).round().astype(int).tolist() for side in size)
    return [(xs[j], ys[i], xs[j + 1], ys[i + 1]) for i in range(grid) for j in range(grid)]


def _of_pairs(
    distance: Distance, pictures: Sequence["Image.Image"], pairs: npt.NDArray[np.intp], batch_size: int
) -> Floats:
    """Distances of pairs of places in `pictures`, each of which is embedded once."""
    if isinstance(distance, EmbeddingDistance):
        rows = distance.embedder.embed(pictures, batch_size)
        return cosine_distances(rows, rows, pairs[:, 0], pairs[:, 1])
    first, second = ([pictures[i] for i in pairs[:, side]] for side in (0, 1))
    return distance.between(first, second, batch_size)


def _parts(parts: Sequence[Parts]) -> list[AttentionMap]:
    reference, *others = parts
    compared = []
    for other in others:
        if reference.is_average and other.is_average:
            own = contributions(reference.features, other.features), contributions(other.features, reference.features)
        else:
            own = counterparts(reference.features, other.features)
        compared.append(own)
    of_reference = np.abs(compared[0][0] - compared[1][0]) if len(compared) > 1 else compared[0][0]
    weights = [np.maximum(each, 0) for each in (of_reference, *(theirs for _, theirs in compared))]
    return [AttentionMap(each / (each.sum() or 1.0), part.seen) for each, part in zip(weights, parts, strict=True)]


def _class_token(embedder: Embedder, pictures: Sequence["Image.Image"]) -> list[AttentionMap]:
    import torch

    vit = _vision_transformer(embedder)
    preprocess: Any = embedder.model.preprocess
    attention = vit.blocks[-1].attn
    entered: list[Any] = []
    handle = attention.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    try:
        embedder.model.forward(np.stack([preprocess(picture) for picture in pictures]))
    finally:
        handle.remove()
    with torch.inference_mode():
        (tokens,) = entered
        n, length, _ = tokens.shape
        queries, keys, _ = attention.qkv(tokens).reshape(n, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        shares = (queries[:, :, :1] * attention.scale @ keys.transpose(-2, -1)).float().softmax(dim=-1)
        of_patches = shares.mean(dim=1)[:, 0, vit.num_prefix_tokens :].double().cpu().numpy()
    height, width = vit.patch_embed.grid_size
    return [
        AttentionMap(row.reshape(height, width) / row.sum(), seen_box(preprocess, *picture.size))
        for row, picture in zip(of_patches, pictures, strict=True)
    ]


def _vision_transformer(embedder: Embedder) -> Any:
    """The one Vision Transformer of timm's that the embedder is.

    Raises:
        FinerRankError: it is another network, or several.
    """
    if embedder.members:
        raise FinerRankError(f"{embedder.spec}: several encoders, each looks elsewhere; name one of its members")
    module = embedder.model.module
    found: list[Any] = []
    if module is not None:
        from timm.models.vision_transformer import VisionTransformer

        found = [part for part in module.modules() if isinstance(part, VisionTransformer)]
    needed = ("qkv", "num_heads", "scale", "q_norm", "k_norm")
    fits = (
        len(found) == 1
        and found[0].has_class_token
        and isinstance(embedder.model.preprocess, Preprocessing)
        and all(hasattr(found[0].blocks[-1].attn, name) for name in needed)
    )
    if not fits:
        raise FinerRankError(
            f"{embedder.spec}: is not one Vision Transformer of timm's with a class token; look at it by occlusion"
        )
    return found[0]
