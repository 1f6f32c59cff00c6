"""Questions as trials of a page, with those for practice and the sentinels: trials whose answer is plain to see."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from benchmark.collecting.plan import CollectedKind, Question, order_key
from galleries.errors import FinerRankError

Role = Literal["practice", "question", "sentinel"]


@dataclass(frozen=True)
class Trial:
    """What is shown at once.

    Attributes:
        id: of the kind and the pictures' content; no order of theirs moves it.
        reference, images: files. Of 2afc a and b, in this order.
        right: place in `images` of the copy of the reference; None of a question.
    """

    id: str
    role: Role
    target: str
    reference: Path
    images: tuple[Path, ...]
    right: int | None = None


@dataclass(frozen=True)
class Trials:
    """All trials of a page.

    Attributes:
        left_out: what is not asked though it was wanted, and why.
    """

    practice: tuple[Trial, ...]
    questions: tuple[Trial, ...]
    sentinels: tuple[Trial, ...]
    left_out: tuple[str, ...]


def make_trials(
    kind: CollectedKind,
    questions: Sequence[Question],
    shown: Mapping[Path, str],
    *,
    n_practice: int,
    n_sentinels: int,
    seed: int,
) -> Trials:
    """The trials of some questions.

    A trial for practice and a sentinel show the reference of a question and, among the images, the reference again;
    the other images are of other targets, or of the same where there is no other.

    Args:
        shown: file → name of the picture that is shown of it: the same for the same pixels.

    Raises:
        FinerRankError: no question is left.
    """
    asked: dict[str, Trial] = {}
    rows: dict[str, str] = {}
    left_out = []
    for question in questions:
        if len({shown[path] for path in question.images}) < len(question.images):
            left_out.append(f"{question.where}: left out, as two of its images are the same picture")
            continue
        id_ = _id(kind, question.reference, question.images, shown)
        if id_ in asked:
            left_out.append(f"{question.where}: left out, as {rows[id_]} asks the same")
            continue
        asked[id_] = Trial(id_, "question", question.target, question.reference, question.images)
        rows[id_] = question.where
    if not asked:
        raise FinerRankError(f"no question is left: {left_out[0]}")
    n = n_practice + n_sentinels
    plain = list(itertools.islice(_plain(kind, list(asked.values()), shown, seed), n))
    if len(plain) < n:
        left_out.append(
            f"{n_sentinels} sentinels and {n_practice} trials for practice: these pictures make {len(plain)} together"
        )
    return Trials(
        tuple(replace(trial, role="practice") for trial in plain[n_sentinels:]),
        tuple(asked.values()),
        tuple(plain[:n_sentinels]),
        tuple(left_out),
    )


def _plain(kind: CollectedKind, asked: Sequence[Trial], shown: Mapping[Path, str], seed: int) -> Iterator[Trial]:
    """Distinct sentinels: one of each question in turn, then a second of each, and so on."""
    file_of = {shown[path]: path for trial in asked for path in trial.images}
    # The images of a class-only run are asked for each identity: an image may have several targets.
    targets_of: dict[str, set[str]] = defaultdict(set)
    for trial in asked:
        for path in trial.images:
            targets_of[shown[path]].add(trial.target)

    @cache  # asked for as trials are needed: of a few among thousands
    def others_of(trial: Trial) -> list[str]:
        unlike = [name for name in file_of if name != shown[trial.reference]]
        others = [name for name in unlike if trial.target not in targets_of[name]] or unlike
        return sorted(others, key=lambda name: order_key(seed, trial.id, name))

    turn = sorted(asked, key=lambda trial: order_key(seed, trial.id))
    taken = {trial.id for trial in asked}
    for first in range(len(file_of)):
        for trial in turn:
            others = others_of(trial)
            if first >= len(others):
                continue
            n_others = min(len(trial.images) - 1, len(others))
            chosen = [file_of[others[(first + i) % len(others)]] for i in range(n_others)]
            images = (trial.reference, *chosen)
            id_ = _id(kind, trial.reference, images, shown)
            if id_ not in taken:
                taken.add(id_)
                yield Trial(id_, "sentinel", trial.target, trial.reference, images, 0)


def _id(kind: CollectedKind, reference: Path, images: Sequence[Path], shown: Mapping[Path, str]) -> str:
    names = (kind, shown[reference], *sorted(shown[path] for path in images))
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
