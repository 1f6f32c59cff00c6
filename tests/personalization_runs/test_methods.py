"""Every method makes a run through its real pipeline class, each image from its own seed and its own reference."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case
from handmade import Cli, write_rows
from PIL import Image

from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.plans import Plan, Settings, make_plan, set_up
from personalization_runs.requests import Request
from personalization_runs.training import train_adapters

Save = Callable[[Path], object]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two stall one another on networks this small
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Save], Path]:
    """Writes weights, once each."""
    folders: dict[Save, Path] = {}

    def save(write: Save) -> Path:
        if write not in folders:
            folders[write] = tmp_path_factory.mktemp("weights") / getattr(write, "__name__", "weights")
            write(folders[write])
        return folders[write]

    return save


@pytest.fixture(scope="module")
def two_dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of two dogs of few, large patches of colour, which fill most of each photo."""
    folder = tmp_path_factory.mktemp("zoo")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (4, 8, 60, 60))
    (folder / "masks").mkdir()
    mask.save(folder / "masks" / "middle.png")
    rows = []
    for seed, (identity, number) in enumerate([(identity, n) for identity in ("rex", "tom") for n in range(3)]):
        row = {"file_name": f"{identity}_{number}.png", "category": "dog", "identity": identity}
        rows.append({**row, "split": "gallery" if number else "reference", "mask_file_name": "masks/middle.png"})
        patches = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(patches).resize((64, 64), Image.Resampling.NEAREST).save(folder / row["file_name"])
    write_rows(folder / "metadata.csv", rows)
    write_rows(
        folder / "prompts.csv",
        [
            {"prompt_id": "snow", "prompt": "a {subject} in snow"},
            {"prompt_id": "sea", "prompt": "a photo of a {subject} swimming in the blue sea"},
        ],
    )
    return folder


def options(case: Case, saved: Callable[[Save], Path]) -> tuple[list[str], list[str]]:
    return list(case.parameters), [f"{role}={saved(write)}" for role, write in case.weights.items()]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    chosen = CASES[request.param]
    if chosen.shrink:
        chosen.shrink(monkeypatch)
    return chosen


def test_every_method_has_a_case() -> None:
    assert {case.method for case in CASES.values()} == set(METHODS)


def test_a_run_is_made_passes_the_check_and_is_scored(
    case: Case, saved: Callable[[Save], Path], two_dogs: Path, cli: Cli, tmp_path: Path
) -> None:
    parameters, weights = options(case, saved)
    arguments = ["run", "generate", "-g", two_dogs, "-m", case.method, "--prompts", two_dogs / "prompts.csv"]
    arguments += [word for value in parameters for word in ("--set", value)]
    arguments += [word for value in weights for word in ("--weights", value)]
    made = cli(*arguments, *case.flags, "--batch-size", 4, "--out", tmp_path / "run", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)[0]["images"] == 4
    checked = cli("run", "check", tmp_path / "run", "--gallery", two_dogs)
    assert checked.returncode == 0, checked.stderr
    scored = cli(
        "evaluate", "-g", two_dogs, "-r", tmp_path / "run", "--embedder", "classical", "--out", tmp_path / "records"
    )
    assert scored.returncode == 0, scored.stderr
    [record] = [json.loads(path.read_bytes()) for path in (tmp_path / "records").rglob("record.json")]
    assert record["run"]["method"] == case.method


def pixels_of(made: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(each.image.convert("RGB"), dtype=int) for each in made]


@torch.inference_mode()
def test_each_image_is_made_from_its_own_seed_prompt_and_reference(
    case: Case, saved: Callable[[Save], Path], two_dogs: Path, tmp_path: Path
) -> None:
    parameters, weights = options(case, saved)
    settings = Settings(
        [str(two_dogs / "prompts.csv")], parameters=parameters, weights=weights, dtype="float32", device="cpu",
        allow_remote_code=True,
    )  # fmt: skip
    plan = make_plan(Gallery.open(two_dogs), METHODS[case.method], settings, tmp_path / "run")
    make = maker(plan)
    at_once = METHODS[case.method].max_batch or 4
    requests = list(plan.requests)

    def make_all(wanted: Sequence[Request]) -> list[np.ndarray[Any, Any]]:
        return [image for i in range(0, len(wanted), at_once) for image in make(wanted[i : i + at_once])]

    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    together = make_all(requests)
    assert torch.equal(torch.get_rng_state(), untouched), "the user's own random numbers have been moved on"
    assert all((a != b).any() for i, a in enumerate(together) for b in together[:i]) or case.method == "copy-reference"

    torch.manual_seed(2)
    backwards = make_all(requests[::-1])[::-1]
    for image, again in zip(together, backwards, strict=True):
        assert (image == again).all()
    for image, request in zip(together, requests, strict=True):
        assert abs(image - make([request])[0]).max() <= 1

    if METHODS[case.method].uses_reference:
        photos = {request.identity: request.reference for request in requests}
        changed = [replace(r, reference=photos["tom"]) for r in requests]
        for request, before, after in zip(requests, together, make_all(changed), strict=True):
            if request.identity == "tom":
                assert (before == after).all(), "another's reference has changed it"
            else:
                assert abs(before - after).mean() > 0.5, "its own reference has not changed it"


def maker(plan: Plan) -> Callable[[Sequence[Request]], list[np.ndarray[Any, Any]]]:
    setup = set_up(plan, warn=print)
    if plan.method.training:
        train_adapters(plan, setup, warn=print)
    generator = plan.method.generator(setup)
    return lambda requests: pixels_of(generator.make(requests))
