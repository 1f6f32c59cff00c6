"""Boards for tests of figures and exports: bundles by `leaderboard add`, and records that were changed by hand."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handmade import rows_of, write_rows
from in_process import run_here
from test_bundles import command, declare, write_run, write_zoo

HOSTILE = r"\input{x} &%$#_{}~^ [1]* | `a` <script>"
NAMES = ("painter", HOSTILE, "модель 雪")


def finer(*arguments: object) -> tuple[int, str, str]:
    """`finer-rank …` in this process: exit code, stdout, stderr."""
    done = run_here(*arguments)
    return done.returncode, done.stdout, done.stderr


def refused(*arguments: object) -> str:
    """The one line with which a command is refused."""
    code, said, err = finer(*arguments)
    assert (code, said, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("finer-rank: ")
    return err


def write_board(folder: Path) -> Path:
    """Bundles of three models and of a class-only run on the zoo, by two encoders; the last model's is the best."""
    gallery = write_zoo(folder / "zoo")
    for number, name in enumerate(NAMES):
        run = declare(write_run(folder / f"run{number}", likeness=0.3 + 0.2 * number), json.dumps(name)[1:-1])
        _add(run, gallery, folder / "board")
    run = write_run(folder / "untuned", likeness=0.1)
    rows = rows_of(run)[:1] + rows_of(run)[9:10]
    of = zip(rows, ("cats", "dogs"), strict=True)
    write_rows(run / "metadata.csv", [{"file_name": row["file_name"], "category": category} for row, category in of])
    card = declare(run, "untuned") / "run.toml"
    card.write_text(card.read_text(encoding="utf-8").replace("lora", "class-only"), encoding="utf-8")
    _add(run, gallery, folder / "board")
    return folder / "board"


def _add(run: Path, gallery: Path, out: Path) -> None:
    code, _, err = command("add", run, "--gallery", gallery, "-e", "classical:", "-e", "critter-reid", "--out", out)
    assert code == 0, err


def write_records(board: Path, out: Path, change: Callable[[dict[str, Any]], Any] = lambda summary: None) -> Path:
    """The records of a board's bundles as `evaluate --out` writes them, each changed."""
    for number, source in enumerate(sorted(board.glob("*/records/*"))):
        target = out / f"{number}--{source.name}"
        shutil.copytree(source, target)
        summary = json.loads((source / "record.json").read_text(encoding="utf-8"))
        change(summary)
        (target / "record.json").write_text(json.dumps(summary), encoding="utf-8")
    return out


def write_models(board: Path, out: Path, names: list[str]) -> Path:
    """Records by the classical encoder of one model under many names, with scores and CLIP-T of their own."""
    (source,) = board.glob("*painter/records/classical*")
    for number, name in enumerate(names):
        target = out / str(number)
        shutil.copytree(source, target)
        summary = json.loads((source / "record.json").read_text(encoding="utf-8"))
        summary["run"] |= {"name": name, "images_sha256": hashlib.sha256(name.encode(errors="replace")).hexdigest()}
        share = (number + 1) / (len(names) + 1)
        summary["scores"]["mAP"] = {"value": share, "low": 0.9 * share, "high": min(1.0, 1.1 * share)}
        clip_t = {"value": 0.2 + 0.1 * (number * 7 % len(names)) / len(names), "low": None, "high": None}
        summary["prompt_fidelity"] = {"embedder": "clip", "clip_t": clip_t, "clip_t_without_identifier": None}
        (target / "record.json").write_text(json.dumps(summary), encoding="utf-8")
    return out
