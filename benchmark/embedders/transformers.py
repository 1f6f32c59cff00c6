"""Image encoders of transformers: `transformers:hf-hub:OWNER/NAME[@REVISION]`, `transformers:local-dir:FOLDER`.

Those of `KINDS`. Weights are read here, as tensors alone, and handed to the library, which renames them to fit its
version and places them; positions are interpolated as it does it. No code of a repository is ever run.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, network_model
from benchmark.embedders.image_processors import described_preprocessing, library, read_json
from benchmark.embedders.weights import read_state_dict
from galleries.downloads import first_line, hub_file
from galleries.errors import FinerRankError
from galleries.model_folders import WEIGHTS, ModelFolder
from galleries.segmentation import quiet

if TYPE_CHECKING:
    import torch

PACKAGES = ("transformers", "torch")
LOCAL_FOLDER = "transformers:local-dir:FOLDER, where FOLDER holds what hf download OWNER/NAME fetches"
PROCESSOR = "preprocessor_config.json"
TOKENIZER = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"),
)
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
HEADS = ("classifier.", "pooler.", "decoder.")
"""Of other uses of the same network: what begins so, at any depth, is dropped."""


@dataclass(frozen=True)
class Kind:
    """Models that are built and read out in one way.

    Attributes:
        model, processor: classes of the library; the processor where the folder's configuration names none.
        output: `cls` is position 0 after the last normalisation; `projected` is that in the space of the texts;
            `pooled` is the output of an attention pooling.
        interpolates: takes inputs of another size only when told to.
        options: of the model's class.
    """

    model: str
    processor: str
    output: Literal["cls", "projected", "pooled"] = "cls"
    interpolates: bool = False
    options: tuple[tuple[str, Any], ...] = ()


KINDS: Mapping[str, Kind] = {
    "clip": Kind("CLIPModel", "CLIPImageProcessor", "projected", True),
    "clip_vision_model": Kind("CLIPVisionModelWithProjection", "CLIPImageProcessor", "projected", True),
    "dinov2": Kind("Dinov2Model", "BitImageProcessor"),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", "BitImageProcessor"),
    "dinov3_vit": Kind("DINOv3ViTModel", "DINOv3ViTImageProcessor"),
    "siglip": Kind("SiglipModel", "SiglipImageProcessor", "pooled", True),
    "vit": Kind("ViTModel", "ViTImageProcessor", "cls", True, (("add_pooling_layer", False),)),
}
"""By the `model_type` of `config.json`."""


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """An image encoder, `[B, 3, H, W]` to `[B, D]`; with the text side of those that have one.

    Raises:
        FinerRankError: the library is not installed; no such repository, revision, folder or file; a model of another
            kind, or with code of its own; weights that are not exactly the model's; preprocessing of another kind.
    """
    folder, fetch = _folder(request)
    config = read_json(folder / "config.json")
    kind = _kind(folder / "config.json", config)
    preprocessing, read = _preprocessing(request, folder, kind)
    weights = ModelFolder(folder, "", config).weights
    if not weights:
        raise FinerRankError(f"{folder}: neither {' nor '.join(WEIGHTS)}, or not all parts; put the weights there")
    module = _built(kind, folder / "config.json", config, weights)
    whole = getattr(module, "vision_model", module)
    vision = partial(whole, interpolate_pos_encoding=True) if kind.interpolates else whole
    side = getattr(module.config, "vision_config", module.config).patch_size
    patch = (side, side) if isinstance(side, int) else tuple(side)
    if preprocessing.size[0] < patch[0] or preprocessing.size[1] < patch[1]:
        raise FinerRankError(f"{request.spec}: takes no input smaller than {patch[0]} × {patch[1]}; leave --size out")

    def encode(pixels: "torch.Tensor") -> "torch.Tensor":
        found = vision(pixels)
        row: torch.Tensor = found.last_hidden_state[:, 0] if kind.output == "cls" else found.pooler_output
        return module.visual_projection(row) if kind.output == "projected" else row

    def feature_map(pixels: "torch.Tensor") -> "torch.Tensor":
        height, width = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
        # The class and registers come first.
        tokens: torch.Tensor = vision(pixels).last_hidden_state[:, -height * width :]
        return tokens.reshape(len(pixels), height, width, -1)

    texts = _encode_texts(module, kind, folder, fetch, device) if hasattr(module, "text_model") else None
    own = (module, encode, preprocessing, folder / "config.json", weights, device, precision)
    loaded = network_model(*own, feature_map=feature_map, encode_texts=texts)
    return replace(loaded, files=(*loaded.files, *read))


def _folder(request: Request) -> tuple[Path, Callable[[str], Any]]:
    """The folder of the model's files, all of one revision, and what brings one more file there."""
    if request.weights:
        raise FinerRankError(f"{request.spec}: the folder holds its own weights; leave the second '@' out")
    if request.model.startswith("local-dir:"):
        folder = Path(request.model.removeprefix("local-dir:")).expanduser()
        if not folder.is_dir():
            raise FinerRankError(f"{folder}: no such folder; write {LOCAL_FOLDER}")
        return folder, lambda name: None
    if not request.model.startswith("hf-hub:"):
        raise FinerRankError(f"{request.spec}: write transformers:hf-hub:OWNER/NAME[@REVISION], or {LOCAL_FOLDER}")
    repository, _, revision = request.model.removeprefix("hf-hub:").partition("@")
    folder = hub_file(repository, ["config.json"], LOCAL_FOLDER, revision or None).parent
    if folder.parent.name == "snapshots":
        revision = folder.name  # a branch may move between two files

    def fetch(*names: str) -> Path:
        return hub_file(repository, names, LOCAL_FOLDER, revision or None)

    if request.preprocessing is None:
        fetch(PROCESSOR)
    weights = fetch(*(each for name in WEIGHTS for each in (name, f"{name}.index.json")))
    if weights.suffix == ".json":
        for part in _parts(weights):
            fetch(part)
    return folder, fetch


