"""The store: nothing is embedded twice, and neither damage, nor kills, nor company corrupts it."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animals import draw, write_run, write_zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import refused_here, run_here

from benchmark.embedders import load_embedder
from benchmark.store import EmbeddingStore, default_store


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("painter"))


def shards(store: Path) -> list[Path]:
    return sorted(store.glob("*/*.parquet"))


def scores(evaluated: subprocess.CompletedProcess[str]) -> tuple[Any, int]:
    """What an evaluation says, and how many forward passes it took."""
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads(evaluated.stdout)
    (work,) = found.pop("embedding").values()
    return found, work["forward_passes"]


def test_embeddings_come_back_bit_for_bit_whatever_shards_they_lie_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(30)]
    rows = rng.standard_normal((30, 7)).astype(np.float32)
    store = EmbeddingStore(tmp_path, "fingerprint")
    for start, end in (0, 1), (1, 12), (12, 30):
        store.append(digests[start:end], rows[start:end])
    wanted = [digests[i] for i in (29, 3, 3, 0, 14)]
    row_of, found = EmbeddingStore(tmp_path, "fingerprint").read([*wanted, "unknown"])
    assert row_of.keys() == set(wanted)
    for digest, row in row_of.items():
        assert found[row].tobytes() == rows[digests.index(digest)].tobytes()
    assert EmbeddingStore(tmp_path, "another fingerprint").read(digests)[0] == {}
    assert all(hashlib.sha256(shard.read_bytes()).hexdigest() == shard.stem for shard in shards(tmp_path))


def test_an_image_in_two_shards_is_read_once(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "f")
    store.append(["a", "b"], np.eye(2, dtype=np.float32))
    store.append(["b", "c"], np.eye(2, dtype=np.float32))
    row_of, rows = store.read(["a", "b", "c"])
    assert len(rows) == len(row_of) == 3
    assert sorted(row_of.values()) == [0, 1, 2]


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "empty"])
def test_a_damaged_shard_is_reported_set_aside_and_made_again(
    tmp_path: Path, store: Path, zoo: Path, painter: Path, damage: str
) -> None:
    command = ("evaluate", "--gallery", zoo, "--run", painter, "--embedder", "classical:", "--json")
    before, n_images = scores(run_here(*command))
    (shard,) = shards(store)
    content = shard.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    shard.write_bytes({"flipped byte": flipped, "truncated": content[:-100], "empty": b""}[damage])
    mended = run_here(*command)
    assert scores(mended) == (before, n_images)
    assert sum(shard.name in line and "damaged" in line for line in mended.stderr.splitlines()) == 1
    assert shard.with_suffix(".damaged").is_file()
    after = run_here(*command)
    assert scores(after) == (before, 0)
    assert "damaged" not in after.stderr


@settings(max_examples=20, deadline=None)
@given(
    shards=st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=12), max_size=6),
    wanted=st.sets(st.integers(0, 45)),
    longest=st.sampled_from([0, 1 << 18]),
    n_small=st.sampled_from([1, 1000]),
)
def test_a_store_is_a_dictionary_whatever_its_shards(
    shards: list[set[int]], wanted: set[int], longest: int, n_small: int
) -> None:
    """Long shards, of which the digests are read first, or short ones; merged as they are read, or not."""
    embeddings = np.random.default_rng(1).standard_normal((46, 3)).astype(np.float32)
    names = [hashlib.sha256(bytes([i])).hexdigest() for i in range(46)]
    stored = set().union(*shards)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as changed:
        changed.setattr("benchmark.store.READ_AT_ONCE", longest)
        changed.setattr("benchmark.store.MANY_SMALL", n_small)
        store = EmbeddingStore(Path(folder), "f")
        for members in shards:
            store.append([names[i] for i in members], embeddings[sorted(members, key=list(members).index)])
        for _ in range(2):
            row_of, rows = store.read([names[i] for i in wanted])
            assert row_of.keys() == {names[i] for i in wanted & stored} == store.held([names[i] for i in wanted])
            for i in wanted & stored:
                assert rows[row_of[names[i]]].tobytes() == embeddings[i].tobytes()


def test_many_small_shards_become_few_of_the_same_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.store.MANY_SMALL", 20)
    rows = np.random.default_rng(0).standard_normal((25, 3)).astype(np.float32)
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(25)]
    warnings: list[str] = []
    store = EmbeddingStore(tmp_path, "f", warnings.append)
    for digest, row in zip(digests, rows, strict=True):
        store.append([digest], row[None])
    damaged = next(shard for shard in shards(tmp_path) if digests_of(shard) == [digests[7]])
    damaged.write_bytes(b"PAR1")
    store.read(digests[:1])
    assert len(shards(tmp_path)) == 1
    assert damaged.with_suffix(".damaged").is_file()
    row_of, found = store.read(digests)
    assert row_of.keys() == {*digests} - {digests[7]}
    assert all(found[row_of[d]].tobytes() == rows[i].tobytes() for i, d in enumerate(digests) if i != 7)
    assert len(warnings) == 1


def test_readers_lose_nothing_while_shards_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.store.MANY_SMALL", 20)
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(60)]
    store = EmbeddingStore(tmp_path, "f")
    for digest in digests:
        store.append([digest], np.ones((1, 3), dtype=np.float32))
    with ThreadPoolExecutor(4) as readers:
        found = list(readers.map(lambda _: store.read(digests)[0].keys(), range(12)))
    assert all(keys == set(digests) for keys in found)
    assert len(shards(tmp_path)) == 1


def test_a_store_may_lie_under_a_url(zoo: Path, painter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ("evaluate", "--gallery", zoo, "--run", painter, "--embedder", "classical:", "--json")
    here, n_images = scores(run_here(*command))
    url = f"memory://{tmp_path.name}/store"
    assert scores(run_here(*command, "--store", url)) == (here, n_images)
    assert scores(run_here(*command, "--store", f"{url}/")) == (here, 0)
    monkeypatch.setenv("FINER_RANK_STORE", url)
    assert scores(run_here(*command)) == (here, 0)
    files = fsspec.filesystem("memory")
    (shard,) = files.glob(f"/{tmp_path.name}/store/*/*.parquet")
    files.pipe_file(shard, files.cat_file(shard)[:-100])
    mended = run_here(*command)
    assert scores(mended) == (here, n_images)
    assert "damaged" in mended.stderr
    assert files.glob(f"/{tmp_path.name}/store/*/*.damaged")
    monkeypatch.delenv("FINER_RANK_STORE")
    assert scores(run_here(*command, "--store", f"file://{tmp_path}/on disk")) == (here, n_images)
    assert scores(run_here(*command, "--store", tmp_path / "on disk")) == (here, 0)


def test_a_url_that_names_no_store_is_refused(zoo: Path) -> None:
    command = ("evaluate", "--gallery", zoo, "--embedder", "classical:", "--store")
    assert "unknown kind of URL" in refused_here(*command, "ftp://host/folder")
    for scheme, package in ("s3", "s3fs"), ("gs", "gcsfs"):
        if find_spec(package) is None:
            assert f"pip install {package}" in refused_here(*command, f"{scheme}://bucket/prefix")


def test_damage_costs_the_images_of_the_damaged_shard_alone(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = EmbeddingStore(tmp_path, "f", warnings.append)
    store.append(["a"], np.ones((1, 3), dtype=np.float32))
    (first,) = shards(tmp_path)
    store.append(["b"], np.ones((1, 3), dtype=np.float32))
    first.write_bytes(b"PAR1")
    assert store.read(["a", "b"])[0] == {"b": 0}
    assert len(warnings) == 1
    assert first.name in warnings[0]


def test_several_readers_may_find_the_same_damage_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []
    for round_ in range(30):
        warnings: list[str] = []
        store = EmbeddingStore(tmp_path / str(round_), "f", warnings.append)
        store.append(["a"], np.ones((1, 3), dtype=np.float32))
        shards(tmp_path / str(round_))[0].write_bytes(b"PAR1")
        start = threading.Barrier(4)

        def read(store: EmbeddingStore = store, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                assert store.read(["a"])[0] == {}
            except Exception as error:
                failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert failures == []


def test_what_others_left_in_the_store_breaks_nothing(store: Path, zoo: Path, tmp_path: Path, painter: Path) -> None:
    command = ("evaluate", "--gallery", zoo, "--run", painter, "--embedder", "classical:", "--json")
    before, _ = scores(run_here(*command))
    (shard,) = shards(store)
    (shard.parent / f".{shard.name}.4711").write_bytes(shard.read_bytes()[:50])
    shard.with_suffix(".damaged").write_bytes(b"")
    (shard.parent / "notes.txt").write_text("mine")
    (store / "empty").mkdir()
    (store / "file").write_text("")
    for memo in (store / "embedders").iterdir():
        memo.write_text("{")
    again = run_here(*command)
    assert scores(again) == (before, 0)
    assert run_here("doctor", "--json").returncode == 0


def test_two_processes_that_fill_one_store_at_once_agree(store: Path, zoo: Path, painter: Path) -> None:
    arguments = ("evaluate", "--gallery", zoo, "--run", painter, "--embedder", "classical:", "--json")
    command = [sys.executable, "-m", "finer_rank", *map(str, arguments)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)
    ]
    ended = []
    for one in both:
        printed = one.communicate()
        ended.append(subprocess.CompletedProcess(command, one.returncode, *printed))
    again, n_passes = scores(run_here(*arguments))
    assert scores(ended[0])[0] == scores(ended[1])[0] == again
    assert n_passes == 0
    assert all(hashlib.sha256(shard.read_bytes()).hexdigest() == shard.stem for shard in shards(store))
    assert {path.suffix for path in store.rglob("*") if path.is_file()} <= {".parquet", ".digests", ".json"}


# A shard a batch, in place of one every 15 seconds, so that the kill finds a shard soon. The second half of the images
# never comes, so that it finds them at work, however late it is.
EVALUATE_THE_FIRST_HALF = """
import signal, benchmark.embed_loop as e, finer_rank
in_threads, e.SHARD_SECONDS = e.in_threads, 0
def first_half(prepared, images, look_ahead):
    yield from in_threads(prepared, images[: len(images) // 2], look_ahead)
    signal.pause()
e.in_threads = first_half
finer_rank.main()
"""


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    n_images = 24
    for number in range(n_images):
        draw(tmp_path / "herd" / f"cow {number % 12}" / f"{number}.png", f"cow {number % 12}", number)
    arguments = ["evaluate", "--gallery", str(tmp_path / "herd"), "--embedder", "classical:", "--size", "256", "--json"]
    arguments += ["--batch-size", "2"]
    store = tmp_path / "store"
    victim = subprocess.Popen(
        [sys.executable, "-c", EVALUATE_THE_FIRST_HALF, *arguments, "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not shards(store) and victim.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(0.005)
    victim.send_signal(signal.SIGKILL)
    printed, _ = victim.communicate()
    assert (victim.returncode, printed) == (-signal.SIGKILL, b""), "the victim was to be killed at work"
    n_kept = sum(len(EmbeddingStore(store, shard.parent.name).read(digests_of(shard))[0]) for shard in shards(store))
    resumed, n_passes = scores(run_here(*arguments, "--store", store))
    assert 0 < n_kept < n_images
    assert n_passes == n_images - n_kept
    unbroken, n_all = scores(run_here(*arguments, "--store", tmp_path / "fresh"))
    assert n_all == n_images
    assert resumed == unbroken


def digests_of(shard: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.ParquetFile(shard).read(["digest"]).column("digest").to_pylist())


def test_a_store_that_cannot_be_written_is_said_in_one_line(tmp_path: Path, zoo: Path, painter: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    line = refused_here("evaluate", "--gallery", zoo, "--run", painter, "--embedder", "classical:", "--store", file)
    assert str(file) in line


def test_the_store_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINER_RANK_STORE", str(tmp_path / "elsewhere"))
    assert default_store() == tmp_path / "elsewhere"
    monkeypatch.delenv("FINER_RANK_STORE")
    assert default_store().name == "embeddings"


def test_each_embedder_has_a_folder_of_its_own(store: Path, zoo: Path) -> None:
    for size in "64", "96":
        assert run_here("evaluate", "--gallery", zoo, "--embedder", "classical:", "--size", size).returncode == 0
    expected = {load_embedder("classical:", size=size).fingerprint for size in (64, 96)}
    assert {shard.parent.name for shard in shards(store)} == expected


def test_the_store_is_measured_beside_bare_files() -> None:
    order = ("bench", "store", "--rows", 5000, "--dim", 4, "--small", 3, "--repeats", 1, "--json")
    found = json.loads(run_here(*order).stdout)
    assert (found["rows"], found["shards"], found["small_shards"], found["read_few_rows"]) == (5000, 2, 3, 50)
    assert found["rows_mb"] < found["mb"] < 2 * 5000 * (4 * 4 + 64) / 1e6
    assert all(found[ratio] > 0 for ratio in found if ratio.startswith("ratio_"))
