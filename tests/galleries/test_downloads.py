"""A file of any server or of the mirror arrives whole, in one version, once, or not at all."""

import gc
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import files_below, lacking
from hub_server import Answer, WebServer
from served_files import ABSURD, BROKEN, CHANGED, CONTENT, ETAG, HALF, SHA256, SOUND

from galleries.downloads import url_file
from galleries.errors import FinerRankError


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WebServer]:
    for name in ("HF_HUB_OFFLINE", "FINER_RANK_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    with WebServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetched(url: str, cache: Path, sha256: str = "") -> bytes:
    """The file; nothing else may be left in the cache."""
    path = url_file(url, cache, "timm:x@FILE", sha256)
    assert files_below(cache) == {path.name}
    return path.read_bytes()


def refused(url: str, cache: Path, sha256: str = "") -> str:
    """Why there is no such file; it may not lie under its name either."""
    with pytest.raises(FinerRankError) as caught:
        url_file(url, cache, "timm:x@FILE", sha256)
    message = str(caught.value)
    assert message.isprintable()
    assert lacking(message, url, "write timm:x@FILE", "run again") == []
    assert not (cache / url.rsplit("/", 1)[-1]).exists()
    return message


# ---- files of any server


def test_a_file_is_downloaded_once(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", SOUND)
    for _ in range(2):
        assert fetched(url, cache, SHA256) == CONTENT
    assert len(web.asked) == 1


@pytest.mark.parametrize("sha256", ["", SHA256, SHA256[:8]], ids=["unknown", "known", "known in part"])
@pytest.mark.parametrize("reset", [False, True], ids=["stops", "resets"])
def test_what_came_before_the_server_broke_off_is_kept_and_continued(
    web: WebServer, cache: Path, reset: bool, sha256: str
) -> None:
    url = web.put("/net.pth", replace(BROKEN, reset=reset), SOUND)
    assert lacking(refused(url, cache, sha256), f"of {len(CONTENT)} bytes", "what came is kept") == []
    have = (cache / "net.pth.part").stat().st_size
    assert reset or have == HALF
    assert fetched(url, cache, sha256) == CONTENT
    assert [asked.range for asked in web.asked] == ["", f"bytes={have}-" if have else ""]


def test_it_may_break_off_often(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", *[replace(SOUND, stop_after=HALF // 2)] * 3, SOUND)
    for _ in range(3):
        refused(url, cache)
    assert fetched(url, cache) == CONTENT
    assert [asked.range for asked in web.asked[1:]] == [f"bytes={n * HALF // 2}-" for n in (1, 2, 3)]


def test_what_came_whole_before_the_process_ended_is_not_asked_for_again(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", BROKEN)
    refused(url, cache, SHA256)
    (cache / "net.pth.part").write_bytes(CONTENT)
    assert fetched(url, cache, SHA256) == CONTENT
    assert len(web.asked) == 1


@pytest.mark.parametrize("sha256", ["", SHA256], ids=["unknown", "known"])
def test_a_server_that_continues_nothing_sends_it_all_again(web: WebServer, cache: Path, sha256: str) -> None:
    url = web.put("/net.pth", BROKEN, replace(SOUND, ranges=False))
    refused(url, cache, sha256)
    assert fetched(url, cache, sha256) == CONTENT
    assert web.asked[1].range == f"bytes={HALF}-"


@pytest.mark.parametrize("conditions", [True, False], ids=["server heeds If-Range", "server does not"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("length", [len(CONTENT), HALF // 2], ids=["as long", "shorter"])
def test_a_file_that_changed_meanwhile_is_never_mixed(
    web: WebServer, cache: Path, length: int, known: bool, conditions: bool
) -> None:
    new = CHANGED[:length]
    sha256 = hashlib.sha256(new).hexdigest() if known else ""
    url = web.put("/net.pth", BROKEN, Answer(new, headers={"ETag": '"two"'}, conditions=conditions))
    refused(url, cache, sha256)
    assert fetched(url, cache, sha256) == new


def test_without_a_version_a_file_is_continued_only_if_its_digest_is_known(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", replace(BROKEN, headers={}), replace(SOUND, headers={}))
    assert "it starts anew then" in refused(url, cache)
    assert fetched(url, cache) == CONTENT
    assert web.asked[1].range == ""

    url = web.put("/other.pth", replace(BROKEN, headers={}), Answer(CHANGED), Answer(CONTENT))
    assert "what came is kept" in refused(url, cache, SHA256)
    assert "not what its owners published" in refused(url, cache, SHA256)
    assert url_file(url, cache, "", SHA256).read_bytes() == CONTENT
    assert [asked.range for asked in web.asked[2:]] == ["", f"bytes={HALF}-", ""]


def test_a_date_is_a_version_too_and_a_weak_tag_is_none(web: WebServer, cache: Path) -> None:
    date = {"ETag": 'W/"one"', "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
    url = web.put("/net.pth", replace(BROKEN, headers=date), replace(SOUND, headers=date, conditions=False))
    refused(url, cache)
    assert fetched(url, cache) == CONTENT
    assert web.asked[1].headers["If-Range"] == date["Last-Modified"]
    assert web.asked[1].range == f"bytes={HALF}-"


def test_what_came_of_another_address_is_not_continued(web: WebServer, cache: Path) -> None:
    refused(web.put("/a/net.pth", BROKEN), cache)
    url = web.put("/b/net.pth", Answer(CHANGED, headers=ETAG))
    assert fetched(url, cache) == CHANGED
    assert web.asked[1].range == ""


@pytest.mark.parametrize("note", [b"", b"\xff", b"[]", b"{}", b'["", 1]', b"3", b"null"])
def test_a_damaged_note_starts_anew(web: WebServer, cache: Path, note: bytes) -> None:
    url = web.put("/net.pth", BROKEN, SOUND)
    refused(url, cache)
    (cache / "net.pth.part.json").write_bytes(note)
    assert fetched(url, cache) == CONTENT


@pytest.mark.parametrize("length", ["", "many", "-5", "9" * 400])
def test_a_length_that_is_none_is_no_length(web: WebServer, cache: Path, length: str) -> None:
    headers = {"Content-Length": length, "Connection": "close"}
    url = web.put("/net.pth", Answer(CONTENT, headers=headers, unsized=True))
    if length.startswith("9"):
        assert "no space" in refused(url, cache)
    else:
        assert fetched(url, cache) == CONTENT


def test_a_file_in_chunks_arrives_whole_or_not_at_all(web: WebServer, cache: Path) -> None:
    chunked = replace(SOUND, chunked=True)
    url = web.put("/net.pth", replace(chunked, stop_after=HALF), chunked)
    assert "broke off" in refused(url, cache)
    assert fetched(url, cache) == CONTENT


def test_an_empty_answer_is_no_file(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", Answer(), SOUND)
    assert "0 of unknown bytes" in refused(url, cache)
    assert fetched(url, cache) == CONTENT


@pytest.mark.parametrize("announced", [ABSURD, None])
def test_a_file_that_does_not_fit_is_refused_before_it_comes(
    web: WebServer, cache: Path, announced: int | None
) -> None:
    answers = [replace(SOUND, announced=ABSURD)] if announced else [BROKEN, replace(SOUND, announced=ABSURD)]
    url = web.put("/net.pth", *answers, SOUND)
    for _ in range(len(answers) - 1):
        refused(url, cache)
    assert lacking(refused(url, cache), "no space: 1000000000.0 GB are needed", " are free in ") == []
    assert fetched(url, cache) == CONTENT


def test_another_file_than_its_owners_published_is_refused(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", Answer(CHANGED, headers=ETAG), SOUND)
    assert lacking(refused(url, cache, SHA256), "not what its owners published", f"not {SHA256[:12]}…") == []
    assert files_below(cache) == set()
    assert fetched(url, cache, SHA256) == CONTENT


def test_another_file_in_the_cache_is_refused_where_the_digest_is_known(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", SOUND)
    cache.mkdir()
    (cache / "net.pth").write_bytes(CHANGED)
    with pytest.raises(FinerRankError, match=r"net\.pth: not the file of http.*remove it and run again"):
        url_file(url, cache, "", SHA256)
    assert fetched(url, cache) == CHANGED
    assert web.asked == []


@pytest.mark.parametrize("status", [401, 403, 404, 416, 429, 500, 503])
def test_a_server_that_refuses_is_cited_on_one_line(web: WebServer, cache: Path, status: int) -> None:
    reason = "Why\x1b[2J\x07 not\x85\u202e?".encode().decode("latin-1")
    url = web.put("/net.pth", Answer(b"<html>", status, reason=reason))
    assert lacking(refused(url, cache), f"HTTP Error {status}: Why\\x1b[2J\\x07 not") == []
    assert files_below(cache) == set()


def test_a_refusal_does_not_lose_what_came(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", BROKEN, Answer(status=503), SOUND)
    refused(url, cache)
    assert "503" in refused(url, cache)
    assert fetched(url, cache) == CONTENT
    assert web.asked[2].range == f"bytes={HALF}-"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_as_those_of_releases_need_it(web: WebServer, cache: Path, status: int) -> None:
    elsewhere = web.put("/storage/4711", BROKEN, SOUND)
    url = web.put("/releases/net.pth", Answer(status=status, headers={"Location": f"{elsewhere}?signature=1"}))
    refused(url, cache)
    assert fetched(url, cache) == CONTENT
    assert [asked.range for asked in web.asked] == ["", "", *[f"bytes={HALF}-"] * 2]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # urllib itself forgets to close it
@pytest.mark.parametrize("to", ["/a/net.pth", "file:///etc/passwd", "http://[bad", "x:\x1b", "http://localhost:1/", ""])
def test_redirects_that_lead_nowhere_are_refused(web: WebServer, cache: Path, to: str) -> None:
    refused(web.put("/a/net.pth", Answer(status=302, headers={"Location": to})), cache)
    assert files_below(cache) == set()
    gc.collect()


def test_a_server_that_does_not_answer_as_one_is_refused(web: WebServer, cache: Path) -> None:
    url = web.put("/net.pth", Answer(status=99999, reason="\x00\x1b[31m" * 20))
    refused(url, cache)


def test_no_server_at_all_is_refused(web: WebServer, cache: Path) -> None:
    assert "refused" in refused("http://127.0.0.1:9/net.pth", cache)


def test_a_folder_that_cannot_be_written_is_named(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = web.put("/net.pth", SOUND)
    assert str(tmp_path / "file") in refused(url, tmp_path / "file" / "cache")
    assert web.asked == []


def test_the_address_says_the_name_without_its_query(web: WebServer, cache: Path) -> None:
    assert fetched(web.put("/net.pth", SOUND) + "?download=1", cache) == CONTENT
    assert files_below(cache) == {"net.pth"}


def test_offline_nothing_is_asked(web: WebServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused(web.put("/net.pth", SOUND), cache)
    assert web.asked == []


# ---- the mirror


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("FINER_RANK_MIRROR", str(folder))
    return folder


def test_the_mirror_comes_first(web: WebServer, mirror: Path, cache: Path) -> None:
    url = web.put("/net.pth", Answer(CHANGED))
    (mirror / "net.pth").write_bytes(CONTENT)
    assert url_file(url, cache, "", SHA256) == mirror / "net.pth"
    assert web.asked == []
    with pytest.raises(FinerRankError, match=r"mirror/net\.pth: not the file of "):
        url_file(url, cache, "", "0" * 64)
    (mirror / "net.pth").unlink()
    assert fetched(url, cache) == CHANGED


def test_links_in_the_mirror_are_followed(web: WebServer, mirror: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (mirror / "net.pth").symlink_to(tmp_path / "elsewhere")
    assert url_file(web.put("/net.pth", SOUND), cache, "", SHA256).read_bytes() == CONTENT
    assert web.asked == []


def test_a_mirror_that_is_no_folder_is_said(web: WebServer, mirror: Path, cache: Path) -> None:
    mirror.rmdir()
    with pytest.raises(FinerRankError, match=r"FINER_RANK_MIRROR=.*/mirror: no such folder; .* write timm:x@FILE"):
        url_file(web.put("/net.pth", SOUND), cache, "timm:x@FILE")
