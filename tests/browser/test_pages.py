"""What the tests of pages rely on: nothing that goes wrong on a page is overlooked."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pages import Visits, accessibility_problems, find_chromium

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'"


def write_page(folder: Path, body: str, script: str = "", name: str = "index.html") -> Path:
    """A page under the policy, with a style sheet, a script and a picture, each in a file of its own."""
    (folder / "static").mkdir(exist_ok=True)
    (folder / "static" / "page.css").write_text("p { color: rgb(1, 2, 3); }")
    (folder / "static" / "page.js").write_text(script)
    (folder / "static" / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"/>')
    page = folder / name
    page.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Page</title>
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="static/dot.svg"><link rel="stylesheet" href="static/page.css">
<script src="static/page.js" defer></script></head>
<body><main><h1>Page</h1><p>words</p><img id="dot" src="static/dot.svg" alt="a dot">{body}</main></body></html>"""
    )
    return page


LATER = """
const later = document.createElement("script");
later.src = "static/later.js";
document.head.append(later);
"""


@pytest.mark.parametrize("over_http", [False, True])
def test_the_policy_allows_a_pages_own_files_from_disk_and_over_http(
    open_page: Visits, serve: Callable[[Path], str], tmp_path: Path, over_http: bool
) -> None:
    page_file = write_page(tmp_path, "", LATER)
    (tmp_path / "static" / "later.js").write_text('document.title = "Later";')
    page = open_page(f"{serve(tmp_path)}/index.html" if over_http else page_file)
    page.wait_for_function("document.title === 'Later'", polling=20)
    assert page.evaluate("getComputedStyle(document.querySelector('p')).color") == "rgb(1, 2, 3)"
    assert page.evaluate("document.getElementById('dot').naturalWidth") == 7


@pytest.mark.parametrize(
    ("body", "script", "named"),
    [
        ("", "console.error('broken');", "error: broken"),
        ("", "console.warn('odd');", "warning: odd"),
        ("", "undefinedFunction();", "uncaught: undefinedFunction is not defined"),
        ("", "Promise.reject(new Error('lost'));", "uncaught: lost"),
        ("<script>document.title = 'inline';</script>", "", "Content Security Policy"),
        ("<p style='color: red'>red</p>", "", "Content Security Policy"),
        ("<button onclick='go()'>go</button>", "", "Content Security Policy"),
        ("<img src='static/none.svg' alt='none'>", "", "ERR_FILE_NOT_FOUND"),
        ("<img src='http://127.0.0.1:9/a.png' alt='elsewhere'>", "", "request: http://127.0.0.1:9/a.png"),
    ],
)
def test_what_goes_wrong_on_a_page_is_noted(visits: Visits, tmp_path: Path, body: str, script: str, named: str) -> None:
    page = visits(write_page(tmp_path, body, script))
    if "onclick" in body:
        page.click("button")
    visits.close()
    assert any(named in problem for problem in visits.problems), visits.problems


def test_a_request_from_a_served_page_to_another_server_is_noted(
    visits: Visits, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    other = serve(tmp_path)
    write_page(tmp_path, f"<img src='{other}/static/dot.svg' alt='a dot'>")
    visits(f"{serve(tmp_path)}/index.html")
    visits.close()
    assert f"request: {other}/static/dot.svg" in visits.problems


def test_pages_share_nothing_with_others_nor_with_those_that_were_closed(open_page: Visits, tmp_path: Path) -> None:
    page_file = write_page(tmp_path, "")
    for _ in range(2):
        first, second = open_page(page_file), open_page(page_file)
        assert first.context != second.context
        for page in first, second:
            assert page.evaluate("localStorage.length") == 0
            page.evaluate("localStorage.setItem('kept', '1')")
        open_page.close()


def test_axe_runs_under_the_policy_and_says_what_is_not_accessible(open_page: Visits, tmp_path: Path) -> None:
    good = open_page(write_page(tmp_path, ""))
    assert accessibility_problems(good) == []
    bad = open_page(write_page(tmp_path, "<img src='static/dot.svg'>", name="bad.html"))
    (problem,) = accessibility_problems(bad)
    assert problem.startswith("image-alt: ")


def test_without_a_browser_tests_are_skipped_but_fail_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FINER_RANK_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="FINER_RANK_CHROMIUM"):
        find_chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="FINER_RANK_CHROMIUM"):
        find_chromium()
    monkeypatch.setenv("FINER_RANK_CHROMIUM", "/opt/browser")
    assert find_chromium() == "/opt/browser"
