"""DreamSim's recipe (Fu, Tamir, Sundaram et al. 2023, arXiv 2306.09344): encoders tuned to triplets that people judged.

Of the image that people held for nearer, the cosine distance should be smaller by a margin. Either low-rank updates of
Vision Transformers are learned, or a head on embeddings that stay as they are; what comes of it is a `checkpoint:`
folder. Embeddings are not centred, neither here nor in the encoder that is written.
"""

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.distances import Resources
from benchmark.distances.base import Floats
from benchmark.distances.embeddings import cosine_distances
from benchmark.embed_loop import is_out_of_memory
from benchmark.embedders import Embedder, checkpoint, concatenated, load_embedder, published_spec, resolve_device
from benchmark.embedders.base import unit_rows
from benchmark.embedders.weights import sha256_of_file
from benchmark.human_judgements.judgements import Judgements
from benchmark.training.pictures import MEMORY_BYTES, Pictures
from benchmark.training.state import TrainingState
from benchmark.tuning.dreamsim_head import Headed
from benchmark.tuning.dreamsim_lora import FAMILIES, Adapted, unfit
from benchmark.tuning.dreamsim_result import Tuned, compare, describe
from benchmark.tuning.dreamsim_settings import Settings, command_line
from benchmark.tuning.dreamsim_triplets import Sides, Triplets, as_triplets, choose_sides
from galleries.errors import FinerRankError
from galleries.gallery import Photo
from galleries.image_set import new_folder, refuse_existing
from galleries.images import in_threads, sha256_of

if TYPE_CHECKING:
    import torch

__all__ = ["Settings", "Tuned", "tune"]

PACKAGES = ("torch", "timm", "open_clip_torch", "peft", "numpy", "pillow")
BETAS = (0.5, 0.999)
"""Of Adam, in the authors' configurations."""
DETAILS = "training.json"
JUDGING_BATCH = 32


def tune(
    judgements: Judgements, settings: Settings, out: Path, resources: Resources, *, device: str, resume: bool
) -> Tuned:
    """Tune encoders to judgements and write them to `out`, for `checkpoint:`.

    The epoch of the lowest hinge loss on validation triplets is kept; the backbones as they came are epoch 0. The same
    settings, judgements, versions and threads give the same weights on a CPU. A tuning that was killed leaves its last
    whole epoch beside `out`, and goes on from there with `resume`, to the same weights.

    Raises:
        Faults: images that cannot be used.
        FinerRankError: judgements or encoders that do not fit, a loss that is no number, too little memory, a state
            that was left over, or `out` exists. `out` is not written then.
    """
    refuse_existing(out)
    state = TrainingState(out)
    if state.exists and not resume:
        raise FinerRankError(f"{state.folder}: left over from a tuning that did not end; add --resume, or remove it")
    if settings.method == "lora" and importlib.util.find_spec("peft") is None:
        raise FinerRankError("--method lora needs peft; run: pip install 'finer-rank[tune]'")
    try:
        tuned = _Tuning(judgements, settings, state, resources, resolve_device(device)).run(out)
    except _Diverged as error:
        state.remove()  # to resume it would end the same way
        raise FinerRankError(f"{error}; lower --learning-rate (now {settings.learning_rate:g})") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kept = f"free some and add --resume; or remove {state.folder}, and " if state.exists else ""
        raise FinerRankError(f"memory ended; {kept}use a smaller --batch-size or --size") from None
    finally:
        if not state.exists:
            state.remove()
    state.remove()
    return tuned


class _Diverged(FinerRankError):
    """Loss or embeddings are no numbers any more."""


