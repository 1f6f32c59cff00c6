"""The page on which people judge pictures, by mouse, by touch and by keyboard; and what its file says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, save_noise, write_rows
from pages import Visits, accessibility_problems
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from benchmark.human_judgements.judgements import Judgements
from benchmark.human_judgements.sources import load_judgements
from galleries.errors import FinerRankError

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"> & <b>pets</b>"

ALWAYS_LEFT = """async () => {
    const find = (selector) => document.querySelector(selector);
    while (!find("#trial").hidden) {
        while (!find("#trial[data-ready]")) await new Promise((done) => setTimeout(done));
        find("#choices button").click();
        if (!find("#next").hidden) find("#next").click();
    }
    return JSON.parse(find("#text").value);
}"""
"""Answers every trial as somebody in a hurry does; gives the file."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(f"{target}{side}" for target in "1234" for side in ("r", "a", "b", "c")):
        save_noise(folder / f"model-x {name}.png", i, (24, 20))
    return folder


@pytest.fixture(scope="module")
def choices(pictures: Path, cli: Cli) -> Path:
    """A page of four questions, two sentinels and one trial for practice."""
    columns = {"reference": "r", "a": "a", "b": "b"}
    rows = [{column: f"model-x {t}{side}.png" for column, side in columns.items()} for t in "1234"]
    table = write_rows(pictures / "choices.csv", rows)
    options = ("--sentinels", 2, "--practice", 1, "--title", HOSTILE)
    assert cli("agreement", "collect", table, "--out", pictures / "choices", *options).returncode == 0
    return pictures / "choices"


@pytest.fixture(scope="module")
def rankings(pictures: Path, cli: Cli) -> Path:
    """A page of two rankings of three, one sentinel and one trial for practice."""
    rows = [{"target": f"model-x {t}r.png", "image": f"model-x {t}{side}.png"} for t in "12" for side in "abc"]
    table = write_rows(pictures / "rankings.csv", rows)
    options = ("--sentinels", 1, "--practice", 1)
    assert cli("agreement", "collect", table, "--out", pictures / "rankings", *options).returncode == 0
    return pictures / "rankings"


def begin(page: Page, rater: str) -> None:
    page.get_by_label("Your code").fill(rater)
    page.keyboard.press("Enter")


def ready(page: Page) -> Locator:
    """The buttons of the trial, as soon as it can be answered."""
    page.wait_for_selector("#trial[data-ready]")
    return page.locator("#choices button")


def shown(page: Page) -> tuple[str, list[str]]:
    """Names of the reference and of the images, from left to right, of a trial that can be answered."""
    ready(page)
    pictures = "#reference img, #choices img"
    names = page.eval_on_selector_all(pictures, "all => all.map(image => image.src.split('/').pop())")
    return names[0], names[1:]


def at_practice(page: Page) -> bool:
    return (page.text_content("#progress") or "").startswith("Practice")


def content(path: Path) -> bytes:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).tobytes()


def original(page_folder: Path, name: str) -> Path:
    """The one file whose pixels a picture of the page has."""
    (found,) = (p for p in page_folder.parent.glob("*.png") if content(p) == content(page_folder / "images" / name))
    return found


def last_name(names: list[str]) -> int:
    """What a person says who goes by something: the place of the name that comes last."""
    return names.index(max(names))


def plain_or(names: list[str], reference: str, rule: Callable[[list[str]], int] = last_name) -> int:
    return names.index(reference) if reference in names else rule(names)


def choose_to_the_end(page: Page, act: Callable[[Page, int], None]) -> tuple[dict[str, Any], dict[Any, str]]:
    """Answer what is left; gives the file and, for (reference, images), the image that was chosen."""
    chosen = {}
    with page.expect_download() as download:
        while page.locator("#trial").is_visible():
            reference, names = shown(page)
            place = plain_or(names, reference)
            chosen[reference, tuple(sorted(names))] = names[place]
            is_practice = at_practice(page)
            act(page, place)
            if is_practice:
                expect(page.locator("#status")).to_contain_text("Right")
                page.get_by_role("button", name="Go on").click()
    return json.loads(Path(download.value.path()).read_text()), chosen


