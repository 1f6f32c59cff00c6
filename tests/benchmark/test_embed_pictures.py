"""Pictures have the same rows however they are handed over; no picture and no embedding are refused by name."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from ensemble_cases import PICTURES, SQUARES, load_embedders, save_vits
from handmade import encoded
from networks import save_state, save_timm_folder
from PIL import Image

from benchmark.embedders import Embedder, load_embedder
from galleries.errors import FinerRankError


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_vits(tmp_path_factory.mktemp("vits"))


@pytest.fixture(scope="module")
def embedders(vits: list[str]) -> dict[str, Embedder]:
    return load_embedders(vits)


@pytest.fixture(scope="module")
def rows_of(embedders: dict[str, Embedder]) -> dict[str, npt.NDArray[np.float32]]:
    """Of `SQUARES`."""
    return {family: embedder.embed(SQUARES) for family, embedder in embedders.items()}


@pytest.fixture
def vit(embedders: dict[str, Embedder]) -> Embedder:
    return embedders["timm"]


BYTES = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in SQUARES])
SAME_PICTURES: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(SQUARES),
    "uint8 array": lambda: BYTES,
    "uint8 array, not contiguous": lambda: BYTES.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "uint8 tensor": lambda: torch.from_numpy(BYTES),
    "float64 array": lambda: BYTES / 255,
    "float32 array": lambda: BYTES.astype(np.float32) / np.float32(255),
    "float16 array": lambda: (BYTES / 255).astype(np.float16),
    "float32 tensor": lambda: torch.from_numpy(BYTES).float() / 255,
    "float64 tensor, channels last": lambda: torch.from_numpy(BYTES / 255).to(memory_format=torch.channels_last),
    "RGBA without transparency": lambda: [picture.convert("RGBA") for picture in SQUARES],
}


@pytest.mark.parametrize("kind", SAME_PICTURES)
@pytest.mark.parametrize("family", ["timm", "classical", "ensemble"])
def test_the_same_pictures_have_the_same_rows_however_they_are_handed_over(
    embedders: dict[str, Embedder], rows_of: dict[str, npt.NDArray[np.float32]], family: str, kind: str
) -> None:
    rows = rows_of[family]
    assert rows.shape[0] == len(SQUARES)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert (embedders[family].embed(SAME_PICTURES[kind]()) == rows).all()


def test_files_have_the_rows_of_their_pictures(vit: Embedder, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(len(SQUARES))]
    for path, picture in zip(paths, SQUARES, strict=True):
        picture.save(path)
    rows = vit.embed(SQUARES)
    assert (vit.embed(paths) == rows).all()
    assert (vit.embed([str(path) for path in paths]) == rows).all()
    assert (vit.embed([paths[0], SQUARES[1], *paths[2:]]) == rows).all()


@pytest.mark.parametrize("family", ["timm", "classical", "ensemble"])
def test_the_batch_size_does_not_decide_the_rows(embedders: dict[str, Embedder], family: str) -> None:
    rows = embedders[family].embed(PICTURES)
    for batch_size in (1, 4, 6, 100):
        assert np.abs(embedders[family].embed(PICTURES, batch_size=batch_size) - rows).max() <= 1e-6


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 3, 8, 8), np.uint8), torch.zeros(0, 3, 8, 8)], ids=repr)
def test_of_no_pictures_there_are_no_rows(embedders: dict[str, Embedder], nothing: Any) -> None:
    for embedder in embedders["timm"], embedders["ensemble"]:
        rows = embedder.embed(nothing)
        assert (rows.shape[0], rows.ndim) == (0, 2)
        assert rows.dtype == np.float32


def refusal(embedder: Embedder, images: Any) -> str:
    with pytest.raises(FinerRankError) as caught:
        embedder.embed(images)
    message = str(caught.value)
    assert "\n" not in message
    return message


FLOATS = BYTES.astype(np.float32) / 255
WITH_NAN, TOO_HIGH, TOO_LOW = FLOATS.copy(), FLOATS.copy(), FLOATS.copy()
WITH_NAN[2, 1, 3, 4], TOO_HIGH[4, 2, 0, 0], TOO_LOW[0, 0, 0, 0] = np.nan, 1.001, -0.001


@pytest.mark.parametrize("family", ["timm", "ensemble"])
@pytest.mark.parametrize(
    ("images", "what"),
    [
        pytest.param(BYTES.astype(np.float32), "floats outside [0, 1]", id="floats to 255"),
        pytest.param(torch.from_numpy(BYTES).float(), "floats outside [0, 1]", id="float tensor to 255"),
        pytest.param(FLOATS * 2 - 1, "floats outside [0, 1]", id="floats from -1"),
        pytest.param(TOO_HIGH, "floats outside [0, 1]", id="a little above 1"),
        pytest.param(TOO_LOW, "floats outside [0, 1]", id="a little below 0"),
        pytest.param(WITH_NAN, "floats outside [0, 1]", id="NaN"),
        pytest.param(FLOATS + np.float32(np.inf), "floats outside [0, 1]", id="infinite"),
        pytest.param(BYTES[0], "an array [3, 40, 40]", id="one picture, CHW"),
        pytest.param(BYTES[0].transpose(1, 2, 0), "an array [40, 40, 3]", id="one picture, HWC"),
        pytest.param(BYTES.transpose(0, 2, 3, 1), "an array [5, 40, 40, 3]", id="NHWC"),
        pytest.param(BYTES[:, :1], "an array [5, 1, 40, 40]", id="grey"),
        pytest.param(BYTES[None], "an array [1, 5, 3, 40, 40]", id="five axes"),
        pytest.param(np.array(3), "an array []", id="a number"),
        pytest.param(BYTES.astype(np.int64), "values of int64", id="int64"),
        pytest.param(BYTES > 100, "values of bool", id="bool"),
        pytest.param(BYTES.astype(complex), "values of complex128", id="complex"),
        pytest.param(np.zeros((1, 3, 0, 8), np.uint8), "8 × 0 pixels", id="no rows of pixels"),
        pytest.param(SQUARES[0], "put it into a list", id="one PIL image"),
        pytest.param("picture.png", "put it into a list", id="one name"),
        pytest.param(Path("picture.png"), "put it into a list", id="one path"),
        pytest.param([BYTES[0]], "image 0: ndarray", id="list of arrays"),
        pytest.param([SQUARES[0], torch.zeros(3, 8, 8)], "image 1: Tensor", id="list with a tensor"),
        pytest.param([SQUARES[0], None], "image 1: NoneType", id="list with None"),
        pytest.param([b"\x89PNG"], "image 0: bytes", id="list of bytes"),
        pytest.param([Image.new("RGB", (0, 5))], "0 × 5 pixels", id="picture without pixels"),
    ],
)
def test_what_is_no_list_of_pictures_is_refused_in_one_line(
    embedders: dict[str, Embedder], family: str, images: Any, what: str
) -> None:
    assert what in refusal(embedders[family], images)


def test_a_file_that_cannot_be_read_is_named(vit: Embedder, tmp_path: Path) -> None:
    (good := tmp_path / "good.png").write_bytes(encoded(SQUARES[0], "PNG"))
    (empty := tmp_path / "empty.png").write_bytes(b"")
    (text := tmp_path / "text.png").write_text("no picture")
    (cut := tmp_path / "cut.png").write_bytes(good.read_bytes()[:500])
    for path in (tmp_path / "gone.png", tmp_path, empty, text, cut):
        assert refusal(vit, [good, path]).startswith(f"{path}: ")
        assert refusal(vit, [good, str(path)]).startswith(f"{path}: ")


# The last norm of a network decides what comes out of it.
SPOILED = {"not finite": (torch.nan, 0.0), "zero": (0.0, 0.0), "constant": (0.0, 1.0)}


@pytest.mark.parametrize("what", SPOILED)
@pytest.mark.parametrize("family", ["timm", "ensemble"])
def test_an_embedding_that_tells_nothing_is_refused_with_the_name_of_its_picture(
    tmp_path: Path, family: str, what: str
) -> None:
    state = timm.create_model("test_vit", num_classes=10).state_dict()
    weight, bias = SPOILED[what]
    state["norm.weight"], state["norm.bias"] = torch.full((64,), weight), torch.full((64,), bias)
    spec = f"timm:test_vit@{save_state(state, tmp_path / 'spoiled.safetensors')}"
    embedder = load_embedder(spec if family == "timm" else f"ensemble:classical,{spec}", device="cpu")
    SQUARES[0].save(tmp_path / "square.png")
    message = refusal(embedder, [tmp_path / "square.png"])
    assert message.startswith(f"{tmp_path / 'square.png'}: embedding is {what}; ")
    assert refusal(embedder, BYTES).startswith(f"image 0: embedding is {what}; ")


def test_the_picture_at_fault_is_the_one_that_is_named(tmp_path: Path) -> None:
    # Fresh convolutions add nothing: black pixels stay zero from the first layer to the last.
    folder = save_timm_folder(tmp_path / "model", "test_resnet", mean=[0.0] * 3, std=[1.0] * 3)
    embedder = load_embedder(f"timm:local-dir:{folder}", device="cpu")
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    assert len(embedder.embed(SQUARES)) == 5
    assert refusal(embedder, [*SQUARES, black]).startswith(f"{black}: embedding is zero; ")
    assert refusal(embedder, BYTES * (np.arange(5) != 3).astype(np.uint8)[:, None, None, None]).startswith("image 3: ")


AWKWARD = Path(__file__).parent / "awkward"


@pytest.mark.parametrize("form", ["plain.jpg", "odd.png", "grey.png", "cmyk.jpg", "1x1.png", "wide.jpg", "high.jpg"])
def test_an_opened_picture_has_the_row_of_its_file(form: str) -> None:
    embedder = load_embedder("classical")
    with Image.open(AWKWARD / form) as image:
        assert (embedder.embed([image]) == embedder.embed([AWKWARD / form])).all()


@pytest.mark.parametrize(
    "form", ["exif_6.jpg", "exif_8.jpg", "alpha.png", "palette_alpha.png", "grey_16.png", "cmyk_profile.jpg"]
)
def test_an_opened_awkward_picture_has_the_row_of_its_file(form: str) -> None:
    embedder = load_embedder("classical")
    with Image.open(AWKWARD / form) as image:
        assert (embedder.embed([image]) == embedder.embed([AWKWARD / form])).all()


@pytest.mark.parametrize(
    ("images", "name"),
    [
        pytest.param([SQUARES[0], AWKWARD / "line.png"], f"{AWKWARD / 'line.png'}: ", id="too long"),
        pytest.param(np.zeros((1, 3, 0, 8), np.uint8), "image 0: ", id="no pixels"),
    ],
)
def test_a_picture_that_cannot_be_prepared_is_named(vit: Embedder, images: Any, name: str) -> None:
    assert refusal(vit, images).startswith(name)


@pytest.mark.parametrize(
    "images", [None, 5, torch.zeros(1, 3, 8, 8).bfloat16(), torch.zeros(1, 3, 8, 8).requires_grad_()]
)
def test_every_other_object_is_embedded_or_refused_as_a_users_mistake(vit: Embedder, images: Any) -> None:
    with suppress(FinerRankError):
        assert len(vit.embed(images)) == 1


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused_and_loses_no_picture(vit: Embedder, batch_size: int) -> None:
    with suppress(FinerRankError):
        assert len(vit.embed(PICTURES, batch_size=batch_size)) == len(PICTURES)
