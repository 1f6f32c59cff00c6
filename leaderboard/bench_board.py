"""How long a leaderboard of a given size takes: to build, to open, and to use in a browser."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from galleries.errors import FinerRankError
from leaderboard.made_board import MadeBoard, write_made_board

TARGETS: dict[str, float] = {
    "build_s": 30,
    "first_page_bytes": 300_000,
    "first_page_s": 1.5,
    "sort_max_ms": 150,
    "flip_1_median_ms": 100,
    "flip_12_median_ms": 100,
}
"""At most, of 500 records of 1,000 queries on two cores."""
SORTED_BY = ("model", "rank", "AUC", "mAP")
N_SORTS = 5
N_FLIPS = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAINTED = "const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));"
"""In a page: waits for the end of the next frame."""
SORT = f"""async (column) => {{ {PAINTED}
  const start = performance.now();
  document.querySelector(`[data-column="${{column}}"]`).click();
  await painted();
  return performance.now() - start; }}"""
SEARCH = f"""async (text) => {{ {PAINTED}
  const box = document.getElementById("search");
  const start = performance.now();
  box.value = text;
  box.dispatchEvent(new Event("input"));
  await painted();
  return performance.now() - start; }}"""
FLIP = f"""async () => {{ {PAINTED}
  const [next, previous] = ["next", "previous"].map((id) => document.getElementById(id));
  const button = next.disabled ? previous : next;
  if (button.disabled) return null;
  const start = performance.now();
  const drawn = new Promise((done) =>
    new MutationObserver(done).observe(document.getElementById("query"), {{ childList: true }}));
  button.click();
  await drawn;
  await painted();
  return performance.now() - start; }}"""
TRANSFERRED = """() => ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
  .reduce((sum, entry) => sum + entry.transferSize, 0)"""


def bench_board(board: MadeBoard, browser: str | None) -> dict[str, Any]:
    """Make bundles, build their site in a process of its own, and use it in a browser.

    Args:
        browser: path of a Chromium; None leaves out what needs one.

    Raises:
        FinerRankError: the site cannot be built, or the browser not be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundles, site = Path(folder, "bundles"), Path(folder, "site")
        bundles.mkdir()
        load = os.getloadavg()[0]
        start = time.perf_counter()
        write_made_board(board, bundles)
        made = time.perf_counter()
        build_s, peak_memory_mb = _build(bundles, site)
        n_records = board.models * board.embedders
        sizes = [path.stat().st_size for path in site.rglob("*") if path.is_file()]
        found: dict[str, Any] = {
            "models": board.models,
            "embedders": board.embedders,
            "queries": board.queries,
            "identities": board.identities,
            "thumbnails": board.thumbnails,
            "cores": os.cpu_count(),
            "load_at_start": round(load, 2),
            "make_s": made - start,
            "build_s": build_s,
            "records_per_s": n_records / build_s,
            "build_peak_memory_mb": peak_memory_mb,
            "first_page_bytes": sum(path.stat().st_size for path in first_page_files(site)),
            "site_bytes": sum(sizes),
            "site_files": len(sizes),
        }
        if browser:
            found |= _in_browser(site, browser)
    return found


def _build(bundles: Path, site: Path) -> tuple[float, float]:
    """Seconds and megabytes at most of `finer-rank leaderboard build`."""
    command = [sys.executable, "-m", "finer_rank", "leaderboard", "build", str(bundles), "--out", str(site)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FinerRankError("the site of made bundles could not be built; see above, and free disk space or memory")
    return seconds, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def first_page_files(site: Path) -> list[Path]:
    """What a browser reads to show the first page of a site's only board."""
    page = next(path for path in sorted(site.glob("*/index.html")))
    names = re.findall(r'<(?:link|script)[^>]*?(?:href|src)="([^"?]+)', page.read_text(encoding="utf-8"))
    data = page.parent / "data"
    text = (data / "board.js").read_text(encoding="utf-8")
    first = json.loads(text[text.index(",") + 1 : text.rindex(")")])["embedders"][0]["key"]
    return [page, *(page.parent / name for name in names), data / "board.js", data / first / "standings.js"]


def _in_browser(site: Path, browser: str) -> dict[str, Any]:
    from playwright.sync_api import Error, sync_playwright

    try:
        with _served(site) as root, sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu"]
            opened = playwright.chromium.launch(executable_path=browser, args=arguments)
            try:
                return _times(opened.new_page(), f"{root}/{next(site.glob('*/index.html')).parent.name}")
            finally:
                opened.close()
    except Error as error:
        raise FinerRankError(f"--browser {browser}: {str(error).strip().splitlines()[0]}; name a Chromium") from None


def _times(page: Any, board: str) -> dict[str, Any]:
    start = time.perf_counter()
    page.goto(f"{board}/index.html", wait_until="commit")
    page.wait_for_selector("#board tbody tr")
    found: dict[str, Any] = {"first_page_s": time.perf_counter() - start}
    page.wait_for_load_state()
    found["transferred_bytes"] = page.evaluate(TRANSFERRED)
    found |= _spread("sort", [page.evaluate(SORT, column) for _ in range(N_SORTS) for column in SORTED_BY])
    found |= _spread("search", [page.evaluate(SEARCH, text) for text in ("0", "00", "001", "00", "0", "")])
    page.goto(f"{board}/neighbours.html")
    page.wait_for_selector("#query article")
    for shown in (1, 12):
        if shown > 1:
            page.click("#view")
            page.wait_for_function("document.querySelectorAll('#query article').length > 1")
        flips = [page.evaluate(FLIP) for _ in range(N_FLIPS)]
        if None not in flips:
            found |= _spread(f"flip_{shown}", flips)
    return found


def _spread(name: str, ms: list[float]) -> dict[str, float]:
    return {f"{name}_median_ms": median(ms), f"{name}_max_ms": max(ms)}


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
