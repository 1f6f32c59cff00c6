"""What a server of chat completions answers, read with care: it is not trusted."""

import json
import re
from dataclasses import dataclass
from typing import Any

from galleries.errors import printable

MAX_CONTENT = 50_000
"""Characters kept of what the model wrote: the last ones, where the answer stands."""
SHORTEST_SECRET = 16
"""Characters. Local servers are given words such as "none" for a key, which a reply may well contain."""


@dataclass(frozen=True)
class Completion:
    """What a model answered.

    Attributes:
        content: what it wrote, at most `MAX_CONTENT` characters.
        refusal: why it did not; "" where it did.
        finish_reason: such as `stop`, `length` or `content_filter`.
        served_model: what the server says that it ran.
    """

    content: str
    refusal: str = ""
    finish_reason: str = ""
    served_model: str = ""


class NoCompletion(Exception):
    """The server answered, but not with a completion; says with what."""


def completion_of(body: bytes, key: str) -> Completion:
    """The completion in the body of a reply.

    Args:
        key: text that repeats it is withheld.

    Raises:
        NoCompletion: there is none.
    """
    answer = _json_object(body)
    if answer is None:
        raise NoCompletion("a reply that is no JSON object")
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        said = error_of(body, key)[0]
        raise NoCompletion(f"a reply without a message{f' ({said})' if said else ''}")
    return Completion(
        _withheld(_text_of(message.get("content")), key)[-MAX_CONTENT:],
        shown(message.get("refusal"), key),
        shown(choice.get("finish_reason"), key),
        shown(answer.get("model"), key),
    )


def error_of(body: bytes, key: str) -> tuple[str, str]:
    """Message and code of the error that a reply tells of, in one line each; "" where it tells none."""
    error = (_json_object(body) or {}).get("error")
    told = error if isinstance(error, dict) else {"message": error}
    return shown(told.get("message"), key), shown(told.get("code"), key)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text_of(value: object) -> str:
    """Text, also where it comes in parts."""
    parts = value if isinstance(value, list) else [{"text": value}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def shown(value: object, key: str) -> str:
    """Text from a server, in one short line that is safe to print; "" for what is no text."""
    return printable(" ".join(_withheld(_text_of(value), key).split()))[:200]


def _withheld(text: str, key: str) -> str:
    """Text of the server, or a remark in its place where it holds the key, plainly or in JSON's escapes."""
    if len(key) < SHORTEST_SECRET:
        return text
    plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    return "withheld: it repeated the key" if key in text or key in plain else text
