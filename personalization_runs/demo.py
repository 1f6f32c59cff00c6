"""The demonstration: a drawn gallery, and two runs whose truth is known.

`faithful` draws the individual that was asked for in new places; `look-alike` draws, each time, some other
individual of the species: the failure that pairwise similarity forgives.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.creatures import SPECIES, creature, draw
from galleries.gallery import Gallery, GalleryCard
from galleries.image_set import new_folder
from galleries.sources.folder import find_in_folder
from personalization_runs.run import Run, RunCard

if TYPE_CHECKING:
    from PIL import Image

N_INDIVIDUALS, N_REFERENCES, N_GALLERY, N_GENERATED = 8, 3, 6, 5
STRANGERS = 1000
"""Seeds of individuals from here on are in no gallery."""


def write_demo(out: Path) -> None:
    """Write `gallery`, `runs/faithful` and `runs/look-alike` below `out`.

    Raises:
        FinerRankError: `out` exists.
    """
    with new_folder(out) as partial, tempfile.TemporaryDirectory() as scratch:
        photos, faithful, strangers = Path(scratch, "photos"), Path(scratch, "faithful"), Path(scratch, "look-alike")
        for s, species in enumerate(SPECIES):
            for i in range(N_INDIVIDUALS):
                individual, name = creature(species, i), f"{species}/{species}-{i + 1}"
                scene = 10_000 * (s + 1) + 100 * i
                for n in range(N_REFERENCES + N_GALLERY):
                    split = "reference" if n < N_REFERENCES else "gallery"
                    _save(draw(individual, scene + n), photos / name / split / f"{n:02d}.png")
                for n in range(N_GENERATED):
                    _save(draw(individual, scene + 50 + n), faithful / name / f"{n:02d}.png")
                    stranger = creature(species, STRANGERS + scene + n)
                    _save(draw(stranger, scene + 50 + n), strangers / name / f"{n:02d}.png")
        found = find_in_folder(photos, ("reference", "gallery")).images
        card = GalleryCard("drawn creatures", description="Procedural animals", licence="MIT", source="finer-rank demo")
        gallery = Gallery.build(found, card, photos, partial / "gallery")
        (partial / "runs").mkdir()
        for folder in (faithful, strangers):
            run_card = RunCard(folder.name, method="simulated", gallery=card.name, gallery_version=card.version)
            images = find_in_folder(folder).images
            Run.build(images, run_card, folder, partial / "runs" / folder.name, gallery=gallery)


def _save(picture: "Image.Image", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
