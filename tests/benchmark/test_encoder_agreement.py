"""Do embedders agree: tau-b by counting pairs and against scipy, intervals drawn one by one, claims worked by hand, and
the command on records that evaluate wrote."""

import doctest
import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from animals import ANIMALS, write_run, write_zoo
from handmade import Cli, Refusal, lacking
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import approx
from typer.testing import CliRunner

import benchmark.encoder_agreement
import finer_rank
from benchmark.agreement_plot import draw_agreement
from benchmark.encoder_agreement import Agreement, RunPair, encoder_agreement, kendall_tau_b, networks_of, tau_interval
from benchmark.records import FORMAT, PROTOCOL, TABLE_COLUMNS, Record, find_records, read_record, write_record
from benchmark.statistics import N_RESAMPLES, SEED, compare_paired, holm
from galleries.errors import FinerRankError
from galleries.figures import FORMATS

Means = dict[str, dict[str, dict[str, float]]]


def counted_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b by counting pairs one by one."""
    n_concordant = n_discordant = n_untied_first = n_untied_second = 0
    for i, j in itertools.combinations(range(len(first)), 2):
        a, b = (0 if abs(of[i] - of[j]) < 1e-9 else of[i] - of[j] for of in (first, second))
        n_concordant += a * b > 0
        n_discordant += a * b < 0
        n_untied_first += a != 0
        n_untied_second += b != 0
    if not n_untied_first or not n_untied_second:
        return None
    return (n_concordant - n_discordant) / math.sqrt(n_untied_first * n_untied_second)


# ---- tau-b

two_scores = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 5).map(lambda i: i / 5), min_size=n, max_size=n) for _ in "12"))
)


@given(two_scores)
def test_tau_b_is_what_counting_pairs_gives_and_scipy(scores: tuple[list[float], list[float]]) -> None:
    tau = kendall_tau_b(*scores)
    counted = counted_tau_b(*scores)
    if counted is None:
        assert tau is None
        assert math.isnan(scipy.stats.kendalltau(*scores).statistic)
    else:
        assert tau == approx(counted, abs=1e-12)
        assert tau == approx(scipy.stats.kendalltau(*scores).statistic, abs=1e-12)
        assert -1 <= counted <= 1


def test_tau_b_by_hand() -> None:
    # Six pairs; one is tied in the first, the other five are concordant.
    assert kendall_tau_b([1, 2, 2, 3], [1, 2, 3, 4]) == approx(5 / math.sqrt(5 * 6))
    assert kendall_tau_b([1, 2], [5, 3]) == -1
    assert kendall_tau_b([1], [2]) is None


def test_means_that_differ_by_rounding_are_tied() -> None:
    assert 0.1 + 0.2 != 0.3
    assert kendall_tau_b([0.1 + 0.2, 0.3, 0.9], [0.1, 0.2, 0.3]) == kendall_tau_b([0.3, 0.3, 0.9], [0.1, 0.2, 0.3])
    assert kendall_tau_b([0.1 + 0.2, 0.3], [0.1, 0.2]) is None


def test_the_examples_in_docstrings_are_right() -> None:
    assert doctest.testmod(benchmark.encoder_agreement) == (0, 2)


# ---- its interval


def slow_interval(first: np.ndarray, second: np.ndarray) -> tuple[float | None, float | None, int]:
    """The same resamples, each spelt out as a list of identities, and quantiles by linear interpolation."""
    n_runs, n = first.shape
    rng = np.random.default_rng(SEED)
    taus = []
    n_undefined = 0
    for _ in range(N_RESAMPLES):
        drawn = [i for i, times in enumerate(rng.multinomial(n, [1 / n] * n)) for _ in range(times)]
        means = [[math.fsum(float(of[run, i]) for i in drawn) / n for run in range(n_runs)] for of in (first, second)]
        tau = counted_tau_b(*means)
        if tau is None:
            n_undefined += 1
        else:
            taus.append(tau)
    taus.sort()
    bounds = []
    for share in (0.025, 0.975):
        at = share * (len(taus) - 1)
        below = math.floor(at)
        above = min(below + 1, len(taus) - 1)
        bounds.append(taus[below] + (at - below) * (taus[above] - taus[below]))
    return bounds[0], bounds[1], n_undefined


@pytest.mark.parametrize("kind", ["continuous", "hits and misses", "two runs", "two identities"])
def test_an_interval_is_that_of_resamples_drawn_one_by_one(kind: str) -> None:
    rng = np.random.default_rng(7)
    shape = {"two runs": (2, 6), "two identities": (4, 2)}.get(kind, (5, 8))
    skill = rng.uniform(0.2, 0.8, (shape[0], 1))
    first, second = (np.clip(skill + rng.normal(0, 0.2, shape), 0, 1) for _ in "12")
    if kind != "continuous":
        first, second = first.round(), second.round()
    low, high, n_undefined = tau_interval(first, second)
    assert (low, high, n_undefined) == approx(slow_interval(first, second))
    if kind == "two runs":
        assert n_undefined > 0


def test_an_interval_of_many_runs_is_drawn_in_parts_that_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, (30, 1)) + rng.normal(0, 1, (30, 300))
    second = first + rng.normal(0, 3, (30, 300))
    weights = np.random.default_rng(SEED).multinomial(300, [1 / 300] * 300, size=N_RESAMPLES)
    taus = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(weights @ first.T, weights @ second.T, strict=True)]
    assert tau_interval(first, second) == approx((*np.quantile(taus, [0.025, 0.975]), 0))


def test_where_there_is_nothing_to_draw_there_is_no_interval() -> None:
    assert tau_interval(np.array([[0.1], [0.2]]), np.array([[0.1], [0.2]])) == (None, None, 0)
    assert tau_interval(np.zeros((3, 4)), np.eye(3, 4)) == (None, None, N_RESAMPLES)


def test_an_interval_narrows_with_identities_and_holds_the_truth_of_clear_orders() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (5, 200):
        first, second = (np.linspace(0.3, 0.6, 6)[:, None] + rng.normal(0, 0.3, (6, n)) for _ in "12")
        low, high, _ = tau_interval(first, second)
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths[1] < widths[0]


# ---- agreement as a whole

IDENTITIES = [f"dog {i:02d}" for i in range(12)]


def means_of(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Means:
    """Embedder → run → scores of the first identities."""
    return {
        embedder: {run: dict(zip(IDENTITIES, values, strict=False)) for run, values in of.items()}
        for embedder, of in scores.items()
    }


@st.composite
def judged(draw: st.DrawFn) -> Means:
    n = draw(st.integers(1, 5))
    score = st.integers(0, 4).map(lambda i: i / 4)
    runs = [f"run {i}" for i in range(draw(st.integers(2, 4)))]
    return means_of({e: {run: [draw(score) for _ in range(n)] for run in runs} for e in ("clip", "dino", "reid")})


@given(judged(), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_matrix_is_symmetric_and_one_on_its_diagonal_in_any_order(means: Means, random: Random) -> None:
    agreement = encoder_agreement(means, {"clip", "dino"})
    for i, row in enumerate(agreement.matrix):
        of = [place[agreement.embedders[i]].value for place in agreement.places.values()]
        assert row[i] == (None if max(of) - min(of) < 1e-9 else 1)
        for j, tau in enumerate(row):
            assert tau == agreement.matrix[j][i]
            other = [place[agreement.embedders[j]].value for place in agreement.places.values()]
            assert tau == approx(counted_tau_b(of, other))
    for pair in agreement.embedder_pairs:
        if pair.low is not None:
            assert pair.high is not None
            assert -1 <= pair.low <= pair.high <= 1

    def shuffled(of: Mapping[str, Any]) -> dict[str, Any]:
        items = list(of.items())
        random.shuffle(items)
        return {key: shuffled(value) if isinstance(value, dict) else value for key, value in items}

    again = encoder_agreement(shuffled(means), {"dino", "clip"})
    assert again == agreement
    assert list(again.places) == list(agreement.places)


@given(judged())
@settings(max_examples=25, deadline=None)
def test_equal_embedders_agree_and_reversed_ones_disagree_wholly(means: Means) -> None:
    clip = means["clip"]
    reverse = {run: {identity: 1 - value for identity, value in of.items()} for run, of in clip.items()}
    agreement = encoder_agreement({"clip": clip, "again": clip, "reverse": reverse}, ())
    for pair in agreement.embedder_pairs:
        expected = -1 if "reverse" in (pair.first, pair.second) else 1
        assert pair.tau in (expected, None)
        if pair.tau is not None and pair.low is not None:
            assert (pair.low, pair.high) == (expected, expected)
    for run_pair in agreement.run_pairs:
        signs = {verdict.embedder: verdict.sign for verdict in run_pair.verdicts}
        assert signs["clip"] == signs["again"] == -signs["reverse"]
        assert run_pair.is_ordered_differently == (signs["clip"] != 0)


def test_ranks_share_the_best_place_of_tied_runs() -> None:
    of = {"a": [0.5, 0.7], "b": [0.7, 0.5], "c": [0.9, 0.9], "d": [0.1, 0.1]}
    agreement = encoder_agreement(means_of({"clip": of, "dino": of}), ())
    assert {run: place["clip"].rank for run, place in agreement.places.items()} == {"a": 2, "b": 2, "c": 1, "d": 4}
    assert agreement.places["c"]["dino"].value == 0.9


def test_pairs_of_embedders_use_the_runs_that_both_judged() -> None:
    rng = np.random.default_rng(3)
    runs = {run: rng.uniform(0, 1, 6).tolist() for run in "abcd"}
    means = means_of({"clip": runs, "dino": {run: runs[run][::-1] for run in "abc"}, "reid": runs})
    agreement = encoder_agreement(means, ())
    assert agreement.missing == (("d", "dino"),)
    assert {(p.first, p.second): p.n_runs for p in agreement.embedder_pairs} == {
        ("clip", "dino"): 3, ("clip", "reid"): 4, ("dino", "reid"): 3,
    }  # fmt: skip
    assert [v.embedder for p in agreement.run_pairs if (p.first, p.second) == ("a", "d") for v in p.verdicts] == [
        "clip",
        "reid",
    ]
    assert agreement.n_tests == 6 + 3 + 6
    # What a third embedder judged changes nothing between two others.
    alone = encoder_agreement({name: means[name] for name in ("clip", "reid")}, ())
    assert alone.embedder_pairs == (agreement.embedder_pairs[1],)


def test_two_runs_that_no_embedder_judged_both_are_no_pair() -> None:
    of = {"a": [0.1, 0.2], "b": [0.3, 0.1], "c": [0.2, 0.9], "d": [0.5, 0.5]}
    means = means_of({"clip": {run: of[run] for run in "abc"}, "dino": {run: of[run] for run in "bcd"}})
    agreement = encoder_agreement(means, ())
    assert ("a", "d") not in {(pair.first, pair.second) for pair in agreement.run_pairs}


def test_what_is_compared_is_compared_over_the_identities_that_all_of_it_share() -> None:
    scores = {"a": [0.9, 0.9, 0.1, 0.1], "b": [0.5, 0.5, 0.5, 0.9], "c": [0.6, 0.6]}
    agreement = encoder_agreement(means_of({"clip": scores, "dino": scores}), ())
    assert (agreement.n_identities, agreement.n_all_identities) == (2, 4)
    assert {run: place["clip"].rank for run, place in agreement.places.items()} == {"a": 1, "b": 3, "c": 2}
    assert agreement.embedder_pairs[0].n_identities == 2
    pairs = {(pair.first, pair.second): pair for pair in agreement.run_pairs}
    assert (pairs["a", "b"].n_identities, pairs["a", "c"].n_identities) == (4, 2)
    assert pairs["a", "b"].verdicts[0].difference.value == approx(-0.1)


def test_tests_are_those_of_compare_with_holm_over_all_that_is_listed() -> None:
    rng = np.random.default_rng(5)
    means = means_of({e: {run: rng.uniform(0, 1, 7).tolist() for run in "abc"} for e in ("clip", "dino")})
    agreement = encoder_agreement(means, ())
    expected = {}
    for embedder, of in means.items():
        for pair in compare_paired(of)[0]:
            expected[pair.first, pair.second, embedder] = pair
    verdicts = {(p.first, p.second, v.embedder): v for p in agreement.run_pairs for v in p.verdicts}
    assert verdicts.keys() == expected.keys()
    adjusted = holm([expected[key].p for key in verdicts])
    for (key, verdict), p_holm in zip(verdicts.items(), adjusted, strict=True):
        assert (verdict.p, verdict.difference) == (expected[key].p, expected[key].difference)
        assert verdict.smallest_p == expected[key].smallest_p == 2 / 2**7
        assert (verdict.p_holm, verdict.is_apart) == (p_holm, p_holm < 0.05)


@pytest.mark.parametrize(
    "faulty",
    [
        {"clip": {"a": [0.1], "b": [0.2]}},
        {"clip": {"a": [0.1], "b": [0.2]}, "dino": {"a": [0.1], "c": [0.3]}},
        {"clip": {"a": [0.1], "b": [0.2]}, "dino": {"c": [0.1], "d": [0.3]}},
        {"clip": {"a": [0.1], "b": []}, "dino": {"a": [0.1], "b": [0.3]}},
    ],
)
def test_no_order_no_agreement(faulty: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(ValueError, match=r"one embedder|share one run|share no run|no identity"):
        encoder_agreement(means_of(faulty), ())


# ---- claims

CLEARLY, SLIGHTLY = [0.2 + 0.01 * i for i in range(12)], [0.2, -0.1] * 6


def claimed(unseen: Sequence[str], **differences: Sequence[float]) -> RunPair:
    """What is claimed of two runs whose scores differ by that much under each embedder."""
    scores = {e: {"a": [0.5 + d for d in of], "b": [0.5] * 12} for e, of in differences.items()}
    (pair,) = encoder_agreement(means_of(scores), unseen).run_pairs
    return pair


def less(differences: Sequence[float]) -> list[float]:
    return [-difference for difference in differences]


def test_a_claim_is_supported_by_two_embedders_that_have_not_seen_the_gallery() -> None:
    assert claimed(["x", "y"], x=CLEARLY, y=CLEARLY).better == "a"
    assert claimed(["x", "y"], x=less(CLEARLY), y=less(CLEARLY)).better == "b"
    assert claimed(["x"], x=CLEARLY, y=CLEARLY).better is None
    assert claimed([], x=CLEARLY, y=CLEARLY).better is None
    slight = claimed(["x", "y"], x=CLEARLY, y=SLIGHTLY)
    assert (slight.better, [verdict.is_apart for verdict in slight.verdicts]) == (None, [True, False])
    assert [verdict.sign for verdict in slight.verdicts] == [1, 1]


def test_a_claim_is_not_supported_where_one_of_them_contradicts_it_significantly() -> None:
    unseen = ["x", "y", "z"]
    against = claimed(unseen, x=CLEARLY, y=CLEARLY, z=less(CLEARLY))
    assert (against.better, against.is_contradicted, against.is_ordered_differently) == (None, True, True)
    slightly = claimed(unseen, x=CLEARLY, y=CLEARLY, z=less(SLIGHTLY))
    assert (slightly.better, slightly.is_contradicted, slightly.is_ordered_differently) == ("a", False, True)
    seen = claimed(["x", "y"], x=CLEARLY, y=CLEARLY, z=less(CLEARLY))
    assert (seen.better, seen.is_contradicted, seen.is_ordered_differently) == ("a", False, True)


def test_a_tie_is_no_other_order() -> None:
    tied = claimed(["x", "y"], x=CLEARLY, y=[0.0] * 12)
    assert not tied.is_ordered_differently
    assert [verdict.sign for verdict in tied.verdicts] == [1, 0]


# ---- pictures


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    rng = np.random.default_rng(2)
    means = means_of({e: {run: rng.uniform(0, 1, 8).tolist() for run in "abcd"} for e in ("clip $x$", "dino", "犬")})
    return encoder_agreement(means | means_of({"flat": {run: [0.5] * 8 for run in "abcd"}}), ())


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_is_one_of_its_format_and_the_same_bytes_again(
    agreement: Agreement, tmp_path: Path, ending: str
) -> None:
    drawn = []
    for name in "one", "two":
        out = tmp_path / f"{name}{ending}"
        draw_agreement(agreement, dict.fromkeys(agreement.embedders, "unseen"), "mAP, $zoo$\n", out)
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1]
    if ending == ".pdf":
        assert drawn[0].startswith(b"%PDF-")
    elif ending == ".svg":
        assert str(ElementTree.fromstring(drawn[0]).tag).endswith("svg")
    else:
        with Image.open(out) as image:
            assert image.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[ending]
            assert min(image.size) > 300
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("n", [2, 9])
def test_any_number_of_embedders_is_drawn(tmp_path: Path, n: int) -> None:
    of = {"a": [0.1], "b": [0.2]}
    found = encoder_agreement(means_of({f"{'long' * 30} {i}": of for i in range(n)}), ())
    draw_agreement(found, dict.fromkeys(found.embedders, "same data set family"), "title", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert min(image.size) > 300
    with pytest.raises(FinerRankError, match="cannot be written"):
        draw_agreement(found, dict.fromkeys(found.embedders, ""), "title", tmp_path / "nowhere" / "out.png")


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


def test_embedders_that_share_weights_support_a_claim_but_once() -> None:
    identities = [f"i{k}" for k in range(12)]
    better = {run: {i: 0.2 * (run == "a") + 0.01 * k for k, i in enumerate(identities)} for run in ("a", "b")}
    means = {"fp32": better, "bf16": better, "other": better}
    whole = {"weights_sha256": "1"}
    described = {"fp32": whole, "bf16": whole, "other": {"members": [{"weights_sha256": "2"}, {"weights_sha256": "3"}]}}
    networks = networks_of(described)
    assert networks["fp32"] == networks["bf16"] != networks["other"]

    def claim(*unseen: str) -> str | None:
        [pair] = encoder_agreement(means, unseen, networks).run_pairs
        return pair.better

    assert claim("fp32", "bf16") is None
    assert claim("fp32", "other") == "a"
    described["other"] = {"members": [whole, {"weights_sha256": "2"}]}
    networks = networks_of(described)
    assert claim("fp32", "bf16", "other") is None
