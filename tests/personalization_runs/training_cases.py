"""Trainings that take a second: of one dog, on two photos. Also what a process of its own runs, to be killed in it."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from handmade import write_rows
from PIL import Image

from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.methods.setup import Setup
from personalization_runs.plans import Plan, Settings, make_plan, set_up
from personalization_runs.training import train_adapters

SMALL = ("steps=2", "width=32", "height=32", "training_size=32")
PRIOR = ("n_prior_images=2", "prior_steps=1")


def write_dogs(folder: Path) -> Path:
    """Two dogs of few, large patches of colour, each with two reference photos."""
    rows = []
    for seed, (identity, number) in enumerate([(identity, n) for identity in ("rex", "tom") for n in range(3)]):
        row = {"file_name": f"{identity}_{number}.png", "category": "dog", "identity": identity}
        rows.append({**row, "split": "reference" if number < 2 else "gallery"})
        patches = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patches).resize((64, 64), Image.Resampling.NEAREST).save(folder / row["file_name"])
    write_rows(folder / "metadata.csv", rows)
    return folder


def planned(
    method: str, gallery: Path, weights: Path, adapters: Path, *parameters: str, **settings: Any
) -> tuple[Plan, Setup]:
    """A plan of one image of rex, or of whoever is included."""
    own = METHODS[method].parameters
    small = [value for value in (*SMALL, *PRIOR) if value.partition("=")[0] in own]
    options = {"include": ["rex"], "device": "cpu", "dtype": "float32", "adapters": adapters, **settings}
    chosen = Settings((), parameters=[*small, *parameters], weights=[str(weights)], **options)
    plan = make_plan(Gallery.open(gallery), METHODS[method], chosen, adapters / "run")
    return plan, set_up(plan, warn=print)


def images(plan: Plan, setup: Setup, order: Sequence[int] = (0,)) -> list[np.ndarray[Any, Any]]:
    """Images of some of the plan's requests, made one after the other by one generator."""
    generator = plan.method.generator(setup)
    with torch.inference_mode():
        made = [generator.make([plan.requests[number]])[0].image for number in order]
    return [np.asarray(image, dtype=int) for image in made if image]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden or not."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def to_be_resumed(gallery: Path, weights: Path, adapters: Path) -> None:
    """Six steps of rex and tom, with a checkpoint after each second one."""
    plan, setup = planned(
        "dreambooth-lora", gallery, weights, adapters, "training_steps=6", "learning_rate=0.01", include=()
    )
    train_adapters(plan, setup, warn=print, checkpoint_every=2)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_a_step(number: int) -> None:
    """After the gradients of a step, before its values."""
    step = torch.optim.AdamW.step
    done = []

    def last(self: Any, closure: Any = None) -> Any:
        done.append(1)
        if len(done) == number:
            die()
        return step(self, closure)

    torch.optim.AdamW.step = last  # type: ignore[method-assign]


def killed_before_a_move(how: str, is_it: Callable[[Path, Path], bool], number: int) -> None:
    """When what was written under a temporary name is to get its own."""
    move = getattr(Path, how)
    found = []

    def last(self: Path, target: Path) -> Any:
        if is_it(self, Path(target)):
            found.append(1)
            if len(found) == number:
                die()
        return move(self, target)

    setattr(Path, how, last)


PLACES: dict[str, Callable[[], None]] = {
    "in a class image": lambda: killed_before_a_move("replace", lambda _, to: to.name == "0001.png", 1),
    "in a step": lambda: killed_in_a_step(6 + 4),
    "in a checkpoint": lambda: killed_before_a_move("replace", lambda _, to: to.name == "checkpoint.safetensors", 2),
    "before the adapter is in place": lambda: killed_before_a_move("rename", lambda _, to: to.name == "tom", 1),
}


def train_and_die(place: str, gallery: Path, weights: Path, adapters: Path) -> None:
    torch.set_num_threads(1)
    PLACES[place]()
    to_be_resumed(gallery, weights, adapters)
