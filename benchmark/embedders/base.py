"""What every family of embedders shares: preprocessing, weights files, and the model that a family returns."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from galleries.errors import FinerRankError
from galleries.images import MAX_PIXELS, BadImage, sha256_of

if TYPE_CHECKING:
    import torch
    from PIL import Image

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing:
    """From a PIL image to a network's input, in Pillow's antialiased resizing and float32 arithmetic.

    Attributes:
        size: `(height, width)` of the input in pixels.
        resize: `crop` scales the short side to `resize_to` and cuts out the centre; `squash` scales both sides,
            whatever the aspect ratio, to `resize_to` and cuts out the centre (all of it where the two sizes are
            equal); `pad` scales the long side to `size` and fills the rest.
        resize_to: `(height, width)`; for `crop` the two are equal.
        mean, std: of the channels, for values in [0, 1].
        fill: colour of the padding; the mean colour, which is zero after normalisation, where None.
    """

    size: tuple[int, int]
    resize: Resize
    resize_to: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill: tuple[int, int, int] | None = None

    def overridden(
        self, resize: Resize | None, size: int | None, interpolation: Interpolation | None
    ) -> "Preprocessing":
        """Another geometry under the same normalisation.

        A given mode or size replaces the model's whole geometry: the image is scaled to exactly that size,
        bicubic unless said otherwise.
        """
        if resize is None and size is None and interpolation is None:
            return self
        if resize is None and size is None and interpolation is not None:
            return replace(self, interpolation=interpolation)
        target = (size, size) if size else self.size
        return Preprocessing(target, resize or self.resize, target, interpolation or "bicubic", self.mean, self.std)

    def __call__(self, image: "Image.Image") -> npt.NDArray[np.float32]:
        """`[3, height, width]` float32 of an RGB image."""
        pixels = np.asarray(self._resized(image), dtype=np.float32) / np.float32(255)
        normalised = (pixels - np.array(self.mean, dtype=np.float32)) / np.array(self.std, dtype=np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def _resized(self, image: "Image.Image") -> "Image.Image":
        from PIL import Image

        method = Image.Resampling[self.interpolation.upper()]
        width, height = image.size
        target_height, target_width = self.resize_to
        if self.resize == "squash":
            return _centre_crop(image.resize((target_width, target_height), method), self.size)
        if self.resize == "crop":
            short = target_height
            scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
            if scaled[0] * scaled[1] > MAX_PIXELS:
                what = f"{width} × {height} pixels: too long for its width to be scaled to {short} pixels"
                raise BadImage(what, "crop it, or give --resize squash")
            return _centre_crop(image.resize(scaled, method), self.size)
        scale = min(self.size[0] / height, self.size[1] / width)
        scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        fill = self.fill or tuple(round(255 * m) for m in self.mean)
        canvas = Image.new("RGB", (self.size[1], self.size[0]), fill)
        canvas.paste(image.resize(scaled, method), ((self.size[1] - scaled[0]) // 2, (self.size[0] - scaled[1]) // 2))
        return canvas


def _centre_crop(image: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    height, width = size
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Request:
    """What the user asked of a family: `family:model[@weights]` and how images should reach it."""

    spec: str
    family: str
    model: str
    weights: Path | None
    resize: Resize | None = None
    size: int | None = None
    interpolation: Interpolation | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that a family built.

    Attributes:
        preprocess: one RGB image to one array; called from several threads.
        forward: `[B, …]` preprocessed images to `[B, D]` features, not necessarily of unit length.
        preprocessing: all that decides `preprocess`, for the fingerprint.
        architecture: what is built: the family's name of it, or the digest of the configuration that describes it.
        weights_digest: SHA-256 of the weights file, or the version of an algorithm without weights.
        files: that decided all this: weights, and the configuration where it is a file.
    """

    preprocess: Callable[["Image.Image"], npt.NDArray[Any]]
    forward: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
    preprocessing: Mapping[str, Any]
    architecture: str
    weights_digest: str
    files: tuple[Path, ...]


