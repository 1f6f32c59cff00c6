"""One pipeline, loaded once, in which adapters are trained one after the other."""

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from galleries.tables import write_csv
from personalization_runs.methods.setup import Setup, free_memory, quiet_diffusers, rgb
from personalization_runs.prompt_sets import PLAIN
from personalization_runs.training.adapters import make_adapter
from personalization_runs.training.cards import CARD, LOSSES, WEIGHTS, Subject
from personalization_runs.training.families import Text, family_of
from personalization_runs.training.files import digest_of, put, write_safetensors
from personalization_runs.training.pictures import Pictures, class_images
from personalization_runs.training.randomness import drawn_from
from personalization_runs.training.recipe import Recipe
from personalization_runs.training.trainer import Callback, Lesson, refuse_no_number, train

if TYPE_CHECKING:
    from galleries.console import Progress
    from personalization_runs.plans import Plan

PACKAGES = ("diffusers", "transformers", "peft", "torch")


class School:
    """Loads the base model, makes class images, embeds prompts, and lets go of what is needed no more.

    Args:
        keeps_encoders: images will be made in between, so that text encoders stay.
    """

    def __init__(
        self,
        plan: "Plan",
        setup: Setup,
        recipe: Recipe,
        subjects: Sequence[Subject],
        progress: "Progress | None",
        *,
        keeps_encoders: bool,
    ) -> None:
        from diffusers import AutoPipelineForText2Image

        self.plan, self.setup, self.recipe = plan, setup, recipe
        self.pipeline = setup.pipeline(AutoPipelineForText2Image)
        self.family = family_of(self.pipeline)
        self.class_images: dict[str, list[Path]] = {}
        for word in sorted({subject.class_word for subject in subjects}) if recipe.prior_weight else ():
            step = progress(f"class images: {word}", recipe.n_prior_images) if progress else None
            assert setup.adapters is not None
            seed = plan.settings.seed
            self.class_images[word] = class_images(self.pipeline, setup, recipe, word, seed, setup.adapters, step)
        with quiet_diffusers():
            self.adapter = make_adapter(self.family, plan.method.training, setup.parameters, plan.identifier)
        self.adapter.ready_to_train()
        self.texts: dict[str, Text] = {}
        if not self.adapter.changes_text:
            for subject in subjects:
                for prompt in self._prompts(subject):
                    self.texts.setdefault(prompt, self._text(prompt))
            if not keeps_encoders:
                for name in self.family.text_encoders:
                    setattr(self.pipeline, name, None)
        # Half of the time again for a fraction of the memory.
        self.family.network.enable_gradient_checkpointing()
        if setup.device != "cpu":
            free_memory()

    def train(
        self,
        subject: Subject,
        folder: Path,
        asked: dict[str, Any],
        step: Callable[[int], Any] | None,
        checkpoint_every: int,
        callback: Callback | None,
        callback_every: int,
    ) -> None:
        """Train an adapter, and write it to the folder `adapter` in `folder`."""
        setup, recipe = self.setup, self.recipe
        put(folder / "asked.json", json.dumps(asked | {"dtype": setup.dtype}).encode())
        key = (self.plan.settings.seed, subject.identity)
        prior = None
        if recipe.prior_weight:
            images = [Image.open(path).convert("RGB") for path in self.class_images[subject.class_word]]
            prior = Pictures(images, self.family, recipe.size, "squash")
        lesson = Lesson(
            self.family,
            self.adapter,
            recipe,
            Pictures([rgb(photo) for photo in subject.photos], self.family, recipe.size, setup.fit),
            prior,
            lambda: [self.texts.get(prompt) or self._text(prompt) for prompt in self._prompts(subject)],
            key,
            setup.torch_dtype,
        )
        with quiet_diffusers():
            self.adapter.begin(subject.class_word, drawn_from(*key, "adapter"))
            before = lesson.probe()
            losses = train(
                lesson,
                folder,
                checkpoint_every=checkpoint_every,
                step=step,
                callback=callback,
                callback_every=callback_every,
            )
            after = lesson.probe()
        refuse_no_number(after, recipe.steps)
        self._write(folder / "adapter", asked, before, after, losses)

    def _write(self, folder: Path, asked: dict[str, Any], before: float, after: float, losses: list[float]) -> None:
        path = folder / WEIGHTS
        write_safetensors(path, self.adapter.stored(self.setup.torch_dtype), self.adapter.metadata)
        rows = [{"step": str(number), "loss": repr(loss)} for number, loss in enumerate(losses, start=1)]
        write_csv(folder / LOSSES, ["step", "loss"], rows)
        card = asked | {
            "probe_before": before,
            "probe_after": after,
            "dtype": self.setup.dtype,
            "packages": {package: version(package) for package in PACKAGES},
            "weights_sha256": digest_of(path),
        }
        put(folder / CARD, f"{json.dumps(card, indent=1, ensure_ascii=False)}\n".encode())

    def _prompts(self, subject: Subject) -> list[str]:
        """What the photos show, and what the class images do."""
        own = PLAIN.text(subject.class_word, self.plan.identifier)
        return [own, PLAIN.text(subject.class_word)] if self.recipe.prior_weight else [own]

    def _text(self, prompt: str) -> Text:
        import torch

        if self.adapter.changes_text:
            return self.family.text(prompt)
        with torch.no_grad(), quiet_diffusers():
            return self.family.text(prompt)
