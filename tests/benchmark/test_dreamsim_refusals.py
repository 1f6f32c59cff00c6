"""An archive of DreamSim that is damaged, of another kind or holds code is refused in one line that names it."""

import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dreamsim_archives import DEPTH, FILES, RANK, members, save_all_types, zipped
from dreamsim_checks import HUB, backbone, configure, copy_of, publish, refusal
from networks import save_state
from safetensors.torch import load_file

from benchmark.embedders import dreamsim


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight types in one folder, which nobody writes to."""
    return save_all_types(tmp_path_factory.mktemp("dreamsim"))


@pytest.fixture(scope="module")
def mirror(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(folder, tmp_path_factory.mktemp("mirror"))


class Trap:
    """Pickled, it makes a file as soon as it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.mark), os.O_CREAT)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("clip_vitb32", "clip_vitb32_pretrain.pth.tar"),
        ("dino_vitb16", "dino_vitb16_pretrain.pth"),
        ("clip_vitb32", "clip_vitb32_single_lora/adapter_model.bin"),
    ],
)
def test_code_in_an_archive_is_refused_and_never_run(
    folder: Path, tmp_path: Path, kind: str, name: str, as_zip: bool
) -> None:
    archive = copy_of(folder, kind, tmp_path / "copy")
    (archive / name).with_suffix(".safetensors").unlink(missing_ok=True)
    torch.save({"student": Trap(tmp_path / "executed")}, archive / name)
    if as_zip:
        names = [str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()]
        archive = zipped(archive, kind, tmp_path / "copy.zip", names)
    assert f"{archive / name}: holds Python objects, which could run code" in refusal(f"dreamsim:{kind}@{archive}")
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def clip_zip(mirror: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(mirror / "dreamsim_clip_vitb32_checkpoint.zip", tmp_path / "clip.zip"))


def test_a_damaged_zip_is_named(clip_zip: Path) -> None:
    content = clip_zip.read_bytes()
    clip_zip.write_bytes(content[: len(content) // 2])
    assert f"{clip_zip}: not a readable zip" in refusal(f"dreamsim:clip_vitb32@{clip_zip}")
    middle = len(content) // 3
    clip_zip.write_bytes(content[:middle] + bytes(1000) + content[middle + 1000 :])
    assert f"{clip_zip}/clip_vitb32_pretrain.pth.tar: damaged" in refusal(f"dreamsim:clip_vitb32@{clip_zip}")
    clip_zip.write_bytes(b"")
    assert f"{clip_zip}: not a readable zip" in refusal(f"dreamsim:clip_vitb32@{clip_zip}")
    clip_zip.unlink()
    assert f"{clip_zip}: no such weights file or folder" in refusal(f"dreamsim:clip_vitb32@{clip_zip}")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "clip_vitb32_single_lora/../../evil", "..\\evil"])
def test_a_zip_with_members_outside_of_it_is_refused(clip_zip: Path, name: str) -> None:
    with zipfile.ZipFile(clip_zip, "a") as archive:
        archive.writestr(name, "evil")
    assert f"{clip_zip}: its member {name} leads out of it" in refusal(f"dreamsim:clip_vitb32@{clip_zip}")


def test_a_member_that_unpacks_to_more_than_any_weights_is_refused(
    clip_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dreamsim, "MAX_BYTES", 1 << 20)
    message = refusal(f"dreamsim:clip_vitb32@{clip_zip}")
    assert f"{clip_zip}/clip_vitb32_pretrain.pth.tar" in message or "adapter_model.safetensors" in message
    assert "more than any weights of DreamSim" in message


def test_the_archive_of_another_type_is_refused_naming_it(mirror: Path, clip_zip: Path) -> None:
    lacks = "lacks open_clip_vitb32_single_lora/adapter_config.json; it is the archive of dreamsim:clip_vitb32"
    assert refusal(f"dreamsim:open_clip_vitb32@{clip_zip}") == f"{clip_zip}: {lacks}"
    assert "archive of dreamsim:dino_vitb16_patch" in refusal(
        f"dreamsim:dino_vitb16@{mirror / 'dreamsim_dino_vitb16_patch_checkpoint.zip'}"
    )


