"""A folder with a page on which people judge pictures: it needs no server, no network and no other file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmark.collecting.pictures import shown_picture
from benchmark.collecting.plan import CollectedKind, Question
from benchmark.collecting.study import Study, StudyTrial, study_path, write_study
from benchmark.collecting.trials import Trials, make_trials
from galleries.console import Progress
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.image_set import new_folder
from galleries.images import BadImage, in_threads
from galleries.tables import is_utf8

QUESTIONS: dict[CollectedKind, str] = {
    "2afc": "Which one shows the same individual?",
    "ranking": "Which ones show the same individual? Put the most alike first.",
}
"""What is asked where nothing else is said."""

LONGEST_TEXT = 500


@dataclass(frozen=True)
class Settings:
    """How questions are shown.

    Attributes:
        question: that of `QUESTIONS` where empty.
        practice: trials before the first question, whose answer is told.
        sentinels: trials among the questions whose answer is plain; whoever fails one is left out.
        longest_px: longer side of the pictures that are shown.
        seed: of the choice of questions, sentinels and trials for practice.
    """

    title: str = "Comparing pictures"
    question: str = ""
    practice: int = 2
    sentinels: int = 3
    longest_px: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Page:
    """A page that was written.

    Attributes:
        n_bytes: of its pictures.
    """

    folder: Path
    study: Study
    trials: Trials
    n_images: int
    n_bytes: int


def write_page(
    kind: CollectedKind, questions: Sequence[Question], out: Path, settings: Settings, progress: Progress | None = None
) -> Page:
    """Write the page's folder `out`, and beside it the study file, without which its results cannot be read.

    Raises:
        Faults: images that cannot be used; all of them. Nothing is written then.
        FinerRankError: one of the two exists already, texts that cannot be shown, or see `make_trials`.
    """
    question = settings.question or QUESTIONS[kind]
    for option, text in (("--title", settings.title), ("--question", question)):
        if not text.strip() or len(text) > LONGEST_TEXT or not is_utf8(text):
            raise FinerRankError(f"{option}: write 1 to {LONGEST_TEXT} letters")
    beside = study_path(out)
    if beside.exists() or beside.is_symlink():
        raise FinerRankError(f"{beside}: exists already; give another --out, or remove it first")
    try:
        with new_folder(out) as folder:
            shown, digests, n_bytes = _write_pictures(questions, folder / "images", settings.longest_px, progress)
            trials = make_trials(
                kind, questions, shown, n_practice=settings.practice, n_sentinels=settings.sentinels, seed=settings.seed
            )
            every = [
                StudyTrial(trial, shown[trial.reference], tuple(shown[path] for path in trial.images))
                for trial in (*trials.practice, *sorted((*trials.questions, *trials.sentinels), key=lambda t: t.id))
            ]
            used = {path for each in every for path in (each.trial.reference, *each.trial.images)}
            names = {shown[path] for path in used}
            for picture in (folder / "images").iterdir():  # of questions that were left out
                if picture.name not in names:
                    n_bytes -= picture.stat().st_size
                    picture.unlink()
            identity = [kind, settings.title, question, [(each.trial.id, each.trial.role) for each in every]]
            study_id = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
            used_digests = {path: digests[path] for path in used}
            study = Study(study_id, kind, beside, tuple(every), used_digests, settings.title, question)
            for asset in sorted(files("benchmark.collecting").joinpath("static").iterdir(), key=lambda a: a.name):
                content = asset.read_text(encoding="utf-8")
                if asset.name == "index.html":
                    content = content.replace("STUDY", _embedded(_told(study)))
                (folder / asset.name).write_text(content, encoding="utf-8")
            write_study(study)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return Page(out, study, trials, len(names), n_bytes)


def _write_pictures(
    questions: Sequence[Question], folder: Path, longest_px: int, progress: Progress | None
) -> tuple[dict[Path, str], dict[Path, str], int]:
    """Path → name of the picture that is shown of it; path → SHA-256 of the file; bytes written."""
    folder.mkdir()
    paths = sorted({path for question in questions for path in (question.reference, *question.images)})
    step = progress("preparing pictures", len(paths)) if progress else None

    def prepared(path: Path) -> tuple[str, bytes, str] | Fault:
        try:
            return shown_picture(path, longest_px)
        except BadImage as error:
            return Fault(str(path), error.what, error.remedy)

    shown: dict[Path, str] = {}
    digests: dict[Path, str] = {}
    faults = []
    n_bytes = 0
    for path, found in zip(paths, in_threads(prepared, paths), strict=True):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            shown[path], content, digests[path] = found
            picture = folder / shown[path]
            n_bytes += 0 if picture.exists() else len(content)
            picture.write_bytes(content)
        if step:
            step(1)
    raise_if_any("images", faults)
    return shown, digests, n_bytes


def _told(study: Study) -> dict[str, Any]:
    """What the page knows: not which trials are sentinels, and pictures in the order of names that say nothing."""

    def told(each: StudyTrial) -> dict[str, Any]:
        return {"id": each.trial.id, "reference": each.reference_picture, "images": sorted(each.pictures)}

    return {
        "id": study.id,
        "kind": study.kind,
        "title": study.title,
        "question": study.question,
        "practice": [
            {**told(each), "right": each.pictures[each.trial.right or 0]} for each in study.by_role("practice")
        ],
        "trials": [told(each) for each in study.trials if each.trial.role != "practice"],
    }


def _embedded(content: Any) -> str:
    """JSON that no text in it can end, wherever it stands in HTML."""
    text = json.dumps(content, ensure_ascii=True)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
