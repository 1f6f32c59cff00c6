"""A gallery of critters: who is in it, in which scenes, and how to find the individuals again."""

import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from galleries.critters import RENDERER_VERSION
from galleries.critters.photos import Drawn, draw
from galleries.critters.scenes import Scene, scene
from galleries.critters.species import Individual, Species, individual, species
from galleries.errors import FinerRankError
from galleries.image_set import refuse_existing
from galleries.sources import Found

if TYPE_CHECKING:
    from galleries.gallery import Gallery, GalleryCard

T = TypeVar("T")
R = TypeVar("R")

LIMITS = {
    "seed": (0, 2**40), "species": (1, 1000), "identities": (1, 1000), "photos": (1, 1000), "references": (0, 1000),
    "size": (64, 512),
}  # fmt: skip
"""Least and greatest value of each number of a plan; seeds of species are a thousand apart for each seed."""
JPEG_QUALITY = 92
ENCOUNTER_PHOTOS = 2
"""Photos of one encounter, as far as an identity's photos go round."""
WORTH_A_PROCESS = 150
"""Photos from which starting processes is quicker than drawing."""
_SOURCE = re.compile(r"critters (\d+): seed (\d+), (\d+) species, (\d+) identities each")


@dataclass(frozen=True)
class Plan:
    """A gallery to be drawn.

    Attributes:
        seed: galleries of two seeds share neither species nor individuals nor scenes.
        n_species, n_identities: identities of each species.
        n_photos, n_references: of each identity; references come on top of the gallery's photos.
        size_px: side of the photos.
        masks: whether masks are written too.

    Raises:
        FinerRankError: a number outside `LIMITS`.
    """

    seed: int = 1
    n_species: int = 4
    n_identities: int = 8
    n_photos: int = 8
    n_references: int = 3
    size_px: int = 160
    masks: bool = False

    def __post_init__(self) -> None:
        numbers = (self.seed, self.n_species, self.n_identities, self.n_photos, self.n_references, self.size_px)
        for (name, (low, high)), number in zip(LIMITS.items(), numbers, strict=True):
            if not low <= number <= high:
                raise FinerRankError(f"--{name} {number}: give a number from {low} to {high}")

    @property
    def source(self) -> str:
        """What the card says of its making; `individuals_of` reads it.

        >>> Plan(seed=3).source
        'critters 1: seed 3, 4 species, 8 identities each'
        """
        who = f"{self.n_species} species, {self.n_identities} identities each"
        return f"critters {RENDERER_VERSION}: seed {self.seed}, {who}"

    @property
    def total(self) -> int:
        """Photos and references of all identities."""
        return self.n_species * self.n_identities * (self.n_photos + self.n_references)


def individuals_of(card: "GalleryCard") -> dict[str, tuple[Species, Individual]]:
    """The individuals of a drawn gallery, by identity, made again from what its card says.

    Raises:
        FinerRankError: not a gallery of critters, or one of another version of the renderer.
    """
    return {name: (kind, animal) for _, _, name, kind, animal in _everybody(*_told(card))}


def reference_scenes(card: "GalleryCard", identity: str, n: int) -> list[Scene]:
    """The scenes of the first `n` reference photos of an identity, made again from what the card says.

    Raises:
        FinerRankError: as `individuals_of`.
    """
    told = _told(card)
    species_number, number = next((s, i) for s, i, name, _, _ in _everybody(*told) if name == identity)
    plan = Plan(told[0], n_photos=1, n_references=n)
    return [where for split, _, where in photo_scenes(plan, species_number, number) if split == "reference"]


def _told(card: "GalleryCard") -> tuple[int, int, int]:
    """Seed, species, identities of each."""
    told = _SOURCE.fullmatch(card.source)
    build = "make one with finer-rank gallery build critters"
    if not told:
        raise FinerRankError(f"{card.name}: no gallery of critters (its source is {card.source!r}); {build}")
    version, seed, n_species, n_identities = map(int, told.groups())
    if version != RENDERER_VERSION:
        raise FinerRankError(
            f"{card.name}: drawn by critters {version}, and this is critters {RENDERER_VERSION}, which draws them "
            f"otherwise; {build}"
        )
    return seed, n_species, n_identities


def photo_scenes(plan: Plan, species_number: int, identity_number: int) -> list[tuple[str, str, Scene]]:
    """Split, encounter and scene of each photo of an identity. No encounter is on both sides of the split."""
    scenes = []
    for split, n in (("reference", plan.n_references), ("gallery", plan.n_photos)):
        for k in range(n):
            meeting = k // ENCOUNTER_PHOTOS
            key = [plan.seed, species_number, identity_number, int(split == "gallery"), meeting]
            encounter = int(np.random.default_rng([9, *key]).integers(2**62))
            scenes.append((split, f"{split}-{meeting + 1}", scene(k, encounter)))
    return scenes


