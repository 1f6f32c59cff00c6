"""The protocol: a run's images as queries against a gallery, under one or several embedders.

Finer-Personalization Rank (arXiv 2512.19026): a generated image is ranked among identity-labelled real photos of its
category; the score is how early the photos of the right identity come.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.aggregates import Aggregate, Answer
from benchmark.distances import Resources
from benchmark.distractors import chooser_note
from benchmark.embed import ImageFile, Progress, embed_with_each, image_files
from benchmark.embedders import Embedder
from benchmark.judge import Judge, Options
from benchmark.pairwise_distance import pairwise_distance
from benchmark.prompt_fidelity import prompt_fidelity
from benchmark.records import ALL, SAME_VIEWPOINT, Record
from benchmark.regions import FULL, Mask, Region, Treatment, find_masks
from benchmark.store import Root, print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import Gallery
from galleries.image_set import ImageRow
from galleries.images import BadImage, in_threads
from galleries.photo_checks import copied_photos, leaked_photos
from personalization_runs.run import Run

__all__ = ["Evaluation", "Options", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What one embedder says of a gallery and of runs on it, of one region of their pictures.

    Attributes:
        anchors: `chance`, `held_out`, `copied_reference`, `class_only` → metric → estimate. None where the gallery has
            no references, no identity has two photos, or no class-only run was given.
        records: one per run, in order.
        n_images: usable image files, of which `n_distinct` differ in content.
        n_forward_passes: images that went through the encoder now; the others came from the store.
        left_out: what `skip_broken` left out, a line each.
        notes: what a reader of the numbers should know.
        region: part of each picture that was embedded.
        positives: see `Record.positives`.
        n_left_out: images that have no part in any number.
        held_out: file name of each gallery photo that has an answer → that answer.
    """

    embedder: str
    anchors: Mapping[str, Aggregate | None]
    records: tuple[Record, ...]
    n_images: int
    n_distinct: int
    n_forward_passes: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    region: Region = FULL
    positives: str = ALL
    n_left_out: int = 0
    held_out: Mapping[str, Answer] = field(default_factory=dict)


def evaluate(
    gallery: Gallery,
    runs: Sequence[Run],
    embedders: Sequence[Embedder],
    store: Root,
    options: Options | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
    known_faults: Sequence[Fault] = (),
) -> list[Evaluation]:
    """Score runs on a gallery, once per embedder and region. Anchors are computed before any run is looked at.

    Args:
        known_faults: of opening gallery and runs: nothing is scored then, but the images' faults are listed too.

    Raises:
        Faults: everything wrong with gallery, runs and their images, found before any number exists.
        FinerRankError: an embedder that cannot be loaded; the same viewpoint is asked for, and none is known.
    """
    options = options or Options()
    refuse_same_names(runs)
    if options.same_viewpoint:
        _check_viewpoints(gallery)
    if options.pairwise and options.regions != (FULL,):
        raise FinerRankError("--pairwise: compares whole pictures; leave --region out")
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
    of_region, mask_faults = _regions(sets, files, options, progress)
    if known_faults or ((faults or mask_faults) and not options.skip_broken):
        # The pixels too, which are otherwise decoded only to be embedded: all faults are listed at once.
        image_faults = image_files(sets, decode=True, progress=progress)[1]
        cut_faults = _faults_of_opening([file for of in of_region.values() for file in of.values() if file.treatment])
        faults = [*known_faults, *image_faults, *below(gallery.root, leaks), *mask_faults, *cut_faults]
        raise_if_any("cannot be scored", dict.fromkeys(faults))
    judge = _among(embedders, options.prompt_judge) if options.prompt_judge and runs else None
    by_workers: dict[Region, dict[str, int]] = {}
    if options.cluster:
        from benchmark.cluster import embed_on_ray

        jobs = [(list(own.values()), embedders) for own in of_region.values()]
        if judge:  # first, as in one process: which images share a batch decides last bits
            prompted = [image.path for run in runs for image in run.images if image.prompt.strip()]
            jobs.insert(0, ([files[path] for path in prompted if path in files], [judge]))
        size = options.batch_size
        passes = embed_on_ray(jobs, store, options.cluster, batch_size=size, progress=progress, warn=warn)
        by_workers = dict(zip(of_region, passes[-len(of_region) :], strict=True))
    fidelity = None
    if judge:
        size = options.batch_size
        fidelity = prompt_fidelity(runs, files, judge, store, batch_size=size, progress=progress, warn=warn)
    clip_t_faults = fidelity.faults if fidelity else ()
    clip_t_notes = (
        *(fidelity.notes if fidelity else ()),
        *(f"left out of CLIP-T: {fault}" for fault in clip_t_faults),
    )
    if options.pairwise:
        _ = options.pairwise.fingerprint  # weights that are out of reach are refused before the long work
    distances = None
    n_asked = sum(len(rows) for _, rows in sets)
    evaluations = []
    names: dict[str, str] = {}
    for embedder in embedders:
        twin = names.setdefault(embedder.fingerprint, embedder.spec)
        if twin != embedder.spec:
            raise FinerRankError(f"--embedder {twin} and {embedder.spec} are the same encoder; name one of them")
    pending = {
        region: embed_with_each(
            list(own.values()),
            embedders,
            store,
            batch_size=options.batch_size,
            memory=options.memory,
            progress=progress,
            warn=warn,
        )
        for region, own in of_region.items()
    }
    for embedder in embedders:
        embedded = {region: next(found) for region, found in pending.items()}
        if not options.skip_broken:
            found = [fault for embeddings in embedded.values() for fault in embeddings.faults]
            raise_if_any("cannot be scored", dict.fromkeys([*found, *clip_t_faults]))
        if options.pairwise and runs and distances is None:  # after the pictures are known to be sound
            resources = Resources(store, options.batch_size, progress, warn)
            distances = pairwise_distance(gallery, runs, files, options.pairwise, resources, options.skip_broken)
        for region, own in of_region.items():
            rows_of_keys = embedded[region].row_of
            row_of = {path: rows_of_keys[file.key] for path, file in own.items() if file.key in rows_of_keys}
            rows = embedded[region].rows
            opinion = Judge(gallery, own, row_of, rows, embedder, options, region, fidelity, distances).opinion(runs)
            remark = chooser_note(gallery.card, embedder)
            left_out = [*faults, *(mask_faults if region != FULL else ()), *embedded[region].faults]
            evaluations.append(
                Evaluation(
                    embedder.spec,
                    opinion.anchors,
                    opinion.records,
                    n_images=len(own),
                    n_distinct=len({file.key for file in own.values()}),
                    n_forward_passes=embedded[region].n_forward_passes
                    + sum(by_workers.get(region, {}).pop(plain.fingerprint, 0) for plain in embedder.plain),
                    left_out=tuple(str(fault) for fault in left_out),
                    notes=(
                        *copies,
                        *([remark] if remark else []),
                        *opinion.notes,
                        *clip_t_notes,
                    ),
                    region=region,
                    positives=SAME_VIEWPOINT if options.same_viewpoint else ALL,
                    n_left_out=n_asked - len(row_of),
                    held_out=opinion.held_out,
                )
            )
    return evaluations


