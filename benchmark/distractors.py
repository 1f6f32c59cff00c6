"""A gallery with more distractors: photos of another gallery, of nobody who is asked for."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmark.embed import Progress, embed_gallery
from benchmark.embedders import Embedder, published_spec
from benchmark.rank import Floats, Rows, pair_similarity, product_error, row_norms
from benchmark.store import Root, print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import CARD_NAME, Gallery, GalleryCard, Photo
from galleries.image_set import image_digests, new_folder, values_of, write_image_set
from galleries.leaks import inspect_photos
from galleries.sources import Found, told_apart

Choice = Literal["random", "same-category", "nearest"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
FOLDER = "distractors"
BLOCK = 1024
"""Photos of another gallery compared at a time."""


@dataclass(frozen=True)
class Chooser:
    """The encoder that says which photos are near.

    Attributes:
        store: folder of embeddings.
        batch_size: images per forward pass; 32 where None.
    """

    embedder: Embedder
    store: Root
    batch_size: int | None = None


@dataclass(frozen=True)
class _Stranger:
    photo: Photo
    digest: str


def add_distractors(
    gallery: Gallery,
    other: Gallery,
    choose: Choice,
    number: int,
    out: Path,
    *,
    chooser: Chooser | None = None,
    seed: int = 0,
    name: str = "",
    version: str = "1",
    symlink: bool = False,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> Gallery:
    """Write `gallery` and, to each of its categories, `number` photos of `other` as distractors; open the result.

    Never taken are photos of identities that `gallery` names too, photos with the bytes of one of its own, and
    near-duplicates of its references; of copies in `other`, one is. As an identity has one category, the categories
    take turns: in each of `number` rounds every category takes one photo, whose identity is then its own. So the
    distractors of a smaller `number` are among those of a larger, for the same seed or chooser.

    Args:
        choose: `random`: any photo. `same-category`: at random among photos whose category has the same name.
            `nearest`: the highest cosine to any gallery photo of the category.
        chooser: for `nearest`; its name and fingerprint go into the new card. It should not be the judge.
        name: of the new gallery; that of `out` by default.

    Raises:
        Faults: too few photos in `other`, or photos that cannot be used; nothing is written then.
        FinerRankError: no chooser for `nearest`, or `out` exists already.
    """
    if choose == "nearest" and chooser is None:
        raise FinerRankError("nearest: needs an embedder to say what is near; name one that will not be the judge")
    strangers = _strangers(gallery, other, progress)
    categories = sorted({photo.category for photo in gallery.split("gallery")})
    if chooser and choose == "nearest":
        wishes = _by_similarity(gallery, other, strangers, categories, chooser, progress, warn)
        spec, fingerprint = published_spec(chooser.embedder.spec), chooser.embedder.fingerprint[:8]
        how = f"nearest by {spec} (fingerprint {fingerprint})"
    else:
        wishes = _at_random(strangers, categories, seed, choose == "same-category")
        how = f"{choose} (seed {seed})"
    while True:
        chosen = _in_turns(strangers, wishes, number)
        _check_enough(other, chosen, number, choose)
        repeated = _repeat_references(gallery, chosen, progress)
        if not repeated:
            break
        for places in wishes.values():
            places[[i for i, stranger in enumerate(strangers) if stranger.digest in repeated]] = np.inf
    added = f"{number * len(categories)} {how} from {other.card.name} {other.card.version}"
    card = replace(
        gallery.card,
        name=name or out.resolve().name,
        version=version,
        distractors="; ".join(filter(None, [gallery.card.distractors, added])),
    )
    _check_images(gallery, other, chosen, progress)
    found = told_apart([*_kept(gallery), *_added(gallery, other, chosen)])
    with new_folder(out) as folder:
        write_image_set(folder, CARD_NAME, card, Photo, [(image.values, image) for image in found.values()], symlink)
    return Gallery.open(out)


def chooser_note(card: GalleryCard, embedder: Embedder) -> str | None:
    """What to say where the judge also chose the gallery's distractors; None where it did not."""
    for spec, fingerprint in re.findall(r"nearest by (.+?) \(fingerprint ([0-9a-f]{8})\)", card.distractors):
        so = "those that it confuses most, so that its scores are lower than another encoder's would be"
        if fingerprint == embedder.fingerprint[:8]:
            return f"{embedder.spec} chose this gallery's distractors itself: {so}"
        if spec == published_spec(embedder.spec):
            return f"{embedder.spec}, with other preprocessing or weights, chose this gallery's distractors: {so}"
    return None


