"""What the network sees in an epoch: which photos, in which order, and how each is varied."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.training.pictures import Pictures, erased, varied
from benchmark.training.settings import Settings
from galleries.images import in_threads

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Feed:
    """Batches of photos with their labels. An epoch's depend on seed and epoch alone, whoever prepares them.

    Attributes:
        labels: number of the identity of each picture.
        preprocess: from a picture to the network's input.
        flip: mirror every second photo.
    """

    pictures: Pictures
    labels: Sequence[int]
    preprocess: "Callable[[Image.Image], npt.NDArray[Any]]"
    settings: Settings
    flip: bool

    @property
    def batch_size(self) -> int:
        """Images per step. A batch holds each identity once: few identities make small batches."""
        n_per_identity = self.settings.images_per_identity
        return min(self.settings.batch_size // n_per_identity, len(set(self.labels))) * n_per_identity

    @property
    def n_batches(self) -> int:
        """Steps per epoch: as many images as there are photos, nearly."""
        return max(1, len(self.labels) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[npt.NDArray[np.float32], list[int]]]:
        """Pixels `[B, 3, H, W]` and labels, prepared by threads while the network learns."""
        size, seed = self.batch_size, self.settings.seed
        order = epoch_order(self.labels, self.settings.images_per_identity, size, self.n_batches, seed, epoch)
        places = range(len(order))
        prepared = in_threads(lambda place: self._pixels(order[place], epoch, place), places, look_ahead=2 * size)
        for start in places[::size]:
            yield np.stack(list(islice(prepared, size))), [self.labels[i] for i in order[start : start + size]]

    def _pixels(self, i: int, epoch: int, place: int) -> npt.NDArray[np.float32]:
        """A photo as it is seen at a place in an epoch."""
        picture = self.pictures[i]
        if not self.settings.augment:
            return self.preprocess(picture)
        random = np.random.default_rng([self.settings.seed, epoch, place, i])
        return erased(self.preprocess(varied(picture, self.settings.size, random, self.flip)), random)


def epoch_order(
    labels: Sequence[int], n_per_identity: int, batch_size: int, n_batches: int, seed: int, epoch: int
) -> list[int]:
    """Photos in the order of an epoch: in each batch, so many of each of its identities."""
    from pytorch_metric_learning.samplers import MPerClassSampler
    from pytorch_metric_learning.utils import common_functions

    common_functions.NUMPY_RANDOM = np.random.RandomState([seed, epoch])
    sampler = MPerClassSampler(labels, n_per_identity, batch_size, length_before_new_iter=n_batches * batch_size)
    return [int(i) for i in sampler]
