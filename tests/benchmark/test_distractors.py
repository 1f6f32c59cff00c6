"""Distractors from another gallery: who may be taken, by which choice, and what the new gallery keeps."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal, add_column, rows_of, save_noise, write_rows, write_run
from PIL import Image
from pytest import approx
from sklearn.metrics.pairwise import cosine_similarity

from benchmark.distractors import Choice, Chooser, add_distractors, chooser_note, highest_similarity
from benchmark.embedders import load_embedder
from galleries.errors import Faults, FinerRankError
from galleries.gallery import Gallery, GalleryCard, Photo
from personalization_runs.run import Run

CATEGORIES = {"dog": ("bo", "max", "pip"), "cat": ("tiger", "minka"), "horse": ("star",)}
N_PHOTOS = 4
N_STRANGERS = 24


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of six animals, in three categories, that no other gallery knows."""
    root = tmp_path_factory.mktemp("strangers") / "strays"
    names = [f"{category}/{identity}" for category, of in CATEGORIES.items() for identity in of]
    for i, name in enumerate(names):
        for number in range(N_PHOTOS):
            save_noise(root / name / f"{number}.png", 100 + 10 * i + number, (24, 24))
    return root


@pytest.fixture
def two(zoo: Path) -> Path:
    """The zoo, with tom in a category of his own."""
    rows = [row | {"category": "cat"} if row["identity"] == "tom" else row for row in rows_of(zoo)]
    write_rows(zoo / "metadata.csv", rows)
    return zoo


def added(gallery: Path, other: Path, out: Path, choose: Choice, number: int, **options: object) -> list[Photo]:
    made = add_distractors(Gallery.open(gallery), Gallery.open(other), choose, number, out, **options)  # type: ignore[arg-type]
    return list(made.split("distractor"))


def contents(photos: list[Photo]) -> set[tuple[str, str, bytes]]:
    """What was chosen, whatever it is called."""
    return {(photo.category, photo.identity, photo.path.read_bytes()) for photo in photos}


# ---- what is taken


def test_each_category_gets_its_number(two: Path, strangers: Path, tmp_path: Path) -> None:
    photos = added(two, strangers, tmp_path / "new", "random", 7)
    assert sorted(photo.category for photo in photos) == ["cat"] * 7 + ["dog"] * 7
    known = {p.path.read_bytes(): p.identity for p in Gallery.open(strangers).photos}
    assert all(known[photo.path.read_bytes()] == photo.identity for photo in photos)
    assert len({photo.path.read_bytes() for photo in photos}) == 14
    category_of = {photo.identity: photo.category for photo in photos}
    assert all(category_of[photo.identity] == photo.category for photo in photos)


@pytest.mark.parametrize("choose", ["random", "same-category", "nearest"])
def test_fewer_distractors_are_among_more(two: Path, strangers: Path, tmp_path: Path, choose: Choice) -> None:
    chooser = Chooser(load_embedder("classical:"), tmp_path / "store") if choose == "nearest" else None
    ladder = [
        contents(added(two, strangers, tmp_path / str(n), choose, n, chooser=chooser, seed=3)) for n in (1, 3, 5, 8)
    ]
    assert [len(rung) for rung in ladder] == [2, 6, 10, 16]
    assert all(fewer < more for fewer, more in itertools.pairwise(ladder))


def test_the_choice_depends_on_the_seed_and_on_no_order_or_name(two: Path, strangers: Path, tmp_path: Path) -> None:
    rows = [
        {
            "file_name": f"{i}.png",
            "category": p.category,
            "identity": p.identity,
            "split": "gallery",
            "path": str(p.path),
        }
        for i, p in enumerate(reversed(Gallery.open(strangers).photos))
    ]
    for row in rows:
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / row["file_name"]).write_bytes(Path(row.pop("path")).read_bytes())
    write_rows(tmp_path / "other/metadata.csv", rows)
    first = contents(added(two, strangers, tmp_path / "first", "random", 6, seed=1))
    assert contents(added(two, tmp_path / "other", tmp_path / "second", "random", 6, seed=1)) == first
    assert contents(added(two, strangers, tmp_path / "third", "random", 6, seed=2)) != first


