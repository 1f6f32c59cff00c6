"""`finer-rank run train --score-every`: who is shown at each step, and which step to pick."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from handmade import Cli, Refusal, lacking
from in_process import refused_here, run_here
from PIL import Image
from tiny.sd import save_sd
from tiny.sd3 import save_sd3
from training_cases import PRIOR, SMALL, write_dogs


def test_identity_is_scored_while_an_adapter_is_trained(tmp_path: Path, cli: Cli, refusal: Refusal) -> None:
    dogs, base = write_dogs(tmp_path / "dogs"), tmp_path / "sd3"
    save_sd3(base)
    order = ["run", "train", "-g", dogs, "-m", "dreambooth-lora", "--weights", base, "--out", tmp_path / "adapters"]
    order += [word for value in (*SMALL, *PRIOR, "training_steps=4") for word in ("--set", value)]
    assert not lacking(refusal(*order, "--score-every", 2), "--embedder")
    done = cli(*order, "--score-every", 2, "--embedder", "classical")
    assert done.returncode == 0, done.stderr
    assert not lacking(done.stdout, "rex, loss on a fixed probe", "highest mAP")
    for folder in sorted((tmp_path / "adapters-scores").iterdir()):
        with (folder / "curve.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        assert [row["step"] for row in rows] == ["0", "2", "4"]
        assert all(0 < float(row["mAP"]) <= 1 for row in rows)
    curves = sorted((tmp_path / "adapters-scores").glob("*/curve.csv"))
    assert len(curves) == 2
    assert cli("plot", "training", *curves, "--out", tmp_path / "curve.svg").returncode == 0


FAULTS = {
    "an unknown encoder": (["--embedder", "nosuch"], "nosuch: no such embedder"),
    "an encoder that reads no text": (["--embedder", "classical", "--clip-t", "classical"], "no text side"),
    "an unknown logger": (["--embedder", "classical", "--logger", "nosuch"], "logger 'nosuch'"),
    "unknown prompts": (["--embedder", "classical", "--prompts", "nosuch"], "--prompts nosuch"),
    "nobody to be taken for": (["--embedder", "classical"], "shows nobody else"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_scores_that_cannot_be_had_are_refused_before_anything_is_fetched(fault: str, tmp_path: Path) -> None:
    options, said = FAULTS[fault]
    dogs = write_dogs(tmp_path / "dogs")
    if fault == "nobody to be taken for":
        table = (dogs / "metadata.csv").read_text().splitlines()
        (dogs / "metadata.csv").write_text("\n".join(line for line in table if "tom_2" not in line))
    order = ["run", "train", "-g", dogs, "--out", tmp_path / "adapters", "--store", tmp_path / "store"]
    line = refused_here(*order, "--weights", "nobody/nothing", "--score-every", 2, *options)
    assert not lacking(line, said)
    assert "cannot be fetched" not in line
    assert not (tmp_path / "adapters").exists()


def test_parameters_of_training_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    order = ["run", "train", "-g", write_dogs(tmp_path / "dogs"), "--out", tmp_path / "adapters"]
    order += ["--weights", "nobody/nothing"]
    assert not lacking(refused_here(*order, "--set", "learning_rate=0"), "learning_rate=0.0: must be above 0")
    assert not lacking(refused_here(*order, "--dtype", "float16"), "float16: gradients vanish")


def test_pictures_of_the_last_step_are_those_of_a_run(tmp_path: Path) -> None:
    dogs, base, adapters = write_dogs(tmp_path / "dogs"), tmp_path / "sd", tmp_path / "adapters"
    save_sd(base)
    shared = ["-g", dogs, "-m", "dreambooth-lora", "--weights", base, "--include", "rex", "--device", "cpu"]
    values = [*SMALL, *PRIOR, "training_steps=2", "learning_rate=0.02"]
    shared += [word for value in values for word in ("--set", value)]
    scored = ["--score-every", 2, "--embedder", "classical", "--store", tmp_path / "store"]
    done = run_here("run", "train", *shared, *scored, "--out", adapters)
    assert done.returncode == 0, done.stderr
    done = run_here("run", "generate", *shared, "--prompts", "reid", "--adapters", adapters, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seen = sorted((tmp_path / "adapters-scores" / "rex" / "step-000002").iterdir())
    assert len(seen) == 4
    for path in seen:
        [name] = [row["file_name"] for row in rows if row["prompt_id"] == path.stem.rpartition("_")[0]]
        ours, theirs = (np.asarray(Image.open(each), dtype=int) for each in (path, tmp_path / "run" / name))
        assert abs(ours - theirs).max() <= 1

    shutil.rmtree(tmp_path / "adapters-scores")
    done = run_here("run", "train", *shared, *scored, "--out", adapters)
    assert (done.returncode, done.stderr) == (0, ""), "nobody is trained, so nobody is scored"
