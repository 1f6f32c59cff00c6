"""`finer-rank evaluate`, `compare`, `doctor` and `bench`, as a user gives them."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from animals import ANIMALS, draw, write_run, write_zoo
from handmade import Cli, rows_of, write_rows
from in_process import refused_here, run_here
from pytest import approx

import finer_rank
from benchmark.aggregates import METRICS
from benchmark.records import read_record

ESTIMATE = {"value", "low", "high"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gallery `zoo` and the runs `painter`, `sketcher` and `untuned`, the last one class-only."""
    folder = tmp_path_factory.mktemp("world")
    write_zoo(folder / "zoo")
    write_run(folder / "runs" / "painter", "painter", likeness=0.6)
    write_run(folder / "runs" / "sketcher", "sketcher", references=False, likeness=0.2)
    rows = [{"file_name": f"{number}.png", "category": "cats"} for number in range(3)]
    for row in rows:
        draw(folder / "runs" / "untuned" / row["file_name"], "nobody", int(row["file_name"][0]))
    write_rows(folder / "runs" / "untuned" / "metadata.csv", rows)
    (folder / "runs" / "untuned" / "run.toml").write_text('model = "untuned"\nmethod = "class-only"\n')
    return folder


@pytest.fixture(scope="module")
def evaluated(world: Path, cli: Cli) -> subprocess.CompletedProcess[str]:
    """All three runs, scored; records below `records`."""
    return cli(
        "evaluate", "--gallery", "zoo", "--run", "runs", "--embedder", "classical:", "--store", "store",
        "--out", "records", "--json", cwd=world,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(evaluated: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert evaluated.returncode == 0, evaluated.stderr
    content: dict[str, Any] = json.loads(evaluated.stdout)
    return content


def record_of(world: Path, run: str) -> Path:
    (folder,) = (world / "records").glob(f"{run}--*")
    return folder


# ---- evaluate


def test_json_holds_an_estimate_of_every_metric_for_anchors_and_records(found: dict[str, Any]) -> None:
    assert set(found["anchors"]) == {"chance", "held_out", "copied_reference", "class_only"}
    for scores in [*found["anchors"].values(), *found["records"]]:
        for metric in METRICS:
            assert set(scores[metric]) == ESTIMATE
            assert scores[metric]["low"] <= scores[metric]["value"] <= scores[metric]["high"]
    assert [record["run"] for record in found["records"]] == ["painter", "sketcher", "untuned"]
    for record in found["records"]:
        assert record["embedder"] == "classical:"
        assert set(record["identities"]) <= set(ANIMALS)
        assert set(record["categories"]) <= {"cats", "dogs"}
    painter, sketcher, untuned = found["records"]
    assert painter["mAP"]["value"] > sketcher["mAP"]["value"]
    assert painter["pairwise_similarity"]["to"] == "own_reference"
    assert sketcher["pairwise_similarity"]["to"] == "all_references"
    assert found["anchors"]["class_only"]["mAP"] == untuned["mAP"]


def test_json_says_how_many_images_were_embedded(found: dict[str, Any]) -> None:
    work = found["embedding"]["classical:"]
    assert work["images"] == work["distinct_images"] == work["forward_passes"] == 33 + 15 + 15 + 3
    assert work["left_out"] == []


def test_records_on_disk_hold_what_was_printed(world: Path, found: dict[str, Any]) -> None:
    for printed in found["records"]:
        record = read_record(world / printed["record"])
        assert record.name == printed["run"]
        for metric in METRICS:
            assert record.summary["scores"][metric] == printed[metric]


def test_a_table_shows_anchors_and_runs_for_people(world: Path, found: dict[str, Any]) -> None:
    shown = run_here(
        "evaluate", "-g", "zoo", "runs/painter", "runs/untuned", "-e", "classical:", "--store", "store",
        "--by", "identity", cwd=world,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for name in "(chance)", "(class only)", "(copied reference)", "(held-out photos)", "painter", "by identity", "ada":
        assert name in shown.stdout
    for scores in found["anchors"]["held_out"], found["records"][0]:
        assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**scores["mAP"]) in shown.stdout
    assert " 0 forward passes" in shown.stderr
    assert not list(world.glob("*.partial*"))


def test_without_runs_the_anchors_are_shown(world: Path, found: dict[str, Any]) -> None:
    anchors = run_here("evaluate", "-g", "zoo", "-e", "classical:", "--store", "store", "--json", cwd=world)
    printed = json.loads(anchors.stdout)
    assert printed["records"] == []
    expected = {name: scores for name, scores in found["anchors"].items() if name != "class_only"}
    assert printed["anchors"] == expected


def test_several_embedders_are_told_apart_and_no_folder_is_published(tmp_path: Path, world: Path) -> None:
    from networks import save_timm, save_timm_folder

    specs = [
        "classical:",
        f"timm:test_vit@{save_timm(tmp_path / 'vit.safetensors')}",
        f"timm:local-dir:{save_timm_folder(tmp_path / 'folder')}",
    ]
    arguments = [argument for spec in specs for argument in ("--embedder", spec)]
    run = run_here(
        "evaluate", "-g", world / "zoo", world / "runs" / "painter", *arguments,
        "--size", "96", "--device", "cpu", "--json", "--out", tmp_path / "records",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    printed = json.loads(run.stdout)
    assert list(printed["anchors_by_embedder"]) == list(printed["embedding"]) == specs
    assert printed["anchors"] == printed["anchors_by_embedder"]["classical:"]
    assert [record["embedder"] for record in printed["records"]] == specs
    assert len({record["record"] for record in printed["records"]}) == 3
    for record in printed["records"]:
        assert str(tmp_path) not in (Path(record["record"]) / "record.json").read_text()


def test_runs_whose_names_differ_in_signs_alone_both_keep_their_record(tmp_path: Path, world: Path) -> None:
    names = ["ip adapter", "ip/adapter", "a" * 100, "a" * 99 + "b"]
    for number, name in enumerate(names):
        write_run(tmp_path / "runs" / str(number), name)
    run = run_here(
        "evaluate", "-g", world / "zoo", "-r", tmp_path / "runs", "-e", "classical:", "--out", tmp_path / "records",
        "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kept = [read_record(Path(record["record"])).name for record in json.loads(run.stdout)["records"]]
    assert kept == names


def test_a_category_of_one_identity_is_scored_compared_and_shown(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    runs = [write_run(tmp_path / "runs" / name, name) for name in ("painter", "sketcher")]
    for folder in zoo, *runs:
        write_rows(folder / "metadata.csv", [row for row in rows_of(folder) if row["identity"] == "ada"])
    command = ("evaluate", "-g", zoo, "-r", tmp_path / "runs", "-e", "classical:", "--out", tmp_path / "records")
    shown = run_here(*command, "--by", "category")
    assert shown.returncode == 0, shown.stderr
    assert "1.000" in shown.stdout
    printed = json.loads(run_here(*command, "--json").stdout)
    for scores in printed["records"][0], printed["anchors"]["held_out"]:
        assert (scores["AUC"] or {"value": None})["value"] is None
    assert run_here("compare", tmp_path / "records").returncode == 0
    assert "AUC" in refused_here("compare", tmp_path / "records", "--metric", "AUC")


def test_skip_broken_says_how_many_images_were_left_out(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    (painter / "images" / "rex_0.png").write_bytes(b"")
    command = ("evaluate", "-g", zoo, "-r", painter, "-e", "classical:", "--json")
    stopped = run_here(*command, "--out", tmp_path / "records")
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert "images/rex_0.png: the file is empty" in stopped.stderr
    assert not (tmp_path / "records").exists()
    scored = run_here(*command, "--skip-broken")
    assert scored.returncode == 0
    assert "1 broken images were left out of every number" in scored.stderr
    (left_out,) = json.loads(scored.stdout)["embedding"]["classical:"]["left_out"]
    assert "images/rex_0.png" in left_out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-g", "nowhere", "-e", "classical:"], "nowhere: no such gallery folder"),
        (["-g", "zoo", "-e", "classical:", "-r", "nowhere"], "nowhere: no such run folder"),
        (["-g", "zoo", "-e", "dinov9"], "'dinov2' or"),
        (["-g", "zoo", "-e", "classical:", "-e", "classical:"], "named twice"),
        (["-g", "zoo", "-e", "classical:", "--resize", "stretch"], "squash, crop, pad"),
        (["-g", "zoo", "-e", "classical:", "--interpolation", "cubic"], "bicubic"),
        (["-g", "zoo", "-e", "classical:", "--precision", "fp16"], "fp32 or bf16"),
        (["-g", "zoo", "-e", "classical:", "--size", "4"], "8 to 4096"),
        (["-g", "zoo", "-e", "classical:", "--size", "16"], "size"),
        (["-g", "zoo", "-e", "classical:", "--by", "species"], "identity, category"),
        (["-g", "zoo", "-e", "classical:", "-r", "runs/painter", "-r", "runs/painter"], "'painter'"),
        (["-g", "zoo", "-e", "classical:", "-r", "runs/painter", "--out", "zoo/gallery.toml"], "another --out"),
    ],
    ids=lambda value: " ".join(value[4:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(world: Path, arguments: list[str], expected: str) -> None:
    before = sorted(world.glob("zoo/*"))
    assert expected in refused_here("evaluate", *arguments, cwd=world)
    assert sorted(world.glob("zoo/*")) == before


# ---- compare


def test_compare_tests_runs_pair_by_pair_over_identities(world: Path, found: dict[str, Any]) -> None:
    compared = json.loads(run_here("compare", "records", "--json", cwd=world).stdout)
    assert compared["metric"] == "mAP"
    pairs = {(pair["first"], pair["second"]): pair for pair in compared["pairs"]}
    assert set(pairs) == {("painter", "sketcher"), ("painter", "untuned"), ("sketcher", "untuned")}
    painter, sketcher, untuned = found["records"]
    difference = painter["mean_over_identities"]["mAP"]["value"] - sketcher["mean_over_identities"]["mAP"]["value"]
    first = pairs["painter", "sketcher"]
    assert first["difference"]["value"] == approx(difference)
    assert first["n_identities"] == 5
    assert pairs["painter", "untuned"]["n_identities"] == 3
    assert first["p"] >= first["smallest_p"] == 2 / 2**5
    assert compared["ranks"][0]["name"] == "painter"
    assert {rank["name"]: rank["mean"] for rank in compared["ranks"]} == approx(
        {record["run"]: record["mean_over_identities"]["mAP"]["value"] for record in (painter, sketcher, untuned)}
    )


@pytest.mark.parametrize("metric", ["mAP", "AUC", "rank_1", "MAP@R"])
def test_compare_shows_a_table_and_warns_of_too_few_identities(world: Path, found: Any, metric: str) -> None:
    records = (record_of(world, "painter"), record_of(world, "sketcher"))
    shown = run_here("compare", *records, "--metric", metric)
    assert shown.returncode == 0, shown.stderr
    assert "painter − sketcher" in shown.stdout
    assert "too few" in shown.stderr


def test_compare_refuses_what_cannot_be_compared(world: Path, found: Any, tmp_path: Path) -> None:
    painter, sketcher = record_of(world, "painter"), record_of(world, "sketcher")
    smaller = ("evaluate", "-e", "classical:", "--size", "64", "--out", tmp_path / "smaller")
    assert run_here(*smaller, "-g", world / "zoo", world / "runs" / "sketcher").returncode == 0
    shutil.copytree(world / "zoo", tmp_path / "zoo")
    write_rows(tmp_path / "zoo" / "metadata.csv", rows_of(world / "zoo")[:-1])
    elsewhere = ("evaluate", "-e", "classical:", "--out", tmp_path / "elsewhere")
    assert run_here(*elsewhere, "-g", tmp_path / "zoo", world / "runs" / "sketcher").returncode == 0
    assert "another embedder" in refused_here("compare", painter, tmp_path / "smaller")
    assert "another gallery" in refused_here("compare", painter, tmp_path / "elsewhere")
    assert "nothing to compare" in refused_here("compare", painter)
    shutil.copytree(sketcher, tmp_path / "copy")
    assert "two records are of the run 'sketcher'" in refused_here("compare", sketcher, tmp_path / "copy")
    assert "mAP, AUC, rank_1, MAP@R" in refused_here("compare", painter, sketcher, "--metric", "map")
    assert "holds no record" in refused_here("compare", world / "zoo")


def test_compare_refuses_scores_of_another_protocol(world: Path, found: Any, tmp_path: Path) -> None:
    painter = record_of(world, "painter")
    shutil.copytree(painter, tmp_path / "newer")
    newer = json.loads((painter / "record.json").read_text()) | {"protocol": "2"}
    (tmp_path / "newer" / "record.json").write_text(json.dumps(newer))
    assert "protocol" in refused_here("compare", record_of(world, "sketcher"), tmp_path / "newer")


def test_compare_names_a_changed_photo_behind_an_equal_table(world: Path, found: Any, tmp_path: Path) -> None:
    shutil.copytree(world / "zoo", tmp_path / "zoo")
    draw(tmp_path / "zoo" / "images" / "ada_3.png", "ada", 999)
    command = ("evaluate", "-e", "classical:", "--out", tmp_path / "records", "-g", tmp_path / "zoo")
    assert run_here(*command, world / "runs" / "sketcher").returncode == 0
    assert "another gallery" in refused_here("compare", record_of(world, "painter"), tmp_path / "records")


@pytest.mark.parametrize("command", ["compare", "neighbours"])
@pytest.mark.parametrize("damage", ["cut json", "no gallery", "no queries", "cut queries"])
def test_a_damaged_record_is_one_line_and_exit_code_2(
    world: Path, found: Any, tmp_path: Path, command: str, damage: str
) -> None:
    record = tmp_path / "record"
    shutil.copytree(record_of(world, "painter"), record)
    summary, queries = record / "record.json", record / "queries.parquet"
    if damage == "cut json":
        summary.write_text(summary.read_text()[:300])
    elif damage == "no gallery":
        summary.write_text(json.dumps({k: v for k, v in json.loads(summary.read_text()).items() if k != "gallery"}))
    elif damage == "no queries":
        queries.unlink()
    else:
        queries.write_bytes(queries.read_bytes()[:-20])
    others = [record_of(world, "sketcher")] if command == "compare" else ["--out", tmp_path / "strips.png"]
    assert str(record) in refused_here(command, record, *others, cwd=world)
    assert not (tmp_path / "strips.png").exists()


# ---- doctor, bench, help


def test_doctor_says_what_is_there(process: Cli, store: Path) -> None:
    found = json.loads(process("doctor", "--json").stdout)
    assert {"program", "devices", "caches", "packages", "missing"} <= set(found)
    assert found["packages"]["torch"]
    assert str(store) in found["caches"]["embedding store"]
    shown = run_here("doctor")
    assert shown.returncode == 0
    assert found["packages"]["torch"] in shown.stdout


def test_bench_measures_ranking_beside_the_bare_product(process: Cli) -> None:
    sizes = ("--queries", "20", "--gallery", "500", "--dim", "16", "--relevant", "3", "--repeats", "2")
    found = json.loads(process("bench", "ranking", *sizes, "--json").stdout)
    assert (found["queries"], found["gallery"], found["dim"], found["relevant"]) == (20, 500, 16, 3)
    assert found["ranking_s"] > 0
    assert found["ratio_to_bare_product"] > 0
    assert found["rows_mb"] == approx(520 * 16 * 4 / 1e6)
    assert found["peak_memory_mb"] > found["rows_mb"]


def test_bench_refuses_what_it_cannot_measure() -> None:
    assert "--relevant 500" in refused_here("bench", "ranking", "--gallery", "500", "--relevant", "500")
    growing = ("--gallery", "500", "--relevant", "125", "--growth")
    assert "--relevant 125: at most 124" in refused_here("bench", "ranking", *growing)


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


ALL_COMMANDS = dict(commands(typer.main.get_command(finer_rank.app)))


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_and_option_explains_itself(path: tuple[str, ...]) -> None:
    command = ALL_COMMANDS[path]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} has no help"
    shown = run_here(*path, "--help")
    assert shown.returncode == 0
    assert command.help.split(".")[0].split()[0] in shown.stdout
