"""The leak gate: photos of the gallery that the generator has seen, or might as well have.

A leak is a photo on the gallery's side (gallery or distractor) that repeats a reference: the same bytes, the same
picture edited, or another photo of the same encounter. A model that copies its reference finds it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import Fault
from galleries.images import NO_FILE, BadImage, decode_image, in_threads, read_image_bytes, sha256_of
from galleries.near_duplicates import Grey, NearDuplicate, near_duplicates, thumbnail
from galleries.photo_checks import copied_photos, is_file

if TYPE_CHECKING:
    from PIL import Image

    from galleries.gallery import Photo

SAME_BYTES = "same bytes"
NEAR_DUPLICATE = "near-duplicate"
SAME_ENCOUNTER = "same encounter"
ALIKE = "alike for the encoder"
KINDS = (SAME_BYTES, NEAR_DUPLICATE, ALIKE, SAME_ENCOUNTER)

MAX_PAIRS = 2_000_000
"""Pairs of photos that are compared window by window, about a minute's work; above, only those of one identity are."""
N_SHOWN = 5

Progress = Callable[[str, int], Callable[[int], Any]]
Alike = Callable[[Sequence["Photo"]], Iterable[tuple[int, int, float]]]
"""Pairs of photos, by position, that an encoder finds close, with their cosine; NaN where it only proposes them."""


@dataclass(frozen=True, order=True)
class Leak:
    """A photo of the gallery that repeats a reference.

    Attributes:
        photo: file name on the gallery's side.
        reference: file name of the reference.
        kind: one of `KINDS`.
        detail: how, in words.
    """

    photo: str
    reference: str
    kind: str
    detail: str = ""

    @property
    def fault(self) -> Fault:
        how = f" ({self.detail})" if self.detail else ""
        what = {
            SAME_BYTES: f"same bytes as the reference {self.reference}",
            NEAR_DUPLICATE: f"near-duplicate{how} of the reference {self.reference}",
            ALIKE: f"{self.detail} to the reference {self.reference}",
            SAME_ENCOUNTER: f"same encounter{how} as the reference {self.reference}",
        }[self.kind]
        return Fault(self.photo, what, "keep one of the two (gallery build --drop-leaks drops this one)")


@dataclass(frozen=True)
class Pair:
    """Two photos that a person should look at."""

    first: str
    second: str
    what: str


