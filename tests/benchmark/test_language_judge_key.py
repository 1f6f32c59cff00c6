"""The key goes to the named address alone and stands nowhere else, and an address that could leak it is refused."""

import re
from collections.abc import Callable

import pytest
from chat_server import BARE, Answer, Ask, Asking, by_image, completion, error, scored, serving
from handmade import Cli, lacking

from benchmark.chat_endpoint import ChatEndpoint
from galleries.errors import FinerRankError

pytestmark = pytest.mark.usefixtures("no_key")

KEY = "sk-a-key-for-tests/0123456789"


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
