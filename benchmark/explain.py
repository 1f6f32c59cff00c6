"""Where an encoder looked: which parts of two pictures make them similar to it. Diagnostic; no score depends on it.

Two kinds of maps, by how the embedding comes about:

*contributions*, where the embedding is the average of the feature map (convolutional networks under average pooling,
Swin): the cosine is then a sum over positions, and the map shows its terms. Exact, for the network's last feature map;
a position of that map has seen much of the picture around it. It is the class-activation map of Zhou et al.
(Learning Deep Features for Discriminative Localization, 2016) with the other picture in the place of the class, as
Stylianou et al. do it (Visualizing Deep Similarity Networks, 2019).

*alike*, for all others (class tokens, attention pooling, layers after the pooling): for each part the highest cosine
with any part of the other picture. It shows what has a counterpart there, and not what the embedding makes of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from benchmark.embedders import Embedder, resolve_device
from benchmark.embedders.base import Preprocessing
from galleries.downloads import first_line
from galleries.errors import FinerRankError
from galleries.model_folders import ModelFolder, find_model

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float64]
Kind = Literal["contributions", "alike"]
Box = tuple[float, float, float, float]

AVERAGE_TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""Relative distance up to which an embedding is the average of the feature map; others are 0.3 and more away."""


@dataclass(frozen=True)
class Parts:
    """What an encoder says of a picture and of its parts.

    Attributes:
        features: `[height, width, C]`, from the top left.
        embedding: `[D]`, of length 1.
        is_average: whether the embedding is the average of `features`, scaled.
        seen: `(left, top, right, bottom)` of what the network saw, in pixels of the picture; see `seen_box`.
    """

    features: Floats
    embedding: Floats
    is_average: bool
    seen: Box


@dataclass(frozen=True)
class PairMaps:
    """Which parts of a query and of a photo make the two similar.

    Attributes:
        kind: what is shown: see the module.
        query, photo: `[height, width]` in [0, 1]. Of contributions, 1 is the largest in its own picture, and negative
            ones are 0; of what is alike, 1 is an identical part, and 0 one with nothing in common.
        similarity: cosine of the two embeddings.
    """

    kind: Kind
    query: Floats
    photo: Floats
    similarity: float


def parts_of(embedder: Embedder, pictures: Sequence["Image.Image"]) -> list[Parts]:
    """Look at RGB pictures as the encoder does, in one batch.

    Raises:
        FinerRankError: an encoder without parts, or whose pictures are prepared in a way that is not known here.
    """
    if embedder.members:
        raise FinerRankError(f"{embedder.spec}: several encoders, each looks elsewhere; name one of its members")
    model = embedder.model
    if model.feature_map is None or not isinstance(model.preprocess, Preprocessing):
        raise FinerRankError(f"{embedder.spec}: keeps no map of a picture's parts, so that nothing can be shown of it")
    batch = np.stack([model.preprocess(picture) for picture in pictures])
    tolerance = AVERAGE_TOLERANCE[embedder.precision]
    found = []
    for picture, features, feature_map in zip(pictures, model.forward(batch), model.feature_map(batch), strict=True):
        own, whole = feature_map.astype(np.float64), features.astype(np.float64)
        mean = own.mean(axis=(0, 1))
        is_average = mean.shape == whole.shape and bool(
            np.linalg.norm(mean - whole) <= tolerance * np.linalg.norm(whole)
        )
        seen = seen_box(model.preprocess, *picture.size)
        found.append(Parts(own, _unit(whole), is_average, seen))
    return found


def pair_maps(query: Parts, photo: Parts) -> PairMaps:
    """Which parts make a query and a photo similar.

    Args:
        query, photo: of one encoder.
    """
    similarity = float(query.embedding @ photo.embedding)
    if query.is_average and photo.is_average:
        own, other = contributions(query.features, photo.features), contributions(photo.features, query.features)
        return PairMaps("contributions", _scaled(own), _scaled(other), similarity)
    own, other = counterparts(query.features, photo.features)
    return PairMaps("alike", np.clip(own, 0, 1), np.clip(other, 0, 1), similarity)


def contributions(features: Floats, others: Floats) -> Floats:
    """What each position adds to the cosine of two averaged feature maps: `[height, width]`, whose mean is the cosine.

    The inner product of each position's features with the other picture's average, divided by the lengths of both
    averages. Negative where a position speaks against the likeness.

    Args:
        features: `[height, width, C]` of the picture to look at.
        others: `[…, …, C]` of the other picture.

    >>> contributions(np.array([[[1.0, 0.0], [1.0, 2.0]]]), np.array([[[0.0, 3.0]]])).round(3)
    array([[0.   , 1.414]])
    """
    mean, other = features.mean(axis=(0, 1)), others.mean(axis=(0, 1))
    length = float(np.linalg.norm(mean) * np.linalg.norm(other))
    found: Floats = features @ other / (length or 1.0)
    return found


def counterparts(features: Floats, others: Floats) -> tuple[Floats, Floats]:
    """For each position of two feature maps the highest cosine with any position of the other: in [-1, 1].

    The mean over all positions of both is subtracted first: tokens have much in common that says nothing of the
    picture, and would all be alike.

    Args:
        features, others: `[height, width, C]`.
    """
    n_channels = features.shape[-1]
    both = np.concatenate([features.reshape(-1, n_channels), others.reshape(-1, n_channels)])
    unit = _unit(both - both.mean(axis=0))
    n_own = features.shape[0] * features.shape[1]
    cosines = unit[:n_own] @ unit[n_own:].T
    return cosines.max(axis=1).reshape(features.shape[:2]), cosines.max(axis=0).reshape(others.shape[:2])


