"""What is no encoder of transformers, or would run code, is refused in one line and never run."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import save_state
from safetensors.torch import load_file
from transformers_models import PICTURES, TEXTS, edit, embedder, refusal, refused, save, saved_once


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return saved_once(tmp_path_factory.mktemp("models"))


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    """A folder of which a test may spoil anything."""
    return save(tmp_path / "dinov2", "dinov2")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"do_resize": False}, "do_resize is off"),
        ({"do_rescale": False, "do_resize": False}, "do_resize is off; do_rescale is off"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078"),
        ({"do_center_crop": False}, "size keeps the aspect ratio"),
        ({"resample": 5}, "resample is 5"),
        ({"do_pad": True}, "do_pad is on"),
        ({"size": {"shortest_edge": 20, "longest_edge": 40}}, "size is {"),
        ({"size": {"shortest_edge": 20}}, "crop_size (32, 32) does not fit into size (20, 20)"),
        (
            {"image_processor_type": "DonutImageProcessor"},
            "'DonutImageProcessor' is not supported; known processors: Bit",
        ),
        ({"auto_map": {"AutoImageProcessor": "code.Mine"}}, "code of its own"),
        ({"size": "large"}, "not usable"),
        ({"image_mean": [0.5]}, "not usable"),
        ({"crop_size": {"height": 3}}, "not usable"),
    ],
)
def test_preprocessing_of_another_kind_is_refused_by_name(dinov2: Path, change: dict[str, Any], expected: str) -> None:
    edit(dinov2 / "preprocessor_config.json", **change)
    message = refusal(dinov2)
    assert str(dinov2 / "preprocessor_config.json") in message
    assert expected in message


def test_opencv_is_refused_where_it_would_not_scale_to_squares(dinov2: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    assert "--resize squash" in refusal(dinov2, interpolation="bilinear-opencv")
    assert embedder(dinov2, resize="squash", interpolation="bilinear-opencv").embed(PICTURES).shape == (4, 32)


class Trap:
    """Pickled, it makes a file as soon as it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.mark), os.O_CREAT)


@pytest.mark.parametrize("container", ["torch", "pickle"])
def test_code_in_a_weights_file_is_refused_and_never_run(dinov2: Path, tmp_path: Path, container: str) -> None:
    (dinov2 / "model.safetensors").unlink()
    weights, mark = dinov2 / "pytorch_model.bin", tmp_path / "executed"
    if container == "torch":
        torch.save({"state_dict": Trap(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps({"state_dict": Trap(mark)}))
    assert str(weights) in refusal(dinov2)
    assert not mark.exists()
    torch.load(weights, weights_only=False) if container == "torch" else pickle.loads(weights.read_bytes())
    assert mark.exists()  # the trap works


def test_code_beside_the_weights_is_refused_and_never_run(tmp_path: Path) -> None:
    folder, mark = save(tmp_path / "clip", "clip"), tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Mine: pass\n")
    tokenizer = folder / "tokenizer_config.json"
    expected = embedder(folder).embed_texts(TEXTS)
    edit(tokenizer, auto_map={"AutoTokenizer": ["code.Mine", None]})
    assert (embedder(folder).embed_texts(TEXTS) == expected).all()
    edit(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "code.Mine"})
    assert "preprocessor_config.json: code of its own" in refusal(folder)
    edit(folder / "config.json", auto_map={"AutoModel": "code.Mine", "AutoConfig": "code.Mine"})
    assert "config.json: comes with code of its own (auto_map), which is never run" in refusal(folder)
    assert not mark.exists()


def test_adapters_beside_the_weights_are_not_looked_at(dinov2: Path) -> None:
    expected = embedder(dinov2).embed(PICTURES)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/else", "target_modules": ["query"]}
    (dinov2 / "adapter_config.json").write_text(json.dumps(adapter))
    edit(dinov2 / "config.json", transformers_weights="other.safetensors")
    assert (embedder(dinov2).embed(PICTURES) == expected).all()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "swin"}, "model_type 'swin' is not supported; those are clip, clip_vision_model, dinov2, "),
        ({"model_type": ...}, "model_type None is not supported"),
        ({"model_type": ["dinov2"]}, "is not supported"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"hidden_size": "wide"}, "describes no Dinov2Model"),
        ({"hidden_act": "nothing"}, "describes no Dinov2Model"),
        ({"num_attention_heads": 0}, "describes no Dinov2Model"),
    ],
)
def test_a_configuration_of_something_else_is_refused(dinov2: Path, change: dict[str, Any], expected: str) -> None:
    edit(dinov2 / "config.json", **change)
    message = refusal(dinov2)
    assert str(dinov2 / "config.json") in message
    assert expected in message


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_empty_or_cut_file_is_named(dinov2: Path, name: str) -> None:
    whole = (dinov2 / name).read_bytes()
    for content in whole[: len(whole) // 2], b"", b"[]", b"3":
        (dinov2 / name).write_bytes(content)
        assert str(dinov2 / name) in refusal(dinov2)
    (dinov2 / name).unlink()
    message = refusal(dinov2)
    assert str(dinov2) in message
    assert name in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("layernorm.bias"), "lacks tensor layernorm.bias;"),
        (lambda state: state.pop("embeddings.cls_token"), "lacks tensor embeddings.cls_token;"),
        (lambda state: state.update({"layernorm.bias": torch.ones(3)}), "has a misshapen tensor layernorm.bias;"),
        (
            lambda state: state.update({"encoder.layer.2.norm1.bias": torch.ones(32)}),
            "has an unknown tensor encoder.layer.2.norm1.bias;",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if ".layer.1." in key],
            "lacks tensor encoder.layer.1.attention",
        ),
        (lambda state: state.clear(), "lacks tensor"),
    ],
)
def test_weights_of_something_else_are_refused_naming_a_tensor(
    dinov2: Path, change: Callable[[dict[str, torch.Tensor]], Any], expected: str
) -> None:
    weights = dinov2 / "model.safetensors"
    state = load_file(weights)
    change(state)
    save_state(state, weights)
    message = refusal(dinov2)
    assert f"{weights}: {expected}" in message
    assert message.endswith("not weights of Dinov2Model")


def test_weights_of_another_network_are_refused(folders: Callable[[str], Path], dinov2: Path) -> None:
    for name in "vit", "clip", "dinov2_with_registers", "dinov3_vit":
        other = (folders(name) / "model.safetensors").read_bytes()
        (dinov2 / "model.safetensors").write_bytes(other)
        assert "not weights of Dinov2Model" in refusal(dinov2)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("transformers:", "write transformers:hf-hub:OWNER/NAME[@REVISION], or transformers:local-dir:FOLDER"),
        ("transformers:facebook/dinov2-base", "write transformers:hf-hub:OWNER/NAME"),
        ("transformers:local-dir:nowhere", "nowhere: no such folder"),
        ("transformers:hf-hub:nobody/nothing@v1", "huggingface.co/nobody/nothing at v1"),
        ("transformers:hf-hub:nobody/nothing@v1@x.pth", "leave the second '@' out"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(spec: str, expected: str) -> None:
    assert expected in refused(spec)


def test_an_input_smaller_than_a_patch_is_refused(dinov2: Path) -> None:
    assert embedder(dinov2, size=8).embed(PICTURES).shape == (4, 32)
    edit(dinov2 / "preprocessor_config.json", size={"shortest_edge": 9}, crop_size={"height": 9, "width": 7})
    assert "takes no input smaller than 8 × 8" in refusal(dinov2)


def test_without_the_library_its_extra_is_named(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders("dinov2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'finer-rank[transformers]'" in refusal(folder)
