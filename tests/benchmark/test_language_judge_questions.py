"""A language model is sent the prompt and two upright small pictures, and nothing is lost or asked twice."""

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from chat_server import IMAGES, Answer, Ask, Asking, Request, Server, by_image, completion, scored, serving
from handmade import Cli, change_row, drop_column, half, lacking, noise, rows_of, save_noise, write_rows
from PIL import Image

from benchmark.language_judge import PROMPT_FILE, data_uri
from galleries.images import sha256_of

pytestmark = pytest.mark.usefixtures("no_key")


# ---- what is sent


def test_what_is_sent_is_the_prompt_the_reference_photo_and_the_image(ask: Ask) -> None:
    with serving(by_image(4, 4, 4, 4)) as server:
        summary, _, _ = ask(server)
    prompt = PROMPT_FILE.read_text(encoding="utf-8")
    for request in server.requests:
        assert request.path == "/v1/chat/completions"
        assert (request.body["model"], request.body["temperature"], request.body["seed"]) == ("seer", 0, 1)
        [message] = request.body["messages"]
        assert [part["type"] for part in message["content"]] == ["text", "image_url", "image_url"]
        assert message["content"][0]["text"] == prompt
        assert "Authorization" not in request.headers
    # rex_0 of the gallery is noise 0, tom_0 noise 3; the run's images are 1000 to 1003.
    assert sorted((r.reference, r.image) for r in server.requests) == [(0, 1000), (0, 1001), (3, 1002), (3, 1003)]
    assert summary["prompt"] == prompt
    assert summary["prompt_sha256"] == sha256_of(prompt.encode())
    assert summary["endpoint_host"] == server.url.removeprefix("http://").removesuffix("/v1")
    assert summary["replies_from"] == [
        {"endpoint_host": summary["endpoint_host"], "served_model": "seer-2025-01-01", "n": 4}
    ]


