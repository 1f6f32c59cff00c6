"""What a network is shown: the pixels of the libraries' own transforms."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from networks import HALVES, save_clip, save_timm_folder, save_torchvision
from PIL import Image
from pytest import approx

from benchmark.embedders import load_embedder
from benchmark.embedders.base import Interpolation, Preprocessing, Resize
from galleries.errors import FinerRankError

SIZES = [(400, 300), (31, 200), (1, 1), (300, 400), (64, 64), (5, 3)]
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLAIN: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def synthetic(width: int, height: int) -> Image.Image:
    """The picture that the golden numbers were measured on, in any size."""
    y, x = np.mgrid[:height, :width]
    channels = [(3 * x + 5 * y) % 256, (x * x // 7 + y) % 256, (x + y * y // 11) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def assert_same_pixels(ours: Any, theirs: Any) -> None:
    """`ours` and `theirs` map an image of any size to the same pixels."""
    for size in SIZES:
        image = synthetic(*size)
        expected = np.asarray(theirs(image))
        found = ours(image)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-6, size


def test_the_golden_picture_is_the_one_that_was_measured() -> None:
    content = np.asarray(synthetic(400, 300)).tobytes()
    assert sum(content) == 45_745_976
    assert hashlib.sha256(content).hexdigest().startswith("ba5e9756e01242ca")


@pytest.mark.parametrize(
    ("size", "resize", "resize_to", "interpolation", "normalisation", "mean", "std", "corner", "inner"),
    [
        pytest.param(224, "crop", 224, "bicubic", OPENAI, 0.185777, 0.969094, 0.39750, -0.10124, id="CLIP"),
        pytest.param(224, "crop", 256, "bicubic", IMAGENET, 0.226828, 1.188379, -1.39866, 1.44818, id="DINO-256"),
        pytest.param(224, "crop", 248, "bicubic", IMAGENET, 0.226655, 1.180128, -1.94666, 1.53571, id="timm-DINO"),
        pytest.param(256, "crop", 256, "bicubic", IMAGENET, 0.224352, 1.186150, 0.41656, -0.67017, id="DINOv3"),
        pytest.param(224, "squash", 224, "bicubic", HALF, -0.003331, 0.499964, -0.98431, -0.21569, id="SigLIP2"),
        pytest.param(440, "squash", 440, "bilinear", IMAGENET, 0.219897, 1.161581, -2.11790, 1.86835, id="MiewID"),
        pytest.param(384, "squash", 384, "bilinear", IMAGENET, 0.219193, 1.155108, -2.11790, -0.40756, id="Mega"),
        pytest.param(480, "squash", 480, "bilinear", IMAGENET, 0.219355, 1.160666, -2.11790, -1.54552, id="cars"),
        pytest.param(224, "squash", 224, "bicubic", PLAIN, 0.498334, 0.249982, 0.00784, 0.39216, id="DreamSim"),
    ],
)
def test_golden_pixels_of_the_encoders_of_the_field(
    size: int,
    resize: Resize,
    resize_to: int,
    interpolation: Interpolation,
    normalisation: tuple[Triple, Triple],
    mean: float,
    std: float,
    corner: float,
    inner: float,
) -> None:
    preprocessing = Preprocessing((size, size), resize, (resize_to, resize_to), interpolation, *normalisation)
    pixels = preprocessing(synthetic(400, 300))
    assert pixels.shape == (3, size, size)
    assert pixels.astype(np.float64).mean() == approx(mean, abs=2e-6)
    assert pixels.astype(np.float64).std(ddof=1) == approx(std, abs=2e-6)
    assert pixels[0, 0, 0] == approx(corner, abs=1e-5)
    assert pixels[1, 100, 100] == approx(inner, abs=1e-5)


def assert_timm_pixels(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", num_classes=0)
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    assert_same_pixels(load_embedder(f"timm:local-dir:{folder}").model.preprocess, theirs)


def assert_open_clip_pixels(folder: Path) -> None:
    _, theirs = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=True)
    assert_same_pixels(load_embedder(f"open_clip:local-dir:{folder}").model.preprocess, theirs)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct"), [("center", 0.9), ("center", 0.875), ("squash", 1.0), ("squash", 0.9), ("border", 1.0)]
)
def test_timm_models_see_the_pixels_of_timms_own_transform(
    tmp_path: Path, crop_mode: str, crop_pct: float, interpolation: str
) -> None:
    config = {"crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": interpolation}
    assert_timm_pixels(save_timm_folder(tmp_path, input_size=[3, 160, 160], **HALVES, **config))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_open_clip_models_see_the_pixels_of_open_clips_own_transform(
    tmp_path: Path, resize_mode: str, interpolation: str
) -> None:
    assert_open_clip_pixels(save_clip(tmp_path, resize_mode=resize_mode, interpolation=interpolation))


@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_a_rare_geometry_of_timms_is_matched_or_refused_and_never_approximated(tmp_path: Path, crop_mode: str) -> None:
    folder = save_timm_folder(tmp_path, input_size=[3, 160, 128], crop_mode=crop_mode, crop_pct=0.9, **HALVES)
    with contextlib.suppress(FinerRankError):
        assert_timm_pixels(folder)


def test_an_oblong_input_of_open_clips_is_matched_or_refused_and_never_approximated(tmp_path: Path) -> None:
    folder = save_clip(tmp_path, image_size=(32, 48), resize_mode="shortest")
    with contextlib.suppress(FinerRankError):
        assert_open_clip_pixels(folder)


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "efficientnet_b0"])
def test_torchvision_models_see_the_pixels_of_their_weights_transform(tmp_path: Path, architecture: str) -> None:
    weights = save_torchvision(tmp_path / "weights.safetensors", architecture)
    theirs = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    assert_same_pixels(load_embedder(f"torchvision:{architecture}@{weights}").model.preprocess, theirs)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_a_squash_on_request_scales_both_sides_to_exactly_the_size(interpolation: Interpolation) -> None:
    own = Preprocessing((224, 224), "crop", (256, 256), "bilinear", *IMAGENET)
    squashed = own.overridden("squash", 48, interpolation)
    method = Image.Resampling[interpolation.upper()]

    def theirs(image: Image.Image) -> torch.Tensor:
        pixels = torchvision.transforms.functional.to_tensor(image.resize((48, 48), method))
        return torchvision.transforms.functional.normalize(pixels, *IMAGENET)

    assert_same_pixels(squashed, theirs)


def test_a_given_size_or_mode_replaces_the_whole_geometry_and_keeps_the_normalisation() -> None:
    own = Preprocessing((224, 224), "crop", (256, 256), "bilinear", *IMAGENET)
    assert own.overridden(None, None, None) == own
    assert own.overridden("squash", None, None) == Preprocessing((224,) * 2, "squash", (224,) * 2, "bicubic", *IMAGENET)
    assert own.overridden(None, 96, None) == Preprocessing((96, 96), "crop", (96, 96), "bicubic", *IMAGENET)
    assert own.overridden(None, None, "lanczos") == Preprocessing((224,) * 2, "crop", (256,) * 2, "lanczos", *IMAGENET)


def test_padding_shows_the_whole_image_in_the_middle_and_no_contrast_beside_it() -> None:
    pad = Preprocessing((40, 40), "pad", (40, 40), "nearest", *IMAGENET)
    white = pad(Image.new("RGB", (20, 10), "white"))
    assert white.shape == (3, 40, 40)
    assert (white[:, 10:30] > 1.5).all()
    assert np.abs(np.concatenate([white[:, :10], white[:, 30:]])).max() < 0.01
