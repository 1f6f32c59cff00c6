"""Maps of where an encoder looked: exact where they claim to be, in the right place, the right way up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import torch
from handmade import noise
from hypothesis import given
from hypothesis import strategies as st
from networks import HALVES, colours, save_clip, save_state, save_timm, save_timm_folder, save_torchvision
from PIL import Image
from pytest import approx
from transformers import LightGlueConfig, LightGlueForKeypointMatching, LightGlueImageProcessor, SuperPointConfig

from benchmark.embedders import Embedder, load_embedder
from benchmark.embedders.base import Preprocessing, Resize
from benchmark.embedders.timm import feature_map
from benchmark.explain import KeypointMatcher, contributions, counterparts, pair_maps, parts_of, seen_box
from galleries.errors import FinerRankError

Pixels = npt.NDArray[np.float32]


def encoder(folder: Path, name: str) -> Embedder:
    """A small network with random weights, by the name of its architecture."""
    if name.startswith("torchvision:"):
        weights = save_torchvision(folder / "w.safetensors", name.removeprefix("torchvision:"))
        return load_embedder(f"{name}@{weights}", resize="squash", size=96, device="cpu")
    if name == "clip":
        save_clip(folder / "clip", image_size=[32, 48], resize_mode="squash")
        return load_embedder(f"open_clip:local-dir:{folder / 'clip'}", device="cpu")
    if name == "clip on timm":
        return load_embedder(f"open_clip:local-dir:{clip_on_timm(folder / 'clip')}", device="cpu")
    weights = save_timm(folder / "w.safetensors", name)
    return load_embedder(f"timm:{name}@{weights}", device="cpu")


def clip_on_timm(folder: Path) -> Path:
    tower = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    model = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": text}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": HALVES}))
    save_state(open_clip.model.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "name",
    ["torchvision:squeezenet1_1", "torchvision:resnet18", "test_resnet", "test_efficientnet"],
)
def test_contributions_add_up_to_the_similarity(tmp_path: Path, name: str) -> None:
    embedder = encoder(tmp_path, name)
    first, second = parts_of(embedder, [colours(0), colours(1)])
    assert first.is_average
    similarity = float(first.embedding @ second.embedding)
    one, other = embedder.embed([colours(0), colours(1)])
    assert similarity == approx(float(one @ other), abs=1e-5)
    assert contributions(first.features, second.features).mean() == approx(similarity, abs=1e-5)
    assert contributions(second.features, first.features).mean() == approx(similarity, abs=1e-5)
    maps = pair_maps(first, second)
    assert (maps.kind, maps.similarity) == ("contributions", similarity)
    assert maps.query.shape == first.features.shape[:2]
    assert maps.query.min() >= 0
    assert maps.query.max() == maps.photo.max() == 1


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos", "test_convnext", "clip", "clip on timm"])
def test_other_networks_show_what_is_alike(tmp_path: Path, name: str) -> None:
    first, second, again = parts_of(encoder(tmp_path, name), [colours(0), colours(1), colours(0)])
    assert not first.is_average
    maps = pair_maps(first, second)
    assert maps.kind == "alike"
    assert 0 <= min(maps.query.min(), maps.photo.min()) <= max(maps.query.max(), maps.photo.max()) <= 1
    assert pair_maps(first, again).query == approx(1, abs=1e-5)


def test_an_encoder_without_parts_and_an_ensemble_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match="keeps no map of a picture's parts"):
        parts_of(load_embedder("classical:"), [colours(0)])
    weights = save_timm(tmp_path / "w.safetensors")
    with pytest.raises(FinerRankError, match="name one of its members"):
        parts_of(load_embedder(f"ensemble:classical:,timm:test_vit@{weights}"), [colours(0)])


# ---- the planted patch


def planted(features_of: Any, size: tuple[int, int], cell: int, places: tuple[tuple[int, int], ...]) -> list[Any]:
    """Features of two pictures of noise that share one patch of 3 × 3 cells, at these cells (row, column)."""
    patch = np.asarray(colours(9, (3 * cell, 3 * cell)))
    found = []
    for seed, (row, column) in enumerate(places):
        pixels = np.array(noise(seed, size))
        pixels[row * cell : (row + 3) * cell, column * cell : (column + 3) * cell] = patch
        found.append(features_of(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0)[0])
    return found


def brightest(values: npt.NDArray[np.float64]) -> tuple[int, int]:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


PLACES = ((1, 6), (4, 0))
"""Where the patch begins; its middle cell is one further, and sees nothing but the patch under a small network."""


def test_a_shared_patch_is_the_most_alike_part_of_both_pictures() -> None:
    torch.manual_seed(0)
    patchify = torch.nn.Conv2d(3, 32, 8, stride=8)  # what a vision transformer begins with

    @torch.inference_mode()
    def features_of(pixels: torch.Tensor) -> npt.NDArray[np.float64]:
        return patchify(pixels).permute(0, 2, 3, 1).double().numpy()  # type: ignore[no-any-return]

    first, second = planted(features_of, (80, 64), 8, PLACES)
    assert first.shape == (8, 10, 32)
    for values, (row, column) in zip(counterparts(first, second), PLACES, strict=True):
        found = brightest(values)
        assert row <= found[0] < row + 3
        assert column <= found[1] < column + 3
        assert values.max() == approx(1, abs=1e-6)
        outside = values.copy()
        outside[row : row + 3, column : column + 3] = -1
        assert outside.max() < 0.95


def test_what_two_pictures_share_contributes_most() -> None:
    """A strong texture in faint noise, under the absolute responses of random filters."""
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(64, 3, 8, 8, generator=generator)
    filters -= filters.mean(dim=(2, 3), keepdim=True)  # blind to plain colour

    def features_of(pixels: torch.Tensor) -> npt.NDArray[np.float64]:
        found = torch.nn.functional.conv2d(pixels, filters, stride=8).abs()
        return found.permute(0, 2, 3, 1).double().numpy()

    stripes = np.zeros((24, 24, 3), dtype=np.uint8)
    stripes[::4] = stripes[1::4] = 255
    found = []
    for seed, (row, column) in enumerate(PLACES):
        pixels = np.asarray(noise(seed, (80, 64))) // 8 + 112
        pixels[row * 8 : row * 8 + 24, column * 8 : column * 8 + 24] = stripes
        found.append(features_of(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0)[0])
    for own, other, (row, column) in zip(found, found[::-1], PLACES, strict=True):
        at = brightest(contributions(own, other))
        assert row <= at[0] < row + 3
        assert column <= at[1] < column + 3


# ---- the right way up


def changed_cell(model: Any, height: int, width: int, cell: int, at: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
    """The grid, and which of its cells changes most when the input changes in one cell of `cell` pixels."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(1, 3, height, width)).astype(np.float32) * np.float32(0.1)
    other = pixels.copy()
    row, column = at[0] * cell, at[1] * cell
    other[..., row : row + cell, column : column + cell] += np.float32(3) * rng.normal(size=(3, cell, cell)).astype(
        np.float32
    )
    before, after = model(pixels)[0], model(other)[0]
    return before.shape[:2], brightest(np.linalg.norm(after - before, axis=-1))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_mambaout", "test_efficientnet"])
