"""docs/embedders.md tells the truth: its table is the zoo, its Python runs, and a package made of its example works."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, save_noise
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "embedders.md"

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "my-encoders"
version = "1"

[tool.setuptools]
py-modules = ["my_encoders"]
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_table_is_what_the_command_prints(cli: Cli) -> None:
    done = cli("embedder", "list", "--markdown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| `") > 30
    assert done.stdout in PAGE.read_text(encoding="utf-8")


def test_the_example_embeds_files(tmp_path: Path) -> None:
    for seed, name in enumerate(["a.png", "b.png"]):
        save_noise(tmp_path / name, seed)
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    shape, cosine = re.fullmatch(r"(\(2, \d+\)) float32 (\S+)\n", done.stdout).groups()  # type: ignore[union-attr]
    assert shape == "(2, 2020)"
    assert -1 < float(cosine) < 1


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of its own, in which the page's package is installed beside this project."""
    folder = tmp_path_factory.mktemp("foreign")
    package = folder / "package"
    package.mkdir()
    (package / "my_encoders.py").write_text(blocks("python")[1])
    (package / "pyproject.toml").write_text(PYPROJECT + blocks("toml")[0])
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    [own] = (folder / "venv" / "lib").glob("python*/site-packages")
    # What is installed here is seen there too: no second copy of torch.
    (own / "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    options = ["--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *options, package]
    # setuptools from beside it too: what an old Python brings builds no wheels.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(pip, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return python


def test_a_family_of_another_package_is_found_by_its_entry_point(foreign: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "a.png", 1)
    code = """
import numpy, torch
from safetensors.torch import save_file
from benchmark.embedders import load_embedder
torch.manual_seed(3)
conv = torch.nn.Conv2d(3, 16, 7, 4)
save_file({"0.weight": conv.weight, "0.bias": conv.bias}, "mine.safetensors")
embedder = load_embedder("mine:conv@mine.safetensors")
numpy.savez("found.npz", rows=embedder.embed(["a.png"]), weight=conv.weight.detach(), bias=conv.bias.detach())
print(embedder.packages, len(embedder.fingerprint))
"""
    done = subprocess.run([foreign, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "('my-encoders', 'torch') 64\n"

    found = np.load(tmp_path / "found.npz")
    picture = Image.open(tmp_path / "a.png").resize((64, 64), Image.Resampling.BICUBIC)
    pixels = (np.asarray(picture, dtype=np.float64) / 255 - 0.5) / 0.5
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (7, 7), axis=(0, 1))[::4, ::4]
    features = np.einsum("yxcij,ocij->oyx", windows, found["weight"].astype(np.float64))
    mean = np.maximum(features + found["bias"][:, None, None], 0).mean(axis=(1, 2))
    assert np.abs(found["rows"][0] - mean / np.linalg.norm(mean)).max() < 1e-5


def test_without_the_package_its_family_is_unknown(foreign: Path) -> None:
    def families(python: Path | str) -> bool:
        run = [python, "-m", "finer_rank", "embedder", "show", "mine:conv"]
        return "mine:" in subprocess.run(run, capture_output=True, text=True).stderr.partition("known:")[2]

    assert not families(sys.executable)
    unknown = [foreign, "-m", "finer_rank", "embedder", "show", "mime:conv"]
    meant = subprocess.run(unknown, capture_output=True, text=True).stderr.partition("is meant?")[0]
    assert "'mine:'" in meant
