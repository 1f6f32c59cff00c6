"""`finer-rank leaderboard build`: the files of a site, without a browser."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boards import finer, refused
from handmade import files_below, lacking, relink
from pytest import approx
from site_boards import COPIER, INCOMPLETE, LIKENESS, LONG, REST, SECOND, TURNED, shared_world
from test_bundles import change_json, seal

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
OLD, NEW = "zoo-1-protocol-1", "zoo-2-protocol-1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records `old` and `new`, and the site of both."""
    return shared_world(tmp_path_factory)


@pytest.fixture(scope="module")
def site_of_new(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of `new` alone."""
    return build(tmp_path_factory.mktemp("site_of_new") / "site", world / "new")


@pytest.fixture
def records(world: Path, tmp_path: Path) -> Path:
    """Two bundles of the older gallery, of which a test may spoil anything."""
    for name in (TURNED, COPIER):
        shutil.copytree(bundle_of(world, name), tmp_path / "records" / bundle_of(world, name).name)
    return tmp_path / "records"


def build(out: Path, *folders: Path) -> Path:
    code, said, err = finer("leaderboard", "build", *folders, "--out", out)
    assert (code, err) == (0, ""), err
    assert str(out / "index.html") in said
    return out


def bundle_of(folder: Path, model: str) -> Path:
    (path,) = (p for p in folder.rglob("manifest.json") if json.loads(p.read_text(encoding="utf-8"))["model"] == model)
    return path.parent


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder) if (folder / name).is_file()}


def data_of(site: Path, name: str, board: str = OLD) -> Any:
    """What a data file hands to the page."""
    text = (site / board / "data" / f"{name}.js").read_text(encoding="utf-8")
    head = f"finerRank.receive({json.dumps(name)},"
    assert text.startswith(head)
    return json.loads(text[len(head) :].rstrip().removesuffix(");"))


def test_the_same_bundles_give_the_same_bytes_in_any_order(world: Path, tmp_path: Path) -> None:
    bundles = sorted(path.parent for path in world.glob("*/*/manifest.json"))
    again = build(tmp_path / "again", *reversed(bundles))
    first, second = bytes_of(world / "site"), bytes_of(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert all(str(world).encode() not in content for content in second.values())


def lie(bundle: Path) -> None:
    path = next(bundle.glob("records/*/queries.parquet"))
    path.write_bytes(path.read_bytes() + b" ")


def cut(bundle: Path) -> None:
    path = next(bundle.glob("records/*/neighbours.parquet"))
    path.write_bytes(path.read_bytes()[:1000])
    seal(bundle)


def link(bundle: Path) -> None:
    path = next(bundle.glob("records/*/record.json"))
    shutil.copy(path, bundle.parent.parent / "elsewhere.json")
    relink(path, bundle.parent.parent / "elsewhere.json")


def link_picture(bundle: Path) -> None:
    path = min((bundle / "thumbnails").iterdir())
    shutil.copy(path, bundle.parent.parent / "elsewhere.webp")
    relink(path, bundle.parent.parent / "elsewhere.webp")


def change_picture(bundle: Path) -> None:
    min((bundle / "thumbnails").iterdir()).write_bytes(b"another")


def point_outside(bundle: Path) -> None:
    """A picture of the manifest that is a file of this machine."""
    secret = bundle.parent.parent / "secret.webp"
    secret.write_bytes(b"secret")
    listed = {"thumbnails/../../../secret.webp": hashlib.sha256(b"secret").hexdigest()}
    change_json(bundle / "manifest.json", lambda manifest: manifest["files"].update(listed))


def put_number(table: str, column: str, value: float) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        path = next(bundle.glob(f"records/*/{table}.parquet"))
        of = pq.ParquetFile(path).read()
        place = of.column_names.index(column)
        values = [value, *of.column(column).to_pylist()[1:]]
        pq.write_table(of.set_column(place, column, pa.array(values, of.column(column).type)), path)
        seal(bundle)

    return spoil


def put_word(before: str, after: str) -> Callable[[Path], None]:
    """Another number in `record.json`."""

    def spoil(bundle: Path) -> None:
        path = next(bundle.glob("records/*/record.json"))
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
        seal(bundle)

    return spoil


def long_name(bundle: Path) -> None:
    change_json(bundle / "manifest.json", lambda manifest: manifest.update(model="x" * 10_000))


def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lie, ("queries.parquet", "its SHA-256 is another")),
        (cut, ("neighbours.parquet", "not readable as Parquet")),
        (link, ("record.json", "no such file")),
        (link_picture, ("thumbnails", "no such file")),
        (change_picture, ("thumbnails", "its SHA-256 is another")),
        (point_outside, ("secret.webp", "no such file")),
        (put_number("queries", "average_precision", math.nan), ("queries.parquet", "average_precision")),
        (put_number("queries", "first_hit_rank", math.inf), ("queries.parquet", "first_hit_rank")),
        (put_number("queries", "average_precision", 1.5), ("queries.parquet", "average_precision")),
        (put_number("neighbours", "similarity", math.nan), ("neighbours.parquet", "similarity")),
        (put_number("neighbours", "similarity", -math.inf), ("neighbours.parquet", "similarity")),
        (put_number("neighbours", "query", 10_000), ("neighbours.parquet", "query")),
        (put_word('"n_images": 32', '"n_images": NaN'), ("record.json", "NaN is no number")),
        (put_word('"n_images": 32', '"n_images": 1e999'), ("record.json", "n_images")),
        (put_word('"n_images": 32', '"n_images": "32"'), ("record.json", "n_images")),
        (put_word('"n_images": 32, ', ""), ("record.json", "n_images", "missing")),
        (long_name, ("manifest.json", "10000 characters")),
        (no_manifest, ("no manifest.json",)),
    ],
)
def test_a_bundle_that_cannot_be_read_stops_the_build_and_leaves_the_older_site(
    spoil: Callable[[Path], None], said: tuple[str, ...], site_of_new: Path, records: Path, tmp_path: Path
) -> None:
    site = Path(shutil.copytree(site_of_new, tmp_path / "site"))
    before = bytes_of(tmp_path / "site")
    spoil(bundle_of(records, COPIER))
    around = files_below(tmp_path)
    code, out, err = finer("leaderboard", "build", records, "--out", site)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert not lacking(err, *said, "img_src_x")  # the bundle is named
    assert bytes_of(site) == before
    assert files_below(tmp_path) == around
    assert finer("leaderboard", "build", records, "--out", tmp_path / "fresh")[0] == 2
    assert files_below(tmp_path) == around


def test_two_bundles_of_one_name_are_refused(records: Path, tmp_path: Path) -> None:
    bundle = bundle_of(records, TURNED)
    shutil.copytree(bundle, tmp_path / "more" / bundle.name)
    line = refused("leaderboard", "build", records, tmp_path / "more", "--out", tmp_path / "site")
    assert not lacking(line, bundle.name, "has a bundle on zoo 1 already", "remove one of the two")
    assert "\u202e" not in line
    assert not (tmp_path / "site").exists()


def test_a_bundle_under_another_name_than_its_models_is_refused(records: Path, tmp_path: Path) -> None:
    bundle = bundle_of(records, TURNED)
    bundle.rename(bundle.with_name("zoo-1--better"))
    assert "zoo-1--better: is not named " in refused("leaderboard", "build", records, "--out", tmp_path / "site")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_site_is_never_replaced(kind: str, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "index.html").write_text("mine")
    else:
        out.write_text("mine")
    line = refused("leaderboard", "build", world / "new", "--out", out)
    assert not lacking(line, str(out), "no site of this program", "name another --out")
    assert (out / "index.html" if kind == "folder" else out).read_text() == "mine"


def test_a_site_is_replaced_as_a_whole(world: Path, site_of_new: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()  # an empty folder may be filled
    site = build(tmp_path / "site", world / "old")
    assert (site / OLD).is_dir()
    build(site, world / "new")
    assert not (site / OLD).exists()
    assert bytes_of(site) == bytes_of(site_of_new)
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_an_older_version_of_a_gallery_stays_at_its_address_with_its_data(world: Path, tmp_path: Path) -> None:
    alone = build(tmp_path / "alone", world / "old")
    data, now = (bytes_of(site / OLD / "data") for site in (alone, world / "site"))
    assert data == now
    assert bytes_of(alone / "thumbnails") == bytes_of(world / "site" / "thumbnails")
    for page in (world / "site" / OLD).glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not lacking(text, "This board is frozen", f'href="../{NEW}/index.html"'), page
        assert "frozen" not in (alone / OLD / page.name).read_text(encoding="utf-8")
        assert "frozen" not in (world / "site" / NEW / page.name).read_text(encoding="utf-8")
    assert "Frozen: <bdi>2</bdi>" in (world / "site" / "index.html").read_text(encoding="utf-8")


def test_pictures_are_shown_only_where_the_licence_allows_it(
    world: Path, site_of_new: Path, records: Path, tmp_path: Path
) -> None:
    allowed = world / "site" / "thumbnails"
    shown: dict[str, bytes] = {}
    for bundle in (path.parent for path in (world / "old").glob("*/manifest.json")):
        for path in bundle.glob("records/*/*.parquet"):
            for digest in pq.read_table(path).column("image_sha256").to_pylist():
                shown[f"{digest[:20]}.webp"] = (bundle / "thumbnails" / f"{digest}.webp").read_bytes()
        for reference in json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["references"]:
            digest = reference["image_sha256"]
            shown[f"{digest[:20]}.webp"] = (bundle / "thumbnails" / f"{digest}.webp").read_bytes()
    assert bytes_of(allowed) == shown
    # A bundle that brings pictures although its gallery's card does not say yes.
    for path in records.glob("*/records/*/record.json"):
        change_json(path, lambda summary: summary["gallery"].update(thumbnails="no"))
    for bundle in records.iterdir():
        seal(bundle)
    for site in (site_of_new, build(tmp_path / "denied", records)):
        assert not [name for name in files_below(site) if name.endswith((".webp", ".png", ".jpg"))]
        assert "the gallery does not allow it" in (site / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page may not hold: anything that a strict policy forbids, or that leaves the site."""

    def __init__(self) -> None:
        super().__init__()
        self.policies: list[str] = []
        self.wrong: list[str] = []
        self.files: set[str] = set()
        self.in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {key: value or "" for key, value in attrs}
        if tag == "meta" and of.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(of["content"])
        if tag == "script":
            self.in_script = True
            self.wrong += [] if of.get("src") else ["script without src"]
        self.wrong += [f"{tag} {key}" for key in of if key == "style" or key.startswith("on")]
        self.wrong += [tag] if tag in ("style", "iframe", "object", "embed", "base", "form") else []
        for key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = of.get(key, "")
            if ":" in value.partition("/")[0] or value.startswith("//"):
                self.wrong.append(f"{key}={value}")
            elif value and not value.startswith("#"):
                self.files.add(value.partition("#")[0].partition("?")[0])

    def handle_endtag(self, tag: str) -> None:
        self.in_script = self.in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self.in_script and data.strip():
            self.wrong.append("inline script")


def test_every_page_has_a_strict_policy_and_nothing_that_it_forbids(world: Path) -> None:
    pages = sorted((world / "site").rglob("*.html"))
    assert len(pages) == 2 + 2 * 6
    for path in pages:
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        assert (page.policies, page.wrong) == ([POLICY], []), path
        missing = [name for name in page.files if not (path.parent / name).is_file()]
        assert not missing, path
        assert any(name.endswith(".js") for name in page.files)
    text = b"".join((world / "site" / name).read_bytes() for name in files_below(world / "site") if name.endswith("js"))
    assert b"http://" not in text.replace(b"http://www.w3.org/2000/svg", b"")


def test_incomplete_runs_stand_apart_and_class_only_runs_are_anchors(world: Path) -> None:
    models = [model["name"] for model in data_of(world / "site", "board")["models"]]
    for embedder in data_of(world / "site", "board")["embedders"]:
        standings = data_of(world / "site", f"{embedder['key']}/standings")
        ranked = [models[row[0]] for row in standings["rows"]]
        apart = [models[row[0]] for row in standings["incomplete"]]
        scored = set(LIKENESS) - ({SECOND} if REST not in apart else set())
        assert set(ranked) == scored
        assert INCOMPLETE in apart
        best = max(
            summaries(world, embedder["fingerprint"]).items(), key=lambda item: item[1]["scores"]["mAP"]["value"]
        )
        assert best[0] == INCOMPLETE  # it would be first
        assert all(row[1] is None for row in standings["incomplete"])
        assert [row[0] for row in standings["anchors"]] == [
            "chance", "class only: untuned", "copied reference", "held-out photos",
        ]  # fmt: skip


def summaries(world: Path, fingerprint: str) -> dict[str, Any]:
    """Model → `record.json` of an encoder, on the older gallery."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in (world / "old").glob("*/records/*/record.json")]
    return {each["run"]["name"]: each for each in read if each["embedder"]["fingerprint"] == fingerprint}


def test_standings_are_those_of_the_records(world: Path) -> None:
    board = data_of(world / "site", "board")
    keys = [metric["key"] for metric in board["metrics"]]
    assert board["gallery"] == {"name": "zoo", "version": "1"}
    for embedder in board["embedders"]:
        known = summaries(world, embedder["fingerprint"])
        standings = data_of(world / "site", f"{embedder['key']}/standings")
        ranked = sorted(known.keys() & LIKENESS.keys(), key=lambda name: -known[name]["scores"]["mAP"]["value"])
        assert [board["models"][row[0]]["name"] for row in standings["rows"]] == ranked
        assert [row[1] for row in standings["rows"]] == list(range(1, len(ranked) + 1))
        for row in standings["rows"] + standings["incomplete"]:
            summary = known[board["models"][row[0]]["name"]]
            fidelity = summary.get("prompt_fidelity", {}).get("clip_t")
            wanted = {
                **summary["scores"], "identity_retention": summary["identity_retention"],
                "similarity": summary["pairwise_similarity"], "clip_t": fidelity, "copy_rate": summary["copy_rate"],
            }  # fmt: skip
            for key, shown in zip(keys, row[-len(keys) :], strict=True):
                if wanted[key] is None:
                    assert shown is None
                else:
                    assert shown == approx([wanted[key][bound] for bound in ("value", "low", "high")], abs=5.1e-7)
            assert "copies" in row[7] if summary["copy_rate"]["value"] > 0.05 else "copies" not in row[7]
    assert {name for name, summary in known.items() if summary["scores"]["AUC"] is None} == {LONG}


def test_standings_of_a_category_are_means_of_its_queries(world: Path) -> None:
    board = data_of(world / "site", "board")
    embedder = board["embedders"][0]
    for i, category in enumerate(board["categories"]):
        for row in data_of(world / "site", f"{embedder['key']}/category-{i}")["rows"]:
            queries = table(world, board["models"][row[0]]["name"], embedder["fingerprint"], "queries")
            own = queries[queries["category"] == category]
            m_ap = row[-len(board["metrics"])]
            assert m_ap[0] == approx(own["average_precision"].mean(), abs=5.1e-7)
            assert row[5:7] == [len(own), own["identity"].nunique()]


def table(world: Path, model: str, fingerprint: str, name: str) -> pd.DataFrame:
    (folder,) = (bundle_of(world / "old", model) / "records").glob(f"*--{fingerprint[:8]}")
    return pd.read_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize("model", [COPIER, INCOMPLETE])
def test_queries_and_neighbours_are_those_of_the_tables(model: str, world: Path) -> None:
    site = world / "site"
    board, photos, labels = (data_of(site, name) for name in ("board", "photos", "identities"))
    key = next(each["key"] for each in board["models"] if each["name"] == model)
    of_model = data_of(site, f"models/{key}")
    for embedder in board["embedders"]:
        queries, near = (table(world, model, embedder["fingerprint"], name) for name in ("queries", "neighbours"))
        scores = data_of(site, f"{embedder['key']}/{key}/queries")
        chunk = data_of(site, f"{embedder['key']}/{key}/neighbours-0")
        assert of_model["files"] == queries["file_name"].tolist()
        assert [labels["identities"][i] for i in of_model["identities"]] == queries["identity"].tolist()
        assert [of_model["promptTexts"][i] for i in of_model["prompts"]] == queries["prompt"].tolist()
        assert [value / 1e4 for value in scores["ap"]] == approx(queries["average_precision"].tolist(), abs=5.1e-5)
        assert scores["firstHit"] == approx(queries["first_hit_rank"].tolist(), abs=5.1e-3)
        assert [value == 1 for value in scores["copy"]] == queries["is_copy"].tolist()
        for i, own in near.groupby("query"):
            assert [photos["files"][place] for place in chunk["photos"][i]] == own["file_name"].tolist()
            assert [photos["pictures"][place] for place in chunk["photos"][i]] == own["image_sha256"].str[:20].tolist()
            assert [value / 1e4 for value in chunk["similarities"][i]] == approx(own["similarity"].tolist(), abs=5.1e-5)
            wrong = own[~own["is_relevant"]]["similarity"]
            shown = scores["topWrong"][i]
            assert shown is None if wrong.empty else shown / 1e4 == approx(wrong.max(), abs=5.1e-5)
