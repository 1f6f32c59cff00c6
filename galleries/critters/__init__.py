"""Critters: drawn animals whose identity is known.

A *species* fixes body plan, palette and kind of coat; an *individual* differs from its species' mean in details that
are numbers, so that individuals can be mixed; a *scene* is all of a photo but the animal. Nothing is downloaded, and
the same seeds give the same pixels.

>>> from galleries.critters import draw, individual, mean_individual, mixed, scene, species
>>> kind = species(7)
>>> animal = individual(kind, 1)
>>> half_gone = mixed(animal, mean_individual(kind), 0.5, groups=["pattern"])
>>> draw(kind, half_gone, scene(3), size=64).mask.shape
(64, 64)

Critters are bilaterally symmetric: both flanks wear the same coat, so that every viewpoint can tell who it is.
"""

from galleries.critters.photos import Drawn, draw
from galleries.critters.scenes import OCCLUDERS, PLACES, Light, Scene, scene
from galleries.critters.species import GROUPS, Individual, Species, individual, mean_individual, mixed, species

RENDERER_VERSION = 1
"""Raised whenever the same seeds give other pixels: drawn galleries name it, so that nobody mixes two worlds."""

__all__ = [
    "GROUPS",
    "OCCLUDERS",
    "PLACES",
    "RENDERER_VERSION",
    "Drawn",
    "Individual",
    "Light",
    "Scene",
    "Species",
    "draw",
    "individual",
    "mean_individual",
    "mixed",
    "scene",
    "species",
]
