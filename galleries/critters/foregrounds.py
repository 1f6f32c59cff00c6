"""What stands in front of the animal: grass, a branch, a fence, a rock."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from galleries.critters.fields import Floats, clouds, step
from galleries.critters.scenes import Scene

_GREENS = {"savanna": ("c9ad66", "8f7436"), "sand": ("b9a468", "7f7040"), "shore": ("a9a56a", "6d7040")}


def foreground(scene: Scene, size: int) -> tuple[Floats, Floats] | None:
    """Colour, multiplied by cover, `[size, size, 3]`, and cover `[size, size]`; None where nothing stands in front."""
    if scene.occluder == "none":
        return None
    rng = np.random.default_rng([7, scene.seed])
    side = 2 * size
    image = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(image)
    if scene.occluder == "rock":
        return _rock(rng, scene, size)
    {"grass": _grass, "branch": _branch, "fence": _fence}[scene.occluder](rng, pen, scene, side)
    blur = {"grass": 0.003, "branch": 0.004, "fence": 0.002}[scene.occluder] * side
    premultiplied = image.convert("RGBa").resize((size, size), Image.Resampling.BOX, reducing_gap=None)
    pixels = np.asarray(premultiplied, dtype=np.uint8)
    channels = [Image.fromarray(pixels[..., k]).filter(ImageFilter.GaussianBlur(blur / 2)) for k in range(4)]
    soft = np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], axis=-1) / 255
    return soft[..., :3], soft[..., 3]


def _tone(rng: np.random.Generator, text: str, spread: float = 0.12) -> tuple[int, int, int, int]:
    rgb = np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) * math.exp(rng.normal(0, spread))
    red, green, blue = (int(value) for value in np.clip(rgb, 0, 255))
    return red, green, blue, 255


def _grass(rng: np.random.Generator, pen: ImageDraw.ImageDraw, scene: Scene, side: int) -> None:
    colours = _GREENS.get(scene.place, ("8fa650", "4f6a2c"))
    low, high = rng.uniform(0.02, 0.08), rng.uniform(0.12, 0.3)
    middle, spread = rng.uniform(0.1, 0.9), rng.uniform(0.12, 0.5)
    for _ in range(int(rng.integers(50, 130))):
        x = rng.normal(middle, spread) * side
        height = rng.uniform(low, high) * side
        bend = rng.normal(0, 0.3) * height
        w = rng.uniform(0.003, 0.0075) * side
        foot = side * (1.02 - rng.uniform(0, 0.03))
        knee = (x + 0.3 * bend, foot - 0.6 * height)
        outline = [
            (x - w, foot),
            (knee[0] - 0.7 * w, knee[1]),
            (x + bend, foot - height),
            (knee[0] + 0.7 * w, knee[1]),
            (x + w, foot),
        ]
        pen.polygon(outline, fill=_tone(rng, str(rng.choice(colours))))


def _branch(rng: np.random.Generator, pen: ImageDraw.ImageDraw, scene: Scene, side: int) -> None:
    from_left = rng.random() < 0.5
    x, y = (-0.05 if from_left else 1.05), rng.uniform(0.0, 0.75)
    heading = rng.uniform(-0.5, 0.3) if y > 0.4 else rng.uniform(-0.1, 0.55)
    width = rng.uniform(0.012, 0.024)
    bark = _tone(rng, "4f4034", 0.2)
    leaf = "6f8a3f" if scene.place != "snow" else "8d7f63"
    n = int(rng.integers(6, 13))
    leaves = []
    for k in range(n):
        step_x = 0.075 * math.cos(heading) * (1 if from_left else -1)
        end = (x + step_x, y + 0.075 * math.sin(heading))
        w = width * (1 - 0.75 * k / n)
        pen.line([(x * side, y * side), (end[0] * side, end[1] * side)], fill=bark, width=max(1, int(2 * w * side)))
        pen.ellipse([(end[0] - w) * side, (end[1] - w) * side, (end[0] + w) * side, (end[1] + w) * side], fill=bark)
        for _ in range(int(rng.integers(0, 4)) if scene.place != "snow" else 0):
            leaves.append((end[0] + rng.normal(0, 0.025), end[1] + rng.normal(0.012, 0.025), rng.uniform(0, math.pi)))
        x, y = end
        heading += rng.normal(0, 0.18)
    for cx, cy, angle in leaves:
        long, wide = rng.uniform(0.018, 0.034), rng.uniform(0.006, 0.011)
        ux, uy = math.cos(angle), math.sin(angle)
        outline = [
            (cx + long * ux, cy + long * uy),
            (cx - wide * uy, cy + wide * ux),
            (cx - long * ux, cy - long * uy),
            (cx + wide * uy, cy - wide * ux),
        ]
        pen.polygon([(px * side, py * side) for px, py in outline], fill=_tone(rng, leaf, 0.2))


def _fence(rng: np.random.Generator, pen: ImageDraw.ImageDraw, scene: Scene, side: int) -> None:
    top, tilt = rng.uniform(0.5, 0.72), rng.normal(0, 0.02)
    if rng.random() < 0.5:  # wires
        for k in range(int(rng.integers(2, 5))):
            y = top + 0.1 * k
            pen.line(
                [(0, y * side), (side, (y + tilt) * side)], fill=_tone(rng, "6a665f"), width=max(2, int(0.009 * side))
            )
        w, colour = 0.016, "5d5046"
    else:  # boards
        for k in range(int(rng.integers(1, 3))):
            y, h = top + 0.16 * k, rng.uniform(0.018, 0.03)
            corners = [(0, y), (1, y + tilt), (1, y + h + tilt), (0, y + h)]
            pen.polygon([(px * side, py * side) for px, py in corners], fill=_tone(rng, "8a735a"))
        w, colour = 0.026, "7a654e"
    start, pitch = rng.uniform(0, 0.4), rng.uniform(0.34, 0.6)
    for k in range(4):
        x = start + pitch * k
        pen.rectangle([(x - w) * side, (top - 0.05) * side, (x + w) * side, side], fill=_tone(rng, colour))


def _rock(rng: np.random.Generator, scene: Scene, size: int) -> tuple[Floats, Floats]:
    x = np.linspace(0, 1, size, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    cx, w, h = rng.uniform(-0.05, 1.05), rng.uniform(0.14, 0.3), rng.uniform(0.14, 0.28)
    rough = clouds(rng, (size, size), (5, 5), 4)
    inside = 1 - np.abs((x - cx) / w) ** 2.4 - np.abs((1.03 - y) / h) ** 2.2 + 0.10 * rough
    cover = step(inside.astype(np.float32), -0.02, 0.06)
    base = np.array(_tone(rng, "e3e8ee" if scene.place == "snow" else "857f76")[:3], dtype=np.float32) / 255
    side_light = 1.0 if scene.light.azimuth < 90 else -1.0
    tone = 0.82 + 0.16 * (1.03 - y) / h + 0.12 * side_light * (x - cx) / w + 0.08 * rough
    return (base * tone[..., None] * cover[..., None]).astype(np.float32), cover