def _parts(index: Path) -> list[str]:
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict):
        raise FinerRankError(f"{index}: lists no weights (weight_map); fetch it again")
    return sorted({str(part) for part in parts.values()})


def _kind(path: Path, config: Mapping[str, Any]) -> Kind:
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        known = ", ".join(KINDS)
        raise FinerRankError(f"{path}: model_type {config.get('model_type')!r} is not supported; those are {known}")
    if "auto_map" in config:
        raise FinerRankError(f"{path}: comes with code of its own (auto_map), which is never run; use another model")
    if "quantization_config" in config:
        raise FinerRankError(f"{path}: its weights are quantised (quantization_config); use those that are not")
    return kind


def _built(kind: Kind, path: Path, config: Mapping[str, Any], weights: Sequence[Path]) -> Any:
    """The network with exactly its weights, in float32. The library would fill what they lack with noise, and warn."""
    import torch

    state: dict[str, torch.Tensor] = {}
    for file in weights:
        state.update(read_state_dict(file))
    model = getattr(library(), kind.model, None)
    if model is None:
        raise FinerRankError(f"{path}: transformers {library().__version__} has no {kind.model}; pip install -U it")
    try:
        with quiet():
            described = model.config_class.from_dict(dict(config))
            for part in "vision_config", "text_config":
                getattr(described, part, described).return_dict = True
            # The path is left out, so that the library looks at no other file of the folder, such as adapters.
            module, found = model.from_pretrained(
                None,
                config=described,
                state_dict=state,
                dtype=torch.float32,
                attn_implementation="eager",  # rows do not depend on the size of their batch
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **dict(kind.options),
            )
    except Exception as error:  # damaged configurations raise many kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise FinerRankError(f"{path}: describes no {kind.model} ({reason}); fetch it again") from None
    unknown = [key for key in found["unexpected_keys"] if not _is_of_a_head(key)]
    misshapen = [key for key, *_ in found["mismatched_keys"]]
    wrong = {"lacks": found["missing_keys"], "has an unknown": unknown, "has a misshapen": misshapen}
    for what, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            where = weights[0] if len(weights) == 1 else path.parent
            raise FinerRankError(f"{where}: {what} tensor {min(keys)}{more}; these are not weights of {kind.model}")
    return module


def _is_of_a_head(key: str) -> bool:
    # Older versions of the library also kept the numbers 0, 1, 2, … of positions.
    return any(f".{head}" in f".{key}" for head in HEADS) or key.endswith(".position_ids")


def _preprocessing(request: Request, folder: Path, kind: Kind) -> tuple[Preprocessing, tuple[Path, ...]]:
    """What pictures go through, and the file that says so if it is not the card."""
    path = folder / PROCESSOR
    processors = sorted({each.processor for each in KINDS.values()})
    own = request.preprocessing or described_preprocessing(path, kind.processor, processors)
    chosen = own.overridden(request.resize, request.size, request.interpolation)
    return chosen, () if request.preprocessing else (path,)


def _encode_texts(
    module: Any, kind: Kind, folder: Path, fetch: Callable[[str], Any], device: str
) -> Callable[[Sequence[str]], "torch.Tensor"]:
    @cache
    def tokenizer() -> Any:
        for name in TOKENIZER:  # no repository has them all
            with contextlib.suppress(FinerRankError):
                fetch(name)
        # Where there is no vocabulary, the library makes one up.
        if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
            either = ", ".join(" with ".join(names) for names in VOCABULARIES)
            raise FinerRankError(f"{folder}: no tokenizer there (none of {either}); texts need one")
        try:
            with quiet():
                return library().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # no files, damaged ones, or those of an unknown tokenizer
            raise FinerRankError(f"{folder}: no tokenizer there ({first_line(error)}); texts need one") from None

    def encode_texts(texts: Sequence[str]) -> "torch.Tensor":
        length = module.config.text_config.max_position_embeddings
        # To the full length, as SigLIP was trained; whether padding is masked is the tokenizer's to say.
        tokens = tokenizer()(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        given = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        row: torch.Tensor = module.text_model(**given).pooler_output
        return module.text_projection(row) if kind.output == "projected" else row

    return encode_texts
