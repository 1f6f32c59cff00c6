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


class Visits:
    """Opens pages, each in a context of its own, and keeps what went wrong on any of them in `problems`.

    That is: errors and warnings on the console, which includes violations of the content security policy and files
    that do not load; uncaught errors; requests to anywhere but the opened page's own origin.
    """

    def __init__(self, browser: Browser) -> None:
        self.problems: list[str] = []
        self._browser = browser
        self._contexts: list[tuple[BrowserContext, bool]] = []

    def __call__(self, target: str | Path, **context: Any) -> Page:
        """The page at an address or path, loaded; `context` is given to the browser's `new_context`."""
        url = target.resolve().as_uri() if isinstance(target, Path) else target
        own = self._browser.new_context(**context)
        self._contexts.append((own, context.get("java_script_enabled", True)))
        own.on("console", self._note_message)
        own.on("weberror", lambda error: self._note("uncaught", str(error.error)))
        own.on("request", lambda request: None if _stays(request.url, url) else self._note("request", request.url))
        page = own.new_page()
        page.on("crash", lambda _: self._note("crash", url))
        page.goto(url)
        return page

    def close(self) -> None:
        while self._contexts:
            context, has_scripts = self._contexts.pop()
            for page in context.pages if has_scripts else []:
                # What a script left behind, such as a rejected promise, is reported in tasks that come after it.
                page.evaluate("new Promise((done) => setTimeout(done))")
            context.close()

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
    page.evaluate(_axe())
    # `preload` would fetch the style sheets anew, which no policy of ours allows.
    found = page.evaluate("options => axe.run(document, options)", {"preload": False, **options})
    return [
        f"{rule['id']}: {rule['help']}: {', '.join(str(node['target']) for node in rule['nodes'])}"
        for rule in found["violations"]
    ]
