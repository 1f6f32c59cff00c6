"""Agreement with people beside discrimination of identities: both columns, what tuning moves, and the picture."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from animals import write_zoo
from handmade import Cli, Refusal, write_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytest import approx
from scipy.stats import spearmanr

from benchmark import identity_discrimination
from benchmark.distances import Distance, Resources, load_distance
from benchmark.distances.base import Floats
from benchmark.human_agreement.compared import distances_of
from benchmark.human_judgements.judgements import Judgement, Judgements
from benchmark.identity_discrimination import Sample, discriminations
from benchmark.people_and_identity import Change, agreement_change, change, rank_correlation, study
from benchmark.people_and_identity_plot import draw_study, spread
from galleries.errors import FinerRankError
from galleries.gallery import Gallery


@dataclass
class ByPairs:
    """An embedder's distance that does not let on that it has an embedding."""

    own: Distance

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


@dataclass
class Negated(ByPairs):
    """Near is far, and far is near."""

    spec: str = "negated"

    def of_pairs(self, pairs: Sequence[tuple[Path, Path]], resources: Resources) -> Floats:
        return 2 - self.own.of_pairs(pairs, resources)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("animals") / "zoo", encounters=True)


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def classical() -> Distance:
    return load_distance("classical")


def as_judged_by(distance: Distance, gallery: Gallery, resources: Resources) -> Judgements:
    """Triplets of a gallery's photos whose judge sees with a distance."""
    photos = [photo.path for photo in gallery.photos]
    rows = [
        Judgement((photos[i], photos[(5 * i + 1) % len(photos)], photos[(7 * i + 3) % len(photos)]), 0.0, f"target {i}")
        for i in range(len(photos))
    ]
    asked = Judgements("made", "2afc", gallery.root, tuple(row for row in rows if len(set(row.images)) == 3))
    to_a, to_b = distances_of(asked, distance, resources).T
    answered = [
        Judgement(row.images, float(b < a), row.target) for row, a, b in zip(asked.rows, to_a, to_b, strict=True)
    ]
    return Judgements("made", "2afc", gallery.root, tuple(answered))


def sample(values: Sequence[float], groups: Sequence[str]) -> Sample:
    names = [str(i) for i in range(len(values))]
    return Sample(dict(zip(names, values, strict=True)), dict(zip(names, groups, strict=True)))


def test_an_embedder_agrees_with_the_judge_that_it_is_and_never_with_the_contrary(
    animals: Path, resources: Resources, classical: Distance
) -> None:
    gallery = Gallery.open(animals)
    judged = as_judged_by(classical, gallery, resources)
    found = study(judged, {"zoo": gallery}, [classical, Negated(classical)], [("classical", "negated")], resources)
    assert [found.agreement(metric).value for metric in found.metrics] == [1, 0]
    (pair,) = found.pairs
    assert pair.agreement is not None
    assert pair.agreement.difference.value == -1
    assert pair.verdict.startswith("tuning classical into negated lowered agreement with people (-1.000")
    (of,) = found.discrimination.values()
    assert of["classical"].aucs.mean is not None
    assert of["negated"].aucs.mean is not None
    assert of["classical"].aucs.mean.value == approx(1 - of["negated"].aucs.mean.value)
    back = study(judged, {"zoo": gallery}, [Negated(classical), classical], [("negated", "classical")], resources)
    again = back.pairs[0]
    assert again.agreement is not None
    assert again.agreement.difference.value == 1
    there, here = (p.m_ap["zoo"] for p in (pair, again))
    assert there is not None
    assert here is not None
    assert there.difference.value == approx(-here.difference.value)
    assert there.p == here.p


def test_by_pairs_identities_are_told_apart_as_by_the_held_out_anchor(
    animals: Path, resources: Resources, classical: Distance
) -> None:
    by_embedding, by_pairs = discriminations(Gallery.open(animals), [classical, ByPairs(classical)], resources)
    assert len(by_embedding.aucs.values) > 10
    assert by_pairs.average_precisions.values == approx(dict(by_embedding.average_precisions.values))
    assert by_pairs.aucs.values == approx(dict(by_embedding.aucs.values))
    assert by_pairs.chance == by_embedding.chance


def test_too_many_pairs_are_not_begun_and_it_is_said(
    animals: Path, resources: Resources, classical: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_discrimination, "MOST_PAIRS", 20)
    (found,) = discriminations(Gallery.open(animals), [ByPairs(classical)], resources)
    assert found.average_precisions.mean is None
    assert "at most 20 pairs of photos are measured; here are " in found.missing


