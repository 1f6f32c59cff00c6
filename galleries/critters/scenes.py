"""What differs between photos of one animal: pose, camera, light, place, what stands in front."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from galleries.critters.rig import Pose

PLACES = ("meadow", "savanna", "forest", "snow", "sand", "indoor", "shore", "rocks")
OCCLUDERS = ("none", "grass", "branch", "fence", "rock")


@dataclass(frozen=True)
class Light:
    """Where light comes from, and how.

    Attributes:
        azimuth: degrees; 0 from the right of the picture, 90 from the viewer, 180 from the left.
        elevation: degrees over the horizon.
        strength: of the direct light against that of the sky, in [0, 1]; 0 is an overcast day.
        red, green, blue: colour cast, about 1.
        exposure: brightness, about 1.
    """

    azimuth: float
    elevation: float
    strength: float
    red: float
    green: float
    blue: float
    exposure: float


@dataclass(frozen=True)
class Scene:
    """All of a photo but the animal. Lengths are shares of the picture's side.

    Attributes:
        encounter: photos of one encounter share place, its seed, horizon and light.
        place: one of `PLACES`.
        horizon, ground: y of the horizon, and of the lowest foot; 0 is the top.
        pan: how far the background is shifted sideways.
        viewpoint: the side of the animal that is seen: `left` (it faces left) or `right`.
        yaw, pitch, roll: of the camera, in degrees.
        fill: the larger side of a usual animal of the species.
        x: of its middle.
        occluder: one of `OCCLUDERS`.
        blur: standard deviation.
        noise: of the sensor, standard deviation in grey levels of 255.
        seed: of grass, branches and noise.
    """

    encounter: int
    place: str
    place_seed: int
    horizon: float
    ground: float
    pan: float
    light: Light
    viewpoint: str
    yaw: float
    pitch: float
    roll: float
    pose: Pose
    fill: float
    x: float
    occluder: str
    blur: float
    noise: float
    seed: int


def scene(seed: int, encounter: int | None = None, **given: Any) -> Scene:
    """The scene of a photo seed.

    Args:
        encounter: seed of the encounter that the photo belongs to; one of its own where left out.
        given: attributes of `Scene` to be set, whatever the seeds say.

    >>> a, b = scene(1, encounter=5), scene(2, encounter=5)
    >>> a.place == b.place, a.light == b.light, a.pose == b.pose
    (True, True, False)
    """
    if encounter is None:
        encounter = int(np.random.default_rng([3, seed]).integers(2**62))
    day, shot = np.random.default_rng([4, encounter]), np.random.default_rng([5, encounter, seed])
    place = PLACES[int(day.integers(len(PLACES)))]
    light = _light(day, place)
    viewpoint = "right" if day.random() < 0.5 else "left"
    yaw, pitch = float(np.clip(day.normal(0, 15), -34, 34)), float(day.uniform(-3, 12))
    pose = _pose(day)
    horizon, ground, fill = day.uniform(0.12, 0.55), day.uniform(0.78, 0.94), day.uniform(0.6, 0.98)
    if day.random() < 0.4:  # from above, or so near that no sky is seen
        horizon, pitch = day.uniform(-0.4, -0.02), pitch + day.uniform(2, 12)
    is_covered = day.random() < 0.4

    occluder = "none"
    if is_covered and shot.random() < 0.75:
        fitting = {"indoor": ("none",), "snow": ("branch", "fence", "rock"), "sand": ("rock", "grass", "branch")}
        occluder = str(shot.choice(fitting.get(place, OCCLUDERS[1:])))
    pose = Pose(
        phase=float((pose.phase + shot.uniform(0, 1)) % 1),
        stride=float(np.clip(pose.stride + shot.normal(0, 3), 0, 28)),
        neck=float(pose.neck + shot.normal(0, 6)),
        head=float(pose.head + shot.normal(0, 6)),
        head_yaw=float(np.clip(pose.head_yaw + shot.normal(0, 9), -30, 38)),
        tail=float(pose.tail + shot.normal(0, 10)),
        curl=float(pose.curl + shot.normal(0, 5)),
        ear=float(shot.normal(0, 9)),
    )
    made = Scene(
        encounter=encounter,
        place=place,
        place_seed=int(day.integers(2**62)),
        horizon=float(horizon + shot.normal(0, 0.012)),
        ground=float(np.clip(ground + shot.normal(0, 0.015), 0.8, 0.96)),
        pan=float(shot.uniform(0, 0.3)),
        light=light,
        viewpoint=viewpoint,
        yaw=float(yaw + shot.normal(0, 5)),
        pitch=float(pitch + shot.normal(0, 1)),
        roll=float(shot.normal(0, 2.2)),
        pose=pose,
        fill=float(np.clip(fill + shot.normal(0, 0.05), 0.52, 1.0)),
        x=float(np.clip(0.5 + shot.normal(0, 0.055), 0.36, 0.64)),
        occluder=occluder,
        blur=float(0.0055 * shot.beta(1, 4)),
        noise=float(1.0 + 5 * shot.beta(1, 3)),
        seed=int(shot.integers(2**62)),
    )
    return replace(made, **given)


def _light(rng: np.random.Generator, place: str) -> Light:
    strength = float(rng.beta(2.2, 1.6)) * (0.7 if place in ("forest", "indoor") else 1.0)
    elevation = float(rng.uniform(18, 70))
    warmth = 0.10 * (1 - elevation / 60) * strength + rng.normal(0, 0.03) + (0.05 if place == "indoor" else 0)
    tint = rng.normal(0, 0.012)
    return Light(
        azimuth=float(rng.uniform(-15, 195)),
        elevation=elevation,
        strength=strength,
        red=float(1 + warmth),
        green=float(1 + tint + 0.2 * warmth),
        blue=float(1 - warmth),
        exposure=float(np.exp(rng.normal(0.02, 0.11))),
    )


def _pose(rng: np.random.Generator) -> Pose:
    activity = rng.random()
    walking = activity < 0.5
    neck = rng.normal(0, 6)
    if activity > 0.8:
        neck -= rng.uniform(35, 75)  # grazes, or follows a scent
    elif walking and rng.random() < 0.4:
        neck -= rng.uniform(5, 25)
    return Pose(
        phase=rng.random(),
        stride=float(rng.uniform(8, 25) if walking else rng.uniform(0, 7)),
        neck=float(neck),
        head=float(rng.normal(0, 7)),
        head_yaw=float(rng.normal(4, 14)),
        tail=float(rng.normal(0, 14)),
        curl=float(rng.normal(0, 6)),
    )