def network_model(
    module: "torch.nn.Module",
    encode: Callable[["torch.Tensor"], "torch.Tensor"],
    preprocessing: Preprocessing,
    architecture: str | Path,
    weights_file: Path,
    device: str,
    precision: str,
) -> LoadedModel:
    """A torch network as a `LoadedModel`, on its device and in its precision.

    Args:
        architecture: its name, or the configuration file that describes it.
    """
    import torch

    module.eval().requires_grad_(False).to(device)
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would pass for float32

    def forward(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with (
            torch.inference_mode(),
            torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"),
        ):
            features = encode(torch.from_numpy(batch).to(device))
        return features.float().cpu().numpy()

    return LoadedModel(
        preprocessing,
        forward,
        asdict(preprocessing),
        architecture=f"sha256:{sha256_of_file(architecture)}" if isinstance(architecture, Path) else architecture,
        weights_digest=sha256_of_file(weights_file),
        files=(weights_file, *((architecture,) if isinstance(architecture, Path) else ())),
    )


def sha256_of_file(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, "torch.Tensor"]:
    """Tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file. No code in the file is ever run.

    Raises:
        FinerRankError: no such file, damaged, or holding more than tensors.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FinerRankError(f"{path}: no such weights file; check the path after '@'")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():  # of pickles that are no weights, which are refused here
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise FinerRankError(f"{path}: not a safetensors file ({first_line(error)}); fetch it again") from None
    except pickle.UnpicklingError:
        raise FinerRankError(
            f"{path}: holds Python objects, which could run code, or is damaged; save its tensors as safetensors"
        ) from None
    except Exception as error:  # damaged pickles raise anything
        raise FinerRankError(f"{path}: not a readable weights file ({first_line(error)}); fetch it again") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise FinerRankError(f"{path}: no dictionary of tensors; save the model's state_dict as safetensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_strictly(
    module: "torch.nn.Module", state: Mapping[str, "torch.Tensor"], path: Path, architecture: str
) -> None:
    """Load weights that fit exactly.

    Raises:
        FinerRankError: missing, unexpected or misshapen tensors; names the first of them.
    """
    own = module.state_dict()  # carries the layers' versions, which a plain dictionary lacks
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has an unknown", unexpected), ("has a misshapen", misshapen)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise FinerRankError(f"{path}: {what} tensor {keys[0]}{more}; these are not weights of {architecture}")
    own.update(state)
    module.load_state_dict(own)


def hub_file(repository: str, names: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """A file of a hub repository, downloaded once: the first of `names` that exists.

    Args:
        instead: the spec that names the file when it was brought by hand, for the message.

    Raises:
        FinerRankError: out of reach and not cached; says where it would be, and how to bring it.
    """
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    reason = _why_hub_is_out_of_reach()
    for name in names if reason is None else ():
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError as error:
            reason = first_line(error)
            break
        except EntryNotFoundError:
            reason = "no such file there"
        except Exception as error:  # gated, gone, no such revision, full disk: the hub's client raises many kinds
            reason = first_line(error)
            break
    cache = Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    raise FinerRankError(
        f"{' or '.join(names)} of https://huggingface.co/{repository}: not cached under {cache}, and cannot be fetched "
        f"({reason}); download it where there is a network, and write {instead}"
    )


def _why_hub_is_out_of_reach() -> str | None:
    """Asked once and briefly: the hub's client itself would try again for half a minute, for each file."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.utils import get_session

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(ENDPOINT, timeout=10)
    except Exception as error:  # of the HTTP library, which the hub's client may change
        return first_line(error)
    return None


def url_file(url: str, cache: Path, instead: str) -> Path:
    """A weights file from its owners' server, downloaded once into `cache`. `instead` as for `hub_file`.

    Raises:
        FinerRankError: out of reach; says where it would be, and how to bring it.
    """
    import torch

    target = cache / url.rsplit("/", 1)[-1]
    if not target.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), progress=False)
        except Exception as error:  # urllib, ssl and disk errors
            raise FinerRankError(
                f"{url} is neither cached as {target} nor within reach ({first_line(error)}); "
                f"download it where there is a network, and put it there or write {instead}"
            ) from None
    return target


def unit_rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows scaled to length 1, `[N, D]` float32; computed in float64. Zero and non-finite rows stay so."""
    rows = features.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # inf / inf is NaN, which the caller refuses
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def digest_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description, whatever the order of its keys."""
    import json

    return sha256_of(json.dumps(description, sort_keys=True).encode())


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:150]