def test_every_photo_can_be_chosen(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    seen: set[bytes] = set()
    for seed in range(30):
        seen |= {c for *_, c in contents(added(zoo, strangers, tmp_path / str(seed), "random", 6, seed=seed))}
    assert len(seen) == N_STRANGERS


def test_identities_of_the_gallery_and_its_own_photos_are_never_taken(
    zoo: Path, strangers: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    own = (zoo / "images/rex_0.png").read_bytes()
    for i, name in enumerate(("rex/0", "rex/1", "max/0", "max/1", "max/2", "pip/0", "pip/1")):
        save_noise(other / f"{name}.png", 200 + i)
    (other / "max/1.png").write_bytes(own)  # a reference of rex under another name
    (other / "pip/1.png").write_bytes((other / "max/0.png").read_bytes())
    photos = added(zoo, other, tmp_path / "new", "random", 3)
    assert {identity for _, identity, _ in contents(photos)} == {"max", "pip"}
    assert len({content for *_, content in contents(photos)} - {own}) == 3
    with pytest.raises(FinerRankError, match="'dog': 3 photos can be taken, 4 are wanted"):
        added(zoo, other, tmp_path / "more", "random", 4)
    with pytest.raises(FinerRankError, match="every photo is of an identity of the gallery"):
        added(zoo, zoo, tmp_path / "more", "random", 1)


def test_the_same_category_is_that_of_the_same_name(two: Path, strangers: Path, tmp_path: Path) -> None:
    photos = added(two, strangers, tmp_path / "new", "same-category", 8)
    assert {(p.category, p.identity) for p in photos} == {
        (category, identity) for category in ("cat", "dog") for identity in CATEGORIES[category]
    }


def test_a_category_that_the_other_gallery_lacks_is_said(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    write_rows(zoo / "metadata.csv", [row | {"category": "whale"} for row in rows_of(zoo)])
    with pytest.raises(FinerRankError, match="category 'whale': no such category there, but cat, dog, horse"):
        added(zoo, strangers, tmp_path / "new", "same-category", 1)


def similarities(queries: tuple[Photo, ...], gallery: tuple[Photo, ...]) -> np.ndarray:
    """By scikit-learn, without the store."""
    embedder = load_embedder("classical:")
    rows = [embedder.embed([Image.open(photo.path) for photo in of]) for of in (queries, gallery)]
    return np.asarray(cosine_similarity(*(row.astype(np.float64) for row in rows)))


def test_the_nearest_are_those_of_brute_force(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    gallery, other = Gallery.open(zoo), Gallery.open(strangers)
    nearest = similarities(other.photos, gallery.split("gallery")).max(axis=1)
    expected = {other.photos[i].path.read_bytes() for i in np.argsort(-nearest)[:7]}
    chooser = Chooser(load_embedder("classical:"), tmp_path / "store")
    found = added(zoo, strangers, tmp_path / "new", "nearest", 7, chooser=chooser)
    assert {content for *_, content in contents(found)} == expected


def test_what_is_nearer_and_not_taken_belongs_to_another_category(two: Path, strangers: Path, tmp_path: Path) -> None:
    gallery, other = Gallery.open(two), Gallery.open(strangers)
    chooser = Chooser(load_embedder("classical:"), tmp_path / "store")
    found = contents(added(two, strangers, tmp_path / "new", "nearest", 3, chooser=chooser))
    owner = {identity: category for category, identity, _ in found}
    assert len(found) == 6
    highest = {}
    for category in ("cat", "dog"):
        own = tuple(photo for photo in gallery.split("gallery") if photo.category == category)
        nearest = similarities(other.photos, own).max(axis=1)
        photos = [(p.identity, p.path.read_bytes()) for p in other.photos]
        highest[nearest.max()] = (category, *photos[nearest.argmax()])
        is_taken = np.array([(category, *photo) in found for photo in photos])
        free = np.array([owner.get(identity, category) == category for identity, _ in photos])
        assert nearest[free & ~is_taken].max() < nearest[is_taken].min()
    assert highest[max(highest)] in found  # who is nearest of all chooses first


@pytest.mark.parametrize("seed", range(3))
def test_the_highest_similarity_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(50, 7)).astype(np.float32)
    gallery[10:] = gallery[0] + 1e-7 * rng.normal(size=(40, 7))  # nearer to each other than float32 can tell
    queries = np.concatenate([rng.normal(size=(200, 7)).astype(np.float32), gallery[:12]])
    expected = [
        max(
            math.fsum((q * g).tolist()) / math.sqrt(math.fsum((q * q).tolist()) * math.fsum((g * g).tolist()))
            for g in gallery.astype(np.float64)
        )
        for q in queries.astype(np.float64)
    ]
    assert highest_similarity(queries, gallery) == approx(np.array(expected), abs=1e-15)


# ---- what is kept


def test_the_gallerys_own_rows_stay_as_they_are(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    add_column(zoo, "encounter", "may", 2)
    add_column(zoo, "viewpoint", "left", 3)
    add_column(zoo, "mask_file_name", "masks/rex.png", 2)
    mask = save_noise(zoo / "masks/rex.png", 0).read_bytes()
    made = add_distractors(Gallery.open(zoo), Gallery.open(strangers), "random", 5, tmp_path / "new", version="3")
    before, after = Gallery.open(zoo).photos, made.split("reference", "gallery")
    assert [replace(p, mask_file_name="") for p in after] == [replace(p, mask_file_name="") for p in before]
    assert [p.path.read_bytes() for p in after] == [p.path.read_bytes() for p in before]
    assert [(made.root / p.mask_file_name).read_bytes() for p in after if p.mask_file_name] == [mask]
    assert made.card == GalleryCard("new", "3", distractors="5 random (seed 0) from strays 1")
    assert made.image_faults() == []


def test_a_run_on_the_gallery_is_a_run_on_the_new_one(two: Path, strangers: Path, tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run"))
    made = add_distractors(Gallery.open(two), Gallery.open(strangers), "random", 2, tmp_path / "new")
    assert run.target_faults(made) == []
    assert [query.reference for query in run.queries(made)] == [
        query.reference for query in run.queries(Gallery.open(two))
    ]


def test_references_of_a_tree_are_found_by_their_old_names(strangers: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("rex/reference/0.png", "rex/gallery/1.png", "tom/gallery/1.png")):
        save_noise(tmp_path / "tree" / name, seed)
    made = add_distractors(Gallery.open(tmp_path / "tree"), Gallery.open(strangers), "random", 2, tmp_path / "new")
    (reference,) = made.split("reference")
    assert (reference.file_name, reference.source_id) == ("images/rex/reference/0.png", "rex/reference/0.png")


def test_columns_of_distractors_are_kept_but_for_their_encounter(zoo: Path, tmp_path: Path) -> None:
    row = {"file_name": "a.png", "category": "wolf", "identity": "grey", "split": "gallery", "encounter": "may"}
    write_rows(
        tmp_path / "other/metadata.csv", [row | {"viewpoint": "left", "source_id": "7", "mask_file_name": "m.png"}]
    )
    save_noise(tmp_path / "other/a.png", 50)
    mask = save_noise(tmp_path / "other/m.png", 51).read_bytes()
    (photo,) = added(zoo, tmp_path / "other", tmp_path / "new", "random", 1)
    assert photo == Photo(
        "images/distractors/a.png", "dog", "grey", "distractor", "", "left", "", photo.mask_file_name, "other/7"
    )
    assert (tmp_path / "new" / photo.mask_file_name).read_bytes() == mask


def test_distractors_can_be_added_twice(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    first = add_distractors(Gallery.open(zoo), Gallery.open(strangers), "random", 3, tmp_path / "first")
    for number in range(5):
        save_noise(tmp_path / "wolves/dog/bo-2" / f"{number}.png", 70 + number)
    second = add_distractors(first, Gallery.open(tmp_path / "wolves"), "random", 2, tmp_path / "second", seed=1)
    assert set(first.photos) < set(second.photos)
    assert len(second.photos) == len(first.photos) + 2
    assert second.card.distractors == "3 random (seed 0) from strays 1; 2 random (seed 1) from wolves 1"


def test_links_are_made_where_they_are_wanted(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    photos = added(zoo, strangers, tmp_path / "new", "random", 2, symlink=True)
    assert all(photo.path.is_symlink() for photo in photos)
    assert Gallery.open(tmp_path / "new").image_faults() == []


# ---- what is wrong


def test_too_few_are_counted_for_every_category_and_nothing_is_written(
    two: Path, strangers: Path, tmp_path: Path
) -> None:
    with pytest.raises(Faults) as refused:
        added(two, strangers, tmp_path / "new", "random", 50)
    assert [fault.where for fault in refused.value.faults] == ["category 'cat'", "category 'dog'"]
    counts = [int(fault.what.split()[0]) for fault in refused.value.faults]
    assert sum(counts) == N_STRANGERS
    assert {path.name for path in tmp_path.iterdir()} == {"zoo"}


def test_broken_photos_are_named_before_anything_is_written(zoo: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "other/max/0.png", 1000)
    (tmp_path / "other/max/1.png").write_bytes(b"no picture")
    with pytest.raises(FinerRankError, match=r"max/1.png: not a readable image"):
        added(zoo, tmp_path / "other", tmp_path / "new", "random", 1)
    content = (tmp_path / "other/max/0.png").read_bytes()
    (tmp_path / "other/max/1.png").write_bytes(content[: len(content) - 2000])
    with pytest.raises(FinerRankError, match=r"max/1.png: truncated or damaged"):
        added(zoo, tmp_path / "other", tmp_path / "new", "random", 2)
    assert not (tmp_path / "new").exists()


def test_the_nearest_need_a_chooser(zoo: Path, strangers: Path, tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match="needs an embedder"):
        added(zoo, strangers, tmp_path / "new", "nearest", 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--choose", "nearest"], "--choose nearest: needs an --embedder to say what is near"),
        (["--choose", "random", "--embedder", "classical:"], "--choose random: has no use for --embedder"),
        (["--choose", "hardest"], "--choose hardest: unknown; write random, same-category, nearest"),
        (["--choose", "same-category", "--number", "13"], "12 photos can be taken, 13 are wanted"),
    ],
)
def test_wrong_options_are_refused(
    zoo: Path, strangers: Path, tmp_path: Path, refusal: Refusal, options: list[str], complaint: str
) -> None:
    given = ["--number", "1", *options]
    assert complaint in refusal("gallery", "distractors", zoo, "--from", strangers, "--out", tmp_path / "new", *given)
    assert not (tmp_path / "new").exists()


def test_a_gallery_inside_the_tree_it_is_made_of_is_refused(zoo: Path, strangers: Path, refusal: Refusal) -> None:
    out = strangers / "new"
    command = ("gallery", "distractors", zoo, "--from", strangers, "--choose", "random", "--number", "1", "--out", out)
    assert "lies inside" in refusal(*command)


# ---- the judge should not be the chooser


def test_the_card_says_who_chose_and_the_chooser_is_noted(zoo: Path, strangers: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "new"
    command = ("gallery", "distractors", zoo, "--from", strangers, "--choose", "nearest", "--number", "4", "--out", out)
    done = cli(*command, "--embedder", "classical:", "--name", "hard", "--version", "2")
    assert done.returncode == 0, done.stderr
    chooser = load_embedder("classical:")
    card = Gallery.open(out).card
    how = f"4 nearest by classical: (fingerprint {chooser.fingerprint[:8]}) from strays 1"
    assert card == GalleryCard("hard", "2", distractors=how)
    assert done.stdout == f"{out}: 4 distractors, 10 photos; {how}\n"
    assert json.loads(cli("gallery", "show", out, "--json").stdout)["distractors"] == how

    assert "classical: chose this gallery's distractors itself" in cli(
        "evaluate", "--gallery", out, "--embedder", "classical:"
    ).stderr  # fmt: skip

    note = chooser_note(card, chooser)
    assert note is not None
    assert "classical: chose this gallery's distractors itself" in note
    other = load_embedder("classical:", resize="squash", size=64)
    assert other.fingerprint != chooser.fingerprint
    assert "with other preprocessing" in (chooser_note(card, other) or "")
    assert chooser_note(GalleryCard("x", distractors=how.replace("classical:", "timm:a b")), other) is None
    assert chooser_note(GalleryCard("x", distractors="4 random (seed 0) from strays 1"), chooser) is None
    assert chooser_note(GalleryCard("x"), chooser) is None
