"""A language model's scores give the numbers worked out by hand, and mistakes are said before anything is sent."""

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from chat_server import IMAGES, Answer, Ask, Asking, Request, by_image, completion, scored, serving
from handmade import Cli, Refusal, change_row, half, lacking, save_noise, write_rows
from pytest import approx

from benchmark.language_judge import Score
from benchmark.language_judge_scores import agreement

pytestmark = pytest.mark.usefixtures("no_key")

NOTHING_SENT = "no question was asked"


# ---- numbers


def test_scores_are_those_that_the_server_gave_and_their_mean_is_theirs(ask: Ask) -> None:
    with serving(by_image(4, 3, 1, 2)) as server:
        summary, rows, _ = ask(server)
    assert [(r["file_name"], r["score"]) for r in rows] == list(zip(IMAGES, "4312", strict=True))
    assert {r["status"] for r in rows} == {"answered"}
    assert {r["reason"] for r in rows} == {"the same ear"}
    assert [r["reference"] for r in rows] == ["images/rex_0.png"] * 2 + ["images/tom_0.png"] * 2
    assert [r["identity"] for r in rows] == ["rex", "rex", "tom", "tom"]
    # Of two identities with as many images, a quarter of all draws is rex twice, a quarter tom twice.
    assert summary["mean_score"] == {"value": 2.5, "low": 1.5, "high": 3.5}
    assert summary["mean_score_of_1"] == {"value": 0.625, "low": 0.375, "high": 0.875}
    assert summary["identities"] == {
        "rex": {"n_images": 2, "n_scored": 2, "mean_score": 3.5},
        "tom": {"n_images": 2, "n_scored": 2, "mean_score": 1.5},
    }
    assert (summary["n_asked"], summary["n_answered"], summary["n_missing"], summary["missing"]) == (4, 4, 0, {})
    assert summary["references"] == {"named by the run": 4}
    assert summary["krippendorff_alpha"] is None


def test_the_interval_is_a_bootstrap_over_identities(asking: Asking, ask: Ask) -> None:
    identities = [f"dog{n}" for n in range(4)]
    rows, images = [], []
    for n, identity in enumerate(identities):
        for split in ("reference", "gallery"):
            row = {"file_name": f"images/{identity}_{split}.png", "category": "dog", "identity": identity}
            rows.append(row | {"split": split})
            save_noise(asking.zoo / row["file_name"], 50 + 2 * n + (split == "gallery"))
        images.append({"file_name": f"images/made_{identity}.png", "identity": identity})
        save_noise(asking.painted / images[-1]["file_name"], 1000 + n)
    write_rows(asking.zoo / "metadata.csv", rows)
    write_rows(asking.painted / "metadata.csv", images)
    with serving(by_image(0, 1, 3, 4)) as server:
        summary, _, _ = ask(server)
    draws = sorted(statistics.mean(draw) for draw in itertools.product([0, 1, 3, 4], repeat=4))
    exact = np.quantile(draws, [0.025, 0.975])
    assert summary["mean_score"]["value"] == 2
    assert [summary["mean_score"]["low"], summary["mean_score"]["high"]] == approx(exact, abs=0.26)


def test_repeats_are_averaged_within_an_image_and_alpha_says_how_they_agree(ask: Ask) -> None:
    given = {1000: (4, 4, 3), 1001: (2, 0, None), 1002: (1, 1, 1), 1003: (None, 3, None)}

    def answer(request: Request) -> Answer:
        score = given[request.image][request.body["seed"] - 1]
        return completion(None, refusal="I would rather not") if score is None else scored(score)

    with serving(answer) as server:
        summary, rows, _ = ask(server, "--repeats", 3)
        assert server.seen == sorted(itertools.product(given, (1, 2, 3)))
    assert [r["repeat"] for r in rows] == ["1", "2", "3"] * 4
    means = [11 / 3, 1.0, 1.0, 3.0]
    assert summary["mean_score"]["value"] == approx(statistics.mean(means))
    assert summary["identities"]["rex"]["mean_score"] == approx((11 / 3 + 1) / 2)
    assert (summary["n_asked"], summary["n_answered"], summary["missing"]) == (12, 9, {"refused": 3})
    assert summary["krippendorff_alpha"] == approx(alpha_by_hand(list(given.values())))
    assert summary["repeats"] == 3


def alpha_by_hand(units: Sequence[tuple[int | None, ...]]) -> float:
    """1 - D_o / D_e with squared differences, over all pairs (Krippendorff 2011, section F)."""
    pairable = [known for unit in units if len(known := [v for v in unit if v is not None]) > 1]
    values = [value for unit in pairable for value in unit]
    n = len(values)
    observed = sum(sum((a - b) ** 2 for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in pairable)
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2))
    return 1 - (n - 1) * observed / expected


def as_scores(units: Sequence[tuple[int | None, ...]]) -> list[Score]:
    return [
        Score(f"{n}.png", "rex", "r.png", repeat, value, "", "answered" if value is not None else "refused")
        for n, unit in enumerate(units)
        for repeat, value in enumerate(unit, start=1)
    ]


def test_alpha_is_that_of_the_published_example() -> None:
    # Three coders, fifteen units: Wikipedia's example of Krippendorff's alpha, 0.811 at the interval level.
    first = [None] * 5 + [3, 4, 1, 2, 1, 1, 3, 3, None, 3]
    second = [1, None, 2, 1, 3, 3, 4, 3] + [None] * 7
    third = [None, None, 2, 1, 3, 4, 4, None, 2, 1, 1, 3, 3, None, 4]
    units = list(zip(first, second, third, strict=True))
    assert agreement(as_scores(units)) == approx(0.811, abs=0.0005)
    assert agreement(as_scores(units)) == approx(alpha_by_hand(units))


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_the_closed_form_whatever_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = [tuple(None if rng.random() < 0.3 else int(rng.integers(5)) for _ in range(4)) for _ in range(20)]
    assert agreement(as_scores(units)) == approx(alpha_by_hand(units))


