"""Results of a page of `agreement collect`: a JSON file of each rater, and the study file that says what was shown."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.collecting.study import ENDING, FORMAT, Study, StudyTrial, read_study
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import image_fault, in_threads

READS = f"the result file (.json) of a page of agreement collect, or a folder of them, its {ENDING} there or beside it"
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {}

MAX_BYTES = 10_000_000
"""Of a result file; a thousand answers take some 200 kB."""

ASK_AGAIN = "ask its rater for the file again, or remove it"


@dataclass(frozen=True)
class _Result:
    """A rater's file. `answers`: trial → place in the trial's images that was chosen, or their places in order."""

    path: Path
    study: str
    rater: str
    answers: Mapping[str, tuple[int, ...]]


def is_here(path: Path) -> bool:
    if path.is_dir():
        try:
            return any(_looks_like_one(file) for file in _json_files(path))
        except OSError:  # a folder that must not be listed
            return False
    return path.is_file() and path.suffix.lower() == ".json" and _looks_like_one(path)


def kinds(path: Path) -> tuple[Kind, ...]:
    """The kind of the study that the results are of.

    Raises:
        Faults: results whose study is not there.
    """
    return (_opened(path)[0].kind,)


def read(path: Path, kind: Kind) -> Judgements:
    """The answers of all raters who failed no sentinel; a rater who failed one is left out whole, as in the data of
    DreamSim (arXiv 2306.09344). Practice and sentinels are not counted. What was answered of an unfinished file is.

    Images are the files that the study file names, which must not have changed since.

    Raises:
        Faults: files that cannot be used, images that are missing or changed; all of them.
        FinerRankError: no answer is left.
    """
    study, contents = _opened(path)
    trials = {each.trial.id: each for each in study.trials}
    results: list[_Result] = []
    faults: list[Fault] = []
    for file, content in contents:
        found = _result(file, content, study, trials)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            results.append(found)
    results.sort(key=lambda result: (result.rater, result.path.name))
    for first, second in itertools.pairwise(results):
        if first.rater == second.rater:
            what = f"rater {second.rater} has handed in {first.path.name} too"
            faults.append(Fault(second.path.name, what, "keep the one that counts"))
    raise_if_any(str(path), faults)
    rows, left_out = [], []
    questions = study.by_role("question")
    sentinels = study.by_role("sentinel")
    for result in results:
        seen = [each for each in sentinels if each.trial.id in result.answers]
        n_failed = sum(result.answers[each.trial.id][0] != each.trial.right for each in seen)
        if n_failed:
            left_out.append(f"rater {result.rater}: left out, failed {n_failed} of {len(seen)} sentinels")
            continue
        answered = [each for each in questions if each.trial.id in result.answers]
        if len(answered) < len(questions):
            sight = f" and {len(seen)} of {len(sentinels)} sentinels" if sentinels else ""
            left_out.append(
                f"rater {result.rater}: stopped after {len(answered)} of {len(questions)} questions{sight}; "
                "these answers are counted, the others are missing"
            )
        for each in answered:
            rows += _judgements(each, result, study.kind)
    if not rows:
        why = left_out[0] if left_out else "there is no question in the study"
        raise FinerRankError(f"{path}: no answer is left ({why}); collect more, or look at the sentinels")
    _check_images(path, study, rows)
    return Judgements("collected", study.kind, path, tuple(rows), tuple(left_out))


def _judgements(each: StudyTrial, result: _Result, kind: Kind) -> list[Judgement]:
    trial, chosen = each.trial, result.answers[each.trial.id]
    where = f"{result.path.name} trial {trial.id}"
    if kind == "2afc":
        images = (trial.reference, *trial.images)
        return [Judgement(images, float(chosen[0]), trial.target, result.rater, where=where)]
    return [
        Judgement((trial.reference, trial.images[place]), float(rank), trial.target, result.rater, where=where)
        for rank, place in enumerate(chosen, start=1)
    ]


def _check_images(path: Path, study: Study, rows: Sequence[Judgement]) -> None:
    """People judged the images of then.

    Raises:
        Faults: images that are missing, cannot be read, or have changed since the page was made.
    """
    images = sorted({image for row in rows for image in row.images})
    faults = []
    for image, found in zip(images, in_threads(lambda i: image_fault(str(i), i, decode=False), images), strict=True):
        if isinstance(found, Fault):
            faults.append(found)
        elif found != study.sha256.get(image):
            faults.append(Fault(str(image), "has changed since the page was made", "put the image of then there"))
    raise_if_any(str(path), faults)


def _json_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json" and not p.name.endswith(ENDING))


def _looks_like_one(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1000)
    except OSError:
        return False
    return all(f'"{key}"'.encode() in head for key in ("format", "study", "rater"))


def _opened(path: Path) -> tuple[Study, list[tuple[Path, Mapping[str, Any]]]]:
    """The study of the results at a path, and the content of each file.

    Raises:
        Faults: files that are no results, of no study that is there, or of several.
    """
    folder = path if path.is_dir() else path.parent
    contents, faults = [], []
    for file in _json_files(path) if path.is_dir() else [path]:
        found = _content(file)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            contents.append((file, found))
    raise_if_any(str(path), faults)
    studies: dict[str, Study] = {}
    for study_file in sorted({*folder.glob(f"*{ENDING}"), *folder.absolute().parent.glob(f"*{ENDING}")}):
        study = read_study(study_file)
        studies.setdefault(study.id, study)
    for file, content in contents:
        if content["study"] not in studies:
            what = f"is of the study {content['study']}, whose {ENDING} file lies neither in {folder} nor beside it"
            faults.append(Fault(file.name, what, "put it there, or remove the result"))
    raise_if_any(str(path), faults)
    counts = Counter(content["study"] for _, content in contents)
    most = max(sorted(counts), key=lambda name: counts[name])
    for file, content in contents:
        if content["study"] != most:
            what = f"is of the study {content['study']}, the others are of {most}"
            faults.append(Fault(file.name, what, "give each study's results a folder of their own"))
    raise_if_any(str(path), faults)
    return studies[most], contents


def _content(path: Path) -> Mapping[str, Any] | Fault:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        if path.stat().st_size > MAX_BYTES:
            return Fault(path.name, f"more than {MAX_BYTES // 1_000_000} MB", ASK_AGAIN)
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except OSError as error:
        return Fault(path.name, f"cannot be read ({error.strerror})", "check its permissions")
    except (ValueError, RecursionError):
        return Fault(path.name, "is no JSON, or was cut off", ASK_AGAIN)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("study"), str):
        return Fault(path.name, f"is no result of a page in format {FORMAT}", ASK_AGAIN)
    return content


def _result(path: Path, content: Mapping[str, Any], study: Study, trials: Mapping[str, StudyTrial]) -> _Result | Fault:
    rater, answers = content.get("rater"), content.get("trials")
    if not isinstance(rater, str) or not re.fullmatch(r"[a-z0-9]{1,32}", rater):
        return Fault(path.name, "rater is no code of small letters and digits", ASK_AGAIN)
    if content.get("kind") != study.kind:
        return Fault(path.name, f"kind is not {study.kind}, as in the study", ASK_AGAIN)
    if not isinstance(answers, list):
        return Fault(path.name, "trials is no list", ASK_AGAIN)
    found: dict[str, tuple[int, ...]] = {}
    for number, answer in enumerate(answers, start=1):
        where = f"{path.name} trial {number}"
        id_ = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(id_, str) or id_ not in trials:
            return Fault(where, "is no trial of the study", ASK_AGAIN)
        if id_ in found:
            return Fault(where, "is answered twice", ASK_AGAIN)
        chosen = _places(answer, trials[id_], study.kind)
        if isinstance(chosen, str):
            return Fault(where, chosen, ASK_AGAIN)
        found[id_] = chosen
    return _Result(path, study.id, rater, found)


def _places(answer: Mapping[str, Any], each: StudyTrial, kind: Kind) -> tuple[int, ...] | str:
    """Places in the trial's images of what was chosen, or what is wrong with the answer."""
    place = {name: i for i, name in enumerate(each.pictures)}
    shown, choice, ms = answer.get("shown"), answer.get("choice"), answer.get("ms")
    if not _is_order(shown, place):
        return "shown is not what the study shows there"
    if not isinstance(ms, int | float) or isinstance(ms, bool) or not 0 <= ms < 1e12:
        return "ms is no time"
    if answer.get("practice") is not (each.trial.role == "practice"):
        return "practice is not as in the study"
    if kind == "2afc":
        return (place[choice],) if isinstance(choice, str) and choice in place else "choice was not shown"
    if not isinstance(choice, list) or not _is_order(choice, place):
        return "choice is no order of the images"
    return tuple(place[name] for name in choice)


def _is_order(names: Any, place: Mapping[str, int]) -> bool:
    return (
        isinstance(names, list)
        and len(names) == len(place)
        and all(isinstance(name, str) for name in names)
        and set(names) == set(place)
    )
