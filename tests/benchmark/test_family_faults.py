"""Faults that the families of embedders had: each was found by hand, and mended."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from networks import TINY_CLIP, save_state, save_timm, save_torchvision
from safetensors.torch import load_file
from test_embedders import assert_rows, fingerprint, own_rows, refusal

from benchmark.embedders import load_embedder
from benchmark.embedders.base import LoadedModel, Preprocessing, network_model
from galleries.errors import FinerRankError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)


def build(spec: str, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """What open_clip builds of a spec, with a tiny network: only its preprocessing is looked at."""
    tiny = open_clip.model.CLIP(**TINY_CLIP)
    open_clip.model.set_model_preprocess_cfg(tiny, asdict(open_clip.transform.PreprocessCfg()))
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: tiny)
    return load_embedder(spec, device="cpu").model


# ---- torchvision


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_normalise_within_do_so_with_any_weights(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    weights = save_state(model.state_dict(), tmp_path / "weights.safetensors")
    model.fc = torch.nn.Identity()
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    expected = own_rows(model, transform)
    assert_rows(f"torchvision:{name}@{weights}", expected)
    model.transform_input = False
    assert np.abs(own_rows(model, transform) - expected).max() > 1e-4
    embedder = load_embedder(f"torchvision:{name}@{weights}", device="cpu")
    assert embedder.description["model"] == f"{name}, transform_input=True"
    assert embedder.model.feature_map is not None  # their graph can still be traced
    assert embedder.model.feature_map(np.zeros((1, 3, 128, 128), np.float32)).ndim == 4


def test_other_classifiers_keep_their_fingerprint(tmp_path: Path) -> None:
    weights = save_torchvision(tmp_path / "weights.safetensors")
    spec = f"torchvision:squeezenet1_1@{weights}"
    assert load_embedder(spec, device="cpu").description["model"] == "squeezenet1_1"
    assert fingerprint(spec) != fingerprint(spec, size=96)


# ---- open_clip


@pytest.mark.parametrize(
    ("name", "mean", "resize"),
    [
        ("ViT-B-16-SigLIP2", (0.5, 0.5, 0.5), "squash"),  # one tag
        ("ViT-B-16-SigLIP2/webli", (0.5, 0.5, 0.5), "squash"),
        ("ViT-B-32", OPENAI_MEAN, "crop"),  # tags that agree
        ("ViT-L-14/laion2b_s32b_b82k", (0.5, 0.5, 0.5), "crop"),
        ("ViT-S-32", OPENAI_MEAN, "crop"),  # no tag
    ],
)
def test_a_file_without_a_tag_is_preprocessed_as_the_tags_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mean: tuple[float, ...], resize: str
) -> None:
    weights = save_state({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    preprocessing = build(f"open_clip:{name}@{weights}", monkeypatch).preprocessing
    assert (preprocessing["mean"], preprocessing["resize"]) == (mean, resize)


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-H-14-quickgelu"])
def test_a_tag_is_asked_for_where_the_tags_disagree(tmp_path: Path, name: str) -> None:
    weights = save_state({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    message = refusal(f"open_clip:{name}@{weights}")
    assert f"open_clip:{name}/TAG@FILE" in message
    assert all(tag in message for tag in open_clip.list_pretrained_tags_by_model(name))


# ---- timm


@pytest.mark.parametrize(
    ("architecture", "error"),
    [("test_vit", RuntimeError), ("test_convnext", KeyError), ("test_vit", AttributeError)],
)
def test_weights_that_cannot_be_converted_are_refused_naming_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, error: type[Exception]
) -> None:
    def convert(state: dict[str, Any], _: Any) -> Any:
        state.clear()
        raise error("stage.0")

    weights = save_timm(tmp_path / "resnet.safetensors", "test_resnet")
    module = timm.models.convnext if architecture == "test_convnext" else timm.models.vision_transformer
    monkeypatch.setattr(module, "checkpoint_filter_fn", convert)
    assert "lacks tensor" in refusal(f"timm:{architecture}@{weights}")


def test_weights_of_another_convnext_and_beit_are_refused_naming_a_tensor(tmp_path: Path) -> None:
    resnet = save_timm(tmp_path / "resnet.safetensors", "resnet18")
    assert "lacks tensor" in refusal(f"timm:convnext_atto@{resnet}")
    plain = save_timm(tmp_path / "vit.safetensors", "vit_tiny_patch16_224")
    for architecture in ("vit_small_patch14_reg4_dinov2", "beit_base_patch16_224"):
        assert "tensor" in refusal(f"timm:{architecture}@{plain}")


@pytest.mark.parametrize("architecture", ["levit_128s", "efficientvit_m0", "repvit_m0_9", "shvit_s1", "caformer_s18"])
def test_the_whole_classifier_of_a_timm_model_loads(tmp_path: Path, architecture: str) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(architecture).state_dict()
    for key, value in whole.items():  # norms of zero or one would leave the rows nearly alike
        if key.endswith("weight") and value.ndim == 1:
            value.uniform_(0.5, 1.5)
    weights = save_state(whole, tmp_path / "weights.safetensors")
    model = timm.create_model(architecture, num_classes=0).eval()
    model.load_state_dict({key: value for key, value in whole.items() if key in model.state_dict()})
    config = timm.data.resolve_model_data_config(model)
    assert_rows(f"timm:{architecture}@{weights}", own_rows(model, timm.data.create_transform(**config)))


@pytest.mark.parametrize("architecture", ["levit_128s", "efficientvit_m0"])
def test_a_foreign_tensor_beside_the_whole_classifier_is_refused(tmp_path: Path, architecture: str) -> None:
    whole = timm.create_model(architecture).state_dict()
    foreign = save_state(whole | {"head.bn.foreign": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    assert "unknown tensor head.bn.foreign" in refusal(f"timm:{architecture}@{foreign}")


# ---- sizes that only the forward pass refuses


def test_a_size_that_only_the_forward_pass_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    squeezenet = save_torchvision(tmp_path / "squeezenet.safetensors")
    assert "takes no input of 8 × 8 pixels (" in refusal(f"torchvision:squeezenet1_1@{squeezenet}", size=8)
    weights = save_timm(tmp_path / "dinov3.safetensors", "vit_small_patch16_dinov3")
    message = refusal(f"timm:vit_small_patch16_dinov3@{weights}", size=225)
    assert "vit_small_patch16_dinov3: takes no input of 225 × 225 pixels (" in message


def failing(error: Exception, after: int = 0) -> LoadedModel:
    """A network whose forward passes fail after so many."""
    left = iter(range(after))

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if next(left, None) is None:
            raise error
        return pixels.flatten(1)

    own = Preprocessing((4, 6), "squash", (4, 6), "bicubic", (0.5,) * 3, (0.5,) * 3)
    return network_model(torch.nn.Identity(), encode, own, "net", Path(__file__), "cpu", "fp32")


BATCH = np.zeros((1, 3, 4, 6), np.float32)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, ValueError])
def test_the_first_pass_names_height_and_width(kind: type[Exception]) -> None:
    with pytest.raises(FinerRankError, match=r"^net: takes no input of 4 × 6 pixels \(mismatch\); .*--size"):
        failing(kind("mismatch\nand more")).forward(BATCH)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
        MemoryError(),
        RuntimeError("\"op\" not implemented for 'BFloat16'"),
        KeyError("a fault of the network"),
    ],
    ids=str,
)
def test_what_is_no_fault_of_the_size_is_seen_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        failing(error).forward(BATCH)
    assert caught.value is error


def test_a_size_that_went_through_is_not_blamed() -> None:
    model = failing(RuntimeError("the network broke"), after=1)
    model.forward(BATCH)
    with pytest.raises(RuntimeError, match="the network broke"):
        model.forward(BATCH)


# ---- tensors of other kinds


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["sparse", "meta", "quantised"])
@pytest.mark.parametrize("wrap", [False, True])
def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path: Path, kind: str, wrap: bool) -> None:
    state: dict[str, Any] = load_file(save_timm(tmp_path / "vit.safetensors"))
    dense = state["norm.weight"]
    state["norm.weight"] = {
        "sparse": dense.to_sparse,
        "meta": lambda: dense.to("meta"),
        "quantised": lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    }[kind]()
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": state} if wrap else state, weights)
    message = refusal(f"timm:test_vit@{weights}")
    assert f"{weights}: tensor norm.weight is " in message
    assert kind in message