@pytest.mark.parametrize("units", [[(2, None), (None, 3)], [(2, 2), (2, 2)], [(None, None)], [(3, 3), (1, None)]])
def test_alpha_is_undefined_where_nothing_differs_or_nothing_is_paired(units: list[tuple[int | None, ...]]) -> None:
    assert agreement(as_scores(units)) is None


def test_nothing_answered_is_no_score(ask: Ask, asking: Asking, cli: Cli) -> None:
    with serving(lambda request: completion("I see two dogs.")) as server:
        summary, _, said = ask(server, "--repeats", 2)
        shown = cli(*asking.options(server)).stdout
    assert summary["mean_score"] == summary["mean_score_of_1"] == {"value": None, "low": None, "high": None}
    assert summary["krippendorff_alpha"] is None
    assert summary["identities"]["rex"] == {"n_images": 2, "n_scored": 0, "mean_score": None}
    assert summary["missing"] == {"unparsable": 8}
    assert said.count("missing: ") == 8
    assert "–" in shown


# ---- what is printed


def test_json_is_what_the_file_holds(ask: Ask, asking: Asking, cli: Cli) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        summary, _, _ = ask(server)
        done = cli(*asking.options(server), "--json")
    assert json.loads(done.stdout) == summary
    assert done.returncode == 0


def test_people_are_told_that_it_is_an_opinion_beside_the_ranking(asking: Asking, cli: Cli) -> None:
    with serving(lambda request: scored(2) if request.image < 1003 else completion("", refusal="no")) as server:
        done = cli(*asking.options(server, "--repeats", 2))
    assert not lacking(done.stdout, "opinion of a language model, beside the ranking and no part of it", "2.00", "seer")
    assert not lacking(done.stderr, "missing: images/tom_1.png, repeat 2: refused (no)", "8 requests", "2 identities")


def test_a_long_list_of_missing_values_is_cut_and_says_where_the_rest_is(ask: Ask) -> None:
    with serving(lambda request: completion("rubbish")) as server:
        _, rows, said = ask(server, "--repeats", 4)
    assert said.count("missing: ") == 10
    assert not lacking(said, "and 6 more", "scores.csv")
    assert [r["status"] for r in rows] == ["unparsable"] * 16


# ---- mistakes


def test_a_damaged_image_is_found_before_anything_is_sent(asking: Asking, refuse: Callable[..., str]) -> None:
    broken = asking.painted / "images/tom_1.png"
    broken.write_bytes(half(broken.read_bytes()))
    with serving(by_image(4, 3, 2, 1)) as server:
        line = refuse(server)
        assert not server.requests
    assert not lacking(line, NOTHING_SENT, "images/tom_1.png", "truncated or damaged")


def test_all_that_is_wrong_with_the_images_is_listed(asking: Asking, cli: Cli) -> None:
    (asking.painted / "images/tom_1.png").unlink()
    (asking.zoo / "images/rex_0.png").write_bytes(b"no picture")
    with serving(by_image(4, 3, 2, 1)) as server:
        done = cli(*asking.options(server))
        assert not server.requests
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 3)
    assert not lacking(done.stderr, NOTHING_SENT, "images/tom_1.png", "images/rex_0.png")


def test_an_image_of_somebody_unknown_is_refused(asking: Asking, refuse: Callable[..., str]) -> None:
    change_row(asking.painted, 1, identity="rexx")
    with serving(by_image(4, 3, 2, 1)) as server:
        assert not lacking(refuse(server), "rexx", "is 'rex' meant?")
        assert not server.requests


def test_what_lies_at_out_is_left_alone(asking: Asking, refusal: Refusal) -> None:
    out = asking.folder / "taken"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with serving(by_image(4, 3, 2, 1)) as server:
        line = refusal(*asking.options(server, "--out", out))
        assert not server.requests
    assert "exists already" in line
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_said(asking: Asking, refuse: Callable[..., str]) -> None:
    cache = asking.folder / "file"
    cache.write_text("")
    with serving(by_image(4, 3, 2, 1)) as server:
        assert not lacking(refuse(server, "--cache", cache), str(cache), "cannot be written", "--cache")


@pytest.mark.parametrize(("option", "value"), [("--timeout", "inf"), ("--retry-wait", "inf"), ("--model", " ")])
def test_settings_that_make_no_sense_are_refused(refuse: Callable[..., str], option: str, value: str) -> None:
    assert option in refuse("http://127.0.0.1:9/v1", option, value)


@pytest.mark.parametrize(("package", "repeats"), [("httpx", 1), ("krippendorff", 2)])
def test_a_missing_package_is_named_with_what_installs_it(
    asking: Asking, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, package: str, repeats: int
) -> None:
    (asking.folder / "hidden").mkdir()
    (asking.folder / f"hidden/{package}.py").write_text("raise ModuleNotFoundError('not installed')\n")
    path = [str(asking.folder / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    line = refuse("http://127.0.0.1:9/v1", "--repeats", repeats)
    assert not lacking(line, package, "pip install 'finer-rank[language-judge]'")


def test_help_loads_neither_package() -> None:
    code = (
        "import sys, finer_rank\n"
        "sys.argv = ['finer-rank', 'ask', '--help']\n"
        "try:\n    finer_rank.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('httpx', 'krippendorff', 'numpy', 'PIL', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
