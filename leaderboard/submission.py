"""Submission: a run that keeps a gallery's contract becomes a bundle."""

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmark.copies import with_copies
from benchmark.embed import Progress
from benchmark.embedders import Embedder
from benchmark.protocol import Options, evaluate
from benchmark.records import Record, write_record
from benchmark.store import Root
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import new_folder
from galleries.images import BadImage, in_threads, open_image, read_image_bytes, sha256_of
from leaderboard.bundle import FORMAT, MANIFEST, N_SHOWN, bundle_name, gaps_of, missing_prompts, record_folder
from leaderboard.bundle_check import CheckedBundle, check_bundle
from leaderboard.record_schema import DECLARED
from leaderboard.thumbnails import are_allowed, write_thumbnails
from personalization_runs.run import CARD_NAME, CLASS_ONLY, REFUSED_NAME, GeneratedImage, Run

N_REFERENCES = 4
"""References shown of an identity for which a run names none."""


MIN_PX = 64
"""Of the smaller side of an image: less shows no individual."""


def contract_faults(run: Run, gallery: Gallery, may_be_incomplete: bool) -> list[Fault]:
    """What keeps a run from being submitted for a gallery, beyond what keeps it from being scored.

    Args:
        may_be_incomplete: identities and prompts may be missing.
    """
    card_path = run.root / CARD_NAME
    # The card itself: opening a run fills in names that its author did not give.
    card = tomllib.loads(card_path.read_text(encoding="utf-8")) if card_path.is_file() else {}
    faults = [
        Fault(CARD_NAME, f"{field} is not declared", f'add {field} = "…" to it')
        for field in DECLARED
        if not str(card.get(field, "")).strip()
    ]
    for field, own in (("gallery", gallery.card.name), ("gallery_version", gallery.card.version)):
        said = str(card.get(field, "")).strip()
        if said and said != own:
            faults.append(
                Fault(CARD_NAME, f"{field} = {said!r}", f"the gallery at hand is {own!r}; name the one it is for")
            )
    return [*faults, *([] if may_be_incomplete else _gaps(run, gallery)), *_small_images(run)]


def _gaps(run: Run, gallery: Gallery) -> Iterator[Fault]:
    """Identities and prompts that the run lacks, and images that a filter kept back."""
    remedy = "generate them too (a board compares whole runs), or submit the run unranked with --incomplete"
    asked_for = {photo.identity for photo in gallery.split("gallery")}
    asked = set()
    for image in run.images:
        everybody = run.card.method == CLASS_ONLY and not image.identity
        for identity in asked_for if everybody else {image.identity} & asked_for:
            category = gallery.category_of[identity]
            if image.category in ("", category):
                asked.add((category, identity, image.prompt_id))
    missing = sorted(asked_for - {identity for _, identity, _ in asked})
    if missing:
        first = ", ".join(missing[:N_SHOWN]) + (" …" if len(missing) > N_SHOWN else "")
        what = f"no image of {len(missing)} of the gallery's {len(asked_for)} identities ({first})"
        yield Fault("metadata", what, remedy)
    prompts = missing_prompts(asked)
    if prompts:
        yield Fault("metadata", prompts, remedy)
    if run.refused:
        lost = run.refused[0]
        shown = f"{lost.identity}: {lost.prompt_id or lost.prompt}, {lost.reason}"
        what = f"{len(run.refused)} images were refused by a filter, and count as missing (first {shown})"
        yield Fault(REFUSED_NAME, what, "run it with other prompts, or submit the run unranked with --incomplete")


def _small_images(run: Run) -> Iterator[Fault]:
    """One fault for all images that are too small."""

    def size_of(image: GeneratedImage) -> tuple[int, int] | None:
        try:
            return open_image(read_image_bytes(image.path)).size
        except BadImage:  # said of the image by itself
            return None

    small = [(i, size) for i, size in zip(run.images, in_threads(size_of, run.images), strict=True)
             if size and min(size) < MIN_PX]  # fmt: skip
    if small:
        image, (width, height) = small[0]
        more = f" (and {len(small) - 1} more images)" if len(small) > 1 else ""
        what = f"{width} × {height} pixels, less than {MIN_PX} at the smaller side{more}"
        yield Fault(image.file_name, what, "submit the images as large as they were generated")


