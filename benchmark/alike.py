"""An embedder as a second opinion of the leak gate: which photos it finds close."""

from collections.abc import Iterator, Sequence

from benchmark.embed import ImageFile, embed_images
from benchmark.embedders import load_embedder
from benchmark.rank import nearest
from benchmark.store import default_store
from galleries.gallery import Photo
from galleries.images import BadImage, read_image_bytes, sha256_of
from galleries.leaks import Alike

N_PROPOSED = 5
"""Nearest photos of each reference that are looked at closely, whatever their similarity."""
N_SEARCHED = 100
"""Nearest photos of each reference among which those above the threshold are looked for."""


def alike_photos(spec: str, near: float | None) -> Alike:
    """The pairs of a reference and another photo that an embedder finds closest.

    Args:
        near: cosine from which a pair is given with its cosine, as a leak; others are only proposed.

    Raises:
        FinerRankError: unknown embedder.
    """
    store = default_store()
    embedder = load_embedder(spec, memo=store)

    def alike(photos: Sequence[Photo]) -> Iterator[tuple[int, int, float]]:
        files = [ImageFile(p.file_name, p.path, _digest(p)) for p in photos]
        embedded = embed_images([file for file in files if file.digest], embedder, store)
        sides: dict[bool, list[int]] = {True: [], False: []}
        for i, (photo, file) in enumerate(zip(photos, files, strict=True)):
            if file.digest in embedded.row_of:
                sides[photo.split == "reference"].append(i)
        if not sides[True] or not sides[False]:
            return
        rows = {side: embedded.rows[[embedded.row_of[files[i].digest] for i in own]] for side, own in sides.items()}
        depth = min(N_SEARCHED, len(sides[False]))
        near_to = nearest(queries=rows[True], gallery=rows[False], k=depth)
        for i, (others, cosines) in zip(sides[True], near_to, strict=True):
            for rank, (j, cosine) in enumerate(zip(others.tolist(), cosines.tolist(), strict=True)):
                if near is not None and cosine >= near:
                    yield i, sides[False][j], cosine
                elif rank < N_PROPOSED:
                    yield i, sides[False][j], float("nan")

    return alike


def _digest(photo: Photo) -> str:
    try:
        return sha256_of(read_image_bytes(photo.path))
    except BadImage:
        return ""
