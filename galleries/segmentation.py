"""Segmentation networks of `transformers`: brought into memory, and from pictures to masks."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galleries.downloads import first_line
from galleries.errors import FinerRankError
from galleries.model_folders import ModelFolder

if TYPE_CHECKING:
    import torch
    from PIL import Image

Mask = npt.NDArray[np.bool_]
Tensors = dict[str, "torch.Tensor"]
Predict = Callable[[Sequence["Image.Image"], Sequence[frozenset[int]]], list[Mask]]
"""Pictures, and of each the classes that are its subject, to masks of the pictures' sizes."""

FOREGROUND_CLASS = "AutoModelForImageSegmentation"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MAX_CLASS_MAP_PX = 1024
"""Longer side at which classes are decided. 150 maps of a photo's full size do not fit into memory."""


def preprocessor_of(folder: ModelFolder) -> Path:
    return folder.path / "preprocessor_config.json"


def auto_map_of(folder: ModelFolder) -> dict[str, Any]:
    """Which classes of the folder's own code stand for which of the library's."""
    auto_map = folder.config.get("auto_map")
    return auto_map if isinstance(auto_map, dict) else {}


def load_foreground(folder: ModelFolder, size: int, threshold: float, device: str) -> Predict:
    """A model that marks what stands out: its last output's logits, as probabilities above the threshold.

    Args:
        size: side of the square input, in pixels, where the folder has no preprocessing of its own.

    Raises:
        FinerRankError: code or weights that do not load.
    """
    import torch

    module = _own_class(folder, device)
    own = _processor(folder, True) if preprocessor_of(folder).is_file() else None
    _refuse_cutting(folder, own)

    def prepare(image: "Image.Image") -> Tensors:
        if own is None:
            return {"pixel_values": torch.from_numpy(squashed(image, size))[None]}
        return _tensors(own, image)

    def masks_of(batch: Tensors, images: Sequence["Image.Image"], _: Sequence[frozenset[int]]) -> Iterator[Mask]:
        pixels = batch["pixel_values"]
        try:
            output = module(pixels)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # code of strangers
            shape, reason = " × ".join(map(str, pixels.shape[2:])), f"{type(error).__name__}: {_in_one_line(error)}"
            raise FinerRankError(f"{folder.name}: fails on an input of {shape} pixels ({reason})") from None
        probabilities = _one_map(output, len(images), folder.name).sigmoid()
        for image, own_map in zip(images, probabilities, strict=True):
            size = (image.height, image.width)
            full = torch.nn.functional.interpolate(own_map[None], size, mode="bilinear", antialias=True)
            yield (full[0, 0] > threshold).numpy()

    return _predict(prepare, masks_of, device)


def squashed(image: "Image.Image", size: int) -> npt.NDArray[np.float32]:
    """`[3, size, size]`: the whole picture, whatever its aspect ratio, in ImageNet's normalisation."""
    from PIL import Image

    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / np.float32(255)
    normalised = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _own_class(folder: ModelFolder, device: str) -> Any:
    """A model of the class that its folder brings."""
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    # Not by its from_pretrained: from transformers 5 on that builds every model without memory for its weights, which
    # the published code of RMBG-2.0 and of older BiRefNets does not survive (huggingface/transformers issue 43957).
    try:
        reference = str(auto_map_of(folder)[FOREGROUND_CLASS])
        model_class = get_class_from_dynamic_module(reference, str(folder.path))
        module = model_class(config=AutoConfig.from_pretrained(folder.path, trust_remote_code=True))
    except ImportError as error:
        raise FinerRankError(f"{folder.name}: its code needs more packages ({_in_one_line(error)})") from None
    except Exception as error:  # code of strangers
        reason = f"{type(error).__name__}: {_in_one_line(error)}"
        raise FinerRankError(f"{folder.name}: its code does not run ({reason}); fetch it again") from None
    state = _state(folder.weights)
    try:
        lacking = module.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:  # misshapen tensors
        raise FinerRankError(f"{folder.path}: weights of another model ({_in_one_line(error)})") from None
    _refuse_untrained(folder, module, lacking)
    return module.float().eval().requires_grad_(False).to(device)


