"""CLIP-T in bundles: what `leaderboard add --clip-t` writes, and what `leaderboard check` refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from handmade import lacking, rows_of, write_rows
from pytest import approx
from safetensors.torch import save_file
from test_bundles import change_record, change_table, command, declare, record_of, write_run, write_zoo


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a gallery, a small CLIP, a run of which one image has no prompt, and its bundle."""
    folder = tmp_path_factory.mktemp("world")
    write_zoo(folder / "zoo")
    model = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "clip").mkdir()
    described = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.3] * 3}}
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    save_file(open_clip.model.CLIP(**model).state_dict(), folder / "clip" / "open_clip_model.safetensors")
    run = declare(write_run(folder / "painter", likeness=0.6), "painter")
    rows = rows_of(run)
    for row in rows:
        row["prompt"] = f"a photo of sks {row['identity']}"
    rows[4]["prompt"] = ""
    write_rows(run / "metadata.csv", rows)
    with (run / "run.toml").open("a") as card:
        card.write('identifier = "sks"\n')
    code, _, err = command(
        "add", run, "-g", folder / "zoo", "-e", "classical:", "--clip-t", judge(folder), "--out", folder / "board",
        "--store", folder / "store",
    )  # fmt: skip
    assert code == 0, err
    assert "1 of 15 images have no prompt" in err
    return folder


def judge(world: Path) -> str:
    return f"open_clip:local-dir:{world / 'clip'}"


@pytest.fixture
def bundle(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "board" / "zoo-1--painter", tmp_path / "zoo-1--painter"))


def test_a_bundle_says_how_well_images_match_their_prompts(world: Path) -> None:
    bundle = world / "board" / "zoo-1--painter"
    code, _, err = command("check", bundle)
    assert code == 0, err
    found = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))["prompt_fidelity"]
    queries = pq.read_table(record_of(bundle) / "queries.parquet").to_pylist()
    assert found["embedder"] == "open_clip:local-dir:clip"  # not where it lies
    assert (found["n_queries"], found["identifier"]) == (14, "sks")
    assert [query["prompt_without_identifier"] for query in queries[3:5]] == ["a photo of ben", ""]
    for column in ("clip_t", "clip_t_without_identifier"):
        values = [query[column] for query in queries if query[column] is not None]
        assert found[column]["value"] == approx(sum(values) / 14)
        assert found[column]["low"] < found[column]["value"] < found[column]["high"]


def _set(column: str, row: int, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] = value

    return change


TABLES: dict[str, tuple[Callable[[dict[str, list[Any]]], Any], str]] = {
    "better": (_set("clip_t", 0, 0.9), "prompt_fidelity.clip_t.value"),
    "out of range": (_set("clip_t", 1, 2.5), "row 1: clip_t: 2.5, not in"),
    "not a number": (_set("clip_t_without_identifier", 1, float("nan")), "not a finite number"),
    "of no prompt": (_set("clip_t", 4, 0.3), "row 4: clip_t: is null where"),
    "left out": (_set("clip_t_without_identifier", 0, None), "row 0: clip_t_without_identifier: is null where"),
    "other text": (_set("prompt_without_identifier", 2, "a cat"), "row 2: prompt_without_identifier: not the prompt"),
    "no column": (lambda c: c.pop("clip_t"), "clip_t: no such column, but record.json speaks of it"),
}


@pytest.mark.parametrize("case", TABLES)
def test_prompts_and_their_cosines_are_checked(case: str, bundle: Path) -> None:
    change, why = TABLES[case]
    change_table(bundle, "queries", change)
    code, _, err = command("check", bundle)
    assert (code, why in err) == (2, True), err


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "gone": (lambda r: r.pop("prompt_fidelity"), "clip_t: record.json does not speak of it"),
    "count": (lambda r: r["prompt_fidelity"].update(n_queries=15), "prompt_fidelity.n_queries: 15, but"),
    "identifier": (lambda r: r["prompt_fidelity"].update(identifier=""), "prompt_fidelity.identifier"),
    "range": (lambda r: r["prompt_fidelity"]["clip_t"].update(value=25.0), "clip_t.value: 25, not in"),
    "field": (lambda r: r["prompt_fidelity"].update(best=True), "prompt_fidelity.best: unknown field"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_what_a_record_says_of_prompts_is_checked(case: str, bundle: Path) -> None:
    change, why = RECORDS[case]
    change_record(bundle, change)
    code, _, err = command("check", bundle)
    assert (code, why in err) == (2, True), err


def test_prompts_are_compared_again_with_the_images_at_hand(world: Path, bundle: Path) -> None:
    again = (bundle, "--gallery", world / "zoo", "--run", world / "painter", "--store", world / "store")
    code, _, err = command("check", *again, "--embedder", judge(world), "--tolerance", 0)
    assert (code, err) == (0, "")
    code, _, err = command("check", *again)  # the record does not say where the judge's weights lie
    assert code == 2
    assert not lacking(
        err, "prompt_fidelity: open_clip:local-dir:clip", "name the encoder that was used with --embedder"
    )

    def other(columns: dict[str, list[Any]]) -> None:
        first, second = columns["clip_t"][:2]  # of one identity: means and intervals stay as they are
        columns["clip_t"][:2] = [second, first]

    change_table(bundle, "queries", other)
    code, _, err = command("check", bundle)
    assert code == 0, err
    code, _, err = command("check", *again, "--embedder", judge(world), "--tolerance", 1e-6)
    assert code == 2
    assert not lacking(err, "ada_0.png", "clip_t", "a new evaluation gives")
