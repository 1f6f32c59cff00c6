"""What every family of embedders shares: preprocessing, and the model that a family returns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmark.embedders.weights import sha256_of_file
from galleries.downloads import default_downloads, first_line, hub_file, url_file
from galleries.errors import FinerRankError
from galleries.images import MAX_PIXELS, BadImage, sha256_of

if TYPE_CHECKING:
    import torch
    from PIL import Image

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "bilinear-opencv"]
"""Of Pillow, which antialiases; `bilinear-opencv` is OpenCV's, which does not (squash only)."""
HalfPixel = Literal["even", "down"]


@dataclass(frozen=True)
class Preprocessing:
    """From a PIL image to a network's input, in float32 arithmetic.

    Attributes:
        size: `(height, width)` of the input in pixels.
        resize: `crop` scales the short side to `resize_to` and cuts out the centre; `squash` scales both sides,
            whatever the aspect ratio, to `resize_to` and cuts out the centre (all of it where the two sizes are
            equal); `pad` scales the long side to `size` and fills the rest.
        resize_to: `(height, width)`; for `crop` the two are equal.
        mean, std: of the channels, for values in [0, 1].
        fill: colour of the padding; the mean colour, which is zero after normalisation, where None.
        half_pixel: where the cut begins when the centre falls between two pixels: at the `even` one, as torchvision's
            and with it open_clip's and timm's does, or at the one before (`down`), as transformers' does.
    """

    size: tuple[int, int]
    resize: Resize
    resize_to: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill: tuple[int, int, int] | None = None
    half_pixel: HalfPixel = "even"

    def __post_init__(self) -> None:
        if self.half_pixel not in get_args(HalfPixel):
            raise ValueError(f"half_pixel {self.half_pixel!r} is neither even nor down")
        if self.interpolation == "bilinear-opencv" and (self.resize, self.resize_to) != ("squash", self.size):
            raise FinerRankError("bilinear-opencv: is for pictures that are squashed; give --resize squash with it")

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
        """`[3, height, width]` float32 of an RGB image.

        Raises:
            BadImage: it has no pixels, or is too long to be scaled by its short side.
        """
        if 0 in image.size:
            raise BadImage(f"{image.width} × {image.height} pixels: nothing to see", "fetch or make it again")
        with_opencv = self.interpolation == "bilinear-opencv"
        resized: Any = opencv_bilinear(image, self.size) if with_opencv else self._resized(image)
        # In place and a channel at a time: arithmetic on rows of three numbers takes longer than decoding.
        pixels = np.asarray(resized).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= np.array(self.mean, dtype=np.float32)[:, None, None]
        pixels /= np.array(self.std, dtype=np.float32)[:, None, None]
        return pixels

    def _resized(self, image: "Image.Image") -> "Image.Image":
        from PIL import Image

        method = Image.Resampling[self.interpolation.upper()]
        width, height = image.size
        target_height, target_width = self.resize_to
        if self.resize == "squash":
            return self._centre(image.resize((target_width, target_height), method))
        if self.resize == "crop":
            short = target_height
            scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
            if scaled[0] * scaled[1] > MAX_PIXELS:
                what = f"{width} × {height} pixels: too long for its width to be scaled to {short} pixels"
                raise BadImage(what, "crop it, or give --resize squash")
            return self._centre(image.resize(scaled, method))
        scale = min(self.size[0] / height, self.size[1] / width)
        scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        fill = self.fill or tuple(round(255 * m) for m in self.mean)
        canvas = Image.new("RGB", (self.size[1], self.size[0]), fill)
        canvas.paste(image.resize(scaled, method), ((self.size[1] - scaled[0]) // 2, (self.size[0] - scaled[1]) // 2))
        return canvas

    def _centre(self, image: "Image.Image") -> "Image.Image":
        height, width = self.size
        if image.size == (width, height):
            return image
        rounded: Callable[[float], int] = math.floor if self.half_pixel == "down" else round
        left, top = rounded((image.width - width) / 2), rounded((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def opencv_bilinear(image: "Image.Image", size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`[height, width, 3]` as OpenCV scales 8-bit pictures with `INTER_LINEAR`: two taps, no antialiasing.

    Raises:
        FinerRankError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise FinerRankError(
            "this encoder's pictures are scaled by OpenCV; run: pip install 'finer-rank[opencv]'"
        ) from None
    scaled: npt.NDArray[np.uint8] = cv2.resize(np.asarray(image), size[::-1], interpolation=cv2.INTER_LINEAR)
    return scaled


@dataclass(frozen=True)
class Published:
    """A file that an encoder's owners published.

    Attributes:
        repository: of the hub (`owner/name`), or the folder's https address.
        revision: commit of the repository; its newest where "".
        sha256: of the file; "" where it is unknown.
    """

    repository: str
    file: str
    revision: str = ""
    sha256: str = ""

    def fetch(self, instead: str) -> Path:
        """The file: from the mirror, the cache or its owners. `instead` as for `hub_file`.

        Raises:
            FinerRankError: it is out of reach.
        """
        if not self.repository.startswith("https://"):
            return hub_file(self.repository, [self.file], instead, self.revision or None)
        # A folder for each address: two owners may give one name to their files.
        folder = default_downloads().joinpath(*self.repository.removeprefix("https://").split("/"))
        return url_file(f"{self.repository}/{self.file}", folder, instead, self.sha256)


@dataclass(frozen=True)
class Request:
    """What the user asked of a family: `family:model[@weights]`, what the zoo's card adds, and the user's geometry.

    Attributes:
        weights: file or folder that the user brought.
        published: where the weights are published, if a card says so; else the family knows.
        preprocessing: of the card; the model's own configuration where None.
        pooling: of the card, in the words of the family's library; the model's own where "".
    """

    spec: str
    family: str
    model: str
    weights: Path | None
    resize: Resize | None = None
    size: int | None = None
    interpolation: Interpolation | None = None
    published: Published | None = None
    preprocessing: Preprocessing | None = None
    pooling: str = ""

    def weights_or(self, own: Callable[[], Path]) -> Path:
        """The weights that the user brought, else those that the card names, else the family's `own`.

        Raises:
            FinerRankError: they are out of reach.
        """
        return self.weights or (self.published.fetch(f"{self.spec}@FILE") if self.published else own())


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
        module: the network itself, where it is one of torch; `forward` goes on to use it.
        encode: what `forward` does, from pixels `[B, 3, H, W]` to features `[B, D]`, where gradients are wanted.
        embed_texts: prompts to `[N, D]` features in the same space, where there is a text side.
        feature_map: `[B, …]` preprocessed images to `[B, height, width, C]` features of their parts, to look at.
        device: where `forward` computes.
    """

    preprocess: Callable[["Image.Image"], npt.NDArray[Any]]
    forward: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
    preprocessing: Mapping[str, Any]
    architecture: str
    weights_digest: str
    files: tuple[Path, ...]
    module: "torch.nn.Module | None" = None
    encode: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    embed_texts: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None = None
    feature_map: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]] | None = None
    device: str = "cpu"


NOT_THE_SIZE = ("memory", "cuda", "cudnn", "cublas", "not implemented", "not currently implemented")
"""Words of errors that are about memory, device or precision."""


def network_model(
    module: "torch.nn.Module",
    encode: Callable[["torch.Tensor"], "torch.Tensor"],
    preprocessing: Preprocessing,
    architecture: str | Path,
    weights: Path | tuple[Path, ...],
    device: str,
    precision: str,
    *,
    feature_map: Callable[["torch.Tensor"], "torch.Tensor"] | None = None,
    encode_texts: Callable[[Sequence[str]], "torch.Tensor"] | None = None,
) -> LoadedModel:
    """A torch network as a `LoadedModel`, on its device and in its precision.

    Args:
        architecture: its name, or the configuration file that describes it.
        weights: its file, or files.
        feature_map: pixels `[B, 3, H, W]` to features of the picture's parts `[B, height, width, C]`.
        encode_texts: prompts to features `[N, D]`.
    """
    import torch

    module.eval().requires_grad_(False).to(device)
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would pass for float32

    def on_pixels(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., npt.NDArray[np.float32]]:
        name = architecture.parent if isinstance(architecture, Path) else architecture
        return _of_arrays(function, str(name), device, precision)

    files = weights if isinstance(weights, tuple) else (weights,)
    digests = [sha256_of_file(file) for file in files]
    return LoadedModel(
        preprocessing,
        on_pixels(encode),
        asdict(preprocessing),
        architecture=f"sha256:{sha256_of_file(architecture)}" if isinstance(architecture, Path) else architecture,
        weights_digest=digests[0] if len(digests) == 1 else sha256_of("".join(digests).encode()),
        files=(*files, *((architecture,) if isinstance(architecture, Path) else ())),
        module=module,
        encode=encode,
        embed_texts=(lambda texts: _run(encode_texts, texts, device, precision)) if encode_texts else None,
        feature_map=on_pixels(feature_map) if feature_map else None,
        device=device,
    )


def compiled(model: LoadedModel, spec: str, precision: str) -> LoadedModel:
    """The same model, its forward pass compiled by `torch.compile` when the first batch comes: other last bits.

    Raises:
        FinerRankError: it has no network of torch that could be compiled; later, from `forward`: it cannot be compiled.
    """
    import torch

    if model.encode is None:
        raise FinerRankError(f"{spec}: has no network that could be compiled; leave --compile out")
    made = torch.compile(model.encode)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        try:
            features: torch.Tensor = made(pixels)
            return features
        except Exception as error:
            # What compiles is a stack of libraries and programs, each with errors of its own.
            if not any(part in type(error).__module__ for part in ("_dynamo", "_inductor")):
                raise
            raise FinerRankError(f"{spec}: cannot be compiled ({first_line(error)}); leave --compile out") from None

    return replace(model, forward=_of_arrays(encode, spec, model.device, precision), encode=encode)


def _of_arrays(
    function: "Callable[[torch.Tensor], torch.Tensor]", name: str, device: str, precision: str
) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """`function` of preprocessed images `[B, 3, H, W]` in the computer's memory, on a device."""
    import torch

    taken: set[tuple[int, ...]] = set()  # the sizes that went through

    def rows(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = batch.shape[-2:]
        pixels = torch.from_numpy(batch)
        try:
            if device.startswith("cuda"):  # from pinned memory, so that the copy waits for no one
                pixels = pixels.pin_memory().to(device, non_blocking=True)
            features = _run(function, pixels.to(device), device, precision)
        except (RuntimeError, AssertionError, ValueError) as error:
            # The size is at fault where the network has yet to take it; memory, device and precision are not it.
            if size in taken or any(sign in str(error).lower() for sign in NOT_THE_SIZE):
                raise
            what = f"takes no input of {size[0]} × {size[1]} pixels ({first_line(error)})"
            raise FinerRankError(f"{name}: {what}; give another --size, or leave it out") from None
        taken.add(size)
        return features

    return rows


def _run(function: "Callable[..., torch.Tensor]", given: Any, device: str, precision: str) -> npt.NDArray[np.float32]:
    import torch

    with (
        torch.inference_mode(),
        torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"),
    ):
        features = function(given)
    return features.float().cpu().numpy()


def unit_rows(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows scaled to length 1, `[N, D]` float32; computed in float64. Zero and non-finite rows stay so."""
    rows = features.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # inf / inf is NaN, which the caller refuses
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def digest_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description, whatever the order of its keys."""
    import json

    return sha256_of(json.dumps(description, sort_keys=True, default=str).encode())
