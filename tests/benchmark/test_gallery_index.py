"""An index of a gallery on disk: exact answers against a full sort, recall against a count of its own."""

import json
import math
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, Refusal, change_row, lacking, save_noise, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytest import approx

from benchmark.gallery_index import GalleryIndex, IndexedPhoto
from benchmark.index_settings import IndexSettings
from benchmark.rank import Rows, pair_similarity, row_norms
from galleries.errors import FinerRankError

EMBEDDER = dict.fromkeys(("spec", "fingerprint", "precision"), "") | dict.fromkeys(
    ("is_compiled", "resize", "size", "interpolation")
)
KINDS = ("flat", "ivf", "hnsw")


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def photos_of(rng: np.random.Generator, n: int, n_categories: int = 2) -> list[IndexedPhoto]:
    """Photos whose names are in no order, of categories that are mixed."""
    names = rng.permutation(n).tolist()
    return [IndexedPhoto(f"{names[i]:04}.jpg", f"c{i % n_categories}", f"i{i // 5}", "gallery", "") for i in range(n)]


def write(out: Path, photos: list[IndexedPhoto], rows: Rows, *chosen: Any, **more: Any) -> GalleryIndex:
    gallery = {"name": "made", "version": "1", "table_sha256": ""}
    return GalleryIndex.write(out, photos, rows, IndexSettings(*chosen, **more), gallery=gallery, embedder=EMBEDDER)


def made(out: Path, kind: str, n: int = 250, dim: int = 24, **more: Any) -> tuple[GalleryIndex, Rows]:
    rng = np.random.default_rng(3)
    rows = unit_rows(rng, n, dim)
    return write(out, photos_of(rng, n), rows, kind, **more), rows


def answers(index: GalleryIndex, queries: Rows, k: int, **how: Any) -> list[list[tuple[str, float]]]:
    return [[(n.photo.file_name, n.similarity) for n in found] for found in index.search(queries, k, **how)]


def sorted_in_full(
    photos: list[IndexedPhoto], rows: Rows, queries: Rows, k: int, category: str | None = None
) -> list[list[tuple[str, float]]]:
    norms, everyone = row_norms(rows), np.arange(len(rows))
    found = []
    for q in range(len(queries)):
        exact = pair_similarity(queries, rows, np.full(len(rows), q), everyone, row_norms(queries), norms).tolist()
        among = [(p.file_name, s) for p, s in zip(photos, exact, strict=True) if category in (None, p.category)]
        found.append(sorted(among, key=lambda entry: (-entry[1], entry[0]))[:k])
    return found


