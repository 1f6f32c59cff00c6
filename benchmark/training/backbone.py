"""The network that training begins with, and what it has seen."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders import load_embedder, published_spec
from benchmark.embedders.base import LoadedModel
from benchmark.embedders.zoo import data_set_of, zoo
from benchmark.training.settings import Settings
from galleries.downloads import first_line
from galleries.errors import FinerRankError
from galleries.gallery import Gallery

if TYPE_CHECKING:
    import torch


def load_backbone(settings: Settings, device: str) -> LoadedModel:
    """The network as it comes, with photos squashed to the input's size under its own normalisation.

    Raises:
        FinerRankError: unknown, no weights, or weights that do not fit.
    """
    options: Any = {"resize": "squash", "size": settings.size, "interpolation": "bicubic", "device": device}
    try:
        if not settings.from_scratch:
            return load_embedder(settings.backbone, **options).model
        with tempfile.TemporaryDirectory() as folder:
            weights = _random_weights(settings, Path(folder))
            return load_embedder(f"{settings.backbone}@{weights}", **options).model
    except FinerRankError as error:
        raise FinerRankError(str(error).replace("leave --size out", "give the --size that it takes")) from None


def _random_weights(settings: Settings, folder: Path) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file
    from torchvision import models

    family, _, model = settings.backbone.partition(":")
    torch.manual_seed(settings.seed)
    try:
        module = timm.create_model(model) if family == "timm" else models.get_model(model, weights=None)
    except Exception as error:  # unknown names raise many kinds
        raise FinerRankError(f"{settings.backbone}: {family} has no such model ({first_line(error)})") from None
    path = folder / f"random-{settings.seed}.safetensors"
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    return path


def network_of(loaded: LoadedModel) -> "torch.nn.Module":
    """The network that a family of torch built, ready to be trained; `loaded.forward` goes on to use it."""
    assert loaded.module is not None  # `Settings` takes families of torch alone
    return loaded.module.requires_grad_(True)


def what_it_saw(settings: Settings, galleries: Sequence[Gallery]) -> tuple[list[str], list[str]]:
    """Ids of the data sets that backbone and training saw, and what of it has no id."""
    seen: set[str] = set()
    unknown = []
    own = settings.backbone_trained_on
    if own is None:
        cards = [card.trained_on for card in zoo().values() if card.spec == settings.backbone]
        own = () if settings.from_scratch else cards[0] if cards else None
    if own is None:
        unknown.append(f"the backbone {published_spec(settings.backbone)}")
    seen.update(own or ())
    for gallery in galleries:
        data_set = data_set_of(gallery.card.source)
        if data_set:
            seen.add(data_set)
        else:
            unknown.append(f"the gallery {gallery.card.name} (source: {gallery.card.source or 'not stated'})")
    return sorted(seen), unknown