@pytest.mark.parametrize("name", [0, 1, 2], ids=["backbone", "configuration", "adapter"])
def test_an_archive_that_is_not_whole_is_refused_naming_what_it_lacks(folder: Path, tmp_path: Path, name: int) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    missing = members("clip_vitb32")[name]
    (copied / missing).unlink()
    assert f"{copied}: lacks {missing}" in refusal(f"dreamsim:clip_vitb32@{copied}")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r": 8}, "blocks.0.attn.qkv.lora_B.weight is [384, 4], not the [384, 8]"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
        ({"target_modules": ["qkv", "proj"]}, "target_modules names 'proj'"),
        ({"target_modules": 3}, "adapter_config.json: no adapter of DreamSim"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"alpha_pattern": {"qkv": 3}}, "alpha_pattern is {'qkv': 3}"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
    ],
    ids=str,
)
def test_another_kind_of_adapter_is_refused_naming_the_key(
    folder: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    configure(copied, "clip_vitb32", **changes)
    message = refusal(f"dreamsim:clip_vitb32@{copied}")
    assert str(copied / "clip_vitb32_single_lora") in message
    assert named in message


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "[" * 100_000])
def test_a_damaged_configuration_is_named(folder: Path, tmp_path: Path, content: str) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    path = configure(copied, "clip_vitb32")
    path.write_text(content)
    assert f"{path}: no adapter of DreamSim" in refusal(f"dreamsim:clip_vitb32@{copied}")


def adapted(block: int, layer: str, matrix: str) -> str:
    return f"base_model.model.extractor_list.0.model.blocks.{block}.attn.{layer}.lora_{matrix}.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda key: None if key == adapted(7, "qkv", "A") else key, f"lacks tensor {adapted(7, 'qkv', 'A')}"),
        (lambda key: key.replace("qkv", "proj"), f"it has {adapted(0, 'proj', 'A')}"),
        (lambda key: key.replace("list.0", "list.1"), f"lacks tensor {adapted(0, 'qkv', 'B')}"),
    ],
    ids=["one missing", "of other layers", "of another backbone"],
)
def test_an_adapter_that_does_not_fit_is_refused_naming_a_tensor(
    folder: Path, tmp_path: Path, change: Callable[[str], str | None], named: str
) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    adapter = copied / "clip_vitb32_single_lora" / "adapter_model.safetensors"
    save_state({new: value for key, value in load_file(adapter).items() if (new := change(key))}, adapter)
    message = refusal(f"dreamsim:clip_vitb32@{copied}")
    assert message.startswith(f"{adapter}: ")
    assert named in message


def test_a_tensor_of_an_adapter_that_no_backbone_takes_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    adapter = copied / "clip_vitb32_single_lora" / "adapter_model.safetensors"
    for extra in adapted(DEPTH, "qkv", "A"), adapted(0, "proj", "A"):
        save_state(load_file(folder / adapter.relative_to(copied)) | {extra: torch.zeros(RANK, 128)}, adapter)
        assert f"{adapter}: has an unknown tensor {extra}" in refusal(f"dreamsim:clip_vitb32@{copied}")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"proj": None}, "tensor proj"),
        ({"proj": torch.zeros(64, 48)}, "tensor proj"),
        ({"cls_token": None}, "no Vision Transformer"),
        ({"pos_drop.bias": None}, "lacks tensor norm_pre.bias"),
        ({"pos_embed": torch.zeros(1, 197, 128)}, "misshapen tensor pos_embed"),
        ({"head.bias": torch.zeros(48)}, "unknown tensor head.bias"),
    ],
    ids=str,
)
def test_a_backbone_that_does_not_fit_is_refused_naming_a_tensor(
    folder: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], named: str
) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    state = {key: value for key, value in (backbone(folder, "clip_vitb32") | change).items() if value is not None}
    path = copied / FILES["clip_vitb32"]
    torch.save({"state_dict": state}, path)
    message = refusal(f"dreamsim:clip_vitb32@{copied}")
    assert message.startswith(f"{path}: ")
    assert named in message


@pytest.mark.parametrize("model", ["", "dino_vits16", "ensemble_patch"])
def test_an_unknown_type_is_refused_with_those_that_there_are(model: str) -> None:
    assert "choose among ensemble, dino_vitb16, clip_vitb32" in refusal(f"dreamsim:{model}")


def test_weights_of_metas_out_of_reach_are_said_with_the_way_around(folder: Path, tmp_path: Path) -> None:
    message = refusal(f"dreamsim:dinov2_vitb14@{copy_of(folder, 'dinov2_vitb14', tmp_path / 'copy')}")
    assert f"https://huggingface.co/{HUB['dinov2_vitb14']}" in message
    assert (
        "write dreamsim:dinov2_vitb14@FOLDER, the unpacked zip, with dinov2_vitb14_pretrain.pth put into it" in message
    )
