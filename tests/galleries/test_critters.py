"""Critters: the same seeds draw the same pixels; individuals differ in details; a drawn gallery is a gallery."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from handmade import Cli, Refusal, files_below, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import approx
from scipy.ndimage import binary_dilation

from galleries.critters import (
    GROUPS,
    OCCLUDERS,
    PLACES,
    RENDERER_VERSION,
    Drawn,
    Individual,
    Scene,
    Species,
    draw,
    individual,
    mean_individual,
    mixed,
    scene,
    species,
)
from galleries.critters.coats import KINDS, coat_of, sheet_of
from galleries.critters.drawn_gallery import Plan, draw_photos, individuals_of, photo_scenes
from galleries.critters.species import N_SPOTS, name_of
from galleries.errors import FinerRankError
from galleries.gallery import Gallery, GalleryCard

SMALL = Plan(seed=5, n_species=2, n_identities=2, n_photos=3, n_references=2, size_px=64)
OPTIONS = ("--seed", 5, "--species", 2, "--identities", 2, "--photos", 3, "--references", 2, "--size", 64)


def pixels(drawn: Drawn) -> npt.NDArray[np.int64]:
    return np.asarray(drawn.image).astype(np.int64)


def digest(drawn: Drawn) -> str:
    return hashlib.sha256(drawn.image.tobytes() + drawn.mask.tobytes()).hexdigest()


def studio(seed: int = 1) -> Scene:
    """A scene in which nothing hides or blurs the animal."""
    return scene(seed, occluder="none", blur=0.0, fill=0.8, x=0.5)


def of_coat(kind: str) -> Species:
    return next(found for seed in range(400) if (found := species(seed)).coat == kind)


def far_apart(a: Individual, b: Individual) -> float:
    return sum(float(np.linalg.norm(getattr(a, group) - getattr(b, group))) for group in GROUPS)


def test_the_same_seeds_draw_the_same_pixels_in_any_order_and_process() -> None:
    code = (
        "import hashlib; from galleries.critters import *\n"
        "s = species({0}); d = draw(s, individual(s, {1}), scene({2}), 96)\n"
        "print(hashlib.sha256(d.image.tobytes() + d.mask.tobytes()).hexdigest())"
    )
    wanted = [(1, 2, 3), (10**12, 0, 2**60)]
    here = {}
    for one, who, where in reversed(wanted):
        kind = species(one)
        here[one] = digest(draw(kind, individual(kind, who), scene(where), 96))
    for one, who, where in wanted:
        done = subprocess.run(
            [sys.executable, "-c", code.format(one, who, where)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here[one]


def test_other_seeds_draw_others() -> None:
    kind = species(3)
    base = digest(draw(kind, individual(kind, 1), scene(1), 64))
    assert digest(draw(kind, individual(kind, 2), scene(1), 64)) != base
    assert digest(draw(kind, individual(kind, 1), scene(2), 64)) != base


def test_species_have_names_of_their_own() -> None:
    names = [name_of(seed) for seed in range(20_000)]
    assert len(set(names)) == len(names)
    assert all(name.isalpha() for name in names)


@pytest.mark.parametrize("size", [64, 100, 160, 257, 512])
def test_any_size_shows_the_same_photo(size: int) -> None:
    kind = species(12)
    drawn = draw(kind, individual(kind, 1), studio(4), size)
    assert drawn.image.size == (size, size)
    assert drawn.image.mode == "RGB"
    assert drawn.mask.shape == (size, size)
    small = np.asarray(drawn.image.resize((32, 32), Image.Resampling.BOX)).astype(float)
    like = np.asarray(draw(kind, individual(kind, 1), studio(4), 128).image.resize((32, 32), Image.Resampling.BOX))
    assert np.abs(small - like).mean() < 12


@pytest.mark.parametrize("seed", range(12))
def test_mask_and_box_say_where_the_animal_is(seed: int) -> None:
    kind = species(seed)
    drawn = draw(kind, individual(kind, 0), scene(seed), 96)
    assert set(np.unique(drawn.mask)) == {0, 255}
    x, y, width, height = drawn.bbox
    assert drawn.mask[y : y + height, x : x + width].sum() == drawn.mask.sum()
    assert min(map(int, (drawn.mask[y].max(), drawn.mask[:, x].max()))) == 255
    assert min(map(int, (drawn.mask[y + height - 1].max(), drawn.mask[:, x + width - 1].max()))) == 255
    assert 0.02 < (drawn.mask > 0).mean() < 0.7


@pytest.mark.parametrize("seed", range(6))
def test_another_coat_changes_the_picture_within_the_mask_only(seed: int) -> None:
    kind = species(seed)
    one = individual(kind, 0)
    other = mixed(one, individual(kind, 1), 1, ["pattern", "colour"])
    a, b = draw(kind, one, studio(seed), 128), draw(kind, other, studio(seed), 128)
    assert (a.mask == b.mask).all()
    changed = np.abs(pixels(a) - pixels(b)).max(axis=2) > 3
    near = binary_dilation(a.mask > 0, iterations=2)
    assert not changed[~near].any()
    assert changed[a.mask > 0].mean() > 0.1


def test_what_stands_in_front_is_cut_out_of_the_mask() -> None:
    kind = species(2)
    open_, behind = studio(3), replace(studio(3), occluder="fence")
    free, hidden = (draw(kind, individual(kind, 1), where, 128) for where in (open_, behind))
    assert free.hidden == 0
    assert 0.02 < hidden.hidden < 0.9
    assert ((hidden.mask > 0) <= (free.mask > 0)).all()
    assert hidden.mask.sum() == approx(free.mask.sum() * (1 - hidden.hidden), rel=0.1)


def test_a_mirrored_scene_mirrors_the_animal() -> None:
    kind = species(8)
    right = replace(studio(6), viewpoint="right", roll=0.0)
    a, b = (draw(kind, individual(kind, 1), where, 128).mask for where in (right, replace(right, viewpoint="left")))
    assert (a == b[:, ::-1]).mean() > 0.99


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("occluder", OCCLUDERS)
def test_every_place_and_obstacle_is_drawn(place: str, occluder: str) -> None:
    kind = species(30)
    for horizon in (-0.4, 0.5):
        drawn = draw(kind, individual(kind, 1), scene(1, place=place, occluder=occluder, horizon=horizon), 64)
        assert pixels(drawn).std() > 5


def test_photos_of_an_encounter_share_place_and_light_and_differ_in_pose() -> None:
    scenes = [scene(k, encounter=77) for k in range(4)]
    assert len({(s.place, s.place_seed, s.light, s.viewpoint) for s in scenes}) == 1
    assert len({s.pose for s in scenes}) == 4


def test_scenes_vary() -> None:
    scenes = [scene(k) for k in range(200)]
    assert {s.place for s in scenes} == set(PLACES)
    assert {s.occluder for s in scenes} == set(OCCLUDERS)
    assert {s.viewpoint for s in scenes} == {"left", "right"}
    assert np.mean([s.occluder == "none" for s in scenes]) > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_individuals_of_a_species_differ_in_details_only(kind: str) -> None:
    of = of_coat(kind)
    a, b = (draw(of, individual(of, k), studio(2), 160) for k in (1, 2))
    both, either = ((a.mask > 0) & (b.mask > 0)).sum(), ((a.mask > 0) | (b.mask > 0)).sum()
    assert both / either > 0.75
    inside = (a.mask > 0) & (b.mask > 0)
    assert np.abs(pixels(a) - pixels(b))[inside].mean() > 3
    other = species(of.seed + 1)
    stranger = draw(other, individual(other, 1), studio(2), 160)
    assert both / either > ((a.mask > 0) & (stranger.mask > 0)).sum() / ((a.mask > 0) | (stranger.mask > 0)).sum()


def test_every_kind_of_coat_fits_its_numbers() -> None:
    spotted = [of for seed in range(120) if (of := species(seed)).coat in ("spots", "dapples", "rosettes", "cells")]
    assert all(20 < len(sheet_of(of).lattice) < N_SPOTS for of in spotted)  # no spot is left without numbers


@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 1), st.sets(st.sampled_from(GROUPS), min_size=1))
@settings(max_examples=60, deadline=None)
def test_mixing_moves_steadily_from_one_to_the_other(seed: int, d: float, e: float, groups: set[str]) -> None:
    kind = species(seed)
    a, b = individual(kind, 1), individual(kind, 2)
    near, far = mixed(a, b, min(d, e), groups), mixed(a, b, max(d, e), groups)
    assert far_apart(a, near) <= far_apart(a, far) + 1e-4
    assert far_apart(near, b) >= far_apart(far, b) - 1e-4
    for group in set(GROUPS) - groups:
        assert (getattr(far, group) == getattr(a, group)).all()


def test_mixing_starts_at_the_one_and_ends_at_the_other() -> None:
    kind = species(9)
    a, b = individual(kind, 1), individual(kind, 2)
    assert far_apart(mixed(a, b, 0), a) == 0
    assert far_apart(mixed(a, b, 1), b) == 0
    assert digest(draw(kind, mixed(a, b, 1), scene(1), 64)) == digest(draw(kind, b, scene(1), 64))
    with pytest.raises(ValueError, match="two species"):
        mixed(a, individual(species(10), 1), 0.5)
    with pytest.raises(ValueError, match="groups"):
        mixed(a, b, 0.5, ["shape"])
    with pytest.raises(ValueError, match="d is in"):
        mixed(a, b, 1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_lies_between_individuals_and_a_halfway_coat_keeps_its_contrast(kind: str) -> None:
    of = of_coat(kind)
    mean, animals = mean_individual(of), [individual(of, k) for k in range(40)]
    lengths = [animal.body["height"] for animal in animals]
    assert min(lengths) < mean.body["height"] < max(lengths)
    assert np.abs(np.mean([animal.colours for animal in animals], axis=0) - mean.colours).max() < 0.03
    half = mixed(animals[0], mean, 0.5)
    assert far_apart(half, mean) == approx(far_apart(half, animals[0]), rel=1e-4)
    inside = sheet_of(of).inside > 0
    dark = [float((coat_of(animal)[..., 0][inside] > 0).mean()) for animal in (animals[0], half, mean)]
    assert min(dark) > 0.3 * max(dark) > 0


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_independent(group: str) -> None:
    kind = of_coat("spots")
    a = individual(kind, 1)
    b = mixed(a, individual(kind, 2), 1, [group])
    one, other = draw(kind, a, studio(5), 128), draw(kind, b, studio(5), 128)
    assert (one.mask == other.mask).all() == (group != "proportions")
    assert (coat_of(a) == coat_of(b)).all() == (group != "pattern")
    assert (a.colours == b.colours).all() == (group != "colour")


def test_wrong_arguments_are_refused() -> None:
    kind = species(1)
    with pytest.raises(ValueError, match="not a"):
        draw(species(2), kind.mean, scene(1))
    with pytest.raises(ValueError, match="size 4"):
        draw(kind, individual(kind, 1), scene(1), 4)


@pytest.fixture(scope="module")
def built(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("critters") / "drawn"
    done = cli("gallery", "build", "critters", "--out", out, "--masks", *OPTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out}: 4 identities, 12 gallery photos, 8 references\n"
    return out


def test_a_drawn_gallery_is_a_gallery_without_faults(built: Path, cli: Cli) -> None:
    checked = cli("gallery", "check", built)
    assert (checked.returncode, checked.stderr) == (0, "")
    gallery = Gallery.open(built)
    assert len(gallery.category_of) == 4
    assert set(gallery.category_of.values()) == {species(5000).name, species(5001).name}
    assert {photo.viewpoint for photo in gallery.photos} <= {"left", "right"}
    assert gallery.card.source == SMALL.source
    assert gallery.card.mask_source == f"critters {RENDERER_VERSION}"


def test_boxes_and_masks_are_those_of_the_photos(built: Path) -> None:
    for row in rows_of(built):
        mask = np.asarray(Image.open(built / row["mask_file_name"]))
        x, y, width, height = map(int, row["bbox"].split(","))
        assert mask.shape == (64, 64)
        assert (mask[y : y + height, x : x + width] > 0).sum() == (mask > 0).sum() > 50


def test_no_encounter_is_on_both_sides(built: Path) -> None:
    sides: dict[str, set[str]] = {}
    for photo in Gallery.open(built).photos:
        sides.setdefault(photo.encounter, set()).add(photo.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert len(sides) == 4 * (1 + 2)
    scenes = photo_scenes(replace(SMALL, n_photos=8, n_references=3), 0, 0)
    assert len({where.encounter for _, _, where in scenes}) == len({name for _, name, _ in scenes}) == 2 + 4


def test_two_builds_are_equal_and_masks_leave_the_digest_alone(built: Path, cli: Cli, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert cli("gallery", "build", "critters", "--out", again, "--workers", 1, *OPTIONS).returncode == 0
    assert not (again / "masks").exists()
    first, second = Gallery.open(built), Gallery.open(again)
    assert first.digest == second.digest
    assert all(a.path.read_bytes() == b.path.read_bytes() for a, b in zip(first.photos, second.photos, strict=True))


def test_any_number_of_workers_draws_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galleries.critters.drawn_gallery.WORTH_A_PROCESS", 0)
    plan = replace(SMALL, n_photos=1, n_references=1)
    done: list[int] = []
    alone = draw_photos(plan, tmp_path / "alone", workers=1)
    together = draw_photos(plan, tmp_path / "together", workers=2, step=done.append)
    assert [photo.values for photo in alone] == [photo.values for photo in together]
    assert [a.path.read_bytes() for a in alone] == [b.path.read_bytes() for b in together]
    assert sum(done) == plan.total == 8
    assert files_below(tmp_path / "alone") == files_below(tmp_path / "together")


def test_the_card_tells_who_is_in_the_gallery(built: Path) -> None:
    gallery = Gallery.open(built)
    individuals = individuals_of(gallery.card)
    assert set(individuals) == set(gallery.category_of)
    for number, (name, (kind, animal)) in enumerate(individuals.items()):
        assert gallery.category_of[name] == kind.name
        assert far_apart(animal, individual(kind, number % 2)) == 0
    name = next(iter(individuals))
    kind, animal = individuals[name]
    photo = next(photo for photo in gallery.photos if photo.identity == name and photo.split == "reference")
    _, _, where = photo_scenes(SMALL, 0, 0)[0]
    redrawn, kept = draw(kind, animal, where, 64), np.asarray(Image.open(photo.path)).astype(int)
    assert np.abs(pixels(redrawn) - kept).mean() < 6  # but for JPEG


def test_other_galleries_and_renderers_are_told_so() -> None:
    with pytest.raises(FinerRankError, match="no gallery of critters"):
        individuals_of(GalleryCard("zoo", source="a zoo"))
    with pytest.raises(FinerRankError, match="drawn by critters 99"):
        individuals_of(GalleryCard("zoo", source="critters 99: seed 1, 4 species, 8 identities each"))


@pytest.mark.parametrize(
    ("option", "value"), [("size", 8), ("size", 5000), ("species", 0), ("identities", 0), ("photos", 0), ("seed", -1)]
)
def test_numbers_out_of_range_are_refused_in_one_line(option: str, value: int) -> None:
    with pytest.raises(FinerRankError, match=f"^--{option} {value}: give a number from") as refused:
        replace(SMALL, **{{"size": "size_px", "seed": "seed"}.get(option, f"n_{option}"): value})
    assert "\n" not in str(refused.value)


def test_bad_options_end_the_command_in_one_line(built: Path, refusal: Refusal, tmp_path: Path) -> None:
    assert "exists already" in refusal("gallery", "build", "critters", "--out", built)
    assert "--size 8" in refusal("gallery", "build", "critters", "--out", tmp_path / "new", "--size", 8)
    assert not files_below(tmp_path)