class _Tuning:
    """One tuning, from the judgements to the folder."""

    def __init__(
        self, judgements: Judgements, settings: Settings, state: TrainingState, resources: Resources, device: str
    ) -> None:
        import torch

        self.judgements, self.settings, self.state, self.resources = judgements, settings, state, resources
        self.device = device
        self.sides: Sides = choose_sides(as_triplets(judgements), settings.held_out, settings.seed)
        self.embedders = _load(settings, device)
        self.model = self._model()
        self.parameters = self.model.parameters()
        assert settings.batch_size is not None
        assert settings.epochs is not None
        self.batch_size, self.epochs = settings.batch_size, settings.epochs
        # Each tensor once: the authors' scripts list each twice, so that theirs moves about twice as fast.
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate, betas=BETAS)
        self.before = self._distances(self.sides.tested, "judging before")
        first = self._loss(self.sides.validated, "epoch 0")
        self.history: list[dict[str, float]] = [{"epoch": 0, "validation_loss": first}]
        self.best_epoch, self.best = 0, self._weights()

    def _model(self) -> Adapted | Headed:
        settings, images = self.settings, self.sides.images
        if settings.method == "mlp":
            assert settings.hidden is not None
            return Headed(
                self.embedders,
                images,
                self.resources,
                hidden=settings.hidden,
                seed=settings.seed,
                device=self.device,
            )
        assert settings.size is not None
        assert settings.rank is not None
        assert settings.alpha is not None
        assert settings.dropout is not None
        photos = [Photo(str(path), "", "", "", path=path) for path in images]
        return Adapted(
            self.embedders,
            Pictures(photos, settings.size, MEMORY_BYTES, self.resources.progress),
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            seed=settings.seed,
            device=self.device,
        )

    def run(self, out: Path) -> Tuned:
        """Tune, keep the best epoch, and write it."""
        for line in self.sides.notes:
            self.resources.warn(f"note: {line}")
        if self.state.exists:
            self._resume()
        self.state.begin()
        n_batches = -(-len(self.sides.trained.targets) // self.batch_size)
        progress = self.resources.progress
        step = progress("tuning", self.epochs * n_batches) if progress else None
        if step:
            step((len(self.history) - 1) * n_batches)
        while len(self.history) <= self.epochs:
            self._epoch(len(self.history), step)
        self._restore(self.best)
        if isinstance(self.model, Adapted):
            self.model.merge()
        after = self._distances(self.sides.tested, "judging after")
        comparison = compare(self.sides.tested, self.before, after, self.best_epoch)
        settings = self.settings
        record = {
            "command": command_line(settings, self.judgements, out),
            **comparison.record,
            "judged_on": self.sides.judged_on,
            "method": settings.method,
            "n_epochs": self.epochs,
            "n_trained_triplets": len(self.sides.trained.targets),
            "n_trained_targets": len(set(self.sides.trained.targets)),
            "n_validated_triplets": len(self.sides.validated.targets),
            "n_parameters": sum(value.numel() for value in self.parameters.values()),
            "seed": settings.seed,
            "backbones": [
                {"spec": published_spec(each.spec), "weights_sha256": each.model.weights_digest}
                for each in self.embedders
            ],
            "judgements": self.judgements.name,
            "triplets_sha256": self._digest,
            "made_with": self._conditions(),
        }
        self._write(out, record)
        return Tuned(out, comparison, record)

    def _epoch(self, epoch: int, step: Any) -> None:
        import torch

        torch.manual_seed(int(np.random.default_rng([self.settings.seed, epoch]).integers(2**62)))  # of dropout
        trained = self.sides.trained
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(trained.targets))
        self.model.train(True)
        losses = []
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            places, where = np.unique(trained.places[chosen], return_inverse=True)
            features = self.model.features(places.tolist())
            found = torch.nn.functional.normalize(features, dim=-1)[torch.from_numpy(where.reshape(-1, 3))]
            to_a, to_b = (1 - (found[:, 0] * found[:, side]).sum(dim=-1) for side in (1, 2))
            loss = hinge_loss(to_a, to_b, torch.from_numpy(trained.share_b[chosen]).to(to_a), self.settings.margin)
            if not torch.isfinite(loss):
                raise _Diverged(f"epoch {epoch}, step {start // self.batch_size + 1}: the loss is {loss.item():.3g}")
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(loss.item() * len(chosen))
            if step:
                step(1)
        validation = self._loss(self.sides.validated, f"epoch {epoch}")
        if validation < min(each["validation_loss"] for each in self.history):
            self.best_epoch, self.best = epoch, self._weights()
        self.history.append({"epoch": epoch, "loss": math.fsum(losses) / len(order), "validation_loss": validation})
        moments = {
            f"optimiser.{number}.{key}": value.detach().cpu().clone()
            for number, of in self.optimiser.state_dict()["state"].items()
            for key, value in of.items()
        }
        facts = {
            "about": self._about(),
            "conditions": self._conditions(),
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        files = {f"learner-{epoch}.safetensors": self._weights() | moments}
        if self.best_epoch:
            files[f"best-{self.best_epoch}.safetensors"] = self.best
        self.state.write(facts, files)

    def _resume(self) -> None:
        facts = self.state.read(self._about(), self._conditions(), self.resources.warn)
        self.history, self.best_epoch = facts["history"], facts["best_epoch"]
        learner = self.state.tensors(f"learner-{len(self.history) - 1}.safetensors")
        self._restore({name: learner[name] for name in self.parameters})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in learner.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        if self.best_epoch:
            self.best = self.state.tensors(f"best-{self.best_epoch}.safetensors")

    def _weights(self) -> "dict[str, torch.Tensor]":
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def _restore(self, weights: "Mapping[str, torch.Tensor]") -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(weights[name])

    def _distances(self, triplets: Triplets, label: str) -> tuple[Floats, Floats]:
        """Of the reference to a, and to b: `[N]` each.

        Raises:
            _Diverged: an embedding that is no direction.
        """
        import torch

        self.model.train(False)
        images = triplets.images
        progress = self.resources.progress
        step = progress(label, len(images)) if progress else None
        size = self.resources.batch_size or JUDGING_BATCH
        rows = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            with torch.inference_mode():
                rows.append(self.model.features(batch).cpu().numpy())
            if step:
                step(len(batch))
        found = unit_rows(np.concatenate(rows))
        if not (np.isfinite(found).all() and found.any(axis=1).all()):
            raise _Diverged(f"{label}: an embedding is zero, or no number")
        row = np.zeros(len(self.sides.images), dtype=np.intp)
        row[images] = np.arange(len(images))
        reference, a, b = row[triplets.places].T
        return cosine_distances(found, found, reference, a), cosine_distances(found, found, reference, b)

    def _loss(self, triplets: Triplets, label: str) -> float:
        import torch

        to_a, to_b = map(torch.from_numpy, self._distances(triplets, label))
        return float(hinge_loss(to_a, to_b, torch.from_numpy(triplets.share_b), self.settings.margin))

    @cached_property
    def _digest(self) -> str:
        """SHA-256 of what is trained on and judged by."""
        sides = [self.sides.trained, self.sides.validated, self.sides.tested]
        parts = [[side.places.tolist(), side.share_b.tolist(), side.targets] for side in sides]
        digests = list(in_threads(sha256_of_file, self.sides.images))
        return sha256_of(json.dumps([digests, parts]).encode())

    def _about(self) -> dict[str, Any]:
        """All that a tuning which is resumed must share with its beginning."""
        backbones = [[published_spec(each.spec), each.model.weights_digest] for each in self.embedders]
        return {**asdict(self.settings), "backbones": backbones, "triplets_sha256": self._digest}

    def _conditions(self) -> dict[str, str]:
        """What else a computer's last digits depend on."""
        import torch

        packages = PACKAGES if self.settings.method == "lora" else ("torch", "numpy")
        versions = {name: version(name) for name in packages}
        return versions | {"device": self.device.partition(":")[0], "threads": str(torch.get_num_threads())}

    def _write(self, out: Path, record: Mapping[str, Any]) -> None:
        import tomli_w
        from safetensors.torch import save_file

        dimension = self.model.features([0]).shape[1]
        card = describe(self.settings, self.embedders, self.judgements, dimension, self.best_epoch)
        details = {"epochs": self.history, "notes": list(self.sides.notes)}
        also = {DETAILS: json.dumps(details, indent=1)}
        if isinstance(self.model, Adapted) and len(self.embedders) == 1:
            [embedder] = self.embedders
            loaded = embedder.model
            assert loaded.module is not None
            described = {**checkpoint.description_of(embedder), **card, "training": dict(record)}
            if "trained_on" not in card:
                described.pop("trained_on", None)
            checkpoint.write(out, described, loaded.preprocessing, loaded.module.state_dict(), also)
            return
        names = " + ".join(published_spec(embedder.spec) for embedder in self.embedders)
        with new_folder(out) as partial:
            members = concatenated.write_members(partial, self.embedders)
            described = {
                "format": checkpoint.FORMAT,
                "family": concatenated.FAMILY,
                "architecture": names.replace(":", " "),
                **card,
                "training": dict(record),
                "members": members,
            }
            if isinstance(self.model, Headed):
                described["hidden"] = self.settings.hidden
                save_file(self._weights(), partial / concatenated.HEAD)
            (partial / checkpoint.DESCRIPTION).write_text(tomli_w.dumps(described), encoding="utf-8")
            for name, text in also.items():
                (partial / name).write_text(text, encoding="utf-8")


def hinge_loss(to_a: "torch.Tensor", to_b: "torch.Tensor", share_b: "torch.Tensor", margin: float) -> "torch.Tensor":
    """Mean over triplets of max(0, margin - (to_a - to_b) · y), where y is 1 if b was held for nearer, else -1.

    Equation 2 of arXiv 2306.09344, as its training scripts have it.

    Args:
        to_a, to_b: `[N]` distances of the reference.
        share_b: `[N]` share of the votes for b; one half counts as a.
    """
    choice = share_b.round() * 2 - 1
    return (margin - (to_a - to_b) * choice).clamp(min=0).mean()


def _load(settings: Settings, device: str) -> list[Embedder]:
    """The backbones, which all see a picture in the same way.

    Raises:
        FinerRankError: one that cannot be loaded, or carried into the result.
    """
    options: Any = {"resize": "squash", "size": settings.size, "interpolation": "bicubic"} if settings.size else {}
    embedders = [load_embedder(spec, device=device, **options) for spec in settings.backbones]
    for embedder in embedders:
        if settings.method == "lora" and embedder.request.family not in FAMILIES:
            raise unfit(embedder)
        is_kept_whole = settings.method == "mlp" and (
            concatenated.is_folder(embedder) or concatenated.is_named(embedder)
        )
        if not is_kept_whole:
            checkpoint.description_of(embedder)
    if not concatenated.prepare_alike([embedder.model for embedder in embedders]):
        raise FinerRankError(
            f"{', '.join(settings.backbones)}: prepare pictures in different ways; tune them one by one"
        )
    return embedders
