"""The README tells the truth: its commands run, in order, and its Python too."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import run_here
from pytest import approx

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line as a shell reads it; in this process, as loading libraries anew takes longer than most commands."""
    program, *words = shlex.split(command)
    assert program == "finer-rank"
    names = [name for word in words for name in (sorted(folder.glob(word)) if "*" in word else [word])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINER_RANK_STORE", str(folder / "store"))
        return run_here(*names, cwd=folder)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the README has run."""
    folder = tmp_path_factory.mktemp("readme")
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("finer-rank ")]
    assert len(commands) > 5
    for command in commands:
        done = run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    return folder


def test_every_command_of_the_readme_runs(ran: Path) -> None:
    assert (ran / "demo" / "strips.png").stat().st_size > 10_000
    assert (ran / "demo" / "calibration.png").stat().st_size > 10_000

    (ran / "example.py").write_text(blocks("python")[0])
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(ran), "FINER_RANK_STORE": str(ran / "store")}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=ran, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert all(0 < float(value) < 1 for value in done.stdout.split())


def test_the_figures_of_the_readme_are_those_of_the_demo(ran: Path) -> None:
    evaluate = "finer-rank evaluate --gallery demo/gallery --run demo/runs"
    done = run(f"{evaluate} --embedder critter-reid --embedder classical --json", ran)
    records = {(record["embedder"], record["run"]): record for record in json.loads(done.stdout)["records"]}
    rows = re.findall(r"^\| ([a-z-]+) \| [^|]+ \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \| ([\d.]+) \| ([\d.]+) \|$",
                      README.read_text(encoding="utf-8"), re.MULTILINE)  # fmt: skip
    assert {name for name, *_ in rows} == {name for _, name in records}
    for name, *shown in rows:
        m_ap = records["critter-reid", name]["mAP"]
        similarity = [records[e, name]["pairwise_similarity"]["value"] for e in ("critter-reid", "classical")]
        expected = [m_ap["value"], m_ap["low"], m_ap["high"], *similarity]
        assert [float(value) for value in shown] == approx(expected, abs=0.006)
