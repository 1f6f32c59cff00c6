"""A language model as a judge: a real server on this machine, numbers by hand, nothing lost, leaked or asked twice."""

import base64
import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import Cli, Refusal, change_row, drop_column, half, lacking, noise, rows_of, save_noise, write_rows
from PIL import Image
from pytest import approx

from benchmark.chat_endpoint import ChatEndpoint
from benchmark.chat_reply import Completion, NoCompletion
from benchmark.language_judge import PROMPT_FILE, Score, data_uri
from benchmark.language_judge_replies import Reply, score_of
from benchmark.language_judge_scores import agreement
from galleries.errors import FinerRankError
from galleries.images import sha256_of

KEY = "sk-a-key-for-tests/0123456789"
BARE: dict[str, Any] = {"messages": [{"content": []}]}
IMAGES = ("images/rex_0.png", "images/rex_1.png", "images/tom_0.png", "images/tom_1.png")
NOTHING_SENT = "no question was asked"

Row = dict[str, str]


@dataclass(frozen=True)
class Request:
    """A request as the server got it; `reference` and `image` are the noise pictures' seeds."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reference: int
    image: int

    @property
    def pictures(self) -> list[Image.Image]:
        parts = self.body["messages"][0]["content"][1:]
        prefix = "data:image/jpeg;base64,"
        assert all(part["image_url"]["url"].startswith(prefix) for part in parts)
        contents = [base64.b64decode(part["image_url"]["url"].removeprefix(prefix)) for part in parts]
        return [Image.open(io.BytesIO(content)) for content in contents]


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    """Length that the header claims, where it is not that of the body."""
    endless: bool = False


def completion(content: object, **message: object) -> Answer:
    finish_reason = message.pop("finish_reason", "stop")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish_reason,
    }
    return Answer(json.dumps({"model": "seer-2025-01-01", "choices": [choice]}).encode())


def scored(score: object, reason: str = "the same ear") -> Answer:
    return completion(json.dumps({"reason": reason, "score": score}))


def error(status: int, message: str = "no", code: str = "", **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


class Server:
    """A server of chat completions that answers as a test says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.n_bytes_sent = 0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(self.path, dict(self.headers), body, *seeds_of(body))
                with server.lock:
                    server.requests.append(request)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.reply(server.answer(request))

            def reply(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if not answer.endless:
                    self.send_header("Content-Length", str(answer.promised or len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                while answer.endless:
                    self.wfile.write(b" " * 65536)
                    server.n_bytes_sent += 65536

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def seen(self) -> list[tuple[int, int]]:
        """(Seed of the image, repeat) of each request, in order of these."""
        return sorted((request.image, request.body["seed"]) for request in self.requests)


def seeds_of(body: dict[str, Any]) -> tuple[int, int]:
    """Which noise pictures a request shows: those of `write_gallery` and `write_run`; -1 for others."""
    found = []
    for part in body["messages"][0]["content"][1:]:
        shown = Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        pixels = np.asarray(shown, dtype=float)
        near = [
            seed
            for seed in (*range(6), *range(1000, 1004))
            if pixels.shape == (48, 48, 3) and np.abs(pixels - np.asarray(noise(seed, (48, 48)))).mean() < 10
        ]
        found.append(near[0] if near else -1)
    return (found[0], found[1]) if found else (-1, -1)


@contextlib.contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def by_image(*scores: object) -> Callable[[Request], Answer]:
    """Scores of the images rex_0, rex_1, tom_0, tom_1."""
    return lambda request: scored(scores[request.image - 1000])


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Asking:
    """The command on the two dogs, with the options that all tests share."""

    def __init__(self, folder: Path, zoo: Path, painted: Path) -> None:
        self.folder, self.zoo, self.painted = folder, zoo, painted
        self.n_outs = 0

    def options(self, server: Server | str, *more: object) -> list[object]:
        url = server if isinstance(server, str) else server.url
        given: dict[str, object] = {"--gallery": self.zoo, "--run": self.painted, "--endpoint": url, "--model": "seer"}
        given |= {"--cache": self.folder / "cache", "--retry-wait": 0}
        given |= {str(name): value for name, value in zip(more[::2], more[1::2], strict=True)}
        return ["ask", *itertools.chain(*((name, value) for name, value in given.items()))]

    def new_out(self) -> Path:
        self.n_outs += 1
        return self.folder / f"out-{self.n_outs}"


@pytest.fixture
def asking(tmp_path: Path, zoo: Path, painted: Path) -> Asking:
    return Asking(tmp_path, zoo, painted)


Ask = Callable[..., tuple[dict[str, Any], list[Row], str]]


@pytest.fixture
def ask(asking: Asking, cli: Cli) -> Ask:
    """Runs the command; returns scores.json, the rows of scores.csv and what was said on stderr."""

    def run(server: Server | str, *more: object) -> tuple[dict[str, Any], list[Row], str]:
        out = asking.new_out()
        done = cli(*asking.options(server, *more, "--out", out))
        assert done.returncode == 0, done
        with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return json.loads((out / "scores.json").read_text(encoding="utf-8")), rows, done.stderr

    return run


@pytest.fixture
def refuse(asking: Asking, refusal: Refusal) -> Callable[..., str]:
    def run(server: Server | str, *more: object) -> str:
        out = asking.new_out()
        line = refusal(*asking.options(server, *more, "--out", out))
        assert not out.exists()
        return line

    return run


# ---- numbers


def test_scores_are_those_that_the_server_gave_and_their_mean_is_theirs(ask: Ask) -> None:
    with serving(by_image(4, 3, 1, 2)) as server:
        summary, rows, _ = ask(server)
    assert [(r["file_name"], r["score"]) for r in rows] == list(zip(IMAGES, "4312", strict=True))
    assert {r["status"] for r in rows} == {"answered"}
    assert {r["reason"] for r in rows} == {"the same ear"}
    assert [r["reference"] for r in rows] == ["images/rex_0.png"] * 2 + ["images/tom_0.png"] * 2
    assert [r["identity"] for r in rows] == ["rex", "rex", "tom", "tom"]
    # Of two identities with as many images, a quarter of all draws is rex twice, a quarter tom twice.
    assert summary["mean_score"] == {"value": 2.5, "low": 1.5, "high": 3.5}
    assert summary["mean_score_of_1"] == {"value": 0.625, "low": 0.375, "high": 0.875}
    assert summary["identities"] == {
        "rex": {"n_images": 2, "n_scored": 2, "mean_score": 3.5},
        "tom": {"n_images": 2, "n_scored": 2, "mean_score": 1.5},
    }
    assert (summary["n_asked"], summary["n_answered"], summary["n_missing"], summary["missing"]) == (4, 4, 0, {})
    assert summary["references"] == {"named by the run": 4}
    assert summary["krippendorff_alpha"] is None


def test_the_interval_is_a_bootstrap_over_identities(asking: Asking, ask: Ask) -> None:
    identities = [f"dog{n}" for n in range(4)]
    rows, images = [], []
    for n, identity in enumerate(identities):
        for split in ("reference", "gallery"):
            row = {"file_name": f"images/{identity}_{split}.png", "category": "dog", "identity": identity}
            rows.append(row | {"split": split})
            save_noise(asking.zoo / row["file_name"], 50 + 2 * n + (split == "gallery"))
        images.append({"file_name": f"images/made_{identity}.png", "identity": identity})
        save_noise(asking.painted / images[-1]["file_name"], 1000 + n)
    write_rows(asking.zoo / "metadata.csv", rows)
    write_rows(asking.painted / "metadata.csv", images)
    with serving(by_image(0, 1, 3, 4)) as server:
        summary, _, _ = ask(server)
    draws = sorted(statistics.mean(draw) for draw in itertools.product([0, 1, 3, 4], repeat=4))
    exact = np.quantile(draws, [0.025, 0.975])
    assert summary["mean_score"]["value"] == 2
    assert [summary["mean_score"]["low"], summary["mean_score"]["high"]] == approx(exact, abs=0.26)


def test_repeats_are_averaged_within_an_image_and_alpha_says_how_they_agree(ask: Ask) -> None:
    given = {1000: (4, 4, 3), 1001: (2, 0, None), 1002: (1, 1, 1), 1003: (None, 3, None)}

    def answer(request: Request) -> Answer:
        score = given[request.image][request.body["seed"] - 1]
        return completion(None, refusal="I would rather not") if score is None else scored(score)

    with serving(answer) as server:
        summary, rows, _ = ask(server, "--repeats", 3)
        assert server.seen == sorted(itertools.product(given, (1, 2, 3)))
    assert [r["repeat"] for r in rows] == ["1", "2", "3"] * 4
    means = [11 / 3, 1.0, 1.0, 3.0]
    assert summary["mean_score"]["value"] == approx(statistics.mean(means))
    assert summary["identities"]["rex"]["mean_score"] == approx((11 / 3 + 1) / 2)
    assert (summary["n_asked"], summary["n_answered"], summary["missing"]) == (12, 9, {"refused": 3})
    assert summary["krippendorff_alpha"] == approx(alpha_by_hand(list(given.values())))
    assert summary["repeats"] == 3


def alpha_by_hand(units: Sequence[tuple[int | None, ...]]) -> float:
    """1 - D_o / D_e with squared differences, over all pairs (Krippendorff 2011, section F)."""
    pairable = [known for unit in units if len(known := [v for v in unit if v is not None]) > 1]
    values = [value for unit in pairable for value in unit]
    n = len(values)
    observed = sum(sum((a - b) ** 2 for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in pairable)
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2))
    return 1 - (n - 1) * observed / expected


def as_scores(units: Sequence[tuple[int | None, ...]]) -> list[Score]:
    return [
        Score(f"{n}.png", "rex", "r.png", repeat, value, "", "answered" if value is not None else "refused")
        for n, unit in enumerate(units)
        for repeat, value in enumerate(unit, start=1)
    ]


def test_alpha_is_that_of_the_published_example() -> None:
    # Three coders, fifteen units: Wikipedia's example of Krippendorff's alpha, 0.811 at the interval level.
    first = [None] * 5 + [3, 4, 1, 2, 1, 1, 3, 3, None, 3]
    second = [1, None, 2, 1, 3, 3, 4, 3] + [None] * 7
    third = [None, None, 2, 1, 3, 4, 4, None, 2, 1, 1, 3, 3, None, 4]
    units = list(zip(first, second, third, strict=True))
    assert agreement(as_scores(units)) == approx(0.811, abs=0.0005)
    assert agreement(as_scores(units)) == approx(alpha_by_hand(units))


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_the_closed_form_whatever_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = [tuple(None if rng.random() < 0.3 else int(rng.integers(5)) for _ in range(4)) for _ in range(20)]
    assert agreement(as_scores(units)) == approx(alpha_by_hand(units))


@pytest.mark.parametrize("units", [[(2, None), (None, 3)], [(2, 2), (2, 2)], [(None, None)], [(3, 3), (1, None)]])
def test_alpha_is_undefined_where_nothing_differs_or_nothing_is_paired(units: list[tuple[int | None, ...]]) -> None:
    assert agreement(as_scores(units)) is None


def test_nothing_answered_is_no_score(ask: Ask, asking: Asking, cli: Cli) -> None:
    with serving(lambda request: completion("I see two dogs.")) as server:
        summary, _, said = ask(server, "--repeats", 2)
        shown = cli(*asking.options(server)).stdout
    assert summary["mean_score"] == summary["mean_score_of_1"] == {"value": None, "low": None, "high": None}
    assert summary["krippendorff_alpha"] is None
    assert summary["identities"]["rex"] == {"n_images": 2, "n_scored": 0, "mean_score": None}
    assert summary["missing"] == {"unparsable": 8}
    assert said.count("missing: ") == 8
    assert "–" in shown


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


# ---- what a reply says


def said_by(content: str, refusal: str = "", finish_reason: str = "stop") -> tuple[int | None, str, str]:
    return score_of(Reply(Completion(content, refusal, finish_reason), "host"))


@pytest.mark.parametrize(
    "content",
    [
        '{"reason": "ears", "score": 3}',
        '```json\n{"score": 3, "reason": "ears"}\n```',
        'I compared them. {"reason": "ears", "score": 3.0}',
        '<think>{maybe} {"a": 1} 4?</think>\n{"reason": "ears", "score": "3"} That is all.',
        '{"score": 3, "reason": "ears"}\n{"score": 3, "reason": "ears"}',
    ],
)
def test_a_score_is_found_whatever_stands_around_it(content: str) -> None:
    assert said_by(content) == (3, "ears", "answered")


@pytest.mark.parametrize("score", [0, 1, 2, 3, 4])
def test_every_level_is_a_score(score: int) -> None:
    assert said_by(json.dumps({"score": score})) == (score, "", "answered")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "3",
        "The score is 3.",
        '{"reason": "ears", "sco',
        '{"reason": "ears"}',
        '[{"result": {"score": 3}}]',
        '{"score": 3} or rather {"score": 4}',
        '{"score": ' + "9" * 5000 + "}",
        '{"score": 3, "a": ' + '{"a": ' * 5000,
    ],
)
def test_a_reply_without_one_score_is_missing_and_says_why(content: str) -> None:
    score, reason, status = said_by(content)
    assert (score, status) == (None, "unparsable")
    assert reason
    assert len(reason) <= 500


