"""`finer-rank bench embedding`: what is measured is what was asked for, on images that differ."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from handmade import Cli, DrawPhoto, Refusal
from pytest import approx

from benchmark.bench.embedding import bench_embedding, with_random_weights
from benchmark.embedders import load_embedder


@pytest.fixture
def photos(tmp_path: Path, photo: DrawPhoto) -> Path:
    for seed in range(5):
        photo(tmp_path / "photos" / f"{seed}.png", seed)
    shutil.copy(tmp_path / "photos" / "0.png", tmp_path / "photos" / "again.png")
    return tmp_path / "photos"


def test_several_embedders_are_measured_alone_and_together(photos: Path, cli: Cli, store: Path) -> None:
    asked = ("-e", "timm:test_vit", "-e", "timm:test_efficientnet", "--random-weights", "--device", "cpu")
    done = cli("bench", "embedding", *asked, "--images", photos, "--batch-size", 2, "--repeats", 1, "--json")
    found = json.loads(done.stdout)
    assert (found["images"], found["batch_size"], len(found["embedders"])) == (5, 2, 2)  # two files hold one photo
    sizes = [path.stat().st_size for path in photos.glob("[0-4].png")]
    assert found["mean_image_kb"] == approx(sum(sizes) / 5e3)
    assert found["ratio_together_to_one_after_another"] > 0
    for one in found["embedders"]:
        assert one["device"] == "cpu"
        assert one["ratio_to_bare_forward"] == approx(one["end_to_end_images_per_s"] / one["bare_forward_images_per_s"])
    assert not list(store.rglob("*.parquet"))


def test_as_many_images_go_through_the_network_alone_as_end_to_end(photos: Path, tmp_path: Path) -> None:
    embedder = load_embedder(with_random_weights("timm:test_vit", tmp_path), device="cpu")
    assert embedder.model.module is not None
    batches: list[int] = []
    embedder.model.module.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    bench_embedding([embedder], sorted(photos.iterdir()), batch_size=2, repeats=1)
    # A warming round and one that counts, each of: bare, bare in a thread, end to end.
    assert batches == [2, 2, 1] * 6


def test_random_weights_are_the_same_each_time_and_leave_the_callers_chance_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (with_random_weights("timm:test_vit", tmp_path) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert load_embedder(first, device="cpu").fingerprint == load_embedder(second, device="cpu").fingerprint


@pytest.mark.parametrize(
    ("spec", "what"),
    [("timm:no_such_net", "cannot be built"), ("timm:test_vit@a.safetensors", "names its weights")],
)
def test_what_has_no_random_weights_is_refused(refusal: Refusal, photos: Path, spec: str, what: str) -> None:
    assert what in refusal("bench", "embedding", "-e", spec, "--random-weights", "--images", photos)


def test_a_folder_without_images_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    assert "no images there" in refusal("bench", "embedding", "-e", "classical:", "--images", tmp_path)
