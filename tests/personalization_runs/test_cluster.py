"""A run made by workers of a Ray cluster of this machine is the run that one process makes."""

from pathlib import Path

import pytest
from handmade import Cli, Refusal, files_below, lacking, rows_of

from personalization_runs import Run

pytest.importorskip("ray")


def test_workers_make_the_same_run(zoo: Path, tmp_path: Path, process: Cli, cli: Cli) -> None:
    order = ("run", "generate", "-m", "copy-reference", "--prompts", "reid", "-g", zoo)
    assert cli(*order, "--out", tmp_path / "alone").returncode == 0
    done = process(*order, "--workers", 2, "--out", tmp_path / "together")
    assert (done.returncode, done.stderr) == (0, "")
    assert not lacking(done.stdout, "copy-reference: 20 images of 2 identities")
    assert rows_of(tmp_path / "together") == rows_of(tmp_path / "alone")
    assert files_below(tmp_path / "together") == files_below(tmp_path / "alone")
    assert Run.open(tmp_path / "together").digest == Run.open(tmp_path / "alone").digest


def test_options_that_exclude_one_another_are_refused(zoo: Path, tmp_path: Path, refusal: Refusal) -> None:
    order = ("run", "generate", "-m", "copy-reference", "--prompts", "reid", "-g", zoo, "--out", tmp_path / "run")
    assert "leave --shard out" in refusal(*order, "--workers", 2, "--shard", "1/2")
    assert "--workers" in refusal(*order, "--address", "auto")