def _among(embedders: Sequence[Embedder], judge: Embedder) -> Embedder:
    """One of the embedders that computes what the judge does, so that one network serves both; else the judge."""
    if judge.members:
        return judge
    for embedder in embedders:
        # Fingerprints build networks: first what they hold and what is known without one.
        if (embedder.request.family, embedder.precision) == (judge.request.family, judge.precision):
            same = embedder.fingerprint == judge.fingerprint and embedder.texts_digest() == judge.texts_digest()
            if same:
                return embedder
    return judge


def _regions(
    sets: Sequence[tuple[Path, Sequence[ImageRow]]],
    files: Mapping[Path, ImageFile],
    options: Options,
    progress: Progress | None,
) -> tuple[dict[Region, Mapping[Path, ImageFile]], list[Fault]]:
    """The files to embed for each region, and what is wrong with masks.

    Raises:
        Faults: a folder without any mask, where a region needs masks.
    """
    of_region: dict[Region, Mapping[Path, ImageFile]] = {}
    masks: dict[Path, Mask] = {}
    faults: list[Fault] = []
    if any(region != FULL for region in options.regions):
        step = progress("reading masks", sum(len(rows) for _, rows in sets)) if progress else None
        for i, (root, rows) in enumerate(sets):
            own, wrong = find_masks(root, rows, f"finer-rank {'run' if i else 'gallery'} mask", step)
            masks |= own
            faults += wrong
        # Skipping what is broken would leave nothing of such a folder.
        bare = {str(root) for root, rows in sets if not any(row.mask_file_name for row in rows)}
        raise_if_any("cannot be scored", [fault for fault in faults if fault.where in bare])
    for region in options.regions:
        of_region[region] = files
        if region != FULL:
            cut = {path: Treatment(region, mask) for path, mask in masks.items()}
            of_region[region] = {
                path: replace(file, treatment=cut[path]) for path, file in files.items() if path in cut
            }
    return of_region, faults


def _faults_of_opening(files: Sequence[ImageFile]) -> list[Fault]:
    def fault(file: ImageFile) -> Fault | None:
        try:
            file.open()
        except BadImage as error:
            return Fault(file.name, error.what, error.remedy)
        return None

    return [found for found in in_threads(fault, files) if found]


def _check_viewpoints(gallery: Gallery) -> None:
    spelt: dict[str, str] = {}
    for viewpoint in sorted({photo.viewpoint for photo in gallery.photos if photo.viewpoint.strip()}):
        other = spelt.setdefault(viewpoint.lower(), viewpoint)
        if other != viewpoint:
            what = f"{gallery.root}: viewpoints {other!r} and {viewpoint!r} differ in capitals alone"
            raise FinerRankError(f"{what}; spell them alike")
    if not spelt:
        remedy = "fill in the column viewpoint (left, right, …), or leave --same-viewpoint out"
        raise FinerRankError(f"{gallery.root}: no photo has a viewpoint; {remedy}")


def refuse_same_names(runs: Sequence[Run]) -> None:
    names = [run.card.model for run in runs]
    for name in names:
        if names.count(name) > 1:
            places = ", ".join(str(run.root) for run in runs if run.card.model == name)
            raise FinerRankError(f"two runs are named {name!r} ({places}); give each its own model name in run.toml")
