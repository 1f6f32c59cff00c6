"""Gradients and colours, no weights: the generic baseline that works anywhere."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import LoadedModel, Preprocessing, Request
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from PIL import Image

PACKAGES = ("scikit-image",)
VERSION = "version 1"
"""Part of the fingerprint: raise it when a change moves the features."""
MIN_SIDE_PX = 32
COLOUR_BINS = (4, 8, 8)


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """Histograms of oriented gradients (Dalal & Triggs 2005) beside a colour histogram in CIE Lab."""
    if request.model or request.weights:
        raise FinerRankError(f"{request.spec}: has one model and no weights; write classical:")
    if request.size is not None and request.size < MIN_SIDE_PX:
        raise FinerRankError(f"--size {request.size}: too small for gradients; write {MIN_SIDE_PX} or more")
    own = Preprocessing((128, 128), "squash", (128, 128), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    preprocessing = own.overridden(request.resize, request.size, request.interpolation)

    def preprocess(image: "Image.Image") -> npt.NDArray[Any]:
        return _features(preprocessing(image).transpose(1, 2, 0))

    return LoadedModel(preprocess, lambda batch: batch, asdict(preprocessing), "hog-lab", VERSION, ())


def _features(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from skimage.color import rgb2lab
    from skimage.feature import hog

    gradients = hog(pixels, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2), channel_axis=2)
    lab = rgb2lab(pixels).reshape(-1, 3)
    histogram, _ = np.histogramdd(lab, bins=COLOUR_BINS, range=[(0, 100.001), (-100, 100), (-100, 100)])
    colours = np.sqrt(histogram.ravel())
    parts = [part / (np.linalg.norm(part) or 1) for part in (gradients, colours)]
    return np.concatenate(parts).astype(np.float32)
