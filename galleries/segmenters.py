"""Segmentation models of `transformers` that say which pixels of a picture show its subject.

Three kinds, told apart by the model's own `config.json`:

- *foreground*: marks whatever stands out, of any class (BiRefNet, RMBG-2.0). Their code comes with their weights.
- *semantic*: a class for every pixel (SegFormer, BEiT, DPT, UPerNet, …).
- *objects*: a mask and a class for each object (Mask2Former, MaskFormer).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Protocol

from galleries.errors import FinerRankError
from galleries.model_folders import ModelFolder, find_model
from galleries.segmentation import (
    FOREGROUND_CLASS,
    Predict,
    auto_map_of,
    guarded,
    load_foreground,
    load_objects,
    load_semantic,
    preprocessor_of,
    quiet,
    resolve_device,
)

Kind = Literal["foreground", "semantic", "objects"]

OBJECT_MODELS = ("mask2former", "maskformer")
"""Not those whose masks of objects the library gets wrong: DETR's fill the picture wherever one object is found."""

THRESHOLD = 0.5
FOREGROUND_PX = 1024
"""Side of the input that BiRefNet and RMBG-2.0 were trained with, where no configuration says so."""

INSTALL = "pip install 'finer-rank[masks]'"


class Labelled(Protocol):
    """An image with its labels."""

    @property
    def file_name(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def identity(self) -> str: ...


@dataclass(frozen=True)
class Segmenter:
    """A segmentation model that is not in memory yet.

    Attributes:
        labels: classes that are the subject; where there are none, an image's category and identity are tried.
        threshold: probability above which a pixel, or an object, is taken. Semantic models have none.
        size: side of the square input, where the model does not say.
    """

    folder: ModelFolder
    kind: Kind
    labels: tuple[str, ...]
    threshold: float
    size: int
    device: str

    @property
    def source(self) -> str:
        """What its masks come from: all that decides them."""
        parts = [self.folder.name]
        if self.kind != "foreground":
            parts.append(f"label {', '.join(self.labels)}" if self.labels else "label by category")
        if self.kind != "semantic":
            parts.append(f"threshold {self.threshold:g}")
        if self.kind == "foreground" and self.size != FOREGROUND_PX:
            parts.append(f"size {self.size}")
        return " ".join(parts)

    def subjects(self, images: Sequence[Labelled]) -> list[frozenset[int]]:
        """The classes that are each image's subject; none are needed by a foreground model.

        Raises:
            FinerRankError: an unknown label, or images whose labels are no classes of the model.
        """
        if self.kind == "foreground":
            return [frozenset()] * len(images)
        names = _class_names(self.folder.config)
        if self.labels:
            given = frozenset().union(*(self._of_label(label, names) for label in self.labels))
            return [given] * len(images)
        found = [_classes(names, image.category) | _classes(names, image.identity) for image in images]
        without = [image for image, classes in zip(images, found, strict=True) if not classes]
        if without:
            first = without[0]
            raise FinerRankError(
                f"{len(without)} images are neither of a category nor of an identity that {self.folder.name} knows "
                f"(first {first.file_name}: {first.category!r}, {first.identity!r}); name the subject with --label: "
                f"{_some(names)}"
            )
        return found

    def _of_label(self, label: str, names: Mapping[int, str]) -> frozenset[int]:
        classes = _classes(names, label)
        if not classes:
            near = get_close_matches(_plain(label), {s for name in names.values() for s in _synonyms(name)}, n=3)
            hint = f"is {' or '.join(map(repr, near))} meant?" if near else f"it knows {_some(names)}"
            raise FinerRankError(f"--label {label}: no class of {self.folder.name}; {hint}")
        return classes

    def load(self) -> Predict:
        """Bring the model into memory.

        Raises:
            FinerRankError: weights or code that do not load, a device that is not there.
        """
        device = resolve_device(self.device)
        with quiet():
            if self.kind == "foreground":
                predict = load_foreground(self.folder, self.size, self.threshold, device)
            elif self.kind == "semantic":
                predict = load_semantic(self.folder, device)
            else:
                predict = load_objects(self.folder, self.threshold, device)
        return lambda images, subjects: guarded(predict, images, subjects)


def find_segmenter(
    model: str,
    *,
    revision: str = "",
    labels: Sequence[str] = (),
    threshold: float | None = None,
    size: int | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Segmenter:
    """A segmentation model by its folder or hub repository; `load` it to use it.

    Args:
        trust_remote_code: run the code that came with the model, if it needs any. Nothing else ever does.

    Raises:
        FinerRankError: no such model, one of another kind, or options that it has no use for.
    """
    folder = find_model(model, revision)
    kind = _kind(folder)
    if kind == "foreground" and not trust_remote_code:
        raise FinerRankError(
            f"{model}: comes with code of its own, which would run on this machine; read {folder.path}/*.py, "
            "and if you trust it add --trust-remote-code"
        )
    if kind == "foreground" and labels:
        raise FinerRankError(f"--label: {model} marks what stands out, whatever its class; leave it out")
    if kind == "semantic" and threshold is not None:
        raise FinerRankError(f"--threshold: {model} gives each pixel its likeliest class; leave it out")
    if size is not None and (kind != "foreground" or preprocessor_of(folder).is_file()):
        raise FinerRankError(f"--size: {model} states the size of its input itself; leave it out")
    chosen = THRESHOLD if threshold is None else threshold
    return Segmenter(
        folder, kind, tuple(sorted({_plain(label) for label in labels})), chosen, size or FOREGROUND_PX, device
    )


def _kind(folder: ModelFolder) -> Kind:
    try:
        from transformers.models.auto import modeling_auto
    except ImportError:
        raise FinerRankError(f"masks are made by models of transformers, which is not installed; {INSTALL}") from None
    model_type = folder.config.get("model_type")
    if model_type in OBJECT_MODELS:
        return "objects"
    if model_type in modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES:
        return "semantic"
    if FOREGROUND_CLASS in auto_map_of(folder):
        return "foreground"
    kinds = f"{', '.join(OBJECT_MODELS)}, models for semantic segmentation, and those with a {FOREGROUND_CLASS}"
    raise FinerRankError(f"{folder.name}: of type {model_type!r}, which makes no masks here; supported are {kinds}")


def _class_names(config: Mapping[str, Any]) -> dict[int, str]:
    names = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}  # what the library assumes
    return {int(key): str(name) for key, name in names.items()}


def _classes(names: Mapping[int, str], wanted: str) -> frozenset[int]:
    return frozenset(key for key, name in names.items() if _plain(wanted) in _synonyms(name))


def _synonyms(name: str) -> set[str]:
    """ADE20K's classes are called "animal, animate being, beast"."""
    return {_plain(name), *(_plain(part) for part in name.split(","))} - {""}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _some(names: Mapping[int, str], n: int = 12) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return "; ".join(list(names.values())[:n]) + more