@given(
    st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([2, 16]), st.booleans(), st.sampled_from([None, "c1"])
)
@settings(max_examples=20, deadline=None)
def test_answers_are_the_first_of_the_exact_ranking(
    seed: int, k: int, dim: int, crowded: bool, category: str | None
) -> None:
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng, 12, dim)
    nudged = rows.copy()
    nudged[:, 0] *= np.float32(1 + 2**-23)
    # Crowded: five copies of each photo and of its near-copy, so that many tie at the cut.
    rows = np.concatenate([rows, nudged] * (5 if crowded else 1))
    queries = np.concatenate([unit_rows(rng, 2, dim), rows[:1], 3 * rows[1:2]])
    photos = photos_of(rng, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        index = write(Path(folder, "index"), photos, rows)
        assert answers(index, queries, k, category=category) == sorted_in_full(photos, rows, queries, k, category)


@pytest.mark.parametrize("kind", KINDS)
def test_similarity_is_the_cosine_of_the_embeddings(tmp_path: Path, kind: str) -> None:
    index, rows = made(tmp_path / "index", kind)
    query = unit_rows(np.random.default_rng(8), 1, 24)
    cosines = np.sort(rows.astype(np.float64) @ query[0].astype(np.float64))[::-1]
    assert [similarity for _, similarity in answers(index, query, 250, exact=True)[0]] == approx(cosines, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_category_is_searched_exactly_whatever_the_kind(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    photos, rows, queries = photos_of(rng, 200, 3), unit_rows(rng, 200, 16), unit_rows(rng, 5, 16)
    index = write(tmp_path / "index", photos, rows, kind)
    assert answers(index, queries, 9, category="c1") == sorted_in_full(photos, rows, queries, 9, "c1")
    assert answers(index, queries, 9, exact=True) == sorted_in_full(photos, rows, queries, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_was_moved_gives_the_same_answers(tmp_path: Path, kind: str) -> None:
    index, rows = made(tmp_path / "index", kind)
    queries = unit_rows(np.random.default_rng(4), 5, rows.shape[1])
    expected = answers(index, queries, 7)
    shutil.move(tmp_path / "index", tmp_path / "elsewhere")
    assert answers(GalleryIndex.open(tmp_path / "elsewhere"), queries, 7) == expected


@pytest.mark.parametrize(("kind", "half"), [("ivf", False), ("ivf", True), ("hnsw", False), ("hnsw", True)])
def test_the_recall_that_is_reported_is_the_share_of_nearest_photos_found(
    tmp_path: Path, kind: str, half: bool
) -> None:
    index, rows = made(tmp_path / "index", kind, half=half, recall=1.0)
    similarity = rows.astype(np.float64) @ rows.astype(np.float64).T
    for entry in index.card.recall:
        n_found = 0
        for q, found in enumerate(index.search(rows, 11, effort=entry["effort"])):
            tenth = np.sort(np.delete(similarity[q], q))[-10]
            others = [n.similarity for n in found if n.similarity < 1 - 1e-6][:10]
            n_found += sum(value >= tenth - 1e-7 for value in others)
        assert entry["recall"] == approx(n_found / (10 * len(rows)))
    if kind == "ivf":
        assert index.card.recall[0]["recall"] < 0.9  # one list of six


def test_the_effort_of_searches_is_the_least_tried_that_reaches_the_recall(tmp_path: Path) -> None:
    index, _ = made(tmp_path / "index", "ivf", recall=0.8)
    tried = {entry["effort"]: entry["recall"] for entry in index.card.recall}
    assert tried[index.card.effort] >= 0.8
    assert all(recall < 0.8 for effort, recall in tried.items() if effort < index.card.effort)
    everything, _ = made(tmp_path / "all", "ivf", recall=1.0)
    assert everything.card.recall[-1] == {"effort": 6, "recall": 1.0}  # 250 photos are lists of at least 39


def test_photos_as_near_as_the_tenth_count_as_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    copies = np.repeat(unit_rows(rng, 2, 8), 50, axis=0)
    index = write(tmp_path / "index", photos_of(rng, 100), copies, "ivf")
    assert index.card.recall == [{"effort": 1, "recall": 1.0}]


def test_so_many_photos_as_asked_for_come_back_from_few_lists(tmp_path: Path) -> None:
    index, rows = made(tmp_path / "index", "ivf")
    for found in index.search(rows[:5], 240, effort=1):
        assert len({n.photo.file_name for n in found}) == 240


@pytest.mark.parametrize("name", ["flat.faiss", "approximate.faiss", "photos.parquet"])
def test_a_file_that_changed_or_is_gone_is_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path / "index", "hnsw", 80, 4)
    path = tmp_path / "index" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FinerRankError, match=f"{name}: damaged, or of another index; build it again"):
        GalleryIndex.open(tmp_path / "index")
    path.unlink()
    with pytest.raises(FinerRankError, match=f"{name}: cannot be read .*; build it again"):
        GalleryIndex.open(tmp_path / "index")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"kind": "sorted"},
        {"effort": "many"},
        {"recall": [{"effort": 1}]},
        {"recall": [{"effort": 1, "recall": math.nan}]},
        {"files": {}},
        {"embedder": {}},
        {"gallery": []},
        {"x": 1},
    ],
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    made(tmp_path / "index", "flat", 5, 4)
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(FinerRankError, match=r"index\.json: .*; build it again: finer-rank index build"):
        GalleryIndex.open(tmp_path / "index")


def test_a_card_without_effort_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "index", "ivf", 80, 4)
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "effort": 0}), encoding="utf-8")
    with pytest.raises(FinerRankError, match=r"index\.json: damaged"):
        GalleryIndex.open(tmp_path / "index")


def test_files_of_two_indexes_are_told_from_those_of_one(tmp_path: Path) -> None:
    made(tmp_path / "index", "flat", 5, 4)
    made(tmp_path / "other", "flat", 6, 4)
    card = json.loads((tmp_path / "index" / "index.json").read_text(encoding="utf-8"))
    other = json.loads((tmp_path / "other" / "index.json").read_text(encoding="utf-8"))
    shutil.copy(tmp_path / "other" / "flat.faiss", tmp_path / "index" / "flat.faiss")
    card["files"]["flat.faiss"] = other["files"]["flat.faiss"]
    made(tmp_path / "lists", "ivf", 80, 4)
    lists = json.loads((tmp_path / "lists" / "index.json").read_text(encoding="utf-8"))
    for folder, named in (("index", card), ("other", {**other, "n_photos": 5}), ("lists", {**lists, "kind": "hnsw"})):
        (tmp_path / folder / "index.json").write_text(json.dumps(named), encoding="utf-8")
        with pytest.raises(FinerRankError, match="its files do not belong together"):
            GalleryIndex.open(tmp_path / folder)


