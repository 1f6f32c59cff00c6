"""What a method is: what it needs, what it takes, and what makes its images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from PIL.Image import Image

    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request

Parameter = int | float | str

NEGATIVE_PROMPT = "blurry, low quality, low resolution, deformed, drawing, animation, text, cropped, subject cut off"
"""Where a method's negative prompt is alive; what arXiv 2512.19026's code wishes away, in our words."""

MAX_WHOLE = 1_000_000
"""Of parameters that are whole numbers: beyond it stands a slip, which no pipeline survives."""

COST_BASIS = "one H200 at 400 TFLOP/s sustained (40 % of its bfloat16 peak), from counted operations; not measured"
"""What hours and gigabytes of memory in the table stand on; see docs/generation.md."""


PIPELINE_FILES = ("model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja", "*/*.safetensors")
"""What is used of a pipeline's repository; beside it lie the same weights again in one file, or in float32."""


@dataclass(frozen=True)
class Weights:
    """A repository of the Hugging Face hub.

    Attributes:
        files: patterns of the files that are used.
        gigabytes: of those files.
        is_gated: its owners ask to accept terms before a download.
    """

    repository: str
    gigabytes: float
    licence: str
    is_gated: bool = False
    files: tuple[str, ...] = PIPELINE_FILES


@dataclass(frozen=True)
class Made:
    """What came of a request: an image, or why there is none."""

    image: "Image | None"
    refused: str = ""


class Generator(Protocol):
    """A method, loaded. Its class takes a `Setup`."""

    pipeline: Any
    """A diffusers pipeline, whose components may be moved off the device when memory ends; None if there is none."""

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        """An image for each request, from its own seed and its own reference, whatever stands beside it.

        Raises:
            torch.OutOfMemoryError: too many at once.
        """


@dataclass(frozen=True)
class Method:
    """A way to make images of somebody.

    Attributes:
        generator: makes the images.
        weights: what is downloaded, by role. `base` is the generator that is personalized.
        parameters: with their defaults; `steps`, `guidance`, `width` and `height` mean the same everywhere.
        uses_reference: makes an image from one reference photo.
        uses_masks: cuts the subject out of that photo by its mask.
        training: what is trained of each identity on all its references: `full` (the network), `lora`, `key-value` or
            `vectors` (of a word); "" where nothing is.
        identifier: token that stands for the individual in prompts; "" where the method needs none.
        max_batch: images at once; None for any number. 1 where the pipeline mixes what stands side by side.
        memory_gb: of the device, at the defaults and one image at once, in bfloat16.
        offloaded_gb: the same where networks that are not at work wait in the computer's memory; 0: that cannot be.
        image_seconds, training_seconds: per image, and per identity, on `COST_BASIS`.
        training_data: what the method learned from besides base model and references.
        needs_remote_code: its repository's own code has to be run.
    """

    name: str
    summary: str
    generator: "Callable[[Setup], Generator]"
    paper: str = ""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    uses_reference: bool = False
    uses_masks: bool = False
    training: str = ""
    identifier: str = ""
    max_batch: int | None = None
    memory_gb: float = 0
    offloaded_gb: float = 0
    image_seconds: float = 0
    training_seconds: float = 0
    training_data: str = "none"
    needs_remote_code: bool = False

    def parameters_with(self, assignments: Sequence[str]) -> dict[str, Parameter]:
        """The parameters, some of them set by `NAME=VALUE`.

        Raises:
            FinerRankError: an unknown name, or a value of another kind.
        """
        parameters = dict(self.parameters)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            known = ", ".join(f"{key}={value}" for key, value in self.parameters.items()) or "none"
            if not equals or name not in parameters:
                raise FinerRankError(f"--set {assignment}: {self.name} knows no such parameter; it has {known}")
            kind = type(parameters[name])
            try:
                parameters[name] = kind(text)
            except ValueError:
                raise FinerRankError(f"--set {assignment}: {name} is no {kind.__name__}; such as {known}") from None
            value = parameters[name]
            if isinstance(value, int) and not 1 <= value <= MAX_WHOLE:
                raise FinerRankError(f"--set {assignment}: must be at least 1, at most {MAX_WHOLE}")
            if isinstance(value, float) and not 0 <= value < float("inf"):
                raise FinerRankError(f"--set {assignment}: must be 0 or more")
            if name in SQUARE and int(parameters[name]) % 16:  # pipelines of FLUX's kind would round it down
                raise FinerRankError(f"--set {assignment}: must be a multiple of 16")
        return parameters


SDXL = Weights(
    "stabilityai/stable-diffusion-xl-base-1.0",
    6.9,
    "CreativeML Open RAIL++-M",
    files=("model_index.json", "*/*.json", "*/*.txt", "*/*.fp16.safetensors"),
)
SD3 = Weights("stabilityai/stable-diffusion-3-medium-diffusers", 15.5, "Stability AI Community", is_gated=True)
FLUX_DEV = Weights("black-forest-labs/FLUX.1-dev", 33.7, "FLUX.1 [dev] Non-Commercial", is_gated=True)

SQUARE: Mapping[str, Parameter] = {"width": 1024, "height": 1024}
