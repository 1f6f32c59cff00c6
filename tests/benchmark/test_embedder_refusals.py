"""What is no embedder, cannot be had, or would run code is refused in one line that says what to do."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import save_clip, save_state, save_timm, save_timm_folder, save_torchvision
from safetensors.torch import load_file
from test_embedders import PICTURES, assert_rows, refusal

from benchmark.embedders import FAMILIES, load_embedder, published_spec
from benchmark.embedders.zoo import zoo
from galleries.errors import FinerRankError


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("vit") / "vit.safetensors")


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_torchvision(tmp_path_factory.mktemp("squeezenet") / "squeezenet.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("dinov22", "'dinov2' or"),
        ("megadescripter", "'megadescriptor' or"),
        ("time:vit_base_patch16_224", "family:model"),
        ("", "family:model"),
        ("tim:", "'timm:' is meant?"),
        ("timm:vit_base_patch16_225", "vit_base_patch16"),
        ("timm:", "timm"),
        ("timm:test_vit.no_such_tag", "test_vit"),
        ("open_clip:ViT-B-33/openai", "open_clip has no model 'ViT-B-33'"),
        ("open_clip:ViT-B-32", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/nobody", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu/openai"),
        ("open_clip:ViT-B-32-quickgelu/laion2b_s34b_b79k", "choose among openai"),
        ("open_clip:", "open_clip"),
        ("torchvision:squeezenet9", "list_models()"),
        ("torchvision:raft_small", "list_models()"),
        ("torchvision:", "list_models()"),
        ("classical:hog", "write classical:"),
    ],
)
def test_an_unknown_embedder_is_refused_with_a_hint(spec: str, hint: str) -> None:
    assert hint in refusal(spec)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"precision": "fp16"}, "fp32 or bf16"), ({"size": 4}, "8 to 4096"), ({"device": "cuda:9"}, "available: cpu")],
    ids=str,
)
def test_options_that_cannot_be_met_are_refused(vit: Path, options: dict[str, Any], expected: str) -> None:
    if "device" in options and torch.cuda.is_available():
        options = {"device": "mps"}
    with pytest.raises(FinerRankError, match=expected):
        load_embedder(f"timm:test_vit@{vit}", **options).embed(PICTURES[:1])


@pytest.mark.parametrize("spec", ["timm:test_vit", "torchvision:squeezenet1_1", "open_clip:ViT-S-32"])
def test_a_missing_weights_file_is_named(tmp_path: Path, spec: str) -> None:
    assert f"{tmp_path / 'gone.safetensors'}: no such weights file" in refusal(
        f"{spec}@{tmp_path / 'gone.safetensors'}"
    )


@pytest.mark.parametrize("family", ["timm", "open_clip"])
def test_a_missing_or_incomplete_folder_is_named(tmp_path: Path, family: str) -> None:
    (tmp_path / "empty").mkdir()
    for folder in tmp_path / "gone", tmp_path / "empty":
        assert str(folder) in refusal(f"{family}:local-dir:{folder}")


@pytest.mark.parametrize("name", ["open_clip_config.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_configuration_is_named(tmp_path: Path, name: str, content: str) -> None:
    is_clip = name.startswith("open_clip")
    folder = save_clip(tmp_path) if is_clip else save_timm_folder(tmp_path)
    (folder / name).write_text(content)
    assert str(folder) in refusal(f"{'open_clip' if is_clip else 'timm'}:local-dir:{folder}")


def test_weights_of_another_architecture_are_refused_naming_a_tensor(
    tmp_path: Path, vit: Path, squeezenet: Path
) -> None:
    assert "lacks tensor conv1" in refusal(f"timm:test_resnet@{vit}")
    assert "lacks tensor cls_token" in refusal(f"timm:test_vit@{squeezenet}")
    assert "lacks tensor features." in refusal(f"torchvision:squeezenet1_1@{vit}")
    misshapen = save_state(load_file(vit) | {"norm.weight": torch.ones(3)}, tmp_path / "misshapen.pth")
    assert "misshapen tensor norm.weight" in refusal(f"timm:test_vit@{misshapen}")
    clip = save_clip(tmp_path / "clip")
    (clip / "open_clip_model.safetensors").write_bytes(vit.read_bytes())
    assert "positional_embedding" in refusal(f"open_clip:local-dir:{clip}")


def test_a_size_that_a_model_cannot_take_is_refused(vit: Path) -> None:
    for spec in f"timm:test_vit@{vit}", "classical:":
        assert "size" in refusal(spec, size=8)


def test_a_file_named_beside_an_open_clip_folder_is_used_or_refused(tmp_path: Path, clip: Path) -> None:
    other = save_clip(tmp_path / "other", seed=1)
    spec = f"open_clip:local-dir:{clip}@{other / 'open_clip_model.safetensors'}"
    try:
        rows = load_embedder(spec, device="cpu").embed(PICTURES)
    except FinerRankError:
        return
    assert_rows(f"open_clip:local-dir:{other}", rows)


class Trap:
    """Pickled, it makes a file as soon as it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.mark), os.O_CREAT)