def test_rows_that_are_no_unit_rows_are_no_index(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for rows in (2 * unit_rows(rng, 5, 4), np.full((5, 4), np.nan, dtype=np.float32), unit_rows(rng, 4, 4)):
        with pytest.raises(ValueError, match="rows"):
            write(tmp_path / "index", photos_of(rng, 5), rows)
    assert not (tmp_path / "index").exists()
    index, _ = made(tmp_path / "index", "flat", 5, 4)
    for query in (unit_rows(rng, 1, 5), np.zeros((1, 4), dtype=np.float32), np.full((1, 4), np.inf, dtype=np.float32)):
        with pytest.raises(ValueError, match="rows"):
            index.search(query, 3)
    assert index.search(np.zeros((0, 4), dtype=np.float32), 3) == []


def test_a_search_finds_the_neighbours_that_records_hold(tmp_path: Path, zoo: Path, painted: Path, cli: Cli) -> None:
    import pyarrow.parquet as pq

    done = cli(
        "evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--neighbours", 3, "--out", tmp_path / "records"
    )
    assert done.returncode == 0, done
    [record] = (tmp_path / "records").iterdir()
    files = pq.ParquetFile(record / "queries.parquet").read().column("file_name").to_pylist()
    kept = pq.ParquetFile(record / "neighbours.parquet").read().to_pylist()

    done = cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index")
    assert (done.returncode, "flat index of 4 photos" in done.stdout) == (0, True), done
    done = cli("index", "search", tmp_path / "index", painted / "images", "-k", 3, "--json")
    found = {image["image"]: image["neighbours"] for image in json.loads(done.stdout)["images"]}
    assert len(found) == 4
    for q, name in enumerate(files):
        for ours, theirs in zip(found[str(painted / name)], [n for n in kept if n["query"] == q], strict=True):
            assert {key: theirs[key] for key in ("rank", "file_name", "identity", "image_sha256", "similarity")} == {
                key: ours[key] for key in ("rank", "file_name", "identity", "image_sha256", "similarity")
            }


def test_a_search_shows_a_photo_itself_first_and_no_reference(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    assert cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index").returncode == 0
    done = cli("index", "search", tmp_path / "index", zoo / "images/tom_1.png", zoo / "images/rex_0.png")
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "png" in line]
    assert [photo for _, photo, *_ in shown].count("images/rex_0.png") == 0
    assert len(shown) == 8
    assert shown[0] == [str(zoo / "images/tom_1.png"), "images/tom_1.png", "tom", "dog", "1.000000"]


def test_an_approximate_search_says_what_it_may_miss(tmp_path: Path, cli: Cli) -> None:
    gallery = many_photos(tmp_path / "many", 100)
    done = cli(
        "index", "build", "-g", gallery, "-e", "classical", "--out", tmp_path / "index", "--kind", "ivf", "--json"
    )
    card = json.loads(done.stdout)
    assert (card["n_photos"], card["parameters"]["lists"], card["kind"]) == (100, 2, "ivf")
    query = gallery / "images/7.png"
    for effort, measured in ((1, card["recall"][0]), (1000, card["recall"][-1])):
        done = cli("index", "search", tmp_path / "index", query, "--effort", effort, "-k", 2)
        expected = f"recall@10 at effort {measured['effort']}: {measured['recall']:.3f}"
        assert f"approximate (ivf); {expected}" in done.stderr
    exact = cli("index", "search", tmp_path / "index", query, "--exact", "--json")
    assert exact.stderr == ""
    assert json.loads(exact.stdout)["images"][0]["neighbours"][0]["file_name"] == "images/7.png"


def many_photos(folder: Path, n: int) -> Path:
    rows = [
        {"file_name": f"images/{i}.png", "category": "dog", "identity": f"d{i % 20}", "split": "gallery"}
        for i in range(n)
    ]
    for i, row in enumerate(rows):
        save_noise(folder / row["file_name"], i, (32, 32))
    write_rows(folder / "metadata.csv", rows)
    return folder


def test_searches_embed_with_the_geometry_that_the_index_was_made_with(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    ensemble = "ensemble:critter-reid=0.7,classical=0.3"
    done = cli("index", "build", "-g", zoo, "-e", ensemble, "--size", 64, "--out", tmp_path / "index")
    assert done.returncode == 0, done
    done = cli("index", "search", tmp_path / "index", zoo / "images/rex_1.png", "-k", 1, "--json")
    assert json.loads(done.stdout)["images"][0]["neighbours"][0]["similarity"] == approx(1)


def test_an_index_of_another_encoder_is_refused(tmp_path: Path, zoo: Path, cli: Cli, refusal: Refusal) -> None:
    assert cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index").returncode == 0
    line = refusal("index", "search", tmp_path / "index", zoo / "images", "--embedder", "critter-reid")
    assert lacking(line, "made with classical of fingerprint", "critter-reid has", "--embedder NAME@FILE") == []


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--category", "dgo"), ("--category dgo", "did you mean 'dog'?")),
        (("--effort", 3), ("--effort", "leave it out")),
        (("missing.png",), ("missing.png", "no such file")),
        (("empty",), ("empty", "no image files")),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    tmp_path: Path, zoo: Path, cli: Cli, refusal: Refusal, options: tuple[str, ...], mentions: tuple[str, ...]
) -> None:
    assert cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index").returncode == 0
    (tmp_path / "empty").mkdir()
    assert lacking(refusal("index", "search", "index", zoo / "images", *options, cwd=tmp_path), *mentions) == []


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--kind", "tree"), ("--kind tree", "flat, ivf, hnsw")),
        (("--kind", "ivf"), ("4 photos, too few", "flat")),
        (("--half",), ("--half", "flat index is exact")),
        (("--kind", "hnsw", "--recall", "1.5"), ("--recall 1.5", "out of range")),
        (("--out", "zoo"), ("zoo: exists already",)),
    ],
)
def test_an_index_that_makes_no_sense_is_not_begun(
    tmp_path: Path, zoo: Path, refusal: Refusal, options: tuple[str, ...], mentions: tuple[str, ...]
) -> None:
    build = ("index", "build", "-g", "zoo", "-e", "classical", "--out", "index")
    assert lacking(refusal(*build, *options, cwd=zoo.parent), *mentions) == []
    assert not (tmp_path / "index").exists()


