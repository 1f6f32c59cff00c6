"""The browser, the pages that a test opens, and a server of files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pages import ARGUMENTS, Contexts, Visits, find_chromium, served
from playwright.sync_api import Browser, sync_playwright
from site_boards import shared_world
from sites import Records


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Contexts:
    return Contexts(browser)


@pytest.fixture
def visits(contexts: Contexts) -> Iterator[Visits]:
    """Opens pages that are expected to complain: the test looks at `problems` itself."""
    visits = Visits(contexts)
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
    return shared_world(tmp_path_factory)


@pytest.fixture(scope="session")
def site(world: Path) -> Path:
    return world / "site"


@pytest.fixture(scope="session")
def records(world: Path) -> Records:
    return Records(world)