@dataclass(frozen=True)
class Inspection:
    """What the images of a gallery show.

    Attributes:
        faults: images that cannot be used, and masks that are missing.
        leaks: the worst one for each pair of photo and reference.
        pairs: near-duplicates within the gallery, and photos that are almost the same shot: allowed, but worth a look.
        warnings: lines of what else is allowed but makes the scores say less.
    """

    faults: tuple[Fault, ...]
    leaks: tuple[Leak, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def summary_of(leaks: Sequence[Leak]) -> str:
    """`3 photos: 1 same bytes, 2 near-duplicate`; each photo counts once, by its worst kind."""
    worst: dict[str, str] = {}
    for leak in sorted(leaks, key=lambda leak: KINDS.index(leak.kind)):
        worst.setdefault(leak.photo, leak.kind)
    counts = Counter(worst.values())
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{len(worst)} {'photo' if len(worst) == 1 else 'photos'}: {kinds}"


def inspect_photos(
    photos: Sequence["Photo"],
    *,
    contents: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
    alike: Alike | None = None,
) -> Inspection:
    """Read and decode every photo once, and look for leaks.

    Args:
        contents: file name → bytes, of photos that are not files yet.
        progress: starts a bar, see `galleries.console.progress_bars`.
        alike: an encoder's opinion of which photos are close.
    """
    given = contents or {}
    looks, faults = _look_at_all(photos, given, progress)
    usable = [i for i, look in enumerate(looks) if look]
    seen = [photos[i] for i in usable]
    digests = [look.digest for look in looks if look]
    leaks = {**_same_encounters(seen), **_same_bytes(seen, digests)}
    pairs: list[Pair] = []
    warnings = copied_photos(seen, digests)

    proposed: list[tuple[int, int]] = []
    for i, j, cosine in alike(seen) if alike else ():
        proposed.append((i, j))
        sides = _sides(seen[i], seen[j])
        if sides and cosine == cosine:
            leaks.setdefault(sides, Leak(*sides, ALIKE, f"cosine {cosine:.3f}"))

    def picture(position: int) -> "Image.Image":
        photo = seen[position]
        content = given.get(photo.file_name)
        return decode_image(read_image_bytes(photo.path) if content is None else content)

    # Of files of the same bytes, on one side and of one identity, one is compared for all.
    same: dict[tuple[str, bool, str], list[int]] = defaultdict(list)
    for i, (photo, digest) in enumerate(zip(seen, digests, strict=True)):
        same[digest, photo.split == "reference", photo.identity].append(i)
    copies = {own[0]: own for own in same.values()}
    windows, hashes, is_whole = _comparisons(seen, sorted(copies))
    if not is_whole:
        warnings.append(
            "too many photos to compare every reference window by window with every photo: "
            "crops were looked for within identities only, other near-duplicates everywhere"
        )
    thumbnails = [look.thumbnail for look in looks if look]
    first_of = {i: own[0] for own in same.values() for i in own}
    asked = [(first_of[i], first_of[j]) for i, j in proposed]
    for pair in near_duplicates(thumbnails, windows, hashes, picture, asked, progress, warnings.append):
        if digests[pair.first] == digests[pair.second]:
            continue
        for i, j in product(copies[pair.first], copies[pair.second]):
            one, other = seen[i], seen[j]
            sides = _sides(one, other)
            if sides and pair.is_same_picture and leaks.get(sides, _NOTHING).kind != SAME_BYTES:
                leaks[sides] = Leak(*sides, NEAR_DUPLICATE, str(pair))
            elif (one.split, other.split) != ("reference", "reference"):
                pairs.append(Pair(one.file_name, other.file_name, _words(pair, one, other)))
    return Inspection(tuple(faults), tuple(sorted(leaks.values())), tuple(pairs), (*warnings, *_warnings(pairs)))


def inspect_table(photos: Sequence["Photo"]) -> Inspection:
    """What can be seen without opening an image: missing files, and encounters on both sides."""
    remedy = "put the file there, or remove its row"
    faults = [Fault(photo.file_name, NO_FILE, remedy) for photo in photos if not is_file(photo.path)]
    return Inspection(tuple(faults), tuple(sorted(_same_encounters(photos).values())), (), ())


_NOTHING = Leak("", "", "")


@dataclass(frozen=True)
class _Look:
    digest: str
    thumbnail: Grey


def _look_at_all(
    photos: Sequence["Photo"], contents: Mapping[str, bytes], progress: Progress | None
) -> tuple[list[_Look | None], list[Fault]]:
    step = progress("checking images", len(photos)) if progress else None
    looks: list[_Look | None] = []
    of_digest: dict[str, _Look] = {}  # copies share theirs
    faults: list[Fault] = []
    for look in in_threads(lambda photo: _look_at(photo.file_name, photo.path, contents.get(photo.file_name)), photos):
        if isinstance(look, Fault):
            faults.append(look)
            looks.append(None)
        else:
            looks.append(of_digest.setdefault(look.digest, look))
        if step:
            step(1)
    return looks, faults


def _look_at(where: str, path: Path, content: bytes | None) -> _Look | Fault:
    try:
        content = read_image_bytes(path) if content is None else content
        return _Look(sha256_of(content), thumbnail(decode_image(content)))
    except BadImage as error:
        return Fault(where, error.what, error.remedy)


def _sides(one: "Photo", other: "Photo") -> tuple[str, str] | None:
    """The photo of the gallery's side and the reference, of a pair that has one of each."""
    if (one.split == "reference") == (other.split == "reference"):
        return None
    photo, reference = (other, one) if one.split == "reference" else (one, other)
    return photo.file_name, reference.file_name


def _same_bytes(photos: Sequence["Photo"], digests: Sequence[str]) -> dict[tuple[str, str], Leak]:
    references: dict[str, str] = {}
    for photo, digest in zip(photos, digests, strict=True):
        if photo.split == "reference":
            references.setdefault(digest, photo.file_name)
    return {
        (photo.file_name, references[digest]): Leak(photo.file_name, references[digest], SAME_BYTES)
        for photo, digest in zip(photos, digests, strict=True)
        if digest in references and photo.split != "reference"
    }


def _same_encounters(photos: Sequence["Photo"]) -> dict[tuple[str, str], Leak]:
    """Photos of the encounter of a reference of their own identity; other animals of that day give nobody away."""
    references: dict[tuple[str, str], str] = {}
    for photo in photos:
        if photo.split == "reference" and photo.encounter:
            references.setdefault((photo.identity, photo.encounter), photo.file_name)
    leaks = {}
    for photo in photos:
        reference = references.get((photo.identity, photo.encounter))
        if reference and photo.split != "reference":
            leaks[photo.file_name, reference] = Leak(photo.file_name, reference, SAME_ENCOUNTER, photo.encounter)
    return leaks


Groups = list[tuple[Sequence[int], Sequence[int]]]


def _comparisons(photos: Sequence["Photo"], chosen: Sequence[int]) -> tuple[Groups, Groups, bool]:
    """What is compared window by window, and what by hash; and whether the first is all that matters.

    References with all photos of their category, and the gallery photos of each identity with each other; by hash
    everything with everything, as a copy may lie under any label.
    """
    references: dict[str, list[int]] = defaultdict(list)
    others: dict[str, list[int]] = defaultdict(list)
    own: dict[str, list[int]] = defaultdict(list)
    own_references: dict[str, list[int]] = defaultdict(list)
    for i in chosen:
        photo = photos[i]
        (references if photo.split == "reference" else others)[photo.category].append(i)
        (own_references if photo.split == "reference" else own)[photo.identity].append(i)
    within: Groups = [(group, group) for group in own.values() if len(group) > 1 and len(group) ** 2 < MAX_PAIRS]
    across: Groups = [(group, others[category]) for category, group in references.items() if others[category]]
    is_whole = sum(len(a) * len(b) for a, b in across) <= MAX_PAIRS
    if not is_whole:
        across = [(group, own[identity]) for identity, group in own_references.items() if own[identity]]
    return across + within, [(chosen, chosen)], is_whole


def _words(pair: NearDuplicate, one: "Photo", other: "Photo") -> str:
    if not pair.is_same_picture:
        return str(pair)
    return f"near-duplicate ({pair})" + ("" if one.identity == other.identity else " under two identities")


def _warnings(pairs: Sequence[Pair]) -> list[str]:
    """A line for each kind of pair."""
    by_kind: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        kind = "almost the same shot" if pair.what == "almost the same shot" else "near-duplicates"
        by_kind[f"{kind} under two identities" if pair.what.endswith("two identities") else kind].append(pair)
    return [
        f"{kind}: {', '.join(f'{pair.first} ~ {pair.second}' for pair in own[:N_SHOWN])}"
        + (f", and {len(own) - N_SHOWN} more pairs" if len(own) > N_SHOWN else "")
        for kind, own in sorted(by_kind.items())
    ]
