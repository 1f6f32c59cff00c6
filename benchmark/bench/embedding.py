"""Embedding image files against the bare forward pass, side by side in one process."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.bench.timing import in_turn, peak_memory_mb
from benchmark.embed import ImageFile, embed_with_each
from benchmark.embed_loop import BATCH_SIZE
from benchmark.embedders import Embedder
from benchmark.embedders.specs import parse, published_spec
from galleries.downloads import first_line
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import READABLE_SUFFIXES, image_fault, in_threads, n_decoding_threads

if TYPE_CHECKING:
    import torch

BATCHES_IN_MEMORY = 4
"""Of pixels that the bare forward pass goes over again and again."""


def bench_embedding(
    embedders: Sequence[Embedder], paths: Sequence[Path], batch_size: int | None, repeats: int
) -> dict[str, Any]:
    """Image files to stored rows, for each embedder alone and for all in one pass, against the networks alone.

    *End to end* begins with files that are hashed and looked at, and ends with rows in a new store. The *bare forward
    pass* takes as many images in batches of the same size, which lie on the device already; it is measured in the main
    thread and in another, as end to end has it, and the faster one of each repeat counts. *Decoding* is end to end
    without the network and the store. Building networks is not counted.

    Args:
        paths: those of the same content count once.

    Returns:
        Images per second (medians over repeats), and ratios (medians over repeats of what stood side by side).

    Raises:
        Faults: files that cannot be used.
        FinerRankError: no images, or an embedder that cannot be loaded; see also `embed_images`.
    """
    distinct = list({file.digest: file.path for file in _looked_at(paths)}.values())
    n, size = len(distinct), batch_size or BATCH_SIZE
    alternatives: dict[str, Callable[[], object]] = {}
    for i, embedder in enumerate(embedders):
        pixels = _in_memory(embedder, distinct[: BATCHES_IN_MEMORY * size])
        bare = _bare_forward(embedder, pixels, n, size)
        alternatives[f"bare {i}"] = bare
        alternatives[f"bare in a thread {i}"] = partial(_in_a_thread, bare)
        alternatives[f"decode {i}"] = partial(_decoded, embedder, distinct)
        alternatives[f"alone {i}"] = partial(_end_to_end, [[embedder]], distinct, size)
    if len(embedders) > 1:
        alternatives["one after another"] = partial(_end_to_end, [[each] for each in embedders], distinct, size)
        alternatives["together"] = partial(_end_to_end, [embedders], distinct, size)
    times = in_turn(alternatives, repeats)
    # OpenMP's threads spin while they wait, unless there are more of them than cores: on a busy machine a network in
    # the main thread may then take several times as long as in another. The bare pass is the faster of the two.
    bare_s = [
        [min(pair) for pair in zip(times.of[f"bare {i}"], times.of[f"bare in a thread {i}"], strict=True)]
        for i in range(len(embedders))
    ]
    found: dict[str, Any] = {
        "images": n,
        "mean_image_kb": sum(path.stat().st_size for path in distinct) / n / 1e3,
        "batch_size": size,
        "decoding_threads": n_decoding_threads(),
        "embedders": [
            {
                "embedder": published_spec(embedder.spec),
                "device": ", ".join(sorted({plain.model.device for plain in embedder.plain})),
                "precision": embedder.precision,
                "compiled": embedder.is_compiled,
                "bare_forward_images_per_s": n / median(bare_s[i]),
                "decode_images_per_s": n / times.median(f"decode {i}"),
                "end_to_end_images_per_s": n / times.median(f"alone {i}"),
                "ratio_to_bare_forward": median(
                    bare / alone for bare, alone in zip(bare_s[i], times.of[f"alone {i}"], strict=True)
                ),
            }
            for i, embedder in enumerate(embedders)
        ],
    }
    if len(embedders) > 1:
        found["one_after_another_s"] = times.median("one after another")
        found["together_s"] = times.median("together")
        found["ratio_together_to_one_after_another"] = times.ratio("together", to="one after another")
    return {**found, "peak_memory_mb": peak_memory_mb()}


def _in_a_thread(function: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def _looked_at(paths: Sequence[Path]) -> list[ImageFile]:
    found = in_threads(lambda path: image_fault(str(path), path, decode=False), paths)
    looks = list(zip(paths, found, strict=True))
    raise_if_any("images", [look for _, look in looks if isinstance(look, Fault)])
    return [ImageFile(str(path), path, str(digest)) for path, digest in looks]


def _end_to_end(groups: Sequence[Sequence[Embedder]], paths: Sequence[Path], batch_size: int) -> None:
    """A pass for each group of embedders."""
    for embedders in groups:
        with tempfile.TemporaryDirectory(prefix="finer-rank-") as folder:
            for found in embed_with_each(_looked_at(paths), embedders, Path(folder), batch_size=batch_size):
                raise_if_any("images", found.faults)


def _decoded(embedder: Embedder, paths: Sequence[Path]) -> None:
    def prepared(file: ImageFile) -> None:
        picture = file.open()
        for plain in embedder.plain:
            plain.model.preprocess(picture)

    for _ in in_threads(prepared, _looked_at(paths)):
        pass


def _in_memory(embedder: Embedder, paths: Sequence[Path]) -> list[npt.NDArray[Any]]:
    """For each network of an embedder the pixels of some images, `[N, 3, H, W]`."""
    pictures = [file.open() for file in _looked_at(paths)]
    return [np.stack([plain.model.preprocess(picture) for picture in pictures]) for plain in embedder.plain]


def _bare_forward(
    embedder: Embedder, pixels: Sequence[npt.NDArray[Any]], n_images: int, batch_size: int
) -> Callable[[], None]:
    """The networks of an embedder on `n_images`, which lie in memory, on the device where it is one of torch."""
    passes = [_on_device(plain, own) for plain, own in zip(embedder.plain, pixels, strict=True)]

    def run() -> None:
        for forward, there in passes:
            rows: Any = None
            for start in range(0, n_images, batch_size):
                first = start % (len(there) - len(there) % batch_size or len(there))
                rows = forward(there[first : first + min(batch_size, n_images - start)])
            if hasattr(rows, "cpu"):
                rows.cpu()  # an accelerator has been told what to do, and may be at it still

    return run


def _on_device(embedder: Embedder, pixels: npt.NDArray[Any]) -> tuple[Callable[[Any], Any], Any]:
    model = embedder.model
    if model.encode is None:
        return model.forward, pixels
    import torch

    encode = model.encode

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        kind, is_half = model.device.split(":")[0], embedder.precision == "bf16"
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=is_half):
            return encode(batch)

    return forward, torch.from_numpy(pixels).to(model.device)


def images_below(folder: Path, count: int) -> list[Path]:
    """The first images of a tree, by name.

    Raises:
        FinerRankError: there are none.
    """
    suffixed = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in READABLE_SUFFIXES)
    paths = [path for path in suffixed if path.is_file()][:count]
    if not paths:
        raise FinerRankError(f"--images {folder}: no images there; name a folder of images, or leave --images out")
    return paths


@contextmanager
def made_images(count: int, px: int) -> Iterator[list[Path]]:
    """So many different JPEG files of `px` × `px` pixels, soft patches of colour under grain, while the block runs."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="finer-rank-") as folder:
        paths = [Path(folder, f"{number:06d}.jpg") for number in range(count)]
        for number, path in enumerate(paths):
            rng = np.random.default_rng(number)
            patches = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            smooth = np.asarray(patches.resize((px, px), Image.Resampling.BICUBIC), dtype=np.float32)
            grainy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(grainy).save(path, quality=90)
        yield paths


