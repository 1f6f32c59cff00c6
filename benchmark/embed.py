"""Images to embeddings: the only loop over batches. What the store holds is not computed again."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders import Embedder
from benchmark.embedders.pictures import joined, what_is_wrong
from benchmark.regions import Treatment
from benchmark.store import EmbeddingStore, print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import ImageRow, image_digests
from galleries.images import BadImage, decode_image, image_fault, in_threads, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from PIL import Image

Rows = npt.NDArray[np.float32]
Progress = Callable[[str, int], Callable[[int], Any]]
"""Called with a label and a total; returns what to call with the number of steps done."""

BATCH_SIZE = 32
SHARD_SECONDS = 15.0
SHARD_IMAGES = 4096
SURELY_CONSTANT = 4
"""Different images of which an encoder that works tells two apart."""


@dataclass(frozen=True)
class ImageFile:
    """An image to embed: its name for messages, its file, and the SHA-256 of its bytes.

    Attributes:
        treatment: where not all of the picture is embedded.
    """

    name: str
    path: Path
    digest: str
    treatment: Treatment | None = None

    @property
    def key(self) -> str:
        """What its embedding is stored under: `digest`, unless only a region of it is embedded."""
        return self.treatment.key(self.digest) if self.treatment else self.digest

    def open(self) -> "Image.Image":
        """The picture that is embedded.

        Raises:
            BadImage: it cannot be used, or its mask cannot.
        """
        content = read_image_bytes(self.path)
        if sha256_of(content) != self.digest:
            raise BadImage("changed while it was being evaluated", "run again")
        picture = decode_image(content)
        return self.treatment(picture) if self.treatment else picture


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of distinct images.

    Attributes:
        row_of: `ImageFile.key` → row of `rows`.
        rows: `[N, D]` float32, length 1.
        n_forward_passes: images that went through the encoder now; the rest came from the store.
        faults: images that could not be decoded or embedded; they have no row.
    """

    row_of: Mapping[str, int]
    rows: Rows
    n_forward_passes: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class EmbeddedGallery:
    """All photos of a gallery with their embeddings.

    Attributes:
        photos: sorted by file name.
        rows: `[N, D]` float32, length 1, one per photo.
        n_forward_passes: see `Embeddings`.
    """

    photos: tuple[Photo, ...]
    rows: Rows
    n_forward_passes: int


