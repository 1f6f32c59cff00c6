"""A run made by several workers at once, of this machine or of a cluster: each makes its shard, by Ray."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from personalization_runs.plans import Plan, make_run, set_up

if TYPE_CHECKING:
    from personalization_runs.run import Run

RETRIES = 3
"""Of a shard whose worker died: what it has made is there, and the next goes on."""


def make_run_on_ray(plan: Plan, n_workers: int, *, address: str = "", warn: Callable[[str], Any]) -> "Run":
    """Make a run in `n_workers` shards, each by a worker with a GPU of its own where the plan asks for one.

    The run's folder has to lie on a disk that all workers see. Weights are found or fetched once, before workers start.

    Args:
        address: of a Ray cluster, such as `auto` or `ray://HOST:10001`; workers of this machine where empty.

    Raises:
        FinerRankError: Ray is missing, or no cluster answers; what a worker refuses. What is made stays.
    """
    device = set_up(plan, warn=warn).device
    on_gpu = device.startswith("cuda")
    whole = replace(plan, settings=replace(plan.settings, device="cuda" if on_gpu else device))
    with connected(address) as ray:
        n_gpus = int(ray.cluster_resources().get("GPU", 0))
        if on_gpu and n_workers > n_gpus:
            raise FinerRankError(
                f"--workers {n_workers}: the cluster has {n_gpus} GPUs; write as many, or --device cpu"
            )
        work = ray.remote(num_gpus=1 if on_gpu else 0, max_retries=RETRIES, retry_exceptions=False)(_make_shard)
        shards = [
            replace(whole, settings=replace(whole.settings, shard=(number, n_workers)))
            for number in range(1, n_workers + 1)
        ]
        try:
            said = [line for lines, _ in ray.get([work.remote(shard) for shard in shards]) for line in lines]
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FinerRankError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise FinerRankError(f"a worker died again and again ({error}); run the command again") from None
    for line in dict.fromkeys(said):
        warn(line)
    # Two shards that end at once may each have seen the other's last image missing.
    from personalization_runs.run import Run

    if plan.out.exists():
        return Run.open(plan.out)
    run = make_run(plan, warn=warn)
    assert run is not None
    return run


def _make_shard(plan: Plan) -> tuple[list[str], bool]:
    """What is worth saying of a shard, and whether it has completed the run."""
    if plan.out.exists():  # by a worker that died after that
        return [], True
    said: list[str] = []
    return said, make_run(plan, warn=said.append) is not None


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or started on this machine where it is empty.

    Raises:
        FinerRankError: Ray is missing, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise FinerRankError("ray not installed; run: pip install 'finer-rank[cluster]'") from None
    here = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, 2)}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what will be so, and is warned of until then
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else here),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FinerRankError(
            f"--address {address or 'of this machine'}: no Ray there ({error}); ray start it"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
