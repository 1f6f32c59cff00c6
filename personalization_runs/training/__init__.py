"""Personalization by training: an adapter of each identity, from all its reference photos."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from personalization_runs.training.cards import (
    CARD,
    LOSSES,
    WEIGHTS,
    Subject,
    asked_of,
    folder_of,
    read_card,
    refuse_other,
    subjects_of,
)

if TYPE_CHECKING:
    from galleries.console import Progress
    from personalization_runs.methods.setup import Setup
    from personalization_runs.plans import Plan
    from personalization_runs.training.trainer import Callback

CHECKPOINT_EVERY = 250


def train_adapters(
    plan: "Plan",
    setup: "Setup",
    *,
    progress: "Progress | None" = None,
    warn: Callable[[str], Any],
    checkpoint_every: int = CHECKPOINT_EVERY,
    callback_for: "Callable[[Subject], Callback] | None" = None,
    callback_every: int = 0,
) -> None:
    """Train the adapters that the folder `setup.adapters` lacks, one for each identity of a plan.

    Killed, it goes on from the last checkpoint, and ends in the same bytes. Several processes may work in one folder.

    Args:
        checkpoint_every: steps; never where 0.
        callback_for: makes what is called before the first step of an identity, after each `callback_every` steps and
            after the last, with the number of steps done and the pipeline, ready to make images. After a kill, steps
            may be called again.

    Raises:
        FinerRankError: an adapter, or a training that was begun, is of other settings than are asked; of memory and
            disk.
    """
    from personalization_runs.training.recipe import Recipe

    adapters = setup.adapters
    assert adapters is not None, "of a method that trains, set_up names a folder"
    recipe = Recipe.of(setup.parameters, setup.dtype)
    subjects = subjects_of(plan)
    asked = {subject.identity: asked_of(plan, setup, subject) for subject in subjects}
    missing = []
    for subject in subjects:
        folder = folder_of(adapters, subject.identity)
        if folder.is_dir():
            refuse_other(folder, read_card(folder), asked[subject.identity], "an adapter")
            shutil.rmtree(_work_of(folder), ignore_errors=True)
        elif folder.exists():
            raise FinerRankError(f"{folder}: is no folder; remove it, or name another folder for adapters")
        else:
            _refuse_other_work(_work_of(folder), asked[subject.identity], setup)
            missing.append(subject)
    if not missing:
        return
    from personalization_runs.methods.setup import rgb
    from personalization_runs.training.files import writing
    from personalization_runs.training.school import School
    from personalization_runs.training.trainer import repeatable

    for photo in (photo for subject in missing for photo in subject.photos):
        rgb(photo)  # one that cannot be used is named before anything is trained
    with repeatable(setup.device), writing(adapters):
        adapters.mkdir(parents=True, exist_ok=True)
        school = School(plan, setup, recipe, missing, progress, keeps_encoders=callback_for is not None)

        def train_one(subject: Subject, folder: Path) -> None:
            own = _work_of(folder)
            step = progress(f"{plan.method.name}: {subject.identity}", recipe.steps) if progress else None
            callback = callback_for(subject) if callback_for else None
            school.train(subject, own, asked[subject.identity], step, checkpoint_every, callback, callback_every)
            (own / "adapter").rename(folder)
            shutil.rmtree(own, ignore_errors=True)

        _each_once(missing, adapters, train_one)


def _each_once(subjects: Sequence[Subject], adapters: Path, train_one: Callable[[Subject, Path], None]) -> None:
    """Train whoever is not trained yet; whoever is being trained by another process comes last, and is waited for."""
    from filelock import FileLock, Timeout

    left, is_patient = list(subjects), False
    while left:
        busy = []
        for subject in left:
            folder = folder_of(adapters, subject.identity)
            lock = FileLock(folder.with_name(f".{folder.name}.lock"))
            try:
                with lock.acquire(timeout=-1 if is_patient else 0):
                    if not folder.is_dir():
                        train_one(subject, folder)
            except Timeout:
                busy.append(subject)
                continue
            Path(lock.lock_file).unlink(missing_ok=True)
        is_patient = len(busy) == len(left)
        left = busy


def _work_of(folder: Path) -> Path:
    """Where an adapter is trained that is not whole yet."""
    return folder.with_name(f".{folder.name}.training")


def _refuse_other_work(work: Path, asked: dict[str, Any], setup: "Setup") -> None:
    path = work / "asked.json"
    if path.is_file():
        try:
            begun = json.loads(path.read_bytes())
            assert isinstance(begun, dict)
        except (ValueError, AssertionError):
            raise FinerRankError(f"{path}: damaged; remove the folder {work}, and train again") from None
        refuse_other(work, begun, asked | {"dtype": setup.dtype}, "a training, not ended,")


__all__ = ["CARD", "LOSSES", "WEIGHTS", "read_card", "train_adapters"]
