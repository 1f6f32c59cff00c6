"""The board's page: models in order, sorted and filtered; what is shown can be linked, explained and taken along."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import Visits
from playwright.sync_api import Page, expect
from site_boards import CLASS_ONLY, COPIER, FORMULA, INCOMPLETE, LIKENESS, LONG, REST, SCRIPT, SECOND, TURNED
from sites import NEW, OLD, Records, address, drawn, follow, shown_number, texts

NAMES = "#board tbody tr.model > th bdi"
METRICS = (
    "mAP", "AUC", "rank_1", "CMC@5", "CMC@10", "MAP@R", "mINP", "first_hit_rank", "identity_retention", "similarity",
    "clip_t", "copy_rate",
)  # fmt: skip
PLAIN = ("queries", "identities", "method", "base_model")
ALL = ",".join((*METRICS, *PLAIN))


def by_map(records: Records, fingerprint: str = "") -> list[str]:
    known = [name for name in LIKENESS if (name, fingerprint or records.first) in records.summaries]
    return sorted(known, key=lambda name: -records.summary(name, fingerprint)["scores"]["mAP"]["value"])


def estimate_of(summary: Any, metric: str) -> Any:
    """What `record.json` says of a column."""
    if metric == "clip_t":
        return summary.get("prompt_fidelity", {}).get("clip_t")
    if metric == "similarity":
        return summary["pairwise_similarity"]
    return summary[metric] if metric in ("identity_retention", "copy_rate") else summary["scores"][metric]


@pytest.mark.parametrize("over_http", [False, True], ids=["file", "http"])
def test_from_the_first_page_to_a_models_neighbours_and_back(
    open_page: Visits, serve: Callable[[Path], str], site: Path, records: Records, over_http: bool
) -> None:
    page = open_page(f"{serve(site)}/index.html" if over_http else site / "index.html")
    assert len(texts(page, ".cards > li")) == 2
    follow(page.locator(".cards a").first, f"{OLD}/index")
    assert texts(page, NAMES) == by_map(records)
    assert texts(page, "#status") == ["5 of 5 models."]
    before = page.url
    follow(page.get_by_role("link", name=COPIER), "neighbours")
    expect(page.locator("#query article")).to_have_count(1)
    assert page.locator("#model").evaluate("select => select.selectedOptions[0].textContent") == COPIER
    page.go_back()
    page.wait_for_url(before)
    drawn(page)
    for name in ("Charts", "Compare", "Neighbours", "Drift", "Gallery", "Board", "About"):
        follow(page.get_by_role("link", name=name, exact=True), "index" if name == "Board" else name.lower())
        expect(page.locator("h1")).to_contain_text(name)
        assert not page.locator("#status.failed").count()


def cells(page: Page, column: str) -> list[str]:
    """What the models' and anchors' rows show in a column, from top to bottom."""
    return page.evaluate(  # type: ignore[no-any-return]
        """(column) => {
            const place = document.querySelector(`[data-column="${column}"]`).closest("th").cellIndex;
            return [...document.querySelectorAll("#board tbody tr")].map(({ cells: all }) =>
                (all[place].querySelector(".value") ?? all[place].querySelector("bdi") ?? all[place]).textContent);
        }""",
        column,
    )


@pytest.mark.parametrize("column", [*METRICS, *PLAIN, "model"])
def test_every_column_sorts_both_ways_with_missing_values_last(open_page: Visits, site: Path, column: str) -> None:
    page = drawn(open_page(address(site, "index", columns=ALL, sort="rank")))
    button = page.locator(f'[data-column="{column}"]')
    seen: dict[str, list[str]] = {}
    for other in (None, "ascending", "descending"):
        if other in (None, *seen):
            button.click()
            expect(page.locator(f"#board th[aria-sort={other}]")).to_have_count(0)
        expect(page.locator("#board th[aria-sort] button")).to_have_attribute("data-column", column)
        direction = page.locator("#board th[aria-sort]").get_attribute("aria-sort")
        shown = cells(page, column)
        assert len(shown) == len(LIKENESS) + 4
        known = [text for text in shown if text not in ("–", "")]
        assert shown == known + [text for text in shown if text in ("–", "")]
        assert not {INCOMPLETE, REST} & set(texts(page, "#board tbody bdi"))
        if column in METRICS or column in ("queries", "identities"):
            values = [float(text.replace("−", "-")) for text in known]
            assert values == sorted(values, reverse=direction == "descending")
        assert direction
        seen[direction] = known
    assert seen.keys() == {"ascending", "descending"}
    assert sorted(seen["ascending"]) == sorted(seen["descending"])
    if len(set(seen["ascending"])) == len(LIKENESS) + 4:
        assert seen["ascending"] == seen["descending"][::-1]
    has_gaps = column in ("AUC", "identity_retention", "similarity", "clip_t", "copy_rate", *PLAIN)
    assert (len(seen["ascending"]) < len(LIKENESS) + 4) == has_gaps


def test_ranks_are_ranges_and_nothing_but_models_has_one(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "index", sort="rank", anchors="off")))
    assert texts(page, NAMES) == by_map(records)
    ranks = [[int(part) for part in text.split("–")] for text in texts(page, "#board tbody td.rank")]
    # With four of five told apart from the last, and two of the first from the two behind them.
    assert [(each[0], each[-1]) for each in ranks] == [(1, 2), (1, 2), (3, 4), (3, 4), (5, 5)]
    assert page.locator("#board tr.tied").count() == page.locator("#board .badge").count() == 2
    page.locator('[data-column="rank"]').click()
    expect(page.locator(NAMES)).to_have_text(by_map(records)[::-1])


def test_incomplete_runs_stand_in_their_own_table_with_the_reason(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = drawn(open_page(address(site, "index")))
    assert set(texts(page, "#incomplete-board tbody bdi")) == {INCOMPLETE, REST}
    row = page.locator("#incomplete-board tr", has_text=INCOMPLETE)
    assert "no image of 6 of the gallery's 16 identities" in row.inner_text()
    assert "not ranked" in row.inner_text()
    assert row.locator(".value").first.inner_text() == "1.000"  # more than any ranked model
    assert records.summary(by_map(records)[0])["scores"]["mAP"]["value"] < 0.99


def test_numbers_of_a_row_are_those_of_its_record(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "index", columns=ALL)))
    for name in LIKENESS:
        summary = records.summary(name)
        row = page.locator("#board tbody tr.model").filter(has=page.get_by_role("link", name=name, exact=True))
        for metric in METRICS:
            place = page.locator(f'[data-column="{metric}"]').evaluate("button => button.closest('th').cellIndex")
            text = row.locator(f":scope > :nth-child({place + 1})").inner_text()
            estimate = estimate_of(summary, metric)
            if estimate is None:
                assert text == "–"
                continue
            value, low, high = (shown_number(estimate[bound]) for bound in ("value", "low", "high"))
            assert f"{value} [{low}, {high}]" in text
            assert ("copies" in text) == (metric == "copy_rate" and name == COPIER)
    assert records.summary(LONG)["scores"]["AUC"] is None


def test_search_columns_category_and_anchors_stand_in_the_address(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = drawn(open_page(address(site, "index")))
    page.get_by_label("Search models").press_sequentially("SCRIPT")
    expect(page.locator(NAMES)).to_have_text([SCRIPT])
    expect(page.get_by_label("Search models")).to_be_focused()
    page.locator("summary").click()
    page.get_by_role("checkbox", name="mINP").check()
    page.get_by_role("checkbox", name="AUC").uncheck()
    page.get_by_role("checkbox", name="anchors").uncheck()
    page.get_by_label("Category").select_option(label="cats <i>")
    expect(page.locator("#board thead button")).to_have_count(8)
    wanted = [button.removesuffix(" ↑").removesuffix(" ↓") for button in texts(page, "#board thead button")]
    assert wanted == ["rank", "model", "mAP", "mINP", "retention", "similarity", "CLIP-T", "copies"]
    queries = records.table(SCRIPT, "queries")
    of_cats = queries[queries["category"] == "cats <i>"]["average_precision"].mean()
    expect(page.locator("#board td .value").first).to_have_text(shown_number(of_cats))

    def check(again: Page) -> None:
        drawn(again)
        assert texts(again, NAMES) == [SCRIPT]
        assert texts(again, "#board thead button") == texts(page, "#board thead button")
        assert again.locator("#board td .value").first.inner_text() == shown_number(of_cats)
        assert again.get_by_label("Search models").input_value() == "SCRIPT"
        assert not again.locator("#board tr.anchor").count()

    check(open_page(page.url))
    page.reload()
    check(page)
    page.locator("summary").click()
    page.get_by_role("checkbox", name="anchors").check()
    expect(page.locator("#board tr.anchor")).not_to_have_count(0)
    assert {"held-out photos", "chance"} <= set(texts(page, "#board tr.anchor bdi"))


def test_anchors_are_the_gallerys_and_can_be_hidden(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "index")))
    wanted = records.summary(SCRIPT)["gallery_anchors"]
    of = {name: wanted[key]["mAP"]["value"] for name, key in (
        ("chance", "chance"), ("copied reference", "copied_reference"), ("held-out photos", "held_out"))}  # fmt: skip
    of[f"class only: {CLASS_ONLY}"] = records.summary(CLASS_ONLY)["scores"]["mAP"]["value"]
    rows = page.locator("#board tr.anchor")
    shown = {row.locator("bdi").inner_text(): row.locator(".value").first.inner_text() for row in rows.all()}
    assert shown == {name: shown_number(value) for name, value in of.items()}


def test_another_encoder_shows_its_own_order(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "index")))
    page.locator("#embedder").select_option(index=1)
    expect(page.locator(NAMES)).to_have_count(4)
    assert texts(page, NAMES) == by_map(records, records.second)
    assert SECOND not in texts(page, NAMES)
    assert set(texts(page, "#incomplete-board tbody bdi")) == {INCOMPLETE}
    # Another page of the board keeps the encoder.
    follow(page.get_by_role("link", name="Drift", exact=True), "drift")
    expect(page.locator("#status")).to_contain_text("The nearest photo shows")
    assert page.locator("#embedder").evaluate("select => select.selectedIndex") == 1


@pytest.mark.parametrize(
    "fragment", ["embedder=none&category=99&columns=none&sort=none", "category=length", "%E0%A4%A"]
)
def test_an_address_that_means_nothing_shows_the_board(open_page: Visits, site: Path, fragment: str) -> None:
    page = drawn(open_page(f"{address(site, 'index')}#{fragment}"))
    expect(page.locator(NAMES)).to_have_count(5)


def downloaded(page: Page, button: str) -> str:
    with page.expect_download() as info:
        page.get_by_role("button", name=button, exact=True).click()
    return info.value.path().read_text(encoding="utf-8")


def test_csv_json_and_latex_hold_what_is_shown(open_page: Visits, site: Path, records: Records) -> None:
    columns = "mAP,AUC,clip_t,queries,method"
    page = drawn(open_page(address(site, "index", columns=columns, sort="AUC", order="up", anchors="off")))
    names = texts(page, NAMES)
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "CSV"))))
    assert [row["model"] for row in rows] == [f"'{name}" if name == FORMULA else name for name in names]
    document = json.loads(downloaded(page, "JSON"))
    assert [row["model"] for row in document["rows"]] == names
    assert document["gallery"] == {"name": "zoo", "version": "1"}
    assert document["embedder"]["fingerprint"] == records.first
    for row, entry, rank in zip(rows, document["rows"], texts(page, "#board td.rank"), strict=True):
        summary = records.summary(entry["model"])
        for metric, label in (("mAP", "mAP"), ("AUC", "AUC"), ("clip_t", "CLIP-T")):
            estimate = estimate_of(summary, metric)
            assert entry[metric] == (estimate and {key: round(estimate[key], 6) for key in ("value", "low", "high")})
            assert row[label] == (str(entry[metric]["value"]).removesuffix(".0") if estimate else "")
        assert [row["images"], row["method"]] == ["32", "lora"]
        assert [entry["queries"], entry["method"], entry["kind"]] == [32, "lora", "model"]
        assert "–".join(dict.fromkeys((row["rank from"], row["rank to"]))) == rank
    lines = downloaded(page, "LaTeX").splitlines()
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    assert len(body) == 5
    assert all(line.count(" & ") == 6 for line in body)
    first = records.summary(names[0])["scores"]["mAP"]["value"]
    assert f"${first:.3f}$" in body[0]
    page.get_by_label("Search models").fill(FORMULA)
    expect(page.locator(NAMES)).to_have_count(1)
    (only,) = csv.DictReader(io.StringIO(downloaded(page, "CSV")))
    assert only["model"] == f"'{FORMULA}"


def test_each_metric_is_explained_on_hover_and_on_focus(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "index", columns=ALL), viewport={"width": 2400, "height": 900}))
    for metric in METRICS:
        button = page.locator(f'[data-column="{metric}"]')
        tip = page.locator(f"[id='{button.get_attribute('aria-describedby')}']")
        expect(tip).to_be_hidden()
        button.hover()
        expect(tip).to_be_visible()
        text = tip.inner_text()
        for word in ("Range:", "Chance:", "Ceiling:"):
            assert word in text, metric
        assert any(word in text for word in ("Higher is better", "Lower is better", "Neither end is better")), metric
        page.mouse.move(5, 5)
        expect(tip).to_be_hidden()
        button.focus()
        expect(tip).to_be_visible()
        button.blur()


def test_sorting_and_choosing_by_keyboard_keeps_the_place(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "index")))
    page.locator('[data-column="AUC"]').focus()
    page.keyboard.press("Enter")
    expect(page.locator("#board th[aria-sort=descending] button")).to_have_attribute("data-column", "AUC")
    expect(page.locator('[data-column="AUC"]')).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#board th[aria-sort=ascending] button")).to_have_attribute("data-column", "AUC")
    page.locator("summary").click()
    page.get_by_role("checkbox", name="mINP").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="mINP")).to_be_checked()
    expect(page.get_by_role("checkbox", name="mINP")).to_be_focused()


def test_names_of_strangers_are_text_on_every_page(open_page: Visits, site: Path) -> None:
    dialogs: list[str] = []
    for path in [site / "index.html", *sorted((site / OLD).glob("*.html"))]:
        page = drawn(open_page(path))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        assert (
            page.evaluate("document.querySelectorAll('img[src=x], [onclick], [onerror], main i, main b').length") == 0
        )
        assert page.evaluate("[...document.scripts].every((script) => script.getAttribute('src'))")
        assert "Finer-Rank" in page.title()
        # A name that runs from right to left is set apart from what follows it.
        loose = page.evaluate(
            """(mark) => {
                const found = [];
                const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
                while (walker.nextNode()) {
                    const own = walker.currentNode.parentElement;
                    if (walker.currentNode.data.includes(mark) && !own.closest("bdi, option, svg"))
                        found.push(own.outerHTML);
                }
                return found;
            }""",
            "\u202e",
        )
        assert loose == [], path
    assert dialogs == []
    page = drawn(open_page(address(site, "index")))
    assert {SCRIPT, TURNED, COPIER, FORMULA, LONG} == set(texts(page, NAMES))


def test_an_older_board_says_which_one_has_taken_its_place(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "index")))
    assert "This board is frozen" in page.locator("main").inner_text()
    follow(page.get_by_role("link", name="version 2"), f"{NEW}/index")
    expect(page.locator(NAMES)).to_have_text(["painter", "other"])
    assert "frozen" not in page.locator("main").inner_text()