def test_nothing_changed_is_a_change_of_0_with_p_1(animals: Path, resources: Resources, classical: Distance) -> None:
    same = sample([0.2, 0.9, 0.4, 0.7, 0.1, 0.3, 0.5], "aabcdef")
    unmoved = change(same, same)
    judged = as_judged_by(classical, Gallery.open(animals), resources)
    distances = distances_of(judged, classical, resources)
    for found in (unmoved, agreement_change(judged, distances, distances)):
        assert found is not None
        assert (found.difference.value, found.difference.low, found.difference.high, found.p) == (0, 0, 0, 1)
        assert found.verb == "did not change"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcdefg")), min_size=1, max_size=12))
def test_a_change_has_the_other_sign_the_other_way_round(rows: list[tuple[float, float, str]]) -> None:
    groups = [group for *_, group in rows]
    before, after = sample([row[0] for row in rows], groups), sample([row[1] for row in rows], groups)
    there, back = change(before, after), change(after, before)
    assert there is not None
    assert back is not None
    assert there.difference.value == approx(-back.difference.value, abs=1e-12)
    assert there.difference.value == approx(np.mean([row[1] - row[0] for row in rows]), abs=1e-12)
    assert (there.p, there.n_groups) == (back.p, len(set(groups)))


@pytest.mark.parametrize(("n", "p", "verb"), [(5, 2 / 2**5, ""), (6, 2 / 2**6, "raised")])
def test_fewer_than_six_identities_allow_no_verdict_even_if_all_rise(n: int, p: float, verb: str) -> None:
    groups = [f"dog{i}" for i in range(n)]
    found = change(sample([0.5] * n, groups), sample([0.6] * n, groups))
    assert found is not None
    assert (found.p, found.verb) == (p, verb)
    said = found.said_of("identity mAP", "identities")
    assert said.startswith("raised identity mAP (+0.100" if verb else "moved identity mAP by +0.100")
    assert ("too few to tell anything" in said) == (not verb)


def test_questions_that_only_one_side_answers_are_no_change() -> None:
    assert change(sample([0.5], "a"), Sample({}, {})) is None


def test_several_pairs_are_corrected_together(animals: Path, resources: Resources, classical: Distance) -> None:
    gallery = Gallery.open(animals)
    judged = as_judged_by(classical, gallery, resources)
    pairs = [("classical", "negated"), ("negated", "classical")]
    found = study(judged, {"zoo": gallery}, [classical, Negated(classical)], pairs, resources)
    for pair in found.pairs:
        assert isinstance(pair.agreement, Change)
        assert pair.agreement.p_holm == min(1, 2 * pair.agreement.p)


def test_rank_correlation_is_spearmans_and_its_p_counts_orders() -> None:
    agreement, identity = [0.5, 0.9, 0.7, 0.6, 0.8, 0.7], [0.3, 0.2, 0.9, 0.1, 0.8, 0.4]
    found = rank_correlation([*agreement, None, 0.1], [*identity, 0.5, None])
    assert found.value == approx(spearmanr(agreement, identity).statistic)
    assert found.n == 6
    five = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert rank_correlation(five, five[::-1]).value == approx(-1)
    assert rank_correlation(five, five).p == approx(2 / math.factorial(5))


def test_too_few_metrics_or_equal_ones_have_no_rank_correlation() -> None:
    few = rank_correlation([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])
    assert (few.value, few.p) == (None, None)
    assert "fewer than 5 cannot be told from chance" in few.missing
    equal = rank_correlation([0.5] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert (equal.value, equal.missing) == (None, "one column is the same for all metrics")


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=12))
def test_names_in_the_picture_keep_their_distance(places: list[float]) -> None:
    step = 1 / 12
    found = spread(sorted(places), step)
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(found))
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9


