"""Triplets from a gallery's real photos: of two photos, the one that shows the reference's own identity is nearer.

Labels decide, and nobody is asked: they say whether a distance follows identity, not whether it follows people.
"""

import hashlib
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, permutations
from pathlib import Path
from typing import Literal

from galleries.errors import FinerRankError
from galleries.gallery import Photo

PARTS = ("train", "val", "test")
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Triplet:
    """A reference and two photos of its category, one of which shows its identity.

    Attributes:
        choice: which of the two does.
        part: one of `PARTS`.
    """

    reference: Photo
    a: Photo
    b: Photo
    choice: Literal["a", "b"]
    part: str


@dataclass(frozen=True)
class GalleryTriplets:
    """Triplets, by part, identity and photo.

    Attributes:
        identities: part → those that its triplets may show, in any of their photos; no identity stands in two parts.
        notes: what a user of the triplets should know.
    """

    rows: tuple[Triplet, ...]
    identities: Mapping[str, frozenset[str]]
    notes: tuple[str, ...]


def gallery_triplets(
    photos: Sequence[Photo],
    digests: Mapping[Path, str],
    n: int,
    *,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> GalleryTriplets:
    """Draw triplets, evenly over the identities of each part; the same ones whatever the order of `photos`.

    Identities are dealt to the parts, so that none of the three photos of a held-out triplet shows anybody that a
    distance was tuned on. No reference is compared with a photo of its own encounter, whoever that shows: backgrounds
    would decide. Distractors are left out, for who they show need not be known; so are photos whose bytes stand there
    already.

    Args:
        digests: `Photo.path` → SHA-256 of the file.
        n: triplets of all parts together. Where fewer are possible, all are taken, and a note says so.
        shares: of `PARTS`, of the identities and of the triplets.

    Raises:
        FinerRankError: a part cannot have a single triplet; it takes two identities of one category, one of them with
            two photos of different encounters.
    """
    own, notes = _by_identity(photos, digests)
    pairs = {identity: _pairs(of) for identity, of in own.items()}
    alone = sorted(identity for identity, of in pairs.items() if not of)
    if alone:
        notes.append(
            f"{len(alone)} of {len(own)} identities have no two photos of different encounters: they are never the "
            f"reference (first: {alone[0]})"
        )
    members: dict[str, list[str]] = defaultdict(list)
    for identity in sorted(own):
        members[own[identity][0].category].append(identity)
    if not any(len(of) > 1 for of in members.values()):
        raise FinerRankError("no category has two identities; a triplet needs somebody else of the same category")
    if not any(pairs[identity] for of in members.values() if len(of) > 1 for identity in of):
        what = "no identity that shares its category has two photos of different encounters"
        raise FinerRankError(f"{what}; a triplet needs two photos of its subject")
    part_of = _dealt(members, {i for i in own if pairs[i]}, shares, seed)
    others = {
        identity: [
            photo
            for other in members[of[0].category] if other != identity and part_of[other] == part_of[identity]
            for photo in own[other]
        ]
        for identity, of in own.items()
    }  # fmt: skip

    @cache
    def beside(identity: str, encounter: str) -> list[Photo]:
        """Others' photos for a reference of that encounter."""
        return [photo for photo in others[identity] if not encounter or photo.encounter != encounter]

    ends = {i: [*accumulate(len(beside(i, reference.encounter)) for reference, _ in of)] for i, of in pairs.items()}
    rows: list[Triplet] = []
    for part, share in zip(PARTS, shares, strict=True):
        if not share:
            continue
        room = {identity: of[-1] if of else 0 for identity, of in ends.items() if part_of[identity] == part}
        if not any(room.values()):
            raise FinerRankError(
                f"no triplet is left for {part}: it takes two identities of one category, one of them with two photos "
                "of different encounters; add identities, or give that part no share in --split"
            )
        wanted = max(1, round(n * share))
        if sum(room.values()) < wanted:
            notes.append(f"{part}: {sum(room.values())} triplets instead of {wanted}: no more are possible")
        for identity, k in _shared_out(min(wanted, sum(room.values())), room).items():
            draw = random.Random(f"{seed}\0{identity}")
            for place in draw.sample(range(room[identity]), k):
                pair = bisect_right(ends[identity], place)
                reference, same = pairs[identity][pair]
                ab = (same, beside(identity, reference.encounter)[place - ends[identity][pair]])
                choice: Literal["a", "b"] = "a" if draw.random() < 0.5 else "b"
                rows.append(Triplet(reference, *(ab if choice == "a" else ab[::-1]), choice, part))
    rows.sort(key=lambda row: (PARTS.index(row.part), *(p.file_name for p in (row.reference, row.a, row.b))))
    identities = {part: frozenset(i for i in own if part_of[i] == part) for part in PARTS}
    return GalleryTriplets(tuple(rows), identities, tuple(notes))


def _by_identity(photos: Sequence[Photo], digests: Mapping[Path, str]) -> tuple[dict[str, list[Photo]], list[str]]:
    found: dict[str, list[Photo]] = defaultdict(list)
    seen: set[str] = set()
    n_copies = 0
    for photo in sorted(photos, key=lambda photo: photo.file_name):
        if photo.split == "distractor":
            continue
        if digests[photo.path] in seen:
            n_copies += 1
            continue
        seen.add(digests[photo.path])
        found[photo.identity].append(photo)
    return found, [f"{n_copies} photos are left out: their bytes stand in the gallery twice"] if n_copies else []


def _pairs(photos: Sequence[Photo]) -> list[tuple[Photo, Photo]]:
    return [
        (first, second)
        for first, second in permutations(photos, 2)
        if not first.encounter or first.encounter != second.encounter
    ]


def _dealt(members: Mapping[str, Sequence[str]], able: set[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Identity → part. A category that has two identities for each part is dealt out; a smaller one stays whole."""
    parts = [(part, share) for part, share in zip(PARTS, shares, strict=True) if share]
    found: dict[str, str] = {}
    n_in = dict.fromkeys(PARTS, 0)
    large = {category for category, of in members.items() if len(of) >= 2 * len(parts)}
    # By keyed hash, so that one identity or category more moves few others.
    for category in sorted(members, key=lambda c: (c not in large, _key(seed, c))):
        of = sorted(members[category], key=lambda identity: (identity not in able, _key(seed, identity)))
        if category in large:
            here = dict.fromkeys(PARTS, 0)
            for i, identity in enumerate(of, start=1):
                part = min(parts, key=lambda p: (min(here[p[0]], 2), here[p[0]] - p[1] * i))[0]
                found[identity] = part
                here[part] += 1
                n_in[part] += 1
        elif len(of) > 1:
            total = sum(n_in.values()) + len(of)
            part = min(parts, key=lambda p: n_in[p[0]] - p[1] * total)[0]
            found |= dict.fromkeys(of, part)
            n_in[part] += len(of)
        else:
            found[of[0]] = ""  # nobody to be told from
    return found


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogateescape")).digest()


def _shared_out(n: int, room: Mapping[str, int]) -> dict[str, int]:
    """n things to those with room for so many, as evenly as that allows."""
    found = {}
    ordered = sorted(room, key=lambda name: (room[name], name))
    for i, name in enumerate(ordered):
        found[name] = min(room[name], n // (len(ordered) - i))
        n -= found[name]
    return found
