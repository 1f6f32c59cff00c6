"""Distances of whole pictures, rather than of stored embeddings: reading, geometry, batches, and what is kept."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.distances.base import Floats, Resources
from benchmark.embed import ImageFile
from benchmark.embed_loop import BATCH_SIZE, is_out_of_memory
from benchmark.embedders.base import digest_of
from benchmark.embedders.pictures import Images, Picture, as_pictures, batched
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import BadImage, decode_image, in_threads, open_image, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from PIL import Image

    from benchmark.distances import DistanceRequest
    from galleries.console import Progress

KEPT_BYTES = 1 << 30
"""Of features on the device: those of the pictures that were compared last."""

Pixels = npt.NDArray[np.uint8]
Pair = tuple[str, str]


class Method(Protocol):
    """One way to compare two pictures of the same size."""

    @property
    def description(self) -> Mapping[str, Any]:
        """All that decides the distance but the pictures' geometry."""

    @property
    def device(self) -> str:
        """Where it computes."""

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """What is compared, each `[B, …]`, of RGB pictures `[B, 3, H, W]`, float32 in [0, 1]."""

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """Of the features of two different pictures, each `[1, …]`."""


class PictureDistance:
    """A `Distance` that looks at both pictures at once.

    Args:
        build: the method, built when it is first needed.
        packages: whose version decides what it computes.
        least_side_px: of the pictures.
        of_same: distance of a picture to itself, pixel for pixel.
    """

    def __init__(
        self,
        request: "DistanceRequest",
        build: Callable[[], Method],
        packages: tuple[str, ...],
        least_side_px: int = 1,
        of_same: float = 0.0,
    ) -> None:
        if request.size is not None and request.size < least_side_px:
            raise FinerRankError(f"--size {request.size}: {request.spec} takes {least_side_px} pixels and more")
        self.spec = request.spec
        self.packages = packages
        self.size = request.size
        self._build = build
        self._least_side_px = least_side_px
        self._of_same = of_same

    @cached_property
    def method(self) -> Method:
        return self._build()

    @cached_property
    def description(self) -> Mapping[str, Any]:
        geometry = {"size": self.size, "resize": "squash", "interpolation": "bicubic"} if self.size else {}
        return {**self.method.description, **geometry, "precision": "fp32"}

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(self.description)

    def between(self, first: Images, second: Images, batch_size: int = BATCH_SIZE) -> Floats:
        """See `Distance.between`."""
        if batch_size < 1:
            raise FinerRankError(f"batch_size {batch_size}: out of range; write 1 or more")
        one, other = as_pictures(first), as_pictures(second)
        if len(one) != len(other):
            raise FinerRankError(
                f"{len(one)} images against {len(other)}: a distance is of pairs; give as many of each"
            )
        loop = _Loop(self.method, self._of_same, batch_size, lambda _: None)
        found: list[float] = []
        for pairs in batched(list(zip(one, other, strict=True)), loop.n_pairs):
            opened = list(in_threads(self._opened, [named for pair in pairs for named in pair]))
            names = [name for pair in pairs for name, _ in pair]
            keys = [_content(pixels) for pixels in opened]
            asked = [(keys[i], keys[i + 1]) for i in range(0, len(keys), 2)]
            sizes = {key: (pixels.shape[1], pixels.shape[0]) for key, pixels in zip(keys, opened, strict=True)}
            raise_if_any(
                "images",
                self._faults_of_sizes(
                    [(names[2 * i], names[2 * i + 1], sizes[a], sizes[b]) for i, (a, b) in enumerate(asked)]
                ),
            )
            pixels_of = dict(zip(keys, opened, strict=True))
            value_of = dict(loop.run(asked, sizes, pixels_of.__getitem__))
            found += [value_of[_ordered(pair)] for pair in asked]
        wrong = [i for i, value in enumerate(found) if not np.isfinite(value)]
        if wrong:
            raise FinerRankError(f"pair {wrong[0]}: {self._not_finite}")
        return np.array(found, dtype=np.float64)

    def of_pairs(self, pairs: Sequence[tuple[Path, Path]], resources: Resources) -> Floats:
        """See `Distance.of_pairs`."""
        files, sizes = self._looked_at(sorted({path for pair in pairs for path in pair}), resources.progress)
        if self.size is None:
            of_pairs = [(str(a), str(b), sizes[files[a].digest], sizes[files[b].digest]) for a, b in pairs]
            raise_if_any("images", self._faults_of_sizes(of_pairs))
        asked = [(files[a].digest, files[b].digest) for a, b in pairs]
        file_of = {file.digest: file for file in files.values()}
        loop = _Loop(self.method, self._of_same, resources.batch_size or BATCH_SIZE, resources.warn)
        step = (
            resources.progress(f"comparing by {self.spec}", len(set(map(_ordered, asked))))
            if resources.progress
            else None
        )
        value_of = {}
        for pair, value in loop.run(asked, sizes, lambda digest: self._pixels(file_of[digest].open())):
            value_of[pair] = value
            if step:
                step(1)
        raise_if_any(
            "images",
            [Fault(str(path), wrong.what, wrong.remedy) for path, file in files.items()
             if (wrong := loop.faults.get(file.digest))],
        )  # fmt: skip
        found = np.array([value_of[_ordered(pair)] for pair in asked], dtype=np.float64)
        wrong_pairs = [f"{a} and {b}" for (a, b), value in zip(pairs, found, strict=True) if not np.isfinite(value)]
        raise_if_any(self.spec, [Fault(pair, *self._not_finite.split("; ")) for pair in wrong_pairs])
        return found

    @property
    def _not_finite(self) -> str:
        return f"its distance by {self.spec} is not finite; look whether the weights are what they should be"

    def _pixels(self, picture: "Image.Image") -> Pixels:
        """`[H, W, 3]`."""
        from PIL import Image

        if 0 in picture.size:
            raise BadImage(f"{_shown(picture.size)} pixels: nothing to see", "fetch or make it again")
        if self.size is not None:
            picture = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.array(picture)

    def _opened(self, named: tuple[str, Picture]) -> Pixels:
        try:
            return self._pixels(named[1]())
        except BadImage as error:
            raise FinerRankError(f"{named[0]}: {error}") from None

    def _looked_at(
        self, paths: Sequence[Path], progress: "Progress | None"
    ) -> tuple[dict[Path, ImageFile], dict[str, tuple[int, int]]]:
        """The files, and the size in pixels of those with that digest.

        Raises:
            Faults: files that cannot be used; all of them.
        """
        decode = self.size is None  # orientation may swap the sides that the header names
        step = progress("reading images", len(paths)) if progress else None
        files, sizes, faults = _looked_at(paths, decode, step)
        if faults and not decode:  # the pixels too: all faults are listed at once
            faults = _looked_at(paths, True, None)[2]
        raise_if_any("images", faults)
        if self.size is not None:
            sizes = dict.fromkeys(sizes, (self.size, self.size))
        return files, sizes

    def _faults_of_sizes(self, pairs: Iterable[tuple[str, str, tuple[int, int], tuple[int, int]]]) -> list[Fault]:
        faults: dict[Fault, None] = {}
        for first, second, size, other in pairs:
            if size != other:
                what = f"{_shown(size)} and {_shown(other)} pixels, but {self.spec} compares pixel with pixel"
                faults[Fault(f"{first} and {second}", what, "give --size 256, which squashes both")] = None
                continue
            if min(size) < self._least_side_px:
                for name in (first, second):
                    what = f"{_shown(size)} pixels; {self.spec} takes {self._least_side_px} and more a side"
                    faults[Fault(name, what, "give --size 256, or leave it out")] = None
        return list(faults)


