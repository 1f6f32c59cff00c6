"""Images to embeddings: every photo once. What the store holds is not computed again."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.embed_loop import Encoder, Pass
from benchmark.embedders import Embedder
from benchmark.embedders.pictures import joined
from benchmark.regions import Treatment
from benchmark.store import Root, print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import ImageRow, image_digests
from galleries.images import BadImage, decode_image, image_fault, in_threads, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from PIL import Image

Rows = npt.NDArray[np.float32]
Progress = Callable[[str, int], Callable[[int], Any]]
"""Called with a label and a total; returns what to call with the number of steps done."""

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
    store_root: Root,
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
    store_root: Root,
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
    store_root: Root,
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
    (found,) = embed_with_each(images, [embedder], store_root, batch_size=batch_size, progress=progress, warn=warn)
    return found


def embed_with_each(
    images: Sequence[ImageFile],
    embedders: Sequence[Embedder],
    store_root: Root,
    *,
    batch_size: int | None = None,
    memory: float = math.inf,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> Iterator[Embeddings]:
    """Embed images with several embedders in one pass: a picture that any of them lacks is decoded once for all.

    Nothing is computed before the first result is asked for, and all is computed then; each embedder's rows are read
    when it is its turn. Its batches, and with them its numbers, are those that it has alone. The networks of all that
    lack a picture are in memory together, as they would be in the end; with each of them a batch of pixels is.

    Args:
        memory: bytes above which an embedder's rows are a `numpy.memmap`; an ensemble's never are.

    Yields:
        What `embed_images` returns, for each embedder. A forward pass that serves two of them counts for the first.

    Raises:
        FinerRankError: see `embed_images`.
    """
    by_key: dict[str, list[ImageFile]] = {}
    for image in images:
        by_key.setdefault(image.key, []).append(image)
    plain = [member for embedder in embedders for member in embedder.plain]
    encoders: dict[str, Encoder] = {}
    encoder_of: dict[Embedder, Encoder] = {}
    for embedder in plain:
        if embedder.fingerprint not in encoders:
            encoder = Encoder(embedder, by_key.keys(), store_root, batch_size, memory, warn)
            if len(plain) > 1 or encoder.missing:  # several encoders' rows are not held at once, nor one's twice
                encoder.found = None
            encoders.setdefault(embedder.fingerprint, encoder)
        encoder_of[embedder] = encoders[embedder.fingerprint]
    lacking = [encoder for encoder in encoders.values() if encoder.missing]
    if lacking:
        steps = {
            encoder: progress(f"embedding with {encoder.embedder.spec}", len(encoder.missing))
            for encoder in lacking
            if progress
        }
        # Sorted by content, so that neither file order nor names decide which images share a batch.
        keys = sorted(set().union(*(encoder.missing for encoder in lacking)))
        for encoder, n_done in Pass(lacking).run([by_key[key][0] for key in keys]):
            if encoder in steps:
                steps[encoder](n_done)
    for embedder in embedders:
        found = [_embeddings(encoder_of[member], by_key, warn) for member in embedder.plain]
        yield _joined(embedder, found) if embedder.members else found[0]


def _embeddings(encoder: Encoder, by_key: Mapping[str, list[ImageFile]], warn: Callable[[str], None]) -> Embeddings:
    """What the store holds after a pass. The forward passes are told once."""
    row_of, rows = encoder.found or encoder.store.read(by_key, encoder.memory)
    if encoder.embedder.fingerprint != encoder.fingerprint:
        raise FinerRankError(f"{encoder.embedder.spec}: its weights changed while pictures were embedded; run again")
    lost = by_key.keys() - row_of.keys() - encoder.faults.keys()
    if lost:
        raise FinerRankError(
            f"{encoder.embedder.spec}: embeddings of {len(lost)} images went out of the store while they were in use, "
            f"of {min(by_key[key][0].name for key in lost)} among others; run again"
        )
    _warn_of_constant(encoder.embedder, by_key, rows, warn)
    faults = [
        Fault(image.name, wrong.what, wrong.remedy) for key, wrong in encoder.faults.items() for image in by_key[key]
    ]
    n_forward_passes, encoder.n_forward_passes = encoder.n_forward_passes, 0
    return Embeddings(row_of, rows, n_forward_passes, tuple(sorted(faults)))


def _joined(ensemble: Embedder, found: Sequence[Embeddings]) -> Embeddings:
    keys = sorted(set.intersection(*(set(each.row_of) for each in found)))
    parts = [each.rows[[each.row_of[key] for key in keys]] for each in found]
    rows = joined([(part, member.weight) for part, member in zip(parts, ensemble.members, strict=True)])
    faults = sorted({fault for each in found for fault in each.faults})
    return Embeddings(
        {key: i for i, key in enumerate(keys)}, rows, sum(each.n_forward_passes for each in found), tuple(faults)
    )


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
