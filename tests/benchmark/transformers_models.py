"""Small models of transformers with random weights as the hub keeps them, and what the library makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from networks import colours
from PIL import Image

from benchmark.embedders import load_embedder
from galleries.errors import FinerRankError
from galleries.segmentation import quiet

PICTURES = [colours(seed) for seed in range(4)]

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


def saved_once(folder: Path) -> Callable[[str], Path]:
    """A function that gives each kind's folder, to be read only."""
    saved: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in saved:
            saved[kind] = save(folder / kind, kind)
        return saved[kind]

    return folder_of
