"""Cosines of an ensemble are the weighted means of its members, which it shares with the store."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ensemble_cases import PICTURES, SQUARES, load_embedders, save_vits
from handmade import write_gallery
from pytest import approx

from benchmark.embed import embed_gallery
from benchmark.embedders import Embedder, load_embedder
from galleries.errors import FinerRankError
from galleries.gallery import Gallery


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_vits(tmp_path_factory.mktemp("vits"))


@pytest.fixture(scope="module")
def embedders(vits: list[str]) -> dict[str, Embedder]:
    return load_embedders(vits)


@pytest.fixture(scope="module")
def rows_of(embedders: dict[str, Embedder]) -> dict[str, npt.NDArray[np.float32]]:
    """Of `SQUARES`."""
    return {family: embedder.embed(SQUARES) for family, embedder in embedders.items()}


def cosines(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = rows.astype(np.float64)
    return values @ values.T


@pytest.mark.parametrize(
    ("weights", "shares"),
    [(("=0.7", "=0.2", "=0.1"), (0.7, 0.2, 0.1)), (("=3", "=2e0", ""), (0.5, 2 / 6, 1 / 6)), (("",) * 3, (1 / 3,) * 3)],
    ids=str,
)
def test_cosines_of_an_ensemble_are_the_weighted_means_of_its_members(
    vits: list[str], rows_of: dict[str, npt.NDArray[np.float32]], weights: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    parts = [f"{name}{weight}" for name, weight in zip([*vits, "classical"], weights, strict=True)]
    alone = [cosines(rows_of[family]) for family in ("timm", "other", "classical")]
    expected = sum(share * part for share, part in zip(shares, alone, strict=True))
    ensemble = load_embedder(f"ensemble:{','.join(parts)}", device="cpu")
    assert [member.weight for member in ensemble.members] == approx(shares, abs=1e-12)
    rows = ensemble.embed(SQUARES)
    assert rows.dtype == np.float32
    assert np.abs(cosines(rows) - expected).max() <= 1e-6
    turned = load_embedder(f"ensemble:{', '.join(reversed(parts))}", device="cpu").embed(SQUARES)
    assert np.abs(cosines(turned) - expected).max() <= 1e-6
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ("", "'' is no member"),
        ("classical", "one member is no ensemble"),
        ("classical=1", "one member is no ensemble"),
        ("classical,classical", "classical is a member twice"),
        ("classical=1,dino=2, classical=3", "classical is a member twice"),
        ("classical=0,dino", "weight 0 of classical is out of range"),
        ("classical=-1,dino", "weight -1 of classical is out of range"),
        ("classical=nan,dino", "weight nan of classical is out of range"),
        ("classical=inf,dino", "weight inf of classical is out of range"),
        ("classical=much,dino", "'much' is no weight"),
        ("classical=,dino", "'' is no weight"),
        ("classical,,dino", "'' is no member"),
        ("=1,dino", "is no member"),
        ("ensemble:classical,dino", "is no member"),
        ("classical,ensemble:dino=1", "is no member"),
        ("classical,dyno", "'dino'"),
        ("classical,cars", "write cars@FILE"),
    ],
)
def test_an_ensemble_that_is_none_is_refused_in_one_line(members: str, what: str) -> None:
    with pytest.raises(FinerRankError) as caught:
        load_embedder(f"ensemble:{members}")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ensembles_members_come_from_the_store(tmp_path: Path, vits: list[str]) -> None:
    gallery, store = Gallery.open(write_gallery(tmp_path / "zoo")), tmp_path / "store"
    names = [*vits, "classical"]

    def embedded(spec: str) -> tuple[npt.NDArray[np.float32], int]:
        found = embed_gallery(gallery, load_embedder(spec, device="cpu"), store)
        return found.rows, found.n_forward_passes

    n_photos = len(gallery.photos)
    alone = [embedded(name) for name in names]
    assert [n for _, n in alone] == [n_photos] * 3
    ensemble = f"ensemble:{vits[0]}=2,{vits[1]},classical"
    rows, n_forward_passes = embedded(ensemble)
    assert n_forward_passes == 0
    expected = sum(share * cosines(part) for share, (part, _) in zip((0.5, 0.25, 0.25), alone, strict=True))
    assert np.abs(cosines(rows) - expected).max() <= 1e-6
    assert [embedded(spec)[1] for spec in (*names, ensemble)] == [0] * 4


def test_a_fresh_ensemble_leaves_its_members_in_the_store(tmp_path: Path, vits: list[str]) -> None:
    gallery, store = Gallery.open(write_gallery(tmp_path / "zoo")), tmp_path / "store"
    ensemble = load_embedder(f"ensemble:{vits[0]},{vits[1]}", device="cpu")
    assert embed_gallery(gallery, ensemble, store).n_forward_passes == 2 * len(gallery.photos)
    for name in vits:
        assert embed_gallery(gallery, load_embedder(name, device="cpu"), store).n_forward_passes == 0


def test_an_ensemble_embeds_all_pictures_of_an_iterator(embedders: dict[str, Embedder]) -> None:
    assert len(embedders["ensemble"].embed(iter(PICTURES))) == len(PICTURES)  # type: ignore[arg-type]


def test_weights_that_are_too_large_to_be_added_are_refused_or_shared() -> None:
    with suppress(FinerRankError):
        ensemble = load_embedder("ensemble:classical=1e308,dino=1e308")
        assert [member.weight for member in ensemble.members] == approx([0.5, 0.5])