def test_a_photo_that_cannot_be_used_leaves_no_index(tmp_path: Path, zoo: Path, refusal: Refusal) -> None:
    (zoo / "images/rex_2.png").write_bytes(b"no picture")
    line = refusal("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index")
    assert "rex_2.png" in line
    assert [path for path in tmp_path.iterdir() if "index" in path.name] == []


def test_a_picture_shows_images_and_their_nearest_photos(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    assert cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index").returncode == 0
    search = ("index", "search", tmp_path / "index", zoo / "images/tom_1.png", zoo / "images/rex_1.png")
    widths = []
    for k in (1, 4):
        done = cli(*search, "-k", k, "--gallery", zoo, "--plot", tmp_path / "strips.png")
        assert done.returncode == 0, done
        with Image.open(tmp_path / "strips.png") as picture:
            widths.append(picture.width)
            colours = picture.convert("RGB").getcolors(1_000_000)
        assert colours
        assert len(colours) > 1000  # photos of noise, not an empty page
    assert widths[1] > 2 * widths[0]


def test_a_picture_of_another_gallery_is_refused(tmp_path: Path, zoo: Path, cli: Cli, refusal: Refusal) -> None:
    assert cli("index", "build", "-g", zoo, "-e", "classical", "--out", tmp_path / "index").returncode == 0
    search = ("index", "search", tmp_path / "index", zoo / "images/tom_1.png", "--plot", tmp_path / "strips.png")
    assert "--gallery FOLDER" in refusal(*search)
    save_noise(zoo / "images/rex_1.png", 99)
    assert "rex_1.png: is not the photo that was indexed" in refusal(*search, "--gallery", zoo)
    change_row(zoo, 1, identity="tim")
    assert "not the gallery zoo 2 as it was indexed" in refusal(*search, "--gallery", zoo)
    assert not (tmp_path / "strips.png").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    import faiss

    made(tmp_path / "index", "flat", 5, 4)
    with pytest.raises(FinerRankError, match=f"FAISS sees {faiss.get_num_gpus()} GPUs; write --device auto"):
        GalleryIndex.open(tmp_path / "index", gpu=faiss.get_num_gpus())


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_gpu_finds_what_the_cpu_does(tmp_path: Path, kind: str) -> None:
    import faiss

    if not faiss.get_num_gpus():
        pytest.skip("needs a GPU")
    index, rows = made(tmp_path / "index", kind)
    on_gpu = GalleryIndex.open(tmp_path / "index", gpu=0)
    effort = {"effort": 3} if kind == "ivf" else {}
    assert answers(on_gpu, rows, 10, **effort) == answers(index, rows, 10, **effort)


def test_what_an_index_holds_can_be_read_by_other_programs(tmp_path: Path) -> None:
    import faiss
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    photos, rows = photos_of(rng, 90), unit_rows(rng, 90, 6)
    for kind in KINDS:
        write(tmp_path / kind, photos, rows, kind)
        table = pq.ParquetFile(tmp_path / kind / "photos.parquet").read().to_pylist()
        place = {row["file_name"]: i for i, row in enumerate(table)}
        flat = faiss.read_index(str(tmp_path / kind / "flat.faiss"))
        for photo, row in zip(photos, rows, strict=True):
            assert table[place[photo.file_name]] == asdict(photo)
            assert (flat.reconstruct(place[photo.file_name]) == row).all()
