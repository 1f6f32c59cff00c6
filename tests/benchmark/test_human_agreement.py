"""Distances held against judgements: what is scored, by which intervals, and what people reach themselves."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from scipy import stats

from benchmark.distances.base import Floats
from benchmark.human_agreement.agreement import GROUPS_UP_TO
from benchmark.human_agreement.score import MEAN_OVER_SUBSETS, Result, Scores, score_distances
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from galleries.errors import FinerRankError


def judged(kind: Kind, rows: Sequence[Judgement]) -> Judgements:
    return Judgements("made", kind, Path("made.csv"), tuple(rows))


def about(kind: Kind, target: str, answer: float, image: str = "x", **more: object) -> Judgement:
    names = {
        "2afc": (target, f"{target}-a", f"{target}-b"),
        "jnd": (target, f"{target}-{image}"),
        "odd-one-out": (target, f"{target}-a", f"{target}-b"),
    }.get(kind, (target, f"{target}-{image}"))
    return Judgement(tuple(map(Path, names)), answer, target, **more)  # type: ignore[arg-type]


def value(scores: Scores, metric: str, measure: str = "", subset: str = "") -> float:
    found = scores.of(metric, measure, subset)
    assert found is not None
    assert found.value is not None, found.reason
    return found.value


def triplets(n: int, seed: int = 0, raters: Sequence[str] = ("",), n_votes: int = 1) -> Judgements:
    random = np.random.default_rng(seed)
    rows = [
        about("2afc", f"t{i:03d}", float(random.integers(0, n_votes + 1)) / n_votes, rater=rater, n_votes=n_votes)
        for i in range(n)
        for rater in raters
    ]
    return judged("2afc", rows)


def opinions(kind: Kind, n_targets: int, n_images: int, raters: Sequence[str], seed: int = 0) -> Judgements:
    """Each rater sees the true order through noise of his own."""
    random = np.random.default_rng(seed)
    rows = []
    for t, rater in itertools.product(range(n_targets), raters):
        seen = np.arange(n_images) + random.normal(0, 1.2, n_images)
        answers = stats.rankdata(seen) if kind == "ranking" else 5 - np.round(seen)
        rows += [about(kind, f"t{t}", float(a), f"{i}", rater=rater) for i, a in enumerate(answers)]
    return judged(kind, rows)


def noisy_distances(judgements: Judgements, n_columns: int, seed: int = 1) -> Floats:
    """A distance that depends on the image's number, for rankings and ratings; noise for the others. The same images
    are as far apart in each row."""
    random = np.random.default_rng(seed)
    of: dict[tuple[Path, ...], Floats] = {}
    for row in sorted(judgements.rows, key=lambda row: row.images):
        of.setdefault(row.images, random.normal(0, 1.5, n_columns))
    number = [float(row.images[1].name.rpartition("-")[2]) if n_columns == 1 else 0.0 for row in judgements.rows]
    return np.array([of[row.images] + k for row, k in zip(judgements.rows, number, strict=True)])


def test_votes_on_one_triplet_are_one_question_whichever_side_was_shown_first() -> None:
    rows = [
        about("2afc", "t", 1, rater="ann"),
        Judgement((Path("t"), Path("t-b"), Path("t-a")), 0, "t", "bob"),  # sides swapped, the same opinion
        about("2afc", "t", 0, rater="cy"),
        about("2afc", "u", 1, rater="ann"),
    ]
    nearer_b = np.array([[2, 1], [1, 2], [2, 1], [2, 1]], dtype=float)
    scores = score_distances(judged("2afc", rows), {"d": nearer_b})
    assert scores.n_questions == 2
    assert value(scores, "d") == approx((2 / 3 + 1) / 2)  # each question weighs the same, whatever its votes
    assert value(scores, "") == approx(2 / 3 * 1 / 2 + 1 / 3 * 0)  # of three, two agree with one of the two others


@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=20, deadline=None)
def test_the_ceiling_of_counted_votes_is_the_mean_over_voters_of_the_others_who_agree(case: tuple[int, int]) -> None:
    k, n = case
    votes = [1] * k + [0] * (n - k)
    by_hand = np.mean([np.mean([v == w for j, w in enumerate(votes) if j != i]) for i, v in enumerate(votes)])
    scores = score_distances(judged("2afc", [about("2afc", "t", k / n, n_votes=n)]), {})
    assert value(scores, "") == approx(by_hand)


def test_unanimous_votes_have_a_ceiling_of_1_and_a_note_says_that_it_was_chosen() -> None:
    scores = score_distances(judged("2afc", [about("2afc", t, 1, n_votes=7) for t in "abc"]), {})
    assert value(scores, "") == 1
    assert any("unanimous" in note for note in scores.notes)
    assert scores.reliability[0].value is None
    assert "not all the same" in scores.reliability[0].reason


def test_single_votes_allow_no_ceiling_and_a_note_says_what_would() -> None:
    scores = score_distances(triplets(4), {"d": np.ones((4, 2))})
    assert not scores.ceiling
    assert any("ask a second" in note for note in scores.notes)
    assert any("4 of 4 triplets at equal distance" in note for note in scores.notes)
    assert value(scores, "d") == 0.5


def test_a_share_that_is_no_whole_number_of_votes_is_named_as_telling_none() -> None:
    rows = [about("2afc", "t", 0.3, n_votes=5), about("2afc", "u", 0.4, n_votes=5)]
    scores = score_distances(judged("2afc", rows), {"d": np.array([[1.0, 2], [1, 2]])})
    assert value(scores, "d") == approx((0.7 + 0.6) / 2)
    assert any(note.startswith("1 judgements do not tell single votes") for note in scores.notes)


@pytest.mark.parametrize("kind", ["2afc", "jnd", "odd-one-out", "ranking", "rating"])
def test_no_number_depends_on_the_order_of_rows(kind: Kind) -> None:
    random = np.random.default_rng(2)
    raters = ("ann", "bob", "cy")
    if kind in ("ranking", "rating"):
        given_ = opinions(kind, 5, 4, raters)
    else:
        top = 3 if kind == "odd-one-out" else 2
        rows = [about(kind, f"t{i}", float(random.integers(0, top)), rater=r) for i in range(15) for r in raters]
        given_ = judged(kind, [replace(row, subset="ab"[int(row.target[1:]) % 2]) for row in rows])
    n_columns = {"2afc": 2, "odd-one-out": 3}.get(kind, 1)
    distances = {name: np.abs(random.normal(size=(len(given_.rows), n_columns))).round(1) for name in "de"}
    of_images = {row.images: i for i, row in enumerate(given_.rows)}
    distances = {n: d[[of_images[row.images] for row in given_.rows]] for n, d in distances.items()}
    order = random.permutation(len(given_.rows))
    shuffled = judged(kind, [given_.rows[i] for i in order])
    assert score_distances(shuffled, {n: d[order] for n, d in distances.items()}) == score_distances(given_, distances)


def test_the_interval_over_targets_draws_targets_and_that_over_raters_draws_raters() -> None:
    # Each target is judged alike by all: targets differ, raters do not.
    rows = [about("2afc", f"t{i}", float(i % 2), rater=r) for i in range(20) for r in ("ann", "bob", "cy")]
    scores = score_distances(judged("2afc", rows), {"d": np.tile([1.0, 2.0], (60, 1))})
    found = scores.of("d")
    assert found is not None
    assert found.value == 0.5
    assert found.over_raters == approx((0.5, 0.5))
    exact = stats.binom.ppf([0.025, 0.975], 20, 0.5) / 20
    assert found.over_targets == approx(tuple(exact), abs=0.051)
    # Raters differ, targets do not.
    rows = [about("2afc", f"t{i}", float(r == "cy"), rater=r) for i in range(20) for r in ("ann", "bob", "cy")]
    scores = score_distances(judged("2afc", rows), {"d": np.tile([1.0, 2.0], (60, 1))})
    found, people = scores.of("d"), scores.of("")
    assert found is not None
    assert people is not None
    assert found.over_targets == approx((2 / 3, 2 / 3))
    assert found.over_raters == approx((0, 1))
    # Both of a pair are drawn, and ann drawn twice is no pair: ann, ann and bob agree always, ann and cy never.
    assert people.value == approx(1 / 3)
    assert people.over_raters == approx((0, 1))


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_images_whose_mean_answers_are_equal_are_tied_whoever_gave_which(scale: float) -> None:
    answers = {"x": (1, 1, 1, 1, 2, 1), "y": (1, 2, 1, 1, 1, 1), "z": (7, 7, 7, 7, 7, 7)}
    rows = [
        about("rating", "t", scale * answer, image, rater=f"r{i}")
        for image, of in answers.items()
        for i, answer in enumerate(of)
    ]
    distances = np.array([["xyz".index(str(row.images[1])[-1])] for row in rows])
    scores = score_distances(judged("rating", rows), {"d": distances})
    assert value(scores, "d") == approx(stats.spearmanr([0, 1, 2], [-1.5, -1.5, -3]).statistic)


def test_one_target_or_one_rater_has_no_interval() -> None:
    scores = score_distances(judged("2afc", [about("2afc", "t", 1, rater="ann")]), {"d": np.array([[2.0, 1.0]])})
    found = scores.of("d")
    assert found is not None
    assert (found.value, found.over_targets, found.over_raters) == (1, None, None)
    assert any("there is one" in note for note in scores.notes)


def test_the_mean_over_subsets_weighs_a_small_one_as_a_large_one() -> None:
    rows = [about("2afc", f"t{i}", 0, subset="cnn") for i in range(6)] + [about("2afc", "u", 1, subset="blur")]
    scores = score_distances(judged("2afc", rows), {"d": np.tile([1.0, 2.0], (7, 1))})
    assert value(scores, "d") == approx(6 / 7)
    assert (value(scores, "d", subset="cnn"), value(scores, "d", subset="blur")) == (1, 0)
    assert value(scores, "d", subset=MEAN_OVER_SUBSETS) == 0.5


def test_jnd_ceiling_is_each_vote_as_a_metric_against_the_others() -> None:
    counts = {"t": (3, 3), "u": (1, 3), "v": (0, 3), "w": (2, 3)}
    rows = [about("jnd", t, k / n, n_votes=n) for t, (k, n) in counts.items()]
    scores = score_distances(judged("jnd", rows), {"d": np.array([[0.0], [2], [3], [1]])})
    # The eleven pairs of a vote and another one on the same pair of images, by their order of distance.
    votes = [(1, (k - 1) / (n - 1)) for k, n in counts.values() for _ in range(k)]
    votes += [(0, k / (n - 1)) for k, n in counts.values() for _ in range(n - k)]
    near, far = (np.array([s for v, s in votes if v == side]) for side in (1, 0))
    won = sum(a * (1 - b) for a in near for b in far) + sum(side.sum() * (1 - side).sum() / 2 for side in (near, far))
    every = np.concatenate([near, far])
    assert value(scores, "", "JND score") == approx(won / (every.sum() * (1 - every).sum()))
    assert value(scores, "d", "JND score") > value(scores, "", "JND score")


@pytest.fixture(scope="module")
def rankings() -> tuple[Judgements, Floats, Scores]:
    given_ = opinions("ranking", 6, 5, ("ann", "bob", "cy", "di"))
    distances = noisy_distances(given_, 1)
    return given_, distances, score_distances(given_, {"d": distances})


def table_of(judgements: Judgements, of: Callable[[Judgement, int], float]) -> dict[tuple[str, str], list[float]]:
    """(rater, target) → a number of each image, in the order of their names."""
    found: dict[tuple[str, str], list[float]] = {}
    for i in sorted(range(len(judgements.rows)), key=lambda i: judgements.rows[i].images):
        row = judgements.rows[i]
        found.setdefault((row.rater, row.target), []).append(of(row, i))
    return found


def test_rankings_are_scored_within_each_target_against_mean_ranks(
    rankings: tuple[Judgements, Floats, Scores],
) -> None:
    given_, distances, scores = rankings
    ranks, far = table_of(given_, lambda row, i: row.answer), table_of(given_, lambda row, i: float(distances[i, 0]))
    means = {t: np.mean([ranks[r, t] for r in given_.raters], axis=0) for t in given_.targets}
    d = {t: far["ann", t] for t in given_.targets}
    for name, of in (("Spearman", stats.spearmanr), ("Kendall tau-b", stats.kendalltau)):
        within = np.mean([of(d[t], means[t]).statistic for t in given_.targets])
        pooled = of(np.concatenate([d[t] for t in d]), np.concatenate([means[t] for t in d])).statistic
        one = np.mean([of(far[key], ranks[key]).statistic for key in ranks])
        assert value(scores, "d", name) == approx(within)
        assert value(scores, "d", f"{name}, pooled") == approx(pooled)
        assert value(scores, "d", f"{name}, one rater") == approx(one)
        others = {(r, t): np.mean([ranks[o, t] for o in given_.raters if o != r], axis=0) for r, t in ranks}
        left_out = [of(ranks[key], others[key]).statistic for key in ranks]
        assert value(scores, "", name) == approx(np.mean(left_out))
        between = [
            of(ranks[a, t], ranks[b, t]).statistic
            for t in given_.targets
            for a, b in itertools.combinations(given_.raters, 2)
        ]
        assert value(scores, "", f"{name}, one rater") == approx(np.mean(between))


def test_each_raters_own_agreement_is_given(rankings: tuple[Judgements, Floats, Scores]) -> None:
    given_, distances, scores = rankings
    found = scores.of("d", "Spearman, one rater")
    assert found is not None
    assert found.raters is not None
    ranks, far = table_of(given_, lambda row, i: row.answer), table_of(given_, lambda row, i: float(distances[i, 0]))
    for rater in given_.raters:
        own = [stats.spearmanr(far[rater, t], ranks[rater, t]).statistic for t in given_.targets]
        assert found.raters[rater] == approx(np.mean(own))
    assert found.over_raters is not None
    assert found.over_targets is not None


def test_a_distance_that_orders_as_people_do_agrees_wholly_whatever_its_scale() -> None:
    given_ = opinions("ranking", 4, 5, ("ann",))
    scores = score_distances(given_, {"d": np.array([[np.exp(row.answer)] for row in given_.rows])})
    for measure in ("Spearman", "Kendall tau-b", "Spearman, pooled", "ICC(A,1)"):
        assert value(scores, "d", measure) == approx(1)
    assert not scores.ceiling


def test_higher_ratings_agree_with_smaller_distances() -> None:
    given_ = opinions("rating", 4, 5, ("ann", "bob"))
    means = {images: np.mean([r.answer for r in given_.rows if r.images == images]) for images in
             {row.images for row in given_.rows}}  # fmt: skip
    scores = score_distances(given_, {"d": np.array([[7 - 3 * means[row.images]] for row in given_.rows])})
    for measure in ("Spearman", "Pearson", "Pearson, pooled", "Kendall tau-b, pooled", "alpha, standardised"):
        assert value(scores, "d", measure) == approx(1)
    opposite = score_distances(given_, {"d": np.array([[means[row.images]] for row in given_.rows])})
    assert value(opposite, "d", "Pearson, pooled") == approx(-1)


def test_pooled_pearson_of_ratings_is_that_of_scipy_with_distances_far_from_zero() -> None:
    given_ = opinions("rating", 5, 4, ("ann",))
    distances = noisy_distances(given_, 1) + 1e6
    expected = stats.pearsonr(distances[:, 0], [-row.answer for row in given_.rows]).statistic
    scores = score_distances(given_, {"d": distances})
    assert value(scores, "d", "Pearson, pooled") == approx(expected, rel=1e-6)
    sides = np.stack([stats.zscore(distances[:, 0]), stats.zscore([-row.answer for row in given_.rows])])
    alpha = krippendorff.alpha(reliability_data=sides, level_of_measurement="interval")
    assert value(scores, "d", "alpha, standardised") == approx(alpha, rel=1e-6)
    found = scores.of("d", "Kendall tau-b, pooled")
    assert found is not None
    assert found.over_targets is not None


def test_many_targets_have_a_pooled_kendall_without_interval() -> None:
    given_ = opinions("ranking", GROUPS_UP_TO + 1, 3, ("ann",))
    distances = noisy_distances(given_, 1)
    found = score_distances(given_, {"d": distances}).of("d", "Kendall tau-b, pooled")
    assert found is not None
    assert found.value == approx(stats.kendalltau(distances[:, 0], [row.answer for row in given_.rows]).statistic)
    assert found.over_targets is None


def test_raters_and_targets_that_allow_no_correlation_are_left_out_and_named() -> None:
    rows = [about("ranking", "t", float(k), f"{k}", rater="ann") for k in (1, 2, 3)]
    rows += [about("ranking", "t", 2.0, f"{k}", rater="same") for k in (1, 2, 3)]
    rows += [about("ranking", "t", 1.0, "1", rater="once"), about("ranking", "lone", 1.0, "1", rater="ann")]
    scores = score_distances(judged("ranking", rows), {"d": np.array([[row.answer] for row in rows])})
    notes = "\n".join(scores.notes)
    assert "rater once: one judgement" in notes
    assert "rater same: ranks that are all equal" in notes
    assert "lone: one image" in notes
    found = scores.of("d", "Spearman, one rater")
    assert found is not None
    assert found.n == 1  # ann's ranking of t


def all_results(scores: Scores) -> list[Result]:
    return [*scores.results, *scores.ceiling, *scores.reliability]


@pytest.mark.parametrize("kind", ["ranking", "rating"])
def test_constant_answers_leave_no_number_but_the_reason(kind: Kind) -> None:
    rows = [about(kind, t, 2.0, f"{k}", rater=r) for t in "tu" for k in range(3) for r in ("ann", "bob")]
    scores = score_distances(judged(kind, rows), {"d": np.arange(12.0)[:, None]})
    for each in all_results(scores):
        assert each.value is None, each
        assert each.reason, each
    assert not scores.comparisons


answers_of: dict[str, st.SearchStrategy[float]] = {
    "2afc": st.sampled_from([0.0, 1.0]),
    "jnd": st.sampled_from([0.0, 1 / 3, 1.0]),
    "odd-one-out": st.sampled_from([0.0, 1.0, 2.0]),
    "ranking": st.sampled_from([1.0, 2.0, 3.0]),
    "rating": st.sampled_from([0.0, 4.0]),
}


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_was_judged_every_number_is_in_range_or_says_why_it_is_missing(data: st.DataObject) -> None:
    kind: Kind = data.draw(st.sampled_from(["2afc", "jnd", "odd-one-out", "ranking", "rating"]))
    places = data.draw(st.lists(st.tuples(st.sampled_from("tuv"), st.sampled_from("123"), st.sampled_from("ab")),
                                min_size=1, max_size=8, unique=True))  # fmt: skip
    rows = [about(kind, t, data.draw(answers_of[kind]), i, rater=r, subset=i) for t, i, r in places]
    n_columns = {"2afc": 2, "odd-one-out": 3}.get(kind, 1)
    of = {row.images: data.draw(st.lists(st.integers(0, 2), min_size=n_columns, max_size=n_columns)) for row in rows}
    distances = np.array([of[row.images] for row in rows], dtype=float)
    scores = score_distances(judged(kind, rows), {"d": distances, "e": distances[:, ::-1] + 1})
    for each in all_results(scores):
        if each.value is None:
            assert each.reason
            assert each.over_targets is each.over_raters is None
            continue
        bounds = [b for pair in (each.over_targets, each.over_raters) if pair for b in pair]
        least = 0 if kind in ("2afc", "jnd", "odd-one-out") and "alpha" not in each.measure else -np.inf
        assert all(least - 1e-9 <= v <= 1 + 1e-9 for v in [each.value, *bounds]), each


def test_a_distance_that_is_always_right_is_told_from_one_that_guesses_and_the_same_twice_is_tied() -> None:
    given_ = triplets(40)
    right = np.array([[row.answer, 1 - row.answer] for row in given_.rows])
    guess = np.random.default_rng(1).normal(size=(40, 2))
    scores = score_distances(given_, {"right": right, "again": right * 2, "guess": guess})
    by_pair = {(c.first, c.second): c for c in scores.comparisons}
    assert by_pair["right", "again"].p_holm == 1
    assert by_pair["right", "guess"].difference == approx(1 - value(scores, "guess"))
    assert by_pair["right", "guess"].p_holm < 0.01
    assert set(scores.tied_with_best) == {"right", "again"}


def test_the_difference_of_two_distances_is_that_of_their_scores_however_many_questions_a_target_has() -> None:
    rows = [Judgement((Path(t), Path(f"a{i}"), Path(f"b{i}")), 0, t) for t, n in (("t", 6), ("u", 1)) for i in range(n)]
    a_nearer, b_nearer = np.tile([1.0, 2.0], (7, 1)), np.tile([2.0, 1.0], (7, 1))
    first, second = (np.where((np.arange(7) < n)[:, None], a_nearer, b_nearer) for n in (6, 2))
    scores = score_distances(judged("2afc", rows), {"first": first, "second": second})
    (found,) = scores.comparisons
    assert found.difference == approx(value(scores, "first") - value(scores, "second")) == approx(4 / 7)


def test_jnd_distances_are_compared_by_the_same_draws_of_both() -> None:
    random = np.random.default_rng(4)
    rows = [about("jnd", f"t{i}", float(random.integers(0, 4)) / 3, n_votes=3) for i in range(60)]
    right = np.array([[1 - row.answer] for row in rows])
    scores = score_distances(judged("jnd", rows), {"right": right, "same": right + 1, "noise": random.random((60, 1))})
    by_pair = {(c.first, c.second): c for c in scores.comparisons}
    assert (by_pair["right", "same"].low, by_pair["right", "same"].high, by_pair["right", "same"].p) == (0, 0, 1)
    assert by_pair["right", "noise"].p_holm < 0.01
    assert set(scores.tied_with_best) == {"right", "same"}


def test_a_distance_that_is_not_a_number_is_refused_with_its_images() -> None:
    with pytest.raises(FinerRankError, match="d: the distance of t001 and t001-a and t001-b is not a number"):
        score_distances(triplets(2), {"d": np.array([[1.0, 2.0], [np.nan, 1.0]])})
    with pytest.raises(FinerRankError, match="holds no judgements"):
        score_distances(judged("2afc", []), {})
