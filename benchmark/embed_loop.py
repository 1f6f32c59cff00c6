"""One pass over images for one or several encoders: threads decode, networks compute, rows are stored as they come."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.embedders import Embedder
from benchmark.embedders.pictures import what_is_wrong
from benchmark.store import EmbeddingStore, Root
from galleries.errors import Fault, FinerRankError
from galleries.images import BadImage, in_threads

if TYPE_CHECKING:
    from benchmark.embed import ImageFile

Rows = npt.NDArray[np.float32]
Batch: TypeAlias = "list[tuple[ImageFile, npt.NDArray[Any]]]"
"""Images with their preprocessed pixels."""
Prepared: TypeAlias = npt.NDArray[Any] | Fault

BATCH_SIZE = 32
SHARD_SECONDS = 15.0
SHARD_IMAGES = 4096
IN_FLIGHT = 2
"""Batches that an accelerator is given at once: one is copied there while it computes the other."""


class Encoder:
    """An embedder with a network, in a pass: what the store lacks, what waits for a batch, what is to be stored.

    Attributes:
        found: what the store held before, unless it is read again: `ImageFile.key` → row, and the rows.
        missing: keys of the images that are to be embedded.
        fingerprint: of the embedder, under which all this is stored.
        faults: key → what is wrong with an image that could not be.
    """

    def __init__(
        self,
        embedder: Embedder,
        keys: Set[str],
        store_root: Root,
        batch_size: int | None,
        memory: float,
        warn: Callable[[str], None],
    ) -> None:
        self.embedder = embedder
        self.batch_size = batch_size or BATCH_SIZE
        self.memory = memory
        self.warn = warn
        self.store = EmbeddingStore(store_root, embedder.fingerprint, warn)
        self.found: tuple[Mapping[str, int], Rows] | None = self.store.read(keys, memory)
        self.missing = keys - self.found[0].keys()
        if self.missing and embedder.is_outdated():  # the rows that were found are of another network
            self.store = EmbeddingStore(store_root, embedder.fingerprint, warn)
            self.found = self.store.read(keys, memory)
            self.missing = keys - self.found[0].keys()
        self.fingerprint = embedder.fingerprint
        self.n_forward_passes = 0
        self.faults: dict[str, Fault] = {}
        self.waiting: Batch = []
        self._done_keys: list[str] = []
        self._done_rows: list[Rows] = []
        self._last_shard = time.monotonic()

    def next_batch(self) -> Batch:
        batch, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        return batch

    def take(self, batch: Batch, rows: Rows) -> None:
        """Keep the rows of a batch that went through."""
        self.n_forward_passes += len(batch)
        for (image, _), row in zip(batch, rows, strict=True):
            wrong = what_is_wrong(row)
            if wrong:
                remedy = f"look at the image; {self.embedder.spec} cannot place it"
                self.faults[image.key] = Fault(image.name, wrong, remedy)
                continue
            self._done_keys.append(image.key)
            self._done_rows.append(row)

    def halve(self, batch: Batch) -> None:
        """Put a batch back for which memory did not suffice.

        Raises:
            FinerRankError: it was of one image.
        """
        if len(batch) == 1:
            raise FinerRankError(
                f"{self.embedder.spec}: too little memory for one image; use another --device or a smaller --size"
            )
        self.waiting = [*batch, *self.waiting]
        if len(batch) // 2 < self.batch_size:  # another batch in flight may have said so before
            self.batch_size = len(batch) // 2
            self.warn(f"out of memory: {self.batch_size} images per forward pass from here on")

    def write_shard_if_due(self) -> None:
        if len(self._done_rows) >= SHARD_IMAGES or time.monotonic() - self._last_shard > SHARD_SECONDS:
            self.write_shard()

    def write_shard(self) -> None:
        if self._done_rows:
            self.store.append(self._done_keys, np.stack(self._done_rows))
        self._done_keys, self._done_rows = [], []
        self._last_shard = time.monotonic()


class Pass:
    """One pass over images: threads decode and prepare them, one more has the networks compute."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = encoders
        self._in_flight: deque[tuple[Encoder, Batch, Future[Rows]]] = deque()
        self._may_decode = threading.Event()
        self._may_decode.set()

    def run(self, images: "Sequence[ImageFile]") -> Iterator[tuple[Encoder, int]]:
        """Embed all; yields the number of images that an encoder has finished at each step."""
        specs = ", ".join(encoder.embedder.spec for encoder in self.encoders)
        look_ahead = 2 * max(encoder.batch_size for encoder in self.encoders)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            try:
                for image, found in in_threads(self._prepared, images, look_ahead=look_ahead):
                    for encoder, pixels in found:
                        if isinstance(pixels, Fault):
                            encoder.faults[image.key] = pixels
                            yield encoder, 1
                            continue
                        encoder.waiting.append((image, pixels))
                        if len(encoder.waiting) >= encoder.batch_size:
                            yield from self._launch(encoder, pool)
                while self._in_flight or any(encoder.waiting for encoder in self.encoders):
                    for encoder in self.encoders:
                        if encoder.waiting:
                            yield from self._launch(encoder, pool)
                    yield from self._finish(0)
            except MemoryError:
                raise FinerRankError(
                    f"{specs}: memory ended while images were prepared; use a smaller --batch-size"
                ) from None
            finally:
                for encoder in self.encoders:
                    encoder.write_shard()

    def _prepared(self, image: "ImageFile") -> "tuple[ImageFile, list[tuple[Encoder, Prepared]]]":
        """A picture as each encoder that lacks it wants it."""
        self._may_decode.wait()
        lacking = [encoder for encoder in self.encoders if image.key in encoder.missing]
        try:
            picture = image.open()
        except BadImage as error:
            fault = Fault(image.name, error.what, error.remedy)
            return image, [(encoder, fault) for encoder in lacking]
        made: list[tuple[Any, Prepared]] = []
        found: list[tuple[Encoder, Prepared]] = []
        for encoder in lacking:
            preprocess = encoder.embedder.model.preprocess
            pixels = next((each for other, each in made if other == preprocess), None)
            if pixels is None:
                try:
                    pixels = preprocess(picture)
                except BadImage as error:
                    pixels = Fault(image.name, error.what, error.remedy)
                made.append((preprocess, pixels))
            found.append((encoder, pixels))
        return image, found

    def _launch(self, encoder: Encoder, pool: ThreadPoolExecutor) -> Iterator[tuple[Encoder, int]]:
        """Have a batch computed, on an accelerator beside the decoding."""
        batch = encoder.next_batch()

        def rows() -> Rows:
            return encoder.embedder.forward(np.stack([pixels for _, pixels in batch]))

        if encoder.embedder.model.device != "cpu":
            yield from self._finish(IN_FLIGHT - 1)
            self._in_flight.append((encoder, batch, pool.submit(rows)))
            return
        future: Future[Rows] = Future()
        # A network that shares its cores with decoders waits for whichever of its threads comes last, at every layer.
        self._may_decode.clear()
        try:
            future.set_result(rows())  # in this thread, which Ctrl-C interrupts between two layers
        except Exception as error:
            future.set_exception(error)
        finally:
            self._may_decode.set()
        self._in_flight.append((encoder, batch, future))
        yield from self._finish(0)

    def _finish(self, n_left: int) -> Iterator[tuple[Encoder, int]]:
        """Wait for what was launched first, until so many batches are left."""
        while len(self._in_flight) > n_left:
            encoder, batch, future = self._in_flight.popleft()
            try:
                rows = future.result()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                encoder.halve(batch)
                continue
            encoder.take(batch, rows)
            for each in self.encoders:  # one that has little to do may wait long for its next batch
                each.write_shard_if_due()
            yield encoder, len(batch)


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )
