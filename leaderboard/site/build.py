"""Writes the site: a folder of files that any host, or a double click, serves."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from importlib.resources import files
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from benchmark.records import PROTOCOL
from benchmark.report import number
from galleries.errors import FinerRankError
from leaderboard.published import PublishedBundle
from leaderboard.site.charts import charts_of
from leaderboard.site.data import BoardData, has_pictures, model_key, script, thumbnails_of
from leaderboard.site.draws import draws_script
from leaderboard.site.gallery_page import gallery_page
from leaderboard.standings import Board, Standings, boards_of
from personalization_runs.run import CLASS_ONLY

MARKER = "finer-rank-site.txt"
"""Stands in every site: only a folder that holds it is ever replaced."""

PAGES = {
    "index": "Board",
    "charts": "Charts",
    "compare": "Compare",
    "neighbours": "Neighbours",
    "drift": "Drift",
    "gallery": "Gallery",
}
"""Pages of a board and their names in the navigation."""
SCRIPTS = {
    "index": ("board",),
    "charts": ("charts",),
    "compare": ("statistics", "strips", "compare"),
    "neighbours": ("strips", "neighbours"),
    "drift": ("strips", "drift"),
    "gallery": (),
}

Progress = Callable[[int], Any]


@dataclass(frozen=True)
class BoardCard:
    """What the first page says of a board."""

    slug: str
    gallery: str
    version: str
    protocol: str
    description: str
    n_models: int
    n_incomplete: int
    specs: Sequence[str]
    n_identities: int
    n_categories: int
    has_pictures: bool
    newer: str
    leader: str
    leader_score: str
    n_tied: int


class Site:
    """Files of a site, with the digest of what has been written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        path.write_bytes(data)
        self._digests[name] = hashlib.sha256(data).hexdigest()

    def has(self, name: str) -> bool:
        return name in self._digests

    @property
    def version(self) -> str:
        """Changes whenever a file does: browsers keep what has not changed, and nothing else."""
        lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(self._digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest()[:12]


def build_site(bundles: Sequence[PublishedBundle], out: Path, step: Progress | None = None) -> None:
    """Write the site of some bundles; the same bundles give the same bytes.

    A site that lies at `out` already is replaced as a whole, once the new one is there.

    Args:
        step: is called with 1 after each record.

    Raises:
        FinerRankError: `out` holds something else, or cannot be written.
        Faults: a bundle cannot be shown.
    """
    with _replaced(out) as folder:
        site = Site(folder)
        site.write(MARKER, "Made by finer-rank leaderboard build, which replaces this folder as a whole.\n")
        for asset in sorted(files("leaderboard.site").joinpath("static").iterdir(), key=lambda entry: entry.name):
            site.write(f"static/{asset.name}", asset.read_bytes())
        boards = boards_of(bundles)
        slugs = _slugs(boards)
        contexts = []
        for board in boards:
            contexts.append(_write_data(site, board, slugs[id(board)], step))
        for count in sorted({n for context in contexts for n in context["counts"]}):
            site.write(f"data/draws/{count}.js", draws_script(count))
        _write_pages(site, boards, slugs, contexts)


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of the site at `out` when the block ends well."""
    if out.exists() and not (out / MARKER).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FinerRankError(f"{out}: holds something that is no site of this program; name another --out")
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise FinerRankError(
            f"{error.filename or out}: {error.strerror}; check the path, permissions and disk"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _slugs(boards: Sequence[Board]) -> dict[int, str]:
    """Address of each board: gallery and version, as in its bundles' names, and protocol."""
    found = {}
    for board in boards:
        bundle = board.bundles[0]
        gallery = bundle.name.removesuffix(f"--{model_key(bundle)}")
        found[id(board)] = f"{gallery}-protocol-{board.protocol}"
    return found


def _write_data(site: Site, board: Board, slug: str, step: Progress | None) -> dict[str, Any]:
    """Write the data files of a board. Returns what its pages say of it."""
    data = BoardData(board)
    folder = f"{slug}/data"
    site.write(f"{folder}/board.js", script("board", data.board_file()))
    site.write(f"{folder}/photos.js", script("photos", data.photos_file()))
    site.write(f"{folder}/identities.js", script("identities", data.identities_file()))
    standings = {}
    for embedder in board.embedders:
        whole = standings[embedder.key] = board.standings(embedder.fingerprint)
        name = f"{embedder.key}/standings"
        site.write(f"{folder}/{name}.js", script(name, data.standings_file(whole)))
        for i, category in enumerate(board.categories):
            name = f"{embedder.key}/category-{i}"
            of = board.standings(embedder.fingerprint, category)
            site.write(f"{folder}/{name}.js", script(name, data.standings_file(of)))
    key_of = {embedder.fingerprint: embedder.key for embedder in board.embedders}
    for bundle in board.bundles:
        key = model_key(bundle)
        name = f"models/{key}"
        site.write(f"{folder}/{name}.js", script(name, data.model_file(bundle)))
        for record in bundle.records:
            scores, chunks = data.record_files(bundle, record)
            name = f"{key_of[record.fingerprint]}/{key}"
            site.write(f"{folder}/{name}/queries.js", script(f"{name}/queries", scores))
            for i, chunk in enumerate(chunks):
                site.write(f"{folder}/{name}/neighbours-{i}.js", script(f"{name}/neighbours-{i}", chunk))
            record.forget_tables()
            if step:
                step(1)
        _copy_thumbnails(site, bundle)
    return {"standings": standings, "counts": _shared_counts(board)}


def _shared_counts(board: Board) -> set[int]:
    """How many identities any two models may be compared over, of all categories and of each."""
    asked = {frozenset(bundle.records[0].summary["identities"]) for bundle in board.bundles}
    counts: set[int] = set()
    for first, second in combinations_with_replacement(asked, 2):
        of = Counter(board.category_of[identity] for identity in first & second)
        counts |= {of.total(), *of.values()}
    return counts - {0}


def _copy_thumbnails(site: Site, bundle: PublishedBundle) -> None:
    """Copy the thumbnails of a bundle. A photo that several bundles show is taken from the first."""
    for source, name in thumbnails_of(bundle).items():
        if site.has(f"thumbnails/{name}"):
            continue
        path = bundle.folder / source
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(bundle.folder.resolve()):
            raise FinerRankError(f"{path}: no such file; submit what finer-rank leaderboard add wrote")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != bundle.manifest["files"][source]:
            raise FinerRankError(f"{path}: is not the file of the manifest: its SHA-256 is another; submit it again")
        site.write(f"thumbnails/{name}", content)


def _write_pages(
    site: Site, boards: Sequence[Board], slugs: Mapping[int, str], contexts: Sequence[Mapping[str, Any]]
) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("leaderboard.site"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    newest = _newest(boards)
    cards = [
        _card(board, slugs, newest, next(iter(context["standings"].values())))
        for board, context in zip(boards, contexts, strict=True)
    ]
    charts = [charts_of(board, context["standings"]) for board, context in zip(boards, contexts, strict=True)]
    common = {"version": site.version, "program_version": version_of("finer-rank"), "protocol": PROTOCOL}
    for name in ("index", "about"):
        page = environment.get_template(f"{name}.html")
        site.write(f"{name}.html", page.render(common, root="", pages={}.items(), here=name, boards=cards))
    for board, card, context, drawn in zip(boards, cards, contexts, charts, strict=True):
        other = newest[board.gallery]
        about_board = {
            "root": "../", "pages": PAGES.items(), "board": board, "description": card.description,
            "newer": None if other is board else {"slug": slugs[id(other)], "version": other.version},
        }  # fmt: skip
        more: dict[str, dict[str, Any]] = {
            "charts": {"charts": drawn, "embedders": board.embedders},
            "gallery": gallery_page(board, context["standings"]),
        }
        for here, label in PAGES.items():
            template = environment.get_template("board.html" if here == "index" else f"{here}.html")
            page_context = {**common, **about_board, **more.get(here, {})}
            content = template.render(page_context, here=here, heading=label, scripts=SCRIPTS[here])
            site.write(f"{card.slug}/{here}.html", content)


def _newest(boards: Sequence[Board]) -> dict[str, Board]:
    """The newest board of each gallery; versions are in the order of their numbers."""

    def age(board: Board) -> tuple[list[tuple[int, int, str]], ...]:
        return tuple(_natural(part) for part in (board.version, board.protocol))

    found: dict[str, Board] = {}
    for board in boards:
        other = found.setdefault(board.gallery, board)
        if age(board) > age(other):
            found[board.gallery] = board
    return found


def _natural(text: str) -> list[tuple[int, int, str]]:
    import re

    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", text)]


def _card(board: Board, slugs: Mapping[int, str], newest: Mapping[str, Board], standings: Standings) -> BoardCard:
    bundle = board.bundles[0]
    other = newest[board.gallery]
    return BoardCard(
        slug=slugs[id(board)],
        gallery=board.gallery,
        version=board.version,
        protocol=board.protocol,
        description=bundle.gallery.get("description", ""),
        n_models=sum(not each.incomplete and each.run.get("method") != CLASS_ONLY for each in board.bundles),
        n_incomplete=sum(bool(each.incomplete) for each in board.bundles),
        specs=[embedder.spec for embedder in board.embedders],
        n_identities=int(bundle.records[0].summary["n_gallery_identities"]),
        n_categories=len(board.categories),
        has_pictures=any(has_pictures(each) for each in board.bundles),
        newer="" if other is board else other.version,
        leader=standings.rows[0].model if standings.rows else "",
        leader_score=number(standings.rows[0].scores["mAP"]) if standings.rows else "",
        n_tied=sum(row.tied_with_best for row in standings.rows),
    )
