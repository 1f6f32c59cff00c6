"""Encoders of transformers with random weights embed, read files and prepare pixels as the library itself does."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from networks import colours, save_state
from PIL import Image
from safetensors.torch import load_file
from transformers_models import (
    PICTURES,
    PROCESSORS,
    TEXTS,
    edit,
    embedder,
    library_model,
    library_pixels,
    library_rows,
    refusal,
    refused,
    save,
    saved_once,
    unit,
)

from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing
from benchmark.embedders.transformers import load
from galleries.errors import FinerRankError
from galleries.segmentation import quiet

SIZES = [(400, 300), (31, 200), (1, 1), (300, 401), (64, 64), (5, 3), (97, 61), (62, 97), (3, 90)]


@pytest.fixture(scope="module", params=list(PROCESSORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return saved_once(tmp_path_factory.mktemp("models"))


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    """A folder of which a test may spoil anything."""
    return save(tmp_path / "dinov2", "dinov2")


# ---- the numbers are the library's own


def test_every_kind_embeds_as_the_library_itself(kind: str, folders: Callable[[str], Path]) -> None:
    folder = folders(kind)
    rows = embedder(folder).embed(PICTURES)
    if kind == "dinov3_vit":  # its processor scales in floats: see below
        pixels = torch.from_numpy(np.stack([embedder(folder).model.preprocess(picture) for picture in PICTURES]))
    else:
        pixels = torch.stack([library_pixels(folder, picture) for picture in PICTURES])
    assert np.abs(rows - library_rows(folder, pixels)).max() <= 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_an_input_of_another_size_is_what_the_library_itself_makes_of_it(
    kind: str, folders: Callable[[str], Path]
) -> None:
    for size in 56, 19:
        found = embedder(folders(kind), size=size, resize="squash")
        pixels = torch.from_numpy(np.stack([found.model.preprocess(picture) for picture in PICTURES]))
        assert pixels.shape == (4, 3, size, size)
        assert np.abs(found.embed(PICTURES) - library_rows(folders(kind), pixels)).max() <= 1e-5


def test_dinov2_shrinks_its_positions_as_the_library_does_and_timm_does_not(folders: Callable[[str], Path]) -> None:
    # The point of the family: at 224 pixels DINOv2 is another network in transformers than in timm.
    model = library_model(folders("dinov2"))
    grid = model.embeddings.position_embeddings[:, 1:].reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
    with torch.inference_mode():
        own = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 17, 32), 32, 32)[:, 1:]
        timms = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
        plain = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", antialias=False)
    assert torch.allclose(own.reshape(1, 4, 4, -1).permute(0, 3, 1, 2), plain, atol=1e-6)
    assert (timms - plain).abs().max() > 0.01


def test_an_embedding_does_not_depend_on_its_batch(kind: str, folders: Callable[[str], Path]) -> None:
    found = embedder(folders(kind))
    many = [colours(seed) for seed in range(9)]
    together = found.embed(many, batch_size=9)
    for size in 1, 2, 4:
        assert np.abs(found.embed(many, batch_size=size) - together).max() <= 1e-6


def test_a_feature_map_holds_the_patches_where_they_lie(kind: str, folders: Callable[[str], Path]) -> None:
    model = embedder(folders(kind), size=32, resize="squash").model
    assert model.feature_map is not None
    batch = np.stack([model.preprocess(picture) for picture in PICTURES])
    features = model.feature_map(batch)
    assert features.shape == (4, 4, 4, 32)
    own = library_model(folders(kind))
    with torch.inference_mode():
        vision = getattr(own, "vision_model", own)
        tokens = vision(torch.from_numpy(batch)).last_hidden_state
    first = {"siglip": 0, "dinov2_with_registers": 5, "dinov3_vit": 5}.get(kind, 1)
    assert tokens.shape[1] == first + 16
    assert np.abs(features[:, 1, 2] - tokens[:, first + 4 + 2].numpy()).max() <= 1e-5


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_are_embedded_as_by_the_library(name: str, folders: Callable[[str], Path]) -> None:
    folder = folders(name)
    rows = embedder(folder).embed_texts(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if name == "siglip" else True
    tokens = tokenizer(TEXTS, padding=padding, truncation=True, max_length=12, return_tensors="pt")
    with torch.inference_mode():
        expected = unit(library_model(folder).get_text_features(**tokens).pooler_output)
    assert np.abs(rows - expected).max() <= 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert np.abs(embedder(folder).embed_texts(TEXTS[1:2]) - rows[1]).max() <= 1e-6
    assert embedder(folder).embed(PICTURES).shape[1] == rows.shape[1]


def test_an_encoder_without_texts_says_so(folders: Callable[[str], Path]) -> None:
    with pytest.raises(FinerRankError, match="no text side"):
        embedder(folders("dinov2")).embed_texts(["a dog"])


def test_a_text_side_without_its_tokenizer_is_said(tmp_path: Path) -> None:
    folder = save(tmp_path, "clip")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(FinerRankError, match="no tokenizer there"):
        embedder(folder).embed_texts(["a dog"])
    assert embedder(folder).embed(PICTURES).shape == (4, 16)


# ---- files


def test_a_torch_file_and_files_in_parts_give_the_same_rows(dinov2: Path, tmp_path: Path) -> None:
    expected = embedder(dinov2).embed(PICTURES)
    state = load_file(dinov2 / "model.safetensors")
    (dinov2 / "model.safetensors").rename(tmp_path / "model.safetensors")
    save_state(state, dinov2 / "pytorch_model.bin")
    assert (embedder(dinov2).embed(PICTURES) == expected).all()
    (dinov2 / "pytorch_model.bin").unlink()
    with quiet():
        transformers.Dinov2Model.from_pretrained(None, config=library_config(dinov2), state_dict=state).save_pretrained(
            dinov2, max_shard_size="40KB"
        )
    parts = sorted(dinov2.glob("model-*.safetensors"))
    assert len(parts) > 1
    found = embedder(dinov2)
    assert (found.embed(PICTURES) == expected).all()
    assert set(parts) <= set(found.model.files)
    parts[0].unlink()
    assert "or not all parts" in refusal(dinov2)


def library_config(folder: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(folder)


def test_a_classifier_of_the_same_network_gives_the_rows_of_the_network(tmp_path: Path) -> None:
    for name, classifier in ("vit", "ViTForImageClassification"), ("dinov2", "Dinov2ForImageClassification"):
        folder = save(tmp_path / name, name)
        expected = embedder(folder).embed(PICTURES)
        state = load_file(folder / "model.safetensors")
        dressed = {f"{name}.{key}": value for key, value in state.items() if "pooler" not in key}
        head = {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)}
        save_state(dressed | head, folder / "model.safetensors")
        edit(folder / "config.json", architectures=[classifier])
        assert (embedder(folder).embed(PICTURES) == expected).all()


def test_a_file_of_an_older_version_of_the_library_gives_the_same_rows(tmp_path: Path) -> None:
    folder = save(tmp_path, "clip")
    expected = embedder(folder).embed(PICTURES)
    state = load_file(folder / "model.safetensors")
    positions = {f"{side}_model.embeddings.position_ids": torch.arange(12)[None] for side in ("text", "vision")}
    save_state(state | positions, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for part in "text_config", "vision_config":
        config[part] |= {"torch_dtype": "float16", "_attn_implementation": "somebody/kernel", "return_dict": False}
    config |= {"dtype": ..., "torch_dtype": "bfloat16", "_attn_implementation": "somebody/kernel", "return_dict": False}
    edit(folder / "config.json", **config)
    assert (embedder(folder).embed(PICTURES) == expected).all()
    assert (folder / "config.json").read_text().count("somebody") == 3


def test_weights_of_16_bits_are_computed_with_in_32(dinov2: Path) -> None:
    state = load_file(dinov2 / "model.safetensors")
    halves = {key: value.to(torch.bfloat16) for key, value in state.items()}
    save_state(halves, dinov2 / "model.safetensors")
    found = embedder(dinov2)
    assert {tensor.dtype for tensor in found.model.module.state_dict().values()} == {torch.float32}
    rows = found.embed(PICTURES)
    save_state({key: value.float() for key, value in halves.items()}, dinov2 / "model.safetensors")
    assert (embedder(dinov2).embed(PICTURES) == rows).all()


def put_into_cache(cache: Path, repository: str, folder: Path, commit: str) -> Path:
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return snapshot


def test_the_revision_that_is_named_reaches_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    old, new = (save(tmp_path / f"seed{seed}", "clip", seed) for seed in (0, 1))
    commits = ["0123456789" * 4, "abcdef0123" * 4]
    for folder, commit in zip((old, new), commits, strict=True):
        put_into_cache(tmp_path / "cache", "me/net", folder, commit)
    for spec, folder in (
        (f"me/net@{commits[0]}", old),
        (f"me/net@{commits[1]}", new),
        ("me/net", new),
        ("me/net@main", new),
    ):
        found = load_embedder(f"transformers:hf-hub:{spec}", device="cpu")
        assert (found.embed(PICTURES) == embedder(folder).embed(PICTURES)).all()
        assert (found.embed_texts(TEXTS) == embedder(folder).embed_texts(TEXTS)).all()
        assert found.fingerprint == embedder(folder).fingerprint
    assert "huggingface.co/me/net at v9: not cached" in refused("transformers:hf-hub:me/net@v9")


def test_every_file_is_asked_for_at_the_commit_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "snapshots" / ("0123456789" * 4), "clip")
    asked: list[tuple[str, str | None]] = []

    def hub_file(repository: str, names: Sequence[str], instead: str, revision: str | None = None) -> Path:
        assert (repository, instead[:26]) == ("me/net", "transformers:local-dir:FOL")
        asked.append((names[0], revision))
        found = [folder / name for name in names if (folder / name).is_file()]
        if revision == "v0" or not found:
            raise FinerRankError(f"revision {revision} is gone from there")
        return found[0]

    monkeypatch.setattr("benchmark.embedders.transformers.hub_file", hub_file)
    load_embedder("transformers:hf-hub:me/net@v1", device="cpu").embed_texts(TEXTS)  # a branch, which may move
    assert asked[0] == ("config.json", "v1")
    assert {revision for _, revision in asked[1:]} == {folder.name}
    wanted = {"preprocessor_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted <= {name for name, _ in asked}
    assert refused("transformers:hf-hub:me/net@v0") == "revision v0 is gone from there"


def test_a_mirror_stands_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "mirror" / "me" / "net", "siglip")
    monkeypatch.setenv("FINER_RANK_MIRROR", str(tmp_path / "mirror"))
    found = load_embedder("transformers:hf-hub:me/net@v1", device="cpu")
    assert (found.embed(PICTURES) == embedder(folder).embed(PICTURES)).all()
    assert found.embed_texts(TEXTS).shape == (4, 32)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json of https://huggingface.co/me/net" in refused("transformers:hf-hub:me/net@v1")


def test_files_edited_in_place_change_a_remembered_fingerprint(dinov2: Path, tmp_path: Path) -> None:
    prints = [embedder(dinov2, memo=tmp_path / "memo").fingerprint]
    again = embedder(dinov2, memo=tmp_path / "memo")
    assert (again.fingerprint, "model" in vars(again)) == (prints[0], False)
    edit(dinov2 / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    prints.append(embedder(dinov2, memo=tmp_path / "memo").fingerprint)
    edit(dinov2 / "config.json", layer_norm_eps=1e-3)
    prints.append(embedder(dinov2, memo=tmp_path / "memo").fingerprint)
    assert len(set(prints)) == 3


# ---- pixels

CARDS: list[tuple[str, dict[str, Any]]] = [
    ("clip", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 33, "crop_size": 32, "resample": 3}),
    ("clip", {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 41}, "crop_size": 32}),
    ("clip", {"image_processor_type": "CLIPImageProcessor", "size": {"height": 40, "width": 36}, "crop_size": 31}),
    ("dinov2", {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 31}),
    ("dinov2", {"size": {"shortest_edge": 40}, "crop_size": {"height": 20, "width": 31}, "resample": 1}),
    ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": 31, "image_mean": [0.1, 0.2, 0.3]}),
    ("vit", {"size": {"height": 31, "width": 18}, "resample": 0, "do_normalize": False}),
    ("vit", {"size": 32, "image_mean": 0.5, "image_std": 0.25, "rescale_factor": 0.00392156862745098}),
    ("siglip", {"image_processor_type": "SiglipImageProcessor", "size": {"height": 31, "width": 31}}),
]


@pytest.mark.parametrize(("name", "card"), CARDS)
def test_pixels_are_those_of_the_librarys_processor_of_pillow(
    tmp_path: Path, folders: Callable[[str], Path], name: str, card: dict[str, Any]
) -> None:
    for path in folders(name).iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(card))
    processor = getattr(transformers, PROCESSORS[name][0]).from_dict(card)
    model = embedder(tmp_path).model
    for size in SIZES:
        image = Image.effect_noise(size, 90).convert("RGB")
        expected = processor(np.asarray(image), input_data_format="channels_last", return_tensors="np")["pixel_values"]
        ours = model.preprocess(image)
        assert ours.shape == expected[0].shape
        assert np.abs(ours - expected[0]).max() <= 1e-6, size


def test_pixels_of_dinov3_are_within_a_grey_level_of_the_librarys_which_knows_no_pillow(
    folders: Callable[[str], Path],
) -> None:
    model = embedder(folders("dinov3_vit")).model
    for size in SIZES:
        image = Image.effect_noise(size, 90).convert("RGB")
        difference = model.preprocess(image) - library_pixels(folders("dinov3_vit"), image).numpy()
        assert np.abs(difference).max() <= 1.01 / 255 / 0.224, size


def test_a_card_with_preprocessing_of_its_own_needs_no_file_of_it(dinov2: Path) -> None:
    (dinov2 / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json: no such file" in refusal(dinov2)
    own = Preprocessing((24, 24), "squash", (24, 24), "bilinear", (0.1,) * 3, (0.2,) * 3)
    model = load(replace(embedder(dinov2).request, preprocessing=own), "cpu", "fp32")
    assert model.preprocessing["size"] == (24, 24)
    assert (model.preprocess(PICTURES[0]) == own(PICTURES[0])).all()
