"""`finer-rank agreement score` on pictures that somebody judged by colour."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Refusal, write_rows
from judged_pictures import write_triplets
from PIL import Image
from pytest import approx

from benchmark.human_agreement.measures import two_afc_scores

METRICS = ("--metric", "psnr", "--metric", "ssim")


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triplets, and beside them a table of the same pictures ranked by three people."""
    table = write_triplets(tmp_path_factory.mktemp("judged") / "colour", "colour", 12, side=32)
    rows = []
    for i in range(4):
        names = [f"{i:04d}-same-colour.png", f"{i:04d}-same-shape.png", f"{i + 1:04d}-same-shape.png"]
        for rater, order in (("ann", (1, 2, 3)), ("bob", (1, 3, 2)), ("cy", (2, 1, 3))):
            rows += [
                {"target": f"{i:04d}-reference.png", "image": name, "rank": str(rank), "rater": rater}
                for name, rank in zip(names, order, strict=True)
            ]
    write_rows(table.parent / "ranks.csv", rows)
    return table


@pytest.fixture(scope="module")
def scored(colour: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("scores")
    done = cli("agreement", "score", colour, *METRICS, "--json", "--out", out / "scores", "--plot", out / "scores.svg")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


def test_a_metric_of_colours_agrees_with_who_judges_by_colour_more_than_one_of_structure(
    scored: tuple[dict[str, Any], Path],
) -> None:
    found = {each["metric"]: each for each in scored[0]["results"]}
    assert found["psnr"]["value"] > found["ssim"]["value"]
    assert found["psnr"]["over_targets"][0] < found["psnr"]["value"] <= found["psnr"]["over_targets"][1]
    (pair,) = scored[0]["comparisons"]
    assert (pair["first"], pair["second"]) == ("psnr", "ssim")
    assert pair["difference"] == approx(found["psnr"]["value"] - found["ssim"]["value"])


def test_the_files_hold_what_every_score_can_be_computed_from(scored: tuple[dict[str, Any], Path]) -> None:
    content, out = scored
    assert json.loads((out / "scores" / "scores.json").read_text(encoding="utf-8")) == content
    with (out / "scores" / "judgements.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for each in content["results"]:
        correct = [
            two_afc_scores(*(float(row[name]) for name in (f"{each['metric']} 0-1", f"{each['metric']} 0-2", "answer")))  # type: ignore[arg-type]
            for row in rows
        ]
        assert sum(correct) / 12 == approx(each["value"])
    assert set(content["metrics"]) == {"psnr", "ssim"}


def test_the_same_input_gives_the_same_files(
    scored: tuple[dict[str, Any], Path], colour: Path, cli: Cli, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert not cli("agreement", "score", colour, *METRICS, "--out", again, "--plot", tmp_path / "a.svg").returncode
    for name in ("scores.json", "judgements.csv"):
        assert (again / name).read_bytes() == (scored[1] / "scores" / name).read_bytes()
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (scored[1] / "scores.svg").read_bytes()
    assert b"<svg" in drawn


def test_the_tables_show_scores_people_and_who_is_tied_with_the_best(colour: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("agreement", "score", colour.parent / "ranks.csv", *METRICS, "--plot", tmp_path / "ranks.png")
    assert done.returncode == 0, done.stderr
    people = "(one rater against the others)"
    for shown in ("ICC(A,1)", "Spearman, pooled", people, "alpha, ordinal", "tied with the best"):
        assert shown in done.stdout
    with Image.open(tmp_path / "ranks.png") as picture:
        assert picture.width > 300


def test_people_are_scored_without_any_metric(colour: Path, cli: Cli) -> None:
    done = cli("agreement", "score", colour.parent / "ranks.csv", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert not content["results"]
    spearman = {each["measure"]: each["value"] for each in content["ceiling"]}["Spearman"]
    # Orders 123, 132, 213, each against the mean of the other two: (1.5, 2, 2.5), (1.5, 1.5, 3), (1, 2.5, 2.5).
    assert spearman == approx((1 + 0 + 0) / 3)


def test_a_missing_number_is_a_dash_and_a_note_says_what_it_needs(colour: Path, cli: Cli, tmp_path: Path) -> None:
    folder = colour.parent
    names = [f"{i:04d}-same-{what}.png" for i in range(2) for what in ("colour", "shape")]
    table = write_rows(
        folder / "alike.csv", [{"target": "0000-reference.png", "image": n, "rating": "3"} for n in names]
    )
    done = cli("agreement", "score", table, "--metric", "psnr")
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout.lower()
    assert "│ Spearman " in done.stdout
    assert "needs two images of one target with different answers and different distances" in done.stderr
    assert "ratings that are all equal" in done.stderr


def test_all_unreadable_images_are_listed_before_any_number(cli: Cli, tmp_path: Path) -> None:
    table = write_triplets(tmp_path / "colour", "colour", 3, side=32)
    for name in ("0000-reference.png", "0002-same-shape.png"):
        (table.parent / name).write_bytes(b"no picture")
    for metric in ("psnr", "classical:"):
        done = cli("agreement", "score", table, "--metric", metric, "--out", tmp_path / "out")
        assert (done.returncode, done.stdout) == (2, "")
        assert "0000-reference.png" in done.stderr
        assert "0002-same-shape.png" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_is_refused_in_a_line(colour: Path, refusal: Refusal, tmp_path: Path) -> None:
    score = ("agreement", "score", colour)
    assert "named twice" in refusal(*score, "--metric", "psnr", "--metric", "psnr")
    assert "are the same distance" in refusal(*score, "--metric", "classical", "--metric", "classical:")
    assert "--kind 3afc: unknown" in refusal(*score, "--kind", "3afc")
    assert "holds no jnd" in refusal(*score, "--kind", "jnd")
    assert "no judgement of --split test" in refusal(*score, "--split", "test")
    assert "no picture format" in refusal(*score, "--metric", "psnr", "--plot", tmp_path / "a.txt")
    assert "there is no folder" in refusal(*score, "--metric", "psnr", "--plot", tmp_path / "none" / "a.png")
    assert "give --metric, or leave it out" in refusal(*score, "--plot", tmp_path / "a.png")
    assert "exists already" in refusal(*score, "--metric", "psnr", "--out", colour.parent)
    assert "no such file or folder" in refusal("agreement", "score", tmp_path / "none.csv")
    assert "no-such-metric" in refusal(*score, "--metric", "no-such-metric")
