"""Beyond one machine, by Ray: workers embed parts of an image list, and count ranks in parts of a gallery.

What one machine computes is what a cluster computes: a part is whole batches of the list that one machine goes through,
embedded by the same loop into the same store; and the counts that ranks are made of are added, whatever the parts.
"""

import contextlib
import logging
import os
import pickle
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.embed import ImageFile, Progress, embed_with_each
from benchmark.embed_loop import BATCH_SIZE, SHARD_IMAGES
from benchmark.embedders import Embedder
from benchmark.rank import (
    Indices,
    Lists,
    RankedQueries,
    Rows,
    counts_of_block,
    pair_similarity,
    row_norms,
    sort_descending,
)
from benchmark.store import EmbeddingStore, Root, print_to_stderr
from galleries.downloads import first_line
from galleries.errors import FinerRankError
from galleries.images import NO_FILE
from personalization_runs.cluster import RETRIES, connected

PARTS_PER_WORKER = 4
"""At least, so that workers of unequal speed end at about the same time."""
TASK_PHOTOS = 100_000
"""Photos that a task of a ranking reads and counts at a time."""


@dataclass(frozen=True)
class Cluster:
    """Where to work.

    Attributes:
        address: of a Ray cluster, such as `auto` or `ray://HOST:10001`; workers of this machine where empty.
        n_workers: that embed at once; one per GPU, or per machine of a cluster without any, where 0.
        device: what was asked for: `auto`, `cpu` or `cuda`.
    """

    address: str = ""
    n_workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise FinerRankError(f"--device {self.device}: workers compute on cpu or cuda; write one of them")


Job = tuple[Sequence[ImageFile], Sequence[Embedder]]
"""Images, and the embedders that each of them is for."""


def embed_on_ray(
    jobs: Sequence[Job],
    store_root: Root,
    cluster: Cluster,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> list[dict[str, int]]:
    """Have what the store lacks embedded by workers, into the store, where `embed_images` finds it.

    Images and store have to lie where all workers see them: a shared drive, and that or an object store. Faulty images
    are passed over; `embed_images` says what is wrong with them. Where a worker or its machine dies, another goes on
    with its part; what it had stored is found again.

    Args:
        jobs: ensembles are embedded as their members. What an earlier one asks for is not asked for again.

    Returns:
        Of each job: fingerprint of an embedder → images that went through it.

    Raises:
        FinerRankError: Ray is missing, or no cluster answers; a worker does not see an image, has another network
            under an embedder's name, or refuses what `embed_images` refuses. What is embedded stays.
    """
    if isinstance(store_root, str) and store_root.startswith("memory:"):
        raise FinerRankError(f"--store {store_root}: no other process sees it; name a shared folder, or s3://…")
    root = store_root.absolute() if isinstance(store_root, Path) else store_root
    asked: dict[str, set[str]] = defaultdict(set)
    lacking = [
        (number, images, embedders)
        for number, job in enumerate(jobs)
        for images, embedders in _lacking(*job, root, asked, warn)
    ]
    passes: list[dict[str, int]] = [defaultdict(int) for _ in jobs]
    if not lacking:
        return passes
    n_images = sum(len(images) for _, images, _ in lacking)
    with connected(cluster.address) as ray:
        device, n_workers, resources = _layout(ray, cluster)
        size = _part_size(n_images, n_workers, batch_size or BATCH_SIZE)
        parts = [
            _Part(number, tuple(images[i : i + size]), tuple(embedder.on(device) for embedder in embedders))
            for number, images, embedders in lacking
            for i in range(0, len(images), size)
        ]
        step = progress(f"embedding by {n_workers} workers", n_images) if progress else None
        setting = (root, batch_size, str(Path.cwd()))
        for report in _reports(ray, parts, setting, n_workers, resources):
            if report.error:
                raise FinerRankError(report.error)
            for line in report.said:
                warn(line)
            for fingerprint, n in report.n_forward_passes.items():
                passes[report.job][fingerprint] += n
            if step:
                step(report.n_images)
    return passes


@dataclass(frozen=True)
class _Part:
    job: int
    images: tuple[ImageFile, ...]
    embedders: tuple[Embedder, ...]


@dataclass(frozen=True)
class _Report:
    """What a worker says of a part."""

    job: int
    n_images: int
    n_forward_passes: dict[str, int]
    said: tuple[str, ...]
    error: str = ""


class _Worker:
    """An actor of Ray's: it keeps its networks from part to part."""

    def __init__(self, root: Root, batch_size: int | None, started_in: str) -> None:
        with contextlib.suppress(OSError):
            os.chdir(started_in)  # what is named relative to it, images and weights, is meant to be found
        self._root, self._batch_size = root, batch_size
        self._embedders: dict[str, Embedder] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"report": [pickle.dumps(self._report(pickle.loads(part))) for part in batch["part"]]}

    def _report(self, part: _Part) -> _Report:
        said: list[str] = []
        try:
            own = [self._own(embedder) for embedder in part.embedders]
            passes = dict.fromkeys((embedder.fingerprint for embedder in own), 0)
            found = embed_with_each(part.images, own, self._root, batch_size=self._batch_size, warn=said.append)
            for embedder, embeddings in zip(own, found, strict=True):
                passes[embedder.fingerprint] = embeddings.n_forward_passes
                unseen = [fault.where for fault in embeddings.faults if NO_FILE in fault.what]
                if unseen:
                    raise FinerRankError(
                        f"{unseen[0]}: not there on {socket.gethostname()}, where a worker is to embed it; put images "
                        "in a folder that all machines have under the same name"
                    )
        except FinerRankError as error:
            return _Report(part.job, 0, {}, tuple(said), str(error))
        except Exception as error:  # Ray would tell it apart from a death by many lines, of its own for the most part
            what = f"a worker on {socket.gethostname()} failed ({type(error).__name__}: {first_line(error)})"
            return _Report(part.job, 0, {}, tuple(said), f"{what}; look at it with --engine local")
        return _Report(part.job, len(part.images), passes, tuple(said))

    def _own(self, embedder: Embedder) -> Embedder:
        """The same embedder with the network that this worker has built.

        Raises:
            FinerRankError: it is another network here.
        """
        own = self._embedders.setdefault(embedder.fingerprint, embedder)
        if own is embedder and own.is_outdated():
            raise FinerRankError(
                f"{own.spec}: another network on {socket.gethostname()} than where the command was started; give all "
                "machines the same weights"
            )
        return own


