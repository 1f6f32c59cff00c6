"""From settings to a run: what is to be made, what that costs, and the making."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from galleries.image_set import refuse_existing
from galleries.tables import is_utf8
from personalization_runs.methods.base import Method, Parameter, Weights
from personalization_runs.prompt_sets import PLAIN, Prompt, class_words, read_prompts
from personalization_runs.requests import Request, plan_requests

if TYPE_CHECKING:
    from galleries.console import Progress
    from personalization_runs.methods.setup import Setup
    from personalization_runs.run import Run

FITS = ("squash", "crop", "pad")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes:
        prompts: see `read_prompts`; a photo of the subject where empty.
        class_words: see `class_words`.
        include: patterns of identities; all where empty.
        n_images: of each identity and prompt.
        seed: of the run.
        parameters: `NAME=VALUE`, in place of the method's own.
        weights: `[ROLE=]PLACE[@REVISION]`, in place of the method's own.
        adapters: folder of trained adapters; what it lacks is trained into it. Beside the run by default.
        identifier: token in place of the method's own.
        fit: how a reference photo becomes square: `squash`, `crop` or `pad`.
        about: fields of the run's card.
    """

    prompts: Sequence[str]
    class_words: Sequence[str] = ()
    include: Sequence[str] = ()
    n_images: int = 1
    seed: int = 0
    parameters: Sequence[str] = ()
    weights: Sequence[str] = ()
    adapters: Path | None = None
    identifier: str = ""
    fit: str = "squash"
    batch_size: int = 1
    device: str = "auto"
    dtype: str = "auto"
    shard: tuple[int, int] = (1, 1)
    allow_remote_code: bool = False
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A run, thought through: nothing is downloaded or loaded yet."""

    gallery: Gallery
    method: Method
    settings: Settings
    out: Path
    prompts: tuple[Prompt, ...]
    requests: tuple[Request, ...]
    parameters: Mapping[str, Parameter]
    weights: Mapping[str, tuple[str, str]]
    identifier: str

    @property
    def downloads(self) -> dict[str, Weights]:
        """The repositories that are needed, by name, whether or not they are cached."""
        return {
            place: self.method.weights[role]
            for role, (place, _) in self.weights.items()
            if place == self.method.weights[role].repository
        }

    @property
    def adapters(self) -> Path | None:
        """Folder of the adapters of a method that trains some."""
        beside = self.out.with_name(f"{self.out.name}-adapters")
        return (self.settings.adapters or beside) if self.method.training else None

    @property
    def gpu_hours(self) -> float:
        """See `COST_BASIS`: in proportion to steps and pixels where these are not the method's own."""
        own, now = self.method.parameters, self.parameters

        def share(*names: str) -> float:
            shares = [float(now[name]) / float(own[name]) for name in names if name in own]
            product = 1.0
            for each in shares:
                product *= each
            return product

        images = len(self.requests) * self.method.image_seconds * share("steps", "width", "height")
        identities = {request.identity for request in self.requests}
        training = len(identities) * self.method.training_seconds * share("training_steps")
        if now.get("prior_weight"):  # images of each class, made once
            n_prior = len({request.class_word for request in self.requests}) * float(now["n_prior_images"])
            training += n_prior * self.method.image_seconds * float(now["prior_steps"]) / float(own["steps"])
        return (images + training) / 3600

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "gallery": self.gallery.card.name,
            "identities": len({request.identity for request in self.requests}),
            "prompts": len({request.prompt_id for request in self.requests}),
            "images": len(self.requests),
            "gpu_hours": round(self.gpu_hours, 2),
            "memory_gb": self.method.memory_gb,
            "downloads_gb": {name: weights.gigabytes for name, weights in self.downloads.items()},
            "gated": [name for name, weights in self.downloads.items() if weights.is_gated],
            "parameters": dict(self.parameters),
        }


def make_plan(gallery: Gallery, method: Method, settings: Settings, out: Path) -> Plan:
    """What a run consists of.

    Raises:
        Faults: of prompts and identities.
        FinerRankError: a setting that makes no sense.
    """
    if settings.fit not in FITS:
        raise FinerRankError(f"--fit {settings.fit}: unknown; write {', '.join(FITS)}")
    if settings.dtype not in DTYPES:
        raise FinerRankError(f"--dtype {settings.dtype}: unknown; write {', '.join(DTYPES)}")
    if settings.identifier and not method.identifier:
        raise FinerRankError(f"--identifier {settings.identifier}: {method.name} knows its subject without a token")
    if settings.adapters and not method.training:
        raise FinerRankError(f"--adapters: {method.name} trains nothing; leave it out")
    about = settings.about.values()
    for text in [*settings.prompts, *settings.class_words, *settings.parameters, *settings.weights, *about]:
        if not is_utf8(text):  # tables and card could not be written in the end
            raise FinerRankError(f"{text}: not UTF-8; write it so")
    from personalization_runs.methods.weights import chosen_weights

    identifier = settings.identifier or method.identifier
    try:
        weights = chosen_weights(method, settings.weights)
        prompts = read_prompts(settings.prompts) if settings.prompts else (PLAIN,)
    except OSError as error:  # no folder can have that name, or nobody may look
        raise FinerRankError(f"{error.filename}: {error.strerror}; check --prompts and --weights") from None
    requests = plan_requests(
        gallery,
        prompts,
        method,
        identifier=identifier,
        class_words=class_words(settings.class_words),
        n_images=settings.n_images,
        seed=settings.seed,
        include=settings.include,
    )
    return Plan(
        gallery,
        method,
        settings,
        out,
        prompts,
        requests,
        method.parameters_with(settings.parameters),
        weights,
        identifier,
    )


