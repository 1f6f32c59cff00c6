"""Encoders of transformers with random weights against the library itself; what is refused, and never run."""

import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from networks import colours, save_state
from PIL import Image
from safetensors.torch import load_file

from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing
from benchmark.embedders.transformers import load
from galleries.errors import FinerRankError
from galleries.segmentation import quiet

PICTURES = [colours(seed) for seed in range(4)]
SIZES = [(400, 300), (31, 200), (1, 1), (300, 401), (64, 64), (5, 3), (97, 61), (62, 97), (3, 90)]
TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
VISION = TINY | {"intermediate_size": 64, "image_size": 32}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = {
    "<|startoftext|>": 0,
    "<|endoftext|>": 1,
    **{f"{c}</w>": i for i, c in enumerate("adogct", 2)},
    **{c: i for i, c in enumerate("adogct", 8)},
}
TEXTS = ["a dog", "a cat", "a dog a dog a dog a dog a dog a dog a dog a dog a dog a dog", ""]
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def built(kind: str) -> Any:
    """A small model of that `model_type`."""
    text = TEXT | {"vocab_size": len(WORDS), "max_position_embeddings": 12, "projection_size": 32} | ENDS
    model, config = {
        "clip": ("CLIPModel", {"text_config": text, "vision_config": VISION, "projection_dim": 16}),
        "clip_vision_model": ("CLIPVisionModelWithProjection", VISION | {"projection_dim": 16}),
        "dinov2": ("Dinov2Model", TINY | {"image_size": 40, "mlp_ratio": 2}),
        "dinov2_with_registers": ("Dinov2WithRegistersModel", TINY | {"image_size": 40, "num_register_tokens": 4}),
        "dinov3_vit": ("DINOv3ViTModel", VISION | {"num_register_tokens": 4}),
        "siglip": ("SiglipModel", {"text_config": text, "vision_config": VISION}),
        "vit": ("ViTModel", VISION),
    }[kind]
    model_class = getattr(transformers, model)
    with quiet():
        module = model_class(model_class.config_class(**config))
    with torch.no_grad():
        for parameter in module.parameters():  # as built, biases are zero and positions hardly differ
            parameter.normal_(std=0.2 if parameter.ndim > 1 else 0.6)
    return module.eval()


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "clip_vision_model": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": 37}, "crop_size": 32}),
    "dinov2_with_registers": ("BitImageProcessorPil", {"size": {"shortest_edge": 40}, "crop_size": 24}),
    "dinov3_vit": ("DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
}


def save(folder: Path, kind: str, seed: int = 0) -> Path:
    """A folder as the hub keeps it."""
    torch.manual_seed(seed)
    name, settings = PROCESSORS[kind]
    with quiet():
        built(kind).save_pretrained(folder)
        getattr(transformers, name)(**settings).save_pretrained(folder)
        if kind in ("clip", "siglip"):
            tokenizer = transformers.CLIPTokenizer(vocab=WORDS, merges=[])
            tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(PROCESSORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in saved:
            saved[kind] = save(tmp_path_factory.mktemp("models") / kind, kind)
        return saved[kind]

    return folder


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    """A folder of which a test may spoil anything."""
    return save(tmp_path / "dinov2", "dinov2")


def unit(features: torch.Tensor) -> npt.NDArray[np.float32]:
    return torch.nn.functional.normalize(features.double(), dim=1).float().numpy()


def library_model(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    auto = transformers.AutoModel
    if config["model_type"] == "clip_vision_model":
        auto = transformers.CLIPVisionModelWithProjection
    with quiet():
        return auto.from_pretrained(folder).eval()


def library_pixels(folder: Path, image: Image.Image) -> torch.Tensor:
    """Of the processor that the library makes of the folder's file."""
    with quiet():
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        except ValueError:
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
    as_array = np.array(image)
    pixels: torch.Tensor = processor(as_array, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    return pixels[0]


def library_rows(folder: Path, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    """As users of the library take them."""
    model = library_model(folder)
    with torch.inference_mode():
        if hasattr(model, "get_image_features"):
            return unit(model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output)
        told = {"interpolate_pos_encoding": True} if model.config.model_type in ("vit", "clip_vision_model") else {}
        found = model(pixels, **told)
        return unit(found.image_embeds if "image_embeds" in found else found.last_hidden_state[:, 0])


def embedder(folder: Path, **options: Any) -> Any:
    return load_embedder(f"transformers:local-dir:{folder}", device="cpu", **options)


def refusal(folder: Path, **options: Any) -> str:
    return refused(f"transformers:local-dir:{folder}", **options)


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(FinerRankError) as caught:
        load_embedder(spec, device="cpu", **options).embed(PICTURES[:1])
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


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
    assert {tensor.dtype for tensor in found.model.tensors().values()} == {torch.float32}
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


def test_a_card_with_preprocessing_of_its_own_needs_no_file_of_it(dinov2: Path) -> None:
    (dinov2 / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json: no such file" in refusal(dinov2)
    own = Preprocessing((24, 24), "squash", (24, 24), "bilinear", (0.1,) * 3, (0.2,) * 3)
    model = load(replace(embedder(dinov2).request, preprocessing=own), "cpu", "fp32")
    assert model.preprocessing["size"] == (24, 24)
    assert (model.preprocess(PICTURES[0]) == own(PICTURES[0])).all()


def test_opencv_is_refused_where_it_would_not_scale_to_squares(dinov2: Path) -> None:
    pytest.importorskip("cv2")
    assert "--resize squash" in refusal(dinov2, interpolation="bilinear-opencv")
    assert embedder(dinov2, resize="squash", interpolation="bilinear-opencv").embed(PICTURES).shape == (4, 32)


# ---- refusals


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
