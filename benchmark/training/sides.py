"""Who is trained on, and who is held out."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from galleries.console import Progress
from galleries.errors import FinerRankError, below, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import image_digests

HELD_OUT_IDENTITIES = "photos of identities that are never trained on"
OTHER_SPLITS = "other photos of the identities that are trained on"


@dataclass(frozen=True)
class Sides:
    """Which photos are trained on, and which are ranked to see what came of it.

    Attributes:
        validated: each is asked for among all of them, of its category.
        validated_on: `HELD_OUT_IDENTITIES` or `OTHER_SPLITS`.
        notes: what a reader of the numbers should know.
    """

    trained: tuple[Photo, ...]
    validated: tuple[Photo, ...]
    validated_on: str
    notes: tuple[str, ...]


def named_galleries(galleries: Sequence[Gallery]) -> dict[str, Gallery]:
    """Galleries by their names; a second one of a name is told apart."""
    named: dict[str, Gallery] = {}
    for gallery in galleries:
        name, n = gallery.card.name, 1
        while name in named:
            n += 1
            name = f"{gallery.card.name} ({n})"
        named[name] = gallery
    return named


def pooled_photos(galleries: Mapping[str, Gallery], progress: Progress | None) -> tuple[list[Photo], list[str]]:
    """All photos with the SHA-256 of their bytes. Labels of different galleries differ: `zoo/rex` is not `farm/rex`.

    Raises:
        Faults: files that are no images.
    """
    photos, digests, faults = [], [], []
    step = progress("reading photos", sum(len(g.photos) for g in galleries.values())) if progress else None
    for name, gallery in galleries.items():
        found, wrong = image_digests(gallery.photos, decode=False, step=step)
        faults += below(gallery.root, wrong)
        digests += [digest or "" for digest in found]
        photos += [
            replace(
                photo,
                file_name=f"{name}/{photo.file_name}",
                identity=f"{name}/{photo.identity}",
                category=f"{name}/{photo.category}",
                encounter=photo.encounter and f"{name}/{photo.encounter}",
            )
            for photo in gallery.photos
        ]
    raise_if_any(" and ".join(str(gallery.root) for gallery in galleries.values()), faults)
    return photos, digests


def choose_sides(
    photos: Sequence[Photo],
    digests: Sequence[str],
    *,
    held_out: float,
    train_splits: Sequence[str] = (),
    in_pairs: bool = False,
    seed: int = 0,
) -> Sides:
    """Hold a share of the identities out, with all their photos.

    Args:
        digests: SHA-256 of each photo: who shares a photo with somebody held out is not trained on.
        held_out: share of the identities in (0, 1); with 0, the photos of other splits are ranked.
        train_splits: splits that are trained on; all where empty.
        in_pairs: the loss compares photos, so that identities of one photo are of no use.

    Raises:
        FinerRankError: there is nothing to train on, or nothing to see the result by.
    """
    notes: list[str] = []
    is_for_training = [not train_splits or photo.split in train_splits for photo in photos]
    if held_out:
        chosen = held_out_identities(photos, held_out, seed)
        validated_on = HELD_OUT_IDENTITIES
        validated = [photo for photo in photos if photo.identity in chosen]
        seen_there = {d for photo, d in zip(photos, digests, strict=True) if photo.identity in chosen}
        doubles = {p.identity for p, d in zip(photos, digests, strict=True) if d in seen_there} - chosen
        if doubles:
            notes.append(f"{len(doubles)} identities share a photo with one held out: not trained on")
        trained = [
            p for p, ok in zip(photos, is_for_training, strict=True) if ok and p.identity not in chosen | doubles
        ]
    else:
        validated_on = OTHER_SPLITS
        validated = [photo for photo, ok in zip(photos, is_for_training, strict=True) if not ok]
        if not validated:
            raise FinerRankError(
                "--held-out 0: nobody is left to see the result by; give --held-out 0.2, or --train-split reference "
                "to train on references and rank the gallery's other photos"
            )
        seen_there = {d for d, ok in zip(digests, is_for_training, strict=True) if not ok}
        with_digest = zip(photos, digests, is_for_training, strict=True)
        trained = [photo for photo, digest, ok in with_digest if ok and digest not in seen_there]
        n_doubles = sum(is_for_training) - len(trained)
        if n_doubles:
            notes.append(f"{n_doubles} photos have the bytes of one that is ranked: not trained on")
    n_photos = Counter(photo.identity for photo in trained)
    n_single = sum(n == 1 for n in n_photos.values())
    if n_single:
        use = "not trained on: this loss compares photos of one identity" if in_pairs else "trained on as classes"
        notes.append(f"{n_single} identities have one photo to train on: {use}")
    if in_pairs:
        trained = [photo for photo in trained if n_photos[photo.identity] > 1]
    n_left = len({photo.identity for photo in trained})
    if n_left < 2:
        raise FinerRankError(
            f"{n_left} of {len({photo.identity for photo in photos})} identities left to train on: at least two are "
            "needed; add photos of others, or lower --held-out"
        )
    return Sides(tuple(trained), tuple(validated), validated_on, tuple(notes))


def held_out_identities(photos: Sequence[Photo], share: float, seed: int) -> set[str]:
    """Identities to hold out: of each category its share, or two of some categories where the share is below two.

    A keyed hash decides, not a generator: another identity more or less leaves the others where they are, mostly.

    Raises:
        FinerRankError: fewer than two in every category could be asked for.
    """
    by_category: dict[str, list[str]] = defaultdict(list)
    for identity, category in sorted(_answerable(photos).items()):
        by_category[category].append(identity)
    chosen: set[str] = set()
    small: list[list[str]] = []
    for _, identities in sorted(by_category.items()):
        identities.sort(key=lambda identity: _place(seed, identity))
        n = round(share * len(identities))
        if n >= 2:
            chosen.update(identities[:n])
        elif len(identities) >= 2:
            small.append(identities)
    target = max(round(share * sum(map(len, small))), 0 if chosen else 1)
    # One alone would be found whatever the encoder: all photos ranked would be right.
    for identities in sorted(small, key=lambda own: _place(seed, own[0])):
        if target <= 0:
            break
        chosen.update(identities[:2])
        target -= 2
    if not chosen:
        raise FinerRankError(
            "nobody can be held out: no category has two identities with two photos of different encounters; "
            "add photos, or give --held-out 0 --train-split reference"
        )
    return chosen


def _answerable(photos: Sequence[Photo]) -> dict[str, str]:
    """Identities of which a photo can be asked for and another can answer, with their category."""
    encounters: dict[str, Counter[str]] = defaultdict(Counter)
    for photo in photos:
        encounters[photo.identity][photo.encounter] += 1
    category_of = {photo.identity: photo.category for photo in photos}
    return {identity: category_of[identity] for identity, of in encounters.items() if len(of) > 1 or of.get("", 0) > 1}


def _place(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
