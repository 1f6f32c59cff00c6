"""DreamSim with small random networks, against a transformer written out here, and the owners' package where it is."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from dreamsim_archives import ADAPTERS, DEPTH, FILES, META_FILES, RANK, adapter_config, members, save_all_types, zipped
from networks import colours, save_state
from PIL import Image
from pytest import approx
from safetensors.torch import load_file

from benchmark.embedders import dreamsim, load_embedder
from benchmark.embedders.base import unit_rows
from benchmark.embedders.zoo import zoo
from galleries.errors import FinerRankError

PICTURES = [colours(seed) for seed in range(2)]
HUB = {"dino_vitb16": "timm/vit_base_patch16_224.dino", "dinov2_vitb14": "timm/vit_base_patch14_dinov2.lvd142m"}
DIMENSIONS = {"ensemble": 128 + 48 + 48, "clip_vitb32": 48, "open_clip_vitb32": 48}
DIMENSIONS |= {"dino_vitb16_patch": 256, "dinov2_vitb14_patch": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight types in one folder, which nobody writes to."""
    return save_all_types(tmp_path_factory.mktemp("dreamsim"))


def pixels() -> torch.Tensor:
    """`PICTURES` as the owners' package prepares them."""
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((224, 224), torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.ToTensor(),
        ]
    )
    return torch.stack([transform(picture) for picture in PICTURES])


# ---- the same network, written out


