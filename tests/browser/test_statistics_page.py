"""Paired comparison in the browser gives the numbers of `compare_paired`; its sums and quantiles are Python's."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pages import Visits
from playwright.sync_api import Page
from pytest import approx

from benchmark.statistics import compare_paired
from leaderboard.site import draws
from leaderboard.site.draws import draws_script

ROOT = Path(__file__).parents[2]
SIZES = (1, 2, 3, 8, 14, 15, 16, 17, 40, 100)
RECEIVER = """
"use strict";
window.received = {};
window.finerRank = { receive: (name, value) => { window.received[name] = value; } };
"""


@pytest.fixture
def page(open_page: Visits, tmp_path: Path) -> Page:
    """A page from disk that may run no script but its own files, with the draws for each of `SIZES`."""
    shutil.copy(ROOT / "leaderboard/site/static/statistics.js", tmp_path)
    (tmp_path / "receiver.js").write_text(RECEIVER)
    for n in SIZES:
        (tmp_path / f"draws-{n}.js").write_text(draws_script(n))
    names = ["receiver.js", "statistics.js", *(f"draws-{n}.js" for n in SIZES)]
    (tmp_path / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Statistics</title>'
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'self'\">"
        + "".join(f'<script src="{name}"></script>' for name in names)
    )
    return open_page(tmp_path / "index.html")


def differences_of(n: int) -> list[list[float]]:
    """Differences of n identities: some of any kind, some with ties, also large ones, constants, zeros."""
    rng = np.random.default_rng(n)
    coarse = rng.integers(-3, 4, (6, n)) / 10
    few = np.where(np.arange(n) < 4, rng.choice([-0.1, 0.2], n), 0.0)
    outlier = np.where(np.arange(n) == 0, 5.0, 0.01)
    kinds = [
        *rng.normal(0.02, 0.1, (4, n)),
        *coarse,
        *coarse * 1e5 / 7,
        few,
        outlier,
        np.full(n, 0.1),
        np.full(n, -0.3),
        np.zeros(n),
    ]
    # Scores as a record holds them, and their difference: not what a decimal number gives.
    return [(row + 0.7 - 0.7).tolist() for row in kinds]


@pytest.mark.parametrize("as_typed_array", [False, True])
def test_the_browser_compares_two_models_as_the_command_does(page: Page, as_typed_array: bool) -> None:
    cases = [(n, differences) for n in SIZES for differences in differences_of(n)]
    found = page.evaluate(
        """([cases, typed]) => cases.map(([n, differences]) =>
            finerRank.statistics.pairedDifference(typed ? Float64Array.from(differences) : differences,
                                                  received[`draws/${n}`]))""",
        [cases, as_typed_array],
    )
    for (n, differences), its in zip(cases, found, strict=True):
        names = [f"{i:03d}" for i in range(n)]
        ((pair,), _) = compare_paired({"a": dict(zip(names, differences, strict=True)), "b": dict.fromkeys(names, 0.0)})
        assert its.keys() == {"value", "low", "high", "p", "smallestP"}
        assert its["value"] == pair.difference.value
        assert (its["p"], its["smallestP"]) == (pair.p, pair.smallest_p), (n, differences)
        low, high, scale = pair.difference.low, pair.difference.high, max(1.0, *map(abs, differences))
        if low is None or low == high:
            assert (its["low"], its["high"]) == (low, high)
        else:
            assert (its["low"], its["high"]) == approx((low, high), abs=1e-12 * scale)


HALF_WAY = [
    [2.0**53, -0.5, -(2.0**-54)],
    [2.0**53, 1.0, 2.0**-100],
    [2.0**53 + 10.0, 1.0, 2.0**-100],
    [2.0**53 - 4.0, 0.5, 2.0**-54],
    [2.0**53, 1.0],
    [2.0**53 + 2.0, 1.0, -(2.0**-100)],
    [1e16, 1.0, 1e-16],
    [1e16, 1.0, -1e16],
    [0.1] * 10,
    [-0.0],
    [],
]


def test_sums_are_rounded_once_as_pythons_fsum_does(page: Page) -> None:
    rng = np.random.default_rng(0)
    lists = [(rng.normal(size=n) * 2.0 ** rng.integers(-60, 60, n)).tolist() for n in rng.integers(1, 60, 200)]
    # Each value once more with the other sign, in any order: all but the rest cancels.
    lists += [rng.permutation([*values, *(-v for v in values), 1e-9]).tolist() for values in lists[:50]]
    lists += HALF_WAY
    found = page.evaluate("lists => lists.map(finerRank.statistics.sum)", lists)
    assert list(map(float, found)) == list(map(math.fsum, lists))


def test_quantiles_lie_between_neighbours_as_numpys_do(page: Page) -> None:
    rng = np.random.default_rng(1)
    cases: list[tuple[list[float], float]] = [
        (sorted(rng.normal(size=n).tolist()), q) for n in (1, 2, 7, 40, 2000) for q in (0, 0.025, 0.3, 0.5, 0.975, 1)
    ]
    found: Sequence[float] = page.evaluate(
        "cases => cases.map(([sorted, q]) => finerRank.statistics.quantile(Float64Array.from(sorted), q))", cases
    )
    assert found == [np.quantile(values, q) for values, q in cases]


def test_draws_for_another_number_of_identities_are_refused(page: Page) -> None:
    said = page.evaluate(
        """() => [[0.1, 0.2], []].map((differences) => {
            try { return finerRank.statistics.pairedDifference(differences, received["draws/3"]); }
            catch (error) { return String(error); }
        })"""
    )
    assert said == ["RangeError: 2 differences, and draws for 3", "RangeError: 0 differences, and draws for 3"]


def test_draws_that_a_script_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no draws of 0 identities"):
        draws_script(0)
    monkeypatch.setattr(draws, "resample_weights", lambda n: np.full((2, n), 256, np.uint16))
    with pytest.raises(ValueError, match="more than 255 times"):
        draws_script(2)
