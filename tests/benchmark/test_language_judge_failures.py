"""A server that fails for a while is asked again, and one that fails for good ends the command in one line."""

import socket
import threading
from collections.abc import Callable

import pytest
from chat_server import BARE, Answer, Ask, Request, by_image, error, scored, serving
from handmade import lacking

from benchmark.chat_endpoint import ChatEndpoint

pytestmark = pytest.mark.usefixtures("no_key")


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