def by_mouse(page: Page, place: int) -> None:
    page.locator("#choices button").nth(place).click()


def by_arrow(page: Page, place: int) -> None:
    page.keyboard.press(["ArrowLeft", "ArrowRight"][place])


def handed_in(folder: Path, result: dict[str, Any], study: Path) -> Judgements:
    folder.mkdir(exist_ok=True)
    (folder / study.name).write_text(study.read_text().replace('"file": "', f'"file": "{study.parent}/'))
    moved = json.loads((folder / study.name).read_text())
    moved["sha256"] = {f"{study.parent}/{name}": digest for name, digest in moved["sha256"].items()}
    (folder / study.name).write_text(json.dumps(moved))
    (folder / f"{result['rater']}.json").write_text(json.dumps(result))
    return load_judgements([folder])


def study_of(page_folder: Path) -> Path:
    return page_folder.with_name(f"{page_folder.name}.study.json")


def test_a_study_by_mouse_from_a_disk_is_read_as_it_was_clicked(
    open_page: Visits, choices: Path, tmp_path: Path
) -> None:
    page = open_page(choices / "index.html")
    assert page.locator("#task").text_content() == "Which one shows the same individual?"
    assert page.locator("#amount").text_content() == "6 questions after 1 for practice."
    begin(page, "Anna7")
    expect(page.locator("#progress")).to_have_text("Practice 1 of 1")
    result, chosen = choose_to_the_end(page, by_mouse)
    assert page.get_by_label("The same as text").input_value() == json.dumps(result, indent=1, ensure_ascii=False)
    assert (result["format"], result["rater"], len(result["trials"])) == (1, "anna7", 7)
    assert [trial["practice"] for trial in result["trials"]] == [True, *6 * [False]]
    assert result["started"] < result["ended"]
    judgements = handed_in(tmp_path / "results", result, study_of(choices))
    expected = {
        tuple(original(choices, name) for name in (reference, *names)): original(choices, choice)
        for (reference, names), choice in chosen.items()
        if reference not in names
    }
    assert (judgements.kind, judgements.raters, judgements.left_out) == ("2afc", ("anna7",), ())
    assert len(judgements.rows) == len(expected) == 4
    for row in judgements.rows:
        reference, a, b = row.images
        assert (a.name[-5], b.name[-5]) == ("a", "b")
        key = (reference, a, b) if (reference, a, b) in expected else (reference, b, a)
        assert expected[key] == (b if row.answer else a)


