"""Triplets from a gallery: who is nearer is told by labels, and nobody stands in two splits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from animals import write_zoo
from handmade import Cli, Refusal, change_row, rows_of, write_gallery
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.gallery_triplets import PARTS, GalleryTriplets, gallery_triplets
from benchmark.human_judgements.sources import load_judgements
from galleries.errors import FinerRankError
from galleries.gallery import Photo

THIRDS = (0.4, 0.3, 0.3)


def photo(category: str, identity: str, number: int, encounter: str = "", split: str = "gallery") -> Photo:
    name = f"{category}/{identity}/{number}.jpg"
    return Photo(name, category, identity, split, encounter, path=Path(name))


def drawn(photos: list[Photo], n: int = 60, **options: object) -> GalleryTriplets:
    return gallery_triplets(photos, {p.path: p.file_name for p in photos}, n, **options)  # type: ignore[arg-type]


def is_allowed(found: GalleryTriplets, reference: Photo, same: Photo, other: Photo) -> bool:
    parts = [part for part, own in found.identities.items() if {reference.identity, other.identity} <= own]
    return (
        reference != same
        and reference.identity == same.identity != other.identity
        and reference.category == other.category
        and not (reference.encounter and reference.encounter in (same.encounter, other.encounter))
        and len(parts) == 1
    )


@st.composite
def sound_galleries(draw: st.DrawFn) -> list[Photo]:
    """Of at least one category that is large enough to be dealt out, and of any others."""
    sizes = [draw(st.integers(6, 7)), *draw(st.lists(st.integers(1, 4), max_size=2))]
    photos = []
    for c, n_identities in enumerate(sizes):
        for i in range(n_identities):
            n_photos = draw(st.integers(2 if c == 0 else 1, 3))
            for k in range(n_photos):
                encounter = draw(st.sampled_from(["", "", "dawn", "dusk"])) if c else ""
                photos.append(photo(f"c{c}", f"c{c}-{i}", k, encounter))
    return photos


@settings(max_examples=40, deadline=None)
@given(sound_galleries(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_triplet_shows_its_subject_twice_and_nobody_stands_in_two_splits(
    photos: list[Photo], seed: int, random: object
) -> None:
    found = drawn(photos, seed=seed, shares=THIRDS)
    seen: dict[str, set[str]] = {part: set() for part in PARTS}
    named = set()
    for row in found.rows:
        same, other = (row.a, row.b) if row.choice == "a" else (row.b, row.a)
        assert is_allowed(found, row.reference, same, other)
        named.add((row.reference.file_name, same.file_name, other.file_name))
        seen[row.part] |= {row.reference.identity, same.identity, other.identity}
    assert len(named) == len(found.rows) <= 60
    assert all(seen[part] and seen[part] <= found.identities[part] for part in PARTS)
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))
    random.shuffle(photos)  # type: ignore[attr-defined]
    assert drawn(photos, seed=seed, shares=THIRDS).rows == found.rows


def test_when_more_are_asked_for_than_there_are_all_are_taken_and_it_is_said() -> None:
    photos = [photo("dog", f"dog{i}", k, "dawn" if i < 3 and k < 2 else "") for i in range(6) for k in range(2 + i % 2)]
    photos += [photo("dog", f"dog{i}", 3, "dawn") for i in range(3, 6)]
    photos += [photo("cat", f"cat{i}", k) for i in range(2) for k in range(2)]
    found = drawn(photos, n=100_000, shares=THIRDS)
    named = {
        tuple(p.file_name for p in (r.reference, *((r.a, r.b) if r.choice == "a" else (r.b, r.a)))) for r in found.rows
    }
    assert named == {
        (r.file_name, s.file_name, o.file_name)
        for r in photos
        for s in photos
        for o in photos
        if is_allowed(found, r, s, o)
    }
    assert len(named) == len(found.rows)
    assert sum("no more are possible" in note for note in found.notes) == 3


def test_subjects_have_as_many_triplets_as_each_other_and_sides_are_shuffled() -> None:
    photos = [photo("dog", f"dog{i}", k) for i in range(8) for k in range(3 + i)]
    found = drawn(photos, n=400, shares=(0, 0, 1))
    assert set(Counter(row.reference.identity for row in found.rows).values()) == {50}
    assert 150 < sum(row.choice == "a" for row in found.rows) < 250
    assert drawn(photos, n=400, shares=(0, 0, 1), seed=1).rows != found.rows


def test_shares_are_those_of_the_identities() -> None:
    photos = [photo("dog", f"dog{i}", k) for i in range(20) for k in range(2)]
    found = drawn(photos, shares=(0.6, 0.2, 0.2))
    assert [len(found.identities[part]) for part in PARTS] == [12, 4, 4]


def test_distractors_and_copies_are_in_no_triplet() -> None:
    photos = [photo("dog", f"dog{i}", k) for i in range(6) for k in range(3)]
    stray = photo("dog", "stray", 0, split="distractor")
    digests = {p.path: p.file_name for p in (*photos, stray)}
    digests[photos[4].path] = digests[photos[3].path]
    found = gallery_triplets([*photos, stray], digests, 10_000, shares=(0, 0, 1))
    shown = {p.file_name for row in found.rows for p in (row.reference, row.a, row.b)}
    assert shown == {p.file_name for p in photos} - {photos[4].file_name}
    assert found.notes[0].startswith("1 photos are left out")


@pytest.mark.parametrize(
    ("photos", "shares", "said"),
    [
        ([photo("dog", "rex", k) for k in range(4)], THIRDS, "no category has two identities"),
        ([photo(c, c, k) for c in ("dog", "cat") for k in range(4)], THIRDS, "no category has two identities"),
        ([photo("dog", f"dog{i}", 0) for i in range(9)], THIRDS, "two photos of different encounters"),
        ([photo("dog", f"dog{i}", k, "noon") for i in range(9) for k in "01"], THIRDS, "two photos of different enc"),  # type: ignore[arg-type]
        ([photo("dog", f"dog{i}", k) for i in range(5) for k in range(2)], THIRDS, "no triplet is left for val"),
    ],
)
def test_a_gallery_that_allows_no_triplets_is_told_what_is_needed(
    photos: list[Photo], shares: tuple[float, ...], said: str
) -> None:
    with pytest.raises(FinerRankError, match=said):
        drawn(photos, shares=shares)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return write_zoo(tmp_path / "animals", encounters=True)


def test_the_table_is_read_as_judgements_whose_targets_are_identities(animals: Path, cli: Cli) -> None:
    table = animals / "triplets.csv"
    done = cli("agreement", "triplets", "--gallery", animals, "--out", table, "--n", 30, "--split", "0.6,0,0.4")
    assert done.returncode == 0, done.stderr
    assert "labels, not by people" in done.stdout
    labels = {row["file_name"]: row for row in rows_of(animals)}
    read = load_judgements([table])
    assert (read.kind, len(read.rows), {row.split for row in read.rows}) == ("2afc", 30, {"train", "test"})
    for row in read.rows:
        reference, a, b = (labels[path.relative_to(animals).as_posix()] for path in row.images)
        nearer, farther = (a, b) if row.answer == 0 else (b, a)
        assert reference["identity"] == nearer["identity"] == row.target != farther["identity"]
        assert reference["category"] == farther["category"] == row.subset
        assert reference["encounter"] != nearer["encounter"]


def test_in_a_folder_of_its_own_the_photos_are_copied(animals: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("agreement", "triplets", "--gallery", animals, "--n", 12, "--split", "0.5,0,0.5")
    printed = json.loads(cli(*options, "--out", tmp_path / "folder", "--json").stdout)
    assert sum(part["triplets"] for part in printed["splits"].values()) == 12
    assert cli(*options, "--out", animals / "triplets.csv").returncode == 0
    there, here = (load_judgements([path]) for path in (tmp_path / "folder", animals / "triplets.csv"))
    contents = [[[path.read_bytes() for path in row.images] for row in each.rows] for each in (there, here)]
    assert contents[0] == contents[1]
    assert not any(path.is_symlink() for path in there.images)


def test_what_cannot_be_written_is_refused_before_anything_is(animals: Path, tmp_path: Path, refusal: Refusal) -> None:
    start = ("agreement", "triplets", "--gallery", animals)
    (tmp_path / "elsewhere").mkdir()
    line = refusal(*start, "--out", tmp_path / "elsewhere" / "triplets.csv")
    assert "does not lie below" in line
    assert "the photos are copied there" in line
    assert "exists already" in refusal(*start, "--out", animals / "metadata.csv")
    assert "add up to 1" in refusal(*start, "--out", animals / "t.csv", "--split", "0.6,0.2")
    assert "add up to 1" in refusal(*start, "--out", animals / "t.csv", "--split", "0.6,0.2,nan")
    assert "no triplet is left for" in refusal(*start, "--out", animals / "t.csv")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (animals / "t.csv").exists()


def test_a_missing_photo_is_named(tmp_path: Path, refusal: Refusal) -> None:
    zoo = write_gallery(tmp_path / "zoo")
    change_row(zoo, 1, file_name="images/gone.png")
    line = refusal("agreement", "triplets", "--gallery", zoo, "--out", zoo / "t.csv")
    assert "images/gone.png: no such file" in line
