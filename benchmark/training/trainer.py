"""The loop: epochs over the photos that are trained on, each judged by those that were held back."""

import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.embed_loop import is_out_of_memory
from benchmark.embedders import checkpoint, published_spec, resolve_device
from benchmark.training.backbone import load_backbone, network_of, what_it_saw
from benchmark.training.feed import Feed
from benchmark.training.learner import Diverged, Learner
from benchmark.training.pictures import MEMORY_BYTES, ROOM_TO_CROP, Pictures
from benchmark.training.result import Comparison, Trained, compare, describe
from benchmark.training.settings import Settings, command_line
from benchmark.training.sides import choose_sides, named_galleries, pooled_photos
from benchmark.training.state import TrainingState
from benchmark.training.validation import Validation, mean_precision
from galleries.console import Progress, note
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from galleries.image_set import refuse_existing
from galleries.images import sha256_of

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "pytorch-metric-learning", "numpy", "pillow")
DETAILS = "training.json"
"""Beside `embedder.toml`: names of identities, each epoch, each category."""


def train(
    galleries: Sequence[Gallery],
    settings: Settings,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
    report: Callable[[str], None] = note,
) -> Trained:
    """Train an encoder and write it to `out`.

    The same settings, photos, versions and threads give the same weights on a CPU. A training that was killed leaves
    its last whole epoch beside `out`, and goes on from there with `resume`, to the same weights.

    Args:
        memory_bytes: bound of the decoded pictures that are kept.
        report: told a line per epoch, and what else a reader should know.

    Raises:
        Faults: photos that cannot be used.
        FinerRankError: nothing can be trained or held out, a network or weights that do not fit, a loss that is no
            number, too little memory, a state that was left over, or `out` exists. `out` is not written then.
    """
    refuse_existing(out)
    state = TrainingState(out)
    if state.exists and not resume:
        raise FinerRankError(f"{state.folder}: left over from a training that did not end; add --resume, or remove it")
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        raise FinerRankError("training needs pytorch-metric-learning; run: pip install 'finer-rank[train]'")
    import torch

    device = resolve_device(device)
    with ExitStack() as stack:
        if threads:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        try:
            result = _Training(galleries, settings, state, device, memory_bytes, progress, report).run(out)
        except Diverged as error:
            state.remove()  # to resume it would end the same way
            rate = f"lower --learning-rate (now {settings.learning_rate:g})"
            raise FinerRankError(f"{settings.backbone}: {error}; {rate}") from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            kept = f"free some and add --resume; or remove {state.folder}, and " if state.exists else ""
            raise FinerRankError(f"memory ended; {kept}use a smaller --batch-size or --size") from None
        finally:
            if not state.exists:
                state.remove()
    state.remove()
    return result


