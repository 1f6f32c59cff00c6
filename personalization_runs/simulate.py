"""Simulated personalization models: in a drawn world it is known how much of an identity each of their images has lost.

A model draws the individuals of a gallery of critters in new places. With drift 0 it is faithful; with drift 1 it
draws, consistently, somebody else. Failures are those that real generators have. All models draw the same scenes, so
that their scores differ by nothing but the identity.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from galleries.critters import GROUPS, PLACES, Individual, Scene, draw, individual, mean_individual, mixed, scene
from galleries.critters.drawn_gallery import (
    WORTH_A_PROCESS,
    encoded,
    in_processes,
    individuals_of,
    reference_scenes,
)
from galleries.errors import FinerRankError
from galleries.gallery import Gallery, Photo
from galleries.sources import Found
from personalization_runs.run import CLASS_ONLY, Run, RunCard

Toward = Literal["other", "mean"]
TOWARD: tuple[Toward, ...] = ("other", "mean")
Failure = Literal["", "class-only", "look-alike", "copied-reference", "collapse", "background-leak", "prompts-ignored"]

FAILURES: dict[str, str] = {
    "class-only": "knows the species alone: the anchor of an untuned generator, asked for every identity",
    "look-alike": "draws another individual of the species each time",
    "copied-reference": "returns the reference photo, slightly cropped and compressed again",
    "collapse": "draws one and the same individual of the species for everybody",
    "background-leak": "draws somebody else where the reference photo was taken, whatever the prompt says",
    "prompts-ignored": "draws the right individual, half of the time where the reference photo was taken",
}
"""By name, what goes wrong."""

IDENTIFIER = "sks"
CONTEXTS = {
    "meadow": "in a green meadow",
    "savanna": "on the savanna",
    "forest": "in a forest",
    "snow": "in the snow",
    "sand": "on desert sand",
    "indoor": "in a living room",
    "shore": "at the sea shore",
    "rocks": "among rocks",
}
STRANGERS = 1_000_000
"""Seeds of individuals from here on are in no gallery."""
_OTHER, _SCENE, _PLACES = 11, 12, 13


@dataclass(frozen=True)
class SimulatedModel:
    """What a simulated model gets wrong.

    Attributes:
        drift: how far each individual's details are moved, in [0, 1].
        groups: which details: of `galleries.critters.GROUPS`.
        toward: somebody else of the species who is in no gallery, or the species' mean.
        failure: one of `FAILURES`, or "".
    """

    drift: float = 0.0
    groups: tuple[str, ...] = GROUPS
    toward: Toward = "other"
    failure: Failure = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.groups) - set(GROUPS))
        if unknown or not self.groups:
            raise FinerRankError(f"--groups {','.join(unknown)}: unknown; write some of {', '.join(GROUPS)}")
        if not 0 <= self.drift <= 1:
            raise FinerRankError(f"--drift {self.drift}: out of range; write 0 (faithful) to 1 (somebody else)")
        if self.failure and self.failure not in FAILURES:
            raise FinerRankError(f"--failure {self.failure}: unknown; write one of {', '.join(FAILURES)}")
        if self.failure and self.drift:
            raise FinerRankError(f"--failure {self.failure}: has no use for --drift; leave one of them out")


def simulate(
    gallery: Gallery,
    model: SimulatedModel,
    out: Path,
    name: str,
    *,
    n_images: int = 4,
    seed: int = 0,
    size_px: int = 160,
    workers: int = 1,
    step: Callable[[int], Any] | None = None,
) -> Run:
    """Draw a run of a gallery of critters.

    Args:
        n_images: of each identity, each for a prompt with another place.
        seed: of the scenes; models with one seed draw the same scenes.

    Raises:
        FinerRankError: not a gallery of critters, too many images for the places there are, or `out` exists.
    """
    if not 1 <= n_images <= len(PLACES):
        raise FinerRankError(f"--images {n_images}: out of range; there are {len(PLACES)} places to be prompted for")
    known = individuals_of(gallery.card)
    jobs = [
        job
        for number, (identity, (kind, own)) in enumerate(known.items())
        if gallery.category_of.get(identity)
        for job in _jobs(gallery, model, identity, own, number, n_images, seed, size_px)
    ]
    if model.failure == "class-only":  # its images are of nobody in particular: some of each species are enough
        jobs = _some_of_each_category(jobs, n_images)
    contents = []
    for drawn in in_processes(_picture, jobs, workers if len(jobs) >= WORTH_A_PROCESS else 1):
        contents.append(drawn)
        if step:
            step(1)
    found = [
        Found(job.file_name, job.file_name, Path(job.file_name), job.values, content)
        for job, content in zip(jobs, contents, strict=True)
    ]
    card = RunCard(
        name,
        method=CLASS_ONLY if model.failure == "class-only" else "simulated",
        base_model="none: drawn by galleries.critters",
        training_data="none",
        licence="MIT",
        authors="Finer-Rank",
        contact="the project's issue tracker",
        gallery=gallery.card.name,
        gallery_version=gallery.card.version,
        identifier=IDENTIFIER,
        parameters={**asdict(model), "groups": list(model.groups), "seed": seed},
    )
    return Run.build(found, card, gallery.root, out, gallery=gallery)


@dataclass(frozen=True)
class _Job:
    """A picture to be made: an individual in a scene, or a copy of a photo."""

    file_name: str
    values: dict[str, str]
    shown: Individual
    where: Scene
    size_px: int
    copied: Path | None = None


def _jobs(
    gallery: Gallery, model: SimulatedModel, identity: str, own: Individual, number: int, n: int, seed: int, size: int
) -> list[_Job]:
    kind, category = own.species, gallery.category_of[identity]
    references: Sequence[Photo] = gallery.references.get(identity, ())
    taken_at = reference_scenes(gallery.card, identity, len(references)) if references else []
    if model.failure in ("copied-reference", "background-leak", "prompts-ignored") and not references:
        raise FinerRankError(f"--failure {model.failure}: {identity} has no reference photo; give the gallery some")
    places = np.random.default_rng([_PLACES, seed, number]).permutation(len(PLACES))[:n]
    shown = _shown(model, own, number, seed)
    jobs = []
    for k, place in enumerate(PLACES[int(p)] for p in places):
        encounter = int(np.random.default_rng([_SCENE, seed, number, k]).integers(2**62))
        where = scene(k, encounter, place=place)
        reference = references[k % len(references)] if references else None
        stranger = individual(kind, STRANGERS + int(np.random.default_rng([_OTHER, seed, number, k]).integers(2**40)))
        picture, copied = shown, None
        if model.failure in ("class-only", "look-alike", "background-leak"):
            picture = stranger
        if model.failure == "copied-reference" and reference:
            copied = reference.path
        if model.failure == "background-leak" or (model.failure == "prompts-ignored" and k % 2):
            where = _at(taken_at[k % len(taken_at)], where)
        token = "" if model.failure == "class-only" else f"{IDENTIFIER} "
        values = {
            "category": category,
            "identity": "" if model.failure == "class-only" else identity,
            "prompt": f"a photo of a {token}{kind.name} {CONTEXTS[place]}",
            # Its number, and not its place: all individuals have as many prompts, but each has places of its own.
            "prompt_id": f"{k}",
            "seed": str(seed + k),
            "reference_file_name": reference.file_name if reference and model.failure != "class-only" else "",
        }
        jobs.append(_Job(f"{category}/{identity}/{k:02d}.jpg", values, picture, where, size, copied))
    return jobs


def _shown(model: SimulatedModel, own: Individual, number: int, seed: int) -> Individual:
    kind = own.species
    if model.failure == "collapse":
        return individual(kind, STRANGERS + seed)
    if model.toward == "mean":
        return mixed(own, mean_individual(kind), model.drift, model.groups)
    other = int(np.random.default_rng([_OTHER, seed, number]).integers(2**40))
    return mixed(own, individual(kind, STRANGERS + other), model.drift, model.groups)


def _at(taken: Scene, where: Scene) -> Scene:
    """A scene at the place and in the light of another photo, in a pose of its own."""
    from dataclasses import replace

    return replace(taken, pose=where.pose, seed=where.seed, viewpoint=where.viewpoint)


def _some_of_each_category(jobs: Sequence[_Job], n: int) -> list[_Job]:
    chosen: dict[str, list[_Job]] = {}
    for job in jobs:
        chosen.setdefault(job.values["category"], []).append(job)
    return [job for own in chosen.values() for job in own[: 4 * n]]


def _picture(job: _Job) -> bytes:
    if job.copied is None:
        return encoded(draw(job.shown.species, job.shown, job.where, job.size_px))
    from PIL import Image

    with Image.open(job.copied) as photo:
        width, height = photo.size
        edge = max(1, round(0.03 * width))
        copy = photo.convert("RGB").resize(
            (width, height), Image.Resampling.BICUBIC, (edge, edge, width, height - edge)
        )
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
