"""What callers hand to an embedder, and what may come out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from galleries.errors import FinerRankError
from galleries.images import as_rgb, decode_image, read_image_bytes

if TYPE_CHECKING:
    import torch
    from PIL import Image

T = TypeVar("T")
Images: TypeAlias = "Sequence[Image.Image | Path | str] | npt.NDArray[Any] | torch.Tensor"
Picture = Callable[[], "Image.Image"]


def as_pictures(images: Images) -> list[tuple[str, Picture]]:
    """Each image with a name for messages, opened when it is called for, in RGB.

    Raises:
        FinerRankError: something else than images.
    """
    if isinstance(images, str | Path) or hasattr(images, "convert"):
        raise FinerRankError("images: a single one; put it into a list")
    if hasattr(images, "detach"):  # bfloat16 is unknown to numpy
        tensor = images.detach().cpu()
        return _of_array(np.asarray(tensor.float() if tensor.is_floating_point() else tensor))
    if isinstance(images, np.ndarray):
        return _of_array(images)
    if not isinstance(images, Iterable):
        raise FinerRankError(f"images: {type(images).__name__}; hand over a list of images, or one array [N, 3, H, W]")
    return [_of_one(i, image) for i, image in enumerate(images)]


def _of_one(i: int, image: Any) -> tuple[str, Picture]:
    if isinstance(image, str | Path):
        path = Path(image)
        return str(path), lambda: decode_image(read_image_bytes(path))
    if not hasattr(image, "convert"):
        what = f"image {i}: {type(image).__name__} is neither a PIL image nor a path"
        raise FinerRankError(f"{what}; put arrays into one array [N, 3, H, W]")
    return f"image {i}", lambda: as_rgb(image)


def _of_array(values: npt.NDArray[Any]) -> list[tuple[str, Picture]]:
    from PIL import Image

    if values.ndim != 4 or values.shape[1] != 3:
        raise FinerRankError(f"images: an array {list(values.shape)}; hand over [N, 3, height, width]")
    if values.dtype.kind == "f":
        if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN too
            raise FinerRankError("images: floats outside [0, 1]; undo the normalisation first")
        values = np.round(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise FinerRankError(f"images: values of {values.dtype}; hand over uint8, or floats in [0, 1]")

    def picture(i: int) -> Picture:
        return lambda: Image.fromarray(np.ascontiguousarray(values[i].transpose(1, 2, 0)))

    return [(f"image {i}", picture(i)) for i in range(len(values))]


def batched(items: Sequence[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def joined(parts: Sequence[tuple[npt.NDArray[np.float32], float]]) -> npt.NDArray[np.float32]:
    """Unit rows of several embedders side by side, `[N, ΣD]`: their cosines are the weighted means of the parts'."""
    return np.concatenate([rows * np.float32(weight**0.5) for rows, weight in parts], axis=1)


def what_is_wrong(row: npt.NDArray[np.float32]) -> str | None:
    """Why a row `[D]` cannot be an embedding; None if it can."""
    if not np.isfinite(row).all():
        return "embedding is not finite"
    if not row.any():
        return "embedding is zero"
    return "embedding is constant" if len(row) > 1 and np.ptp(row) == 0 else None
