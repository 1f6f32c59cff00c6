"""The loop over batches: the same numbers at any batch size, nothing twice, every fault by name."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import colours, save_state, save_timm
from safetensors.torch import load_file

from benchmark.embed import ImageFile, embed_images
from benchmark.embedders import Embedder, load_embedder
from benchmark.embedders.base import LoadedModel, Request
from galleries.errors import FinerRankError

Rows = npt.NDArray[np.float32]


def image_file(path: Path) -> ImageFile:
    return ImageFile(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(11):
        colours(seed).save(folder / f"{seed:02d}.png")
    return [image_file(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("vit") / "vit.safetensors")


class Plain(Embedder):
    """An embedder without a network: three numbers of the picture, through a given function."""

    def __init__(self, forward: Callable[[Rows], Rows], name: str = "plain") -> None:
        super().__init__(Request(name, "timm", name, None), "cpu", "fp32", None)
        self.model = LoadedModel(
            preprocess=lambda image: np.asarray(image, dtype=np.float32).mean(axis=(0, 1)),
            forward=forward,
            preprocessing={},
            architecture=name,
            weights_digest="none",
            files=(),
        )


def ordered(images: Sequence[ImageFile], found: Any) -> Rows:
    return np.stack([found.rows[found.row_of[image.digest]] for image in images])


def test_batches_of_any_size_give_the_same_embeddings(tmp_path: Path, images: list[ImageFile], vit: Path) -> None:
    embedder = load_embedder(f"timm:test_vit@{vit}", device="cpu")
    rows = {
        size: ordered(images, embed_images(images, embedder, tmp_path / str(size), batch_size=size))
        for size in (1, 3, 32)
    }
    assert np.abs(rows[1] - rows[3]).max() <= 1e-5
    assert np.abs(rows[1] - rows[32]).max() <= 1e-5
    assert np.abs(rows[1][0] - rows[1][1]).max() > 1e-4


EMBED = """
import hashlib, sys
import numpy as np
from pathlib import Path
from benchmark.embed import ImageFile, embed_images
from benchmark.embedders import load_embedder
weights, out, *paths = sys.argv[1:]
images = [ImageFile(path, Path(path), hashlib.sha256(Path(path).read_bytes()).hexdigest()) for path in paths]
found = embed_images(images, load_embedder(f"timm:test_vit@{weights}", device="cpu"), Path(out).with_suffix(".store"))
np.save(out, found.rows[[found.row_of[image.digest] for image in images]])
"""


def test_any_number_of_workers_gives_the_same_embeddings(tmp_path: Path, images: list[ImageFile], vit: Path) -> None:
    rows = {}
    for n_cores in (1, 2):
        out = tmp_path / f"{n_cores}.npy"
        arguments = [str(vit), str(out), *(str(image.path) for image in images)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(n_cores)}
        command = [sys.executable, "-c", EMBED, *arguments]
        if shutil.which("taskset"):
            command = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:n_cores])), *command]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert out.is_file(), done.stderr  # what happens at the process's end is not asked here
        rows[n_cores] = np.load(out)
    assert np.abs(rows[1] - rows[2]).max() <= 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_embeddings_of_the_cpu(tmp_path: Path, images: list[ImageFile], vit: Path) -> None:
    rows = {
        device: ordered(
            images, embed_images(images, load_embedder(f"timm:test_vit@{vit}", device=device), tmp_path / device)
        )
        for device in ("cpu", "cuda")
    }
    assert np.abs(rows["cpu"] - rows["cuda"]).max() <= 1e-5


def test_neither_names_nor_order_decide_which_images_share_a_batch(
    tmp_path: Path, images: list[ImageFile], vit: Path
) -> None:
    embedder = load_embedder(f"timm:test_vit@{vit}", device="cpu")
    renamed = [ImageFile(f"{i}", image.path, image.digest) for i, image in enumerate(reversed(images))][::-1]
    forwards = embed_images(images, embedder, tmp_path / "a", batch_size=4)
    backwards = embed_images(renamed[::-1], embedder, tmp_path / "b", batch_size=4)
    assert ordered(images, forwards).tobytes() == ordered(images, backwards).tobytes()


def test_the_same_bytes_under_two_names_are_embedded_once(tmp_path: Path, images: list[ImageFile]) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].path.read_bytes())
    batches: list[int] = []

    def forward(batch: Rows) -> Rows:
        batches.append(len(batch))
        return batch

    found = embed_images([*images, image_file(copy)], Plain(forward), tmp_path / "store")
    assert sum(batches) == found.n_forward_passes == len(images)
    again = embed_images([image_file(copy), *images], Plain(forward), tmp_path / "store")
    assert (sum(batches), again.n_forward_passes) == (len(images), 0)


def test_a_batch_too_large_for_the_memory_is_halved(tmp_path: Path, images: list[ImageFile]) -> None:
    batches: list[int] = []

    def forward(batch: Rows) -> Rows:
        if len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB")
        batches.append(len(batch))
        return batch

    found = embed_images(images, Plain(forward), tmp_path, batch_size=8)
    assert sum(batches) == len(images)
    assert (found.n_forward_passes, found.faults) == (len(images), ())


def test_too_little_memory_for_one_image_is_said(tmp_path: Path, images: list[ImageFile]) -> None:
    def forward(batch: Rows) -> Rows:
        raise MemoryError

    with pytest.raises(FinerRankError, match="too little memory for one image"):
        embed_images(images, Plain(forward), tmp_path, batch_size=8)


def test_what_was_embedded_before_a_failure_is_kept(tmp_path: Path, images: list[ImageFile]) -> None:
    seen: list[int] = []

    def forward(batch: Rows) -> Rows:
        if sum(seen) >= 6:
            raise RuntimeError("the network broke")
        seen.append(len(batch))
        return batch

    with pytest.raises(RuntimeError, match="the network broke"):
        embed_images(images, Plain(forward), tmp_path, batch_size=3)
    again = embed_images(images, Plain(lambda batch: batch), tmp_path)
    assert again.n_forward_passes == len(images) - 6


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zero"), (0.7, "constant")]
)
def test_an_embedding_without_a_direction_is_a_fault_of_its_image_alone(
    tmp_path: Path, images: list[ImageFile], value: float, what: str
) -> None:
    last = max(images, key=lambda image: image.digest)

    def forward(batch: Rows) -> Rows:
        rows = batch.copy()
        if len(batch) < 4:  # the last batch holds the image of the highest digest
            rows[-1] = value
        return rows

    found = embed_images(images, Plain(forward), tmp_path, batch_size=4)
    (fault,) = found.faults
    assert fault.where == last.name
    assert what in fault.what
    assert last.digest not in found.row_of
    assert len(found.row_of) == len(images) - 1


def test_an_encoder_that_tells_no_two_images_apart_is_said(tmp_path: Path, images: list[ImageFile]) -> None:
    def forward(batch: Rows) -> Rows:
        return np.tile(np.arange(1, 4, dtype=np.float32), (len(batch), 1))

    said: list[str] = []
    for store in ("first", "first"):  # also once the store holds them
        assert len(embed_images(images, Plain(forward), tmp_path / store, warn=said.append).row_of) == len(images)
    assert len(said) == 2
    assert said[0] == said[1]
    assert "all other of 11 different images get the same embedding" in said[0]
    assert any(image.name in said[0] for image in images)
    embed_images(images[:2], Plain(forward, "two"), tmp_path / "two", warn=said.append)
    assert len(said) == 2  # two may be as good as equal


def test_weights_of_nan_make_a_fault_of_every_image(tmp_path: Path, images: list[ImageFile], vit: Path) -> None:
    state = load_file(vit) | {"norm.weight": torch.full((64,), torch.nan)}
    weights = save_state(state, tmp_path / "nan.safetensors")
    found = embed_images(images, load_embedder(f"timm:test_vit@{weights}", device="cpu"), tmp_path / "store")
    assert [fault.where for fault in found.faults] == [image.name for image in images]
    assert all("not finite" in fault.what for fault in found.faults)
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_every_broken_file_is_named_and_the_others_are_embedded(tmp_path: Path, images: list[ImageFile]) -> None:
    content = images[0].path.read_bytes()
    broken = []
    for name in "one.png", "same bytes.png":
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        broken.append(image_file(tmp_path / name))
    changed = ImageFile("changed.png", images[1].path, "0" * 64)
    gone = ImageFile("gone.png", tmp_path / "gone.png", "1" * 64)
    found = embed_images([*images, *broken, changed, gone], Plain(lambda batch: batch), tmp_path / "store")
    assert [fault.where for fault in found.faults] == ["changed.png", "gone.png", "one.png", "same bytes.png"]
    assert found.row_of.keys() == {image.digest for image in images}


def test_progress_counts_every_image_that_was_missing(tmp_path: Path, images: list[ImageFile]) -> None:
    done: list[int] = []
    totals: list[int] = []

    def progress(label: str, total: int) -> Callable[[int], None]:
        totals.append(total)
        return done.append

    embed_images(images[:3], Plain(lambda batch: batch), tmp_path)
    embed_images(images, Plain(lambda batch: batch), tmp_path, batch_size=3, progress=progress)
    assert totals == [len(images) - 3]
    assert sum(done) == totals[0]
