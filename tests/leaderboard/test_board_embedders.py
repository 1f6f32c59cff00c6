"""`finer-rank leaderboard add` without `--embedder`: the encoders of the board's other bundles."""

import json
from pathlib import Path

import pytest
from test_bundles import command, declare, write_run, write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("gallery") / "zoo")


def submit(model: str, gallery: Path, folder: Path, *more: object) -> tuple[int, str, str]:
    run = declare(write_run(folder / f"run-{model}", likeness=0.3), model)
    return command("add", run, "--gallery", gallery, "--out", folder / "board", *more)


def scored_by(bundle: Path) -> set[tuple[str, str]]:
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in bundle.glob("records/*/record.json")]
    return {(summary["embedder"]["spec"], summary["embedder"]["fingerprint"]) for summary in summaries}


def test_a_board_keeps_its_encoders(zoo: Path, tmp_path: Path) -> None:
    assert submit("first", zoo, tmp_path, "-e", "classical", "-e", "critter-reid")[0] == 0
    assert submit("second", zoo, tmp_path)[0] == 0
    first, second = (scored_by(tmp_path / "board" / f"zoo-1--{model}") for model in ("first", "second"))
    assert first == second
    assert {spec for spec, _ in second} == {"classical", "critter-reid"}


def test_an_empty_board_has_none(zoo: Path, tmp_path: Path) -> None:
    code, _, said = submit("first", zoo, tmp_path)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "no bundle on zoo 1 says which encoders; name them: --embedder" in said
    assert not (tmp_path / "board").exists()
