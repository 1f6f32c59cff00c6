"""One pass for several embedders: each picture is decoded once, and each number is the one that it has alone."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from handmade import Refusal
from networks import colours, save_timm
from PIL import Image

from benchmark.embed import ImageFile, embed_images, embed_with_each
from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing
from galleries.errors import FinerRankError
from galleries.images import decode_image


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    files = []
    for seed in range(7):
        path = tmp_path / f"{seed}.png"
        colours(seed).save(path)
        files.append(ImageFile(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest()))
    return files


def test_embedders_in_one_pass_give_the_bits_that_they_give_alone(tmp_path: Path, images: list[ImageFile]) -> None:
    specs = [f"timm:test_vit@{save_timm(tmp_path / f'{seed}.safetensors', seed=seed)}" for seed in (0, 1)]
    embedders = [load_embedder(spec, device="cpu") for spec in specs]
    alone = [embed_images(images, each, tmp_path / f"alone {i}", batch_size=3) for i, each in enumerate(embedders)]
    embed_images(images[:2], embedders[1], tmp_path / "ahead", batch_size=3)  # one of them is ahead of the other
    together = list(embed_with_each(images, embedders, tmp_path / "together", batch_size=3))
    for one, other in zip(alone, together, strict=True):
        assert one.row_of.keys() == other.row_of.keys()
        for key, row in one.row_of.items():
            assert one.rows[row].tobytes() == other.rows[other.row_of[key]].tobytes()
    after = list(embed_with_each(images, embedders, tmp_path / "ahead", batch_size=3))
    assert [found.n_forward_passes for found in after] == [7, 5]


def test_a_picture_is_decoded_once_for_all_embedders(
    tmp_path: Path, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def counted(content: bytes) -> Image.Image:
        opened.append(len(content))
        return decode_image(content)

    monkeypatch.setattr("benchmark.embed.decode_image", counted)
    embedders = [load_embedder("classical:", size=size) for size in (64, 96, 128)]
    found = list(embed_with_each(images, embedders, tmp_path / "store", batch_size=3))
    assert [each.n_forward_passes for each in found] == [7, 7, 7]
    assert len(opened) == 7


def test_a_member_that_two_embedders_share_goes_over_each_picture_once(tmp_path: Path, images: list[ImageFile]) -> None:
    weights = save_timm(tmp_path / "vit.safetensors")
    specs = [f"timm:test_vit@{weights}", f"ensemble:classical=1,timm:test_vit@{weights}=1"]
    found = embed_with_each(images, [load_embedder(spec, device="cpu") for spec in specs], tmp_path / "store")
    assert [each.n_forward_passes for each in found] == [7, 7]


def test_a_broken_picture_is_a_fault_under_each_embedder(tmp_path: Path, images: list[ImageFile]) -> None:
    gone = ImageFile("gone.png", tmp_path / "gone.png", "1" * 64)
    embedders = [load_embedder("classical:", size=size) for size in (64, 96)]
    for found in embed_with_each([*images, gone], embedders, tmp_path / "store"):
        assert [fault.where for fault in found.faults] == ["gone.png"]
        assert len(found.row_of) == 7


def test_embeddings_that_vanish_from_the_store_are_not_passed_over(tmp_path: Path, images: list[ImageFile]) -> None:
    embedders = [load_embedder("classical:", size=size) for size in (64, 96)]
    found = embed_with_each(images, embedders, tmp_path / "store")
    next(found)
    shutil.rmtree(tmp_path / "store" / embedders[1].fingerprint)
    with pytest.raises(FinerRankError, match=r"embeddings of 7 images went out of the store .*; run again"):
        next(found)


def test_pixels_are_normalised_in_the_order_that_recorded_numbers_rest_on() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    found = Preprocessing((16, 16), "squash", (16, 16), "nearest", mean, std)(Image.fromarray(values))
    scaled = values.astype(np.float32) / np.float32(255)
    expected = (scaled - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    assert found.tobytes() == expected.transpose(2, 0, 1).tobytes()


def test_a_compiled_network_is_another_embedder(tmp_path: Path) -> None:
    spec = f"timm:test_vit@{save_timm(tmp_path / 'vit.safetensors')}"
    plain, compiled = (load_embedder(spec, device="cpu", is_compiled=value) for value in (False, True))
    assert plain.fingerprint != compiled.fingerprint
    assert {**plain.description, "compiled": True} == compiled.description


def test_what_is_no_network_cannot_be_compiled(refusal: Refusal, zoo: Path) -> None:
    assert "leave --compile out" in refusal("evaluate", "-g", zoo, "-e", "classical:", "--compile")


@pytest.mark.skipif("FINER_RANK_DATA" not in os.environ, reason="compiling takes a minute; set FINER_RANK_DATA")
def test_a_compiled_network_gives_nearly_the_same_numbers(tmp_path: Path, images: list[ImageFile]) -> None:
    spec = f"timm:test_vit@{save_timm(tmp_path / 'vit.safetensors')}"
    one, other = (
        embed_images(images, load_embedder(spec, device="cpu", is_compiled=value), tmp_path / "store")
        for value in (False, True)
    )
    for key, row in one.row_of.items():
        assert np.abs(one.rows[row] - other.rows[other.row_of[key]]).max() <= 1e-4
