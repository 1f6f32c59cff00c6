"""A drawn zoo: photos whose colours are half their animal's and half their own, so that rankings are neither
perfect nor chance."""

from pathlib import Path

import numpy as np
from handmade import Row, write_rows
from PIL import Image

ANIMALS = {"ada": "cats", "ben": "cats", "cleo": "cats", "rex": "dogs", "fido": "dogs"}
N_REFERENCES, N_PHOTOS, N_STRAYS, N_IMAGES = 2, 4, 3, 3


def draw(path: Path, animal: str, number: int, likeness: float = 0.5) -> Path:
    """Draw picture `number` of an animal; the same arguments give the same bytes."""

    def patches(*seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (6, 6, 3))

    key = list(animal.encode())
    mixed = likeness * patches(*key) + (1 - likeness) * patches(*key, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mixed.astype(np.uint8)).resize((40, 32), Image.Resampling.BILINEAR).save(path)
    return path


def write_zoo(folder: Path, encounters: bool = False) -> Path:
    """A gallery of three cats and two dogs, with references, and stray dogs as distractors.

    With `encounters`, the first gallery photo of each animal is from the encounter of its first reference.
    """
    rows: list[Row] = []
    for animal, category in ANIMALS.items():
        for number in range(N_REFERENCES + N_PHOTOS):
            split = "reference" if number < N_REFERENCES else "gallery"
            row = {"file_name": f"images/{animal}_{number}.png", "category": category, "identity": animal}
            row["split"] = split
            if encounters:
                row["encounter"] = f"{animal}-{0 if number in (0, N_REFERENCES) else number}"
            rows.append(row)
    for number in range(N_STRAYS):
        row = {"file_name": f"images/stray_{number}.png", "category": "dogs", "identity": f"stray {number}"}
        rows.append(row | {"split": "distractor"} | ({"encounter": ""} if encounters else {}))
    for number, row in enumerate(rows):
        draw(folder / row["file_name"], row["identity"], number)
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text('name = "zoo"\nversion = "1"\n')
    return folder


def write_run(folder: Path, model: str = "painter", references: bool = True, likeness: float = 0.5) -> Path:
    """A run of `N_IMAGES` images of each animal, each made from the animal's first reference where `references`."""
    rows: list[Row] = []
    for animal in ANIMALS:
        for number in range(N_IMAGES):
            row = {"file_name": f"images/{animal}_{number}.png", "identity": animal, "prompt": f"{animal}, asleep"}
            rows.append(row | ({"reference_file_name": f"images/{animal}_0.png"} if references else {}))
            draw(folder / row["file_name"], animal, 1000 + number + len(model) * 50, likeness)
    write_rows(folder / "metadata.csv", rows)
    (folder / "run.toml").write_text(f'model = "{model}"\n')
    return folder
