"""How transformers describes what pictures go through: `preprocessor_config.json`, as our `Preprocessing`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.embedders.base import Interpolation, Preprocessing, Resize
from galleries.downloads import first_line
from galleries.errors import FinerRankError
from galleries.segmentation import quiet

INTERPOLATIONS: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def library() -> Any:
    """The package transformers.

    Raises:
        FinerRankError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise FinerRankError(
            "transformers: the library is not installed; run: pip install 'finer-rank[transformers]'"
        ) from None
    return transformers


def read_json(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        FinerRankError: no such file, or something else.
    """
    if not path.is_file():
        raise FinerRankError(f"{path}: no such file; bring the whole folder: hf download OWNER/NAME --local-dir FOLDER")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise FinerRankError(f"{path}: not JSON ({first_line(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise FinerRankError(f"{path}: not a configuration; fetch it again")
    return content


def described_preprocessing(path: Path, default: str, known: Sequence[str]) -> Preprocessing:
    """What a `preprocessor_config.json` describes, as the library's processor that works with Pillow does it.

    DINOv3 has none, and its pixels are up to a grey level off.

    Args:
        default: the processor where the file names none.
        known: processors that are supported.

    Raises:
        FinerRankError: no such file, or steps that are not among ours; names them.
    """
    described = read_json(path)
    named = str(described.get("image_processor_type") or described.get("feature_extractor_type") or default)
    name = named.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in known or "auto_map" in described:
        what = "code of its own (auto_map)" if name in known else repr(named)
        raise FinerRankError(f"{path}: {what} is not supported; known processors: {', '.join(known)}")
    installed = library()
    try:
        with quiet():
            classes = [getattr(installed, f"{name}{end}", None) for end in ("Pil", "", "Fast")]  # "" until version 5
            made = next(filter(None, classes)).from_dict(described)
        size, crop = dict(made.size or {}), dict(getattr(made, "crop_size", None) or {})
        mean, std = _triple(made.image_mean), _triple(made.image_std)
        method = INTERPOLATIONS.get(int(made.resample))
        faults = [f"{each} is off" for each in ("do_resize", "do_rescale") if not getattr(made, each)]
        if getattr(made, "do_pad", False):
            faults.append("do_pad is on")
        if abs(float(made.rescale_factor) - 1 / 255) > 1e-9:
            faults.append(f"rescale_factor is {made.rescale_factor}")
        if method is None:
            faults.append(f"resample is {int(made.resample)}")
        if size.keys() not in ({"shortest_edge"}, {"height", "width"}):
            faults.append(f"size is {size}")
        is_cropped = bool(getattr(made, "do_center_crop", False))
        to = (size["shortest_edge"],) * 2 if "shortest_edge" in size else (size.get("height", 0), size.get("width", 0))
        if "shortest_edge" in size and not is_cropped:
            faults.append("size keeps the aspect ratio and do_center_crop is off")
        target = (crop["height"], crop["width"]) if is_cropped else to
        if not faults and not (0 < target[0] <= to[0] and 0 < target[1] <= to[1]):
            faults.append(f"crop_size {target} does not fit into size {to}")
    except Exception as error:  # damaged configurations raise many kinds
        raise FinerRankError(
            f"{path}: not usable ({type(error).__name__}: {first_line(error)}); fetch it again"
        ) from None
    if faults or method is None:
        raise FinerRankError(f"{path}: {'; '.join(faults)}: not supported; give a card with preprocessing of its own")
    if not made.do_normalize:
        mean, std = (0.0,) * 3, (1.0,) * 3
    mode: Resize = "crop" if "shortest_edge" in size else "squash"
    return Preprocessing(target, mode, to, method, mean, std, half_pixel="down")


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = [values] * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)