def _state(files: Sequence[Path]) -> dict[str, "torch.Tensor"]:
    """Tensors of weights files. No code in them is ever run."""
    import torch
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            tensors = torch.load(path, "cpu", weights_only=True) if path.suffix == ".bin" else load_file(path)
            state.update(tensors)
        except Exception as error:  # damaged files raise anything
            raise FinerRankError(f"{path}: not readable weights ({first_line(error)}); fetch them again") from None
    return state


def load_semantic(folder: ModelFolder, device: str) -> Predict:
    """A model that gives each pixel its likeliest class.

    Raises:
        FinerRankError: weights that do not load, preprocessing that cuts the picture.
    """
    module, processor = _native("AutoModelForSemanticSegmentation", folder, device)
    _refuse_cutting(folder, processor)
    if not hasattr(processor, "post_process_semantic_segmentation"):
        raise FinerRankError(f"{folder.name}: its image processor makes no maps of classes; use another model")

    def masks_of(batch: Tensors, images: Sequence["Image.Image"], subjects: Sequence[frozenset[int]]) -> Iterator[Mask]:
        sizes = [_class_map_size(image) for image in images]
        maps = processor.post_process_semantic_segmentation(module(**batch), target_sizes=sizes)
        for image, classes, wanted in zip(images, maps, subjects, strict=True):
            yield _enlarged(np.isin(classes.cpu().numpy(), sorted(wanted)), image.size)

    return _predict(lambda image: _tensors(processor, image), masks_of, device)


def load_objects(folder: ModelFolder, threshold: float, device: str) -> Predict:
    """A model of objects, each with a mask, a class and a score, which must reach the threshold.

    Raises:
        FinerRankError: weights that do not load.
    """
    module, processor = _native("AutoModelForUniversalSegmentation", folder, device)

    def masks_of(batch: Tensors, images: Sequence["Image.Image"], subjects: Sequence[frozenset[int]]) -> Iterator[Mask]:
        sizes = [_class_map_size(image) for image in images]
        # Not the panoptic post-processing: it gives every pixel to its likeliest object, however unlikely that is, so
        # that a dog alone in the picture would be all of it.
        found = processor.post_process_instance_segmentation(
            module(**batch), threshold=threshold, target_sizes=sizes, return_binary_maps=True
        )
        for image, size, objects, wanted in zip(images, sizes, found, subjects, strict=True):
            mask = np.zeros(size, dtype=np.bool_)
            infos = objects["segments_info"]
            for info, own in zip(infos, objects["segmentation"] if infos else (), strict=True):
                if info["label_id"] in wanted:
                    mask |= own.cpu().numpy() > 0
            yield _enlarged(mask, image.size)

    return _predict(lambda image: _tensors(processor, image), masks_of, device)


def _native(auto_class: str, folder: ModelFolder, device: str) -> tuple[Any, Any]:
    """A model of the library's own, and its preprocessing. No code of the folder is run."""
    import transformers

    try:
        module, info = getattr(transformers, auto_class).from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # damaged weights and configurations raise many kinds
        reason = f"{type(error).__name__}: {_in_one_line(error)}"
        raise FinerRankError(f"{folder.path}: does not load ({reason}); fetch it again") from None
    _refuse_untrained(folder, module, info["missing_keys"])
    return module.float().eval().requires_grad_(False).to(device), _processor(folder, False)


def _processor(folder: ModelFolder, trust_remote_code: bool) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # no file, a damaged one, one of an unknown processor
        reason = f"{type(error).__name__}: {_in_one_line(error)}"
        raise FinerRankError(f"{preprocessor_of(folder)}: not usable ({reason}); put the model's own there") from None


def _refuse_untrained(folder: ModelFolder, module: Any, absent: Collection[str]) -> None:
    """The library fills what a checkpoint lacks with noise and only warns, and masks of noise look like masks."""
    lacking = [name for name, _ in module.named_parameters() if name in absent]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise FinerRankError(
            f"{folder.name}: its weights lack {lacking[0]}{more}: not trained to segment; use a model that is"
        )


