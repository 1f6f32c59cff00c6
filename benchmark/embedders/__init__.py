"""Embedders: an image in, a row of float32 of length 1 out.

`FAMILIES` is the whole registry. A family is one module with `load(request, device, precision)` and `PACKAGES`,
the packages whose version decides what it computes; other packages bring theirs by entry point.
"""

import contextlib
import importlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property, partial
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import Interpolation, LoadedModel, Request, Resize, digest_of, unit_rows
from benchmark.embedders.pictures import Images, Picture, as_pictures, batched, joined, what_is_wrong
from benchmark.embedders.weights import sha256_of_file
from benchmark.embedders.zoo import EncoderCard, SeenState, seen_state, worst_state, zoo
from galleries.downloads import MIRROR, first_line
from galleries.errors import FinerRankError
from galleries.images import BadImage

FAMILIES = ("timm", "open_clip", "torchvision", "transformers", "miewid", "dreamsim", "checkpoint", "classical")
ENTRY_POINTS = "finer_rank.embedders"


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
        memo: folder that remembers fingerprints, so that a second evaluation builds no network at all.
        card: what the zoo says of it.
        members: of an ensemble, which has no network of its own.
    """

    def __init__(
        self,
        request: Request,
        device: str,
        precision: str,
        memo: Path | None,
        card: EncoderCard | None = None,
        members: tuple[Member, ...] = (),
    ) -> None:
        self.spec = request.spec
        self.precision = precision
        self.members = members
        self._card = card
        self.request = request
        self._device = device
        self._memo = memo / "embedders" if memo else None

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
        state, published = seen_state(self.card.trained_on, source), self.card.published
        if self._card is None or self.request.published == published:
            return state
        is_published = published and self.description["weights_sha256"] == published.sha256
        return state if is_published else worst_state([state, "unknown"])

    @cached_property
    def model(self) -> LoadedModel:
        """The network itself, built on first use.

        Raises:
            FinerRankError: it cannot be loaded, or its weights are not those that its owners published.
        """
        device = self._device if self.request.family == "classical" else resolve_device(self._device)
        loaded: LoadedModel = self._family.load(self.request, device, self.precision)
        published = self.request.published
        if published and published.sha256:
            for file in loaded.files:
                if file.name == Path(published.file).name and sha256_of_file(file) != published.sha256:
                    raise FinerRankError(
                        f"{file}: not the file that its owners published (SHA-256 is not {published.sha256[:12]}…); "
                        f"remove it and run finer-rank embedder fetch {self.spec}"
                    )
        return loaded

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that decides the embedding: family, model, digest of the weights, preprocessing, precision."""
        if self.members:
            members = [{**member.embedder.description, "weight": member.weight} for member in self.members]
            return {"family": "ensemble", "members": members}
        remembered = self._remembered()
        if remembered is not None:
            return remembered
        description = {
            "family": self.request.family,
            "model": self.model.architecture,
            "weights_sha256": self.model.weights_digest,
            "preprocessing": dict(self.model.preprocessing),
            "precision": self.precision,
        }
        self._remember(description)
        return description

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
            FinerRankError: it has no text side.
        """
        if self.members or self.model.embed_texts is None:
            raise FinerRankError(f"{self.spec}: has no text side; name an open_clip model, such as clip")
        return unit_rows(self.model.embed_texts(texts))

    def forward(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Preprocessed images `[B, …]` to unit rows `[B, D]` float32."""
        return unit_rows(self.model.forward(batch))

    def _remembered(self) -> dict[str, Any] | None:
        if self._memo is None:
            return None
        try:
            memo = json.loads((self._memo / f"{self._memo_key}.json").read_text())
            if any(signature != _signature(file) for file, signature in memo["files"].items()):
                return None
            # JSON knows no tuples; the digest does not tell them from lists.
            return dict(memo["description"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remember(self, description: dict[str, Any]) -> None:
        if self._memo is None:
            return
        files = [str(file.absolute()) for file in self.model.files]
        memo = {"description": description, "files": {file: _signature(file) for file in files}}
        with contextlib.suppress(OSError):  # the store itself says where it cannot be written
            self._memo.mkdir(parents=True, exist_ok=True)
            target = self._memo / f"{self._memo_key}.json"
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(memo, indent=1))
            partial.replace(target)

    @cached_property
    def _memo_key(self) -> str:
        r = self.request
        kind, colon, folder = r.model.partition("local-dir:")
        model = f"{colon}{Path(folder).absolute()}" if colon and not kind else r.model
        asked = asdict(replace(r, spec="", model=model, weights=r.weights.absolute() if r.weights else None))
        packages = [_version(package) for package in self._family.PACKAGES]
        mirror = os.environ.get(MIRROR, "")
        return digest_of({**asked, "precision": self.precision, "packages": packages, "mirror": mirror, "format": 4})


def load_embedder(
    spec: str,
    *,
    resize: Resize | None = None,
    size: int | None = None,
    interpolation: Interpolation | None = None,
    precision: str = "fp32",
    device: str = "auto",
    memo: Path | None = None,
) -> Embedder:
    """The embedder of that name in the zoo, or `family:model[@weights file]`, or an ensemble of such.

    `dinov2@FILE` takes the weights from a file, or from a folder with the files that the owners published. The cosine
    under `ensemble:dinov2=0.7,clip=0.3` is the weighted mean of its members' cosines.

    Args:
        resize, size, interpolation: replace the model's own geometry; part of the fingerprint.
        memo: see `Embedder`.

    Raises:
        FinerRankError: unknown name or family. Model and weights are looked at when they are needed.
    """
    if precision not in ("fp32", "bf16"):
        raise FinerRankError(f"--precision {precision}: unknown; write fp32 or bf16")
    if size is not None and not 8 <= size <= 4096:
        raise FinerRankError(f"--size {size}: out of range; write 8 to 4096 pixels")
    if spec.startswith("ensemble:"):
        load = partial(
            load_embedder, resize=resize, size=size, interpolation=interpolation, precision=precision, device=device
        )
        members = tuple(Member(load(name, memo=memo), weight) for name, weight in _weighted(spec))
        return Embedder(Request(spec, "ensemble", "", None), device, precision, memo, members=members)
    card, request = _request(spec)
    request = replace(request, resize=resize, size=size, interpolation=interpolation)
    return Embedder(request, device, precision, memo, card)


def _request(spec: str) -> tuple[EncoderCard | None, Request]:
    name, at, after = spec.partition("@")
    card = zoo().get(name)
    family, colon, rest = (card.spec if card else spec).partition(":")
    if not colon or (family not in FAMILIES and family not in foreign_families()):
        raise _unknown(spec)
    if card is None:
        model, weights = _split_weights(rest)
        return None, Request(spec, family, model, weights)
    if at and not after:
        raise FinerRankError(f"{spec}: no file follows the '@'; write {name}, or {name}@FILE")
    brought = Path(after) if at else None
    if rest.startswith("hf-hub:"):
        if brought is not None:
            rest = f"local-dir:{brought}"
        elif card.published and card.published.revision:
            rest = f"{rest}@{card.published.revision}"
        brought = None
    elif brought is not None and brought.is_dir() and card.published and (brought / card.published.file).is_file():
        brought = brought / card.published.file
    if brought is None and card.published is None and family not in ("classical", "checkpoint"):
        raise FinerRankError(f"{spec}: nobody publishes its weights; train it, and write {name}@FILE")
    published = None if at else card.published
    request = Request(spec, family, rest, brought, published=published, preprocessing=card.preprocessing)
    return card, replace(request, pooling=card.pooling)


def _unknown(spec: str) -> FinerRankError:
    families = [f"{family}:" for family in (*FAMILIES, *foreign_families(), "ensemble")]
    near = get_close_matches(spec, [*zoo(), *families], n=3, cutoff=0.5)
    hint = f"{' or '.join(map(repr, near))} is meant? " if near else ""
    return FinerRankError(
        f"{spec}: no such embedder; {hint}known: the names that finer-rank embedder list shows, and family:model"
        f"[@weights file] with {', '.join(families)}"
    )


def _weighted(spec: str) -> list[tuple[str, float]]:
    """The members of `ensemble:NAME[=WEIGHT],NAME[=WEIGHT]…` with their weights, which add up to 1.

    Raises:
        FinerRankError: fewer than two members, one twice, or a weight that is none.
    """
    members: dict[str, float] = {}
    for part in spec.removeprefix("ensemble:").split(","):
        name, _, weight = part.strip().rpartition("=") if "=" in part else (part.strip(), "", "1")
        if not name or name.startswith("ensemble:"):
            raise FinerRankError(f"{spec}: {part!r} is no member; write ensemble:dinov2=0.7,clip=0.3")
        if name in members:
            raise FinerRankError(f"{spec}: {name} is a member twice; name each once, with a weight: {name}=2")
        try:
            members[name] = float(weight)
        except ValueError:
            raise FinerRankError(f"{spec}: {weight!r} is no weight; write a number: {name}=0.5") from None
        if not (members[name] > 0 and math.isfinite(members[name])):
            raise FinerRankError(f"{spec}: weight {weight} of {name} is out of range; write one above 0")
    if len(members) < 2:
        raise FinerRankError(f"{spec}: one member is no ensemble; write ensemble:dinov2=0.7,clip=0.3")
    largest = max(members.values())  # their sum may be more than a float holds
    total = math.fsum(weight / largest for weight in members.values())
    return [(name, weight / largest / total) for name, weight in members.items()]


@cache
def foreign_families() -> Mapping[str, EntryPoint]:
    """Families of other packages: entry points of the group `finer_rank.embedders`, each a module like ours."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in FAMILIES}


def _split_weights(rest: str) -> tuple[str, Path | None]:
    if rest.startswith("local-dir:") and Path(rest.removeprefix("local-dir:")).is_dir():
        return rest, None
    model, at, after = rest.partition("@")
    if model.startswith("hf-hub:"):  # there the first @ names a revision
        revision, second_at, file = after.partition("@")
        return (f"{model}{at}{revision}", Path(file)) if second_at else (rest, None)
    return model, Path(after) if at else None


def published_spec(spec: str) -> str:
    """A spec whose files are named without their folders: records are published."""
    if spec.startswith("ensemble:"):
        parts = [part.partition("=") for part in spec.removeprefix("ensemble:").split(",")]
        return "ensemble:" + ",".join(f"{published_spec(name)}{equals}{weight}" for name, equals, weight in parts)
    model, at, weights = spec.partition("@")
    for marker in ("local-dir:", "checkpoint:"):
        start, found, folder = model.partition(marker)
        model = f"{start}{found}{Path(folder).name}" if found else model
    return f"{model}{at}{Path(weights).name}" if at and "hf-hub:" not in model else model + at + weights


def resolve_device(device: str) -> str:
    """`auto` as the best device at hand.

    Raises:
        FinerRankError: a device that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
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


def _signature(path: str) -> list[int]:
    """What changes when a file's content does, without reading it."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
