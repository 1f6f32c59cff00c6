"""Result files as the page of `agreement collect` writes them, of raters who go by a rule."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rule = Callable[[str, Sequence[str]], Sequence[str]]
"""Reference and images, as files of the study → the images from the most alike on."""


def result_of(study: Path, rater: str, rule: Rule, *, n: int | None = None, fails: int = 0) -> dict[str, Any]:
    """What a rater hands in who answers by `rule`, the first `n` trials, and fails the first `fails` sentinels."""
    content = json.loads(study.read_text())
    answers = []
    for trial in content["trials"][:n]:
        files = {image["file"]: image["shown"] for image in trial["images"]}
        if trial["role"] == "question":
            order = list(rule(trial["reference"]["file"], list(files)))
        else:
            right = trial["images"][trial["right"]]["file"]
            order = [right, *(file for file in files if file != right)]
            if trial["role"] == "sentinel" and fails:
                fails -= 1
                order.reverse()
        names = [files[file] for file in order]
        answers.append(
            {
                "id": trial["id"],
                "shown": sorted(names, reverse=bool(len(answers) % 2)),
                "choice": names if content["kind"] == "ranking" else names[0],
                "ms": 900 + len(answers),
                "practice": trial["role"] == "practice",
            }
        )
    return {
        "format": 1,
        "study": content["id"],
        "kind": content["kind"],
        "rater": rater,
        "started": "2026-01-05T10:00:00.000Z",
        "ended": None if n else "2026-01-05T10:09:00.000Z",
        "trials": answers,
    }


def hand_in(folder: Path, result: dict[str, Any], name: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name or result['rater']}.json"
    path.write_text(json.dumps(result))
    return path
