"""MiewID with random weights against a plain rendition of it, and OpenCV's way of scaling pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from networks import colours, save_state
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing, opencv_bilinear
from benchmark.embedders.zoo import NORMALISATIONS
from galleries.errors import FinerRankError

SMALL = "efficientnetv2_rw_t"
PICTURES = [colours(seed) for seed in range(3)]
SIZE = 96  # pixels; the networks take any size, and these tests have two processors
State = dict[str, torch.Tensor]


def hub_state(architecture: str, seed: int = 0) -> State:
    """Random tensors under the names of the hub's file, with a history of training: nothing is as it is built."""
    torch.manual_seed(seed)
    network = timm.create_model(architecture, num_classes=0, global_pool="", drop_path_rate=0.0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # one batch sets them right; else such a deep network amplifies rounding to chaos
    with torch.no_grad():
        network.train()(torch.stack([squashed(picture, 64) for picture in PICTURES]))
    backbone = network.state_dict()
    for key, value in backbone.items():
        if key.endswith("running_var"):
            backbone[key] = value * (torch.rand_like(value) * 0.2 + 1)
    channels = timm.create_model(architecture, num_classes=0).num_features
    return {
        **{f"backbone.{key}": value for key, value in backbone.items()},
        "backbone.global_pool.p": torch.tensor([2.6]),
        "bn.weight": torch.rand(channels) + 0.5,
        "bn.bias": torch.randn(channels) * 0.1,
        "bn.running_mean": torch.rand(channels) * 0.2,
        "bn.running_var": torch.rand(channels) + 0.1,
        "bn.num_batches_tracked": torch.tensor(700),
        "final.weight": torch.randn(10, channels),
        "final.bias": torch.randn(10),
    }


def training_state(state: State) -> State:
    """The same as the training code saves it, with the classifier that timm's network comes with."""
    renamed = {key: value for key, value in state.items() if not key.startswith("final.")}
    renamed["pooling.p"] = renamed.pop("backbone.global_pool.p")
    return renamed | {"backbone.classifier.weight": torch.ones(5, 7), "backbone.classifier.bias": torch.ones(5)}


def plain_rows(state: State, architecture: str, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    """Network, generalised mean and normalisation written out, in float64 from the feature map on."""
    backbone = timm.create_model(architecture, num_classes=0, global_pool="").eval()
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    exponent = float(own.pop("global_pool.p"))
    backbone.load_state_dict(own)
    with torch.inference_mode():
        features = backbone(pixels).double().numpy()
    pooled = (np.maximum(features, 1e-6) ** exponent).mean(axis=(2, 3)) ** (1 / exponent)
    mean, var, weight, bias = (
        state[f"bn.{name}"].double().numpy() for name in ("running_mean", "running_var", "weight", "bias")
    )
    rows = (pooled - mean) / np.sqrt(var + 1e-5) * weight + bias
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def squashed(image: Image.Image, size: int) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).copy())
    mean, std = (torch.tensor(values) for values in NORMALISATIONS["imagenet"])
    return ((pixels / 255 - mean) / std).permute(2, 0, 1)


def rows_of(spec: str, **options: Any) -> npt.NDArray[np.float32]:
    return load_embedder(spec, device="cpu", **options).embed(PICTURES)