def _lacking(
    images: Sequence[ImageFile],
    embedders: Sequence[Embedder],
    root: Root,
    asked: dict[str, set[str]],
    warn: Callable[[str], None],
) -> Iterator[tuple[list[ImageFile], list[Embedder]]]:
    """The images that the store lacks, sorted by content, and the embedders that lack just these.

    Args:
        asked: fingerprint → keys that are embedded anyway; these are added.
    """
    by_key = {image.key: image for image in reversed(images)}
    plain = {e.fingerprint: e for embedder in embedders for e in embedder.plain}
    groups: dict[tuple[str, ...], list[Embedder]] = defaultdict(list)
    for embedder in plain.values():
        keys = by_key.keys() - EmbeddingStore(root, embedder.fingerprint, warn).held(by_key)
        if keys and embedder.is_outdated():
            keys = by_key.keys() - EmbeddingStore(root, embedder.fingerprint, warn).held(by_key)
        keys -= asked[embedder.fingerprint]
        asked[embedder.fingerprint] |= keys
        if keys:
            groups[tuple(sorted(keys))].append(embedder)
    for missing, own in groups.items():
        yield [by_key[key] for key in missing], own


def _layout(ray: Any, cluster: Cluster) -> tuple[str, int, dict[str, float]]:
    """Device and number of workers, and what each takes of its machine.

    Raises:
        FinerRankError: there is less than was asked for.
    """
    there = ray.cluster_resources()
    n_gpus, n_cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    if cluster.device.startswith("cuda") or (cluster.device == "auto" and n_gpus):
        if not n_gpus or cluster.n_workers > n_gpus:
            raise FinerRankError(
                f"--workers {cluster.n_workers}: the cluster has {n_gpus} GPUs; write as many, or --device cpu"
            )
        return "cuda", cluster.n_workers or n_gpus, {"num_gpus": 1}
    of_machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    smallest = min((n for n in of_machines if n), default=0)
    if not smallest or cluster.n_workers > n_cpus:
        raise FinerRankError(f"--workers {cluster.n_workers}: the cluster has {n_cpus} CPUs; write as many or fewer")
    n_workers = cluster.n_workers or len([n for n in of_machines if n])
    return "cpu", n_workers, {"num_cpus": min(smallest, n_cpus // n_workers)}


def _part_size(n_images: int, n_workers: int, batch_size: int) -> int:
    """Images of a part: whole batches, so that the same images share one as on one machine."""
    n_batches = min(-(-n_images // (PARTS_PER_WORKER * n_workers * batch_size)), SHARD_IMAGES // batch_size)
    return max(1, n_batches) * batch_size


def _reports(
    ray: Any, parts: Sequence[_Part], setting: tuple[Any, ...], n_workers: int, resources: dict[str, float]
) -> Iterator[_Report]:
    """What workers say of the parts, as each is done.

    A worker that dies is started again by Ray, elsewhere if need be, and its part is given out again.
    """
    import ray.data as ray_data

    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Bytes, of this program on both sides: other objects Ray's tables take with a warning.
    rows = ray_data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts))
    pool = ray_data.ActorPoolStrategy(size=min(n_workers, len(parts)))
    reports = rows.map_batches(_Worker, fn_constructor_args=setting, batch_size=1, compute=pool, **resources)
    try:
        for row in reports.iter_rows():
            yield pickle.loads(row["report"])
    except ray.exceptions.RayError as error:
        raise FinerRankError(
            f"workers died again and again ({type(error).__name__}); run the command again: what is embedded is stored"
        ) from error


def rank_counts_on_ray(
    *,
    queries: Rows,
    gallery: Sequence[str],
    store_root: Root,
    fingerprint: str,
    relevant: Sequence[Indices],
    excluded: Sequence[Indices] | None = None,
    cluster: Cluster | None = None,
    task_photos: int = TASK_PHOTOS,
) -> RankedQueries:
    """`rank_counts` of a gallery that lies in the store: tasks read its parts and count, and their counts are added.

    No process holds more of the gallery than a part, and the relevant and excluded photos.

    Args:
        queries: `[Q, D]` float32.
        gallery: `[N]` keys that the photos are stored under.
        fingerprint: of the embedder.
        relevant, excluded: rows of `gallery`, see `rank_counts`.

    Raises:
        FinerRankError: Ray is missing, no cluster answers, or a photo has no embedding in the store.
    """
    from benchmark.rank_kernels import leave_out

    root = store_root.absolute() if isinstance(store_root, Path) else store_root
    shown, left_out = Lists.of(relevant), Lists.of(excluded) if excluded else Lists.empty(len(queries))
    listed = np.unique(np.concatenate([shown.flat, left_out.flat]))
    rows = _stored([gallery[i] for i in listed.tolist()], root, fingerprint)
    query_norms, norms = row_norms(queries), row_norms(rows)

    def similarity_of(lists: Lists) -> Any:
        place = np.searchsorted(listed, lists.flat)
        return pair_similarity(queries, rows, lists.owner, place, query_norms, norms)

    similarity = similarity_of(shown)
    sort_descending(similarity, shown.starts)
    higher = np.zeros(len(similarity), dtype=np.int64)
    equal = np.full(len(similarity), -1, dtype=np.int64)  # a photo equals itself once
    in_order = sorted(gallery)  # as shards are that a list was embedded into, part by part
    with connected((cluster or Cluster()).address) as ray:
        work = ray.remote(num_cpus=1, max_retries=RETRIES)(_counts_of_part)
        asked = ray.put((queries, shown.starts, similarity))
        tasks = [
            work.remote(in_order[i : i + task_photos], root, fingerprint, asked)
            for i in range(0, len(in_order), task_photos)
        ]
        try:
            for task in tasks:
                more_higher, more_equal = ray.get(task)
                higher += more_higher
                equal += more_equal
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FinerRankError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise FinerRankError(f"a worker died again and again ({type(error).__name__}); run again") from error
    leave_out(similarity_of(left_out), left_out.starts, shown.starts, similarity, higher, equal)
    n_ranked = len(gallery) - np.diff(left_out.starts)
    return RankedQueries(similarity, higher, equal, shown.starts, n_ranked)


def _counts_of_part(keys: list[str], root: Root, fingerprint: str, asked: Any) -> tuple[Indices, Indices]:
    queries, starts, similarity = asked
    return counts_of_block(queries, starts, similarity, _stored(keys, root, fingerprint))


def _stored(keys: Sequence[str], root: Root, fingerprint: str) -> Rows:
    """`[len(keys), D]`, in order.

    Raises:
        FinerRankError: one is not in the store.
    """
    row_of, rows = EmbeddingStore(root, fingerprint).read(keys)
    for key in keys:
        if key not in row_of:
            raise FinerRankError(f"{root}: has no embedding of {key}; embed the gallery again")
    at = [row_of[key] for key in keys]
    in_order: Rows = rows if at == list(range(len(rows))) else rows[at]
    return in_order