@pytest.mark.parametrize(
    "value", ["5", "-1", "2.5", "true", "null", '"high"', "[3]", "NaN", "Infinity", '"4/4"', "1e300"]
)
def test_a_score_that_is_none_of_the_levels_is_missing(value: str) -> None:
    score, reason, status = said_by(f'{{"reason": "ears", "score": {value}}}')
    assert (score, status) == (None, "out of range")
    assert "not a whole number from 0 to 4" in reason


def test_refusals_are_missing_even_beside_a_score() -> None:
    assert said_by('{"score": 3}', "I cannot judge people") == (None, "I cannot judge people", "refused")
    assert said_by('{"score": 3}', finish_reason="content_filter")[::2] == (None, "refused")


def test_a_reply_that_was_cut_says_so() -> None:
    assert "cut short" in said_by('{"reason": "ea', finish_reason="length")[1]


def test_text_of_the_server_cannot_steer_a_terminal(ask: Ask, asking: Asking, cli: Cli) -> None:
    evil = "\x1b[2Jall\r\nfine\u202e\ud800"
    replies = [scored(3, evil), completion(evil), completion(None, refusal=evil), scored(evil)]

    def answer(request: Request) -> Answer:
        return replies[request.image - 1000]

    with serving(answer) as server:
        summary, rows, said = ask(server)
        shown = cli(*asking.options(server), "--json")
    assert summary["n_answered"] == 1
    for text in (said, shown.stdout, shown.stderr, *(value for row in rows for value in row.values())):
        assert not {"\x1b", "\r", "\u202e"} & set(text)


