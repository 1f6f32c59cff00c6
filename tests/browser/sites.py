"""What tests of the site's pages share: addresses, and what a page shows once it is drawn."""

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pandas as pd
from playwright.sync_api import Locator, Page

OLD, NEW = "zoo-1-protocol-1", "zoo-2-protocol-1"
# The script of a data file leaves the page once it has run, and with it what waited for it.
IS_DRAWN = """() => !document.getElementById("status")?.textContent.includes("Loading")
    && !document.querySelector("head script[src*='data/']")"""


def address(site: Path | str, page: str, **state: object) -> str:
    """The address of a page of the older board, in a state."""
    base = site.as_uri() if isinstance(site, Path) else site
    return f"{base}/{OLD}/{page}.html" + (f"#{urlencode(state)}" if state else "")


def drawn(page: Page) -> Page:
    """The page, once its script has drawn all that was asked of it; what is read then stays."""
    page.wait_for_function(IS_DRAWN, polling=10)
    return page


def follow(link: Locator, name: str) -> Page:
    """The page of this name, to which the link leads, drawn: a click may return while the old page is still there."""
    link.click()
    link.page.wait_for_url(lambda url: urlsplit(url).path.endswith(f"/{name}.html"))
    return drawn(link.page)


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


class Records:
    """Records of the older gallery, read without the program."""

    def __init__(self, world: Path) -> None:
        self.folders: dict[tuple[str, str], Path] = {}
        self.summaries: dict[tuple[str, str], Mapping[str, Any]] = {}
        for path in sorted((world / "old").glob("*/records/*/record.json")):
            summary = json.loads(path.read_text(encoding="utf-8"))
            key = summary["run"]["name"], summary["embedder"]["fingerprint"]
            self.folders[key], self.summaries[key] = path.parent, summary
        fingerprints = [fingerprint for _, fingerprint in self.folders]
        # The encoder of the most records comes first on every page.
        self.first, self.second = sorted(set(fingerprints), key=lambda each: -fingerprints.count(each))

    def summary(self, model: str, fingerprint: str = "") -> Mapping[str, Any]:
        return self.summaries[model, fingerprint or self.first]

    def table(self, model: str, name: str, fingerprint: str = "") -> pd.DataFrame:
        return pd.read_parquet(self.folders[model, fingerprint or self.first] / f"{name}.parquet")

    def nearest(self, model: str) -> pd.DataFrame:
        """The queries of a model with their nearest photo, and the similarity of the nearest wrong one."""
        queries, near = self.table(model, "queries"), self.table(model, "neighbours")
        first = near[near["rank"] == 1].set_index("query")
        queries["found"] = first["identity"].astype(str)
        queries["is_right"] = first["is_relevant"]
        queries["top_wrong"] = near[~near["is_relevant"]].groupby("query")["similarity"].max()
        return queries


def shown_number(value: float, digits: int = 3) -> str:
    """As JavaScript writes a number: halves are rounded up."""
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return str(rounded).replace("-", "−")
