"""A drawn world of scenes with masks: each shows its identity in the subject alone, or in the background alone."""

from pathlib import Path
from typing import Any

import numpy as np
from handmade import Row, write_rows
from PIL import Image

from benchmark.embedders import load_embedder
from benchmark.protocol import Evaluation, Options, evaluate
from benchmark.regions import REGIONS, Region
from galleries.gallery import Gallery
from personalization_runs.run import Run

SIZE = (96, 64)
IDENTITIES = tuple(f"toy {letter}" for letter in "abcdef")
N_PHOTOS, N_IMAGES = 4, 3


def patches(key: str, size: tuple[int, int], n: int = 2) -> Image.Image:
    """Coloured patches, the same for the same key."""
    rng = np.random.default_rng(list(key.encode()))
    return Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)


def draw_scene(folder: Path, name: str, subject: str, background: str, place: int) -> Row:
    """A subject in front of a background, and its mask, which is an ellipse."""
    left, top = 26 + 2 * (place % 3), 11 + 2 * (place % 2)
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    is_subject = ((columns - left - 20) / 20) ** 2 + ((rows - top - 20) / 20) ** 2 < 1
    picture = patches(background, SIZE)
    picture.paste(patches(subject, (40, 40)).crop((0, 0, 40, 40)), (left, top))
    mask = Image.fromarray((is_subject * 255).astype(np.uint8))
    whole = Image.composite(picture, patches(background, SIZE), mask)
    for kind, image in (("images", whole), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image.save(folder / kind / f"{name}.png")
    return {"file_name": f"images/{name}.png", "mask_file_name": f"masks/{name}.png"}


def write_world(folder: Path, carrier: Region) -> tuple[Path, Path]:
    """A gallery `zoo` and a run `painter` whose pictures show their identity in the `carrier` alone."""
    rows: dict[str, list[Row]] = {"zoo": [], "painter": []}
    number = 0
    for identity in IDENTITIES:
        splits = ["reference", *["gallery"] * N_PHOTOS, *["painter"] * N_IMAGES]
        for i, split in enumerate(splits):
            number += 1
            keys = {"subject": f"subject {number}", "background": f"background {number}", carrier: identity}
            where = "painter" if split == "painter" else "zoo"
            name = f"{identity.replace(' ', '_')}_{i}"
            row = draw_scene(folder / where, name, keys["subject"], keys["background"], number)
            label = {"category": "toys", "identity": identity}
            rows[where].append(row | label | ({} if where == "painter" else {"split": split}))
    for where, of in rows.items():
        write_rows(folder / where / "metadata.csv", of)
    (folder / "zoo" / "gallery.toml").write_text('name = "zoo"\nmask_source = "by hand"\n')
    (folder / "painter" / "run.toml").write_text('model = "painter"\nmask_source = "by hand"\n')
    return folder / "zoo", folder / "painter"


def judge(zoo: Path, painter: Path, store: Path, *regions: Region, **options: Any) -> dict[Region, Evaluation]:
    asked = Options(regions=regions or REGIONS, **options)
    opened = Gallery.open(zoo), [Run.open(painter)]
    return {e.region: e for e in evaluate(*opened, [load_embedder("classical:")], store, asked)}
