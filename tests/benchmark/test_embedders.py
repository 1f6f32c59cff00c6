"""Encoders with random weights embed as the libraries that they come from; fingerprints show every ingredient."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import torch
import torchvision
from networks import HALVES, colours, save_clip, save_state, save_timm, save_timm_folder, save_torchvision
from pytest import approx
from safetensors.torch import load_file

from benchmark.embedders import load_embedder
from galleries.errors import FinerRankError

PICTURES = [colours(seed) for seed in range(5)]


def unit(features: torch.Tensor) -> npt.NDArray[np.float32]:
    return torch.nn.functional.normalize(features.double(), dim=1).float().numpy()


def own_rows(model: torch.nn.Module, transform: Callable[[Any], torch.Tensor]) -> npt.NDArray[np.float32]:
    """What the library itself computes of `PICTURES`."""
    encode = getattr(model, "encode_image", model)
    with torch.inference_mode():
        return unit(encode(torch.stack([transform(picture) for picture in PICTURES])))


def assert_rows(spec: str, expected: npt.NDArray[np.float32], **options: Any) -> None:
    """The embedder's rows are the expected ones, of length 1, and tell the pictures apart."""
    rows = load_embedder(spec, device="cpu", **options).embed(PICTURES)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows.astype(np.float64), axis=1) == approx(np.ones(len(rows)), abs=1e-6)
    assert np.abs(rows - expected).max() <= 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def refusal(spec: str, **options: Any) -> str:
    """The one line that says why this embedder cannot be had."""
    with pytest.raises(FinerRankError) as caught:
        load_embedder(spec, device="cpu", **options).embed(PICTURES[:1])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("vit") / "vit.safetensors")


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_torchvision(tmp_path_factory.mktemp("squeezenet") / "squeezenet.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def timm_rows(architecture: str, weights: Path, **options: Any) -> npt.NDArray[np.float32]:
    """`PICTURES` by timm alone: its model, its way of loading weights, its transform."""
    overlay = {"file": str(weights), "num_classes": 10}
    model = timm.create_model(architecture, True, pretrained_cfg_overlay=overlay, num_classes=0, **options).eval()
    return own_rows(model, timm.data.create_transform(**timm.data.resolve_model_data_config(model)))


# ---- the numbers are the library's own


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_a_timm_model_embeds_as_timm_itself_without_the_classifier(tmp_path: Path, architecture: str) -> None:
    weights = save_timm(tmp_path / "weights.safetensors", architecture)
    assert_rows(f"timm:{architecture}@{weights}", timm_rows(architecture, weights))


def test_a_timm_folder_embeds_as_timm_itself(tmp_path: Path) -> None:
    folder = save_timm_folder(tmp_path, input_size=[3, 160, 160], crop_mode="squash", crop_pct=1.0, **HALVES)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert_rows(f"timm:local-dir:{folder}", own_rows(model, transform))


def test_an_open_clip_folder_embeds_as_open_clip_itself(clip: Path) -> None:
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip}", return_transform=True)
    assert_rows(f"open_clip:local-dir:{clip}", own_rows(model.eval(), transform))


def test_a_torchvision_model_embeds_by_the_mean_of_its_last_feature_map(squeezenet: Path) -> None:
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    model.load_state_dict(load_file(squeezenet))
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        features = model.features(torch.stack([transform(picture) for picture in PICTURES]))
    assert_rows(f"torchvision:squeezenet1_1@{squeezenet}", unit(features.mean(dim=(2, 3))))


def test_the_embedding_of_a_classifier_is_what_enters_its_last_layer(tmp_path: Path) -> None:
    weights = save_torchvision(tmp_path / "weights.safetensors", "shufflenet_v2_x0_5")
    model = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    model.load_state_dict(load_file(weights))
    model.fc = torch.nn.Identity()
    transform = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    assert_rows(f"torchvision:shufflenet_v2_x0_5@{weights}", own_rows(model, transform))


