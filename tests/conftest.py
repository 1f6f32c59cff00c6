"""What all tests share: the command as a user starts it, and photos that differ by their seed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once


class DrawPhoto(Protocol):
    """Writes a photo of coloured noise, the same for the same seed; the ending says the format."""

    def __call__(self, path: Path, seed: int, size: tuple[int, int] = (48, 48)) -> Path: ...


class Cli(Protocol):
    """Runs `finer-rank ARGUMENTS` in a process of its own."""

    def __call__(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]: ...


def draw_photo(path: Path, seed: int, size: tuple[int, int] = (48, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run_cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finer_rank", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.fixture(autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh embedding store, also for the processes that a test starts."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("FINER_RANK_STORE", str(folder))
    return folder


@pytest.fixture(scope="session")
def photo() -> DrawPhoto:
    return draw_photo


@pytest.fixture(scope="session")
def cli() -> Cli:
    return run_cli
