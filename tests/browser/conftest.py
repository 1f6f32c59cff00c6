"""The browser, the pages that a test opens, and a server of files."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from boards import finer
from filelock import FileLock
from pages import ARGUMENTS, Visits, find_chromium, served
from playwright.sync_api import Browser, sync_playwright
from site_boards import write_world
from sites import Records


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """Opens pages that are expected to complain: the test looks at `problems` itself."""
    visits = Visits(browser)
    yield visits
    visits.close()


@pytest.fixture
def open_page(visits: Visits) -> Iterator[Visits]:
    """Opens pages by address or path; a complaint of any of them, or a request to elsewhere, fails the test."""
    yield visits
    visits.close()
    assert not visits.problems


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder over HTTP until the test ends; gives its address."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(served(folder))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles of `site_boards` in `old` and `new`, and their site in `site`; to be read only.

    Made once: the processes of one run of the tests share it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "world-of-pages"
    with FileLock(shared / "world-of-pages.lock"):
        if not folder.exists():
            partial = write_world(tmp_path_factory.mktemp("world") / "made")
            code, _, err = finer("leaderboard", "build", partial / "old", partial / "new", "--out", partial / "site")
            assert code == 0, err
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def site(world: Path) -> Path:
    return world / "site"


@pytest.fixture(scope="session")
def records(world: Path) -> Records:
    return Records(world)
