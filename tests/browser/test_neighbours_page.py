"""Neighbours: one query after another, filtered and ordered, with the photos that were found."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pages import Visits
from playwright.sync_api import Page, expect
from site_boards import COPIER, INCOMPLETE, SCRIPT, SECOND, TURNED
from sites import NEW, OLD, Records, address, drawn, shown_number, texts

FILE = "#query article dd:has(bdi):has-text('.png') bdi"


def shown_files(page: Page) -> list[str]:
    """The files of the queries that the page shows."""
    return [text for text in texts(page, FILE) if text.startswith("images/")]


def expect_query(page: Page, file_name: str) -> None:
    expect(page.locator(FILE)).to_have_text([file_name])


def key_of(site: Path, model: str) -> str:
    """A model's name in addresses."""
    text = (site / OLD / "data" / "board.js").read_text(encoding="utf-8")
    models = json.loads(text[text.index("{") : text.rindex("}") + 1])["models"]
    return next(str(each["key"]) for each in models if each["name"] == model)


@pytest.mark.parametrize("over_http", [False, True], ids=["file", "http"])
def test_queries_come_worst_first_and_keys_step_through_them(
    open_page: Visits, serve: Callable[[Path], str], site: Path, records: Records, over_http: bool
) -> None:
    key = key_of(site, SCRIPT)
    page = drawn(open_page(address(serve(site) if over_http else site, "neighbours", model=key)))
    worst = records.table(SCRIPT, "queries").sort_values("average_precision", kind="stable")["file_name"].tolist()
    expect_query(page, worst[0])
    assert page.locator("#previous").is_disabled()
    for at in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        expect_query(page, worst[at])
        expect(page.locator("#place")).to_have_text(f"{at + 1} of 32")
    page.keyboard.press("ArrowLeft")
    expect_query(page, worst[2])
    page.keyboard.press("End")
    expect_query(page, worst[-1])
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")  # there is none behind the last
    expect_query(page, worst[-1])
    page.keyboard.press("Home")
    expect_query(page, worst[0])
    page.get_by_role("button", name="Next").click()
    expect_query(page, worst[1])
    page.get_by_label("Order").focus()
    page.keyboard.press("ArrowLeft")  # within a list of choices, arrows are the list's
    expect_query(page, worst[1])


def test_a_link_to_a_query_shows_it_again_wherever_it_is_opened(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, TURNED))))
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("5 of 32")
    page.get_by_label("Category").select_option("dogs")
    page.get_by_label("Order").select_option("best")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("2 of 16")
    (file_name,) = shown_files(drawn(page))
    again = drawn(open_page(page.url))
    expect_query(again, file_name)
    assert again.locator("#place").inner_text() == "2 of 16"
    assert texts(again, "#query figcaption") == texts(page, "#query figcaption")
    page.reload()
    drawn(page)
    expect_query(page, file_name)
    # From a page of many, the link of one leads to it alone, and back.
    page.get_by_role("button", name="Show 12 at a time").click()
    expect(page.locator("#query article")).to_have_count(12)
    best = records.table(TURNED, "queries").query("category == 'dogs'")
    best = best.sort_values("average_precision", ascending=False, kind="stable")
    assert shown_files(page) == best["file_name"].tolist()[:12]
    page.get_by_role("link", name="this query").nth(3).click()
    expect_query(page, best["file_name"].tolist()[3])
    page.go_back()
    expect(page.locator("#query article")).to_have_count(12)


@pytest.mark.parametrize(
    ("order", "column", "ascending"),
    [
        ("worst", "average_precision", True),
        ("best", "average_precision", False),
        ("fooled", "top_wrong", False),
        ("similar", "similarity_to_own_reference", False),
        ("file", "place", True),
    ],
)
def test_orders(open_page: Visits, site: Path, records: Records, order: str, column: str, ascending: bool) -> None:
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, COPIER), view="page")))
    page.get_by_label("Order").select_option(order)
    queries = records.nearest(COPIER).assign(place=range(32))
    queries[column] = queries[column].round(4)
    wanted = queries.sort_values(column, ascending=ascending, kind="stable", na_position="last")["file_name"].tolist()
    expect(page.locator(FILE)).to_have_text(wanted[:12])
    page.keyboard.press("ArrowRight")
    expect(page.locator(FILE)).to_have_text(wanted[12:24])
    page.keyboard.press("End")
    expect(page.locator(FILE)).to_have_text(wanted[24:])


