"""A small world for tests of the site: two versions of a gallery, models with hostile names, two encoders.

Gallery 1 may be shown, and has five ranked models, a class-only run and two incomplete
runs, one of them the best of all.
Gallery 2 may not be shown, and has two models.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from handmade import rows_of, write_rows
from in_process import run_here
from PIL import Image
from test_bundles import CARD, change_json, seal

from benchmark.embedders import load_embedder
from benchmark.protocol import Options
from galleries.gallery import Gallery
from leaderboard.submission import score, write_bundle
from personalization_runs.run import Run

SCRIPT = '<script>document.title = "hacked"</script>'
IMAGE = '"><img src=x onerror=alert(1)> & co.'
TURNED = "\u202egnp.elbon\u200f ../../etc"
FORMULA = "=1+1"
LONG = "very" + "-very" * 35 + " long"
INCOMPLETE, REST = "half done", "the rest"
"""The two were asked for one identity in common, `SHARED`."""
CLASS_ONLY = "untuned"

LIKENESS = {SCRIPT: 0.1, TURNED: 0.09, IMAGE: 0.055, FORMULA: 0.05, LONG: 0.01}
"""Of the ranked models, the share of an image that is painted in the colours of its animal."""
SECOND = FORMULA
"""The model that only one of the encoders has scored."""
COPIER = IMAGE
"""The model of which some images are copies of reference photos."""
WITH_CLIP_T = {SCRIPT: 0.31, IMAGE: -0.02, INCOMPLETE: 0.4}
WITHOUT_AUC = LONG

CATS = ("ada", '<b onclick="alert(2)">ben</b>', "cleo", 'dora\'s "cat"', "e" * 1500, "finn", "\u202egus", "hex")
DOGS = ("../../rex", "fido", "max & moritz", "nox", "odin", "pip", "quinn", "zoë")
CATEGORY_OF = {**dict.fromkeys(CATS, "cats <i>"), **dict.fromkeys(DOGS, "dogs")}
ANIMALS = tuple(CATEGORY_OF)
SHARED = "fido"
PROMPTS = ("asleep", 'in "snow" & <rain>')
SIDE = 64


def paint(path: Path, seed: Sequence[int], animal: int, likeness: float) -> None:
    """Noise of which a share has the colours of an animal, so that no picture is a copy of another."""
    rng = np.random.default_rng([9, animal])
    palette = rng.integers(0, 256, (3, 3))
    rng = np.random.default_rng([7, *seed])
    own = palette[rng.integers(0, 3, (SIDE // 4, SIDE // 4))]
    other = rng.integers(0, 256, own.shape)
    cells = np.where(rng.random((*own.shape[:2], 1)) < likeness, own, other).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)


def write_gallery(folder: Path, version: str, thumbnails: str) -> Path:
    """Of each animal two references and three photos; and three strays that are asked for by nobody."""
    rows = []
    for place, (animal, category) in enumerate(CATEGORY_OF.items()):
        for number in range(5):
            split = "reference" if number < 2 else "gallery"
            row = {"file_name": f"images/{place}_{number}.png", "category": category, "identity": animal}
            rows.append({**row, "split": split})
            paint(folder / row["file_name"], (place, number), place, 0.2)
    for number in range(3):
        file_name = f"images/stray_{number}.png"
        rows.append({"file_name": file_name, "category": "dogs", "identity": f"stray {number}", "split": "distractor"})
        paint(folder / file_name, (100, number), 100 + number, 0.2)
    write_rows(folder / "metadata.csv", rows)
    card = f'name = "zoo"\nversion = "{version}"\nlicence = "CC-BY-4.0"\nthumbnails = "{thumbnails}"\n'
    (folder / "gallery.toml").write_text(f"{card}description = \"Cats & <dogs> of '{version}'\"\n", encoding="utf-8")
    return folder


def write_run(folder: Path, model: str, likeness: float, version: str, number: int) -> Path:
    """Two images of each animal, of two prompts."""
    rows = []
    for place, animal in enumerate(ANIMALS):
        for i, prompt in enumerate(PROMPTS):
            row = {"file_name": f"images/{place}_{i}.png", "identity": animal, "prompt": f"{animal}, {prompt}"}
            reference = f"images/{place}_0.png"
            rows.append({**row, "prompt_id": f"p{i}", "reference_file_name": reference, "seed": str(i)})
            paint(folder / row["file_name"], (1000 + number, place, i), place, likeness)
    write_rows(folder / "metadata.csv", rows)
    escaped = model.replace("\\", "\\\\").replace('"', '\\"')
    (folder / "run.toml").write_text(CARD.format(model=escaped, version=version), encoding="utf-8")
    return folder


def write_world(folder: Path) -> Path:
    """The records of both galleries, each in a folder of its own: `old` and `new`."""
    shown = write_gallery(folder / "gallery1", "1", "yes, with credit")
    for number, (model, likeness) in enumerate(LIKENESS.items()):
        run = write_run(folder / f"run{number}", model, likeness, "1", number)
        if model == COPIER:
            for row in rows_of(run)[:6:2]:
                shutil.copyfile(shown / row["reference_file_name"], run / row["file_name"])
        _submit(run, shown, folder / "old", sizes=(128,) if model == SECOND else (128, 64))
    half = write_run(folder / "half", INCOMPLETE, 0.9, "1", 50)
    write_rows(half / "metadata.csv", rows_of(half)[:20])
    _submit(half, shown, folder / "old")
    rest = write_run(folder / "rest", REST, 0.1, "1", 52)
    write_rows(rest / "metadata.csv", rows_of(rest)[18:])
    _submit(rest, shown, folder / "old", sizes=(128,))
    _submit(_class_only(folder / "untuned"), shown, folder / "old")
    hidden = write_gallery(folder / "gallery2", "2", "no")
    for number, (model, likeness) in enumerate({"painter": 0.1, "other": 0.02}.items()):
        run = write_run(folder / f"new{number}", model, likeness, "2", 60 + number)
        _submit(run, hidden, folder / "new", sizes=(128,))
    return folder


def shared_world(temporary: pytest.TempPathFactory) -> Path:
    """The records `old` and `new`, and the site of both in `site`; to be read only.

    Made once: the processes of one run of the tests share it.
    """
    base = temporary.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "world-of-pages"
    with FileLock(shared / "world-of-pages.lock"):
        if not folder.exists():
            partial = write_world(temporary.mktemp("world") / "made")
            built = run_here("leaderboard", "build", partial / "old", partial / "new", "--out", partial / "site")
            assert (built.returncode, built.stderr) == (0, ""), built
            partial.rename(folder)
    return folder


def _class_only(folder: Path) -> Path:
    run = write_run(folder, CLASS_ONLY, 0.0, "1", 51)
    rows = [rows_of(run)[0], rows_of(run)[-1]]
    of = zip(rows, dict.fromkeys(CATEGORY_OF.values()), strict=True)
    write_rows(run / "metadata.csv", [{"file_name": row["file_name"], "category": category} for row, category in of])
    card = run / "run.toml"
    card.write_text(card.read_text(encoding="utf-8").replace('"lora"', '"class-only"'), encoding="utf-8")
    return run


def _submit(run: Path, gallery: Path, out: Path, sizes: Sequence[int] = (128, 64)) -> None:
    """Score and write a bundle, by classical features of pictures of some sizes."""
    store = out.parent / "store"
    judges = [load_embedder("classical:", size=size, device="cpu", memo=store) for size in sizes]
    opened_gallery, faults = Gallery.load(gallery)
    opened_run, more = Run.load(run)
    assert not faults
    assert not more
    records, _ = score(opened_gallery, opened_run, judges, store, Options(), None, lambda line: None)
    bundle, _ = write_bundle(records, opened_gallery, opened_run, out)
    model = opened_run.card.model
    for path in bundle.glob("records/*/record.json"):
        if model in WITH_CLIP_T:
            change_json(path, lambda summary: summary.update(prompt_fidelity=_fidelity(WITH_CLIP_T[model])))
        if model == WITHOUT_AUC:
            change_json(path, lambda summary: summary["scores"].update(AUC=None))
    seal(bundle)


def _fidelity(value: float) -> Mapping[str, Any]:
    estimate = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return {
        "embedder": "clip", "fingerprint": "c" * 64, "n_queries": 32, "identifier": "",
        "clip_t": estimate, "clip_t_without_identifier": None,
    }  # fmt: skip
