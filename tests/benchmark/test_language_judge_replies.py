"""Of a language model's reply one whole score is taken, or it is missing with the reason, whatever the reply holds."""

import gzip
import json
from collections.abc import Callable

import pytest
from chat_server import BARE, Answer, Ask, Asking, Request, by_image, completion, scored, serving
from handmade import Cli, lacking

from benchmark.chat_endpoint import ChatEndpoint
from benchmark.chat_reply import Completion, NoCompletion
from benchmark.language_judge_replies import Reply, score_of

pytestmark = pytest.mark.usefixtures("no_key")


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
