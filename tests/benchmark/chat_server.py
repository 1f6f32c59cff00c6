"""A server of chat completions on this machine, and `finer-rank ask` on two dogs as tests run it."""

import base64
import contextlib
import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from handmade import noise
from PIL import Image

BARE: dict[str, Any] = {"messages": [{"content": []}]}
IMAGES = ("images/rex_0.png", "images/rex_1.png", "images/tom_0.png", "images/tom_1.png")

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


Ask = Callable[..., tuple[dict[str, Any], list[Row], str]]
