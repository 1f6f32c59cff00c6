"""`decode_image` shows a picture as a person would see it, or refuses it with a reason."""

import struct
import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from handmade import encoded, half, noise, raw_png, several_frames
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from galleries.images import MAX_PIXELS, BadImage, decode_image

Pixels = NDArray[np.uint8]

RED, GREEN, BLUE, YELLOW, BLACK, WHITE = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 0, 0),
    (255, 255, 255),
)
UPRIGHT: Pixels = np.kron(
    np.array([[RED, GREEN, BLUE], [YELLOW, BLACK, WHITE]], dtype=np.uint8), np.ones((16, 16, 1), dtype=np.uint8)
)

# EXIF 2.32, tag 274: which visible sides the stored row 0 and column 0 are.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda seen: seen,  # top, left
    2: lambda seen: seen[:, ::-1],  # top, right
    3: lambda seen: seen[::-1, ::-1],  # bottom, right
    4: lambda seen: seen[::-1],  # bottom, left
    5: lambda seen: seen.transpose(1, 0, 2),  # left, top
    6: lambda seen: seen[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda seen: seen[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda seen: seen[::-1].transpose(1, 0, 2),  # left, bottom
}


def pixels_of(content: bytes) -> list[list[int]]:
    """The pixels of the decoded picture, row after row."""
    image = decode_image(content)
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_of_any_exif_orientation_is_decoded_upright(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))

    decoded = np.asarray(decode_image(encoded(stored, format, exif=exif, **options)))

    assert decoded.shape == UPRIGHT.shape
    assert np.abs(decoded.astype(int) - UPRIGHT).max() <= (12 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(format: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(255, 0, 0, 0), (255, 0, 0, 128), (255, 0, 0, 255)]):
        image.putpixel((x, 0), pixel)
    lossless = {"lossless": True, "exact": True} if format == "WEBP" else {}
    assert pixels_of(encoded(image, format, **lossless)) == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_with_alpha_is_laid_on_white(format: str) -> None:
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (40, 0))
    image.putpixel((1, 0), (40, 255))
    assert pixels_of(encoded(image, format)) == [[255] * 3, [40] * 3]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_is_white(format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    assert pixels_of(encoded(image, format, transparency=0)) == [[255, 255, 255], [0, 0, 200]]


def test_a_palette_with_half_transparent_colours_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels_of(encoded(image, "PNG", transparency=bytes([128, 255]))) == [[255, 127, 127], [0, 0, 255]]


# Two pixels, of which the first has the value that the tRNS chunk calls transparent. (bits, packed pixels, grey seen)
GREY_WITH_A_TRANSPARENT_VALUE = {
    "1 bit": (1, b"\x80", 1, 0),
    "2 bits": (2, b"\x60", 1, 170),
    "4 bits": (4, b"\x12", 1, 34),
    "8 bits": (8, b"\x01\x80", 1, 128),
    "16 bits": (16, b"\x00\x01\x80\x00", 1, 128),
}


@pytest.mark.parametrize("case", GREY_WITH_A_TRANSPARENT_VALUE)
def test_the_transparent_value_of_a_grey_png_is_white(case: str) -> None:
    bits, packed, transparent, grey = GREY_WITH_A_TRANSPARENT_VALUE[case]
    content = raw_png(2, 1, bits, 0, packed, struct.pack(">H", transparent))
    assert pixels_of(content) == [[255] * 3, [grey] * 3]


def test_the_transparent_colour_of_an_8_bit_png_is_white() -> None:
    content = raw_png(2, 1, 8, 2, bytes([10, 20, 30, 40, 50, 60]), struct.pack(">HHH", 10, 20, 30))
    assert pixels_of(content) == [[255, 255, 255], [40, 50, 60]]


def test_the_transparent_colour_of_a_16_bit_png_is_white() -> None:
    packed = struct.pack(">6H", 1000, 2000, 3000, 0x8000, 0x4000, 0x2000)
    content = raw_png(2, 1, 16, 2, packed, struct.pack(">HHH", 1000, 2000, 3000))
    assert pixels_of(content) == [[255, 255, 255], [128, 64, 32]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    image = Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16))
    assert pixels_of(encoded(image, format)) == [[value] * 3 for value in (0, 1, 128, 255)]