# ---- what is printed


def test_json_is_what_the_file_holds(ask: Ask, asking: Asking, cli: Cli) -> None:
    with serving(by_image(4, 3, 2, 1)) as server:
        summary, _, _ = ask(server)
        done = cli(*asking.options(server), "--json")
    assert json.loads(done.stdout) == summary
    assert done.returncode == 0


def test_people_are_told_that_it_is_an_opinion_beside_the_ranking(asking: Asking, cli: Cli) -> None:
    with serving(lambda request: scored(2) if request.image < 1003 else completion("", refusal="no")) as server:
        done = cli(*asking.options(server, "--repeats", 2))
    assert not lacking(done.stdout, "opinion of a language model, beside the ranking and no part of it", "2.00", "seer")
    assert not lacking(done.stderr, "missing: images/tom_1.png, repeat 2: refused (no)", "8 requests", "2 identities")


def test_a_long_list_of_missing_values_is_cut_and_says_where_the_rest_is(ask: Ask) -> None:
    with serving(lambda request: completion("rubbish")) as server:
        _, rows, said = ask(server, "--repeats", 4)
    assert said.count("missing: ") == 10
    assert not lacking(said, "and 6 more", "scores.csv")
    assert [r["status"] for r in rows] == ["unparsable"] * 16


# ---- servers that fail