def test_what_people_reach_with_each_other_is_shown_and_drawn(animals: Path, tmp_path: Path, cli: Cli) -> None:
    photos = [f"images/{animal}_{number}.png" for animal in ("ada", "ben", "rex") for number in range(4)]
    rows = [
        {"first": one, "second": other, "same": "yes" if one[:10] == other[:10] else answer, "rater": rater}
        for i, (one, other) in enumerate(itertools.combinations(photos, 2))
        for rater, answer in (("ann", "no"), ("bob", "yes" if i % 5 == 0 else "no"))
    ]
    table = write_rows(animals / "jnd.csv", rows)
    command = ("agreement", "identity", table, "--gallery", animals, "--pair", "classical=psnr")
    done = cli(*command, "--plot", tmp_path / "jnd.png", "--out", tmp_path / "jnd.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "jnd.json").read_text())
    assert found["measure"] == "JND mAP"
    assert 0 < found["ceiling"]["value"] < 1
    assert f"{found['ceiling']['value']:.3f}" in next(line for line in done.stdout.splitlines() if "one rater" in line)
    before, after = (row["agreement"]["value"] for row in found["metrics"])
    assert found["pairs"][0]["agreement"]["difference"]["value"] == approx(after - before)


@pytest.fixture(scope="module")
def table(animals: Path, cli: Cli) -> Path:
    out = animals / "triplets.csv"
    done = cli("agreement", "triplets", "--gallery", animals, "--out", out, "--n", 40, "--split", "0.5,0,0.5")
    assert done.returncode == 0, done.stderr
    return out


def test_the_command_shows_both_columns_and_a_verdict(table: Path, animals: Path, tmp_path: Path, cli: Cli) -> None:
    command = ("agreement", "identity", table, "--gallery", animals, "--pair", "classical=psnr")
    done = cli(*command, "--plot", tmp_path / "both.svg")
    assert done.returncode == 0, done.stderr
    assert "tuning classical into psnr " in done.stdout
    assert "rank correlation of 2AFC and mAP: none, 2 metrics" in done.stdout
    drawn = (tmp_path / "both.svg").read_bytes()
    assert str(ElementTree.fromstring(drawn).tag).endswith("svg")
    printed = cli(*command, "--plot", tmp_path / "again.svg", "--out", tmp_path / "both.json", "--json").stdout
    assert (tmp_path / "again.svg").read_bytes() == drawn
    assert json.loads(printed) == json.loads((tmp_path / "both.json").read_text())
    of = {row["metric"]: row for row in json.loads(printed)["metrics"]}
    scored = json.loads(cli("agreement", "score", table, "--metric", "classical", "--json").stdout)
    (result,) = (r for r in scored["results"] if r["measure"] == "2AFC" and not r["subset"])
    assert of["classical"]["agreement"]["value"] == result["value"]
    judged = json.loads(cli("evaluate", "--gallery", animals, "--embedder", "classical", "--json").stdout)
    for score in ("mAP", "AUC"):
        assert of["classical"]["galleries"][str(animals)][score] == judged["anchors"]["held_out"][score]


def test_ten_metrics_and_two_galleries_are_drawn(
    animals: Path, resources: Resources, classical: Distance, tmp_path: Path
) -> None:
    gallery = Gallery.open(animals)
    others = (Negated(classical, f"{'a long name ' * 4}{i} $x$") for i in range(9))
    metrics: list[Distance] = [classical, *others]
    judged = as_judged_by(classical, gallery, resources)
    pairs = [("classical", metrics[1].spec)]
    found = study(judged, {"zoo": gallery, "the same": gallery}, metrics, pairs, resources)
    draw_study(found, tmp_path / "ten.png")
    with Image.open(tmp_path / "ten.png") as image:
        assert image.width > 2 * 600
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    with pytest.raises(FinerRankError, match="no picture format"):
        draw_study(found, tmp_path / "ten.doc")


def test_a_gallery_that_answers_nothing_is_said_to(
    table: Path, tmp_path: Path, cli: Cli, animals: Path, refusal: Refusal
) -> None:
    lone = tmp_path / "lone"
    rows = [{"file_name": f"{i}.png", "category": "dog", "identity": f"dog{i}", "split": "gallery"} for i in range(3)]
    for i, row in enumerate(rows):
        (lone / row["file_name"]).parent.mkdir(exist_ok=True)
        (lone / row["file_name"]).write_bytes((animals / f"images/ada_{i}.png").read_bytes())
    write_rows(lone / "metadata.csv", rows)
    done = cli("agreement", "identity", table, "--gallery", lone, "--pair", "classical=psnr", "--json")
    found = json.loads(done.stdout)
    assert [row["galleries"][str(lone)]["mAP"] for row in found["metrics"]] == [None, None]
    assert found["metrics"][0]["galleries"][str(lone)]["missing"] == "no identity has two photos that may answer"
    assert "cannot be judged by identity mAP" in found["pairs"][0]["verdict"]
    line = refusal("agreement", "identity", table, "--gallery", lone, "-m", "classical", "--plot", tmp_path / "no.png")
    assert "nothing to draw" in line


def test_what_makes_no_sense_is_refused(table: Path, animals: Path, tmp_path: Path, refusal: Refusal) -> None:
    start = ("agreement", "identity", table, "--gallery", animals)
    assert "no metric; name one" in refusal(*start)
    for text in ("classical", "=classical", "classical=", "a=b=c", "a=a"):
        assert "write BEFORE=AFTER" in refusal(*start, "--pair", text)
    assert "--gallery: one is named twice" in refusal(*start, "--gallery", animals, "-m", "classical")
    assert "--metric: one is named twice" in refusal(*start, "-m", "classical", "-m", "classical")
    assert "--pair: one is named twice" in refusal(*start, *("--pair", "classical=psnr") * 2)
    assert "no picture format" in refusal(*start, "-m", "classical", "--plot", "a.doc")
    assert "no such gallery folder" in refusal(*start[:3], "--gallery", tmp_path / "none", "-m", "classical")
    assert "--kind colour: unknown" in refusal(*start, "-m", "classical", "--kind", "colour")
    assert "cannot be written" in refusal(*start, "-m", "classical", "--out", tmp_path / "none" / "out.json")