def seen_box(preprocessing: Preprocessing, width: int, height: int) -> Box:
    """`(left, top, right, bottom)` of a network's input, in pixels of a picture of this size.

    Smaller than the picture where its edges are cut off, larger where they are padded. A feature map lies evenly spread
    over it.

    >>> crop = Preprocessing((50, 50), "crop", (100, 100), "bicubic", (0, 0, 0), (1, 1, 1))
    >>> seen_box(crop, 400, 200)
    (150.0, 50.0, 250.0, 150.0)
    """
    (input_height, input_width), (to_height, to_width) = preprocessing.size, preprocessing.resize_to
    # As in `Preprocessing`, which rounds.
    if preprocessing.resize == "squash":
        scaled = to_width, to_height
    elif preprocessing.resize == "crop":
        scaled = int(to_height * width / height), int(to_height * height / width)
        scaled = (to_height, scaled[1]) if width <= height else (scaled[0], to_height)
    else:
        scale = min(input_height / height, input_width / width)
        scaled = max(1, round(width * scale)), max(1, round(height * scale))
    if preprocessing.resize == "pad":
        left, top = -((input_width - scaled[0]) // 2), -((input_height - scaled[1]) // 2)
    else:
        left, top = round((scaled[0] - input_width) / 2.0), round((scaled[1] - input_height) / 2.0)
    x, y = width / scaled[0], height / scaled[1]
    return left * x, top * y, (left + input_width) * x, (top + input_height) * y


class KeypointMatcher:
    """A network of `transformers` that finds points of one picture in another: LightGlue on SuperPoint, and its kin.

    Args:
        model: folder, or name of a hub repository. None of its code is run.
        device: as for embedders.

    Raises:
        FinerRankError: no such model, not one that matches keypoints, or damaged.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        from galleries.segmentation import quiet

        try:
            folder = find_model(model)
        except FinerRankError as error:
            raise FinerRankError(str(error).replace("--model", "--matches")) from None
        _check_kind(folder)
        self.name = folder.name
        self._device = resolve_device(device)
        with quiet():
            self._module, self._processor = _loaded(folder)
        self._module.float().eval().requires_grad_(False).to(self._device)

    def __call__(self, first: "Image.Image", second: "Image.Image") -> Floats:
        """Points of one RGB picture and where they are in the other.

        Returns:
            `[N, 5]`: x and y in the first, x and y in the second picture, each in [0, 1] from the top left, and the
            network's confidence in (0, 1]; most confident first. Empty where nothing is found.

        Raises:
            FinerRankError: the library cannot run this model.
        """
        import torch

        from galleries.segmentation import quiet

        sizes = [[(picture.height, picture.width) for picture in (first, second)]]
        with quiet(), torch.inference_mode():
            batch = self._processor([[first, second]], return_tensors="pt").to(self._device)
            try:
                (found,) = self._processor.post_process_keypoint_matching(self._module(**batch), sizes)
            except (IndexError, ValueError, RuntimeError) as error:  # the library fails on some configurations
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise FinerRankError(
                    f"{self.name}: cannot match these pictures ({reason}); try another model"
                ) from None
        points = [found[name].cpu().numpy().reshape(-1, 2) for name in ("keypoints0", "keypoints1")]
        # The library gives whole pixels: their centres.
        shares = [(own + 0.5) / picture.size for own, picture in zip(points, (first, second), strict=True)]
        scores = found["matching_scores"].float().cpu().numpy()
        rows = np.column_stack([*shares, scores]).astype(np.float64)
        ordered: Floats = rows[np.argsort(-scores, kind="stable")]
        return ordered


def _check_kind(folder: ModelFolder) -> None:
    try:
        from transformers.models.auto import modeling_auto
    except ImportError:
        raise FinerRankError(
            "keypoints are matched by models of transformers; run: pip install 'finer-rank[transformers]'"
        ) from None
    known = getattr(modeling_auto, "MODEL_FOR_KEYPOINT_MATCHING_MAPPING_NAMES", {})
    model_type = folder.config.get("model_type")
    if model_type not in known:
        names = ", ".join(known) or "models of a newer transformers"
        raise FinerRankError(
            f"{folder.name}: of type {model_type!r}, which matches no keypoints; those that do: {names}"
        )
    told = json.dumps(folder.config)
    if '"auto_map"' in told or '"trust_remote_code": true' in told:
        raise FinerRankError(f"{folder.name}: its config.json asks for code of its own, which is not run here")


def _loaded(folder: ModelFolder) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForKeypointMatching

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        module, info = AutoModelForKeypointMatching.from_pretrained(folder.path, output_loading_info=True, **local)
        processor = AutoImageProcessor.from_pretrained(folder.path, **local)
    except Exception as error:  # damaged weights and configurations raise many kinds
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise FinerRankError(f"{folder.path}: does not load ({reason}); fetch it again") from None
    lacking = sorted(name for name, _ in module.named_parameters() if name in info["missing_keys"])
    if lacking:  # which the library fills with noise
        raise FinerRankError(f"{folder.name}: its weights lack {lacking[0]}; bring a folder that is complete")
    return module, processor


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def _scaled(values: Floats) -> Floats:
    positive = np.maximum(values, 0)
    scaled: Floats = positive / (positive.max() or 1.0)
    return scaled
