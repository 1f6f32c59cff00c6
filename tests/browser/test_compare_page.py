"""Two models side by side: the numbers of `finer-rank compare`, and the same query of both."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from boards import finer
from pages import Visits
from playwright.sync_api import Page, Route, expect
from site_boards import COPIER, INCOMPLETE, LONG, REST, SCRIPT, SECOND, SHARED, TURNED
from sites import Records, address, drawn, shown_number, texts


def compared(open_page: Visits, site: Path | str, first: str, second: str) -> Page:
    page = drawn(open_page(address(site, "compare")))
    for select, model in (("#first", first), ("#second", second)):
        page.locator(select).select_option(label=model)
    expect(page.locator("#pair h3 bdi")).to_have_text([first, second])
    return page


def row_of(page: Page, table: str, name: str) -> list[str]:
    """The cells of a row after its name."""
    row = page.locator(f"{table} tbody tr").filter(has=page.locator("th bdi").get_by_text(name, exact=True))
    return [" ".join(text.split()) for text in row.locator("td").all_text_contents()]


def signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{shown_number(value)}"


@pytest.mark.parametrize(("first", "second"), [(SCRIPT, TURNED), (COPIER, SCRIPT), (LONG, TURNED), (INCOMPLETE, LONG)])
def test_difference_interval_and_p_are_those_of_the_command(
    open_page: Visits, site: Path, records: Records, first: str, second: str
) -> None:
    folders = [records.folders[name, records.first] for name in (first, second)]
    code, said, err = finer("compare", "--json", *folders)
    assert code == 0, err
    (pair,) = json.loads(said)["pairs"]
    sign = 1 if pair["first"] == first else -1
    bounds = [sign * pair["difference"][bound] for bound in ("low", "high")]
    page = compared(open_page, site, first, second)
    cells = row_of(page, "#categories", "all")
    p = "<0.0001" if pair["p"] < 0.0001 else f"{pair['p']:.4f}"
    assert cells[0] == str(pair["n_identities"])
    low, high = map(shown_number, sorted(bounds))
    assert cells[3:] == [f"{signed(sign * pair['difference']['value'])} [{low}, {high}]", p]
    verdict = page.locator("#verdict").inner_text()
    assert ("is better than" in verdict) == (pair["p"] < 0.05)
    better = first if sign * pair["difference"]["value"] > 0 else second
    assert page.locator("#verdict bdi").first.text_content() == better


def exact_p(differences: Sequence[float]) -> float:
    """Two-sided, over all sign flips."""
    flips = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return float(np.mean(np.abs(flips @ differences) >= abs(sum(differences)) - 1e-12))


def test_categories_and_identities_are_compared_each_for_itself(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = compared(open_page, site, SCRIPT, COPIER)
    category_of = dict(records.table(SCRIPT, "queries")[["identity", "category"]].to_numpy().tolist())
    means = [
        {name: part["mAP"]["value"] for name, part in records.summary(model)["identities"].items()}
        for model in (SCRIPT, COPIER)
    ]
    for category in set(category_of.values()):
        own = sorted(name for name in means[0] if category_of[name] == category)
        first, second = ([of[name] for name in own] for of in means)
        differences = [a - b for a, b in zip(first, second, strict=True)]
        cells = row_of(page, "#categories", category)
        assert cells[:3] == [str(len(own)), shown_number(np.mean(first)), shown_number(np.mean(second))]
        assert cells[3].split(" [")[0] == signed(np.mean(differences))
        assert cells[4] == f"{exact_p(differences):.4f}"
    page.locator("summary").click()
    by_size = sorted(means[0], key=lambda name: -abs(means[0][name] - means[1][name]))
    sizes = [abs(means[0][name] - means[1][name]) for name in texts(page, "#identities tbody th bdi")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 16
    name = by_size[0]
    assert row_of(page, "#identities", name)[1:] == [
        shown_number(means[0][name]), shown_number(means[1][name]), signed(means[0][name] - means[1][name]),
    ]  # fmt: skip
    page.locator("#identities").get_by_role("button", name="first").click()
    expect(page.locator("#identities th[aria-sort=descending]")).to_have_text("first")
    values = [means[0][name] for name in texts(page, "#identities tbody th bdi")]
    assert values == sorted(values, reverse=True)


def test_pairs_come_with_the_largest_disagreement_first(open_page: Visits, site: Path, records: Records) -> None:
    page = compared(open_page, site, SCRIPT, LONG)
    tables = [records.table(model, "queries") for model in (SCRIPT, LONG)]
    scores = [table["average_precision"].round(4) for table in tables]
    difference = scores[0] - scores[1]  # both were asked for the same in the same order
    order = difference.abs().sort_values(ascending=False, kind="stable").index.tolist()

    def check(page: Page, at: int, query: int) -> None:
        expect(page.locator("#place")).to_have_text(f"{at + 1} of 32")
        expect(page.locator("#pair > p bdi").first).to_have_text(tables[0]["identity"][query])
        expect(page.locator("#pair > p")).to_contain_text(f"Difference of AP: {signed(difference[query])}.")
        for article, model, score in zip(page.locator("#pair article").all(), (SCRIPT, LONG), scores, strict=True):
            assert shown_number(score[query]) in article.locator("h3").inner_text()
            near = records.table(model, "neighbours")
            digests = near[near["query"] == query]["image_sha256"].str[:20].tolist()
            sources = article.locator("img").evaluate_all("images => images.map((image) => image.src)")
            assert [Path(source).stem for source in sources[2:]] == digests

    check(page, 0, order[0])
    page.keyboard.press("ArrowRight")
    check(page, 1, order[1])
    check(drawn(open_page(page.url)), 1, order[1])
    page.keyboard.press("ArrowLeft")
    check(page, 0, order[0])
    page.locator("#order").select_option("second")
    check(page, 0, difference.sort_values(kind="stable").index[0])
    page.locator("#order").select_option("first")
    check(page, 0, difference.sort_values(ascending=False, kind="stable").index[0])


def test_swapping_turns_every_sign(open_page: Visits, site: Path) -> None:
    page = compared(open_page, site, SCRIPT, COPIER)
    before = row_of(page, "#categories", "all")
    page.get_by_role("button", name="Swap").click()
    expect(page.locator("#pair h3 bdi")).to_have_text([COPIER, SCRIPT])
    after = row_of(page, "#categories", "all")
    assert (after[1], after[2], after[4]) == (before[2], before[1], before[4])
    value = before[3].split(" [")[0]
    assert after[3].split(" [")[0] == value.replace("+", "−")


def test_runs_that_share_a_single_identity_are_compared_over_it(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = compared(open_page, site, INCOMPLETE, REST)
    means = [records.summary(model)["identities"][SHARED]["mAP"]["value"] for model in (INCOMPLETE, REST)]
    shown = row_of(page, "#categories", "all")
    assert shown == ["1", *map(shown_number, means), signed(means[0] - means[1]), "1.0000"]
    assert "So few identities cannot give a p below 1.000" in page.locator("#verdict").inner_text()
    assert page.locator("#place").inner_text() == "1 of 2"
    assert "have no counterpart" in page.locator("#pairing").inner_text()


def test_a_pair_whose_draws_come_late_does_not_stand_under_the_names_of_another(
    open_page: Visits, serve: Callable[[Path], str], site: Path
) -> None:
    page = compared(open_page, serve(site), SCRIPT, TURNED)
    before = row_of(page, "#categories", "all")
    held: list[Route] = []
    page.route("**/draws/10.js*", lambda route: held.append(route))
    with page.expect_request("**/draws/10.js*"):
        page.locator("#first").select_option(label=INCOMPLETE)
    page.locator("#first").select_option(label=SCRIPT)
    expect(page.locator("#pair h3 bdi")).to_have_text([SCRIPT, TURNED])
    (late,) = held
    late.continue_()
    assert row_of(drawn(page), "#categories", "all") == before


def test_a_model_with_itself_and_one_that_was_not_scored(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "compare")))
    page.locator("#first").select_option(label=SECOND)
    page.locator("#second").select_option(label=SECOND)
    expect(page.locator("#status")).to_have_text("One model is compared with itself; choose another.")
    assert "Both have the same mAP" in page.locator("#verdict").inner_text()
    page.locator("#embedder").select_option(index=1)
    expect(page.locator("#status")).to_contain_text("was not scored by")
    assert page.locator("#comparison").is_hidden()
    page.locator("#embedder").select_option(index=0)
    expect(page.locator("#verdict")).to_be_visible()
