"""`finer-rank bench board`: made bundles are sound, and what is measured is what is there."""

import json
import shutil
from pathlib import Path

import pytest
from boards import finer, refused
from handmade import Cli, files_below

from leaderboard.bench_board import BROWSERS, TARGETS, bench_board, first_page_files
from leaderboard.made_board import MadeBoard, write_made_board


@pytest.mark.parametrize("thumbnails", [False, True])
def test_made_bundles_are_sound_and_their_first_page_loads_what_is_counted(thumbnails: bool, tmp_path: Path) -> None:
    board = MadeBoard(2, 1, 40, 8, thumbnails)
    for out in ("bundles", "again"):
        write_made_board(board, tmp_path / out)
    assert files_below(tmp_path / "bundles") == files_below(tmp_path / "again")
    code, _, err = finer("leaderboard", "check", tmp_path / "bundles")
    assert code == 0, err
    assert finer("leaderboard", "build", tmp_path / "bundles", "--out", tmp_path / "site")[0] == 0
    assert any((tmp_path / "site").glob("thumbnails/*.webp")) == thumbnails
    names = {path.resolve().name for path in first_page_files(tmp_path / "site")}
    assert names >= {"index.html", "core.js", "board.js", "site.css", "standings.js"}


def test_without_a_browser_build_and_sizes_are_measured() -> None:
    found = bench_board(MadeBoard(2, 1, 40, 8), None)
    assert found["records_per_s"] == pytest.approx(2 / found["build_s"])
    assert found["build_peak_memory_mb"] > 20
    assert 10_000 < found["first_page_bytes"] < found["site_bytes"]
    assert found["site_files"] > 20
    assert "first_page_s" not in found


def test_a_browser_measures_every_step(process: Cli) -> None:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium")
    pytest.importorskip("playwright")
    sizes = ("--models", "2", "--embedders", "1", "--queries", "40", "--identities", "8")
    done = process("bench", "board", "--only", "site", *sizes, "--json")  # one process drives one browser
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("targets") == TARGETS
    assert found.keys() >= TARGETS.keys()
    # What the server sent is what lies on disk, and the head of each answer.
    assert found["first_page_bytes"] < found["transferred_bytes"] < found["first_page_bytes"] + 10_000
    for step in ("sort", "search", "flip_1", "flip_12"):
        assert 0 < found[f"{step}_median_ms"] <= found[f"{step}_max_ms"]


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    assert "no such program" in refused("bench", "board", "--browser", tmp_path / "chromium")
    assert "--identities 100" in refused("bench", "board", "--queries", "40")
