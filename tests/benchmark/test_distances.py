"""Pairwise distances, against other implementations of the same formulas and against hand-worked cases."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from handmade import save_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import approx
from safetensors.torch import load_file, save_file
from torch import Tensor
from trunks import random_features, write_trunk

from benchmark.distances import Distance, Resources, load_distance
from benchmark.distances.lpips import CHANNELS, Trunk, load_trunk, published_weights
from benchmark.distances.pairs import PictureDistance
from benchmark.embedders import load_embedder
from galleries.errors import FinerRankError

Pictures = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trunks")
    return {network: write_trunk(folder / f"{network}.safetensors", network) for network in CHANNELS}


@pytest.fixture(scope="module")
def squeeze(trunks: dict[str, Path]) -> Distance:
    return load_distance(f"lpips:squeeze@{trunks['squeeze']}", device="cpu")


@pytest.fixture(scope="module")
def every(trunks: dict[str, Path]) -> dict[str, Distance]:
    """A distance of each method."""
    specs = {"lpips": f"lpips:squeeze@{trunks['squeeze']}", "dists": f"dists@{trunks['vgg']}"}
    return {name: load_distance(specs.get(name, name), device="cpu") for name in ("lpips", "dists", "ssim", "psnr")}


def noise(n: int, height: int = 36, width: int = 33, seed: int = 0) -> Pictures:
    """Blurred, so that neighbouring pixels are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8).astype(float)
    for axis in (2, 3):
        coarse = (coarse + np.roll(coarse, 1, axis) + np.roll(coarse, 2, axis)) / 3
    return coarse.astype(np.uint8)


def as_tensor(pictures: Pictures) -> Tensor:
    return torch.from_numpy(pictures).float() / 255


