"""Every page: axe, dark mode, a phone's width, the keyboard."""

from pathlib import Path

import pytest
from pages import Visits, accessibility_problems
from playwright.sync_api import Page, expect
from sites import NEW, OLD, address, drawn, texts

PAGES = ("index", "about", *(f"{board}/{name}" for board in (OLD, NEW) for name in (
    "index", "charts", "compare", "neighbours", "drift", "gallery")))  # fmt: skip


def ground(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")  # type: ignore[no-any-return]


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_these_are_all_pages(site: Path) -> None:
    assert {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_light_or_dark(open_page: Visits, site: Path, name: str) -> None:
    page = drawn(open_page(site / f"{name}.html"))
    for details in page.locator("details").all():
        details.locator("summary").click()
    seen = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        seen.add(ground(page))
        assert accessibility_problems(page) == [], scheme
    assert len(seen) == 2


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways_on_a_phone_or_a_desk(open_page: Visits, site: Path, name: str) -> None:
    page = drawn(open_page(site / f"{name}.html", viewport={"width": 375, "height": 700}))
    if name.endswith("neighbours"):
        expect(page.locator("#query article")).to_have_count(1)
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        expect(page.locator("html")).to_have_js_property("scrollWidth", width)
        wide = "main > :not(.scroll), .controls > *, .controls select"
        assert page.locator(wide).evaluate_all(
            "(all, width) => all.filter((each) => each.getBoundingClientRect().right > width).length", width
        ) == 0  # fmt: skip


def test_the_system_decides_between_light_and_dark_until_the_button_does(open_page: Visits, site: Path) -> None:
    page = open_page(address(site, "index"), color_scheme="light")
    light = ground(page)
    page.emulate_media(color_scheme="dark")
    dark = ground(page)
    assert brightness(dark) < 200 < 600 < brightness(light)
    button = page.get_by_role("button", name="Theme")
    wanted = {"Theme: light": light, "Theme: dark": dark, "Theme: system": dark}
    for label, colour in wanted.items():
        button.click()
        assert (button.inner_text(), ground(page)) == (label, colour)
        page.reload()
        assert (button.inner_text(), ground(page)) == (label, colour)
        # The choice holds for every page.
        page.goto(address(site, "gallery"))
        assert (button.inner_text(), ground(page)) == (label, colour)


def test_skipping_to_the_content_keeps_the_view(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "index", search="script", sort="AUC")))
    before, shown = page.url, texts(page, "#board tbody tr.model > th bdi")
    assert len(shown) == 1
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert (page.url, texts(page, "#board tbody tr.model > th bdi")) == (before, shown)


def test_focus_can_be_seen(open_page: Visits, site: Path) -> None:
    page = drawn(open_page(address(site, "index")))
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", page.evaluate("document.activeElement.outerHTML")


@pytest.mark.parametrize("name", ["index", "neighbours"])
def test_without_scripts_a_board_says_where_its_numbers_are(visits: Visits, site: Path, name: str) -> None:
    page = visits(address(site, name), java_script_enabled=False)
    assert page.locator("noscript").count() == (name == "index")
    assert page.get_by_role("link", name="Gallery").count() == 1
