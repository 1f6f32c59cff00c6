"""`finer-rank distance`: files, folders and tables in, numbers out; what cannot be compared is refused in one line."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, Refusal, files_below, half, lacking, save_noise, write_rows
from PIL import Image
from pytest import approx
from trunks import write_trunk

from benchmark.embedders import load_embedder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders with images of the same names, and one picture of another size."""
    for i in range(3):
        save_noise(tmp_path / "real" / "cats" / f"{i}.png", i, (40, 36))
        save_noise(tmp_path / "made" / "cats" / f"{i}.png", 10 + i, (40, 36))
    save_noise(tmp_path / "wide.png", 5, (60, 36))
    return tmp_path


def levels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


def minus_psnr(first: Path, second: Path) -> float:
    mse = np.mean((levels(first) - levels(second)) ** 2)
    return float(10 * np.log10(mse / 255**2))


def test_two_images_are_compared(folder: Path, cli: Cli) -> None:
    pair = (Path("real/cats/0.png"), Path("made/cats/0.png"))
    done = cli("distance", *pair, "--metric", "psnr", "--metric", "ssim", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"{minus_psnr(*(folder / path for path in pair)):.6f}" in done.stdout
    assert "mean" not in done.stdout
    assert "smaller is nearer" in done.stdout


def test_folders_are_compared_name_by_name(folder: Path, cli: Cli) -> None:
    done = cli("distance", "real", "made", "-m", "psnr", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [f"cats/{i}.png" for i in range(3)]
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [(f"real/{n}", f"made/{n}") for n in names]
    expected = [minus_psnr(folder / "real" / name, folder / "made" / name) for name in names]
    assert [pair["psnr"] for pair in found["pairs"]] == approx(expected)
    [psnr] = found["metrics"]
    assert psnr["mean"] == approx(np.mean(expected))
    assert len(psnr["fingerprint"]) == 64
    table = cli("distance", "real", "made", "-m", "psnr", cwd=folder).stdout
    assert f"{np.mean(expected):.6f}" in table


def test_a_table_names_any_pairs_and_the_numbers_go_into_one(folder: Path, cli: Cli) -> None:
    rows = [
        {"first": "real/cats/0.png", "second": f"made/cats/{i}.png", "note": "ours"} for i in (2, 0, 2)
    ]  # a pair may stand twice
    write_rows(folder / "pairs.csv", rows)
    done = cli("distance", "--pairs", "pairs.csv", "-m", "psnr", "-m", "ssim", "--out", "out.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["second"] for row in written] == [row["second"] for row in rows]
    assert [float(row["psnr"]) for row in written] == approx(
        [minus_psnr(folder / row["first"], folder / row["second"]) for row in rows]
    )
    assert written[0] == written[2] != written[1]
    elsewhere = cli(
        "distance", "--pairs", folder / "pairs.csv", "--images", folder, "-m", "psnr", "--json", cwd=folder.parent
    )
    assert [pair["psnr"] for pair in json.loads(elsewhere.stdout)["pairs"]] == [float(row["psnr"]) for row in written]


def test_perceptual_metrics_take_weights_of_the_users(folder: Path, cli: Cli) -> None:
    write_trunk(folder / "squeeze.safetensors", "squeeze")
    spec = "lpips:squeeze@squeeze.safetensors"
    found = {}
    for batch_size in (1, 32):
        done = cli("distance", "real", "made", "-m", spec, "--batch-size", batch_size, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        found[batch_size] = [pair[spec] for pair in json.loads(done.stdout)["pairs"]]
    assert found[1] == approx(found[32], rel=1e-5)
    assert min(found[1]) > 0


def test_embeddings_come_from_the_store(folder: Path, cli: Cli) -> None:
    compared = ("distance", "real", "made", "-m", "classical:", "--store", "store", "--json")
    first = cli(*compared, cwd=folder)
    assert first.returncode == 0, first.stderr
    paths = [folder / side / "cats" / f"{i}.png" for i in range(3) for side in ("real", "made")]
    rows = load_embedder("classical:").embed(paths).astype(np.float64)
    cosines = [rows[i] @ rows[i + 1] for i in range(0, 6, 2)]
    assert [pair["classical:"] for pair in json.loads(first.stdout)["pairs"]] == approx(
        [1 - c for c in cosines], abs=1e-6
    )
    kept = files_below(folder / "store")
    assert any(name.endswith(".parquet") for name in kept)
    assert cli(*compared, cwd=folder).stdout == first.stdout
    assert files_below(folder / "store") == kept


ONE, OTHER = "real/cats/0.png", "made/cats/0.png"
REFUSED: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "nothing": ((), ("write both, or --pairs TABLE",)),
    "one path": ((ONE,), ("write both, or --pairs TABLE",)),
    "a folder and a file": (("real", ONE), ("real is a folder and real/cats/0.png is not",)),
    "no such file": ((ONE, "gone.png"), ("gone.png: no such file",)),
    "no such folder": (("real", "gone"), ("gone: no such file or folder; check the path",)),
    "two sizes": ((ONE, "wide.png"), (f"{ONE} and wide.png", "40 × 36 and 60 × 36 pixels", "give --size 256")),
    "other names": (("real", "made/cats"), ("no image of that name in made/cats", "or give --pairs TABLE")),
    "no images": (("empty", "empty"), ("empty: holds no images",)),
    "both ways": ((ONE, OTHER, "--pairs", "pairs.csv"), ("leave the two paths out",)),
    "no table": (("--pairs", "none.csv"), ("none.csv: no such file",)),
    "images of no table": ((ONE, OTHER, "--images", "real"), ("give --pairs with it",)),
    "a table of other columns": (("--pairs", "wrong.csv"), ("no column 'first'", "no column 'second'")),
    "a table without rows": (("--pairs", "bare.csv"), ("has no rows",)),
    "an empty cell": (("--pairs", "hole.csv"), ("hole.csv row 2, second: an image's name is empty",)),
    "folders as on Windows": (("--pairs", "windows.csv"), ("windows.csv row 1, first", "write folders with /")),
    "a metric twice": ((ONE, OTHER, "-m", "ssim"), ("one is named twice",)),
    "unknown metric": (
        (ONE, OTHER, "-m", "SSIM"),
        ("SSIM: no such metric; 'ssim' is meant?", "lpips, dists, ssim, psnr"),
    ),
    "too small": ((ONE, OTHER, "--size", "9"), ("--size 9: ssim takes 11 pixels and more",)),
    "out of range": ((ONE, OTHER, "--size", "5"), ("write 8 to 4096 pixels",)),
    "half precision": ((ONE, OTHER, "--precision", "bf16"), ("computed in fp32 only",)),
    "no csv": ((ONE, OTHER, "--out", "out.xlsx"), ("name a new .csv file",)),
    "there already": ((ONE, OTHER, "--out", "pairs.csv"), ("name a new .csv file",)),
    "a folder that is not there": ((ONE, OTHER, "--out", "none/out.csv"), ("none/out.csv", "name a new .csv file")),
    "no such device": ((ONE, OTHER, "-m", "lpips:squeeze", "--device", "tpu"), ("--device tpu: not there",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused(case: str, folder: Path, cli: Cli) -> None:
    arguments, why = REFUSED[case]
    (folder / "empty").mkdir()
    (folder / "wrong.csv").write_text("a,b\n1,2\n")
    (folder / "bare.csv").write_text("first,second\n")
    (folder / "hole.csv").write_text(f"first,second\n{ONE},{OTHER}\n{ONE},\n")
    (folder / "windows.csv").write_text(f"first,second\nreal\\cats\\0.png,{OTHER}\n")
    (folder / "pairs.csv").write_text(f"first,second\n{ONE},{OTHER}\n")
    before = files_below(folder)
    done = cli("distance", *arguments, "-m", "ssim", cwd=folder)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert not lacking(done.stderr, *why), done.stderr
    assert files_below(folder) == before


def test_all_files_that_cannot_be_used_are_listed_before_any_number(folder: Path, cli: Cli) -> None:
    torn = folder / "real" / "cats" / "1.png"
    torn.write_bytes(half(torn.read_bytes()))
    (folder / "made" / "cats" / "2.png").write_bytes(b"")
    for size in ((), ("--size", "32")):
        done = cli("distance", "real", "made", "-m", "psnr", *size, cwd=folder)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert not lacking(done.stderr, "2 faults", "real/cats/1.png: truncated", "made/cats/2.png: the file is empty")
    (folder / "made" / "cats" / "2.png").unlink()
    save_noise(folder / "made" / "cats" / "2.png", 3, (40, 36))
    squashed = cli("distance", "real", "made", "-m", "psnr", "--size", "32", cwd=folder)
    assert (squashed.returncode, squashed.stdout) == (2, "")
    assert "real/cats/1.png: truncated" in squashed.stderr


def test_names_cannot_trick_the_terminal(folder: Path, refusal: Refusal) -> None:
    save_noise(folder / "a\x1b[31m.png", 1, (20, 20))
    assert "\\x1b[31m" in refusal("distance", "a\x1b[31m.png", "wide.png", "-m", "psnr", cwd=folder)


def test_the_python_of_the_manual_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "distances.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for seed, name in enumerate(["a.png", "b.png"]):
        save_noise(folder / name, seed)
    monkeypatch.chdir(folder)
    exec(code, {})
    first, second = capsys.readouterr().out.split()
    assert first == second
    assert 0 < float(first.strip("[]")) < 2