def their_lpips(network: str, features: torch.nn.Sequential) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS of torchmetrics with our trunk."""
    from torchmetrics.functional.image import lpips

    with torch.device("meta"):  # vgg16 as a whole has 138 million weights
        theirs = lpips._LPIPS(net=network, pretrained=False, pnet_rand=True)  # type: ignore[arg-type]
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.scaling_layer = lpips.ScalingLayer()
    file = Path(lpips.__file__).parent / "lpips_models" / f"{network}.pth"
    theirs.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=False)
    # Their slices number the layers as torchvision does, behind the slice's own name.
    depth = 2 if network == "squeeze" else 1
    own = features.state_dict()
    theirs.net.load_state_dict({key: own[key.split(".", depth)[depth]] for key in theirs.net.state_dict()})
    return lambda first, second: theirs(first, second, normalize=True).flatten()


@pytest.mark.parametrize("network", CHANNELS)
def test_lpips_is_that_of_torchmetrics(network: str, trunks: dict[str, Path]) -> None:
    first, second = noise(2, 48, 41, seed=1), noise(2, 48, 41, seed=2)
    expected = their_lpips(network, random_features(network))(as_tensor(first), as_tensor(second))
    found = load_distance(f"lpips:{network}@{trunks[network]}", device="cpu").between(first, second)
    assert found == approx(expected.numpy(), rel=1e-5)
    assert (found > 1e-3).all()


@pytest.mark.parametrize("network", CHANNELS)
def test_lpips_is_its_differences_weighed_by_what_is_published(network: str, trunks: dict[str, Path]) -> None:
    trunk = load_trunk(network, trunks[network], "cpu")
    weights = published_weights(network)
    assert len(weights) == sum(CHANNELS[network])
    assert (weights >= 0).all()
    first, second = noise(1, seed=1), noise(1, seed=2)
    differences = trunk.differences(as_tensor(first), as_tensor(second))
    assert differences.shape == (1, sum(CHANNELS[network]))
    assert (differences >= 0).all()
    found = load_distance(f"lpips:{network}@{trunks[network]}", device="cpu").between(first, second)
    assert found == approx((differences @ weights).numpy(), rel=1e-5)


def test_the_published_weights_are_those_that_others_counted() -> None:
    alex = published_weights("alex").split(CHANNELS["alex"])
    assert [float(layer.sum()) for layer in alex] == approx([2.3495, 16.1430, 39.2684, 27.1972, 20.3172], abs=1e-4)
    zeros = {network: int((published_weights(network) == 0).sum()) for network in CHANNELS}
    assert zeros == {"alex": 150, "vgg": 0, "squeeze": 119}


def test_dists_is_that_of_torchmetrics(trunks: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import dists

    class Vgg:
        features = random_features("vgg")

    monkeypatch.setattr(dists, "vgg16", lambda weights: Vgg)
    first, second = noise(2, 40, 37, seed=1), noise(2, 40, 37, seed=2)
    expected = dists.DISTSNetwork()(as_tensor(first), as_tensor(second))
    found = load_distance(f"dists@{trunks['vgg']}", device="cpu").between(first, second)
    assert found == approx(expected.detach().numpy(), abs=1e-5)
    assert (found > 0.01).all()


def test_ssim_and_psnr_are_those_of_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    first, second = noise(3, 30, 25, seed=1), noise(3, 30, 25, seed=2)
    ssim = [
        1 - structural_similarity(a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for a, b in zip(first, second, strict=True)
    ]
    psnr = [-peak_signal_noise_ratio(a, b) for a, b in zip(first, second, strict=True)]
    assert load_distance("ssim").between(first, second) == approx(ssim, abs=1e-9)
    assert load_distance("psnr").between(first, second) == approx(psnr, abs=1e-9)


def test_windows_over_the_border_alone_tell_our_ssim_from_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (torch.from_numpy(noise(1, 30, 25, seed)) for seed in (1, 2))
    _, everywhere = structural_similarity_index_measure(
        first.double(), second.double(), data_range=255.0, return_full_image=True
    )
    inside = everywhere[..., 5:-5, 5:-5]  # type: ignore[index]
    assert load_distance("ssim").between(first, second)[0] == approx(1 - float(inside.mean()), abs=1e-9)


def test_black_and_white_are_as_far_apart_as_the_formulas_say() -> None:
    black, white = np.zeros((1, 3, 12, 12), np.uint8), np.full((1, 3, 12, 12), 255, np.uint8)
    c1 = 0.01**2
    assert load_distance("ssim").between(black, white)[0] == approx(1 - c1 / (1 + c1))
    assert load_distance("psnr").between(black, white)[0] == approx(0)
    grey = np.full((1, 3, 12, 12), 1, np.uint8)  # one level everywhere
    assert load_distance("psnr").between(black, grey)[0] == approx(-20 * math.log10(255))


@pytest.mark.parametrize("name", ["lpips", "dists", "ssim", "psnr"])
def test_pictures_of_the_same_pixels_are_at_the_least_distance(
    name: str, every: dict[str, Distance], tmp_path: Path
) -> None:
    least = -200 if name == "psnr" else 0
    pictures = noise(2)
    assert every[name].between(pictures, pictures).tolist() == [least, least]
    picture = Image.fromarray(pictures[0].transpose(1, 2, 0))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.bmp")  # other bytes, the same pixels
    turned = picture.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    transparent = picture.convert("RGBA")
    transparent.save(tmp_path / "alpha.png")
    pairs = [(tmp_path / "a.png", tmp_path / other) for other in ("a.png", "a.bmp", "turned.png", "alpha.png")]
    assert every[name].of_pairs(pairs, Resources(tmp_path / "store")).tolist() == [least] * 4


def test_the_same_pixels_are_near_without_being_recognised(every: dict[str, Distance]) -> None:
    one = as_tensor(noise(1))
    for name, most in (("lpips", 1e-9), ("dists", 1e-6), ("ssim", 1e-12)):
        distance = every[name]
        assert isinstance(distance, PictureDistance)
        features = distance.method.features(one), distance.method.features(one.clone())
        assert 0 <= distance.method.distance(*features) <= most


def test_no_two_pictures_are_as_near_as_the_same(tmp_path: Path) -> None:
    first = np.zeros((1, 3, 400, 300), np.uint8)
    second = first.copy()
    second[0, 0, 0, 0] = 1
    nearest = load_distance("psnr").between(first, second)[0]
    n_most = 3 * 80_000_000  # of the largest picture that is read
    assert -200 < nearest - 10 * math.log10(n_most / first.size) < nearest < 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(17, 40), width=st.integers(17, 40), n=st.integers(1, 4))
def test_distances_are_symmetric_and_at_least_zero(
    seed: int, height: int, width: int, n: int, every: dict[str, Distance]
) -> None:
    first, second = noise(n, height, width, seed), noise(n, height, width, seed + 1)
    for name, distance in every.items():
        if name == "dists" and seed % 3:  # VGG16 takes its time
            continue
        there, back = distance.between(first, second), distance.between(second, first)
        assert there == approx(back, rel=1e-5, abs=1e-7)
        assert (there >= (-200 if name == "psnr" else 0)).all()


@settings(max_examples=10, deadline=None)
@given(data=st.data(), batch_size=st.integers(1, 9))
def test_neither_batches_nor_order_move_a_distance(data: st.DataObject, batch_size: int, squeeze: Distance) -> None:
    pictures = noise(5, 20, 22)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
    one, other = ([pair[side] for pair in pairs] for side in (0, 1))
    together = squeeze.between(pictures[one], pictures[other], batch_size)
    alone = [squeeze.between(pictures[[a]], pictures[[b]])[0] for a, b in pairs]
    assert together == approx(alone, rel=1e-5, abs=1e-7)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("album")
    return [save_noise(folder / f"{i}.png", i, (40, 32)) for i in range(6)]


def test_files_and_arrays_give_the_same_distances(album: list[Path], squeeze: Distance, tmp_path: Path) -> None:
    pairs = [(album[i], album[j]) for i in range(6) for j in range(6)]
    of_files = squeeze.of_pairs(pairs, Resources(tmp_path, batch_size=3))
    arrays = {path: np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in album}
    one, other = (np.stack([arrays[pair[side]] for pair in pairs]) for side in (0, 1))
    assert of_files == approx(squeeze.between(one, other), rel=1e-5, abs=1e-7)
    floats = torch.from_numpy(one).float() / 255, torch.from_numpy(other).float() / 255
    assert of_files == approx(squeeze.between(*floats), rel=1e-5, abs=1e-7)
    assert of_files == approx(squeeze.between(*zip(*pairs, strict=True)), rel=1e-5, abs=1e-7)


def test_file_names_and_row_order_decide_nothing(album: list[Path], squeeze: Distance, tmp_path: Path) -> None:
    pairs = [(album[0], path) for path in album[1:]]
    expected = squeeze.of_pairs(pairs, Resources(tmp_path))
    renamed = {path: Path(shutil.copy(path, tmp_path / f"z{9 - i}.png")) for i, path in enumerate(album)}
    found = squeeze.of_pairs([(renamed[b], renamed[a]) for a, b in reversed(pairs)], Resources(tmp_path))
    assert found.tolist() == expected.tolist()[::-1]


def test_a_picture_of_many_pairs_goes_through_the_network_once(album: list[Path], squeeze: Distance) -> None:
    assert isinstance(squeeze, PictureDistance)
    seen: list[int] = []
    [first] = [m for m in squeeze.method.trunk.modules() if isinstance(m, torch.nn.Conv2d)][:1]  # type: ignore[attr-defined]
    hook = first.register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    squeeze.of_pairs([(a, b) for a in album for b in album], Resources(Path("unused"), batch_size=4))
    hook.remove()
    assert sum(seen) == len(album)
    assert max(seen) <= 4


def test_where_memory_ends_fewer_pictures_are_taken_at_a_time(album: list[Path], tmp_path: Path) -> None:
    ssim = load_distance("ssim")
    assert isinstance(ssim, PictureDistance)
    expected = ssim.of_pairs([(a, b) for a in album for b in album], Resources(tmp_path))

    class Greedy(type(ssim.method)):  # type: ignore[misc]
        most = 3

        def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
            if len(pixels) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            found: tuple[Tensor, ...] = super().features(pixels)
            return found

    said: list[str] = []
    tight = load_distance("ssim")
    tight.method = Greedy()  # type: ignore[attr-defined]
    found = tight.of_pairs([(a, b) for a in album for b in album], Resources(tmp_path, warn=said.append))
    assert found.tolist() == expected.tolist()
    assert said
    assert all("images per forward pass from here on" in line for line in said)
    tight.method.most = 0  # type: ignore[attr-defined]
    with pytest.raises(FinerRankError, match="too little memory for one pair"):
        tight.of_pairs([(album[0], album[1])], Resources(tmp_path, warn=said.append))


def test_squashed_pictures_are_those_of_pillow(album: list[Path], every: dict[str, Distance], tmp_path: Path) -> None:
    wide = save_noise(tmp_path / "wide.png", 7, (90, 30))
    found = load_distance("ssim", size=24).of_pairs([(album[0], wide)], Resources(tmp_path))
    squashed = [Image.open(path).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC) for path in (album[0], wide)]
    assert found[0] == every["ssim"].between(squashed[:1], squashed[1:])[0]


def test_an_embedders_distance_is_one_minus_the_cosine(album: list[Path], tmp_path: Path) -> None:
    rows = load_embedder("classical:").embed(album).astype(np.float64)
    distance = load_distance("classical:", memo=tmp_path)
    pairs = [(album[0], path) for path in album]
    assert distance.of_pairs(pairs, Resources(tmp_path)) == approx(np.maximum(0, 1 - rows @ rows[0]), abs=1e-6)


REFUSED_ARRAYS: dict[str, tuple[Any, Any, str]] = {
    "0 to 255 as floats": (np.ones((1, 3, 40, 40)) * 255, np.ones((1, 3, 40, 40)), r"floats outside \[0, 1\]"),
    "-1 to 1": (np.zeros((1, 3, 40, 40)) - 1, np.ones((1, 3, 40, 40)), r"floats outside \[0, 1\]"),
    "not a number": (np.full((1, 3, 40, 40), np.nan), np.ones((1, 3, 40, 40)), r"floats outside \[0, 1\]"),
    "other kind": (np.ones((1, 3, 40, 40), np.int64), np.ones((1, 3, 40, 40)), "values of int64"),
    "other axes": (np.ones((40, 40, 3)), np.ones((40, 40, 3)), r"hand over \[N, 3, height, width\]"),
    "unequal numbers": (np.ones((1, 3, 40, 40)), np.ones((2, 3, 40, 40)), "1 images against 2"),
    "two sizes": (noise(1, 40, 41), noise(1, 41, 40), "image 0 and image 0: 41 × 40 and 40 × 41 pixels.*--size 256"),
    "no pixels": (np.zeros((1, 3, 0, 9), np.uint8), noise(1), "image 0: 9 × 0 pixels: nothing to see"),
    "too small": (noise(1, 16, 40), noise(1, 16, 40), "40 × 16 pixels; lpips:squeeze.* takes 17 and more"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_what_is_no_picture_is_refused(case: str, squeeze: Distance) -> None:
    first, second, why = REFUSED_ARRAYS[case]
    with pytest.raises(FinerRankError, match=why):
        squeeze.between(first, second)


LEAST = {"lpips:alex": 31, "lpips:vgg": 16, "lpips:squeeze": 17, "ssim": 11, "dists": 1, "psnr": 1}


@pytest.mark.parametrize("name", LEAST)
def test_the_least_size_is_taken_and_what_is_below_is_refused(name: str, trunks: dict[str, Path]) -> None:
    network = "vgg" if name == "dists" else name.partition(":")[2]
    distance = load_distance(f"{name}@{trunks[network]}" if network else name, device="cpu")
    side = LEAST[name]
    found = distance.between(noise(1, side, side + 9, 1), noise(1, side, side + 9, 2))
    assert np.isfinite(found).all()
    if side > 1:
        with pytest.raises(FinerRankError, match=f"takes {side} and more a side"):
            distance.between(noise(1, side - 1, side + 9, 1), noise(1, side - 1, side + 9, 2))
    if side > 8:
        with pytest.raises(FinerRankError, match=f"--size {side - 1}: .* takes {side} pixels and more"):
            load_distance(name, size=side - 1)


REFUSED_SPECS = {
    "lpips:resnet": "no such network; write lpips:alex, lpips:vgg, lpips:squeeze",
    "dists:alex": "there is one DISTS",
    "ssim:multiscale": "neither variants nor weights; write ssim",
    "psnr@weights.pth": "neither variants nor weights; write psnr",
    "lpisp": "no such metric; 'lpips' or 'clpips' is meant. metrics of pictures are lpips, dists, .* no such embedder",
}


@pytest.mark.parametrize("spec", REFUSED_SPECS)
def test_unknown_metrics_are_refused_before_anything_is_read(spec: str) -> None:
    with pytest.raises(FinerRankError, match=REFUSED_SPECS[spec]):
        load_distance(spec)


def changed(path: Path, out: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    state = dict(load_file(path))
    change(state)
    save_file(state, out)
    return out


def test_weights_of_another_network_are_refused(trunks: dict[str, Path], tmp_path: Path) -> None:
    pictures = noise(1)
    for spec, why in (
        (f"lpips:alex@{trunks['squeeze']}", "not weights of torchvision's alexnet"),
        (f"lpips:squeeze@{tmp_path / 'none.pth'}", "no such weights file"),
        (f"dists@{trunks['alex']}", "not weights of torchvision's vgg16"),
    ):
        with pytest.raises(FinerRankError, match=why):
            load_distance(spec, device="cpu").between(pictures, pictures)


def test_a_distance_that_is_not_finite_is_refused(trunks: dict[str, Path], album: list[Path], tmp_path: Path) -> None:
    def spoil(state: dict[str, Tensor]) -> None:
        state["features.0.weight"][:] = float("nan")

    spoilt = changed(trunks["squeeze"], tmp_path / "spoilt.safetensors", spoil)
    distance = load_distance(f"lpips:squeeze@{spoilt}", device="cpu")
    with pytest.raises(FinerRankError, match=r"0\.png and .*1\.png: its distance .* is not finite"):
        distance.of_pairs([(album[0], album[1])], Resources(tmp_path))
    with pytest.raises(FinerRankError, match=r"pair 0: its distance .* is not finite"):
        distance.between(album[:1], album[1:2])


def test_weights_never_come_from_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("FINER_RANK_MIRROR", raising=False)
    for spec in ("lpips", "lpips:vgg", "dists"):
        instead = {"lpips": "lpips:alex@FILE"}.get(spec, f"{spec}@FILE")
        with pytest.raises(FinerRankError, match=f"within reach .* or write {instead}"):
            load_distance(spec, device="cpu").between(noise(1), noise(1, seed=1))
    # A file of that name is held against the digits of its digest.
    monkeypatch.setenv("FINER_RANK_MIRROR", str(tmp_path))
    write_trunk(tmp_path / "trunk.safetensors", "alex").rename(tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(FinerRankError, match="not the file of https://"):
        load_distance("lpips", device="cpu").between(noise(1), noise(1, seed=1))


def test_the_fingerprint_is_of_what_decides_the_distance(trunks: dict[str, Path], tmp_path: Path) -> None:
    state = {key.removeprefix("features."): v for key, v in load_file(trunks["squeeze"]).items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(3)}, tmp_path / "whole.pth")  # as part of a checkpoint

    def nudge(state: dict[str, Tensor]) -> None:
        state["features.0.bias"][0] += 1e-3

    other = changed(trunks["squeeze"], tmp_path / "other.safetensors", nudge)
    specs: Sequence[tuple[str, int | None]] = [
        (f"lpips:squeeze@{trunks['squeeze']}", None),
        (f"lpips:squeeze@{trunks['squeeze']}", 32),
        (f"lpips:squeeze@{trunks['squeeze']}", 64),
        (f"lpips:squeeze@{other}", None),
        (f"lpips:alex@{trunks['alex']}", None),
        (f"dists@{trunks['vgg']}", None),
        ("ssim", None),
        ("psnr", None),
    ]
    prints = [load_distance(spec, size=size, device="cpu").fingerprint for spec, size in specs]
    assert len(set(prints)) == len(specs)
    assert load_distance(f"lpips:squeeze@{tmp_path / 'whole.pth'}", device="cpu").fingerprint == prints[0]


def test_a_trunk_has_no_gradients_of_its_own_and_passes_those_of_pictures(trunks: dict[str, Path]) -> None:
    trunk: Trunk = load_trunk("squeeze", trunks["squeeze"], "cpu")
    pixels = as_tensor(noise(1)).requires_grad_()
    trunk.differences(pixels, as_tensor(noise(1, seed=1))).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
