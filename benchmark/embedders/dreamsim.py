"""DreamSim: `dreamsim:TYPE[@ARCHIVE]` (Fu, Tamir, Sundaram et al. 2023, arXiv 2306.09344).

One Vision Transformer, or three side by side, tuned by LoRA adapters on human judgements of similarity. ARCHIVE is the
zip that its owners published, or a folder that it was unpacked into, such as the cache folder of their package.

Their package takes the DINO and DINOv2 backbones from Meta, whatever the archive holds: its DINO file is a training
state, with a student and a projection head. Here they come from the first of `Kind.files` in the archive that holds
such a network and, where none does, from the hub: Meta's weights, as the zoo's cards `dino` and `dinov2` name them.
"""

import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders.base import LoadedModel, Preprocessing, Published, Request, network_model
from benchmark.embedders.dreamsim_backbones import KINDS, TYPES, Adapter, Kind, Type, build, is_training_state
from benchmark.embedders.weights import read_state_dict
from benchmark.embedders.zoo import zoo
from galleries.downloads import first_line
from galleries.errors import FinerRankError, printable

if TYPE_CHECKING:
    import torch

PACKAGES = ("timm", "torch")
RELEASES = "https://github.com/ssundaram21/dreamsim/releases/download"
OWN = Preprocessing((224, 224), "squash", (224, 224), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
MAX_BYTES = 4 << 30  # of a member of a zip, unpacked; a ViT-B has 0.35 GB


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The backbones, adapters merged: `[B, 3, 224, 224]` in [0, 1], which each of them normalises, to `[B, D]`.

    The embedding is the backbones' CLS tokens side by side, less their mean (the package's default). With patches,
    each token less its mean is scaled to length 1, and the embedding is CLS beside the mean of the patches.
    The feature map `[B, h, w, C]` holds the patch tokens, read out as the CLS token is, neither centred nor scaled.

    Raises:
        FinerRankError: an unknown type or size, or an archive that is damaged, hostile or of another type.
    """
    import torch
    from torch.nn.functional import normalize

    wanted = TYPES.get(request.model)
    if wanted is None:
        raise FinerRankError(f"{request.spec}: DreamSim has no such type; choose among {', '.join(TYPES)}")
    preprocessing = (request.preprocessing or OWN).overridden(request.resize, request.size, request.interpolation)
    if preprocessing.size != OWN.size:
        raise FinerRankError(f"{request.spec}: takes 224 × 224 pixels only; leave --size out")
    own = Published(f"{RELEASES}/{wanted.release}-checkpoints", f"dreamsim_{request.model}_checkpoint.zip")
    archive = Archive(request.weights_or(lambda: own.fetch(f"{request.spec}@FILE")))
    adapter = _adapter(archive, request.model, wanted)
    kinds = [KINDS[name] for name in wanted.backbones]
    vits: Any = torch.nn.ModuleList()
    files = [adapter.path.with_name(CONFIG), adapter.path]
    for i, kind in enumerate(kinds):
        path, state = _brought(archive, kind) or _published(request.model, kind)
        vits.append(adapter.merged_into(build(kind, state, path), i))
        files.append(path)
    adapter.refuse_unused()

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        """`[B, 1 + h·w, C]` float32, the class token first."""
        pairs = zip(kinds, vits, strict=True)
        return torch.cat([vit.head(vit.forward_features(kind.normalised(pixels))).float() for kind, vit in pairs], -1)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        found = tokens(pixels)
        if not wanted.with_patches:
            return _centred(found[:, 0])
        directions = normalize(_centred(found), dim=-1)
        return torch.cat([directions[:, 0], directions[:, 1:].mean(dim=1)], dim=-1)

    def patches(pixels: torch.Tensor) -> torch.Tensor:
        n, length, channels = (found := tokens(pixels)[:, 1:]).shape
        return found.reshape(n, math.isqrt(length), math.isqrt(length), channels)

    weights = tuple(dict.fromkeys(archive.on_disk(path) for path in files))
    return network_model(vits, encode, preprocessing, request.model, weights, device, precision, feature_map=patches)


def _centred(features: "torch.Tensor") -> "torch.Tensor":
    return features - features.mean(dim=-1, keepdim=True)


class Archive:
    """The owners' archive, as a zip or a folder: its members by their names.

    Of a zip nothing stays on disk: a member is unpacked under a temporary name while it is read. An unpacked copy that
    outlived the zip could differ from it, and the zip's digest is the fingerprint.

    Raises:
        FinerRankError: no such zip or folder, or a member that would be written elsewhere.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FinerRankError(f"{path}: no such weights file or folder; check the path after '@'")
        self.path = path
        self.is_zip = not path.is_dir()
        self._members: list[str] = []
        try:
            if self.is_zip:
                with zipfile.ZipFile(path) as zipped:
                    self._members = zipped.namelist()
        except Exception as error:  # damaged archives raise many kinds
            raise FinerRankError(f"{path}: not a readable zip ({first_line(error)}); fetch it again") from None
        for name in self._members:
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                raise FinerRankError(f"{path}: its member {printable(name)} leads out of it; fetch it again")

    def __contains__(self, name: str) -> bool:
        return name in self._members if self.is_zip else (self.path / name).is_file()

    def on_disk(self, path: Path) -> Path:
        """The file that a member came from: the zip, or itself."""
        return self.path if self.is_zip and path.is_relative_to(self.path) else path

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A member as a file.

        Raises:
            FinerRankError: it cannot be unpacked; or what is raised of the file meanwhile, under the member's name.
        """
        if not self.is_zip:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="finer-rank-") as folder:
            copy = Path(folder, Path(name).name)
            try:
                self._unpack(name, copy)
                yield copy
            except FinerRankError as error:
                raise FinerRankError(str(error).replace(str(copy), str(self.path / name))) from None

    def _unpack(self, name: str, copy: Path) -> None:
        try:
            with zipfile.ZipFile(self.path) as zipped:
                size = zipped.getinfo(name).file_size  # which zipfile never exceeds
                if size <= MAX_BYTES:
                    with zipped.open(name) as packed, copy.open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
                    return
                fault = f"unpacks to {size / 1e9:.0f} GB, more than any weights of DreamSim; fetch the zip again"
        except OSError as error:
            fault = f"cannot be unpacked into {tempfile.gettempdir()} ({first_line(error)}); set TMPDIR to a folder"
        except Exception as error:  # damaged archives raise many kinds
            fault = f"damaged or encrypted ({first_line(error)}); fetch the zip again"
        raise FinerRankError(f"{copy}: {fault}")


def _adapter(archive: Archive, model: str, wanted: Type) -> Adapter:
    """The adapter of all backbones.

    Raises:
        FinerRankError: the archive is another type's, or not whole.
    """
    config, *weights = (f"{wanted.adapter}/{name}" for name in (CONFIG, *WEIGHTS))
    needed = [(config,), weights, *[kind.files for name in wanted.backbones if not (kind := KINDS[name]).card]]
    for names in needed:
        if not any(name in archive for name in names):
            others = [f"dreamsim:{name}" for name, each in TYPES.items() if f"{each.adapter}/{CONFIG}" in archive]
            is_other = others and f"dreamsim:{model}" not in others
            hint = f"it is the archive of {' and '.join(others)}" if is_other else "fetch the owners' zip again"
            raise FinerRankError(f"{archive.path}: lacks {' or '.join(names)}; {hint}")
    name = next(name for name in weights if name in archive)
    with archive.file(config) as config_file, archive.file(name) as weights_file:
        return Adapter.read(config_file, weights_file, archive.path / name)


def _brought(archive: Archive, kind: Kind) -> "tuple[Path, dict[str, torch.Tensor]] | None":
    """The backbone's tensors in the archive, and where; None where it holds none of Meta's."""
    for name in kind.files:
        if name in archive:
            with archive.file(name) as file:
                if kind.card and is_training_state(file):
                    continue
                state = read_state_dict(file)
            if not kind.card or "cls_token" in state:
                return archive.path / name, state
    return None


def _published(model: str, kind: Kind) -> "tuple[Path, dict[str, torch.Tensor]]":
    """Meta's weights on the hub.

    Raises:
        FinerRankError: they are out of reach.
    """
    published: Any = zoo()[kind.card].published
    path: Path = published.fetch(f"dreamsim:{model}@FOLDER, the unpacked zip, with {kind.files[1]} put into it")
    return path, read_state_dict(path)