def draw_gallery(
    plan: Plan,
    out: Path,
    name: str = "",
    version: str = "1",
    *,
    workers: int = 1,
    step: Callable[[int], Any] | None = None,
) -> "Gallery":
    """Draw a gallery folder. The leak gate has nothing to look for: no scene is drawn twice.

    Args:
        name: that of the folder by default.
        workers, step: see `draw_photos`.

    Raises:
        FinerRankError: `out` exists, or cannot be written.
    """
    from galleries.gallery import Gallery, GalleryCard

    refuse_existing(out)
    with tempfile.TemporaryDirectory() as scratch:
        found = draw_photos(plan, Path(scratch), workers=workers, step=step)
        card = GalleryCard(
            name or out.resolve().name,
            version,
            description=f"Drawn animals, {plan.size_px} px: individuals of a species differ in details only",
            licence="MIT",
            source=plan.source,
            thumbnails="yes",
            mask_source=f"critters {RENDERER_VERSION}" if plan.masks else "",
        )
        return Gallery.build(found, card, Path(scratch), out, leaks="unchecked")


def draw_photos(
    plan: Plan, folder: Path, *, workers: int = 1, step: Callable[[int], Any] | None = None
) -> tuple[Found, ...]:
    """Draw all photos of a gallery into a folder, and their masks. The same bytes for any number of workers.

    Args:
        workers: processes. With more than one, a program must start from an importable `__main__`.
        step: told of each photo done.

    Returns:
        the photos with all columns, as a source finds them.
    """
    jobs = [(plan, folder, s, i) for s in range(plan.n_species) for i in range(plan.n_identities)]
    found: list[Found] = []
    for own in in_processes(_draw_identity, jobs, workers if plan.total >= WORTH_A_PROCESS else 1):
        found += own
        if step:
            step(len(own))
    return tuple(found)


def in_processes(function: Callable[[T], R], jobs: Sequence[T], workers: int) -> Iterator[R]:
    """`map`, in order, over so many processes; in this one where they are fewer than two."""
    if min(workers, len(jobs)) < 2:
        yield from map(function, jobs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned, not forked: torch or a progress bar may have threads running.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, len(jobs) // (8 * workers)))


def _everybody(seed: int, n_species: int, n_identities: int) -> Iterator[tuple[int, int, str, Species, Individual]]:
    for s in range(n_species):
        kind = species(1000 * seed + s)
        for i in range(n_identities):
            yield s, i, identity_name(kind, i), kind, individual(kind, i)


def identity_name(kind: Species, number: int) -> str:
    """`nebulo-3`: no other species has it."""
    return f"{kind.name}-{number + 1}"


def _draw_identity(job: tuple[Plan, Path, int, int]) -> list[Found]:
    plan, folder, s, i = job
    kind = species(1000 * plan.seed + s)
    animal, name = individual(kind, i), identity_name(kind, i)
    found = []
    for n, (split, encounter, where) in enumerate(photo_scenes(plan, s, i)):
        drawn = _seen(kind, animal, where, plan.size_px)
        base = f"{kind.name}/{name}/{n:02d}"
        path = folder / f"{base}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(drawn))
        values: Mapping[str, str] = {
            "category": kind.name,
            "identity": name,
            "split": split,
            "encounter": f"{name}-{encounter}",
            "viewpoint": where.viewpoint,
            "bbox": ",".join(map(str, drawn.bbox)),
        }
        if plan.masks:
            mask = folder / f"{base}.mask.png"
            _save_mask(drawn, mask)
            values = {**values, "mask_file_name": str(mask)}
        found.append(Found(base, f"{base}.jpg", path, dict(values)))
    return found


def _seen(kind: Species, animal: Individual, where: Scene, size: int) -> Drawn:
    """A photo that shows at least half of the animal; nobody keeps the others."""
    drawn = draw(kind, animal, where, size)
    return drawn if drawn.hidden < 0.5 else draw(kind, animal, replace(where, occluder="none"), size)


def encoded(drawn: Drawn) -> bytes:
    """The photo as the file of a gallery: JPEG."""
    buffer = io.BytesIO()
    drawn.image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _save_mask(drawn: Drawn, path: Path) -> None:
    from PIL import Image

    Image.fromarray(drawn.mask).save(path, optimize=True)
