"""What an adapter says of itself, and whether it is the one that is asked for."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from galleries.images import BadImage, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from galleries.gallery import Photo
    from personalization_runs.methods.setup import Setup
    from personalization_runs.plans import Plan

CARD, WEIGHTS, LOSSES = "adapter.json", "adapter.safetensors", "losses.csv"
OF_IMAGES = ("steps", "guidance", "width", "height", "negative_prompt")
"""Parameters that decide an image and not an adapter: they may change from run to run."""


@dataclass(frozen=True)
class Subject:
    """An individual that an adapter is trained on."""

    identity: str
    class_word: str
    photos: "tuple[Photo, ...]"


def subjects_of(plan: "Plan") -> list[Subject]:
    """Everybody whom a plan asks images of, in its order."""
    words = {request.identity: request.class_word for request in plan.requests}
    return [Subject(identity, word, plan.gallery.references[identity]) for identity, word in words.items()]


def safe_name(name: str) -> str:
    """A name for a folder that follows from `name` alone, and is another one for any other name.

    >>> safe_name("rex_2"), safe_name("Rex/2")
    ('rex_2', 'Rex_2-ec95d8')
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,80}", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def folder_of(adapters: Path, identity: str) -> Path:
    return adapters / safe_name(identity)


def asked_of(plan: "Plan", setup: "Setup", subject: Subject) -> dict[str, Any]:
    """All that decides an adapter but the type that networks compute in."""
    return {
        "method": plan.method.name,
        "trained": plan.method.training,
        "weights": {role: str(folder) for role, folder in sorted(setup.weights.items())},
        "identity": subject.identity,
        "class_word": subject.class_word,
        "identifier": plan.identifier,
        "seed": plan.settings.seed,
        "fit": setup.fit,
        "parameters": {name: value for name, value in setup.parameters.items() if name not in OF_IMAGES},
        "photos": {photo.file_name: _digest_of(photo) for photo in subject.photos},
    }


def _digest_of(photo: "Photo") -> str:
    try:
        return sha256_of(read_image_bytes(photo.path))
    except BadImage as error:
        raise FinerRankError(f"{photo.path}: {error}") from None


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an adapter.

    Raises:
        FinerRankError: there is none, or it is damaged.
    """
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_bytes())
        assert isinstance(card["weights_sha256"], str)
        assert isinstance(card["probe_before"], float)
        assert isinstance(card["probe_after"], float)
    except FileNotFoundError:
        if folder.is_dir():
            raise FinerRankError(f"{folder}: holds no adapter; remove it, or name another folder") from None
        raise FinerRankError(f"{folder}: no trained adapter; train it with finer-rank run train") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise FinerRankError(f"{path}: damaged; remove the folder {folder}, and train again") from None
    return card


def refuse_other(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
    """Refuse what was trained otherwise than is asked.

    Raises:
        FinerRankError: naming what differs.
    """
    for key in asked:
        old, new = there.get(key), asked[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
            if key == "photos":
                state = "gone" if name not in new else "new" if name not in old else "another one"
                difference = f"reference photos ({name} is {state})"
            else:
                difference = f"{key} {name} ({old.get(name)}, now {new.get(name)})"
        else:
            difference = f"{key} ({old}, now {new})"
        raise FinerRankError(
            f"{folder}: holds {what} with other {difference}; ask for the same, name another folder, or remove this one"
        )


def adapter_digests(adapters: Path, identities: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each identity's adapter, as its card says.

    Raises:
        FinerRankError: one is missing.
    """
    return {name: read_card(folder_of(adapters, name))["weights_sha256"] for name in dict.fromkeys(identities)}
