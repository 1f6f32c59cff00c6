"""Pages in a real browser, whose every complaint is written down, and what serves them."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """The path of the browser; without one the test is skipped, but fails where the environment has `CI`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("FINER_RANK_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "no Chromium: install the system's package `chromium`, or name a browser in FINER_RANK_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Contexts:
    """A browser's contexts. One that was left is used again, emptied: to make one costs more than to open a page."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: dict[str, list[BrowserContext]] = {}

    def take(self, options: dict[str, Any]) -> BrowserContext:
        """One that nobody else has, and in which nothing is stored; `options` are those of `new_context`."""
        free = self._free.get(repr(options))
        return free.pop() if free else self._browser.new_context(**options)

    def give_back(self, context: BrowserContext, options: dict[str, Any]) -> None:
        """Its pages, which are all of one origin, are closed."""
        for page in context.pages:
            if options.get("java_script_enabled", True):
                page.evaluate("localStorage.clear()")
            page.close()
        context.clear_cookies()
        self._free.setdefault(repr(options), []).append(context)


class Visits:
    """Opens pages, each in a context of its own, and keeps what went wrong on any of them in `problems`.

    That is: errors and warnings on the console, which includes violations of the content security policy and files
    that do not load; uncaught errors; requests to anywhere but the opened page's own origin; windows that it opens.
    """

    def __init__(self, contexts: Contexts) -> None:
        self.problems: list[str] = []
        self._contexts = contexts
        self._pages: list[tuple[Page, dict[str, Any]]] = []

    def __call__(self, target: str | Path, **context: Any) -> Page:
        """The page at an address or path, loaded; `context` is given to the browser's `new_context`."""
        url = target.resolve().as_uri() if isinstance(target, Path) else target
        page = self._contexts.take(context).new_page()
        self._pages.append((page, context))
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self._note("uncaught", str(error)))
        page.on("request", lambda request: None if _stays(request.url, url) else self._note("request", request.url))
        page.on("popup", lambda popup: self._note("popup", popup.url))
        page.on("crash", lambda _: self._note("crash", url))
        page.goto(url)
        return page

    def close(self) -> None:
        while self._pages:
            page, context = self._pages.pop()
            if context.get("java_script_enabled", True):
                # What a script left behind, such as a rejected promise, is reported in tasks that come after it.
                page.evaluate("new Promise((done) => setTimeout(done))")
            self._contexts.give_back(page.context, context)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self._note(message.type, f"{message.text} ({message.location['url']})")

    def _note(self, kind: str, text: str) -> None:
        self.problems.append(f"{kind}: {text}")


def _stays(url: str, site: str) -> bool:
    parts, own = urlsplit(url), urlsplit(site)
    return parts.scheme in ("data", "blob") or (parts.scheme, parts.netloc) == (own.scheme, own.netloc)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address, without a slash at the end, under which the folder's files are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True  # a browser also holds connections on which it asks nothing
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@cache
def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def accessibility_problems(page: Page, **options: Any) -> list[str]:
    """What axe-core finds on the page as it is now, a line for each rule; `options` are those of `axe.run`."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_axe())
    # `preload` would fetch the style sheets anew, which no policy of ours allows.
    own = {"preload": False, "resultTypes": ["violations"], **options}
    found = page.evaluate("options => axe.run(document, options).then((found) => found.violations)", own)
    return [
        f"{rule['id']}: {rule['help']}: {', '.join(str(node['target']) for node in rule['nodes'])}" for rule in found
    ]