def with_random_weights(spec: str, folder: Path) -> str:
    """A spec of the same architecture with random weights, which are written into `folder`.

    Raises:
        FinerRankError: it names weights of its own, or no library knows its architecture by name.
    """
    import torch
    from safetensors.torch import save_file

    _, request = parse(spec)
    if request.weights or "@" in spec:
        raise FinerRankError(f"{spec}: names its weights; leave them out, or leave --random-weights out")
    if request.family not in BUILDERS or request.model.startswith(("hf-hub:", "local-dir:")):
        known = ", ".join(f"{family}:NAME" for family in BUILDERS)
        raise FinerRankError(f"{spec}: --random-weights is for {known}; bring the weights of others")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = BUILDERS[request.family](request.model)
    except Exception as error:  # of a name that the library does not know
        raise FinerRankError(
            f"{spec}: cannot be built ({first_line(error)}); name one that {request.family} has"
        ) from None
    file = folder / f"{len(list(folder.iterdir()))}.safetensors"
    save_file({key: value.contiguous().clone() for key, value in module.state_dict().items()}, file)
    return f"{spec}@{file}"


def _of_timm(name: str) -> "torch.nn.Module":
    import timm

    module: torch.nn.Module = timm.create_model(name, num_classes=0)
    return module


def _of_torchvision(name: str) -> "torch.nn.Module":
    from torchvision import models

    module: torch.nn.Module = models.get_model(name, weights=None)
    return module


def _of_open_clip(name: str) -> "torch.nn.Module":
    import open_clip

    module: torch.nn.Module = open_clip.create_model(name.partition("/")[0])
    return module


BUILDERS = {"timm": _of_timm, "torchvision": _of_torchvision, "open_clip": _of_open_clip}
