"""Files and folders of models of the hub arrive whole and once, and what cannot be had is said in one line."""

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
from hub_server import ROOT, Answer, Hub, User
from served_files import ABSURD, CHANGED, CONTENT, ETAG, HALF, SOUND


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


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
