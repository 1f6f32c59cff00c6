"""Draws the pictures beside this file, each awkward in one way: `python tests/benchmark/awkward/make.py`.

Drawn by formula, without randomness. Another version of Pillow may pack the JPEGs otherwise; tests rely on what is
committed.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HERE = Path(__file__).parent
Bytes = npt.NDArray[np.uint8]


def scene(width: int, height: int) -> Bytes:
    """`[height, width, 3]`: soft light, hard edges and a fine texture, unlike in the three channels and the corners."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    light = 90 + 70 * np.sin(x / 17 + 1) * np.cos(y / 13)
    edges = 40 * (((x // 9) + (y // 7)) % 2)
    texture = 25 * np.sin(x * 1.9 + y * 2.3)
    ramp = 50 * (x / max(width - 1, 1) - y / max(height - 1, 1))
    channels = [light + edges + ramp, light - ramp + texture, 255 - light - edges + texture / 2]
    return np.clip(np.round(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def ink_profile() -> bytes:
    """A CMYK profile (ICC 2.1, table of 2⁴ nodes) of odd inks: "cyan" prints rust, "magenta" green, "yellow" violet.

    A node's colour in CIE Lab bytes (L·255/100, a + 128, b + 128) is that of the paper moved by each ink that is there.
    """
    paper = np.array([255, 128, 128])
    moves = np.array([[-110, 40, 40], [-90, -40, 30], [-130, 30, -50], [-255, 0, 0]])
    nodes = [
        np.clip(paper + sum((moves[i] for i in range(4) if present >> (3 - i) & 1), np.zeros(3, int)), 0, 255)
        for present in range(16)  # the first ink changes slowest
    ]
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + struct.pack(">4B9i", 4, 3, 2, 0, *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table += ramp * 4 + np.array(nodes, dtype=np.uint8).tobytes() + ramp * 3
    text = b"odd inks\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    bodies = {b"desc": description, b"cprt": b"text" + bytes(4) + b"CC0\0", b"wtpt": white, b"A2B0": table}
    start = 128 + 4 + 12 * len(bodies)
    index, content = struct.pack(">I", len(bodies)), b""
    for name, body in bodies.items():
        index += name + struct.pack(">II", start + len(content), len(body))
        content += body + bytes(-len(body) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(content), b"", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + index + content


def main() -> None:
    def save(name: str, pixels: Bytes | Image.Image, **options: Any) -> None:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(HERE / name, **options)

    save("plain.jpg", scene(160, 120), quality=85)
    save("odd.png", scene(61, 23))
    save("half_pixel.png", scene(99, 47))  # scaled to 224, 256 or 518 high, its centre falls between two pixels
    for orientation in (6, 8):
        exif = Image.Exif()
        exif[274] = orientation
        save(f"exif_{orientation}.jpg", scene(64, 40), quality=90, exif=exif)
    alpha = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40, 1)
    save("alpha.png", np.concatenate([scene(40, 30), alpha], axis=2))
    palette = Image.fromarray(scene(40, 30)).quantize(16, dither=Image.Dither.NONE)
    save("palette_alpha.png", palette, transparency=bytes([0, 128, *range(100, 240, 10)]))
    save("grey.png", scene(50, 40)[:, :, 0])
    y, x = np.mgrid[:40, :50]
    save("grey_16.png", ((x * 1311 + y * 337) % 65536).astype(np.uint16))
    save("cmyk.jpg", Image.fromarray(scene(48, 32)).convert("CMYK"), quality=90)
    inks = np.zeros((16, 64, 4), dtype=np.uint8)  # four patches: paper, then one ink each
    for ink in range(3):
        inks[:, 16 * (ink + 1) : 16 * (ink + 2), ink] = 255
    patches = Image.frombytes("CMYK", (64, 16), inks.tobytes())
    save("cmyk_profile.jpg", patches, quality=100, subsampling=0, icc_profile=ink_profile())
    save("1x1.png", scene(1, 1))
    save("wide.jpg", scene(4000, 30), quality=60)
    save("high.jpg", scene(30, 4000), quality=60)
    save("line.png", np.broadcast_to(scene(200, 2), (2, 200, 3)).repeat(150, axis=1))


if __name__ == "__main__":
    main()