def test_big_endian_16_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.new("I;16B", (2, 1))
    image.putpixel((1, 0), 32768)
    assert pixels_of(encoded(image, "TIFF")) == [[0] * 3, [128] * 3]


def test_16_bit_grey_with_alpha_is_scaled_and_laid_on_white() -> None:
    assert pixels_of(raw_png(2, 1, 16, 4, struct.pack(">4H", 500, 0, 0x8000, 0xFFFF))) == [[255] * 3, [128] * 3]


@pytest.mark.parametrize(
    "content", [encoded(Image.new("F", (2, 2)), "TIFF"), encoded(Image.new("I", (1, 1), -1), "TIFF")]
)
def test_numbers_that_have_no_white_are_refused(content: bytes) -> None:
    with pytest.raises(BadImage, match="more than 16 bits"):
        decode_image(content)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"})])
def test_1_bit_is_black_and_white(format: str, options: dict[str, str]) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels_of(encoded(image, format, **options)) == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_is_looked_up(format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels_of(encoded(image, format)) == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_grey_is_the_same_in_all_channels(format: str) -> None:
    ((red, green, blue),) = pixels_of(encoded(Image.new("L", (1, 1), 100), format))
    assert red == green == blue == pytest.approx(100, abs=2)


@pytest.mark.parametrize("profile", [b"", b"not a profile"])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_a_red_cmyk_picture_looks_red(format: str, profile: bytes) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = pixels_of(encoded(image, format, **({"icc_profile": profile} if profile else {})))[0]
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_a_single_pixel_is_a_picture(format: str) -> None:
    assert pixels_of(encoded(Image.new("RGB", (1, 1), "white"), format)) == [[255, 255, 255]]


def test_an_mpo_shows_its_first_picture() -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    content = encoded(first, "MPO", save_all=True, append_images=[second])
    red, _, blue = pixels_of(content)[0]
    assert (red > 240, blue < 15) == (True, True)


@pytest.mark.parametrize("size", [(4000, 30), (30, 4000)])
def test_a_very_long_picture_keeps_its_size(size: tuple[int, int]) -> None:
    assert decode_image(encoded(noise(0, size), "PNG")).size == size


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_several_frames_are_refused(format: str) -> None:
    with pytest.raises(BadImage, match=r"3 frames"):
        decode_image(several_frames(format))


@pytest.mark.parametrize("side", [9_000, 10_000, 2_000_000])  # below Pillow's warning, its warning, its error
def test_a_huge_size_in_the_header_is_refused_before_decoding(side: int) -> None:
    assert side**2 > MAX_PIXELS
    with pytest.raises(BadImage, match="more than 80 megapixels"):
        decode_image(raw_png(side, side, 8, 2, b""))


WHOLE_FILES = {
    **{format: encoded(noise(0), format) for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")},
    **{f"{format}, several frames": several_frames(format) for format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO")},
    "LZW TIFF": encoded(noise(0), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "kind", [kind for kind in WHOLE_FILES if not kind.startswith("MPO")]
)  # the first half is whole
def test_half_a_file_is_refused(kind: str) -> None:
    with pytest.raises(BadImage):
        decode_image(half(WHOLE_FILES[kind]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(WHOLE_FILES)),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
@example(kind="GIF, several frames", cut=0.4, changes=[])
def test_damaged_bytes_are_decoded_or_refused_but_raise_nothing_else(
    kind: str, cut: float, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(WHOLE_FILES[kind])
    content = content[: max(1, round(cut * len(content)))]
    for place, value in changes:
        content[int(place * len(content))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, of the damage
        with suppress(BadImage):
            assert decode_image(bytes(content)).mode == "RGB"