@pytest.mark.parametrize("family", ["timm", "torchvision", "open_clip", "open_clip_folder"])
@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_code_in_a_weights_file_is_refused_and_never_run(tmp_path: Path, family: str, container: str) -> None:
    mark = tmp_path / "executed"
    content = {"state_dict": Trap(mark)}
    folder = save_clip(tmp_path / "clip", ending="bin")
    weights = folder / "open_clip_pytorch_model.bin" if family == "open_clip_folder" else tmp_path / "weights.pth"
    if container == "torch":
        torch.save(content, weights)
    else:
        weights.write_bytes(pickle.dumps(content))
    spec = {
        "timm": f"timm:test_vit@{weights}",
        "torchvision": f"torchvision:squeezenet1_1@{weights}",
        "open_clip": f"open_clip:ViT-S-32@{weights}",
        "open_clip_folder": f"open_clip:local-dir:{folder}",
    }[family]
    assert str(weights) in refusal(spec)
    assert not mark.exists()
    torch.load(weights, weights_only=False) if container == "torch" else pickle.loads(weights.read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not weights at all", id="text"),
        pytest.param(b"PK\x03\x04 cut short", id="cut zip"),
        pytest.param(b"\x80\x04.", id="pickle of another protocol"),
        pytest.param(b"\x80\x02e.", id="pickle that pops too often"),
        pytest.param(b"\x80\x02h\xf6.", id="pickle that looks up nothing"),
        pytest.param(b"\x80\x02X\x01.", id="pickle of a cut string"),
    ],
)
def test_a_damaged_weights_file_is_named(tmp_path: Path, ending: str, content: bytes) -> None:
    weights = tmp_path / f"weights{ending}"
    weights.write_bytes(content)
    assert str(weights) in refusal(f"timm:test_vit@{weights}")


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_truncated_weights_file_is_named(tmp_path: Path, vit: Path, ending: str) -> None:
    weights = tmp_path / f"weights{ending}"
    torch.save(load_file(vit), weights) if ending == ".pth" else weights.write_bytes(vit.read_bytes())
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert str(weights) in refusal(f"timm:test_vit@{weights}")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {3: torch.zeros(1)}, torch.zeros(2)], ids=repr)
def test_a_torch_file_that_holds_something_else_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in refusal(f"timm:test_vit@{tmp_path / 'weights.pth'}")


@pytest.mark.parametrize(
    ("spec", "what", "instead"),
    [
        ("dino", "huggingface.co/timm/vit_base_patch16_224.dino", "dino@FILE"),
        ("clip", "huggingface.co/timm/vit_base_patch32_clip_224.openai", "clip@FILE"),
        ("timm:hf-hub:nobody/nothing@v1", "huggingface.co/nobody/nothing", "timm:local-dir:FOLDER"),
        ("open_clip:hf-hub:nobody/nothing", "huggingface.co/nobody/nothing", "open_clip:local-dir:FOLDER"),
    ],
)
def test_a_hub_out_of_reach_is_said_with_its_cache_and_the_way_around(spec: str, what: str, instead: str) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    message = refusal(spec)
    for part in what, str(HF_HUB_CACHE), f"write {instead}":
        assert part in message


def test_a_server_out_of_reach_is_said_with_its_cache_and_the_way_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    message = refusal("torchvision:squeezenet1_1")
    assert "https://download.pytorch.org/models/squeezenet1_1" in message
    assert str(tmp_path / "hub" / "checkpoints" / "squeezenet1_1") in message
    assert message.endswith("torchvision:squeezenet1_1@FILE")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_weights_of_another_name_are_no_way_around_the_published_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_clip(tmp_path / "mirror" / "imageomics" / "bioclip-2", ending="bin")
    monkeypatch.setenv("FINER_RANK_MIRROR", str(tmp_path / "mirror"))
    assert f"{folder}/open_clip_pytorch_model.bin: not the file open_clip_model.safetensors" in refusal("bioclip2")


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ("dinov2", "dinov2"),
        ("dinov2@/home/me/a.pth", "dinov2@a.pth"),
        ("timm:hf-hub:o/n@main", "timm:hf-hub:o/n@main"),
        ("timm:hf-hub:o/n@main@/home/me/w.safetensors", "timm:hf-hub:o/n@main@w.safetensors"),
        ("timm:local-dir:/home/me/a@b", "timm:local-dir:a@b"),
        ("checkpoint:/home/me/mine", "checkpoint:mine"),
        ("ensemble:clip@/home/me/a.pth=2,timm:x@/home/me/b.pth", "ensemble:clip@a.pth=2,timm:x@b.pth"),
    ],
)
def test_no_folder_of_this_machine_is_published(spec: str, published: str) -> None:
    assert published_spec(spec) == published


@pytest.mark.parametrize("name", zoo())
def test_every_card_names_a_family_that_exists(name: str) -> None:
    assert zoo()[name].spec.split(":")[0] in FAMILIES
