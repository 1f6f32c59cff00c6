"""Identity and prompts inside anybody's training loop: every some steps a few pictures are made and scored."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmark.embed import Progress
from benchmark.embedders import Embedder, load_embedder, published_spec
from benchmark.embedders.pictures import what_is_wrong
from benchmark.look_alikes import LookAlikes
from benchmark.pipelines import full_precision, is_pipeline, pipeline_pictures, randomness_kept
from benchmark.prompt_fidelity import without_identifier
from benchmark.rank import pair_similarity, row_norms
from benchmark.step_loggers import logging_to
from benchmark.store import Root, print_to_stderr, store_at
from benchmark.training_curve import PROMPTS_KEPT, Choice, ScoredStep, TrainingCurve
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from galleries.images import sha256_of
from personalization_runs.methods import find_method
from personalization_runs.prompt_sets import read_prompts
from personalization_runs.requests import Request, plan_requests

if TYPE_CHECKING:
    from PIL.Image import Image

Generate = Callable[[list[str], list[int]], "Sequence[Image | None]"]
"""Called with prompts and a seed for each; returns a picture for each, or None where a filter kept it back."""

CURVE_NAME = "curve.csv"


class IdentityCallback:
    """Scores a generator of one identity while it learns. Call it at each step of a training loop.

    Called with a step and what generates: a diffusers pipeline, or a function (`Generate`). It acts at each `every`-th
    step, at step 0 and at `last`; otherwise a call costs nothing. Prompts and seeds are the same at each step, and
    those of `finer-rank run generate --seed`. The global random numbers (Python, NumPy, torch) go on as if nothing had
    been drawn; a pipeline's networks, progress bars and scheduler are left as they were. In a training by several
    processes, call it in one of them.

    Args:
        identity: whom the pictures should show; in the gallery, with references.
        embedder: what tells individuals apart: an encoder, or its name. `load_embedder` chooses its device.
        prompts: see `read_prompts`; the first `n_prompts` of them that are for the identity are used.
        class_word: what prompts call the identity; its category where empty.
        identifier: token that stands for the individual in the prompts, such as `sks`.
        n_images: of each prompt.
        last: the training's last step, scored in any case.
        prompt_embedder: an encoder with a text side, such as `clip`; without one there is no CLIP-T.
        pipeline_options: arguments of a pipeline's call, such as `num_inference_steps`.
        store: the embedding store; the default one where None. What it holds of the gallery is not embedded again.
        out: folder for `curve.csv` and each step's pictures. Where it holds the curve of the same settings, that is
            gone on with: a training that starts again from a checkpoint replaces the steps after it.
        logger: `tensorboard` (events in `out`) or `wandb`; or an object with `add_scalar(tag, value, step)`, as
            TensorBoard's SummaryWriter, or with `log(values, step=step)`, as a run of W&B or an Accelerator.

    Attributes:
        curve: all that was scored so far.
        n_forward_passes: gallery photos that were embedded now, and not found in the store.

    Raises:
        FinerRankError: see `LookAlikes`, `plan_requests` and `load_embedder`; a count below 1; `out` holds another
            curve; a logger that is none, or whose package is missing.
    """

    def __init__(
        self,
        gallery: Gallery | Path | str,
        identity: str,
        *,
        embedder: Embedder | str,
        prompts: Sequence[str] = ("reid",),
        class_word: str = "",
        identifier: str = "",
        n_prompts: int = 4,
        n_images: int = 1,
        every: int = 100,
        last: int | None = None,
        seed: int = 0,
        prompt_embedder: Embedder | str | None = None,
        pipeline_options: Mapping[str, Any] | None = None,
        store: Root | None = None,
        out: Path | str | None = None,
        logger: Any = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] = print_to_stderr,
    ) -> None:
        for name, value in (("every", every), ("n_prompts", n_prompts), ("n_images", n_images)):
            if value < 1:
                raise FinerRankError(f"{name} {value}: out of range; write 1 or more")
        store = store_at(store)
        self.gallery = gallery if isinstance(gallery, Gallery) else Gallery.open(gallery)
        self.every, self.last, self.warn = every, last, warn
        self.out = Path(out) if out is not None else None
        self._options = dict(pipeline_options or {})
        self._log = logging_to(logger, self.out)
        # Networks draw random weights before they read theirs.
        with randomness_kept(), full_precision():
            self.embedder = _loaded(embedder, store)
            look_alikes = LookAlikes(self.gallery, identity, self.embedder, store, progress=progress, warn=warn)
            self.prompt_embedder = _loaded(prompt_embedder, store) if prompt_embedder else None
            self._requests = self._planned(identity, prompts, class_word, identifier, n_prompts, n_images, seed)
            texts = [without_identifier(r.text, identifier) if identifier else r.text for r in self._requests]
            self._text_rows = _text_rows(self.prompt_embedder, texts) if self.prompt_embedder else None
        self._look_alikes, self.n_forward_passes = look_alikes, look_alikes.n_forward_passes
        self.curve = self._begun(
            TrainingCurve(
                identity,
                f"{self.gallery.card.name} {self.gallery.card.version}",
                published_spec(self.embedder.spec),
                published_spec(self.prompt_embedder.spec) if self.prompt_embedder else "",
                self._settings(),
                look_alikes.chance,
                look_alikes.held_out,
            )
        )

    def __call__(self, step: int, generate: Any) -> None:
        """Score the step if it is one of those to be scored. See `score`."""
        if step % self.every == 0 or step == self.last:
            self.score(step, generate)

    def score(self, step: int, generate: Any) -> ScoredStep | None:
        """Make the pictures, score them, keep and log the numbers; None where a filter kept all pictures back.

        Args:
            step: steps of training that are behind, from 0.
            generate: a diffusers pipeline, or a function (`Generate`).

        Raises:
            FinerRankError: not a picture for each prompt; a picture that no encoder can place; `out` cannot be written.
        """
        if step < 0:
            raise FinerRankError(f"step {step}: out of range; count from 0")
        with randomness_kept(), torch.no_grad():
            pictures = self._pictures(generate)
            made = [i for i, picture in enumerate(pictures) if picture]
            if not made:
                self.warn(f"step {step}: not scored, as a filter kept all {len(pictures)} pictures back")
                return None
            with full_precision():
                scored = self._scored(step, [p for p in pictures if p], made)
        later = [s.step for s in self.curve.steps if s.step > step]
        self.curve = self.curve.with_step(scored)
        if self.out:
            self._write(self.out, step, pictures, later)
        values = {"map": scored.mAP, "auc": scored.AUC, "similarity": scored.similarity, "clip_t": scored.clip_t}
        self._log({f"finer_rank/{name}": value for name, value in values.items() if value is not None}, step)
        return scored

    def best(self, prompts_kept: float = PROMPTS_KEPT) -> Choice:
        """The step to pick: see `TrainingCurve.best`."""
        return self.curve.best(prompts_kept)

    def _planned(
        self,
        identity: str,
        sources: Sequence[str],
        class_word: str,
        identifier: str,
        n_prompts: int,
        n_images: int,
        seed: int,
    ) -> tuple[Request, ...]:
        category = self.gallery.category_of[identity]
        own = [prompt for prompt in read_prompts(sources) if prompt.is_for(identity, category)]
        return plan_requests(
            self.gallery,
            own[:n_prompts],
            find_method("class-only"),  # of whatever method: prompts and seeds are the same for all
            identifier=identifier,
            class_words={"*": class_word} if class_word else None,
            n_images=n_images,
            seed=seed,
            include=[escape(identity)],
        )

    def _settings(self) -> str:
        """Digest of what decides the numbers besides the generator."""
        asked = [(request.prompt_id, request.text, request.seed) for request in self._requests]
        judges = [self.embedder.fingerprint, self.prompt_embedder.fingerprint if self.prompt_embedder else ""]
        facts = [self.gallery.digest, asked, judges, self._options]
        return sha256_of(json.dumps(facts, sort_keys=True, default=lambda value: type(value).__name__).encode())[:16]

    def _begun(self, curve: TrainingCurve) -> TrainingCurve:
        """The curve that `out` holds, or a new one.

        Raises:
            FinerRankError: `out` holds one of other settings.
        """
        if not self.out or not (self.out / CURVE_NAME).is_file():
            return curve
        found = TrainingCurve.read(self.out / CURVE_NAME)
        if (found.identity, found.settings) != (curve.identity, curve.settings):
            what = "identity" if found.identity != curve.identity else "gallery, encoder, prompts or seed"
            raise FinerRankError(f"{self.out / CURVE_NAME}: a curve of another {what}; name another folder, or move it")
        return found

    def _pictures(self, generate: Any) -> "list[Image | None]":
        """A picture for each request, or None where a filter kept it back.

        Raises:
            FinerRankError: something else came.
        """
        from PIL import Image

        make: Generate = partial(pipeline_pictures, generate, self._options) if is_pipeline(generate) else generate
        n = len(self._requests)
        found = make([request.text for request in self._requests], [request.seed for request in self._requests])
        if not isinstance(found, Sequence):
            raise FinerRankError(f"generate: returned {type(found).__name__}; return a list of PIL images")
        if len(found) != n:
            raise FinerRankError(f"generate: {len(found)} images for {n} prompts; return one for each, in order")
        for i, picture in enumerate(found):
            if picture is not None and not isinstance(picture, Image.Image):
                raise FinerRankError(f"generate: image {i} is of type {type(picture).__name__}; return PIL images")
        return list(found)

    def _scored(self, step: int, pictures: "list[Image]", made: list[int]) -> ScoredStep:
        rows = self.embedder.embed(pictures)
        m_ap, auc, similarity = self._look_alikes.scores(rows)
        clip_t = None
        if self.prompt_embedder and self._text_rows is not None:
            if self.prompt_embedder is not self.embedder:
                rows = self.prompt_embedder.embed(pictures)
            texts, pairs = self._text_rows[made], np.arange(len(made))
            clip_t = float(pair_similarity(rows, texts, pairs, pairs, row_norms(rows), row_norms(texts)).mean())
        return ScoredStep(step, m_ap, auc, similarity, clip_t, len(made))

    def _write(self, out: Path, step: int, pictures: "list[Image | None]", later: list[int]) -> None:
        """Pictures, then the row that counts on them; then the pictures go that no row speaks of any more.

        Raises:
            FinerRankError: a folder or file cannot be written.
        """
        folder = _folder(out, step)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for request, picture in zip(self._requests, pictures, strict=True):
                path = folder / f"{request.prompt_id}_{request.number}.png"
                path.unlink(missing_ok=True)
                if picture:
                    picture.save(path)
            self.curve.write(out / CURVE_NAME)
            for other in later:
                shutil.rmtree(_folder(out, other), ignore_errors=True)
        except OSError as error:
            raise FinerRankError(f"{folder}: cannot be written ({error.strerror}); mend that and go on") from None


def callbacks_for(
    gallery: Gallery,
    *,
    every: int,
    embedder: str,
    clip_t: str = "",
    device: str = "auto",
    store: Root | None = None,
    **settings: Any,
) -> Callable[..., IdentityCallback]:
    """What makes the callback of each identity of a gallery, from a command's options. Encoders are loaded once.

    Args:
        clip_t: spec of the encoder that compares images with prompts; "" for none.
        settings: other arguments of `IdentityCallback` that all identities share.

    Returns:
        To be called with the identity and, by name, what is its own: `out`, `class_word`, `last`, …

    Raises:
        FinerRankError: an unknown encoder, device or number.
    """
    from benchmark.options import load_embedders

    specs = list(dict.fromkeys(spec for spec in (embedder, clip_t) if spec))
    loaded, root = load_embedders(specs, None, None, None, "fp32", device, store)
    judge = loaded[-1] if clip_t else None
    return partial(
        IdentityCallback, gallery, embedder=loaded[0], prompt_embedder=judge, every=every, store=root, **settings
    )


def _folder(out: Path, step: int) -> Path:
    return out / f"step-{step:06d}"


def _loaded(embedder: Embedder | str, store: Root) -> Embedder:
    return load_embedder(embedder, memo=store) if isinstance(embedder, str) else embedder


def _text_rows(embedder: Embedder, texts: Sequence[str]) -> Any:
    rows = embedder.embed_texts(texts)
    for text, row in zip(texts, rows, strict=True):
        if wrong := what_is_wrong(row):
            raise FinerRankError(f"{embedder.spec}: prompt {text!r}: {wrong}; name another prompt_embedder")
    return rows
