"""Promises about the whole: imports point one way, and asking for help costs nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.markup import render
from typer.main import get_command

import finer_rank

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "galleries": set(),
    "personalization_runs": {"galleries"},
    "benchmark": {"galleries", "personalization_runs"},
    "leaderboard": {"galleries", "personalization_runs", "benchmark"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_between_packages_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            ours = {name.split(".")[0] for name in names} & MAY_IMPORT.keys()
            assert ours <= MAY_IMPORT[package] | {package}, path


def test_no_score_comes_from_an_index_that_may_be_approximate() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
        if "benchmark.gallery_index" in path.read_text(encoding="utf-8")
    }
    assert importers == {"benchmark/index_commands.py", "benchmark/neighbour_plot.py"}


def test_help_shows_all_that_it_is_told_to() -> None:
    for text in texts_of_help(get_command(finer_rank.app)):
        assert render(text).plain == text.replace("\\[", "["), "brackets in help are markup, unless escaped"


def texts_of_help(command: Any) -> Iterator[str]:
    yield command.help or ""
    yield from (getattr(parameter, "help", None) or "" for parameter in command.params)
    for below in getattr(command, "commands", {}).values():
        yield from texts_of_help(below)


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys, finer_rank\n"
        "sys.argv = ['finer-rank', '--help']\n"
        "try:\n    finer_rank.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'pyarrow', 'PIL', 'faiss', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_scoring_from_the_store_loads_no_deep_learning_library(tmp_path: Path) -> None:
    code = (
        "import sys, finer_rank\n"
        "try:\n    finer_rank.main()\nexcept SystemExit as e: assert not e.code\n"
        "print([m for m in ('torch', 'pandas', 'timm') if m in sys.modules], file=sys.stderr)"
    )

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stderr

    run("gallery", "build", "critters", "--species", "1", "--identities", "3", "--photos", "3", "--out", "gallery")
    run("run", "simulate", "--gallery", "gallery", "--images", "1", "--out", "run")
    evaluate = ("evaluate", "--gallery", "gallery", "--run", "run", "--embedder", "critter-reid", "--store", "store")
    evaluate += ("--out", "records")
    assert "21 forward passes" in run(*evaluate)
    again = run(*evaluate)
    assert " 0 forward passes" in again
    assert again.strip().endswith("[]")