@pytest.mark.parametrize(
    ("label", "choice", "keep"),
    [
        ("category", "cats <i>", lambda q: q["category"] == "cats <i>"),
        ("identity", "../../rex", lambda q: q["identity"] == "../../rex"),
        ("identity", "\u202egus", lambda q: q["identity"] == "\u202egus"),
        ("prompt", 'pip, in "snow" & <rain>', lambda q: q["prompt"] == 'pip, in "snow" & <rain>'),
        ("outcome", "wrong", lambda q: ~q["is_right"]),
        ("outcome", "right", lambda q: q["is_right"]),
        ("outcome", "copy", lambda q: q["is_copy"]),
        ("outcome", "tied", lambda q: q["is_tied"]),
    ],
)
def test_filters(
    open_page: Visits, site: Path, records: Records, label: str, choice: str,
    keep: Callable[[pd.DataFrame], "pd.Series[bool]"],
) -> None:  # fmt: skip
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, COPIER), order="file")))
    page.locator(f"#{label}").select_option(choice)
    queries = records.nearest(COPIER)
    own = queries[keep(queries)]
    if own.empty:
        expect(page.locator("#status")).to_have_text("No query is like that; choose another filter.")
        expect(page.locator("#query article")).to_have_count(0)
        return
    right = int(own["is_right"].sum())
    expect(page.locator("#status")).to_have_text(f"{len(own)} of 32 queries; the nearest photo is right for {right}.")
    files = own["file_name"].tolist()
    expect_query(page, files[0])
    page.keyboard.press("End")
    expect_query(page, files[-1])
    assert page.locator("#place").inner_text() == f"{len(own)} of {len(own)}"


def test_a_query_is_shown_with_its_reference_and_the_photos_of_the_table(
    open_page: Visits, site: Path, records: Records
) -> None:
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, COPIER), order="file", q=0)))
    queries, near = records.table(COPIER, "queries"), records.table(COPIER, "neighbours")
    own = near[near["query"] == 0]
    figures = page.locator("#query figure")
    expect(figures).to_have_count(2 + len(own))
    kinds = ["reference", "generated", *("right" if each else "wrong" for each in own["is_relevant"])]
    assert [figure.get_attribute("class") for figure in figures.all()] == [f"picture {kind}" for kind in kinds]
    digests = [queries["image_sha256"][0], *own["image_sha256"]]
    sources = [image.get_attribute("src") or "" for image in figures.locator("img").all()]
    assert [source.rpartition("/")[2] for source in sources[1:]] == [f"{digest[:20]}.webp" for digest in digests]
    for figure, row in zip(figures.all()[2:], own.to_dict("records"), strict=True):
        text = figure.inner_text()
        # Said in words, and not by colour alone.
        assert ("✓ right" if row["is_relevant"] else "✗ wrong") in text
        # Numbers of queries come in four digits.
        assert shown_number(round(row["similarity"], 4)) in text
        assert figure.locator("bdi").text_content() == row["identity"]
        assert f"rank {row['rank']}" in (figure.locator("img").get_attribute("alt") or "")
    details = page.locator("#query dl").inner_text()
    assert f"{shown_number(queries['average_precision'][0])}; first right photo at rank" in details
    assert "near-duplicate of a photo" in details  # the first image of this model is its reference
    colours = {
        kind: page.locator(f".picture.{kind} .frame").first.evaluate("frame => getComputedStyle(frame).borderStyle")
        for kind in ("right", "wrong")
    }
    assert colours["right"] != colours["wrong"]


def test_pictures_load_lazily_and_are_there(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "neighbours", view="page")))
    expect(page.locator("#query article")).to_have_count(12)
    images = page.locator("#query img")
    assert images.count() > 100
    assert images.evaluate_all("images => images.every((image) => image.loading === 'lazy' && image.alt)")
    images.last.scroll_into_view_if_needed()
    images.evaluate_all(
        """images => Promise.all(images.map((image) => {
            image.loading = "eager";
            return image.decode();
        }))"""
    )
    assert images.evaluate_all("images => images.every((image) => image.naturalWidth > 0)")


def test_no_picture_is_shown_where_the_licence_forbids_it(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(f"{site.as_uri()}/{NEW}/neighbours.html"))
    expect(page.locator("#query figure")).not_to_have_count(0)
    assert page.locator("img").count() == 0
    assert "does not allow pictures" in page.locator("#status").inner_text()
    assert all(text.startswith("images/") for text in texts(page, "#query .no-picture"))


def test_a_model_that_an_encoder_did_not_score_says_so(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, SECOND))))
    expect(page.locator("#query article")).to_have_count(1)
    page.locator("#embedder").select_option(index=1)
    expect(page.locator("#status")).to_contain_text("was not scored by")
    assert page.locator("#query article").count() == 0
    assert page.locator("#place").inner_text() == "none"
    page.keyboard.press("ArrowRight")
    page.locator("#embedder").select_option(index=0)
    expect(page.locator("#query article")).to_have_count(1)


def test_an_incomplete_run_has_neighbours_too(open_page: Visits, site: Path, records: Records) -> None:
    page = drawn(open_page(address(site, "neighbours", model=key_of(site, INCOMPLETE))))
    expect(page.locator("#place")).to_have_text(f"1 of {len(records.table(INCOMPLETE, 'queries'))}")


@pytest.mark.parametrize(
    "fragment", ["model=none&embedder=none", "q=99999", "q=-1&view=none", "outcome=none&order=none"]
)
def test_an_address_that_means_nothing_shows_queries(open_page: Visits, site: Path, fragment: str) -> None:
    page = drawn(open_page(f"{address(site, 'neighbours')}#{fragment}"))
    expect(page.locator("#query article")).to_have_count(1)
    assert page.locator("#place").inner_text().startswith("1 of ")
