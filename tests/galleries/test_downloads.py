"""Downloads from servers on this machine: mirrors, interruptions, files that change, disks without space."""

import gc
import hashlib
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import files_below, lacking
from hub_server import ROOT, Answer, Hub, User, WebServer

from galleries.downloads import url_file
from galleries.errors import FinerRankError

CONTENT = bytes(range(256)) * 1000
CHANGED = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = {"ETag": '"one"'}
HALF = len(CONTENT) // 2
SOUND = Answer(CONTENT, headers=ETAG)
BROKEN = replace(SOUND, stop_after=HALF)
ABSURD = 10**18


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


# ---- files of the hub

FETCH = """
import sys
from galleries.downloads import hub_file
from galleries.errors import FinerRankError
repository, revision, *names = sys.argv[1:]
try:
    print(hub_file(repository, names, "timm:x@FILE", revision or None))
except FinerRankError as error:
    sys.exit(str(error))
"""
FIND = """
import sys
from galleries.model_folders import find_model
from galleries.errors import FinerRankError
try:
    found = find_model(sys.argv[1], sys.argv[2])
    print(found.path, found.name, sep="\\n")
except FinerRankError as error:
    sys.exit(str(error))
"""
OLD, NEW = "0" * 40, "1" * 40


NET = f"/me/net/resolve/{OLD}/net.bin"


def reads(user: User, revision: str = OLD, **variables: object) -> bytes:
    (path,) = user.has(FETCH, "me/net", revision, "net.bin", **variables)
    return Path(path).read_bytes()