class _Training:
    """One training, from the photos to the folder."""

    def __init__(
        self,
        galleries: Sequence[Gallery],
        settings: Settings,
        state: TrainingState,
        device: str,
        memory_bytes: int,
        progress: Progress | None,
        report: Callable[[str], None],
    ) -> None:
        import torch

        self.settings, self.state, self.device = settings, state, device
        self.progress, self.report = progress, report
        self.galleries = named_galleries(galleries)
        photos, digests = pooled_photos(self.galleries, progress)
        self.photos_digest = sha256_of("\n".join(sorted(digests)).encode())
        self.sides = choose_sides(
            photos,
            digests,
            held_out=settings.held_out,
            train_splits=settings.train_splits,
            in_pairs=settings.loss == "triplet",
            seed=settings.seed,
        )
        trained = self.sides.trained
        self.identities = sorted({photo.identity for photo in trained})
        number = {identity: i for i, identity in enumerate(self.identities)}
        labels = [number[photo.identity] for photo in trained]
        has_viewpoints = any(photo.viewpoint.strip() for photo in photos)
        flip = settings.augment and (not has_viewpoints if settings.flip is None else settings.flip)
        self.loaded = load_backbone(settings, device)
        self.validation = Validation(self.sides.validated, self.loaded, settings.size, memory_bytes, progress)
        left = memory_bytes - self.validation.pictures.n_bytes
        side_px = round(settings.size * ROOM_TO_CROP) if settings.augment else settings.size
        pictures = Pictures(trained, side_px, left, progress)
        self.feed = Feed(pictures, labels, self.loaded.preprocess, settings, flip)

        try:
            self.before, self.dimension = self.validation.answers("before training")
        except Diverged as error:
            raise FinerRankError(f"{settings.backbone}: {error}; take another backbone or other weights") from None
        torch.manual_seed(settings.seed)  # of the loss's own weights
        self.learner = Learner(
            network_of(self.loaded),
            loss=settings.loss,
            dimension=self.dimension,
            n_identities=len(self.identities),
            n_steps=settings.epochs * self.feed.n_batches,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            device=device,
        )
        self.step: Callable[[int], Any] = lambda n: None
        self.history: list[dict[str, Any]] = []
        self.best, self.best_mean, self.best_epoch = self.learner.weights(), mean_precision(self.before), 0

    def run(self, out: Path) -> Trained:
        """Train, keep the best epoch, and write it."""
        settings = self.settings
        if self.state.exists:
            self._resume()
        self.state.begin()
        self._say_what_is_trained()
        if self.progress:
            self.step = self.progress("training", settings.epochs * self.feed.n_batches)
            self.step(len(self.history) * self.feed.n_batches)
        while len(self.history) < settings.epochs and len(self.history) - self.best_epoch < settings.patience:
            self._epoch(len(self.history) + 1)
        # What is judged is what is stored: float16 too.
        weights = {key: _stored(value, settings.half) for key, value in self.best.items()}
        self.learner.module.load_state_dict(weights)
        after, _ = self.validation.answers("after training")
        trained = self._result(out, compare(self.before, after, self.best_epoch))
        galleries = list(self.galleries.values())
        saw = what_it_saw(settings, galleries)
        is_trained = self.best_epoch > 0
        card = describe(settings, list(self.galleries), self.dimension, is_trained, self.sides.validated_on, saw)
        details = json.dumps(self._details(trained.comparison), ensure_ascii=False, indent=1)
        described = {**card, "training": trained.record}
        checkpoint.write(out, described, self.loaded.preprocessing, weights, {DETAILS: details})
        return trained

    def _say_what_is_trained(self) -> None:
        for line in self.sides.notes:
            self.report(f"note: {line}")
        n_held = len({photo.identity for photo in self.sides.validated})
        self.report(
            f"training on {len(self.feed.labels)} photos of {len(self.identities)} identities, judged by "
            f"{len(self.sides.validated)} {self.sides.validated_on} ({n_held}); "
            f"photos are {'' if self.feed.flip else 'not '}mirrored"
        )
        self.report(f"epoch 0 of {self.settings.epochs}: held-out mAP {mean_precision(self.before):.3f}")
        if self.history:
            self.report(f"going on after epoch {len(self.history)}")

    def _epoch(self, epoch: int) -> None:
        began = time.monotonic()
        loss = self._learn(epoch)
        answers, _ = self.validation.answers(f"epoch {epoch}")
        mean = mean_precision(answers)
        if mean > self.best_mean:
            self.best, self.best_mean, self.best_epoch = self.learner.weights(), mean, epoch
        self.history.append({"epoch": epoch, "loss": loss, "mAP": mean})
        facts = {
            "about": self._about(),
            "conditions": self._conditions(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_mean": self.best_mean,
        }
        files = {f"learner-{epoch}.safetensors": self.learner.state()}
        if self.best_epoch:
            files[f"best-{self.best_epoch}.safetensors"] = self.best
        self.state.write(facts, files)
        self.report(
            f"epoch {epoch} of {self.settings.epochs}: loss {loss:.3f}, held-out mAP {mean:.3f} "
            f"(best {self.best_mean:.3f}, epoch {self.best_epoch}), {time.monotonic() - began:.1f} s"
        )

    def _learn(self, epoch: int) -> float:
        """One epoch over the photos; returns its mean loss."""
        import torch

        torch.manual_seed(int(np.random.default_rng([self.settings.seed, epoch]).integers(2**62)))  # of dropout
        losses = []
        for number, (pixels, labels) in enumerate(self.feed.batches(epoch)):
            try:
                losses.append(self.learner.learn(pixels, labels, (epoch - 1) * self.feed.n_batches + number))
            except Diverged as error:
                raise Diverged(f"epoch {epoch}, step {number + 1}: {error}") from None
            self.step(1)
        return math.fsum(losses) / len(losses)

    def _resume(self) -> None:
        facts = self.state.read(self._about(), self._conditions(), self.report)
        self.history = facts["history"]
        self.best_epoch, self.best_mean = facts["best_epoch"], facts["best_mean"]
        self.learner.restore(self.state.tensors(f"learner-{len(self.history)}.safetensors"))
        if self.best_epoch:
            self.best = self.state.tensors(f"best-{self.best_epoch}.safetensors")

    def _about(self) -> dict[str, Any]:
        """All that a training which is resumed must share with its beginning."""
        return {
            **asdict(self.settings),
            "backbone": published_spec(self.settings.backbone),
            "backbone_sha256": self.loaded.weights_digest,
            "galleries": [gallery.digest for gallery in self.galleries.values()],
            "photos": self.photos_digest,
        }

    def _conditions(self) -> dict[str, str]:
        """What else a computer's last digits depend on."""
        import torch

        versions = {name: version(name) for name in PACKAGES}
        return versions | {"device": self.device.partition(":")[0], "threads": str(torch.get_num_threads())}

    def _result(self, out: Path, comparison: Comparison) -> Trained:
        settings = self.settings
        record = {
            "command": command_line(settings, list(self.galleries.values()), out),
            **comparison.record,
            "validated_on": self.sides.validated_on,
            "n_trained_photos": len(self.feed.labels),
            "n_trained_identities": len(self.identities),
            "n_epochs_trained": len(self.history),
            "loss": settings.loss,
            "seed": settings.seed,
            "mirrored": self.feed.flip,
            "backbone": published_spec(settings.backbone),
            "backbone_sha256": self.loaded.weights_digest,
            "photos_sha256": self.photos_digest,
            "galleries": [
                {"name": name, "version": g.card.version, "sha256": g.digest, "source": g.card.source or "not stated"}
                for name, g in self.galleries.items()
            ],
            "made_with": self._conditions(),
        }
        return Trained(out, comparison, record)

    def _details(self, comparison: Comparison) -> dict[str, Any]:
        return {
            "trained_identities": self.identities,
            "validated_identities": sorted({photo.identity for photo in self.sides.validated}),
            "notes": list(self.sides.notes),
            "epochs": [{"epoch": 0, "loss": None, "mAP": comparison.before.value}, *self.history],
            "categories": comparison.by_category,
            "settings": asdict(self.settings) | {"backbone": published_spec(self.settings.backbone)},
        }


def _stored(value: "torch.Tensor", half: bool) -> "torch.Tensor":
    """A tensor as it is stored: in float16 where that is wanted and holds its range."""
    narrow = value.half() if half and value.is_floating_point() else value
    return narrow if bool(narrow.isfinite().all()) else value