def score(
    gallery: Gallery,
    run: Run,
    embedders: Sequence[Embedder],
    store: Root,
    options: Options,
    progress: Progress | None,
    warn: Callable[[str], None],
) -> tuple[list[Record], list[str]]:
    """The records of a bundle, one per embedder, and what a reader of their numbers should know.

    Raises:
        Faults, FinerRankError: see `benchmark.protocol.evaluate`.
    """
    evaluations = evaluate(gallery, [run], embedders, store, options, progress, warn)
    records = with_copies([record for each in evaluations for record in each.records], gallery, run, progress)
    return records, list(dict.fromkeys(remark for each in evaluations for remark in each.notes))


def write_bundle(records: Sequence[Record], gallery: Gallery, run: Run, out: Path) -> tuple[Path, CheckedBundle]:
    """Write the bundle of a run's records on a gallery below `out`, as a whole or not at all.

    Raises:
        FinerRankError: a bundle of the same name is there; it cannot be written; an image has changed meanwhile.
        Faults: the bundle that would be written is not accepted by `check_bundle`.
    """
    first = records[0].summary
    folder = out / bundle_name(first["gallery"], run.card.model)
    refuse_bundle(folder)
    with new_folder(folder) as partial:
        for record in records:
            place = partial / record_folder(record.summary["embedder"])
            write_record(record, place)
            (place / "places.json").unlink()
        references: list[dict[str, str]] = []
        if are_allowed(gallery.card.thumbnails):
            references, pictures = shown_pictures(records, gallery, run)
            write_thumbnails(pictures, partial)
        manifest = {
            "format": FORMAT,
            "protocol": first["protocol"],
            "model": run.card.model,
            "gallery": {key: first["gallery"][key] for key in ("name", "version", "table_sha256", "images_sha256")},
            "incomplete": _gaps_of_record(records[0]),
            "records": sorted(record_folder(record.summary["embedder"]) for record in records),
            "references": references,
            "files": {
                path.relative_to(partial).as_posix(): sha256_of(path.read_bytes())
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
        }
        content = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True)
        (partial / MANIFEST).write_text(content + "\n", encoding="utf-8")
        checked = check_bundle(partial, folder.name)
        raise_if_any(str(folder), checked.faults)
    return folder, checked


def _gaps_of_record(record: Record) -> list[str]:
    columns = (record.queries.column(name).to_pylist() for name in ("category", "identity", "prompt_id"))
    return gaps_of(zip(*columns, strict=True), record.summary)


def refuse_bundle(folder: Path) -> None:
    """Refuse to write over a bundle, before anything long is begun.

    Raises:
        FinerRankError: something is there.
    """
    if folder.exists():
        raise FinerRankError(
            f"{folder}: is there already; name the model otherwise in {CARD_NAME}, or remove that bundle first"
        )


def shown_pictures(
    records: Sequence[Record], gallery: Gallery, run: Run
) -> tuple[list[dict[str, str]], dict[str, Path]]:
    """The references to show, and SHA-256 → file of all pictures to show.

    Raises:
        FinerRankError: a reference cannot be read.
    """
    photos = {photo.file_name: photo for photo in gallery.photos}
    images = {image.file_name: image for image in run.images}
    queries = records[0].queries
    pictures = {}
    for name, digest in zip(
        queries.column("file_name").to_pylist(), queries.column("image_sha256").to_pylist(), strict=True
    ):
        pictures[digest] = images[name].path
    for record in records:
        near = record.neighbours
        for name, digest in zip(
            near.column("file_name").to_pylist(), near.column("image_sha256").to_pylist(), strict=True
        ):
            pictures[digest] = photos[name].path
    shown: dict[str, Photo] = {}
    for identity, name in zip(
        queries.column("identity").to_pylist(), queries.column("reference_file_name").to_pylist(), strict=True
    ):
        own = [photos[name]] if name else gallery.references.get(identity, ())[:N_REFERENCES]
        shown |= {photo.file_name: photo for photo in own}
    references = []
    for name, photo in sorted(shown.items()):
        try:
            digest = sha256_of(read_image_bytes(photo.path))
        except BadImage as error:
            raise FinerRankError(f"{photo.path}: {error}") from None
        pictures[digest] = photo.path
        references.append({"file_name": name, "identity": photo.identity, "image_sha256": digest})
    return references, pictures
