"""A distance as the pairwise column of a record, from `evaluate --pairwise` to a bundle of the leaderboard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from handmade import Cli, Refusal, half, rows_of, write_rows
from PIL import Image
from pytest import approx
from trunks import write_trunk


def minus_psnr(first: Path, second: Path, size: int = 256) -> float:
    one, other = (
        np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        for path in (first, second)
    )
    return float(10 * np.log10(np.mean((one - other) ** 2) / 255**2)) if (one != other).any() else -200.0


def evaluated(cli: Cli, zoo: Path, run: Path, *arguments: object) -> dict[str, Any]:
    done = cli("evaluate", "-g", zoo, "-r", run, "-e", "classical:", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def references_of(zoo: Path, identity: str) -> list[Path]:
    return [zoo / r["file_name"] for r in rows_of(zoo) if (r["split"], r["identity"]) == ("reference", identity)]


def test_each_image_is_held_against_its_own_reference(zoo: Path, painted: Path, cli: Cli, tmp_path: Path) -> None:
    rows = rows_of(painted)
    for row in rows:
        row["reference_file_name"] = str(references_of(zoo, row["identity"])[0].relative_to(zoo))
    write_rows(painted / "metadata.csv", rows)
    found = evaluated(cli, zoo, painted, "--pairwise", "psnr", "--out", tmp_path / "records")["records"][0]
    said = found["pairwise_distance"]
    assert (said["metric"], said["size"], said["to"]) == ("psnr", 256, "own_reference")
    expected = [minus_psnr(painted / row["file_name"], zoo / row["reference_file_name"]) for row in rows]
    assert said["value"] == approx(np.mean(expected))
    assert said["low"] <= said["value"] <= said["high"]
    queries = pq.read_table(Path(found["record"]) / "queries.parquet").to_pylist()
    by_name = {query["file_name"]: query["pairwise_distance"] for query in queries}
    assert by_name == approx({row["file_name"]: value for row, value in zip(rows, expected, strict=True)})
    assert json.loads((Path(found["record"]) / "record.json").read_text())["pairwise_distance"] == said
    assert found["pairwise_similarity"]["to"] == "own_reference"


def test_without_a_reference_it_is_the_mean_over_those_of_the_identity(zoo: Path, painted: Path, cli: Cli) -> None:
    rows = rows_of(painted)
    write_rows(painted / "metadata.csv", [row | {"reference_file_name": ""} for row in rows])
    [record] = evaluated(cli, zoo, painted, "--pairwise", "psnr", "--pairwise-size", 20)["records"]
    said = record["pairwise_distance"]
    assert (said["size"], said["to"]) == (20, "all_references")
    expected = [
        np.mean([minus_psnr(painted / row["file_name"], path, 20) for path in references_of(zoo, row["identity"])])
        for row in rows
    ]
    assert said["value"] == approx(np.mean(expected))


def test_an_embedders_distance_is_one_minus_the_pairwise_similarity(zoo: Path, painted: Path, cli: Cli) -> None:
    [record] = evaluated(cli, zoo, painted, "--pairwise", "classical:")["records"]
    distance, similarity = record["pairwise_distance"], record["pairwise_similarity"]
    assert distance["value"] == approx(1 - similarity["value"], abs=1e-6)
    assert (distance["to"], distance["size"]) == (similarity["to"], None)


def test_it_is_printed_beside_the_scores_and_left_out_where_it_was_not_asked_for(
    zoo: Path, painted: Path, cli: Cli
) -> None:
    with_it = cli("evaluate", "-g", zoo, "-r", painted, "-e", "classical:", "--pairwise", "ssim")
    assert with_it.returncode == 0, with_it.stderr
    title = " ".join(with_it.stdout.split())
    assert "ssim (256" in title
    assert "ssim" not in cli("evaluate", "-g", zoo, "-r", painted, "-e", "classical:").stdout
    assert "pairwise_distance" not in evaluated(cli, zoo, painted)["records"][0]


def test_it_is_computed_once_whatever_the_number_of_embedders(
    zoo: Path, painted: Path, cli: Cli, tmp_path: Path
) -> None:
    write_trunk(tmp_path / "squeeze.safetensors", "squeeze")
    spec = f"lpips:squeeze@{tmp_path / 'squeeze.safetensors'}"
    both = evaluated(cli, zoo, painted, "-e", "critter-reid", "--pairwise", spec, "--pairwise-size", 32)["records"]
    assert len(both) == 2
    assert both[0]["pairwise_distance"] == both[1]["pairwise_distance"]
    assert both[0]["pairwise_distance"]["metric"] == "lpips:squeeze@squeeze.safetensors"  # not where it lies
    assert both[0]["pairwise_distance"]["value"] > 0


def test_broken_images_are_listed_or_left_out(zoo: Path, painted: Path, cli: Cli, refusal: Refusal) -> None:
    name = rows_of(painted)[0]["file_name"]
    (painted / name).write_bytes(half((painted / name).read_bytes()))
    asked = ("-g", zoo, "-r", painted, "-e", "classical:", "--pairwise", "psnr")
    assert name in refusal("evaluate", *asked)
    [record] = evaluated(cli, zoo, painted, "--pairwise", "psnr", "--skip-broken")["records"]
    rows = rows_of(painted)[1:]
    expected = [
        np.mean([minus_psnr(painted / row["file_name"], path) for path in partners])
        for row in rows
        if (
            partners := [zoo / row["reference_file_name"]]
            if row.get("reference_file_name")
            else references_of(zoo, row["identity"])
        )
    ]
    assert record["n_queries"] == len(rows)
    assert record["pairwise_distance"]["value"] == approx(np.mean(expected))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--pairwise", "sssim"), "no such embedder"),
        (("--pairwise", "lpips:alex@none.pth"), "no such weights file"),
        (("--pairwise", "ssim", "--pairwise-size", "9"), "takes 11 pixels and more"),
        (("--pairwise-size", "64"), "is for --pairwise"),
        (("--pairwise", "ssim", "--region", "subject"), "leave --region out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], why: str, zoo: Path, painted: Path, refusal: Refusal
) -> None:
    assert why in refusal("evaluate", "-g", zoo, "-r", painted, "-e", "classical:", *arguments)


def test_a_run_is_needed(zoo: Path, refusal: Refusal) -> None:
    assert "name a run with --run" in refusal("evaluate", "-g", zoo, "-e", "classical:", "--pairwise", "ssim")