def make_run(
    plan: Plan,
    *,
    progress: "Progress | None" = None,
    warn: Callable[[str], Any],
) -> "Run | None":
    """Make the run: find or fetch weights, train what has to be, make the images that are not there yet.

    Returns:
        The run; None while other shards are at it.

    Raises:
        FinerRankError: of weights, memory or disk. What is made stays.
    """
    from personalization_runs.generation import Job, make_images
    from personalization_runs.run import RunCard

    settings, method = plan.settings, plan.method
    refuse_existing(plan.out)
    if method.uses_masks:
        _refuse_without_masks(plan)
    setup = set_up(plan, warn=warn)
    if method.training:
        from personalization_runs.training import train_adapters

        train_adapters(plan, setup, progress=progress, warn=warn)
    base = setup.weights.get("base")
    card = RunCard(
        model=settings.about.get("model") or method.name,
        authors=settings.about.get("authors", ""),
        contact=settings.about.get("contact", ""),
        url=settings.about.get("url") or method.paper,
        licence=settings.about.get("licence", ""),
        method=method.name,
        base_model=str(base) if base else "none",
        training_data=method.training_data,
        gallery=plan.gallery.card.name,
        gallery_version=plan.gallery.card.version,
        identifier=plan.identifier,
        parameters={"prompts": list(settings.prompts)},
    )
    job = Job(plan.requests, setup, card, plan.out, settings.seed, settings.batch_size)
    n_own = len(plan.requests[settings.shard[0] - 1 :: settings.shard[1]])
    step = progress(f"{method.name}: images", n_own) if progress else None
    return make_images(job, lambda: method.generator(setup), shard=settings.shard, step=step, warn=warn)


def _refuse_without_masks(plan: Plan) -> None:
    used = {request.reference for request in plan.requests if request.reference}
    bare = sorted(photo.file_name for photo in used if not photo.mask_file_name)
    if bare:
        raise FinerRankError(
            f"{plan.gallery.root}: {len(bare)} of {len(used)} reference photos (first {bare[0]}): no mask, by which "
            f"{plan.method.name} cuts the subject out; make the gallery's masks: finer-rank gallery mask "
            f"{plan.gallery.root} --model NAME"
        )


def set_up(plan: Plan, *, warn: Callable[[str], Any]) -> "Setup":
    """Device and weights of a plan.

    Raises:
        FinerRankError: packages of the extra `generate` are missing; no such device; not enough memory, said before
            anything is downloaded; weights that are neither there nor within reach.
    """
    from importlib.util import find_spec

    if plan.method.needs_remote_code and not plan.settings.allow_remote_code:
        raise FinerRankError(
            f"--method {plan.method.name}: its weights come with code of their own, which would be run here; read it, "
            "then add --allow-remote-code"
        )
    missing = [package for package in ("diffusers", "transformers", "accelerate", "peft") if not find_spec(package)]
    if missing:
        raise FinerRankError(f"{', '.join(missing)} not installed; run: pip install 'finer-rank[generate]'")
    from galleries.segmentation import resolve_device
    from personalization_runs.methods.setup import Setup
    from personalization_runs.methods.weights import find_weights, memory_there_gb, network_sizes_gb

    settings, method = plan.settings, plan.method
    device = resolve_device(settings.device)
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    there = memory_there_gb(device)
    brought = [
        size
        for role, (place, _) in plan.weights.items()
        for size in network_sizes_gb(Path(place), method.weights[role])
    ]
    share = (2 if dtype == "float32" else 1) if plan.downloads else 0
    at_once = max(method.memory_gb * share, sum(brought))
    may_wait = device.startswith("cuda") and method.offloaded_gb > 0
    needed = max(method.offloaded_gb * share, max(brought, default=0.0)) if may_wait else at_once
    if needed > there:
        downloads = sum(weights.gigabytes for weights in plan.downloads.values())
        what = f"{method.name} needs about {needed:.0f} GB in {dtype}; nothing of its {downloads:.0f} GB was downloaded"
        what = what if downloads else f"the weights alone fill {needed:.0f} GB"
        raise FinerRankError(
            f"--device {device}: has {there:.0f} GB, and {what}; take a larger device, or smaller --weights"
        )
    if at_once > there:
        warn(
            f"{device} has {there:.0f} GB, and {method.name} needs about {at_once:.0f} GB: networks that are not at "
            "work wait in the computer's memory, which is slower"
        )
    weights = {
        role: find_weights(place, revision, method.weights[role]) for role, (place, revision) in plan.weights.items()
    }
    return Setup(
        method,
        weights,
        plan.parameters,
        device,
        dtype,
        settings.fit,
        plan.adapters,
        settings.allow_remote_code,
        offload=at_once > there,
    )
