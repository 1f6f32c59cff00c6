"""Replies of a language model that was asked for a score: what they say, and where they are kept.

A reply is kept on disk as it comes, under the SHA-256 of all that decides it (`Question`), so that nothing is asked
twice and a run that was stopped goes on where it ended:

    cache/<first two digits>/<SHA-256>.json      question, endpoint_host, completion
"""

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.chat_reply import Completion
from galleries.errors import FinerRankError, printable
from galleries.images import sha256_of

BEST = 4
"""Scores are whole numbers from 0 to this."""

MAX_REASON = 500

ANSWERED, REFUSED, UNPARSABLE, OUT_OF_RANGE = "answered", "refused", "unparsable", "out of range"
NO_COMPLETION = "no completion"
"""Alone of the statuses, this one is not kept: it says something of the server, nothing of the images."""


@dataclass(frozen=True)
class Question:
    """All that decides a reply, but for the server: one that serves the same model is taken to answer alike."""

    model: str
    prompt_sha256: str
    reference_sha256: str
    image_sha256: str
    repeat: int
    temperature: float
    sent_as: str

    @property
    def key(self) -> str:
        return sha256_of(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Reply:
    """A completion, and which server gave it. Where there is none, why."""

    completion: Completion | None
    endpoint_host: str
    failure: str = ""


def score_of(reply: Reply) -> tuple[int | None, str, str]:
    """Score, reason and status of a reply. Whatever is no score from 0 to 4 is missing, never 0."""
    if reply.completion is None:
        return None, _short(reply.failure), NO_COMPLETION
    completion = reply.completion
    if completion.refusal or completion.finish_reason == "content_filter":
        return None, _short(completion.refusal or "stopped by the server's content filter"), REFUSED
    answers = [found for found in _objects_in(completion.content) if "score" in found]
    if not answers:
        said = completion.content.strip() or "nothing"
        cut = " (cut short)" if completion.finish_reason == "length" else ""
        return None, _short(f"no JSON object with a score{cut}: {said}"), UNPARSABLE
    score, reason = _whole(answers[-1]["score"]), answers[-1].get("reason")
    if any(_whole(answer["score"]) != score for answer in answers):
        return None, _short(f"several scores: {completion.content.strip()}"), UNPARSABLE
    if score is None or not 0 <= score <= BEST:
        given = answers[-1]["score"]
        said = json.dumps(given) if isinstance(given, int | float | str) else "of another kind"
        return None, _short(f"score {said}, not a whole number from 0 to {BEST}"), OUT_OF_RANGE
    return score, _short(reason) if isinstance(reason, str) else "", ANSWERED


def _whole(value: object) -> int | None:
    if isinstance(value, str) and len(value.strip()) == 1 and value.strip() in "0123456789":
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _objects_in(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text: models put fences and thoughts around them."""
    decoder, found, start = json.JSONDecoder(), [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return found


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"


# ---- replies on disk


def _file_of(cache: Path, question: Question) -> Path:
    return cache / question.key[:2] / f"{question.key}.json"


def kept_reply(cache: Path, question: Question) -> Reply | None:
    """The reply that was kept; None where there is none, or a damaged one, which is asked for again."""
    try:
        kept = json.loads(_file_of(cache, question).read_text(encoding="utf-8"))
        if kept["question"] != asdict(question):
            return None
        parts = [*kept["completion"].values(), kept["endpoint_host"]]
        if not all(isinstance(part, str) for part in parts):
            return None
        return Reply(Completion(**kept["completion"]), kept["endpoint_host"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def keep_reply(cache: Path, question: Question, reply: Reply) -> None:
    assert reply.completion
    text = json.dumps(
        {
            "question": asdict(question),
            "endpoint_host": reply.endpoint_host,
            "completion": asdict(reply.completion),
        },
        indent=1,
    )
    target = _file_of(cache, question)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise FinerRankError(
            f"{cache}: cannot be written ({error.strerror}); free space there, or name another --cache"
        ) from None