def refusal(spec: str, **options: Any) -> str:
    with pytest.raises(FinerRankError) as caught:
        rows_of(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def state() -> State:
    return hub_state(SMALL)


@pytest.fixture(scope="module")
def hub_layout(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_state(state, tmp_path_factory.mktemp("miewid") / "model.safetensors")


@pytest.fixture
def folder(hub_layout: Path, tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").symlink_to(hub_layout)
    published = {"model_name": SMALL, "use_fc": False, "auto_map": {"AutoModel": "code.MiewIdNet"}}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(published))
    (tmp_path / "hub" / "code.py").write_text("raise SystemExit('the code of a stranger runs')\n")
    return tmp_path / "hub"


# ---- the numbers


def test_it_embeds_as_its_parts_written_out(state: State, hub_layout: Path) -> None:
    pixels = torch.stack([squashed(picture, SIZE) for picture in PICTURES])
    rows = rows_of(f"miewid:{SMALL}@{hub_layout}", size=SIZE, resize="squash", interpolation="bilinear")
    assert np.abs(rows - plain_rows(state, SMALL, pixels)).max() <= 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_both_layouts_of_its_file_give_equal_rows(state: State, hub_layout: Path, tmp_path: Path) -> None:
    hub = rows_of(f"miewid:{SMALL}@{hub_layout}", size=SIZE)
    for name in "training.safetensors", "training.bin":
        trained = save_state(training_state(state), tmp_path / name)
        assert (rows_of(f"miewid:{SMALL}@{trained}", size=SIZE) == hub).all()


def test_a_folder_gives_the_rows_and_the_fingerprint_of_its_file_and_runs_no_code(
    hub_layout: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_embedder(f"miewid:{SMALL}@{hub_layout}", device="cpu", size=SIZE)
    (tmp_path / "mirror" / "me").mkdir(parents=True)
    (tmp_path / "mirror" / "me" / "net").symlink_to(folder)
    monkeypatch.setenv("FINER_RANK_MIRROR", str(tmp_path / "mirror"))
    for model in f"local-dir:{folder}", "hf-hub:me/net", "hf-hub:me/net@v1":
        found = load_embedder(f"miewid:{model}", device="cpu", size=SIZE)
        assert found.fingerprint == expected.fingerprint
        assert (found.embed(PICTURES) == expected.embed(PICTURES)).all()


def test_a_configuration_edited_in_place_changes_a_remembered_fingerprint(folder: Path, tmp_path: Path) -> None:
    spec = f"miewid:local-dir:{folder}"
    before = load_embedder(spec, device="cpu", memo=tmp_path / "memo").fingerprint
    again = load_embedder(spec, device="cpu", memo=tmp_path / "memo")
    assert (again.fingerprint, "model" in vars(again)) == (before, False)
    (folder / "config.json").write_text(json.dumps({"model_name": "efficientnetv2_rw_s"}))
    with pytest.raises(FinerRankError, match="not weights of MiewID on efficientnetv2_rw_s"):
        _ = load_embedder(spec, device="cpu", memo=tmp_path / "memo").fingerprint


def test_pictures_are_squashed_to_440_pixels_unless_another_size_is_asked_for(hub_layout: Path) -> None:
    model = load_embedder(f"miewid:{SMALL}@{hub_layout}", device="cpu").model
    assert np.abs(model.preprocess(PICTURES[0]) - squashed(PICTURES[0], 440).numpy()).max() <= 1e-6
    for size in 8, 97:
        rows = rows_of(f"miewid:{SMALL}@{hub_layout}", size=size)
        assert rows.shape == (3, model.module.state_dict()["bn.weight"].shape[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mean_is_taken_of_the_feature_map_and_never_in_16_bits(
    state: State, hub_layout: Path, precision: str
) -> None:
    embedder = load_embedder(f"miewid:{SMALL}@{hub_layout}", device="cpu", size=SIZE + 1, precision=precision)
    model = embedder.model
    assert model.feature_map is not None
    batch = np.stack([model.preprocess(picture) for picture in PICTURES])
    features = model.feature_map(batch).astype(np.float64)
    assert features.shape == (3, 4, 4, state["bn.weight"].shape[0])  # stride 32, rounded up
    pooled = (np.maximum(features, 1e-6) ** float(np.float32(2.6))).mean(axis=(1, 2)) ** (1 / float(np.float32(2.6)))
    scale = state["bn.weight"] / (state["bn.running_var"] + 1e-5).sqrt()
    expected = (pooled - state["bn.running_mean"].numpy()) * scale.numpy() + state["bn.bias"].numpy()
    assert np.abs(model.forward(batch) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_bfloat16_comes_close_to_float32_and_is_not_it(hub_layout: Path) -> None:
    exact = rows_of(f"miewid:{SMALL}@{hub_layout}", size=SIZE)
    half = rows_of(f"miewid:{SMALL}@{hub_layout}", size=SIZE, precision="bf16")
    assert 0 < np.abs(exact - half).max() < 0.05


def test_an_embedding_does_not_depend_on_its_batch(hub_layout: Path) -> None:
    embedder = load_embedder(f"miewid:{SMALL}@{hub_layout}", device="cpu", size=SIZE)
    assert np.abs(embedder.embed(PICTURES, batch_size=1) - embedder.embed(PICTURES)).max() <= 1e-5


def test_the_published_architecture_takes_exactly_the_tensors_of_the_published_file(tmp_path: Path) -> None:
    # Known of the file of conservationxlabs/miewid-msv3: 1,210 tensors, and its size in bytes.
    published = hub_state("efficientnetv2_rw_m")
    assert len(published) == 1210
    path = tmp_path / "model.safetensors"
    save_file(published, path, metadata={"format": "pt"})
    assert path.stat().st_size == 205_809_924
    embedder = load_embedder(f"miewid:@{path}", device="cpu", size=64)
    assert embedder.embed(PICTURES).shape == (3, 2152)
    tensors = embedder.model.module.state_dict()
    trained = {key: value for key, value in tensors.items() if "running" not in key and "num_batches" not in key}
    assert sum(value.numel() for value in trained.values()) == 51_087_747
    kept = {"pooling.p" if key == "backbone.global_pool.p" else key: value for key, value in published.items()}
    assert tensors.keys() == {key for key in kept if not key.startswith("final.")}
    assert all(torch.equal(tensors[key], kept[key]) for key in tensors)


# ---- refusals


def test_weights_of_timms_own_network_are_refused_and_not_loaded_partly(tmp_path: Path) -> None:
    bare = save_state(timm.create_model(SMALL).state_dict(), tmp_path / "bare.safetensors")
    assert "lacks tensor backbone.conv_stem.weight and" in refusal(f"miewid:{SMALL}@{bare}")
    dressed = {f"backbone.{key}": value for key, value in load_file(bare).items()}
    half = save_state(dressed, tmp_path / "half.safetensors")
    assert "lacks tensor pooling.p and 4 more" in refusal(f"miewid:{SMALL}@{half}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("backbone.bn1.running_mean"), "lacks tensor backbone.bn1.running_mean"),
        (lambda state: state.pop("backbone.global_pool.p"), "lacks tensor pooling.p"),
        (lambda state: state.update({"pooling.p": torch.ones(1)}), "unknown tensor backbone.global_pool.p"),
        (lambda state: state.update({"fc.weight": torch.ones(1)}), "unknown tensor fc.weight"),
        (lambda state: state.update({"bn.bias": torch.ones(3)}), "misshapen tensor bn.bias"),
    ],
)
def test_anything_else_than_its_tensors_is_refused_by_name(
    state: State, tmp_path: Path, change: Callable[[State], Any], expected: str
) -> None:
    changed = dict(state)
    change(changed)
    weights = save_state(changed, tmp_path / "model.safetensors")
    assert expected in refusal(f"miewid:{SMALL}@{weights}")


def test_weights_of_another_of_its_architectures_are_refused(hub_layout: Path) -> None:
    assert f"{hub_layout}: " in refusal(f"miewid:efficientnetv2_rw_s@{hub_layout}")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("miewid:resnet50@x.pth", "'resnet50' is no architecture of MiewID's; known: efficientnetv2_rw_m"),
        ("miewid:efficientnetv2_rw_m.agc_in1k@x.pth", "known: efficientnetv2_rw_m"),
        ("miewid:efficientnetv2_rw_t", "write miewid:efficientnetv2_rw_t@FILE"),
        ("miewid:", "write miewid:efficientnetv2_rw_m@FILE"),
        ("miewid:efficientnetv2_rw_t@x.pth", "x.pth: no such weights file"),
        ("miewid:hf-hub:nobody/nothing@v1", "huggingface.co/nobody/nothing at v1"),
        ("miewid:local-dir:nowhere", "nowhere/config.json: no such file"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(spec: str, expected: str) -> None:
    assert expected in refusal(spec)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_name": 3}', '{"model_name": "vit_base_patch16_224"}'])
def test_a_configuration_of_something_else_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert str(folder / "config.json") in refusal(f"miewid:local-dir:{folder}")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(f"miewid:local-dir:{folder}")


# ---- pixels as OpenCV scales them

AWKWARD = [(1, 1), (1, 7), (7, 1), (3, 500), (501, 2), (97, 31), (440, 440), (441, 439), (1300, 701), (40_000, 2)]


@pytest.mark.parametrize("size", AWKWARD, ids=str)
@pytest.mark.parametrize("target", [440, 97])
def test_pixels_are_those_of_albumentations_resize_and_normalize(size: tuple[int, int], target: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    image = Image.effect_noise(size, 90).convert("RGB")
    ours = Preprocessing((target,) * 2, "squash", (target,) * 2, "bilinear-opencv", *NORMALISATIONS["imagenet"])
    # What albumentations' Resize does of it, then its Normalize.
    scaled = cv2.resize(np.array(image), (target, target), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    mean, std = (np.array(values, dtype=np.float32) * 255 for values in NORMALISATIONS["imagenet"])
    assert np.abs(ours(image) - ((scaled - mean) / std).transpose(2, 0, 1)).max() <= 2e-6


@pytest.mark.parametrize("size", AWKWARD[:-1], ids=str)
def test_opencv_takes_two_neighbours_on_each_axis_however_large_the_picture(size: tuple[int, int]) -> None:
    pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    image = Image.effect_noise(size, 90).convert("RGB")
    source = np.asarray(image).astype(np.float64)

    def neighbours(n_from: int, n_to: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        at = (np.arange(n_to) + 0.5) * n_from / n_to - 0.5
        left = np.floor(at).astype(int)
        return left.clip(0, n_from - 1), (left + 1).clip(0, n_from - 1), at - left

    top, bottom, down = neighbours(size[1], 97)
    left, right, along = neighbours(size[0], 97)
    rows = source[top] * (1 - down)[:, None, None] + source[bottom] * down[:, None, None]
    expected = rows[:, left] * (1 - along)[:, None] + rows[:, right] * along[:, None]
    assert np.abs(opencv_bilinear(image, (97, 97)) - expected).max() <= 1


def test_opencv_and_pillow_show_the_network_different_pictures(hub_layout: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    large = [picture.resize((900, 700), Image.Resampling.NEAREST) for picture in PICTURES]
    embedders = [
        load_embedder(f"miewid:{SMALL}@{hub_layout}", device="cpu", size=SIZE, resize="squash", interpolation=name)
        for name in ("bilinear", "bilinear-opencv")
    ]
    assert embedders[0].fingerprint != embedders[1].fingerprint
    assert np.abs(embedders[0].embed(large) - embedders[1].embed(large)).max() > 1e-4


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_opencv_is_refused_where_it_would_not_scale_to_squares(hub_layout: Path, resize: str) -> None:
    pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    spec = f"miewid:{SMALL}@{hub_layout}"
    assert "--resize squash" in refusal(spec, resize=resize, interpolation="bilinear-opencv")