def test_grids_of_timm_are_the_right_way_up(tmp_path: Path, name: str) -> None:
    spec = save_timm_folder(tmp_path / "model", name, input_size=[3, 96, 160], crop_mode="squash", crop_pct=1.0)
    model = load_embedder(f"timm:local-dir:{spec}", device="cpu").model
    cell = 16 if name == "test_vit" else 32
    shape, found = changed_cell(model.feature_map, 96, 160, cell, (0, 4))
    assert (shape, found) == ((96 // cell, 160 // cell), (0, 4))


def test_a_grid_of_swin_is_the_right_way_up() -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "img_size": (64, 96), "window_size": 4}
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options).eval()

    @torch.inference_mode()
    def features_of(pixels: Pixels) -> npt.NDArray[np.float32]:
        return feature_map(module, torch.from_numpy(pixels)).numpy()

    shape, found = changed_cell(features_of, 64, 96, 8, (1, 10))
    assert (shape, found) == ((8, 12), (1, 10))


def test_tokens_are_those_of_the_library_without_class_and_registers() -> None:
    torch.manual_seed(0)
    module = timm.create_model("test_vit2", num_classes=0, dynamic_img_size=True).eval()
    pixels = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        tokens = module.forward_features(pixels)[:, module.num_prefix_tokens :]
        assert torch.allclose(feature_map(module, pixels).reshape(tokens.shape), tokens, atol=1e-5)
        assert feature_map(module, pixels).shape[1:3] == (4, 6)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_grids_of_torchvision_are_the_right_way_up(tmp_path: Path, name: str) -> None:
    model = encoder(tmp_path, f"torchvision:{name}").model
    assert model.feature_map is not None
    pixels = np.random.default_rng(0).normal(size=(2, 3, 192, 384)).astype(np.float32)
    pixels[1, :, :64, 256:] *= -5
    before, after = model.feature_map(pixels)
    height, width = before.shape[:2]
    assert width > 1.7 * height
    # Each position has seen much of the input, so that the middle of all change says where it was.
    change = np.linalg.norm(after - before, axis=-1)
    rows, columns = np.mgrid[:height, :width]
    assert (change * (rows + 0.5)).sum() / change.sum() < 0.48 * height
    assert (change * (columns + 0.5)).sum() / change.sum() > 0.52 * width


def test_a_grid_of_open_clip_is_the_right_way_up_and_projected(tmp_path: Path) -> None:
    model = encoder(tmp_path, "clip").model
    assert model.feature_map is not None
    assert model.feature_map(np.zeros((1, 3, 32, 48), dtype=np.float32)).shape == (1, 4, 6, 24)
    assert changed_cell(model.feature_map, 32, 48, 8, (0, 4)) == ((4, 6), (0, 4))