def _refuse_cutting(folder: ModelFolder, processor: Any) -> None:
    for name in ("do_center_crop", "do_pad"):
        if getattr(processor, name, False):
            raise FinerRankError(
                f"{preprocessor_of(folder)}: {name} is on, so that masks would not fit the pictures; use another model"
            )


def _predict(
    prepare: Callable[["Image.Image"], Tensors],
    masks_of: Callable[[Tensors, Sequence["Image.Image"], Sequence[frozenset[int]]], Iterable[Mask]],
    device: str,
) -> Predict:
    """Inputs of one shape go through the network together. None is padded: its neighbours would change its mask."""
    import torch

    def predict(images: Sequence["Image.Image"], subjects: Sequence[frozenset[int]]) -> list[Mask]:
        inputs = [prepare(image) for image in images]
        by_shape: dict[Any, list[int]] = {}
        for i, tensors in enumerate(inputs):
            by_shape.setdefault(tensors["pixel_values"].shape, []).append(i)
        masks: dict[int, Mask] = {}
        for own in by_shape.values():
            batch = {key: torch.cat([inputs[i][key] for i in own]).to(device) for key in inputs[own[0]]}
            masks.update(zip(own, masks_of(batch, [images[i] for i in own], [subjects[i] for i in own]), strict=True))
        return [masks[i] for i in range(len(images))]

    return predict


def _tensors(processor: Any, image: "Image.Image") -> Tensors:
    # As an array whose axes are told: of a picture that is three pixels high, processors would guess them.
    processed = processor(images=np.array(image), input_data_format="channels_last", return_tensors="pt")
    return {key: processed[key] for key in ("pixel_values", "pixel_mask") if key in processed}


def _one_map(output: Any, n: int, name: str) -> "torch.Tensor":
    """`[n, 1, h, w]` logits, in main memory: the last of what a foreground model returns."""
    import torch

    last = output.logits if hasattr(output, "logits") else output[-1] if isinstance(output, list | tuple) else output
    if not isinstance(last, torch.Tensor) or last.ndim != 4 or last.shape[:2] != (n, 1):
        got = f"of shape {tuple(last.shape)}" if isinstance(last, torch.Tensor) else f"a {type(last).__name__}"
        raise FinerRankError(f"{name}: its last output is {got}, not one map of logits a picture; use another model")
    if not bool(torch.isfinite(last).all()):
        raise FinerRankError(f"{name}: its output holds values that are no numbers; fetch its weights again")
    return last.float().cpu()


def _class_map_size(image: "Image.Image") -> tuple[int, int]:
    scale = min(1.0, MAX_CLASS_MAP_PX / max(image.size))
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))


def _enlarged(mask: Mask, size: tuple[int, int]) -> Mask:
    from PIL import Image

    if mask.shape == size[::-1]:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(grey) > 127


def guarded(predict: Predict, images: Sequence["Image.Image"], subjects: Sequence[frozenset[int]]) -> list[Mask]:
    """The masks of pictures.

    Raises:
        FinerRankError: out of memory.
    """
    import torch

    try:
        with torch.inference_mode(), quiet():
            return predict(images, subjects)
    except (torch.OutOfMemoryError, MemoryError):
        raise FinerRankError(f"out of memory with {len(images)} pictures at once; give --batch-size 1") from None


def resolve_device(device: str) -> str:
    """`auto` as the best device at hand.

    Raises:
        FinerRankError: a device that is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [name for name, is_there in available.items() if is_there]
    chosen = there[0] if device == "auto" else device
    kind, _, number = chosen.partition(":")
    n_there = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in there or (number and not (number.isdecimal() and int(number) < n_there)):
        raise FinerRankError(f"--device {device}: not there; available: {', '.join(there)}")
    torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would pass for float32
    return chosen


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library's remarks are for developers; code of strangers prints to stdout, which is data."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
