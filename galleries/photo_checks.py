"""What can be wrong with the photos of a gallery, taken together."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.errors import Fault

if TYPE_CHECKING:
    from galleries.gallery import Photo


def copied_photos(photos: Sequence["Photo"], digests: Sequence[str | None]) -> list[str]:
    """Warnings of gallery photos that are there twice: copies tie, contradict each other, or answer themselves."""
    by_digest: dict[str, list[Photo]] = defaultdict(list)
    for photo, digest in zip(photos, digests, strict=True):
        if digest and photo.split != "reference":
            by_digest[digest].append(photo)
    sets = [own for own in by_digest.values() if len(own) > 1]
    contradictory = [own for own in sets if len({photo.identity for photo in own}) > 1]
    kinds = (
        (contradictory, "under several identities, which contradict each other"),
        (
            [own for own in sets if own not in contradictory],
            "of one identity, which find each other as held-out photos",
        ),
    )
    return [
        f"the same bytes {what}: {' = '.join(photo.file_name for photo in found[0])}"
        + (f", and {len(found) - 1} more such sets" if len(found) > 1 else "")
        for found, what in kinds
        if found
    ]


def leaked_photos(photos: Sequence["Photo"], digests: Sequence[str | None]) -> list[Fault]:
    """Gallery photos whose bytes are those of a reference: the generator has seen the answer."""
    references = {
        digest: photo.file_name
        for photo, digest in zip(photos, digests, strict=True)
        if digest and photo.split == "reference"
    }
    return [
        Fault(photo.file_name, f"same bytes as the reference {references[digest]}", "keep one of the two")
        for photo, digest in zip(photos, digests, strict=True)
        if digest in references and photo.split != "reference"
    ]


def label_faults(photos: Sequence["Photo"]) -> list[Fault]:
    """Labels that contradict each other: two categories or two roles of one identity; or nobody to rank."""
    categories: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for photo in photos:
        if photo.category.strip() and photo.identity.strip():
            categories[photo.identity].add(photo.category)
        if photo.split:
            splits[photo.identity].add(photo.split)
    faults = [
        Fault(
            f"identity {identity!r}",
            f"in {len(of)} categories ({', '.join(sorted(of))})",
            "an identity belongs to one",
        )
        for identity, of in sorted(categories.items())
        if len(of) > 1
    ]
    faults += [
        Fault(f"identity {identity!r}", "both a distractor and asked for", "give its photos one kind of split")
        for identity, of in sorted(splits.items())
        if "distractor" in of and len(of) > 1
    ]
    if splits and not any("gallery" in of for of in splits.values()):
        faults.append(Fault("split", "no photo is in the gallery", "mark photos as gallery"))
    return faults


def shape_warnings(photos: Sequence["Photo"]) -> list[str]:
    """What the numbers of photos allow, but makes the scores say less than they seem to."""
    found = []
    photos_of: dict[str, Counter[str]] = defaultdict(Counter)
    for photo in photos:
        if photo.split == "gallery":
            photos_of[photo.category][photo.identity] += 1
    crowded = {photo.category for photo in photos if photo.split == "distractor"}
    alone = [category for category, own in photos_of.items() if len(own) == 1 and category not in crowded]
    if alone:
        found.append(f"{_categories(alone)} one identity: every ranking there is perfect, AUC is undefined")
    single = [identity for own in photos_of.values() for identity, n in own.items() if n == 1]
    if single:
        found.append(f"{_identities(single)} a single gallery photo: no held-out anchor for them")
    shown = {identity for own in photos_of.values() for identity in own}
    without = sorted({photo.identity for photo in photos if photo.split == "reference"} - shown)
    if without:
        found.append(f"{_identities(without)} references but no gallery photo")
    return found


def _categories(names: Sequence[str]) -> str:
    return f"category {names[0]!r} has" if len(names) == 1 else f"{len(names)} categories ({_first(names)}) have"


def _identities(names: Sequence[str]) -> str:
    return f"identity {names[0]!r} has" if len(names) == 1 else f"{len(names)} identities ({_first(names)}) have"


def _first(names: Sequence[str], n: int = 5) -> str:
    return ", ".join(sorted(names)[:n]) + (", …" if len(names) > n else "")


def is_file(path: Path) -> bool:
    """Whether a file is there, whatever its name holds."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_bbox(text: str) -> bool:
    """Whether a text is `x,y,width,height`."""
    parts = text.strip("[]() ").split(",")
    try:
        return len(parts) == 4 and all(0 <= float(part) < float("inf") for part in parts)
    except ValueError:
        return False
