"""Calibration against independent arithmetic: on made records of known truth, and on a drawn world."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import Cli, Refusal
from PIL import Image
from pytest import approx
from scipy.stats import spearmanr

from benchmark.calibration import reactions, responses
from benchmark.records import Record

LEVELS = [0.0, 0.25, 0.5, 0.75, 1.0]
WORLD = ("--species", 1, "--identities", 4, "--images", 2, "--levels", 3, "--size", 64)
COLUMNS = {
    "pairwise similarity": "similarity_to_own_reference", "mAP": "average_precision", "AUC": "auc", "rank_1": "rank_1",
}  # fmt: skip


def record(scores: Sequence[float], similarity: Sequence[float]) -> Record:
    """Of identities i0, i1, …, with one query each, all of whose retrieval scores are equal."""
    names = [f"i{k:02d}" for k in range(len(scores))]
    table = {column: list(scores) for column in COLUMNS.values()} | {"identity": names}
    table["similarity_to_own_reference"] = list(similarity)
    summary = {
        "pairwise_similarity": {"to": "own_reference"},
        "matched_anchors": {"chance": 0.2, "held_out": 0.7},
    }
    return Record(summary, pa.table(table), pa.table({}), {})


def falling(step: float, noise: float, n: int = 12) -> list[Record]:
    """Retrieval scores that fall by `step` a level, and a similarity that never moves."""
    rng = np.random.default_rng(0)
    own = rng.uniform(0.8, 0.9, n)
    return [record(own - step * i + (noise * rng.standard_normal(n) if i else 0), own) for i, _ in enumerate(LEVELS)]


def test_a_score_that_follows_identity_is_told_from_one_that_does_not() -> None:
    found = {response.metric: response for response in responses(LEVELS, falling(0.1, 0), [5, 12, 50])}
    assert list(found) == ["pairwise similarity", "mAP", "AUC", "rank_1", "retention"]
    m_ap, still = found["mAP"], found["pairwise similarity"]
    assert m_ap.spearman
    assert m_ap.change
    assert (m_ap.spearman.value, m_ap.spearman.low, m_ap.spearman.high) == (-1, -1, -1)
    assert m_ap.n_down == 4
    assert m_ap.change.value == approx(-0.4 / m_ap.values[0].value)
    assert m_ap.told_apart_from == 0.25
    assert found["retention"].values[0].value == approx((m_ap.values[0].value - 0.2) / 0.5)
    assert set(m_ap.told_apart_with) == {5, 12}  # there are no 50 identities
    assert still.spearman is None
    assert (still.n_down, still.told_apart_from, set(still.told_apart_with.values())) == (0, None, {None})
    assert still.change
    assert still.change.value == 0


def test_more_identities_tell_smaller_drifts_apart() -> None:
    noisy = {r.metric: r for r in responses(LEVELS, falling(0.02, 0.04, n=40), [4, 40])}["mAP"].told_apart_with
    few, many = noisy[4], noisy[40]
    assert many is not None
    assert few is None or few > many


def test_a_failure_wins_loses_or_is_tied() -> None:
    rng = np.random.default_rng(1)
    own = rng.uniform(0.3, 0.6, 8)
    failing = {
        "copies": record(own + 0.3, own + 0.3),
        "forgets": record(own - 0.2, own),
        "same": record(own + 0.01 * rng.choice([-1, 1], 8), own),
    }
    found = {(r.metric, r.failure): r for r in reactions(record(own, own), failing)}
    verdicts = {failure: found["mAP", failure].verdict for failure in failing}
    assert verdicts == {"copies": "wins", "forgets": "loses", "same": "tied"}
    assert found["pairwise similarity", "forgets"].verdict == "tied"
    assert found["mAP", "copies"].difference.value == approx(0.3)
    assert found["mAP", "copies"].p == approx(3 * 2 / 2**8)  # all signs agree, three failures are compared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    out = tmp_path_factory.mktemp("calibration") / "out"
    done = cli("calibrate", "-e", "classical", "--out", out, *WORLD, "--plot", out.with_name("plot.png"))
    assert done.returncode == 0, done.stderr
    assert "told apart from" in done.stdout
    assert "copied-reference" in done.stdout
    return out


def scores_of(records: Path, metric: str) -> dict[str, dict[str, float]]:
    """Run → identity → mean score, read from the records' tables."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(records.iterdir()):
        name = json.loads((path / "record.json").read_text())["run"]["name"]
        table = pq.read_table(path / "queries.parquet").to_pydict()
        column = COLUMNS[metric]
        if column not in table:
            continue
        own: dict[str, list[float]] = {}
        for identity, value in zip(table["identity"], table[column], strict=True):
            own.setdefault(identity, []).append(value)
        found[name] = {identity: float(np.mean(values)) for identity, values in own.items()}
    return found


