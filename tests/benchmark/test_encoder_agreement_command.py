"""`finer-rank compare --by embedder` says what the records' tables give, and refuses what shows no order."""

import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from agreement_cases import CLEARLY, IDENTITIES, counted_tau_b, slow_interval
from animals import ANIMALS, write_run, write_zoo
from handmade import Cli, Refusal, lacking
from PIL import Image
from pytest import approx
from typer.testing import CliRunner

import finer_rank
from benchmark.records import FORMAT, PROTOCOL, TABLE_COLUMNS, Record, find_records, read_record, write_record

# ---- the command, on records that evaluate wrote

RUNS = {"painter": 0.7, "sketcher": 0.4, "scribbler": 0.1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `records` of three runs under three embedders, two of them networks of random weights."""
    from networks import save_timm, save_torchvision

    folder = tmp_path_factory.mktemp("world")
    write_zoo(folder / "zoo")
    for name, likeness in RUNS.items():
        write_run(folder / "runs" / name, name, likeness=likeness)
    specs = (
        "classical:",
        f"timm:test_vit@{save_timm(folder / 'vit.safetensors')}",
        f"torchvision:squeezenet1_1@{save_torchvision(folder / 'squeezenet.safetensors')}",
    )
    judges = [argument for spec in specs for argument in ("--embedder", spec)]
    places = ("--store", folder / "store", "--out", folder / "records")
    command = ["evaluate", "-g", folder / "zoo", "-r", folder / "runs", *judges, "--size", "64", "--device", "cpu"]
    # In this process: loading the networks' libraries once is slow enough.
    done = CliRunner().invoke(finer_rank.app, list(map(str, [*command, *places])))
    assert done.exit_code == 0, done.output
    return folder


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def parsed(text: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
    return content


@pytest.fixture(scope="module")
def found(world: Path, cli: Cli) -> dict[str, Any]:
    done = cli("compare", "records", "--by", "embedder", "--json", cwd=world)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def column_of(world: Path, column: str) -> dict[str, dict[str, list[float]]]:
    """Fingerprint → run → means of its identities, from the tables on disk."""
    scores: dict[str, dict[str, list[float]]] = {}
    for folder in find_records([world / "records"]):
        record = read_record(folder)
        rows = record.queries.to_pylist()
        own = [[row[column] for row in rows if row["identity"] == animal] for animal in sorted(ANIMALS)]
        of = scores.setdefault(record.summary["embedder"]["fingerprint"], {})
        of[record.name] = [math.fsum(each) / len(each) for each in own]
    return scores


@pytest.mark.parametrize(("metric", "column"), [("mAP", "average_precision"), ("AUC", "auc"), ("rank_1", "rank_1")])
def test_the_command_says_what_the_tables_on_disk_give(world: Path, cli: Cli, metric: str, column: str) -> None:
    done = cli("compare", "records", "--by", "embedder", "--metric", metric, "--json", cwd=world)
    printed = parsed(done.stdout)
    assert (printed["metric"], printed["gallery"], printed["n_identities"]) == (metric, "zoo", len(ANIMALS))
    scores = column_of(world, column)
    labels = {embedder["label"]: embedder["fingerprint"] for embedder in printed["embedders"]}
    assert [label.partition(":")[0] for label in labels] == ["classical", "timm", "torchvision"]
    runs = sorted(RUNS)
    of = {label: np.array([scores[fingerprint][run] for run in runs]) for label, fingerprint in labels.items()}
    for row, first in zip(printed["matrix"], labels, strict=True):
        for tau, second in zip(row, labels, strict=True):
            assert tau == approx(counted_tau_b(of[first].mean(axis=1), of[second].mean(axis=1)))
    for pair in printed["embedder_pairs"]:
        slow = slow_interval(of[pair["first"]], of[pair["second"]])
        assert (pair["low"], pair["high"], pair["n_undefined"]) == approx(slow)
        assert (pair["n_runs"], pair["n_identities"]) == (3, len(ANIMALS))
    for number, run in enumerate(runs):
        for label in labels:
            place = printed["places"][run][label]
            assert place["value"] == approx(of[label][number].mean())
            assert place["rank"] == 1 + sum(of[label].mean(axis=1) > place["value"] + 1e-9)


def test_differences_are_those_of_compare_under_each_embedder(world: Path, found: dict[str, Any], cli: Cli) -> None:
    folders = find_records([world / "records"])
    for embedder in found["embedders"]:
        own = [f for f in folders if read_record(f).summary["embedder"]["fingerprint"] == embedder["fingerprint"]]
        for pair in parsed(cli("compare", *own, "--json").stdout)["pairs"]:
            (beside,) = [p for p in found["run_pairs"] if {p["first"], p["second"]} == {pair["first"], pair["second"]}]
            (verdict,) = [v for v in beside["verdicts"] if v["embedder"] == embedder["label"]]
            assert verdict["p"] == approx(pair["p"])
            assert abs(verdict["difference"]["value"]) == approx(abs(pair["difference"]["value"]))
            assert verdict["p_holm"] >= pair["p_holm"] - 1e-12


def test_the_order_of_records_changes_nothing(world: Path, found: dict[str, Any], cli: Cli) -> None:
    backwards = reversed(find_records([world / "records"]))
    assert parsed(cli("compare", *backwards, "--by", "embedder", "--json").stdout) == found


def test_tables_and_a_picture_are_shown_to_people(world: Path, found: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    picture = tmp_path / "agreement.png"
    shown = cli("compare", "records", "--by", "embedder", "--picture", picture, cwd=world)
    assert shown.returncode == 0, shown.stderr
    expected = [f"{tau:.3f}" for row in found["matrix"] for tau in row]
    expected += ["{tau:.3f} [{low:.3f}, {high:.3f}]".format(**pair) for pair in found["embedder_pairs"]]
    expected += ["{value:.3f}, rank {rank}".format(**place) for of in found["places"].values() for place in of.values()]
    expected += ["(1) classical:", "(2) timm:test_vit@vit.safetensors", "unknown", "not supported", "painter"]
    assert lacking(shown.stdout, *expected) == []
    # Five identities cannot decide nine tests, and records of random weights do not say what these have seen.
    assert lacking(shown.stderr, "5 shared identities are too few for 9 tests", "classical: (unseen)") == []
    assert "a claim needs two embedders that have not seen the gallery" in shown.stderr
    with Image.open(picture) as image:
        assert (image.format, min(image.size) > 300) == ("PNG", True)


def test_without_by_embedders_are_not_mixed(world: Path, refusal: Refusal) -> None:
    said = refusal("compare", "records", cwd=world)
    assert lacking(said, "another embedder than", "cannot be compared", "--by embedder") == []


# ---- the command, on records made by hand


def write_made(
    folder: Path, run: str, embedder: str, scores: Sequence[float | None], fingerprint: str = "", **changes: Any
) -> Path:
    """A record of one query of each of the first identities; `changes` are entries such as run__table_sha256."""
    summary: dict[str, Any] = {
        "format": FORMAT,
        "protocol": PROTOCOL,
        "run": {"name": run, "table_sha256": f"table of {run}", "images_sha256": f"images of {run}"},
        "gallery": {"name": "zoo", "table_sha256": "zoo", "images_sha256": "photos"},
        "embedder": {"spec": embedder, "fingerprint": fingerprint or f"{embedder} fingerprint"},
        "scores": {"mAP": {"value": 0.5, "low": 0.4, "high": 0.6}},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = summary
        for part in parts:
            place = place[part]
        place[last] = value
    n = len(scores)
    columns: dict[str, Any] = {name: pa.array([None] * n, pa.float64()) for name in TABLE_COLUMNS["queries"]}
    columns |= {"identity": IDENTITIES[:n], "average_precision": pa.array(scores, pa.float64())}
    neighbours = pa.table({name: pa.array([], pa.string()) for name in TABLE_COLUMNS["neighbours"]})
    write_record(Record(summary, pa.table(columns), neighbours, {}), folder)
    return folder


SCORES = {"a": CLEARLY, "b": [0.1] * 12, "c": [0.05 * i for i in range(12)]}


def write_grid(folder: Path, embedders: Mapping[str, Mapping[str, Any]]) -> Path:
    """Records of the runs a, b and c under each embedder, with these changes."""
    for number, (embedder, changes) in enumerate(embedders.items()):
        for run, scores in SCORES.items():
            write_made(folder / f"{number} {run}", run, embedder, scores, **changes)
    return folder


def test_claims_count_embedders_that_have_not_seen_the_gallery(tmp_path: Path, cli: Cli) -> None:
    unseen = {"embedder__gallery_seen": "unseen"}
    records = write_grid(tmp_path / "two", {"x": unseen, "y": unseen, "z": {"embedder__gallery_seen": "trained on it"}})
    done = cli("compare", records, "--by", "embedder")
    assert "a is better: supported" in done.stdout
    assert "trained on it" in done.stdout
    assert "a claim needs" not in done.stderr
    records = write_grid(
        tmp_path / "one", {"x": unseen, "y": {"embedder__gallery_seen": "same data set family"}, "z": {}}
    )
    done = cli("compare", records, "--by", "embedder", "--json")
    printed = parsed(done.stdout)
    states = {embedder["label"]: embedder["gallery_seen"] for embedder in printed["embedders"]}
    assert states == {"x": "unseen", "y": "same data set family", "z": "unknown"}
    assert [pair["better"] for pair in printed["run_pairs"]] == [None] * 3
    (line,) = [line for line in printed["notes"] if "a claim needs two embedders" in line]
    assert lacking(line, "x (unseen)", "y (same data set family)", "z (unknown)") == []
    assert line in done.stderr


def test_of_several_states_that_records_give_what_speaks_against_a_claim_counts(tmp_path: Path, cli: Cli) -> None:
    records = write_grid(
        tmp_path, {"x": {"embedder__gallery_seen": "unseen"}, "y": {"embedder__gallery_seen": ["odd"]}}
    )
    write_made(records / "older", "d", "x", SCORES["c"])
    printed = parsed(cli("compare", records, "--by", "embedder", "--json").stdout)
    assert [embedder["gallery_seen"] for embedder in printed["embedders"]] == ["unknown", "unknown"]


def test_runs_that_embedders_order_differently_are_listed(tmp_path: Path, cli: Cli) -> None:
    for embedder, sign in (("x", 1), ("y", -1)):
        write_made(tmp_path / f"a {embedder}", "a", embedder, [0.5 + sign * 0.1] * 12)
        write_made(tmp_path / f"b {embedder}", "b", embedder, [0.5] * 12)
    done = cli("compare", tmp_path, "--by", "embedder")
    assert "-1.000 [-1.000, -1.000]" in done.stdout
    assert "  a before b under (1) (told apart, p 0.0010), behind under (2) (told apart, p 0.0010)" in done.stdout
    assert "x and y share two runs: tau of two is only 1 or −1" in done.stderr


def test_an_embedder_that_ties_all_runs_has_no_tau(tmp_path: Path, cli: Cli) -> None:
    write_grid(tmp_path, {"x": {}})
    for run in SCORES:
        write_made(tmp_path / f"flat {run}", run, "flat", [0.5] * 12)
    done = cli("compare", tmp_path, "--by", "embedder", "--json", "--picture", tmp_path / "out.svg")
    printed = parsed(done.stdout)
    assert printed["matrix"] == [[None, None], [None, 1]]
    assert [printed["embedder_pairs"][0][key] for key in ("tau", "low", "high")] == [None] * 3
    assert "tau is undefined" in done.stderr
    assert "│     – │" in cli("compare", tmp_path, "--by", "embedder").stdout


def test_one_identity_gives_no_interval(tmp_path: Path, cli: Cli) -> None:
    for embedder, run in itertools.product("xy", "abc"):
        write_made(tmp_path / f"{embedder} {run}", run, embedder, SCORES[run][5:6])
    (pair,) = parsed(cli("compare", tmp_path, "--by", "embedder", "--json").stdout)["embedder_pairs"]
    assert (pair["tau"], pair["low"], pair["high"], pair["n_identities"]) == (1, None, None, 1)


def test_what_is_missing_is_said(tmp_path: Path, cli: Cli) -> None:
    records = write_grid(tmp_path, {"x": {}, "y": {}})
    shutil.rmtree(records / "1 b")
    write_made(records / "0 d", "d", "x", SCORES["c"][:4])
    done = cli("compare", records, "--by", "embedder", "--json")
    printed = parsed(done.stdout)
    assert printed["missing"] == [["b", "y"], ["d", "y"]]
    assert (printed["embedder_pairs"][0]["n_runs"], printed["embedder_pairs"][0]["n_identities"]) == (2, 12)
    expected = ("no record of b under y", "no record of d under y", "4 of 12 identities stand in all records")
    assert lacking(done.stderr, *expected) == []
    assert "–" in cli("compare", records, "--by", "embedder").stdout


def test_embedders_of_one_name_are_told_apart_by_their_fingerprint(tmp_path: Path, cli: Cli) -> None:
    for fingerprint, run in itertools.product(("aaaaaa1", "aaaaaa2", "bbbbbb1"), "abc"):
        write_made(tmp_path / f"{fingerprint} {run}", run, "clip", SCORES[run], fingerprint)
    write_grid(tmp_path, {"dino": {}})
    of_two = [folder for folder in find_records([tmp_path]) if not folder.name.startswith("aaaaaa2")]
    printed = parsed(cli("compare", *of_two, "--by", "embedder", "--json").stdout)
    assert [embedder["label"] for embedder in printed["embedders"]] == ["clip #aaaaaa", "clip #bbbbbb", "dino"]
    printed = parsed(cli("compare", tmp_path, "--by", "embedder", "--json").stdout)
    assert [embedder["label"] for embedder in printed["embedders"]][:2] == ["clip #aaaaaa1", "clip #aaaaaa2"]


def test_one_region_is_chosen_among_several(tmp_path: Path, cli: Cli, refusal: Refusal) -> None:
    write_grid(tmp_path / "full", {"x": {}, "y": {}})
    write_grid(tmp_path / "subject", {"x": {"region": "subject"}, "y": {"region": "subject"}})
    command = ("compare", tmp_path / "full", tmp_path / "subject", "--by", "embedder")
    assert "choose one with --region" in refusal(*command)
    assert parsed(cli(*command, "--region", "subject", "--json").stdout)["region"] == "subject"


OTHERS = {
    "another gallery than": {"gallery__table_sha256": "another"},
    "another gallery": {"gallery__images_sha256": "another"},
    "another region": {"region": "subject"},
    "another choice of positives": {"positives": "same viewpoint"},
    "another protocol": {"protocol": "0"},
}


@pytest.mark.parametrize("expected", OTHERS)
def test_all_but_the_embedder_must_be_the_same(tmp_path: Path, refusal: Refusal, expected: str) -> None:
    write_grid(tmp_path, {"x": {}, "y": OTHERS[expected]})
    said = refusal("compare", tmp_path, "--by", "embedder")
    assert lacking(said, expected, "cannot be compared", str(tmp_path / "1 a"), str(tmp_path / "0 a")) == []


@pytest.mark.parametrize("digest", ["table_sha256", "images_sha256"])
def test_other_images_under_the_same_name_are_refused(tmp_path: Path, refusal: Refusal, digest: str) -> None:
    write_grid(tmp_path, {"x": {}, "y": {}})
    other = write_made(tmp_path / "other", "b", "z", SCORES["b"], **{f"run__{digest}": "another"})
    said = refusal("compare", tmp_path, "--by", "embedder")
    assert lacking(said, str(other), str(tmp_path / "0 b"), "another run named 'b'") == []


def test_what_shows_no_order_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    by = ("--by", "embedder")
    records = write_grid(tmp_path / "records", {"x": {}, "y": {}})
    first, second = records / "0 a", records / "1 a"
    assert "x and y share one run" in refusal("compare", first, second, *by)
    assert "x and y share no run" in refusal("compare", first, records / "1 b", *by)
    assert "all records are of the embedder x" in refusal("compare", first, records / "0 b", *by)
    copy = shutil.copytree(first, tmp_path / "copy")
    twice = refusal("compare", records, copy, *by)
    assert lacking(twice, "two records are of the run 'a' under x", str(first), str(copy)) == []
    undefined = write_made(tmp_path / "undefined", "d", "x", [None] * 12)
    assert lacking(refusal("compare", records, undefined, *by), "mAP is undefined", str(undefined)) == []
    broken = write_made(tmp_path / "broken", "d", "x", [float("nan")] * 12)
    assert lacking(refusal("compare", records, broken, *by), "damaged record", str(broken)) == []
    apart = write_made(tmp_path / "apart", "d", "x", [None, *[0.5] * 11])
    alone = write_made(tmp_path / "alone", "d", "y", [0.5])
    assert "no identity is shared by all records" in refusal("compare", records, apart, alone, *by)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--by", "run"], "--by run: unknown; write embedder"),
        (["--picture", "out.png"], "add --by embedder"),
        (["--by", "embedder", "--picture", "out.doc"], "out.doc: no picture format"),
        (["--by", "embedder", "--picture", "nowhere/out.png"], "nowhere/out.png: cannot be written"),
        (["--by", "embedder", "--metric", "map"], "--metric map: unknown"),
        (["--by", "embedder", "--region", "subject"], "--region subject: no such record"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, refusal: Refusal, arguments: list[str], expected: str) -> None:
    write_grid(tmp_path / "records", {"x": {}, "y": {}})
    assert expected in refusal("compare", "records", *arguments, cwd=tmp_path)