def failing_first(failure: Answer) -> Callable[[Request], Answer]:
    """Fails the first time that it is asked about an image."""
    seen: set[int] = set()

    def answer(request: Request) -> Answer:
        if request.image in seen:
            return scored(3)
        seen.add(request.image)
        return failure

    return answer


@pytest.mark.parametrize("pause", ["0", "0.0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_server_is_asked_again_when_it_says(ask: Ask, pause: str) -> None:
    # Its own pause would outlast the patience of the test.
    with serving(failing_first(error(429, Retry_After=pause))) as server:
        summary, _, _ = ask(server, "--retry-wait", 1000)
        assert len(server.requests) == 8
    assert summary["n_answered"] == 4


@pytest.mark.parametrize("pause", ["soon", "nan", "-5", ""])
def test_a_pause_that_makes_no_sense_is_not_taken(pause: str) -> None:
    busy = failing_first(error(429, Retry_After=pause))
    with serving(busy) as server, ChatEndpoint(server.url, retries=1, retry_wait_s=0) as endpoint:
        assert endpoint.complete(BARE).content


@pytest.mark.parametrize("pause", ["3600", "inf", "9" * 400, "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_pause_of_an_hour_is_not_waited_for(refuse: Callable[..., str], pause: str) -> None:
    with serving(lambda request: error(503, "try later", Retry_After=pause)) as server:
        line = refuse(server, "--parallel", 1)
        assert len(server.requests) == 1
    assert not lacking(line, server.url, "HTTP 503 (try later)", "asks for a pause", "run the same command again")


@pytest.mark.parametrize(
    "failure",
    [
        error(500),
        error(503),
        error(408),
        Answer(b"<html>bad gateway</html>", 502),
        Answer(b'{"choices": [', promised=5000),
        Answer(b"", status=200, promised=10),
    ],
)
def test_passing_failures_are_retried(failure: Answer) -> None:
    with serving(failing_first(failure)) as server, ChatEndpoint(server.url, retries=1, retry_wait_s=0) as endpoint:
        assert endpoint.complete(BARE).content
        assert len(server.requests) == 2


def test_a_server_that_never_recovers_ends_the_command_and_keeps_what_was_answered(
    ask: Ask, refuse: Callable[..., str]
) -> None:
    def answer(request: Request) -> Answer:
        return error(500, "out of memory") if request.image == 1002 else by_image(4, 3, 2, 1)(request)

    with serving(answer) as server:
        line = refuse(server, "--parallel", 1, "--retries", 2)
        assert [request.image for request in server.requests] == [1000, 1001, 1002, 1002, 1002]
        server.answer = by_image(4, 3, 2, 1)
        _, rows, said = ask(server)
        assert len(server.requests) == 7
    assert not lacking(line, server.url, "failed 3 times", "HTTP 500 (out of memory)", "kept", "again later")
    assert "2 requests" in said
    assert [r["score"] for r in rows] == ["4", "3", "2", "1"]


def test_a_server_that_never_replies_is_given_up(refuse: Callable[..., str]) -> None:
    release = threading.Event()

    def answer(request: Request) -> Answer:
        release.wait()
        return scored(4)

    with serving(answer) as server:
        line = refuse(server, "--timeout", 0.2, "--retries", 1, "--parallel", 1)
        release.set()
        assert len(server.requests) == 2
    assert not lacking(line, "failed 2 times", "no complete reply within 0.2 s")


@pytest.mark.parametrize(
    ("failure", "mentions"),
    [
        (error(400, "this model sees no images"), ("HTTP 400 (this model sees no images)", "--model")),
        (error(401, "wrong key"), ("HTTP 401", "set OPENAI_API_KEY")),
        (error(403), ("HTTP 403", "set OPENAI_API_KEY")),
        (error(404, "no such model"), ("HTTP 404 (no such model)", "--endpoint", "--model")),
        (error(402, "pay first"), ("HTTP 402 (pay first)", "your account")),
        (Answer(b"\x1b[2J" * 100, 400), ("HTTP 400",)),
        (Answer(b'{"error": "gone\\u001b[2J\\nfishing"}', 410), ("HTTP 410 (gone\\x1b[2J fishing)",)),
    ],
)
def test_a_refused_request_ends_the_command_at_once(
    refuse: Callable[..., str], failure: Answer, mentions: tuple[str, ...]
) -> None:
    with serving(lambda request: failure) as server:
        line = refuse(server, "--parallel", 1)
        assert len(server.requests) == 1
    assert not lacking(line, server.url, *mentions)
    assert "\x1b" not in line


def test_one_refused_request_ends_all_that_wait(refuse: Callable[..., str]) -> None:
    others = threading.Event()

    def answer(request: Request) -> Answer:
        if request.image == 1003:
            assert others.wait(60)
            return error(401)
        others.set()
        return error(429, Retry_After="100")

    with serving(answer) as server:
        assert "HTTP 401" in refuse(server, "--parallel", 4)
        assert len(server.requests) <= 4


def test_a_picture_that_the_server_filters_is_a_refusal(ask: Ask) -> None:
    def answer(request: Request) -> Answer:
        filtered = error(400, "this picture is not allowed", code="content_filter")
        return filtered if request.image == 1001 else by_image(4, 3, 2, 1)(request)

    with serving(answer) as server:
        _, rows, _ = ask(server)
    assert (rows[1]["status"], rows[1]["reason"], rows[1]["score"]) == ("refused", "this picture is not allowed", "")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(refuse: Callable[..., str], status: int) -> None:
    with serving(by_image(4, 3, 2, 1)) as other:
        target = f"{other.url}/chat/completions"
        with serving(lambda request: Answer(b"", status, {"Location": target})) as server:
            line = refuse(server, "--parallel", 1)
            assert (len(server.requests), len(other.requests)) == (1, 0)
    assert not lacking(line, server.url, f"HTTP {status}", "no other address", "--endpoint")


ODD = {
    "no JSON": Answer(b"<html>please log in</html>"),
    "not an object": Answer(b"[1, 2]"),
    "deep": Answer(b"[" * 200_000),
    "not text": Answer(b"\xff\xfe\x00\xd8"),
    "empty": Answer(b""),
    "no choices": Answer(b'{"choices": []}'),
    "no message": Answer(b'{"choices": [{"text": "4"}]}'),
    "an error": Answer(b'{"error": {"message": "overloaded"}}'),
    "packed": Answer(gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"}),
    "no content": Answer(b"", 204),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_reply_that_holds_no_completion_is_none(odd: str) -> None:
    with (
        serving(lambda request: ODD[odd]) as server,
        ChatEndpoint(server.url) as endpoint,
        pytest.raises(NoCompletion, match=r"^(a reply|a compressed reply|HTTP 204)"),
    ):
        endpoint.complete(BARE)


def test_a_reply_that_is_no_completion_is_missing_and_asked_for_again_next_time(ask: Ask) -> None:
    def answer(request: Request) -> Answer:
        return ODD["an error"] if request.image == 1001 else by_image(4, 3, 2, 1)(request)

    with serving(answer) as server:
        summary, rows, _ = ask(server)
        assert len(server.requests) == 4
        server.answer = by_image(4, 3, 2, 1)
        _, later, said = ask(server)
    assert (rows[1]["status"], rows[1]["score"]) == ("no completion", "")
    assert rows[1]["reason"] == "a reply without a message (overloaded)"
    assert summary["missing"] == {"no completion": 1}
    assert "1 requests" in said
    assert [r["score"] for r in later] == ["4", "3", "2", "1"]


def test_a_reply_without_end_is_not_read_to_the_end(ask: Ask) -> None:
    def answer(request: Request) -> Answer:
        return Answer(endless=True) if request.image == 1001 else by_image(4, 3, 2, 1)(request)

    with serving(answer) as server:
        _, rows, _ = ask(server)
    assert (rows[1]["status"], rows[1]["reason"]) == ("no completion", "a reply of more than 1,000,000 bytes")
    assert server.n_bytes_sent < 50_000_000


def test_an_address_that_serves_pages_is_no_endpoint(refuse: Callable[..., str], ask: Ask) -> None:
    with serving(lambda request: ODD["no JSON"]) as server:
        line = refuse(server)
    assert not lacking(line, server.url, "no JSON object", "check --endpoint")
    with serving(by_image(4, 3, 2, 1)) as server:
        assert ask(server)[0]["n_answered"] == 4


def test_content_in_parts_is_read_as_text(ask: Ask) -> None:
    parts = [{"type": "text", "text": '{"reason": "ears", '}, {"type": "text", "text": '"score": 3}'}, 7, {"text": []}]
    with serving(lambda request: completion(parts)) as server:
        assert {r["score"] for r in ask(server)[1]} == {"3"}


def test_what_a_server_says_is_one_short_printable_line() -> None:
    evil = "\x1b[2Jall\r\nfine" + "!" * 1000
    with (
        serving(lambda request: completion("", refusal=evil, finish_reason=evil)) as server,
        ChatEndpoint(server.url) as endpoint,
    ):
        told = endpoint.complete(BARE)
    assert told.refusal == told.finish_reason == "\\x1b[2Jall fine" + "!" * 185


def test_a_closed_port_is_said_at_once(refuse: Callable[..., str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        line = refuse(url, "--retry-wait", 1000)
    assert not lacking(line, url, "cannot be reached", "check --endpoint")


def test_a_proxy_is_not_asked_for_this_machine(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(by_image(4, 3, 2, 1)) as server:
        assert ask(server)[0]["n_answered"] == 4


# ---- the key


def echo(text: str) -> list[Answer]:
    escaped = "".join(f"\\u{ord(c):04x}" for c in text)
    return [
        scored(3, f"your key is {text}"),
        completion(f'{{"reason": "{escaped}", "score": 3}}'),
        completion(None, refusal=f"not for {text}"),
        completion(f"no score for {text}" * 3, finish_reason=text),
    ]


def test_the_key_is_sent_and_stands_nowhere_else(
    asking: Asking, ask: Ask, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    with serving(lambda request: echo(KEY)[request.image - 1000]) as server:
        _, rows, said = ask(server)
        done = cli(*asking.options(server), "--json")
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert len(server.requests) == 4
    assert all(KEY not in value for row in rows for value in row.values())
    assert KEY not in said + done.stdout + done.stderr
    files = [path for path in asking.folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".json"]) == 5
    for path in files:
        content = path.read_bytes().decode("latin-1")
        assert KEY not in content
        assert KEY not in re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), content)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 500, 503])
def test_the_key_stands_in_no_error(status: int) -> None:
    with (
        serving(lambda request: error(status, f"not with {KEY}", code=KEY)) as server,
        ChatEndpoint(server.url, KEY, retries=0) as endpoint,
        pytest.raises(FinerRankError) as raised,
    ):
        endpoint.complete(BARE)
    assert KEY not in str(raised.value)
    assert not lacking(str(raised.value), server.url, f"HTTP {status}")


def test_a_server_that_breaks_the_protocol_with_the_key_does_not_bring_it_out(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda request: Answer(b"", 200, {f"{KEY} : {KEY}": KEY})) as server:
        assert KEY not in refuse(server, "--retries", 0)


def test_a_word_that_stands_in_for_a_key_may_stand_in_a_reply(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(lambda request: scored(3, "none of the marks differ")) as server:
        assert ask(server)[1][0]["reason"] == "none of the marks differ"


def test_a_wrong_key_is_told_from_a_missing_one(refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda request: error(401)) as server:
        assert "put one that is valid there into OPENAI_API_KEY" in refuse(server)


@pytest.mark.parametrize("key", ["sk-über-secret-value", "sk-two words-secret", "sk-\x01-secret-value-long"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(by_image(4, 3, 2, 1)) as server:
        line = refuse(server)
        assert not server.requests
    assert not lacking(line, "OPENAI_API_KEY", "set it again")
    assert "secret" not in line


@pytest.mark.parametrize(
    "address", ["http://192.0.2.1/v1", "http://example.org:8000/v1", "http://localhost.example.org"]
)
def test_a_key_travels_no_network_unencrypted(address: str) -> None:
    with pytest.raises(FinerRankError, match="would travel unencrypted; use https, or unset OPENAI_API_KEY"):
        ChatEndpoint(address, KEY)
    with ChatEndpoint(address) as endpoint:
        assert endpoint.url.endswith("/chat/completions")


# ---- mistakes


NO_ADDRESSES = [
    "",
    "localhost:8000/v1",
    "ftp://example.org/v1",
    "https://",
    "https:///v1",
    "https://[::1/v1",
    "http://a:b/v1",
    "http://example.org:99999/v1",
    "https://example.org/v1\x1b[2J",
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(FinerRankError, match=r"^--endpoint.*: not an address of a server; write it like https://"):
        ChatEndpoint(address)


@pytest.mark.parametrize(
    "address",
    ["https://me:swordfish@example.org/v1", "https://swordfish@example.org", "https://example.org/v1?key=swordfish"],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(refuse: Callable[..., str], address: str) -> None:
    line = refuse(address)
    assert not lacking(line, "--endpoint: holds", "leave")
    assert "swordfish" not in line


@pytest.mark.parametrize(
    ("address", "url", "host"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions", "api.openai.com"),
        ("http://LOCALHOST:8000/v1/", "http://LOCALHOST:8000/v1/chat/completions", "localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000/chat/completions", "[::1]:8000"),
        ("https://a.org/x/chat/completions", "https://a.org/x/chat/completions", "a.org"),
    ],
)
def test_the_path_of_the_interface_is_added_where_it_is_missing(address: str, url: str, host: str) -> None:
    with ChatEndpoint(address, KEY) as endpoint:
        assert (endpoint.url, endpoint.host) == (url, host)


def test_a_damaged_image_is_found_before_anything_is_sent(asking: Asking, refuse: Callable[..., str]) -> None:
    broken = asking.painted / "images/tom_1.png"
    broken.write_bytes(half(broken.read_bytes()))
    with serving(by_image(4, 3, 2, 1)) as server:
        line = refuse(server)
        assert not server.requests
    assert not lacking(line, NOTHING_SENT, "images/tom_1.png", "truncated or damaged")


def test_all_that_is_wrong_with_the_images_is_listed(asking: Asking, cli: Cli) -> None:
    (asking.painted / "images/tom_1.png").unlink()
    (asking.zoo / "images/rex_0.png").write_bytes(b"no picture")
    with serving(by_image(4, 3, 2, 1)) as server:
        done = cli(*asking.options(server))
        assert not server.requests
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 3)
    assert not lacking(done.stderr, NOTHING_SENT, "images/tom_1.png", "images/rex_0.png")


def test_an_image_of_somebody_unknown_is_refused(asking: Asking, refuse: Callable[..., str]) -> None:
    change_row(asking.painted, 1, identity="rexx")
    with serving(by_image(4, 3, 2, 1)) as server:
        assert not lacking(refuse(server), "rexx", "is 'rex' meant?")
        assert not server.requests


def test_what_lies_at_out_is_left_alone(asking: Asking, refusal: Refusal) -> None:
    out = asking.folder / "taken"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with serving(by_image(4, 3, 2, 1)) as server:
        line = refusal(*asking.options(server, "--out", out))
        assert not server.requests
    assert "exists already" in line
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_said(asking: Asking, refuse: Callable[..., str]) -> None:
    cache = asking.folder / "file"
    cache.write_text("")
    with serving(by_image(4, 3, 2, 1)) as server:
        assert not lacking(refuse(server, "--cache", cache), str(cache), "cannot be written", "--cache")


@pytest.mark.parametrize(("option", "value"), [("--timeout", "inf"), ("--retry-wait", "inf"), ("--model", " ")])
def test_settings_that_make_no_sense_are_refused(refuse: Callable[..., str], option: str, value: str) -> None:
    assert option in refuse("http://127.0.0.1:9/v1", option, value)


@pytest.mark.parametrize(("package", "repeats"), [("httpx", 1), ("krippendorff", 2)])
def test_a_missing_package_is_named_with_what_installs_it(
    asking: Asking, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch, package: str, repeats: int
) -> None:
    (asking.folder / "hidden").mkdir()
    (asking.folder / f"hidden/{package}.py").write_text("raise ModuleNotFoundError('not installed')\n")
    path = [str(asking.folder / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    line = refuse("http://127.0.0.1:9/v1", "--repeats", repeats)
    assert not lacking(line, package, "pip install 'finer-rank[language-judge]'")


def test_help_loads_neither_package() -> None:
    code = (
        "import sys, finer_rank\n"
        "sys.argv = ['finer-rank', 'ask', '--help']\n"
        "try:\n    finer_rank.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('httpx', 'krippendorff', 'numpy', 'PIL', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
