"""`finer-rank run train --score-every`: who is shown at each step, and which step to pick."""

import csv
from pathlib import Path

from handmade import Cli, Refusal, lacking
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