def test_a_file_without_the_classifier_gives_the_same_embedding(tmp_path: Path, squeezenet: Path) -> None:
    features = save_torchvision(tmp_path / "features.safetensors", prefix="features.")
    assert features.stat().st_size < squeezenet.stat().st_size
    whole = load_embedder(f"torchvision:squeezenet1_1@{squeezenet}", device="cpu").embed(PICTURES)
    assert_rows(f"torchvision:squeezenet1_1@{features}", whole)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_a_torch_file_of_tensors_gives_the_same_embedding(
    tmp_path: Path, vit: Path, ending: str, wrap: str | None
) -> None:
    state: Any = {f"module.{key}" if wrap else key: value for key, value in load_file(vit).items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / f"weights{ending}")
    assert_rows(f"timm:test_vit@{tmp_path / f'weights{ending}'}", timm_rows("test_vit", vit))


def test_an_open_clip_folder_with_a_torch_file_gives_the_same_embedding(tmp_path: Path, clip: Path) -> None:
    assert_rows(
        f"open_clip:local-dir:{save_clip(tmp_path, ending='bin')}",
        load_embedder(f"open_clip:local-dir:{clip}", device="cpu").embed(PICTURES),
    )


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_another_input_size_is_what_timm_itself_makes_of_it(tmp_path: Path, architecture: str) -> None:
    weights = save_timm(tmp_path / "weights.safetensors", architecture)
    overlay = {"file": str(weights), "num_classes": 10}
    options = {"img_size": 96} if architecture == "test_vit" else {}  # a convolutional network takes any size
    model = timm.create_model(architecture, True, pretrained_cfg_overlay=overlay, num_classes=0, **options).eval()
    transform = timm.data.create_transform(
        (3, 96, 96), interpolation="bicubic", crop_mode="squash", crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert_rows(f"timm:{architecture}@{weights}", own_rows(model, transform), size=96, resize="squash")


def test_another_input_size_is_what_open_clip_itself_makes_of_it(clip: Path) -> None:
    model, transform = open_clip.create_model_from_pretrained(
        f"local-dir:{clip}", force_image_size=64, return_transform=True
    )
    assert_rows(f"open_clip:local-dir:{clip}", own_rows(model.eval(), transform), size=64)


def test_bfloat16_comes_close_to_float32_and_is_not_it(vit: Path) -> None:
    exact = load_embedder(f"timm:test_vit@{vit}", device="cpu").embed(PICTURES)
    half = load_embedder(f"timm:test_vit@{vit}", device="cpu", precision="bf16").embed(PICTURES)
    assert 0 < np.abs(exact - half).max() < 0.05


def test_the_classical_embedder_needs_no_weights_and_tells_pictures_apart() -> None:
    rows = load_embedder("classical:").embed([*PICTURES, PICTURES[0]])
    assert (rows[0] == rows[5]).all()
    similarity = rows @ rows.T
    assert similarity[np.triu_indices(5, 1)].max() < 0.99


# ---- fingerprints


def fingerprint(spec: str, **options: Any) -> str:
    return load_embedder(spec, device="cpu", **options).fingerprint


def test_every_ingredient_of_an_embedding_changes_the_fingerprint(tmp_path: Path, vit: Path, squeezenet: Path) -> None:
    other = save_timm(tmp_path / "other.safetensors", seed=1)
    spec = f"timm:test_vit@{vit}"
    prints = [
        fingerprint(spec),
        fingerprint(f"timm:test_vit@{other}"),
        fingerprint(spec, resize="squash"),
        fingerprint(spec, resize="pad"),
        fingerprint(spec, size=96),
        fingerprint(spec, size=128),
        fingerprint(spec, interpolation="bilinear"),
        fingerprint(spec, precision="bf16"),
        fingerprint(f"torchvision:squeezenet1_1@{squeezenet}"),
        fingerprint("classical:"),
        fingerprint("classical:", size=64),
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(spec)


def test_the_place_of_the_weights_does_not_change_the_fingerprint(tmp_path: Path, vit: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(vit.read_bytes())
    assert fingerprint(f"timm:test_vit@{copy}") == fingerprint(f"timm:test_vit@{vit}")


@pytest.mark.parametrize(("family", "save"), [("timm", save_timm_folder), ("open_clip", save_clip)])
def test_the_same_folder_elsewhere_has_the_same_fingerprint(
    tmp_path: Path, family: str, save: Callable[[Path], Path]
) -> None:
    here, there = save(tmp_path / "here"), save(tmp_path / "there")
    assert fingerprint(f"{family}:local-dir:{here}") == fingerprint(f"{family}:local-dir:{there}")


def test_the_same_weights_in_another_architecture_have_another_fingerprint(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    before = load_embedder(f"open_clip:local-dir:{folder}", device="cpu")
    rows, print_before = before.embed(PICTURES), before.fingerprint
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    after = load_embedder(f"open_clip:local-dir:{folder}", device="cpu")
    assert np.abs(after.embed(PICTURES) - rows).max() > 1e-6
    assert after.fingerprint != print_before


def test_a_remembered_fingerprint_builds_no_network(tmp_path: Path, vit: Path) -> None:
    weights = tmp_path / "vit.safetensors"
    weights.write_bytes(vit.read_bytes())
    first = fingerprint(f"timm:test_vit@{weights}", memo=tmp_path / "memo")
    again = load_embedder(f"timm:test_vit@{weights}", device="cpu", memo=tmp_path / "memo")
    assert again.fingerprint == first
    assert "model" not in vars(again)


def test_weights_edited_in_place_change_a_remembered_fingerprint(tmp_path: Path) -> None:
    weights = save_timm(tmp_path / "vit.safetensors")
    spec, memo = f"timm:test_vit@{weights}", tmp_path / "memo"
    first = fingerprint(spec, memo=memo)
    times = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as some copying programs do
    assert fingerprint(spec, memo=memo) not in (first, "")
    content[-3] ^= 1
    weights.write_bytes(content)
    assert fingerprint(spec, memo=memo) == first


def test_a_configuration_edited_in_place_changes_a_remembered_fingerprint(tmp_path: Path) -> None:
    spec, memo = f"open_clip:local-dir:{save_clip(tmp_path / 'clip')}", tmp_path / "memo"
    first = fingerprint(spec, memo=memo)
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    assert fingerprint(spec, memo=memo) != first


def test_two_folders_of_one_relative_name_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = []
    for seed, place in enumerate(("here", "there")):
        save_timm_folder(tmp_path / place / "model", seed=seed)
        monkeypatch.chdir(tmp_path / place)
        prints.append(fingerprint("timm:local-dir:model", memo=tmp_path / "memo"))
    assert prints[0] != prints[1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"description": 3, "weights": [], "weights_file": ""}', "\0"])
def test_a_damaged_memory_of_fingerprints_is_ignored(tmp_path: Path, content: str) -> None:
    first = fingerprint("classical:", memo=tmp_path)
    (file,) = (tmp_path / "embedders").iterdir()
    file.write_text(content)
    assert fingerprint("classical:", memo=tmp_path) == first


# ---- refusals


def test_a_file_that_goes_first_changes_a_remembered_fingerprint(tmp_path: Path) -> None:
    folder = save_timm_folder(tmp_path / "vit")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_state(state, folder / "pytorch_model.bin")
    spec, memo = f"timm:local-dir:{folder}", tmp_path / "store"
    before = load_embedder(spec, device="cpu", memo=memo).fingerprint
    assert load_embedder(spec, device="cpu", memo=memo).fingerprint == before
    save_timm(folder / "model.safetensors", seed=1)
    assert load_embedder(spec, device="cpu", memo=memo).fingerprint != before


def test_relative_folders_of_one_name_are_not_taken_for_each_other_in_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.embedders.checkpoint import export

    rows = []
    for seed in range(2):
        place = tmp_path / str(seed)
        weights = save_timm(place / "vit.safetensors", seed=seed)
        export(load_embedder(f"timm:test_vit@{weights}", device="cpu"), place / "mine")
        monkeypatch.chdir(place)
        embedder = load_embedder("checkpoint:mine", device="cpu", memo=tmp_path / "store")
        rows.append((embedder.fingerprint, embedder.embed(PICTURES[:1]).tobytes()))
    assert rows[0][0] != rows[1][0]
    assert rows[0][1] != rows[1][1]