def test_by_keyboard_a_reload_goes_on_and_one_step_back_is_allowed(
    open_page: Visits, choices: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    page = open_page(f"{serve(choices)}/index.html")
    begin(page, "bo")
    reference, names = shown(page)
    page.keyboard.press("ab"[1 - plain_or(names, reference)])
    expect(page.locator("#status")).to_contain_text("Not so")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_have_text("1 of 6")
    expect(page.get_by_role("button", name="Back")).to_be_disabled()
    first = shown(page)
    by_arrow(page, plain_or(first[1], first[0]))
    expect(page.locator("#progress")).to_have_text("2 of 6")
    second = shown(page)
    # An answer is taken back, once, and given anew.
    by_arrow(page, plain_or(second[1], second[0], lambda names: 1 - last_name(names)))
    expect(page.locator("#progress")).to_have_text("3 of 6")
    page.keyboard.press("Backspace")
    expect(page.locator("#progress")).to_have_text("2 of 6")
    assert shown(page) == second
    page.keyboard.press("Backspace")
    expect(page.locator("#progress")).to_have_text("2 of 6")
    page.reload()
    expect(page.get_by_label("Your code")).to_have_value("bo")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#progress")).to_have_text("2 of 6")
    assert shown(page) == second
    result, chosen = choose_to_the_end(page, by_arrow)
    assert [trial["choice"] for trial in result["trials"][2:]] == list(chosen.values())
    assert len({trial["id"] for trial in result["trials"]}) == 7
    # What is done stays done: the same code gets the same file.
    page.reload()
    begin(page, "bo")
    assert json.loads(page.get_by_label("The same as text").input_value()) == result
    assert len(handed_in(tmp_path / "results", result, study_of(choices)).rows) == 4


def test_order_and_sides_are_the_raters_own_and_stay(open_page: Visits, choices: Path) -> None:
    def order_of(rater: str) -> tuple[list[str], list[list[str]]]:
        page = open_page(choices / "index.html")
        begin(page, rater)
        trials = page.evaluate(ALWAYS_LEFT)["trials"][1:]
        return [trial["id"] for trial in trials], [trial["shown"] for trial in trials]

    anna, bo = (order_of(rater) for rater in ("anna", "bo"))
    elsewhere = open_page(choices / "index.html")
    begin(elsewhere, "Anna")
    by_mouse(elsewhere, 0)
    elsewhere.get_by_role("button", name="Go on").click()
    assert shown(elsewhere)[1] == anna[1][0]
    assert anna[0] != bo[0]
    assert sorted(anna[0]) == sorted(bo[0])
    # Not one side for all: under two raters some trial stands both ways, and among one's own both ways occur.
    sides = [[names == sorted(names) for names in shown] for _, shown in (anna, bo)]
    assert all(len(set(own)) == 2 for own in sides)
    of_bo = dict(zip(*bo, strict=True))
    assert {names == of_bo[id_] for id_, names in zip(*anna, strict=True)} == {True, False}


def test_who_fails_a_sentinel_is_left_out(open_page: Visits, choices: Path, tmp_path: Path) -> None:
    page = open_page(choices / "index.html")
    begin(page, "bo")
    n_failed = 0
    while page.locator("#trial").is_visible():
        reference, names = shown(page)
        is_practice = at_practice(page)
        fails = reference in names and not is_practice and not n_failed
        n_failed += fails
        by_mouse(page, plain_or(names, reference) ^ fails)
        if is_practice:
            page.get_by_role("button", name="Go on").click()
    result = json.loads(page.get_by_label("The same as text").input_value())
    with pytest.raises(FinerRankError, match="rater bo: left out, failed 1 of 2 sentinels"):
        handed_in(tmp_path / "results", result, study_of(choices))


def test_a_ranking_by_keyboard_is_read_as_it_was_arranged(open_page: Visits, rankings: Path, tmp_path: Path) -> None:
    page = open_page(rankings / "index.html")
    begin(page, "cleo")
    arranged = {}
    with page.expect_download() as download:
        for number in range(4):
            reference, names = shown(page)
            wanted = sorted(names, key=lambda name: (name != reference, name))
            page.keyboard.press("ArrowRight")  # to the first
            expect(page.locator("#choices button").first).to_be_focused()
            for place, name in enumerate(wanted):
                now = shown(page)[1]
                page.locator("#choices button").nth(now.index(name)).focus()
                if number % 2:
                    page.keyboard.press(str(place + 1))
                else:
                    page.keyboard.press("Space")
                    for _ in range(now.index(name) - place):
                        page.keyboard.press("ArrowLeft")
                    page.keyboard.press("Space")
                expect(page.locator("#choices button").nth(place)).to_be_focused()
            assert shown(page)[1] == wanted
            assert page.locator("#choices [aria-pressed=true]").count() == 0
            arranged[reference, tuple(sorted(names))] = wanted
            page.get_by_role("button", name="Done").press("Enter")
            if number == 0:
                expect(page.locator("#status")).to_contain_text("Right")
                page.keyboard.press("Enter")
    result = json.loads(Path(download.value.path()).read_text())
    judgements = handed_in(tmp_path / "results", result, study_of(rankings))
    ranks: dict[Path, dict[Path, float]] = {}
    for row in judgements.rows:
        ranks.setdefault(row.images[0], {})[row.images[1]] = row.answer
    assert ranks == {
        original(rankings, reference): {original(rankings, name): place for place, name in enumerate(wanted, start=1)}
        for (reference, names), wanted in arranged.items()
        if reference not in names
    }
    assert (judgements.kind, len(judgements.rows)) == ("ranking", 6)


def finger_from(page: Page, start: Locator, end: Locator) -> None:
    """A finger that is laid down, drawn over the glass and lifted."""
    boxes = [box.bounding_box() or {} for box in (start, end)]
    points = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2} for box in boxes]
    between = {axis: (points[0][axis] + points[1][axis]) / 2 for axis in "xy"}
    screen = page.context.new_cdp_session(page)
    for kind, where in (
        ("touchStart", points[:1]),
        ("touchMove", [between]),
        ("touchMove", points[1:]),
        ("touchEnd", []),
    ):
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})


