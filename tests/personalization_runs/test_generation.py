"""Making a run: over kills, shards, shortage of memory and of disk."""

import csv
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import Cli, Refusal, files_below, lacking, rows_of, save_noise, write_rows
from PIL import Image

from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs import Run, RunCard
from personalization_runs.generation import Job, Workshop, make_images
from personalization_runs.methods.base import Made, Method
from personalization_runs.methods.setup import Setup
from personalization_runs.methods.weights import WeightsFolder
from personalization_runs.prompt_sets import read_prompts
from personalization_runs.requests import Request, plan_requests

COPY = ("run", "generate", "-m", "copy-reference", "--prompts", "reid")


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the one that holds times."""
    names = [name for name in files_below(folder) if (folder / name).is_file() and name != "generation.csv"]
    return {name: (folder / name).read_bytes() for name in names}


def painted(request: Request) -> Image.Image:
    """A picture that the request decides."""
    return Image.fromarray(np.random.default_rng(request.seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


class Painter:
    """A generator that is no network, which runs out of memory with more than `capacity` pictures at once."""

    def __init__(self, capacity: int = 100, paint: Callable[[Request], Image.Image] = painted) -> None:
        self.capacity, self.paint = capacity, paint
        self.pipeline = self
        self.asked: list[int] = []
        self.offloaded = 0

    def make(self, requests: Sequence[Request]) -> list[Made]:
        self.asked.append(len(requests))
        if len(requests) > self.capacity:
            raise torch.OutOfMemoryError("out of memory")
        return [Made(self.paint(request)) for request in requests]

    def enable_model_cpu_offload(self, device: str) -> None:
        self.offloaded += 1
        self.capacity = 1


def job(zoo: Path, out: Path, batch_size: int = 1, device: str = "cpu") -> Job:
    method = Method("painter", "paints", lambda setup: Painter(), parameters={"steps": 2})
    requests = plan_requests(Gallery.open(zoo), read_prompts(["reid"]), method, class_words={"*": "dog"})
    card = RunCard(model="painter", method="painter")
    return Job(requests, Setup(method, {}, method.parameters, device), card, out, 0, batch_size)


def make(job: Job, painter: Painter, said: list[str] | None = None, **options: Any) -> Run | None:
    return make_images(job, lambda: painter, warn=(said if said is not None else []).append, **options)


def test_a_killed_command_goes_on_where_it_was(zoo: Path, tmp_path: Path, cli: Cli) -> None:
    order = (*COPY, "-g", zoo, "--images", 20)
    assert cli(*order, "--out", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "finer_rank", *map(str, order), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    notes = tmp_path / ".killed.generating/notes/images/dog/rex"
    while process.poll() is None and not (notes.is_dir() and any(notes.iterdir())):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    images = tmp_path / ".killed.generating/run/images/dog/rex"
    first = next(images.glob("*.png"))
    first.write_bytes(first.read_bytes()[:100])  # as a machine without power leaves it
    assert cli(*order, "--out", tmp_path / "killed").returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(rows_of(tmp_path / "killed")) == 400
    assert not (tmp_path / ".killed.generating").exists()


def test_images_that_are_there_are_not_made_again(zoo: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    done: list[int] = []

    def step(n: int) -> None:
        done.append(n)
        if sum(done) == 8:
            raise Stopped

    whole = job(zoo, tmp_path / "run")
    with pytest.raises(Stopped):
        make(whole, Painter(), step=step)
    painter = Painter()
    make(whole, painter)
    assert len(painter.asked) == len(whole.requests) - 8
    with pytest.raises(FinerRankError, match="exists already"):
        make(whole, painter)


def test_shards_make_the_same_run_and_the_last_completes_it(zoo: Path, tmp_path: Path) -> None:
    make(job(zoo, tmp_path / "whole"), Painter())
    parts = job(zoo, tmp_path / "parts")
    assert [make(parts, Painter(), shard=(part, 3)) is None for part in (2, 3, 1)] == [True, True, False]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # A shard whose run another has completed meanwhile says so.
    with pytest.raises(FinerRankError, match="exists already"):
        make(parts, Painter(), shard=(2, 3))


def test_two_processes_may_complete_a_run_at_once(zoo: Path, tmp_path: Path) -> None:
    both = job(zoo, tmp_path / "run")
    first = make(both, Painter())
    assert first
    # The second saw all images before the first moved them away; the first removes the folder meanwhile.
    is_done = threading.Event()

    def remove() -> None:
        while not is_done.is_set():
            shutil.rmtree(tmp_path / ".run.generating", ignore_errors=True)

    first_process = threading.Thread(target=remove)
    first_process.start()
    try:
        assert {Workshop(both.out).finish(both).digest for _ in range(150)} == {first.digest}
    finally:
        is_done.set()
        first_process.join()


def test_other_settings_do_not_mix_with_images_that_are_there(zoo: Path, tmp_path: Path) -> None:
    begun = job(zoo, tmp_path / "run")
    make(begun, Painter(), shard=(1, 2))
    before = contents(tmp_path / ".run.generating")
    others = {
        "steps 2, now 3": replace(begun, setup=replace(begun.setup, parameters={"steps": 3})),
        "seed 0, now 1": replace(begun, seed=1),
        "prompts or gallery": replace(begun, requests=begun.requests[1:]),
    }
    for named, other in others.items():
        with pytest.raises(FinerRankError, match=named):
            make(other, Painter())
    assert contents(tmp_path / ".run.generating") == before


def test_a_lack_of_memory_halves_the_batch_then_offloads_then_says_so(zoo: Path, tmp_path: Path) -> None:
    painter, said = Painter(capacity=2), []
    run = make(job(zoo, tmp_path / "halved", batch_size=8), painter, said)
    assert painter.asked[:3] == [8, 4, 2]
    assert set(painter.asked[2:]) == {2}
    assert [line for line in said if "out of memory" in line] == said
    assert len(said) == 2
    assert run is not None
    assert len(run.images) == 20
    with (run.root / "generation.csv").open() as file:
        assert {row["batch_size"] for row in csv.DictReader(file)} == {"2"}

    painter = Painter(capacity=0)
    make(job(zoo, tmp_path / "offloaded", device="mps"), painter, said)
    assert painter.offloaded == 1

    with pytest.raises(FinerRankError, match="not enough memory for one image at a time"):
        make(job(zoo, tmp_path / "none"), Painter(capacity=0), said)
    assert not (tmp_path / "none").exists()


def test_a_batch_is_always_full_so_that_its_last_images_have_the_bits_of_the_others(zoo: Path, tmp_path: Path) -> None:
    painter = Painter()
    make(job(zoo, tmp_path / "run", batch_size=8), painter)
    assert painter.asked == [8, 8, 8]


def test_an_image_of_one_colour_is_refused_not_scored_and_not_lost(zoo: Path, tmp_path: Path, cli: Cli) -> None:
    def mostly_black(request: Request) -> Image.Image:
        return Image.new("RGB", (8, 8)) if request.prompt_id == "beach" else painted(request)

    run = make(job(zoo, tmp_path / "run"), Painter(paint=mostly_black))
    assert run is not None
    assert len(run.images) == 18
    assert [(image.identity, image.prompt_id, image.reason) for image in run.refused] == [
        ("rex", "beach", "all of one colour"),
        ("tom", "beach", "all of one colour"),
    ]
    assert not [name for name in files_below(run.root) if "beach" in name]
    for command in ("check", "show"):
        assert "2 more refused" in cli("run", command, run.root).stdout


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can grow beyond a kilobyte, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_what_is_made_stays(zoo: Path, tmp_path: Path, request: Any) -> None:
    def growing(asked: Request) -> Image.Image:
        return painted(asked) if asked.identity == "rex" else painted(asked).resize((99, 99))

    whole = job(zoo, tmp_path / "run")
    request.getfixturevalue("small_disk")
    with pytest.raises(FinerRankError, match="File too large; mend that and run it again"):
        make(whole, Painter(paint=growing))
    made = [name for name in files_below(tmp_path / ".run.generating/run/images") if name.endswith(".png")]
    assert len(made) == 10


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_reference_that_cannot_be_read_is_named(
    zoo: Path, tmp_path: Path, refusal: Refusal, content: bytes | None
) -> None:
    photo = zoo / "images/rex_0.png"
    photo.unlink() if content is None else photo.write_bytes(content)
    line = refusal(*COPY, "-g", zoo, "--out", tmp_path / "run")
    assert not lacking(line, str(photo))
    assert not (tmp_path / "run").exists()


def test_a_reference_that_was_exchanged_meanwhile_is_noticed(zoo: Path, tmp_path: Path, cli: Cli, photo: Any) -> None:
    order = (*COPY, "-g", zoo, "--out", tmp_path / "run")
    assert cli(*order, "--shard", "1/2").returncode == 0
    photo(zoo / "images/rex_0.png", 77)
    done = cli(*order, "--shard", "2/2")
    assert done.returncode == 2
    assert "other prompts or gallery" in done.stderr


def test_a_pipeline_that_does_not_fit_at_once_is_loaded_with_its_networks_waiting(zoo: Path, tmp_path: Path) -> None:
    class Pipeline:
        did = ""

        @classmethod
        def from_pretrained(cls, folder: Path, **options: Any) -> "Pipeline":
            return cls()

        def set_progress_bar_config(self, **options: Any) -> None: ...

        def to(self, device: str) -> "Pipeline":
            raise torch.OutOfMemoryError("out of memory")

        def enable_model_cpu_offload(self, device: str) -> None:
            self.did = f"offloaded from {device}"

    whole = job(zoo, tmp_path / "run", device="mps")
    setup = replace(whole.setup, weights={"base": WeightsFolder(tmp_path, "weights", "1")})
    assert replace(setup, offload=True).pipeline(Pipeline).did == "offloaded from mps"
    with pytest.raises(FinerRankError, match="mps: not enough memory to load painter"):
        make_images(replace(whole, setup=setup), lambda: setup.pipeline(Pipeline), warn=print)  # type: ignore[arg-type, return-value]


def test_identities_whose_names_are_alike_on_disk_have_folders_of_their_own(tmp_path: Path, cli: Cli) -> None:
    names = ("a:b", "a?b", "Rex", "rex", "x", "x/beach_0.png", "x_y", "x/y", "n" * 150, "n" * 149 + "m")
    rows = []
    for seed, (identity, split) in enumerate((name, split) for name in names for split in ("reference", "gallery")):
        rows.append({"file_name": f"{seed}.png", "category": "dog", "identity": identity, "split": split})
        save_noise(tmp_path / "odd" / rows[-1]["file_name"], seed)
    write_rows(tmp_path / "odd/metadata.csv", rows)
    done = cli(*COPY, "-g", tmp_path / "odd", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    made = rows_of(tmp_path / "run")
    assert len({row["file_name"].lower().rpartition("/")[0] for row in made}) == len(names)
    assert len(made) == 10 * len(names)


def test_a_process_that_ends_after_another_has_completed_the_run_finds_it(zoo: Path, tmp_path: Path) -> None:
    """The same command twice at once: the slower one is stopped by nothing, and leaves nothing behind."""
    whole = job(zoo, tmp_path / "run")
    paint_there: list[Run | None] = []

    def overtaken(request: Request) -> Image.Image:
        if not paint_there and len(list(tmp_path.glob(".run.generating/notes/**/*.json"))) == 3:
            paint_there.append(make(job(zoo, tmp_path / "run"), Painter()))
        return painted(request)

    run = make(whole, Painter(paint=overtaken))
    assert run is not None
    assert run == paint_there[0]
    assert {path.name for path in tmp_path.iterdir()} - {"zoo"} == {"run"}


def test_a_kill_while_the_run_is_completed_loses_no_image(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for name in ("rmtree", "rename"):
        with monkeypatch.context() as patch:
            if name == "rmtree":
                patch.setattr("personalization_runs.generation.shutil.rmtree", killed)
            else:
                patch.setattr(Path, "rename", killed)
            with pytest.raises(Killed):
                make(job(zoo, tmp_path / name), Painter())
    painter = Painter()
    run = make(job(zoo, tmp_path / "rename"), painter)
    assert run is not None
    assert painter.asked == []
    assert contents(tmp_path / "rmtree") == contents(run.root)


def test_every_image_is_read_once(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = job(zoo, tmp_path / "run")
    make(begun, Painter(), shard=(1, 2))
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))  # type: ignore[func-returns-value]
    make(begun, Painter(), shard=(2, 2))
    images = [path for path in read if path.suffix == ".png" and ".run.generating" in path.parts]
    assert len(images) == len(set(images)) == 10


def test_what_a_pipeline_says_of_its_parameters_is_said_in_one_line(zoo: Path, tmp_path: Path) -> None:
    def stops(request: Request) -> Image.Image:
        raise ValueError("no such\nstep")

    with pytest.raises(FinerRankError, match=r"painter: its pipeline stopped \(ValueError: no such step\); images"):
        make(job(zoo, tmp_path / "run"), Painter(paint=stops))