def _strangers(gallery: Gallery, other: Gallery, progress: Progress | None) -> list[_Stranger]:
    """Photos of `other` that may be taken, each content once."""
    step = progress("reading images", len(gallery.photos) + len(other.photos)) if progress else None
    own, faults = image_digests(gallery.photos, False, step)
    theirs, other_faults = image_digests(other.photos, False, step)
    raise_if_any("no distractors can be chosen", [*below(gallery.root, faults), *below(other.root, other_faults)])
    taken = set(own)
    strangers: list[_Stranger] = []
    for photo, digest in zip(other.photos, theirs, strict=True):
        if digest and digest not in taken and photo.identity not in gallery.category_of:
            taken.add(digest)
            strangers.append(_Stranger(photo, digest))
    if not strangers:
        what = "every photo is of an identity of the gallery, or one of its photos"
        raise FinerRankError(f"{other.root}: {what}; name another gallery with --from")
    # By content, so that neither names nor the order of files decide anything.
    return sorted(strangers, key=lambda stranger: stranger.digest)


def _at_random(
    strangers: Sequence[_Stranger], categories: Sequence[str], seed: int, is_same_category: bool
) -> dict[str, Floats]:
    """See `_in_turns`. A keyed hash, not a generator: a new photo moves no other's place among the rest."""
    keys = [hashlib.sha256(f"{seed}\0{stranger.digest}".encode()).digest() for stranger in strangers]
    place = np.empty(len(keys))
    place[sorted(range(len(keys)), key=lambda i: keys[i])] = np.arange(len(keys))
    of = np.array([stranger.photo.category for stranger in strangers])
    return {c: np.where(of == c, place, np.inf) if is_same_category else place.copy() for c in categories}


def _by_similarity(
    gallery: Gallery,
    other: Gallery,
    strangers: Sequence[_Stranger],
    categories: Sequence[str],
    chooser: Chooser,
    progress: Progress | None,
    warn: Callable[[str], None],
) -> dict[str, Floats]:
    """See `_in_turns`."""
    own, theirs = (
        embed_gallery(
            part, chooser.embedder, chooser.store, batch_size=chooser.batch_size, progress=progress, warn=warn
        )
        for part in (
            replace(gallery, photos=gallery.split("gallery")),
            replace(other, photos=tuple(stranger.photo for stranger in strangers)),
        )
    )
    row_of = {photo.file_name: row for row, photo in enumerate(theirs.photos)}
    queries = theirs.rows[[row_of[stranger.photo.file_name] for stranger in strangers]]
    members = {c: [row for row, photo in enumerate(own.photos) if photo.category == c] for c in categories}
    return {category: -highest_similarity(queries, own.rows[rows]) for category, rows in members.items()}


def _in_turns(strangers: Sequence[_Stranger], wishes: Mapping[str, Floats], number: int) -> dict[str, list[_Stranger]]:
    """What each category takes in so many rounds.

    Args:
        wishes: for each category the place of every photo: the lowest is taken first, an infinite one never.
    """
    order = {category: np.argsort(places, kind="stable") for category, places in wishes.items()}
    position = dict.fromkeys(wishes, 0)
    chosen: dict[str, list[_Stranger]] = {category: [] for category in wishes}
    owner: dict[str, str] = {}

    def next_of(category: str) -> tuple[float, str, int] | None:
        for i in order[category][position[category] :]:
            if owner.get(strangers[i].photo.identity, category) == category:
                place = float(wishes[category][i])
                return (place, category, i) if place < np.inf else None
            position[category] += 1
        return None

    for _ in range(number):
        waiting = set(wishes)
        # Within a round, whoever wishes most goes first.
        while fronts := [found for category in waiting if (found := next_of(category))]:
            _, category, i = min(fronts)
            owner[strangers[i].photo.identity] = category
            chosen[category].append(strangers[i])
            position[category] += 1
            waiting.remove(category)
    return chosen


