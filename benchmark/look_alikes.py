"""One identity among its look-alikes, embedded once, to rank pictures that lie in memory."""

import math
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from benchmark.embed import Progress, embed_images, image_files
from benchmark.embedders import Embedder
from benchmark.pool import Asked, Pool, chance_scores
from benchmark.rank import GALLERY_BLOCK, Rows, pair_similarity, row_norms
from benchmark.store import Root, print_to_stderr
from galleries.errors import FinerRankError, below, raise_if_any
from galleries.gallery import Gallery
from galleries.photo_checks import leaked_photos


class LookAlikes:
    """The photos that an identity's pictures are ranked among: those of its category. What is stored is not embedded.

    Attributes:
        chance: mAP of a random order.
        held_out: mean average precision of the identity's own gallery photos; None where it has only one.
        n_forward_passes: photos that went through the encoder now; the others came from the store.

    Raises:
        Faults: photos that cannot be used, or that are references too.
        FinerRankError: an identity that the gallery does not hold, without references or without anybody to be
            mistaken for; see also `embed_images`.
    """

    def __init__(
        self,
        gallery: Gallery,
        identity: str,
        embedder: Embedder,
        store: Root,
        *,
        progress: Progress | None = None,
        warn: Callable[[str], None] = print_to_stderr,
    ) -> None:
        where = f"{gallery.root}: identity {identity!r}"
        if identity not in gallery.category_of:
            near = get_close_matches(identity, gallery.category_of, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "name one of its table"
            raise FinerRankError(f"{where}: not in this gallery; {remedy}")
        references = gallery.references.get(identity, ())
        if not references:
            raise FinerRankError(f"{where}: no reference photo; set one aside (split = reference)")
        category = gallery.category_of[identity]
        ranked = [p for p in gallery.photos if p.category == category and p.split != "reference"]
        photos = [*ranked, *references]
        files, faults = image_files([(gallery.root, photos)], decode=False, progress=progress)
        leaks = leaked_photos(photos, [files[p.path].digest if p.path in files else None for p in photos])
        raise_if_any("cannot be scored", [*faults, *below(gallery.root, leaks)])
        # The network is needed anyway; asked now, it cannot turn out to be another than the one of stored rows.
        for each in [member.embedder for member in embedder.members] or [embedder]:
            each.is_outdated()
        found = embed_images(list(files.values()), embedder, store, progress=progress, warn=warn)
        raise_if_any("cannot be scored", found.faults)
        rows = found.rows[[found.row_of[files[photo.path].key] for photo in photos]]
        self.n_forward_passes = found.n_forward_passes
        self._references = rows[len(ranked) :]
        self._pool = Pool(ranked, rows[: len(ranked)], GALLERY_BLOCK)
        # As `evaluate` asks where a run does not say which reference an image was made from.
        seen = frozenset(photo.encounter for photo in references if photo.encounter)
        self._question = Asked(0, identity, category, encounters=seen)
        n_relevant, n_ranked = self._pool.n_ranked(self._question)
        if not n_relevant:
            raise FinerRankError(f"{where}: no gallery photo that its references do not give away; add some")
        if n_relevant == n_ranked:
            raise FinerRankError(f"{where}: its category {category!r} shows nobody else; any ranking would be right")
        self.chance = chance_scores(n_relevant, n_ranked).average_precision
        own = [(row, p) for row, p in enumerate(ranked) if p.identity == identity and p.split == "gallery"]
        asked = [
            Asked(row, identity, category, p.file_name, frozenset([p.encounter] if p.encounter else []))
            for row, p in own
        ]
        answers = [scores.average_precision for scores in self._pool.score(asked, rows) if scores]
        self.held_out = math.fsum(answers) / len(answers) if answers else None

    def scores(self, rows: Rows) -> tuple[float, float, float]:
        """mAP, AUC and mean cosine to the references of pictures of the identity, embedded as `[Q, D]` float32."""
        scored = [s for s in self._pool.score([replace(self._question, row=i) for i in range(len(rows))], rows) if s]
        n, n_references = len(rows), len(self._references)
        similarity = pair_similarity(
            rows,
            self._references,
            np.repeat(np.arange(n), n_references),
            np.tile(np.arange(n_references), n),
            row_norms(rows),
            row_norms(self._references),
        )
        return (
            math.fsum(s.average_precision for s in scored) / n,
            math.fsum(s.auc for s in scored) / n,
            math.fsum(similarity.tolist()) / len(similarity),
        )