def test_a_drawn_world_is_judged_as_by_evaluate(cli: Cli, folder: Path, tmp_path: Path) -> None:
    [found] = json.loads((folder / "calibration.json").read_text())
    world = folder / "world"
    done = cli(
        "evaluate", "-g", world / "gallery", "-r", world / "runs", "-e", "classical", "--out", tmp_path / "records"
    )
    assert done.returncode == 0, done.stderr
    assert found["levels"] == [0, 0.5, 1]
    responses_of: dict[str, Any] = {response["metric"]: response for response in found["responses"]}
    for metric in COLUMNS:
        scores = scores_of(tmp_path / "records", metric)
        means = [float(np.mean(list(scores[f"drift-{level:.4f}"].values()))) for level in found["levels"]]
        response = responses_of[metric]
        assert [value["value"] for value in response["values"]] == approx(means)
        if len(set(np.round(means, 12))) > 1:
            assert response["spearman"]["value"] == approx(spearmanr(found["levels"], np.round(means, 12)).statistic)
        assert response["n_down"] == sum(b < a for a, b in itertools.pairwise(means))
        faithful = scores["drift-0.0000"]
        for reaction in found["reactions"]:
            if reaction["metric"] == metric and reaction["failure"] in scores:
                own = scores[reaction["failure"]]
                assert reaction["value"]["value"] == approx(np.mean(list(own.values())))
                assert reaction["difference"]["value"] == approx(np.mean([own[i] - faithful[i] for i in faithful]))
    kinds = {reaction["failure"] for reaction in found["reactions"]}
    assert {"class-only", "collapse", "pattern alone", "toward the mean"} <= kinds
    with Image.open(folder.with_name("plot.png")) as picture:
        assert picture.size[0] > 300


def test_a_world_is_drawn_once_by_its_name_too(cli: Cli, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "world").rglob("*")}
    first = (folder / "calibration.json").read_text()
    done = cli("calibrate", "-e", "classical", "--gallery", "critters", "--out", folder, *WORLD, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(first)
    assert {path: path.stat().st_mtime_ns for path in (folder / "world").rglob("*")} == before


def test_a_world_of_other_numbers_is_not_mixed_in(refusal: Refusal, folder: Path) -> None:
    assert "other numbers" in refusal("calibrate", "-e", "classical", "--out", folder, *WORLD, "--seed", 9)


def test_a_gallery_that_is_there_is_judged_as_the_same_one_drawn(cli: Cli, folder: Path, tmp_path: Path) -> None:
    runs = ("--images", 2, "--levels", 3, "--size", 64)
    gallery = folder / "world" / "gallery"
    done = cli("calibrate", "-e", "classical", "--gallery", gallery, "--out", tmp_path / "own", *runs, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "calibration.json").read_text())
    assert not (tmp_path / "own" / "world" / "gallery").exists()


def test_what_is_no_gallery_of_critters_is_refused(refusal: Refusal, zoo: Path, folder: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "no gallery of critters" in refusal("calibrate", "-e", "classical", "--gallery", zoo, *out)
    assert "--species" in refusal("calibrate", "--gallery", folder / "world" / "gallery", "--species", 2, *out)
    assert not (tmp_path / "out").exists()
