"""How well a network tells apart the photos that were held back."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from benchmark.aggregates import Answer, chance_of
from benchmark.embedders.base import LoadedModel, unit_rows
from benchmark.embedders.pictures import what_is_wrong
from benchmark.pool import Asked, Pool
from benchmark.rank import GALLERY_BLOCK
from benchmark.training.backbone import network_of
from benchmark.training.learner import Diverged
from benchmark.training.pictures import Pictures
from galleries.console import Progress
from galleries.errors import FinerRankError
from galleries.gallery import Photo
from galleries.images import in_threads

N_FORWARD = 32


class Validation:
    """Photos held back, each asked for among all of them within its category.

    Itself and its encounter are left out of a photo's ranking, as in the anchor `held_out` of `evaluate`. A question
    that any order would answer is not asked.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        loaded: LoadedModel,
        size: int,
        memory_bytes: int,
        progress: Progress | None,
    ) -> None:
        self.loaded = loaded
        self.photos = [replace(photo, split="gallery") for photo in photos]
        self.pictures = Pictures(self.photos, size, memory_bytes, progress)
        self.asked = [
            Asked(i, p.identity, p.category, p.file_name, frozenset([p.encounter] if p.encounter else ()))
            for i, p in enumerate(self.photos)
        ]

    def answers(self, when: str) -> tuple[list[Answer], int]:
        """Answers by the network as it is, and the length of its embeddings.

        Raises:
            Diverged: embeddings that tell nothing.
            FinerRankError: no photo can be asked for.
        """
        network_of(self.loaded).eval()
        numbers = range(len(self.photos))
        stream = in_threads(lambda i: self.loaded.preprocess(self.pictures[i]), numbers)
        chunks = iter(lambda: list(islice(stream, N_FORWARD)), [])
        rows = unit_rows(np.concatenate([self.loaded.forward(np.stack(batch)) for batch in chunks]))
        for photo, row in zip(self.photos, rows, strict=True):
            wrong = what_is_wrong(row)
            if wrong:
                raise Diverged(f"{when}: {wrong} ({photo.file_name})")
        scores = Pool(self.photos, rows, GALLERY_BLOCK).score(self.asked, rows)
        answers = [
            Answer(asked.identity, asked.category, each, chance_of(each))
            for asked, each in zip(self.asked, scores, strict=True)
            if each and each.n_relevant < each.n_gallery
        ]
        if not answers:
            raise FinerRankError(
                "no photo can be asked for: of each identity held back, two photos of different encounters are needed, "
                "and two identities in a category"
            )
        return answers, rows.shape[1]


def mean_precision(answers: Sequence[Answer]) -> float:
    """mAP over the photos asked for."""
    return math.fsum(answer.scores.average_precision for answer in answers) / len(answers)
