"""Embedders: an image in, a row of float32 of length 1 out.

`FAMILIES` is the whole registry. A family is one module with `load(request, device, precision)` and `PACKAGES`,
the packages whose version decides what it computes; other packages bring theirs by entry point.
"""

import importlib
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import Interpolation, LoadedModel, Request, Resize, compiled, digest_of, unit_rows
from benchmark.embedders.memo import FingerprintMemo
from benchmark.embedders.pictures import Images, Picture, as_pictures, batched, joined, what_is_wrong
from benchmark.embedders.specs import FAMILIES, foreign_families, parse, published_spec, weighted
from benchmark.embedders.weights import sha256_of_file
from benchmark.embedders.zoo import EncoderCard, SeenState, seen_state, worst_state
from benchmark.store import Root, memo_folder
from galleries.downloads import MIRROR, first_line
from galleries.errors import FinerRankError
from galleries.images import BadImage

__all__ = ["FAMILIES", "Embedder", "Member", "load_embedder", "published_spec", "resolve_device"]


@dataclass(frozen=True)
class Member:
    """A member of an ensemble, and the weight of its cosine in the ensemble's; the weights add up to 1."""

    embedder: "Embedder"
    weight: float


class Embedder:
    """One encoder with its preprocessing. The network is built when it is first needed.

    Args:
        request: what was asked for.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`.
        precision: `fp32` or `bf16`.
        memo: store beside which fingerprints are remembered, so that a second evaluation builds no network at all.
        card: what the zoo says of it.
        members: of an ensemble, which has no network of its own.
        is_compiled: by `torch.compile`.
    """

    def __init__(
        self,
        request: Request,
        device: str,
        precision: str,
        memo: Root | None,
        card: EncoderCard | None = None,
        members: tuple[Member, ...] = (),
        is_compiled: bool = False,
    ) -> None:
        self.spec = request.spec
        self.precision = precision
        self.is_compiled = is_compiled
        self.members = members
        self._card = card
        self.request = request
        self._device = device
        self._memo = FingerprintMemo(memo_folder(memo) / "embedders" if memo else None)

    @property
    def plain(self) -> "list[Embedder]":
        """Those that have a network: itself, or the members of an ensemble."""
        return [member.embedder for member in self.members] or [self]

    def on(self, device: str) -> "Embedder":
        """The same embedder on another device, perhaps in another process: its network is built there."""
        other = copy(self)
        other._device = device
        for built in ("model", "_family"):
            vars(other).pop(built, None)
        return other

    @cached_property
    def _family(self) -> Any:
        foreign = foreign_families().get(self.request.family)
        if foreign is None:
            return importlib.import_module(f"benchmark.embedders.{self.request.family}")
        try:
            return foreign.load()
        except Exception as error:  # of somebody else's module
            raise FinerRankError(
                f"{self.spec}: {foreign.value} cannot be imported ({first_line(error)}); mend or remove that package"
            ) from None

    @cached_property
    def card(self) -> EncoderCard | None:
        """What is known of it; None for weights that no card speaks of."""
        if self._card is None and not self.members and hasattr(self._family, "card"):
            card: EncoderCard = self._family.card(self.request)
            return card
        return self._card

    def seen_state(self, source: str) -> SeenState:
        """Whether it saw a gallery's photos when it was trained.

        Of weights that were brought under a card's name, all but the published file may have seen more than it says.

        Args:
            source: what the gallery names as its source.
        """
        if self.members:
            return worst_state([member.embedder.seen_state(source) for member in self.members])
        if self.card is None:
            return "unknown"
        state = seen_state(self.card.trained_on, source)
        return state if self.is_as_published else worst_state([state, "unknown"])

    @property
    def is_as_published(self) -> bool:
        """Whether its card speaks of these very weights, and not of others that were brought under its name."""
        if self._card is None or (self.request.weights is None and self.request.published == self._card.published):
            return self.card is not None
        published = self._card.published
        return bool(published and self.description["weights_sha256"] == published.sha256)

    @cached_property
    def model(self) -> LoadedModel:
        """The network itself, built on first use.

        Raises:
            FinerRankError: it cannot be loaded, or its weights are not those that its owners published.
        """
        device = self._device if self.request.family == "classical" else resolve_device(self._device)
        try:
            loaded: LoadedModel = self._family.load(self.request, device, self.precision)
        except Exception as error:
            foreign = foreign_families().get(self.request.family)
            if foreign is None or isinstance(error, FinerRankError):
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise FinerRankError(f"{self.spec}: {foreign.value} fails ({reason}); does it need @FILE?") from None
        published = self.request.published
        if published and published.sha256:
            same = [file for file in loaded.files if file.name == Path(published.file).name]
            if not same or sha256_of_file(same[0]) != published.sha256:
                file = (same or list(loaded.files))[0]
                raise FinerRankError(
                    f"{file}: not the file {published.file} that its owners published (SHA-256 {published.sha256[:12]}…"
                    f"); remove it and run finer-rank embedder fetch {self.spec}"
                )
        return compiled(loaded, self.spec, self.precision) if self.is_compiled else loaded

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that decides the embedding: family, model, digest of the weights, preprocessing, precision."""
        if self.members:
            members = [{**member.embedder.description, "weight": member.weight} for member in self.members]
            return {"family": "ensemble", "members": members}
        return self._memo.read(self._memo_key) or self._described()

    def _described(self) -> dict[str, Any]:
        description: dict[str, Any] = {
            "family": self.request.family,
            "model": self.model.architecture,
            "weights_sha256": self.model.weights_digest,
            "preprocessing": dict(self.model.preprocessing),
            "precision": self.precision,
        }
        if self.is_compiled:
            description["compiled"] = True
        foreign = foreign_families().get(self.request.family)
        if foreign and foreign.dist:
            description["package"] = f"{foreign.dist.name} {foreign.dist.version}"
        is_searched = self.request.family == "checkpoint" or ":" in self.request.model
        self._memo.write(self._memo_key, description, self.model.files, is_searched)
        return description

    def is_outdated(self) -> bool:
        """Whether the network, now that it is built, is not the one that was remembered; mends the fingerprint then."""
        description = self._described()
        if digest_of(description) == self.fingerprint:
            return False
        self.description, self.fingerprint = description, digest_of(description)
        return True

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `description`."""
        return digest_of(self.description)

    @cached_property
    def packages(self) -> tuple[str, ...]:
        """Those whose version decides what it computes."""
        own = (member.embedder.packages for member in self.members)
        return tuple(dict.fromkeys(sum(own, ()))) if self.members else tuple(self._family.PACKAGES)

    def embed(self, images: Images, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Embed images: `[N, D]` float32 rows of length 1. Nothing is cached (see `benchmark.embed`).

        Args:
            images: PIL images or paths of image files; or one array or tensor `[N, 3, H, W]`, of uint8 or of floats
                in [0, 1].
            batch_size: images per forward pass.

        Raises:
            FinerRankError: an image that cannot be read, an array of another kind, or an embedding that is not
                finite or constant; names the image.
        """
        if batch_size < 1:
            raise FinerRankError(f"batch_size {batch_size}: out of range; write 1 or more")
        return self._embed(as_pictures(images), batch_size)

    def _embed(self, pictures: Sequence[tuple[str, Picture]], batch_size: int) -> npt.NDArray[np.float32]:
        if self.members:
            return joined([(member.embedder._embed(pictures, batch_size), member.weight) for member in self.members])
        rows = []
        for named in batched(pictures, batch_size):
            found = self.forward(np.stack([self._prepared(name, picture) for name, picture in named]))
            for (name, _), row in zip(named, found, strict=True):
                wrong = what_is_wrong(row)
                if wrong:
                    raise FinerRankError(f"{name}: {wrong}; look at the image: {self.spec} cannot place it")
            rows.append(found)
        return np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)

    def _prepared(self, name: str, picture: Picture) -> npt.NDArray[Any]:
        try:
            return self.model.preprocess(picture())
        except BadImage as error:
            raise FinerRankError(f"{name}: {error}") from None

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts in the space of the images: `[N, D]` float32 rows of length 1.

        Raises:
            FinerRankError: it has no text side, or its tokenizer is out of reach or another model's.
        """
        if self.members or self.model.embed_texts is None:
            raise FinerRankError(f"{self.spec}: has no text side; name an open_clip model, such as clip")
        try:
            return unit_rows(self.model.embed_texts(texts))
        except FinerRankError:
            raise
        except Exception as error:  # tokenizers that are missing, damaged or of other models raise many kinds
            raise FinerRankError(
                f"{self.spec}: cannot embed texts ({first_line(error)}); it needs the tokenizer of its training: "
                f"run finer-rank embedder fetch {self.spec} where there is a network, or put its files in place"
            ) from None

    def texts_digest(self) -> str:
        """SHA-256 of what tokenizes, of which the fingerprint does not speak: files beside the weights, and packages.

        Builds no network where the fingerprint is remembered. Some tokenizers are fetched only when the first text is
        embedded; the digest changes then.
        """
        from benchmark.embedders.transformers import TOKENIZER

        names = (*TOKENIZER, "vocab.txt", "sentencepiece.bpe.model")
        decided = (None if "model" in vars(self) else self._memo.files(self._memo_key)) or self.model.files
        folders = sorted({file.absolute().parent for file in decided})
        files = [folder / name for folder in folders for name in names]
        packages = (*self.packages, "transformers", "tokenizers", "sentencepiece", "ftfy")
        return digest_of(
            {
                "files": [(file.name, sha256_of_file(file)) for file in files if file.is_file()],
                "packages": {package: _version(package) for package in packages},
            }
        )

    def forward(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Preprocessed images `[B, …]` to unit rows `[B, D]` float32."""
        return unit_rows(self.model.forward(batch))

    @cached_property
    def _memo_key(self) -> str:
        r = self.request
        asked = asdict(replace(r, spec="", weights=r.weights.absolute() if r.weights else None))
        packages = [_version(package) for package in self._family.PACKAGES]
        # Models may be folders, and the mirror is one: relative ones are others from elsewhere.
        places = {"mirror": os.environ.get(MIRROR, ""), "from": Path.cwd()}
        how = {"compiled": True} if self.is_compiled else {}
        return digest_of({**asked, **places, **how, "precision": self.precision, "packages": packages, "format": 5})


def load_embedder(
    spec: str,
    *,
    resize: Resize | None = None,
    size: int | None = None,
    interpolation: Interpolation | None = None,
    precision: str = "fp32",
    device: str = "auto",
    memo: Root | None = None,
    is_compiled: bool = False,
) -> Embedder:
    """The embedder of that name in the zoo, or `family:model[@weights file]`, or an ensemble of such.

    `dinov2@FILE` takes the weights from a file, or from a folder with the files that the owners published. The cosine
    under `ensemble:dinov2=0.7,clip=0.3` is the weighted mean of its members' cosines.

    Args:
        resize, size, interpolation: replace the model's own geometry; part of the fingerprint.
        memo, is_compiled: see `Embedder`.

    Raises:
        FinerRankError: unknown name or family. Model and weights are looked at when they are needed.
    """
    if precision not in ("fp32", "bf16"):
        raise FinerRankError(f"--precision {precision}: unknown; write fp32 or bf16")
    if size is not None and not 8 <= size <= 4096:
        raise FinerRankError(f"--size {size}: out of range; write 8 to 4096 pixels")
    if spec.startswith("ensemble:"):
        load = partial(
            load_embedder,
            resize=resize,
            size=size,
            interpolation=interpolation,
            precision=precision,
            device=device,
            is_compiled=is_compiled,
        )
        members = tuple(Member(load(name, memo=memo), weight) for name, weight in weighted(spec))
        return Embedder(Request(spec, "ensemble", "", None), device, precision, memo, members=members)
    card, request = parse(spec)
    request = replace(request, resize=resize, size=size, interpolation=interpolation)
    return Embedder(request, device, precision, memo, card, is_compiled=is_compiled)


def resolve_device(device: str) -> str:
    """`auto` as the best device at hand.

    Raises:
        FinerRankError: a device that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cpu:"):
        raise FinerRankError(f"--device {device}: there is one CPU; write cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.split(":")[0], False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise FinerRankError(f"--device {device}: not there; available: {there}")
    return device


def _version(package: str) -> str:
    """ "" where it is not installed, of which the family says more."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