def embed_gallery(
    gallery: Gallery,
    embedder: Embedder,
    store_root: Path,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> EmbeddedGallery:
    """Embed every photo of a gallery.

    Raises:
        Faults: photos that cannot be used.
        FinerRankError: see `embed_images`.
    """
    files, faults = image_files([(gallery.root, gallery.photos)], decode=False, progress=progress)
    raise_if_any(str(gallery.root), faults)
    found = embed_images(
        list(files.values()), embedder, store_root, batch_size=batch_size, progress=progress, warn=warn
    )
    raise_if_any(str(gallery.root), found.faults)
    rows = found.rows[[found.row_of[files[photo.path].digest] for photo in gallery.photos]]
    return EmbeddedGallery(gallery.photos, rows, found.n_forward_passes)


@dataclass(frozen=True)
class EmbeddedFiles:
    """Image files with their embeddings.

    Attributes:
        row_of: path → row of `rows`; files of the same content share one.
        rows: `[N, D]` float32, length 1.
        n_forward_passes: see `Embeddings`.
    """

    row_of: Mapping[Path, int]
    rows: Rows
    n_forward_passes: int

    def of(self, paths: Sequence[Path]) -> Rows:
        """`[len(paths), D]`: their rows, in that order."""
        rows: Rows = self.rows[[self.row_of[path] for path in paths]]
        return rows


def embed_files(
    paths: Iterable[Path],
    embedder: Embedder,
    store_root: Path,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> EmbeddedFiles:
    """Embed image files, each distinct content once.

    Raises:
        Faults: files that cannot be used; all of them.
        FinerRankError: see `embed_images`.
    """
    distinct = list(dict.fromkeys(paths))
    step = progress("reading images", len(distinct)) if progress else None
    files, faults = [], []
    found = in_threads(lambda path: image_fault(str(path), path, decode=False), distinct)
    for path, digest in zip(distinct, found, strict=True):
        if isinstance(digest, Fault):
            faults.append(digest)
        else:
            files.append(ImageFile(str(path), path, digest))
        if step:
            step(1)
    raise_if_any("images", faults)
    embedded = embed_images(files, embedder, store_root, batch_size=batch_size, progress=progress, warn=warn)
    raise_if_any("images", embedded.faults)
    row_of = {file.path: embedded.row_of[file.key] for file in files}
    return EmbeddedFiles(row_of, embedded.rows, embedded.n_forward_passes)


def image_files(
    sets: Sequence[tuple[Path, Sequence[ImageRow]]], decode: bool, progress: Progress | None
) -> tuple[dict[Path, ImageFile], list[Fault]]:
    """All usable image files of some folders with their digests, and what is wrong with the others."""
    files: dict[Path, ImageFile] = {}
    faults: list[Fault] = []
    step = progress("reading images", sum(len(rows) for _, rows in sets)) if progress else None
    for root, rows in sets:
        digests, wrong = image_digests(rows, decode, step)
        faults += below(root, wrong)
        for row, digest in zip(rows, digests, strict=True):
            if digest:
                files[row.path] = ImageFile(f"{root}: {row.file_name}", row.path, digest)
    return files, faults


def embed_images(
    images: Sequence[ImageFile],
    embedder: Embedder,
    store_root: Path,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> Embeddings:
    """Embed images, each distinct one once, and keep the results in the store as it goes.

    A killed run loses at most the last seconds: what was stored is not computed again.

    Raises:
        FinerRankError: the embedder cannot be loaded, memory does not suffice for one image, or the store cannot
            be written. Faulty images are returned, not raised.
    """
    if embedder.members:
        return _of_members(images, embedder, store_root, batch_size, progress, warn)
    store = EmbeddingStore(store_root, embedder.fingerprint, warn)
    by_key: dict[str, list[ImageFile]] = {}
    for image in images:
        by_key.setdefault(image.key, []).append(image)
    row_of, rows = store.read(by_key)
    # Sorted by content, so that neither file order nor names decide which images share a batch.
    missing = [by_key[key][0] for key in sorted(by_key.keys() - row_of.keys())]
    if not missing:
        _warn_of_constant(embedder, by_key, rows, warn)
        return Embeddings(row_of, rows, 0, ())
    if embedder.is_outdated():  # the rows that were found are of another network
        return embed_images(images, embedder, store_root, batch_size=batch_size, progress=progress, warn=warn)
    loop = _Loop(embedder, store, batch_size or BATCH_SIZE, warn)
    step = progress(f"embedding with {embedder.spec}", len(missing)) if progress else None
    for n_done in loop.run(missing):
        if step:
            step(n_done)
    row_of, rows = store.read(by_key)
    _warn_of_constant(embedder, by_key, rows, warn)
    faults = [
        Fault(image.name, wrong.what, wrong.remedy) for key, wrong in loop.faults.items() for image in by_key[key]
    ]
    return Embeddings(row_of, rows, loop.n_forward_passes, tuple(sorted(faults)))


def _warn_of_constant(
    embedder: Embedder, by_key: Mapping[str, list[ImageFile]], rows: Rows, warn: Callable[[str], None]
) -> None:
    """An encoder that tells no two images apart scores chance, as it should; most likely its weights are wrong."""
    if len(rows) >= SURELY_CONSTANT and (rows == rows[0]).all():
        first, second = (images[0].name for _, images in sorted(by_key.items())[:2])
        warn(
            f"{embedder.spec}: {first}, {second} and all other of {len(rows)} different images get the same embedding; "
            "look whether its weights and its preprocessing are what they should be"
        )


def _of_members(
    images: Sequence[ImageFile],
    ensemble: Embedder,
    store_root: Path,
    batch_size: int | None,
    progress: Progress | None,
    warn: Callable[[str], None],
) -> Embeddings:
    """An ensemble keeps nothing of its own: its members' embeddings are stored."""
    found = [
        embed_images(images, member.embedder, store_root, batch_size=batch_size, progress=progress, warn=warn)
        for member in ensemble.members
    ]
    keys = sorted(set.intersection(*(set(each.row_of) for each in found)))
    parts = [each.rows[[each.row_of[key] for key in keys]] for each in found]
    rows = joined([(part, member.weight) for part, member in zip(parts, ensemble.members, strict=True)])
    faults = sorted({fault for each in found for fault in each.faults})
    return Embeddings(
        {key: i for i, key in enumerate(keys)}, rows, sum(each.n_forward_passes for each in found), tuple(faults)
    )


class _Loop:
    def __init__(self, embedder: Embedder, store: EmbeddingStore, batch_size: int, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.embedder = embedder
        self.store = store
        self.batch_size = batch_size
        self.n_forward_passes = 0
        self.faults: dict[str, Fault] = {}
        self._waiting: list[tuple[ImageFile, npt.NDArray[Any]]] = []
        self._done_keys: list[str] = []
        self._done_rows: list[Rows] = []
        self._last_shard = time.monotonic()

    def run(self, images: Sequence[ImageFile]) -> Iterator[int]:
        """Embed all; yields the number of images finished at each step."""
        preprocess = self.embedder.model.preprocess

        def prepared(image: ImageFile) -> tuple[ImageFile, npt.NDArray[Any] | Fault]:
            try:
                return image, preprocess(image.open())
            except BadImage as error:
                return image, Fault(image.name, error.what, error.remedy)

        try:
            for image, pixels in in_threads(prepared, images, look_ahead=2 * self.batch_size):
                if isinstance(pixels, Fault):
                    self.faults[image.key] = pixels
                    yield 1
                    continue
                self._waiting.append((image, pixels))
                if len(self._waiting) >= self.batch_size:
                    yield self._embed_waiting()
            while self._waiting:
                yield self._embed_waiting()
        except MemoryError:
            raise FinerRankError(
                f"{self.embedder.spec}: memory ended while images were prepared; use a smaller --batch-size"
            ) from None
        finally:
            self._write_shard()

    def _embed_waiting(self) -> int:
        batch, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        try:
            rows = self.embedder.forward(np.stack([pixels for _, pixels in batch]))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise FinerRankError(
                    f"{self.embedder.spec}: too little memory for one image; use another --device or a smaller --size"
                ) from None
            self._waiting = batch + self._waiting
            self.batch_size = len(batch) // 2
            self.warn(f"out of memory: {self.batch_size} images per forward pass from here on")
            return 0
        self.n_forward_passes += len(batch)
        for (image, _), row in zip(batch, rows, strict=True):
            wrong = what_is_wrong(row)
            if wrong:
                remedy = f"look at the image; {self.embedder.spec} cannot place it"
                self.faults[image.key] = Fault(image.name, wrong, remedy)
                continue
            self._done_keys.append(image.key)
            self._done_rows.append(row)
        if len(self._done_rows) >= SHARD_IMAGES or time.monotonic() - self._last_shard > SHARD_SECONDS:
            self._write_shard()
        return len(batch)

    def _write_shard(self) -> None:
        if self._done_rows:
            self.store.append(self._done_keys, np.stack(self._done_rows))
        self._done_keys, self._done_rows = [], []
        self._last_shard = time.monotonic()


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )
