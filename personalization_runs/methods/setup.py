"""A method's surroundings: its weights, its device, and how its pipeline is loaded and called."""

import contextlib
import gc
import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.downloads import first_line
from galleries.errors import FinerRankError, printable
from galleries.images import BadImage, as_rgb, decode_image, read_image_bytes
from personalization_runs.methods.base import Made, Method, Parameter
from personalization_runs.methods.weights import WeightsFolder

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from galleries.gallery import Photo
    from personalization_runs.requests import Request


@dataclass(frozen=True)
class Setup:
    """What a method is loaded with.

    Attributes:
        weights: by role.
        device: such as `cuda:1`.
        dtype: name of the type that networks compute in.
        fit: how a reference photo is brought to a square: `squash`, `crop` (the middle) or `pad` (with white).
        adapters: folder of trained adapters, one folder per identity.
        allow_remote_code: code of a repository may be run.
        offload: networks that are not at work wait in the computer's memory.
    """

    method: Method
    weights: Mapping[str, WeightsFolder]
    parameters: Mapping[str, Parameter]
    device: str = "cpu"
    dtype: str = "float32"
    fit: str = "squash"
    adapters: Path | None = None
    allow_remote_code: bool = False
    offload: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images in pixels."""
        return int(self.parameters["width"]), int(self.parameters["height"])

    @property
    def torch_dtype(self) -> "torch.dtype":
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def pipeline(self, kind: type[Any], role: str = "base", **components: Any) -> Any:
        """A pipeline of a diffusers class on the device, with the weights of a role.

        Args:
            components: ready-made ones, in place of those in the folder.

        Raises:
            FinerRankError: the folder holds no such pipeline, or lacks a part of it.
        """
        folder = self.weights[role]
        with loading(f"--weights {role}={folder.path}", f"no {kind.__name__} can be made of it"):
            pipeline = kind.from_pretrained(
                folder.path,
                dtype=self.torch_dtype,
                local_files_only=True,
                use_safetensors=True,  # and no pickle in their place
                **variant_of(folder.path),
                **components,
            )
            pipeline.set_progress_bar_config(disable=True)
            if hasattr(pipeline, "watermark"):  # drawn where a certain package happens to be installed
                pipeline.watermark = None
            if self.offload:
                pipeline.enable_model_cpu_offload(device=self.device)
                return pipeline
            return pipeline.to(self.device)

    def pipeline_named(self, *kinds: type[Any], role: str = "base") -> Any:
        """A pipeline of that of these diffusers classes which the folder's `model_index.json` names.

        For models whose parts another class would load as well, and make nonsense with.

        Raises:
            FinerRankError: it names another, or is none.
        """
        path = self.weights[role].path
        with loading(f"--weights {role}={path}", "its model_index.json cannot be read"):
            named = str(json.loads((path / "model_index.json").read_bytes())["_class_name"])
        for kind in kinds:
            if kind.__name__ == named:
                return self.pipeline(kind, role)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise FinerRankError(
            f"--weights {role}={path}: a {printable(named)}, where {self.method.name} needs a {wanted}; give other "
            "--weights, or another --method"
        )

    def picture(self, photo: "Photo", size: tuple[int, int] | None = None) -> "Image":
        """A reference photo in RGB, brought to `size` (width, height), by default that of the images."""
        return fitted(rgb(photo), size or self.size, self.fit)


def rgb(photo: "Photo") -> "Image":
    """A photo's pixels, upright.

    Raises:
        FinerRankError: the file cannot be used.
    """
    try:
        return as_rgb(decode_image(read_image_bytes(photo.path)))
    except BadImage as error:
        raise FinerRankError(f"{photo.path}: {error}") from None


def fitted(image: "Image", size: tuple[int, int], fit: str) -> "Image":
    """An image brought to a size: `squash`ed, `crop`ped in the middle, or `pad`ded with white."""
    from PIL import Image, ImageOps

    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white")
    return image.resize(size, Image.Resampling.LANCZOS)


def call(pipeline: Any, setup: Setup, requests: "Sequence[Request]", **inputs: Any) -> list[Made]:
    """Call a pipeline for several requests at once, with the parameters that its call knows.

    Args:
        inputs: of the method, before all others: a list holds a value per request.
    """
    known = inspect.signature(pipeline.__call__).parameters
    width, height = setup.size
    options: dict[str, Any] = {
        "prompt": [request.text for request in requests],
        "width": width,
        "height": height,
        "num_inference_steps": setup.parameters["steps"],
        "guidance_scale": setup.parameters.get("guidance"),
        "generator": noise_sources(requests),
    }
    # FLUX and its kin use a negative prompt only beside a true_cfg_scale, and complain of it otherwise.
    if "negative_prompt" in setup.parameters and ("true_cfg_scale" not in known or "true_cfg_scale" in inputs):
        options["negative_prompt"] = [setup.parameters["negative_prompt"]] * len(requests)
    with quiet_diffusers():
        return made_of(pipeline(**{key: value for key, value in options.items() if key in known} | inputs))


def noise_sources(requests: "Sequence[Request]") -> "list[torch.Generator]":
    """A generator of random numbers per image, from its own seed. On the CPU: the same noise for every device."""
    import torch

    return [torch.Generator("cpu").manual_seed(request.seed) for request in requests]


@contextlib.contextmanager
def seeded(request: "Request", device: str) -> Iterator[None]:
    """Torch's own random numbers from the seed of an image, for pipelines that draw some without being told how.

    Afterwards they go on where they were. They are drawn on the device, so that each kind of device has its own.
    """
    import torch

    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else [], device_type="cuda"):
        torch.manual_seed(request.seed)
        yield


def made_of(output: Any) -> list[Made]:
    """What a pipeline's output holds; what its safety checker blackened counts as refused."""
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(output.images)
    return [
        Made(None, "flagged by the safety checker") if is_flagged else Made(image)
        for image, is_flagged in zip(output.images, flagged, strict=True)
    ]


def variant_of(folder: Path) -> dict[str, str]:
    """`variant`, where all weights of a pipeline's folder are stored in half precision under that name only."""
    files = [path.name for path in folder.glob("*/*.safetensors")]
    for variant in ("fp16", "bf16"):  # in parts, older files are named model.fp16-00001-of-00002.safetensors
        if files and all(f".{variant}." in name or f".{variant}-" in name for name in files):
            return {"variant": variant}
    return {}


@contextlib.contextmanager
def loading(where: str, what: str) -> Iterator[None]:
    """What libraries raise and warn of while they load, as one line.

    Raises:
        FinerRankError: in place of any error but one of memory.
    """
    import torch

    try:
        with quiet_diffusers():
            yield
    except (FinerRankError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of files that anybody may have written: libraries raise many kinds
        said = re.sub(r":\s+", ": ", str(error)) or error  # torch begins with "Error(s) in loading state_dict for X:"
        raise FinerRankError(f"{where}: {what} ({first_line(said)}); bring the whole repository, unchanged") from None


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """The libraries' remarks are for developers."""
    import diffusers
    import transformers

    before = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers.utils.logging.set_verbosity(before)


def free_memory() -> None:
    """Give back what caches hold."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