def test_a_ranking_by_mouse_by_taps_and_by_a_drawn_finger(open_page: Visits, rankings: Path) -> None:
    page = open_page(rankings / "index.html", has_touch=True)
    begin(page, "dora")
    _, (one, two, three) = shown(page)
    buttons = page.locator("#choices button")
    buttons.nth(0).drag_to(buttons.nth(2))
    assert shown(page)[1] == [two, three, one]
    assert page.locator("#choices [aria-pressed=true]").count() == 0
    buttons.nth(2).tap()
    expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
    buttons.nth(1).tap()
    assert shown(page)[1] == [two, one, three]
    finger_from(page, buttons.nth(2).locator("span"), buttons.nth(0).locator("span"))
    assert shown(page)[1] == [three, two, one]
    assert page.locator("#choices [aria-pressed=true]").count() == 0
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Stop here").click()
    result = json.loads(page.get_by_label("The same as text").input_value())
    assert [trial["choice"] for trial in result["trials"]] == [[three, two, one]]
    assert result["ended"] is None


def test_texts_from_outside_stay_text_and_axe_finds_nothing(open_page: Visits, choices: Path) -> None:
    page = open_page(choices / "index.html", viewport={"width": 375, "height": 700})
    assert (page.locator("#title").text_content(), page.title()) == (HOSTILE, HOSTILE)

    def look() -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert accessibility_problems(page) == [], scheme
        assert page.evaluate("document.documentElement.scrollWidth") == 375

    look()
    begin(page, "no/body")
    expect(page.get_by_role("alert")).to_contain_text("letters a to z and digits")
    begin(page, "eve")
    left, right = (button.bounding_box() or {} for button in ready(page).all())
    assert (left["y"], left["x"] + left["width"] < right["x"]) == (right["y"], True)
    look()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.get_by_role("button", name="Stop here").click()
    expect(page.locator("#over")).to_have_text("Stopped after 0 of 6.")
    look()
    page.get_by_role("button", name="Go on with the questions").click()
    expect(page.locator("#progress")).to_have_text("Practice 1 of 1")


def test_a_ranking_is_accessible_and_fits_a_phone(open_page: Visits, rankings: Path) -> None:
    page = open_page(rankings / "index.html", viewport={"width": 375, "height": 700})
    begin(page, "fay")
    ready(page).first.press("Space")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert accessibility_problems(page) == [], scheme
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_a_trial_cannot_be_answered_before_its_pictures_are_there(
    visits: Visits, choices: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(choices, tmp_path / "page"))
    (folder / "images").rename(tmp_path / "away")
    page = visits(folder / "index.html")
    begin(page, "gil")
    expect(page.locator("#status")).to_have_text("A picture could not be loaded.")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#choices button:enabled").count() == 0
    expect(page.locator("#progress")).to_have_text("Practice 1 of 1")
    (tmp_path / "away").rename(folder / "images")
    page.get_by_role("button", name="Try again").click()
    reference, names = shown(page)
    # A double click answers one trial, and a key that is held down too.
    by_mouse(page, plain_or(names, reference))
    page.get_by_role("button", name="Go on").click()
    ready(page).first.dispatch_event("click", {"detail": 2})
    expect(page.locator("#progress")).to_have_text("1 of 6")
    ready(page).first.dblclick()
    expect(page.locator("#progress")).to_have_text("2 of 6")
    ready(page)
    page.keyboard.down("a")
    expect(page.locator("#progress")).to_have_text("3 of 6")
    ready(page)
    page.keyboard.down("a")
    page.keyboard.up("a")
    expect(page.locator("#progress")).to_have_text("3 of 6")
