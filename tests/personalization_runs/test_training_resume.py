"""A training that is killed goes on, and ends in the bytes of one that never was."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.sd3 import save_sd3
from training_cases import PLACES, files, to_be_resumed, train_and_die, write_dogs

LEFT = {
    "in a class image": ("_class_images/*/.0001.png.partial", "_class_images/*/0000.png"),
    "in a step": (".tom.training/checkpoint.safetensors", "rex/adapter.safetensors"),
    "in a checkpoint": (".rex.training/.checkpoint.safetensors.partial", ".rex.training/checkpoint.safetensors"),
    "before the adapter is in place": (".tom.training/adapter/adapter.json", ".tom.training/checkpoint.safetensors"),
}
"""What must lie there when a process has died at a place, so that it did die there."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("materials")
    save_sd3(folder / "weights")
    return write_dogs(folder / "dogs"), folder / "weights"


@pytest.fixture(scope="module")
def unbroken(materials: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken")
    to_be_resumed(*materials, folder)
    return files(folder)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes of their own, split off from one that has imported everything: importing takes the longest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["training_cases", "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3", "peft"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.11 does not hand it on to what is preloaded
        forkserver.ensure_running()
    return context


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_training_ends_in_the_bytes_of_an_unbroken_one(
    place: str, materials: tuple[Path, Path], unbroken: dict[str, bytes], processes: Any, tmp_path: Path
) -> None:
    process = processes.Process(target=train_and_die, args=(place, *materials, tmp_path))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    assert all(list(tmp_path.glob(pattern)) for pattern in LEFT[place]), sorted(files(tmp_path))

    to_be_resumed(*materials, tmp_path)
    resumed = files(tmp_path)
    assert sorted(resumed) == sorted(unbroken)
    assert [name for name in resumed if resumed[name] != unbroken[name]] == []
    names = [f"{identity}/{name}" for identity in ("rex", "tom") for name in ("adapter.json", "losses.csv")]
    assert set(names) <= set(resumed)
    assert all(not name.startswith(".") for name in resumed)
