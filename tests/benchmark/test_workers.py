"""What workers of a Ray cluster embed and count is what one process does, also where a machine dies under them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from animals import draw, write_run, write_zoo
from handmade import Cli, Refusal, lacking

from benchmark.cluster import Cluster, embed_on_ray, rank_counts_on_ray
from benchmark.embed import ImageFile, embed_images
from benchmark.embedders import load_embedder
from benchmark.rank import rank_counts
from benchmark.store import EmbeddingStore
from galleries.errors import FinerRankError
from galleries.images import sha256_of

pytest.importorskip("ray")
# Ray leaves pipes and sockets of the processes that it starts to the collector, and calls what it deprecates itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

# A machine that answers late, because others work on its cores, is not dead.
NOTICED_IN_SECONDS = {
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    "health_check_timeout_ms": 1000,
}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two machines of one core each, both played by this one."""
    from ray.cluster_utils import Cluster as LocalCluster

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": NOTICED_IN_SECONDS}
    cluster = LocalCluster(initialize_head=True, head_node_args=head)
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def drawn(folder: Path, n: int) -> list[ImageFile]:
    paths = [draw(folder / f"{i}.png", f"cow {i % 9}", i) for i in range(n)]
    return [ImageFile(path.name, path, sha256_of(path.read_bytes())) for path in paths]


def rows_in_order(images: list[ImageFile], store: Path) -> tuple[bytes, int]:
    """What the store says of images in this process, and how many had to be embedded for it."""
    found = embed_images(images, load_embedder("classical:"), store)
    return found.rows[[found.row_of[image.key] for image in images]].tobytes(), found.n_forward_passes


def test_ranks_counted_in_parts_on_a_cluster_are_those_of_one_machine(machines: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Few values, so that many photos tie; a photo that is there under two names; parts that cut through all of it.
    rows = rng.integers(-2, 3, (700, 6)).astype(np.float32) + np.float32(0.25)
    keys = [hashlib.sha256(bytes(divmod(i, 256))).hexdigest() for i in range(700)]
    store = EmbeddingStore(tmp_path, "f")
    for start in range(0, 700, 90):
        store.append(keys[start : start + 90], rows[start : start + 90])
    gallery = [*keys, keys[3]]
    queries = rng.standard_normal((40, 6)).astype(np.float32)
    lots = [rng.permutation(701) for _ in queries]
    relevant = [lot[: 1 + q % 7] for q, lot in enumerate(lots)]
    excluded = [lot[-(q % 4) - 1 :] for q, lot in enumerate(lots)]
    whole = np.concatenate([rows, rows[[3]]])
    alone = rank_counts(queries=queries, gallery=whole, relevant=relevant, excluded=excluded)
    where = Cluster(machines.address)
    asked = {"queries": queries, "store_root": tmp_path, "fingerprint": "f", "cluster": where, "task_photos": 97}
    together = rank_counts_on_ray(gallery=gallery, relevant=relevant, excluded=excluded, **asked)
    assert sum(int(counts.n_equal.sum()) for counts in alone) > 0
    for one, other in zip(alone, together, strict=True):
        assert one.n_gallery == other.n_gallery
        for values in "similarity", "n_higher", "n_equal":
            assert (getattr(one, values) == getattr(other, values)).all()
    with pytest.raises(FinerRankError, match="no embedding of nobody"):
        rank_counts_on_ray(gallery=[*gallery, "nobody"], relevant=relevant, excluded=excluded, **asked)


def test_a_record_of_a_cluster_is_the_record_of_one_machine(machines: Any, tmp_path: Path, cli: Cli) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    said, records = [], []
    for name, options in ("alone", ()), ("cluster", ("--engine", "ray", "--address", machines.address)):
        order = ("evaluate", "-g", zoo, "-r", painter, "-e", "classical:", "--store", tmp_path / f"store of {name}")
        done = cli(*order, "--batch-size", 4, "--json", "--out", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout.replace(str(tmp_path / name), "")))
        (folder,) = (tmp_path / name).iterdir()
        tables = [pq.read_table(folder / f"{table}.parquet") for table in ("queries", "neighbours")]
        records.append((folder.name, (folder / "record.json").read_bytes(), tables))
    assert said[0] == said[1]
    assert records[0] == records[1]


def test_images_that_workers_do_not_see_are_refused_by_name(machines: Any, tmp_path: Path) -> None:
    images = drawn(tmp_path / "images", 3)
    images[1].path.unlink()
    with pytest.raises(FinerRankError, match=r"1\.png: not there on .*; put images in a folder that all machines"):
        embed_on_ray([(images, [load_embedder("classical:")])], tmp_path / "store", Cluster(machines.address))


def test_options_that_no_cluster_can_follow_are_refused(machines: Any, tmp_path: Path, refusal: Refusal) -> None:
    order = ("evaluate", "-g", write_zoo(tmp_path / "zoo"), "-e", "classical:")
    assert not lacking(refusal(*order, "--workers", 2), "--workers 2", "--engine ray")
    assert not lacking(refusal(*order, "--address", "auto"), "--address auto", "--engine ray")
    assert not lacking(refusal(*order, "--engine", "slurm"), "--engine slurm", "local, ray")
    on_ray = (*order, "--engine", "ray", "--address", machines.address)
    assert not lacking(refusal(*on_ray, "--workers", 9), "--workers 9", "2 CPUs")
    assert not lacking(refusal(*on_ray, "--device", "mps"), "--device mps", "cpu or cuda")
    assert not lacking(refusal(*on_ray, "--store", "memory://here"), "memory://here", "shared folder")


def test_a_machine_that_dies_midway_costs_nothing(machines: Any, tmp_path: Path) -> None:
    images = drawn(tmp_path / "images", 240)
    alone, n_alone = rows_in_order(images, tmp_path / "alone")
    steps: list[int] = []

    def progress(label: str, total: int) -> Any:
        def step(n: int) -> None:
            steps.append(n)
            if sum(steps) < total and machines.second is not None:
                machines.remove_node(machines.second, allow_graceful=False)
                machines.second = None

        return step

    where = Cluster(machines.address, n_workers=2)
    jobs = [(some, [load_embedder("classical:")]) for some in (images[:40], images)]  # the second asks for the rest
    first, second = embed_on_ray(jobs, tmp_path / "together", where, batch_size=8, progress=progress)
    assert machines.second is None, "the machine was to die while there was work left"
    assert sum(steps) == n_alone == 240
    assert 0 < sum(first.values()) <= 40
    assert 0 < sum(second.values()) <= 200  # what a part had stored before its machine died is not made again
    shutil.rmtree(tmp_path / "images")  # all is in the store
    assert rows_in_order(images, tmp_path / "together") == (alone, 0)
