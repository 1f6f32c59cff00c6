"""The study file of a page: which files its pictures are of, and which trials are sentinels. Raters never get it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.collecting.plan import COLLECTED_KINDS, CollectedKind
from benchmark.collecting.trials import Role, Trial
from galleries.errors import FinerRankError

ENDING = ".study.json"
FORMAT = 1


@dataclass(frozen=True)
class StudyTrial:
    """A trial, and what is shown of each of its files.

    Attributes:
        pictures: names of what is shown of `trial.images`, in their order.
    """

    trial: Trial
    reference_picture: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What a page asks.

    Attributes:
        path: of the study file.
        trials: in its order.
        sha256: file → digest of its content when the page was made.
    """

    id: str
    kind: CollectedKind
    path: Path
    trials: tuple[StudyTrial, ...]
    sha256: Mapping[Path, str]
    title: str
    question: str

    def by_role(self, role: Role) -> tuple[StudyTrial, ...]:
        return tuple(each for each in self.trials if each.trial.role == role)


def study_path(page: Path) -> Path:
    """The study file of a page's folder: beside it, so that it is not sent along."""
    return page.parent / f"{page.name}{ENDING}"


def write_study(study: Study) -> None:
    """Write a study file. Images are named relative to its folder, which it names too."""
    folder = study.path.parent.absolute()

    def name(path: Path) -> str:
        return Path(os.path.relpath(path.absolute(), folder)).as_posix()

    content = {
        "format": FORMAT,
        "id": study.id,
        "folder": folder.as_posix(),
        "kind": study.kind,
        "title": study.title,
        "question": study.question,
        "trials": [
            {
                "id": each.trial.id,
                "role": each.trial.role,
                "target": each.trial.target,
                "reference": {"file": name(each.trial.reference), "shown": each.reference_picture},
                "images": [
                    {"file": name(path), "shown": shown}
                    for path, shown in zip(each.trial.images, each.pictures, strict=True)
                ],
                **({} if each.trial.right is None else {"right": each.trial.right}),
            }
            for each in study.trials
        ],
        "sha256": {name(path): digest for path, digest in sorted(study.sha256.items())},
    }
    partial = study.path.with_name(f".{study.path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")
        partial.replace(study.path)
    finally:
        partial.unlink(missing_ok=True)


def read_study(path: Path) -> Study:
    """Read a study file. Where it was moved away from its images, they are looked for where it was written.

    Raises:
        FinerRankError: it is none, or was changed so that it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _study(path, content)
    except OSError as error:
        raise FinerRankError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise FinerRankError(
            f"{path}: not a study file that this version reads; put the one that agreement collect wrote in its place"
        ) from None


def _study(path: Path, content: Any) -> Study:
    if content["format"] != FORMAT or content["kind"] not in COLLECTED_KINDS:
        raise ValueError(content["format"])

    folder = path.parent

    def file(name: str) -> Path:
        return Path(os.path.normpath(folder / name))

    if not any(file(name).exists() for name in content["sha256"]) and Path(content["folder"]).is_dir():
        folder = Path(content["folder"])

    trials = []
    for each in content["trials"]:
        if each["role"] not in ("practice", "question", "sentinel"):
            raise ValueError(each["role"])
        images = tuple(file(image["file"]) for image in each["images"])
        right = None if each["role"] == "question" else int(each["right"])
        trial = Trial(
            str(each["id"]), each["role"], str(each["target"]), file(each["reference"]["file"]), images, right
        )
        pictures = tuple(str(image["shown"]) for image in each["images"])
        if right is not None:
            pictures[right]  # there is such an image
        trials.append(StudyTrial(trial, str(each["reference"]["shown"]), pictures))
    digests = {file(name): str(digest) for name, digest in content["sha256"].items()}
    return Study(
        str(content["id"]),
        content["kind"],
        path,
        tuple(trials),
        digests,
        str(content["title"]),
        str(content["question"]),
    )
