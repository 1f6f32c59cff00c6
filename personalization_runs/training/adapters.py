"""Which part of a pipeline is trained: all of its network, LoRA beside it, keys and values, or vectors of a word."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from galleries.errors import FinerRankError
from personalization_runs.methods.base import Parameter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from personalization_runs.training.families import Family


class Adapter(ABC):
    """The trained part of a pipeline, one and the same for whoever is being trained or shown.

    `begin` and `put` replace all values of it: of who was there before, nothing stays.

    Attributes:
        trained: parameters, by their names in files.
        decay: of AdamW.
        changes_text: text has to be encoded anew at each step.
        metadata: of its files.
    """

    trained: "dict[str, torch.nn.Parameter]"
    decay: ClassVar[float] = 1e-4
    changes_text: ClassVar[bool] = False

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {"format": "pt"}

    @abstractmethod
    def begin(self, class_word: str, generator: "torch.Generator") -> None:
        """Values to start training from."""

    def ready_to_train(self) -> None:
        """Hold the trained values in float32: a step of training is smaller than half precision can tell."""
        import torch

        for parameter in self.trained.values():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.to(torch.float32)

    def stored(self, dtype: "torch.dtype") -> "dict[str, Tensor]":
        """The values that a file holds, where networks compute in `dtype`."""
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def put(self, tensors: "Mapping[str, Tensor]", where: object) -> None:
        """Take over the values of a file.

        Raises:
            FinerRankError: they are not those of this network.
        """
        import torch

        shapes = {name: parameter.shape for name, parameter in self.trained.items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
            raise FinerRankError(f"{where}: does not fit these weights; train it for them")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])


class Part(Adapter):
    """Parameters of the network itself: all (DreamBooth, Ruiz et al. 2023), or those that some names end with."""

    def __init__(self, family: "Family", endings: tuple[str, ...] = ("",)) -> None:
        super().__init__()
        named = family.network.named_parameters()
        self.trained = {name: parameter for name, parameter in named if name.endswith(endings)}
        self.published: dict[str, Tensor] = {}

    def begin(self, class_word: str, generator: "torch.Generator") -> None:
        if self.published:
            self.put(self.published, "weights")
        else:
            self.published = {name: value.detach().clone().cpu() for name, value in self.trained.items()}

    def stored(self, dtype: "torch.dtype") -> "dict[str, Tensor]":
        return {name: value.to(dtype) for name, value in super().stored(dtype).items()}


class Lora(Adapter):
    """Low-rank matrices beside layers of the network (Hu et al. 2021); alpha is the rank."""

    def __init__(self, family: "Family", rank: int) -> None:
        from peft import LoraConfig

        super().__init__()
        network = family.network
        network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family.lora_targets)))
        self.rank = rank
        self.trained = {}
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(family.dtype)
                self.trained[f"{family.network_name}.{name.replace('.default.', '.')}"] = parameter
        # Rank and alpha are known here without it; other programs would take the rank for alpha.
        config = network.peft_config["default"].to_dict()
        config = {f"{family.network_name}.{key}": value for key, value in config.items()}
        self.metadata["lora_adapter_metadata"] = json.dumps(config, default=sorted, sort_keys=True)

    def begin(self, class_word: str, generator: "torch.Generator") -> None:
        import torch

        with torch.no_grad():
            for name in sorted(self.trained):
                values = torch.zeros(self.trained[name].shape)
                if ".lora_A." in name:
                    values.normal_(std=1 / self.rank, generator=generator)
                self.trained[name].copy_(values)


class Vectors(Adapter):
    """Vectors that a new word is read as, in each text encoder (textual inversion, Gal et al. 2023).

    They are laid over the encoders' tables of words, whose own rows stay untouched.
    """

    decay = 0.0
    changes_text = True

    def __init__(self, family: "Family", word: str, n_vectors: int) -> None:
        import torch

        super().__init__()
        pipeline = family.pipeline
        # Without this the pipeline would not spread a word over its vectors.
        if not family.encoders or not hasattr(pipeline, "load_textual_inversion"):
            raise FinerRankError(f"--weights: {type(pipeline).__name__} has no textual inversion; bring another")
        self.trained = {}
        self.words: dict[str, tuple[Any, Any]] = {}
        for component, tokenizer_name, name in family.encoders:
            encoder, tokenizer = getattr(pipeline, component), getattr(pipeline, tokenizer_name)
            if n_vectors > (most := tokenizer.model_max_length // 2):
                raise FinerRankError(f"--set n_vectors={n_vectors}: leaves no room for prompts; at most {most}")
            words = [word, *(f"{word}_{i}" for i in range(1, n_vectors))]
            if tokenizer.add_tokens(words) != n_vectors:
                raise FinerRankError(f"--identifier {word}: is a word of the text encoder already; write another")
            if len(tokenizer) > encoder.get_input_embeddings().num_embeddings:
                encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            table = encoder.get_input_embeddings()
            vectors = torch.nn.Parameter(torch.zeros(n_vectors, table.embedding_dim, device=family.device))
            table.register_forward_hook(_laid_over(vectors, tokenizer.convert_tokens_to_ids(word)))
            self.trained[name or word] = vectors
            self.words[name or word] = tokenizer, table

    def begin(self, class_word: str, generator: "torch.Generator") -> None:
        import torch

        with torch.no_grad():
            for name, vectors in self.trained.items():
                tokenizer, table = self.words[name]
                ids = tokenizer(class_word, add_special_tokens=False).input_ids
                vectors.copy_(table.weight[ids].float().mean(0))


def _laid_over(vectors: "Tensor", first: int) -> "Callable[[Any, Any, Tensor], Tensor]":
    """A hook that puts vectors in the place of the rows from `first` on."""
    import torch

    def replace(_: Any, inputs: Any, rows: "Tensor") -> "Tensor":
        number = inputs[0] - first
        is_ours = (number >= 0) & (number < len(vectors))
        own = vectors.to(rows.dtype)[number.clamp(0, len(vectors) - 1)]
        return torch.where(is_ours[..., None], own, rows)

    return replace


def make_adapter(family: "Family", trained: str, parameters: Mapping[str, Parameter], identifier: str) -> Adapter:
    """The part that a method trains (see `Method.training`), put into its pipeline; nothing else can be trained.

    Raises:
        FinerRankError: this pipeline has no such part.
    """
    import torch

    for part in family.pipeline.components.values():
        if hasattr(part, "requires_grad_"):
            part.requires_grad_(False)
    # Libraries draw values for what they add, all of which are overwritten: the user's random numbers stay put.
    on_gpu = [family.device] if family.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_gpu, device_type="cuda"):
        if trained == "lora":
            return Lora(family, int(parameters["rank"]))
        if trained == "vectors":
            return Vectors(family, identifier, int(parameters["n_vectors"]))
    return Part(family, family.key_values if trained == "key-value" else ("",))
