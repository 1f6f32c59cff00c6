"""Mistakes that a new user makes, each of which once lost something in silence."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from handmade import DrawPhoto, change_row, rows_of, write_gallery, write_rows, write_run
from in_process import refused_here, run_here

CLASSICAL = ("--embedder", "classical:")


def test_a_heic_in_a_tree_is_named_with_all_other_faults_and_can_be_skipped(tmp_path: Path, photo: DrawPhoto) -> None:
    for seed, name in enumerate(("rex/0.png", "rex/1.png", "tom/0.png", "tom/1.png")):
        photo(tmp_path / "pets" / name, seed)
    (tmp_path / "pets/rex/2.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "pets/tom/2.jpg").write_bytes(b"")
    stopped = run_here("evaluate", "--gallery", tmp_path / "pets", *CLASSICAL)
    assert stopped.returncode == 2
    assert "rex/2.HEIC: not a readable image; convert it" in stopped.stderr
    assert "tom/2.jpg: the file is empty" in stopped.stderr
    skipped = run_here("evaluate", "--gallery", tmp_path / "pets", *CLASSICAL, "--skip-broken")
    assert skipped.returncode == 0, skipped.stderr
    assert "2 broken images were left out" in skipped.stderr


def test_faults_of_table_card_and_images_come_in_one_round(tmp_path: Path) -> None:
    zoo, painter = write_gallery(tmp_path / "zoo"), write_run(tmp_path / "painter")
    change_row(zoo, 1, identity="")
    (zoo / rows_of(zoo)[2]["file_name"]).write_bytes(b"")
    (painter / "run.toml").write_text('colour = "red"\n')
    stopped = run_here("evaluate", "--gallery", zoo, "--run", painter, *CLASSICAL)
    assert (stopped.returncode, stopped.stdout) == (2, "")
    for part in ("empty identity", "the file is empty", "unknown field 'colour'"):
        assert part in stopped.stderr


def test_a_label_with_a_space_at_its_end_is_a_fault(zoo: Path) -> None:
    change_row(zoo, 1, identity=f"{rows_of(zoo)[0]['identity']} ")
    assert "begins or ends with a space" in refused_here("gallery", "check", zoo)


def test_a_linked_folder_is_an_identity_of_its_own_and_its_copies_are_reported(
    tmp_path: Path, photo: DrawPhoto
) -> None:
    for seed, name in enumerate(("rex/0.png", "rex/1.png", "tom/0.png", "tom/1.png")):
        photo(tmp_path / "pets" / name, seed)
    (tmp_path / "pets/alias").symlink_to(tmp_path / "pets/tom")
    (tmp_path / "pets/rex/loop").symlink_to(tmp_path / "pets")
    checked = run_here("gallery", "check", tmp_path / "pets")
    assert checked.returncode == 0, checked.stderr
    assert "3 identities, 6 gallery photos" in checked.stdout
    assert "under several identities, which contradict each other: alias/0.png = tom/0.png" in checked.stderr
    evaluated = run_here("evaluate", "--gallery", tmp_path / "pets", *CLASSICAL)
    assert "under several identities" in evaluated.stderr


def test_a_record_of_another_gallery_is_not_overwritten(tmp_path: Path, zoo: Path, painted: Path) -> None:
    command = ("evaluate", "--run", painted, *CLASSICAL, "--out", tmp_path / "records")
    assert run_here(*command, "--gallery", zoo).returncode == 0
    assert run_here(*command, "--gallery", zoo).returncode == 0
    (record,) = (tmp_path / "records").iterdir()
    before = (record / "record.json").read_bytes()
    other = write_gallery(tmp_path / "other")
    write_rows(other / "metadata.csv", rows_of(other)[:-1])
    stopped = run_here(*command, "--gallery", other)
    assert stopped.returncode == 2
    assert "holds the record of another gallery; name another --out" in stopped.stderr
    assert (record / "record.json").read_bytes() == before


def test_a_picture_that_was_not_scored_is_not_drawn(tmp_path: Path, zoo: Path, painted: Path, photo: DrawPhoto) -> None:
    evaluated = run_here(
        "evaluate", "--gallery", zoo, "--run", painted, *CLASSICAL, "--out", tmp_path / "records", "--json"
    )
    record = json.loads(evaluated.stdout)["records"][0]["record"]
    photo(painted / rows_of(painted)[0]["file_name"], 77)
    message = refused_here("neighbours", record, "--out", tmp_path / "strips.png")
    assert f"{rows_of(painted)[0]['file_name']} is not the picture that was scored" in message
    assert not (tmp_path / "strips.png").exists()


@pytest.mark.parametrize("kind", ["gallery", "run"])
def test_a_check_for_machines_lists_the_faults_on_stdout(tmp_path: Path, kind: str) -> None:
    folder = write_gallery(tmp_path / "set") if kind == "gallery" else write_run(tmp_path / "set")
    name = rows_of(folder)[0]["file_name"]
    (folder / name).write_bytes(b"")
    checked = run_here(kind, "check", folder, "--json")
    assert checked.returncode == 2
    (fault,) = json.loads(checked.stdout)["faults"]
    assert fault == {"where": name, "what": "the file is empty (0 bytes)", "remedy": fault["remedy"]}


def test_another_spelling_of_class_only_is_a_fault(tmp_path: Path, photo: DrawPhoto) -> None:
    photo(tmp_path / "dogs/dog/0.png", 0)
    order = ("run", "import", "folder", tmp_path / "dogs", "--method", "class_only", "--out", tmp_path / "run")
    assert "'class-only' is meant" in refused_here(*order)
    assert not (tmp_path / "run").exists()


def test_a_gallery_is_not_built_into_its_own_source(tmp_path: Path, photo: DrawPhoto) -> None:
    photo(tmp_path / "pets/rex/0.png", 0)
    order = ("gallery", "build", "folder", tmp_path / "pets", "--out", tmp_path / "pets/built")
    assert "give an --out beside it" in refused_here(*order)
    assert not (tmp_path / "pets/built").exists()


def test_a_table_with_semicolons_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("file_name;identity\n1.png;rex\n")
    order = ("gallery", "build", "table", tmp_path / "photos.csv", "--out", tmp_path / "zoo")
    assert "separated by semicolons; save it with commas" in refused_here(*order)


def test_runs_without_a_shared_identity_do_not_stop_a_comparison(tmp_path: Path, zoo: Path) -> None:
    rows = rows_of(write_run(tmp_path / "runs" / "both"))
    for name in ("rex", "tom"):
        own = write_run(tmp_path / "runs" / name)
        (own / "run.toml").write_text(f'model = "{name}"\n')
        write_rows(own / "metadata.csv", [row for row in rows if row["identity"] == name])
    (tmp_path / "runs" / "both" / "run.toml").write_text('model = "both"\n')
    evaluated = run_here("evaluate", "-g", zoo, "-r", tmp_path / "runs", *CLASSICAL, "--out", tmp_path / "records")
    assert evaluated.returncode == 0, evaluated.stderr
    compared = run_here("compare", tmp_path / "records")
    assert compared.returncode == 0, compared.stderr
    assert "1 pairs share no identity" in compared.stderr
    assert "rex − tom" not in compared.stdout
    shutil.rmtree(next((tmp_path / "records").glob("both--*")))
    assert "share no identity" in refused_here("compare", tmp_path / "records")


# The photos come again and again, so that the evaluation cannot end before it is stopped. A shard a batch.
EVALUATE_FOR_EVER = """
import itertools, benchmark.embed_loop as e, finer_rank
in_threads, e.SHARD_SECONDS = e.in_threads, 0
e.in_threads = lambda prepared, images, look_ahead: in_threads(prepared, itertools.cycle(images), look_ahead)
finer_rank.main()
"""


def test_a_stopped_evaluation_says_that_it_can_go_on(tmp_path: Path, photo: DrawPhoto, store: Path) -> None:
    for seed in range(8):
        photo(tmp_path / "pets" / f"pet{seed % 4}" / f"{seed}.png", seed)
    arguments = ["evaluate", "--gallery", str(tmp_path / "pets"), *CLASSICAL, "--batch-size", "2"]
    command = [sys.executable, "-c", EVALUATE_FOR_EVER, *arguments]
    # Tests that run in the background of a shell have the signal ignored, and hand that down.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", preexec_fn=heeding
    )
    try:
        deadline = time.monotonic() + 60
        while not list(store.glob("*/*.parquet")):  # embedding has begun
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(0.01) is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines() == ["finer-rank: stopped; embeddings, masks, images and adapters made so far are kept"]