class _Loop:
    """Pictures into features, and those of pairs into distances.

    Attributes:
        n_pairs: compared at a time, so that no forward pass has more images than the batch; at least one pair.
        faults: pictures that could not be opened; their pairs are at distance NaN.
    """

    def __init__(self, method: Method, of_same: float, batch_size: int, warn: Callable[[str], None]) -> None:
        self.method = method
        self.of_same = of_same
        self.n_pairs = max(1, batch_size // 2)
        self.warn = warn
        self.faults: dict[str, BadImage] = {}
        self._content_of: dict[str, str] = {}
        self._features: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()

    def run(
        self, pairs: Sequence[Pair], sizes: Mapping[str, tuple[int, int]], opened: Callable[[str], Pixels]
    ) -> Iterator[tuple[Pair, float]]:
        """Distinct pairs, whichever picture is named first, with their distance.

        Args:
            sizes: of each picture; a forward pass takes one size.
            opened: the pixels of a picture; may raise `BadImage`.
        """
        # Sorted by content: neither names nor order decide what shares a batch, and partners of one picture are
        # neighbours.
        for _, of_size in groupby(
            sorted({_ordered(p) for p in pairs}, key=lambda p: (sizes[p[0]], p)), lambda p: sizes[p[0]]
        ):
            waiting = list(of_size)
            start = 0
            while start < len(waiting):
                chunk = waiting[start : start + self.n_pairs]
                values = self._tried(chunk, opened)
                if values is None:
                    self.n_pairs = len(chunk) // 2
                    self.warn(f"out of memory: {2 * self.n_pairs} images per forward pass from here on")
                    continue
                yield from zip(chunk, values, strict=True)
                start += len(chunk)

    def _tried(self, pairs: Sequence[Pair], opened: Callable[[str], Pixels]) -> list[float] | None:
        """Distances; None where memory does not suffice.

        Raises:
            FinerRankError: it does not suffice for one pair.
        """
        try:
            with torch.inference_mode():
                return self._distances(pairs, opened)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._features.clear()
            if len(pairs) == 1:
                raise FinerRankError(
                    "too little memory for one pair of pictures; use another --device or a smaller --size"
                ) from None
        return None

    def _distances(self, pairs: Sequence[Pair], opened: Callable[[str], Pixels]) -> list[float]:
        self._compute({key for pair in pairs for key in pair}, opened)
        found = []
        for pair in pairs:
            if any(key in self.faults for key in pair):
                found.append(float("nan"))
                continue
            first, second = sorted(self._content_of[key] for key in pair)  # names move no last bit
            is_same = first == second
            found.append(
                self.of_same if is_same else self.method.distance(self._features[first], self._features[second])
            )
        self._forget()
        return found

    def _compute(self, keys: Iterable[str], opened: Callable[[str], Pixels]) -> None:
        """The features of pictures, each distinct one of which goes through the network once."""

        def pixels_of(key: str) -> Pixels | BadImage:
            try:
                return opened(key)
            except BadImage as error:
                return error

        there = {key for key in keys if self._content_of.get(key, "") in self._features}
        for key in sorted(there):
            self._features.move_to_end(self._content_of[key])
        missing = sorted(set(keys) - there - self.faults.keys())
        new: dict[str, Pixels] = {}
        for key, pixels in zip(missing, in_threads(pixels_of, missing), strict=True):
            if isinstance(pixels, BadImage):
                self.faults[key] = pixels
                continue
            content = self._content_of[key] = _content(pixels)
            if content not in self._features:
                new[content] = pixels
        if not new:
            return
        batch = torch.from_numpy(np.stack(list(new.values()))).to(self.method.device)
        layers = self.method.features(batch.permute(0, 3, 1, 2).float() / 255)
        for i, content in enumerate(new):
            self._features[content] = tuple(layer[i : i + 1].clone() for layer in layers)

    def _forget(self) -> None:
        n_bytes = sum(layer.nbytes for layers in self._features.values() for layer in layers)
        while n_bytes > KEPT_BYTES:
            _, layers = self._features.popitem(last=False)
            n_bytes -= sum(layer.nbytes for layer in layers)


def _looked_at(
    paths: Sequence[Path], decode: bool, step: Callable[[int], Any] | None
) -> tuple[dict[Path, ImageFile], dict[str, tuple[int, int]], list[Fault]]:
    def look(path: Path) -> tuple[str, tuple[int, int]] | Fault:
        try:
            content = read_image_bytes(path)
            picture = decode_image(content) if decode else open_image(content)
        except BadImage as error:
            return Fault(str(path), error.what, error.remedy)
        return sha256_of(content), picture.size

    files, sizes, faults = {}, {}, []
    for path, found in zip(paths, in_threads(look, paths), strict=True):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            files[path] = ImageFile(str(path), path, found[0])
            sizes[found[0]] = found[1]
        if step:
            step(1)
    return files, sizes, faults


def _ordered(pair: Pair) -> Pair:
    return pair if pair[0] <= pair[1] else (pair[1], pair[0])


def _content(pixels: Pixels) -> str:
    return f"{pixels.shape} {sha256_of(pixels.tobytes())}"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