def backbone(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors of a backbone by DINO's names."""
    if name in META_FILES:
        return torch.load(folder / "checkpoints" / META_FILES[name])
    if name == "synclr_vitb16":
        state = torch.load(folder / FILES[name])["model"]
        return {key.removeprefix("module.visual."): value for key, value in state.items()}
    return torch.load(folder / FILES[name])["state_dict"]


def tokens(folder: Path, kind: str, number: int, images: torch.Tensor) -> torch.Tensor:
    """All tokens of one backbone, read out: `[B, 1 + h·w, C]`. The adapter stays beside the weights."""
    adapter_folder, names = ADAPTERS[kind]
    name, is_clip = names[number], "clip" in names[number]
    w = backbone(folder, name)
    lora = load_file(folder / adapter_folder / "adapter_model.safetensors")
    scale = adapter_config(adapter_folder)["lora_alpha"] / RANK
    means = (0.48145466, 0.4578275, 0.40821073) if is_clip else (0.485, 0.456, 0.406)
    deviations = (0.26862954, 0.26130258, 0.27577711) if is_clip else (0.229, 0.224, 0.225)

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + (1e-5 if is_clip else 1e-6)).sqrt()
        return scaled * w[f"{key}.weight"] + w[f"{key}.bias"]

    def linear(x: torch.Tensor, key: str) -> torch.Tensor:
        return x @ w[f"{key}.weight"].T + w[f"{key}.bias"]

    def activation(x: torch.Tensor) -> torch.Tensor:
        if name.startswith("clip"):
            return x * torch.sigmoid(1.702 * x)
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    x = torch.stack([(images[:, c] - means[c]) / deviations[c] for c in range(3)], dim=1)
    patch = w["patch_embed.proj.weight"].shape[-1]
    x = torch.nn.functional.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    side, width = x.shape[-1], x.shape[1]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1)
    positions = w["pos_embed"]
    if name == "dinov2_vitb14":  # Meta's code: 37 × 37 positions, sampled at steps of 37 / 16.1, without antialiasing
        grid = positions[0, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, scale_factor=[16.1 / 37, 16.1 / 37], mode="bicubic")
        assert grid.shape[2:] == (16, 16)
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, width)], dim=1)
    x = x + positions
    if is_clip:
        x = norm(x, "pos_drop")
    for i in range(DEPTH):
        key = f"base_model.model.extractor_list.{number}.model.blocks.{i}.attn.qkv.lora"
        given = norm(x, f"blocks.{i}.norm1")
        qkv = linear(given, f"blocks.{i}.attn.qkv")
        qkv = qkv + scale * (given @ lora[f"{key}_A.weight"].T @ lora[f"{key}_B.weight"].T)
        heads = width // 64
        q, k, v = (part.reshape(len(x), -1, heads, 64).transpose(1, 2) for part in qkv.split(width, dim=-1))
        mixed = ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + linear(mixed, f"blocks.{i}.attn.proj") * w.get(f"blocks.{i}.ls1.gamma", 1)
        hidden = activation(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2") * w.get(f"blocks.{i}.ls2.gamma", 1)
    assert x.shape[1] == 1 + side * side
    return norm(x, "norm") @ w["proj"] if is_clip else x


def expected_rows(folder: Path, kind: str) -> npt.NDArray[np.float32]:
    def centred(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / x.norm(dim=-1, keepdim=True)

    outputs = [tokens(folder, kind, i, pixels()) for i in range(len(ADAPTERS[kind][1]))]
    if kind.endswith("_patch"):
        (output,) = map(centred, outputs)
        row = torch.cat([output[:, 0], output[:, 1:].mean(1)], dim=-1)
        return (row / row.norm(dim=-1, keepdim=True)).numpy()
    return centred(torch.cat([output[:, 0] for output in outputs], dim=-1)).numpy()


@cache
def rows_of(spec: str, **options: Any) -> npt.NDArray[np.float32]:
    return load_embedder(spec, device="cpu", **options).embed(PICTURES)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_type_embeds_as_the_network_written_out(folder: Path, kind: str) -> None:
    rows, expected = rows_of(f"dreamsim:{kind}@{folder}"), expected_rows(folder, kind)
    assert rows.shape == (2, DIMENSIONS.get(kind, 128))
    assert np.abs(rows - expected).max() <= 1e-5
    assert np.linalg.norm(rows, axis=1) == approx(np.ones(2), abs=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


@pytest.mark.parametrize(("kind", "side"), [("ensemble", 14), ("clip_vitb32", 7), ("dinov2_vitb14_patch", 16)])
def test_the_feature_map_holds_the_patches_of_all_backbones(folder: Path, kind: str, side: int) -> None:
    model = load_embedder(f"dreamsim:{kind}@{folder}", device="cpu").model
    expected = torch.cat([tokens(folder, kind, i, pixels()) for i in range(len(ADAPTERS[kind][1]))], dim=-1)[:, 1:]
    assert model.feature_map is not None
    found = model.feature_map(np.stack([model.preprocess(picture) for picture in PICTURES]))
    assert found.shape == (2, side, side, expected.shape[-1])
    assert np.abs(found.reshape(expected.shape) - expected.numpy()).max() <= 1e-4


def test_bfloat16_comes_close_and_is_centred_in_float32(folder: Path) -> None:
    spec = f"dreamsim:clip_vitb32@{folder}"
    embedder = load_embedder(spec, device="cpu", precision="bf16")
    features = embedder.model.forward(np.stack([embedder.model.preprocess(picture) for picture in PICTURES]))
    assert np.abs(features.mean(axis=1)).max() <= 1e-6 * np.abs(features).max()
    assert 0 < np.abs(unit_rows(features) - rows_of(spec)).max() < 0.05


def test_pictures_are_squashed_to_224_pixels_and_not_normalised() -> None:
    y, x = np.mgrid[:300, :400]
    picture = np.stack([(3 * x + 5 * y) % 256, (x * x // 7 + y) % 256, (x + y * y // 11) % 256], -1).astype(np.uint8)
    found = dreamsim.OWN(Image.fromarray(picture))
    assert found.shape == (3, 224, 224)
    assert (found.mean(), found.std()) == approx((0.498334, 0.249982), abs=2e-6)
    assert (found[0, 0, 0], found[1, 100, 100]) == approx((2 / 255, 100 / 255), abs=1e-6)


def test_another_geometry_of_224_pixels_is_honoured_and_every_other_size_refused(folder: Path) -> None:
    spec = f"dreamsim:clip_vitb32@{folder}"
    assert (rows_of(spec, size=224) == rows_of(spec)).all()
    assert np.abs(rows_of(spec, resize="pad") - rows_of(spec)).max() > 1e-3
    assert np.abs(rows_of(spec, interpolation="nearest") - rows_of(spec)).max() > 1e-3
    assert "takes 224 × 224 pixels only; leave --size out" in refusal(spec, size=256)


# ---- archives


@pytest.fixture(scope="module")
def mirror(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owners' zips, and Meta's weights as the hub has them."""
    mirror = tmp_path_factory.mktemp("mirror")
    for kind in ADAPTERS:
        zipped(folder, kind, mirror / f"dreamsim_{kind}_checkpoint.zip")
    for name, repository in HUB.items():
        state = backbone(folder, name)
        state.pop("mask_token", None)
        save_state(state, mirror / repository / "model.safetensors")
    return mirror


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_is_published_embeds_as_the_unpacked_folder_does(
    folder: Path, mirror: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINER_RANK_MIRROR", str(mirror))
    embedder = load_embedder(f"dreamsim:{kind}", device="cpu")
    assert (embedder.embed(PICTURES) == rows_of(f"dreamsim:{kind}@{folder}")).all()
    meta = [mirror / HUB[name] / "model.safetensors" for name in ADAPTERS[kind][1] if name in HUB]
    assert embedder.model.files == (mirror / f"dreamsim_{kind}_checkpoint.zip", *meta)


def test_a_card_of_the_zoo_loads_what_it_publishes(folder: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_RANK_MIRROR", str(mirror))
    rows = load_embedder("dreamsim-clip", device="cpu").embed(PICTURES)
    assert (rows == rows_of(f"dreamsim:clip_vitb32@{folder}")).all()


def test_the_zoos_cards_say_what_the_family_does() -> None:
    cards = {card.spec: card for card in zoo().values() if card.spec.startswith("dreamsim:")}
    for name, kind in dreamsim.TYPES.items():
        card = cards[f"dreamsim:{name}"]
        assert card.preprocessing == dreamsim.OWN
        assert card.published is not None
        assert card.published.repository == f"{dreamsim.RELEASES}/{kind.release}-checkpoints"
        assert card.published.file == f"dreamsim_{name}_checkpoint.zip"
    assert zoo()["dino"].published is not None
    assert [zoo()[dreamsim.KINDS[name].card].published.repository for name in HUB] == [*HUB.values()]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["dino_vitbase16_pretrain.pth", "dino_vitb16_pretrain.pth", "model.safetensors"])
def test_metas_weights_are_found_beside_the_adapter_under_each_of_their_names(
    folder: Path, tmp_path: Path, name: str
) -> None:
    copied = copy_of(folder, "dino_vitb16", tmp_path / "copy")
    save_state(backbone(folder, "dino_vitb16"), copied / name)
    assert (rows_of(f"dreamsim:dino_vitb16@{copied}") == rows_of(f"dreamsim:dino_vitb16@{folder}")).all()


def test_an_adapter_saved_by_torch_gives_the_same_embedding(folder: Path, tmp_path: Path) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    adapter = copied / "clip_vitb32_single_lora" / "adapter_model.safetensors"
    torch.save(load_file(adapter), adapter.with_suffix(".bin"))
    adapter.unlink()
    assert (rows_of(f"dreamsim:clip_vitb32@{copied}") == rows_of(f"dreamsim:clip_vitb32@{folder}")).all()


def test_nothing_is_left_of_an_unpacked_zip(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(mirror.rglob("*"))
    load_embedder(f"dreamsim:clip_vitb32@{mirror / 'dreamsim_clip_vitb32_checkpoint.zip'}", device="cpu").embed(
        PICTURES
    )
    assert not list(tmp_path.iterdir())
    assert sorted(mirror.rglob("*")) == before


def test_the_configuration_of_an_adapter_is_part_of_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    copied = copy_of(folder, "clip_vitb32", tmp_path / "copy")
    before = load_embedder(f"dreamsim:clip_vitb32@{folder}", device="cpu").fingerprint
    assert load_embedder(f"dreamsim:clip_vitb32@{copied}", device="cpu").fingerprint == before
    configure(copied, "clip_vitb32", lora_alpha=9)
    assert load_embedder(f"dreamsim:clip_vitb32@{copied}", device="cpu").fingerprint != before


# ---- refusals


def refusal(spec: str, **options: Any) -> str:
    """The one line that says why this embedder cannot be had."""
    with pytest.raises(FinerRankError) as caught:
        load_embedder(spec, device="cpu", **options).embed(PICTURES[:1])
    message = str(caught.value)
    assert "\n" not in message
    assert "finer-rank-" not in message  # the temporary folder
    return message


def copy_of(folder: Path, kind: str, target: Path) -> Path:
    """The unpacked archive of one type, to be changed."""
    for name in members(kind):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    return target


def configure(folder: Path, kind: str, **changes: Any) -> Path:
    adapter = ADAPTERS[kind][0]
    path = folder / adapter / "adapter_config.json"
    path.write_text(json.dumps(adapter_config(adapter) | changes))
    return path


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


# ---- the owners' package itself


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The owners' package (0.2.1) with ViTs as small as ours, and no torch.hub."""
    module = pytest.importorskip("dreamsim", reason="not among our dependencies; pip install dreamsim==0.2.1")
    pytest.importorskip("peft", reason="which dreamsim needs")
    from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino, load_synclr_as_dino
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer

    def vit_base(patch_size: int, **options: Any) -> torch.nn.Module:
        width = backbone(folder, "dino_vitb16")["cls_token"].shape[-1]
        norm = partial(torch.nn.LayerNorm, eps=1e-6)
        return VisionTransformer(
            patch_size=patch_size, embed_dim=width, depth=DEPTH, num_heads=width // 64, qkv_bias=True, norm_layer=norm,
            **options,
        )  # fmt: skip

    def of_meta(repository: str, name: str) -> torch.nn.Module:
        state = backbone(folder, name)
        if name == "dino_vitb16":
            vit = vit_base(16)
        else:  # DINO's class has no scale of layers, which is as well multiplied into the layers themselves
            vit = vit_base(14, img_size=[518])
            state.pop("mask_token")
            for i in range(DEPTH):
                for scale, layer in ("ls1", "attn.proj"), ("ls2", "mlp.fc2"):
                    gamma = state.pop(f"blocks.{i}.{scale}.gamma")
                    state[f"blocks.{i}.{layer}.weight"] *= gamma[:, None]
                    state[f"blocks.{i}.{layer}.bias"] *= gamma
        vit.load_state_dict(state)
        return vit

    for loader in load_clip_as_dino, load_open_clip_as_dino, load_synclr_as_dino:
        monkeypatch.setattr(loader, "vit_base", vit_base)
    monkeypatch.setattr(torch.hub, "load", of_meta)
    monkeypatch.setattr(torch.hub, "set_dir", lambda path: None)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_type_embeds_as_the_owners_package(folder: Path, package: Any, kind: str) -> None:
    with_patches = kind.endswith("_patch")
    model, preprocess = package.dreamsim(
        device="cpu", cache_dir=str(folder), dreamsim_type=kind.removesuffix("_patch"), use_patch_model=with_patches
    )
    images = torch.cat([preprocess(picture) for picture in PICTURES])
    with torch.inference_mode():
        expected = model.embed(images)
        distance = model(images[:1], images[1:]).item()
    if with_patches:
        expected = torch.cat([expected[:, 0], expected[:, 1:].mean(1)], dim=-1)
        expected = expected / expected.norm(dim=-1, keepdim=True)
    rows = rows_of(f"dreamsim:{kind}@{folder}")
    assert np.abs(rows - expected.numpy()).max() <= 1e-5
    assert 1 - rows[0] @ rows[1] == approx(distance, abs=1e-5)