def blobs(user: User) -> list[Path]:
    return list(user.home.glob("hf/hub/models--me--net/blobs/*"))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Of a hub with `net.bin` of `me/net` in two versions, the newer of which is `main`."""
    with Hub() as hub:
        for commit, content in ((OLD, CONTENT), (NEW, CHANGED)):
            folder = tmp_path / commit
            folder.mkdir()
            (folder / "net.bin").write_bytes(content)
            (folder / "config.json").write_text('{"model_type": "x"}')
            (folder / "model.safetensors").write_bytes(content)
            (folder / "README.md").write_text("x")
            hub.publish("me/net", folder, commit)
        yield User(hub, tmp_path / "home")


def test_exactly_the_revision_is_fetched_once(user: User) -> None:
    assert reads(user, OLD) == CONTENT
    assert {asked.path for asked in user.hub.asked if "resolve" in asked.path} == {NET}
    assert reads(user, NEW) == CHANGED
    assert reads(user, "") == CHANGED
    before = len(user.hub.asked)
    assert reads(user, OLD) == CONTENT
    assert reads(user, "main", HF_HUB_OFFLINE=1) == CHANGED
    assert len(user.hub.asked) == before


@pytest.mark.parametrize(
    ("repository", "revision", "name", "mentions"),
    [
        ("me/net", "2" * 40, "net.bin", [f"revision {'2' * 40} is gone"]),
        ("me/gone", OLD, "net.bin", ["no such repository, or it is private", "hf auth login"]),
        ("me/net", OLD, "no.bin", ["no.bin of http", "no such file there"]),
        ("me/net/x", OLD, "net.bin", ["me/net/x"]),
        ("me/\x1b[2J", OLD, "net.bin", ["me/\\x1b[2J"]),
        ("../../etc", "", "passwd", ["../../etc"]),
    ],
)
def test_what_the_hub_lacks_is_named(
    user: User, repository: str, revision: str, name: str, mentions: list[str]
) -> None:
    line = user.is_refused(FETCH, repository, revision, name)
    assert lacking(line, user.hub.url, "write timm:x@FILE", *mentions) == []
    assert line.rstrip("\n").isprintable()


def test_terms_that_nobody_accepted_are_said_and_a_token_opens_them(user: User) -> None:
    user.hub.gated.add("me/net")
    line = user.is_refused(FETCH, "me/net", OLD, "net.bin")
    assert lacking(line, "accept their terms", f"{user.hub.url}/me/net", "hf auth login") == []
    assert reads(user, HF_TOKEN="hf_x") == CONTENT


def test_of_several_names_the_first_that_exists_is_fetched(user: User) -> None:
    (path,) = user.has(FETCH, "me/net", OLD, "no.safetensors", "net.bin", "config.json")
    assert Path(path).name == "net.bin"


def test_the_hubs_own_words_are_cited_harmlessly(user: User) -> None:
    headers = {"X-Error-Message": "Invalid\x1b[2J credentials"}
    user.hub.put(NET, Answer(status=401, headers=headers, reason="\x1b[2JNo\x07"))
    line = user.is_refused(FETCH, "me/net", OLD, "net.bin")
    assert lacking(line, "401", "Invalid\\x1b[2J credentials") == []
    assert line.rstrip("\n").isprintable()


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_hub_that_is_broken_is_cited(user: User, status: int) -> None:
    user.hub.put(NET, Answer(status=status))
    assert str(status) in user.is_refused(FETCH, "me/net", OLD, "net.bin")


def test_a_hub_out_of_reach_is_said_and_offline_it_is_not_asked(user: User) -> None:
    line = user.is_refused(FETCH, "me/net", OLD, "net.bin", HF_ENDPOINT="http://127.0.0.1:9")
    assert lacking(line, "http://127.0.0.1:9/me/net", "refused", str(user.home)) == []
    assert "HF_HUB_OFFLINE is set" in user.is_refused(FETCH, "me/net", OLD, "net.bin", HF_HUB_OFFLINE=1)
    assert user.hub.asked == []


def test_a_hub_that_breaks_off_once_is_continued(user: User) -> None:
    content = CONTENT * 50
    broken = {"content": content, "stop_after": 11 << 20}  # the client keeps whole pieces of 10 MiB
    user.hub.spoil(NET, broken, {"content": content})
    process = user.start(FETCH, "me/net", OLD, "net.bin")
    out, err = process.communicate(timeout=120)
    if process.returncode:  # older clients leave the second attempt to the user
        assert (out, err.count("\n")) == ("", 1)
        assert reads(user) == content
    else:
        assert (Path(out.strip()).read_bytes(), err) == (content, "")
    first, second = user.hub.got()
    assert (first.range, second.range[:7]) == ("", "bytes=1")


def test_a_hub_that_breaks_off_for_good_leaves_no_half_file(user: User) -> None:
    user.hub.spoil(NET, {"stop_after": HALF}, {"stop_after": 0, "reset": True})
    assert lacking(user.is_refused(FETCH, "me/net", OLD, "net.bin"), "cannot be fetched", "run again") == []
    assert [path for path in blobs(user) if path.suffix != ".incomplete"] == []
    (sound,) = user.hub.answers[NET]
    user.hub.put(NET, replace(sound, stop_after=None, reset=False))
    assert reads(user) == CONTENT


def test_a_hubs_file_that_does_not_fit_is_refused_before_it_comes(user: User) -> None:
    user.hub.spoil(NET, {"announced": ABSURD})
    line = user.is_refused(FETCH, "me/net", OLD, "net.bin")
    assert lacking(line, "no space: 1000000000.0 GB are needed", " are free in ") == []
    assert user.hub.got() == []
    assert blobs(user) == []


def test_a_hubs_cache_that_cannot_be_written_is_named(user: User, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in user.is_refused(FETCH, "me/net", OLD, "net.bin", HF_HOME=tmp_path / "file")


def test_the_mirror_stands_in_for_the_hub(user: User, tmp_path: Path) -> None:
    mirrored = tmp_path / "mirror" / "me" / "net" / "net.bin"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(b"mirrored")
    variables = {"FINER_RANK_MIRROR": tmp_path / "mirror"}
    assert reads(user, **variables) == b"mirrored"
    assert user.hub.asked == []
    (path,) = user.has(FETCH, "me/net", OLD, "config.json", **variables)
    assert Path(path).read_text() == '{"model_type": "x"}'
    (tmp_path / "outside").write_text("secret")
    for repository in ("..", str(tmp_path)):
        user.is_refused(FETCH, repository, OLD, "outside", **variables)
    line = user.is_refused(FETCH, "me/net", OLD, "net.bin", FINER_RANK_MIRROR=tmp_path / "none")
    assert lacking(line, f"FINER_RANK_MIRROR={tmp_path / 'none'}: no such folder", "timm:x@FILE") == []


# ---- two at once, and a terminal

FETCH_URL = """
import sys
from pathlib import Path
from galleries.downloads import url_file
print(url_file(sys.argv[1], Path(sys.argv[2]), "timm:x@FILE"))
"""


def test_two_processes_at_once_get_one_good_file(user: User, cache: Path) -> None:
    url = user.hub.put("/big.pth", Answer(CONTENT * 40, headers=ETAG))
    for code, arguments in ((FETCH_URL, [url, str(cache)]), (FETCH, ["me/net", OLD, "net.bin"])):
        processes = [user.start(code, *arguments) for _ in range(2)]
        outputs = [process.communicate(timeout=120) for process in processes]
        assert outputs[0] == outputs[1]
        assert outputs[0][1] == ""
    assert files_below(cache) == {"big.pth"}
    assert (cache / "big.pth").read_bytes() == CONTENT * 40
    assert len([asked for asked in user.hub.asked if asked.path == "/big.pth"]) == 1
    assert reads(user) == CONTENT


def test_progress_is_shown_on_a_terminal_only(user: User, cache: Path) -> None:
    url = user.hub.put("/big.pth", SOUND)
    user.has(FETCH_URL, url, str(cache / "quiet"))
    controlling, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-c", FETCH_URL, url, str(cache / "shown")]
    with subprocess.Popen(
        command, cwd=ROOT, env=user.environment(), stdout=subprocess.PIPE, stderr=terminal
    ) as process:
        process.communicate(timeout=120)
    os.close(terminal)
    shown = os.read(controlling, 10_000).decode()
    os.close(controlling)
    assert lacking(shown, "big.pth", "100%", "250k/250k") == []


# ---- folders of models


def test_a_models_folder_is_fetched_whole_and_then_needs_no_network(user: User) -> None:
    path, name = user.has(FIND, "me/net", OLD)
    assert (Path(path, "model.safetensors").read_bytes(), name) == (CONTENT, f"me/net@{OLD}")
    assert not Path(path, "README.md").exists()
    before = len(user.hub.asked)
    assert user.has(FIND, "me/net", OLD, HF_HUB_OFFLINE=1) == [path, name]
    assert user.has(FIND, "me/net", OLD) == [path, name]
    assert len(user.hub.asked) == before


REFUSALS: dict[str, tuple[str, str, Mapping[str, object], str]] = {
    "revision": ("me/net", "2" * 40, {}, "is gone from there"),
    "repository": ("me/gone", OLD, {}, "no such repository"),
    "space": ("me/net", OLD, {"announced": ABSURD}, "Not enough free disk space"),
    "server": ("me/net", OLD, {"status": 404}, "404"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_models_folder_that_cannot_be_had_is_refused_in_one_line(user: User, case: str) -> None:
    repository, revision, change, what = REFUSALS[case]
    user.hub.spoil(f"/me/net/resolve/{OLD}/model.safetensors", change)
    line = user.is_refused(FIND, repository, revision)
    assert lacking(line, f"{user.hub.url}/{repository}", what, "--model FOLDER") == []
    assert [path for path in blobs(user) if path.stat().st_size > 1000] == []


def test_the_mirror_stands_in_for_a_models_folder(user: User, tmp_path: Path) -> None:
    folder = tmp_path / "mirror" / "me" / "net"
    folder.mkdir(parents=True)
    variables = {"FINER_RANK_MIRROR": tmp_path / "mirror"}
    assert "no config.json" in user.is_refused(FIND, "me/net", "", **variables)
    (folder / "config.json").write_text("{}")
    assert "neither model.safetensors nor" in user.is_refused(FIND, "me/net", "", **variables)
    (folder / "model.safetensors").write_bytes(CONTENT)
    path, name = user.has(FIND, "me/net", "", **variables)
    assert path == str(folder)
    (folder / "model.safetensors").write_bytes(CHANGED)
    _, other = user.has(FIND, "me/net", OLD, **variables)
    assert name.startswith("me/net@")
    assert name != other
    assert user.hub.asked == []