def test_the_prompt_defines_every_level_and_asks_for_json() -> None:
    prompt = PROMPT_FILE.read_text(encoding="utf-8")
    assert not lacking(prompt, *(f"\n{level} - " for level in range(5)), '"reason"', '"score"', "JSON")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "sent"),
    [((1536, 768), (768, 384)), ((500, 2000), (192, 768)), ((768, 768), (768, 768)), ((40, 30), (40, 30))],
)
def test_large_pictures_are_sent_smaller_and_small_ones_as_they_are(
    size: tuple[int, int], sent: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    smooth(*size).save(buffer, "PNG")
    shown = decoded(data_uri(buffer.getvalue()))
    assert (shown.size, shown.mode, shown.format) == (sent, "RGB", "JPEG")
    expected = np.asarray(smooth(*size).resize(sent, Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(np.asarray(shown, dtype=float) - expected).max() < 12


def test_what_is_too_fine_to_be_seen_smaller_is_averaged() -> None:
    grain = noise(0, (1536, 768))
    buffer = io.BytesIO()
    grain.save(buffer, "PNG")
    shown = np.asarray(decoded(data_uri(buffer.getvalue())), dtype=float)
    expected = np.asarray(grain.resize((768, 384), Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(shown - expected).mean() < 5


def test_a_photo_is_sent_upright_and_without_its_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a camera that knows where I live"
    buffer = io.BytesIO()
    smooth(60, 40).save(buffer, "JPEG", exif=exif, comment=b"my address", quality=95)
    uri = data_uri(buffer.getvalue())
    shown = decoded(uri)
    assert shown.size == (40, 60)
    assert not shown.getexif()
    content = base64.b64decode(uri.partition(",")[2])
    assert b"my address" not in content
    assert b"camera" not in content


def test_a_run_without_references_is_compared_with_the_first_photo_that_there_is(
    asking: Asking, ask: Ask, cli: Cli
) -> None:
    drop_column(asking.painted, "reference_file_name")
    change_row(asking.zoo, 2, split="reference")  # a second one of rex
    change_row(asking.zoo, 4, split="gallery")  # tom's only one
    with serving(by_image(4, 3, 2, 1)) as server:
        summary, rows, _ = ask(server)
        assert "compared with their first gallery photo" in cli(*asking.options(server)).stdout
    assert {(r.reference, r.image) for r in server.requests} == {(0, 1000), (0, 1001), (3, 1002), (3, 1003)}
    assert [r["reference"] for r in rows] == ["images/rex_0.png"] * 2 + ["images/tom_0.png"] * 2
    assert summary["references"] == {"first gallery photo": 2, "first reference photo": 2}


def test_a_limit_is_spread_over_the_identities(ask: Ask) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        summary, rows, _ = ask(server, "--limit", 2)
        assert server.seen == [(1000, 1), (1002, 1)]
        _, more, _ = ask(server, "--limit", 3)
        assert len(server.requests) == 3
    assert [r["file_name"] for r in rows] == ["images/rex_0.png", "images/tom_0.png"]
    assert [r["file_name"] for r in more] == ["images/rex_0.png", "images/rex_1.png", "images/tom_0.png"]
    assert (summary["limit"], summary["n_images"]) == (2, 2)


def test_equal_images_are_asked_about_once(asking: Asking, ask: Ask) -> None:
    save_noise(asking.painted / "images/rex_1.png", 1000)
    with serving(by_image(3, 9, 1, 1)) as server:
        _, rows, said = ask(server)
        assert server.seen == [(1000, 1), (1002, 1), (1003, 1)]
    assert [r["score"] for r in rows] == ["3", "3", "1", "1"]
    assert "3 requests" in said


# ---- what is kept


def test_a_second_run_asks_nothing_and_says_the_same(ask: Ask, asking: Asking) -> None:
    replies = iter([scored(4), completion(None, refusal="no"), completion("rubbish"), scored(7)])
    with serving(lambda request: next(replies)) as server:
        first, rows, said = ask(server, "--parallel", 1)
        again = ask(server, "--parallel", 1)
        assert len(server.requests) == 4
    assert "4 requests" in said
    assert "0 requests" in again[2]
    assert (first, rows) == again[:2]
    assert (asking.folder / "out-1/scores.json").read_bytes() == (asking.folder / "out-2/scores.json").read_bytes()
    assert first["missing"] == {"out of range": 1, "refused": 1, "unparsable": 1}
    assert first["mean_score"]["value"] == 4


def test_only_what_decides_a_reply_makes_it_asked_for_again(asking: Asking, ask: Ask) -> None:
    def n_asked(server: Server, *more: object) -> int:
        before = len(server.requests)
        ask(server, *more)
        return len(server.requests) - before

    with serving(by_image(4, 3, 2, 1)) as server, serving(by_image(0, 0, 0, 0)) as other:
        assert n_asked(server) == 4
        assert n_asked(server, "--repeats", 2) == 4
        assert n_asked(server, "--model", "oracle") == 4
        assert n_asked(server, "--temperature", 1) == 4
        assert n_asked(other) == 0
        assert n_asked(server, "--cache", asking.folder / "elsewhere") == 4
        save_noise(asking.painted / "images/rex_0.png", 1003)
        assert n_asked(server) == 1
        save_noise(asking.zoo / "images/tom_0.png", 5)
        assert n_asked(server) == 2


def test_a_kept_reply_names_its_question(asking: Asking, ask: Ask) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        ask(server)
    files = sorted((asking.folder / "cache").rglob("*"))
    kept = [json.loads(path.read_text()) for path in files if path.is_file()]
    assert all(path.suffix == ".json" for path in files if path.is_file())
    assert {k["question"]["image_sha256"] for k in kept} == {
        sha256_of((asking.painted / name).read_bytes()) for name in IMAGES
    }


@pytest.mark.parametrize("damage", [half, lambda content: b"", lambda content: b"[" * 10_000, lambda content: b"{}"])
def test_a_damaged_reply_on_disk_is_asked_for_again(asking: Asking, ask: Ask, damage: Callable[[bytes], bytes]) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        first = ask(server)
        path = sorted((asking.folder / "cache").rglob("*.json"))[0]
        path.write_bytes(damage(path.read_bytes()))
        again = ask(server)
        assert len(server.requests) == 5
    assert first[:2] == again[:2]


def test_another_question_s_reply_is_not_taken(asking: Asking, ask: Ask) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        ask(server)
        first, second, *_ = sorted((asking.folder / "cache").rglob("*.json"))
        first.write_bytes(second.read_bytes())
        _, rows, _ = ask(server)
        assert len(server.requests) == 5
    assert [r["score"] for r in rows] == ["4", "3", "2", "1"]


def test_a_killed_run_goes_on_where_it_ended(asking: Asking, ask: Ask) -> None:
    reached, release = threading.Event(), threading.Event()

    def answer(request: Request) -> Answer:
        if len(server.requests) == 3:
            reached.set()
            release.wait()
        return by_image(4, 3, 2, 1)(request)

    with serving(answer) as server:
        command = map(str, asking.options(server, "--parallel", 1, "--out", asking.folder / "killed"))
        with subprocess.Popen([sys.executable, "-m", "finer_rank", *command], stderr=subprocess.DEVNULL) as running:
            try:
                assert reached.wait(60)
            finally:
                running.kill()
                release.set()
        assert not (asking.folder / "killed").exists()
        n_before = len(server.requests)
        _, rows, said = ask(server, "--parallel", 1)
        assert len(server.requests) - n_before == 2
    assert "2 requests" in said
    assert [r["score"] for r in rows] == ["4", "3", "2", "1"]


def test_the_cache_lies_in_the_user_s_cache_folder_unless_it_is_named(
    asking: Asking, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(asking.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(asking.folder / "home"))
    with serving(by_image(4, 3, 2, 1)) as server:
        options = asking.options(server)
        at = options.index("--cache")
        assert cli(*options[:at], *options[at + 2 :]).returncode == 0
    assert len(list(asking.folder.glob("**/finer-rank/language-judge/*/*.json"))) == 4


def test_neither_the_order_of_files_nor_of_replies_matters(asking: Asking, ask: Ask) -> None:
    both = threading.Barrier(4)

    def in_other_order(request: Request) -> Answer:
        both.wait(60)  # four at a time, each in a thread of its own
        return by_image(4, 3, 2, 1)(request)

    with serving(by_image(4, 3, 2, 1)) as server:
        alone = ask(server, "--parallel", 1)
    for folder in (asking.zoo, asking.painted):
        write_rows(folder / "metadata.csv", rows_of(folder)[::-1])
    with serving(in_other_order) as server:
        together = ask(server, "--parallel", 4, "--cache", asking.folder / "other")
    assert alone[1] == together[1]
    hosts = {"endpoint_host", "replies_from"}
    assert {k: v for k, v in alone[0].items() if k not in hosts} == {
        k: v for k, v in together[0].items() if k not in hosts
    }