def highest_similarity(queries: Rows, gallery: Rows) -> Floats:
    """For each query, the exact cosine to the nearest of the gallery's rows, `[Q]` float64.

    Args:
        queries: `[Q, D]` float32, not zero.
        gallery: `[N, D]` float32, not zero; N at least 1.
    """
    query_norms, norms = row_norms(queries), row_norms(gallery)
    unit_queries, unit = ((r / n[:, None]).astype(np.float32) for r, n in ((queries, query_norms), (gallery, norms)))
    highest = np.full(len(queries), -np.inf)
    for g0 in range(0, len(gallery), 8 * BLOCK):
        for q0 in range(0, len(queries), BLOCK):
            product = unit_queries[q0 : q0 + BLOCK] @ unit[g0 : g0 + 8 * BLOCK].T
            least = product.max(axis=1, keepdims=True) - 2 * product_error(gallery.shape[1])
            q, g = np.nonzero(product >= least)
            exact = pair_similarity(queries, gallery, q + q0, g + g0, query_norms, norms)
            np.maximum.at(highest, q + q0, exact)
    return highest


def _repeat_references(
    gallery: Gallery, chosen: Mapping[str, Sequence[_Stranger]], progress: Progress | None
) -> set[str]:
    """Digests of chosen photos that are near-duplicates of a reference."""
    digest_of = {}
    photos = list(gallery.split("reference"))
    if not photos:
        return set()
    for category, own in chosen.items():
        for stranger in own:
            name = f"{FOLDER}/{stranger.digest}"  # names of two galleries may be the same
            digest_of[name] = stranger.digest
            photos.append(replace(stranger.photo, file_name=name, category=category, split="distractor", encounter=""))
    return {
        digest_of[leak.photo] for leak in inspect_photos(photos, progress=progress).leaks if leak.photo in digest_of
    }


def _check_enough(other: Gallery, chosen: Mapping[str, Sequence[_Stranger]], number: int, choose: Choice) -> None:
    faults = []
    theirs = {photo.category for photo in other.photos}
    for category, photos in chosen.items():
        if choose == "same-category" and category not in theirs:
            what = f"no such category there, but {', '.join(sorted(theirs)[:10])}"
            faults.append(Fault(f"category {category!r}", what, "choose another way, or name theirs as yours"))
        elif len(photos) < number:
            what = f"{len(photos)} photos can be taken, {number} are wanted"
            faults.append(Fault(f"category {category!r}", what, "lower --number, or name a larger gallery with --from"))
    raise_if_any(str(other.root), faults)


def _check_images(
    gallery: Gallery, other: Gallery, chosen: Mapping[str, Sequence[_Stranger]], progress: Progress | None
) -> None:
    """Decode what will be written: until now only the bytes were looked at."""
    sets = (gallery, gallery.photos), (other, [stranger.photo for own in chosen.values() for stranger in own])
    step = progress("checking images", sum(len(photos) for _, photos in sets)) if progress else None
    faults = [f for of, photos in sets for f in below(of.root, image_digests(photos, True, step)[1])]
    raise_if_any("no distractors can be added", faults)


def _kept(gallery: Gallery) -> list[Found]:
    """The gallery's own photos, under their own names: runs name references by them."""
    prefix = "images/" if all(photo.file_name.startswith("images/") for photo in gallery.photos) else ""
    kept = []
    for photo in gallery.photos:
        values = values_of(photo) | _mask(gallery, photo)
        if not prefix:
            values["source_id"] = photo.source_id or photo.file_name
        name = photo.file_name.removeprefix(prefix)
        kept.append(Found(photo.file_name, name, photo.path, values))
    return kept


def _added(gallery: Gallery, other: Gallery, chosen: Mapping[str, Sequence[_Stranger]]) -> list[Found]:
    names = {photo.file_name.removeprefix("images/").casefold() for photo in gallery.photos}
    folder, n = FOLDER, 1
    while any(name.startswith(f"{folder}/") for name in names):  # of an earlier round
        n += 1
        folder = f"{FOLDER}-{n}"
    added = []
    for category, strangers in chosen.items():
        for stranger in strangers:
            photo = stranger.photo
            changed = {
                "category": category,
                "split": "distractor",
                # Encounters of two galleries may share a name, and a distractor was seen with nobody who is asked for.
                "encounter": "",
                "source_id": f"{other.card.name}/{photo.source_id or photo.file_name}",
            }
            values = values_of(photo) | changed | _mask(other, photo)
            name = f"{folder}/{photo.file_name.removeprefix('images/')}"
            added.append(Found(f"{other.root}: {photo.file_name}", name, photo.path, values))
    return added


def _mask(gallery: Gallery, photo: Photo) -> dict[str, str]:
    return {"mask_file_name": str(gallery.root.absolute() / photo.mask_file_name) if photo.mask_file_name else ""}
