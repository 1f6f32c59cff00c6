"""What all tests share: the command as a user starts it, and photos that differ by their seed."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from handmade import Cli, DrawPhoto, Refusal, save_noise, write_gallery, write_run
from in_process import run_here

# Before anything imports huggingface_hub, transformers or diffusers, which read them once; the second is where the
# code of strangers is copied to.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

# Of libraries that are imported while tests are collected nothing is ever freed; looking through them took a quarter of
# that time.
gc.disable()

# Read by each command anew, and not by Python or libraries when they start.
READ_ANEW = ("FINER_RANK_STORE", "FINER_RANK_MIRROR", "PYTEST_CURRENT_TEST")


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in READ_ANEW}


started_from = environment()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    note_environment()


def note_environment() -> None:
    """Forget what libraries have set while they were imported: no test has changed that."""
    global started_from
    started_from = environment()


def run_cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process; in a new one where the test has changed what Python or its libraries start from."""
    if environment() != started_from:
        return run_process(*arguments, cwd=cwd)
    done = run_here(*arguments, cwd=cwd)
    note_environment()
    return done


def run_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finer_rank", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=120, check=False)


def refused_line(*arguments: object, cwd: Path | None = None) -> str:
    result = run_cli(*arguments, cwd=cwd)
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout, len(lines)) == (2, "", 1), result
    assert lines[0].startswith("finer-rank: ")
    return lines[0]


@pytest.fixture(autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh embedding store, also for the processes that a test starts."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("FINER_RANK_STORE", str(folder))
    return folder


@pytest.fixture(scope="session")
def photo() -> DrawPhoto:
    return save_noise


@pytest.fixture(scope="session")
def cli() -> Cli:
    return run_cli


@pytest.fixture(scope="session")
def process() -> Cli:
    """The command as a user starts it: where the process itself is looked at."""
    return run_process


@pytest.fixture(scope="session")
def refusal() -> Refusal:
    return refused_line


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A sound gallery folder of two dogs, of which a test may spoil anything."""
    return write_gallery(tmp_path / "zoo")


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """A sound run folder of four images of the two dogs of `zoo`, of which a test may spoil anything."""
    return write_run(tmp_path / "painted")