def test_a_timm_tower_of_open_clip_is_projected(tmp_path: Path) -> None:
    model = encoder(tmp_path, "clip on timm").model
    assert model.feature_map is not None
    assert model.feature_map(np.zeros((1, 3, 160, 160), dtype=np.float32)).shape == (1, 10, 10, 24)


# ---- back onto the picture


@given(
    mode=st.sampled_from(["crop", "squash", "pad"]),
    size=st.tuples(st.integers(60, 400), st.integers(60, 400)),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    margin=st.integers(0, 40),
)
def test_a_bright_square_maps_back_onto_itself(
    mode: Resize, size: tuple[int, int], at: tuple[float, float], margin: int
) -> None:
    width, height = size
    n_cells, cell = 8, 8
    to = n_cells * cell + (margin if mode != "pad" else 0)
    preprocessing = Preprocessing((64, 64), mode, (to, to), "bilinear", (0, 0, 0), (1, 1, 1), (0, 0, 0))
    left, top, right, bottom = seen_box(preprocessing, width, height)
    # A square as large as a cell of the grid, wholly inside what is seen.
    across, down = (right - left) / n_cells, (bottom - top) / n_cells
    low_x, high_x = max(left, 0), min(right, width) - across
    low_y, high_y = max(top, 0), min(bottom, height) - down
    if high_x < low_x or high_y < low_y:  # so long a picture that a cell holds all of its short side
        return
    x, y = low_x + at[0] * (high_x - low_x), low_y + at[1] * (high_y - low_y)
    picture = Image.new("RGB", size)
    picture.paste("white", (round(x), round(y), round(x + across), round(y + down)))
    seen = preprocessing(picture)[0].reshape(n_cells, cell, n_cells, cell).mean(axis=(1, 3))
    row, column = brightest(seen)
    middle_x, middle_y = left + (column + 0.5) * across, top + (row + 0.5) * down
    assert abs(middle_x - (x + across / 2)) <= 0.5 * across + 1.5 * (right - left) / 64 + 1
    assert abs(middle_y - (y + down / 2)) <= 0.5 * down + 1.5 * (bottom - top) / 64 + 1


def test_the_box_is_what_the_network_sees() -> None:
    def box(mode: Resize, to: int, width: int, height: int) -> tuple[float, ...]:
        return seen_box(Preprocessing((50, 50), mode, (to, to), "bicubic", (0, 0, 0), (1, 1, 1)), width, height)

    assert box("squash", 50, 300, 200) == (0, 0, 300, 200)
    assert box("squash", 100, 300, 200) == (75, 50, 225, 150)
    assert box("crop", 50, 400, 200) == (100, 0, 300, 200)
    assert box("pad", 50, 400, 200) == approx((0, -96, 400, 304))


# ---- keypoints


def save_matcher(folder: Path) -> Path:
    """A small LightGlue on a small SuperPoint, of random weights that are large enough to tell points apart."""
    torch.manual_seed(0)
    points = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
        keypoint_threshold=0.0,
        max_keypoints=64,
        initializer_range=0.3,
    )
    config = LightGlueConfig(
        keypoint_detector_config=points,
        descriptor_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        filter_threshold=0.0,
        depth_confidence=0.9999,
        width_confidence=0.9999,
        initializer_range=0.3,
    )
    LightGlueForKeypointMatching(config).save_pretrained(folder)
    LightGlueImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def test_points_of_a_picture_are_found_in_itself(tmp_path: Path) -> None:
    match = KeypointMatcher(str(save_matcher(tmp_path / "glue")), "cpu")
    picture = noise(0, (100, 200)).resize((150, 300))
    points = match(picture, picture)
    assert len(points) >= 2
    assert points[:, :2] == approx(points[:, 2:4], abs=0.02)
    assert points[:, :4].min() >= 0
    assert points[:, :4].max() <= 1
    assert (np.diff(points[:, 4]) <= 0).all()
    assert match(picture, Image.new("RGB", (64, 48))).shape[1] == 5


def test_a_model_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match=r"--matches .*neither a folder nor a repository"):
        KeypointMatcher(str(tmp_path / "nowhere"), "cpu")
    folder = save_matcher(tmp_path / "glue")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"trust_remote_code": True}))
    with pytest.raises(FinerRankError, match="asks for code of its own"):
        KeypointMatcher(str(folder), "cpu")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(FinerRankError, match=r"of type 'vit', which matches no keypoints; those that do: .*lightglue"):
        KeypointMatcher(str(folder), "cpu")
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FinerRankError, match="its weights lack"):
        KeypointMatcher(str(folder), "cpu")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FinerRankError, match="does not load"):
        KeypointMatcher(str(folder), "cpu")
