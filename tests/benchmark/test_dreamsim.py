"""DreamSim with small random networks, against a transformer written out here, and the owners' own package."""

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from dreamsim_archives import ADAPTERS, DEPTH, RANK, adapter_config, save_all_types
from dreamsim_checks import HUB, PICTURES, backbone, configure, copy_of, publish, refusal
from networks import save_state
from PIL import Image
from pytest import approx
from safetensors.torch import load_file

from benchmark.embedders import dreamsim, load_embedder
from benchmark.embedders.base import unit_rows
from benchmark.embedders.zoo import zoo

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
    return publish(folder, tmp_path_factory.mktemp("mirror"))


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


# ---- the owners' package itself


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The owners' package (0.2.1) with ViTs as small as ours, and no torch.hub."""
    import dreamsim as module
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
