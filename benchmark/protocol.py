"""The protocol: a run's images as queries against a gallery, under one or several embedders.

Finer-Personalization Rank (arXiv 2512.19026): a generated image is ranked among identity-labelled real photos of its
category; the score is how early the photos of the right identity come.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.aggregates import Aggregate
from benchmark.embed import Progress, embed_images, image_files
from benchmark.embedders import Embedder
from benchmark.judge import Judge, Options
from benchmark.records import Record
from benchmark.store import print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import Gallery
from galleries.image_set import ImageRow
from galleries.photo_checks import copied_photos, leaked_photos
from personalization_runs.run import Run

__all__ = ["Evaluation", "Options", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What one embedder says of a gallery and of runs on it.

    Attributes:
        anchors: `chance`, `held_out`, `copied_reference`, `class_only` → metric → estimate. None where the gallery has
            no references, no identity has two photos, or no class-only run was given.
        records: one per run, in order.
        n_images: usable image files, of which `n_distinct` differ in content.
        n_forward_passes: images that went through the encoder now; the others came from the store.
        left_out: what `skip_broken` left out, a line each.
        notes: what a reader of the numbers should know.
    """

    embedder: str
    anchors: Mapping[str, Aggregate | None]
    records: tuple[Record, ...]
    n_images: int
    n_distinct: int
    n_forward_passes: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def evaluate(
    gallery: Gallery,
    runs: Sequence[Run],
    embedders: Sequence[Embedder],
    store: Path,
    options: Options | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
    known_faults: Sequence[Fault] = (),
) -> list[Evaluation]:
    """Score runs on a gallery, once per embedder. Anchors are computed before any run is looked at.

    Args:
        known_faults: of opening gallery and runs: nothing is scored then, but the images' faults are listed too.

    Raises:
        Faults: everything wrong with gallery, runs and their images, found before any number exists.
        FinerRankError: an embedder that cannot be loaded.
    """
    options = options or Options()
    _check_names(runs)
    if not known_faults:
        raise_if_any("cannot be scored", [f for run in runs for f in below(run.root, run.target_faults(gallery))])
    sets: list[tuple[Path, Sequence[ImageRow]]] = [
        (gallery.root, gallery.photos),
        *((run.root, run.images) for run in runs),
    ]
    files, faults = image_files(sets, decode=False, progress=progress)
    digests = [files[p.path].digest if p.path in files else None for p in gallery.photos]
    leaks = leaked_photos(gallery.photos, digests)
    faults += below(gallery.root, leaks)
    copies = copied_photos(gallery.photos, digests)
    leaked = {leak.where for leak in leaks}
    for photo in gallery.photos:
        if photo.file_name in leaked:
            files.pop(photo.path)
    if known_faults or (faults and not options.skip_broken):
        # The pixels too, which are otherwise decoded only to be embedded: all faults are listed at once.
        image_faults = image_files(sets, decode=True, progress=progress)[1]
        faults = [*known_faults, *image_faults, *below(gallery.root, leaks)]
        raise_if_any("cannot be scored", faults)
    evaluations = []
    for embedder in embedders:
        embedded = embed_images(
            list(files.values()), embedder, store, batch_size=options.batch_size, progress=progress, warn=warn
        )
        left_out = [*faults, *embedded.faults]
        if not options.skip_broken:
            raise_if_any("cannot be scored", left_out)
        row_of = {path: embedded.row_of[file.digest] for path, file in files.items() if file.digest in embedded.row_of}
        opinion = Judge(gallery, files, row_of, embedded.rows, embedder, options).opinion(runs)
        evaluations.append(
            Evaluation(
                embedder.spec,
                opinion.anchors,
                opinion.records,
                n_images=len(files),
                n_distinct=len({file.digest for file in files.values()}),
                n_forward_passes=embedded.n_forward_passes,
                left_out=tuple(str(fault) for fault in left_out),
                notes=(*copies, *opinion.notes),
            )
        )
    return evaluations


def _check_names(runs: Sequence[Run]) -> None:
    names = [run.card.model for run in runs]
    for name in names:
        if names.count(name) > 1:
            places = ", ".join(str(run.root) for run in runs if run.card.model == name)
            raise FinerRankError(f"two runs are named {name!r} ({places}); give each its own model name in run.toml")
