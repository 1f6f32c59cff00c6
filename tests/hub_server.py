"""Web servers on this machine that tests download from: one that breaks off as told, and one that speaks as the hub."""

import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    """What is sent for a path.

    Attributes:
        announced: the `Content-Length`, where it is not that of the content.
        stop_after: this many bytes are sent, then the connection ends.
        reset: it ends with a reset, not orderly.
        ranges: whether `Range` is honoured; `If-Range` is only where `conditions` is.
        unsized: no `Content-Length` but that of `headers`; the content ends with the connection.
        reason: of the status line.
    """

    content: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    announced: int | None = None
    stop_after: int | None = None
    reset: bool = False
    ranges: bool = True
    conditions: bool = True
    chunked: bool = False
    unsized: bool = False
    reason: str | None = None


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


class WebServer:
    """Serves `answers`: by path, one for each GET in turn, and the last for all that follow."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, path: str, *answers: Answer) -> str:
        """Serve these from now on; returns the address."""
        self.answers[path] = list(answers)
        return self.url + path

    def got(self) -> list[Asked]:
        """The requests for files, without those for their headers only."""
        return [asked for asked in self.asked if asked.method == "GET" and not asked.path.startswith("/api/")]

    def answer(self, asked: Asked) -> Answer:
        answers = self.answers.get(asked.path)
        if not answers:
            return self.otherwise(asked)
        return answers.pop(0) if asked.method == "GET" and len(answers) > 1 else answers[0]

    def otherwise(self, asked: Asked) -> Answer:
        return Answer(b"no", 404)


class Hub(WebServer):
    """Serves repositories of models as the hub does, as far as its client asks."""

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()

    def publish(self, repository: str, folder: Path, commit: str, branch: str = "main") -> None:
        """Add a folder's files as a commit, to which the branch points from now on."""
        revisions = self.branches.setdefault(repository, {})
        revisions |= {branch: commit, commit: commit}
        for file in (file for file in folder.rglob("*") if file.is_file()):
            content = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            for revision in (commit, branch):
                name = file.relative_to(folder).as_posix()
                self.put(f"/{repository}/resolve/{revision}/{name}", Answer(content, headers=headers))

    def spoil(self, path: str, *changes: Mapping[str, Any]) -> None:
        """Answer the next requests for a file with these changes, one after another."""
        (sound,) = self.answers[path]
        self.put(path, *(replace(sound, **change) for change in changes))

    def answer(self, asked: Asked) -> Answer:
        repository = next((name for name in self.branches if f"/{name}/" in asked.path), "")
        if repository in self.gated and "Authorization" not in asked.headers:
            return _refusal(403, "GatedRepo", "Access to this model is restricted")
        return super().answer(asked)

    def otherwise(self, asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer(b"hub")
        match = re.fullmatch(r"(/api/models)?/([^/]+/[^/]+)/(resolve|revision|tree)/([^/]+)(/.*)?", asked.path)
        if match is None or match[2] not in self.branches:
            return _refusal(401, "RepoNotFound", "Repository not found")
        commit = self.branches[match[2]].get(unquote(match[4]))
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {match[4]}")
        if not match[1]:
            return _refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        return self._described(match[2], commit, of_revision=match[3] == "revision")

    def _described(self, repository: str, commit: str, of_revision: bool) -> Answer:
        start = f"/{repository}/resolve/{commit}/"
        files = {path.removeprefix(start): all_of[0] for path, all_of in self.answers.items() if path.startswith(start)}
        described: object = [
            {"type": "file", "path": name, "size": len(file.content), "oid": hashlib.sha1(file.content).hexdigest()}
            for name, file in files.items()
        ]
        if of_revision:
            described = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return Answer(json.dumps(described).encode(), headers={"Content-Type": "application/json"})


class User(NamedTuple):
    """Somebody whose hub is `hub`, and whose files lie in `home`: in processes of their own, which read this anew."""

    hub: Hub
    home: Path

    def environment(self, **variables: object) -> dict[str, str]:
        foreign = ("HF_", "HUGGING", "FINER_", "TORCH_", "TRANSFORMERS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign) and "proxy" not in k.lower()}
        own = {"HOME": self.home, "XDG_CACHE_HOME": self.home, "HF_HOME": self.home / "hf", "HF_ENDPOINT": self.hub.url}
        return kept | {name: str(value) for name, value in (own | variables).items()}

    def start(self, code: str, *arguments: str, **variables: object) -> subprocess.Popen[str]:
        """Run Python in the project's folder, with these environment variables besides."""
        command = [sys.executable, "-W", "error", "-c", code, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment(**variables), stdout=pipe, stderr=pipe, encoding="utf-8"
        )

    def has(self, code: str, *arguments: str, **variables: object) -> list[str]:
        """The lines that are printed, with nothing besides."""
        process = self.start(code, *arguments, **variables)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        return out.splitlines()

    def is_refused(self, code: str, *arguments: str, **variables: object) -> str:
        """The one line that says why."""
        process = self.start(code, *arguments, **variables)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err.count("\n")) == (1, "", 1), err
        return err


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(b"", status, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})


def _handler(web: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = Asked(self.command, urlsplit(self.path).path, {k.title(): v for k, v in self.headers.items()})
            answer = web.answer(asked)
            web.asked.append(asked)
            content, status, headers = answer.content, answer.status, dict(answer.headers)
            start = int(asked.range.removeprefix("bytes=").removesuffix("-") or 0) if answer.ranges else 0
            if answer.conditions and asked.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag"):
                start = 0
            if start and status == 200:
                status = 206 if start < len(content) else 416
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:]
            self.send_response(status, answer.reason)
            for name, value in headers.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(content)) + b"0\r\n\r\n"
            elif not answer.unsized:
                length = len(content) if answer.announced is None else answer.announced
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: answer.stop_after])
                if answer.unsized or answer.stop_after is not None or answer.announced is not None:
                    self.wfile.flush()
                    self.close_connection = True
                    if answer.reset:
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.connection.close()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _parts(content: bytes) -> list[bytes]:
    return [content[start : start + 1000] for start in range(0, len(content), 1000)]
