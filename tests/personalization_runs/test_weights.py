"""Weights come from a folder, a mirror, the hub's cache or the hub, which says no in one line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import lacking
from hub_server import Hub, User

FIND = (
    "import sys\n"
    "from galleries.errors import FinerRankError\n"
    "from personalization_runs.methods.base import Weights\n"
    "from personalization_runs.methods.weights import find_weights\n"
    "place, _, revision = sys.argv[1].partition('@')\n"
    "try:\n"
    "    found = find_weights(place, revision, Weights('me/net', 1.0, 'MIT'))\n"
    "except FinerRankError as error:\n"
    "    sys.exit(str(error))\n"
    "print(found)\n"
    "print(*sorted(p.relative_to(found.path).as_posix() for p in found.path.rglob('*') if p.is_file()))\n"
)
COMMIT = "1" * 40


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Somebody whose hub has a pipeline of two networks, and a copy of all of it in one large file."""
    folder = tmp_path / "net"
    files = {
        "model_index.json": b"{}",
        "unet/config.json": b"{}",
        "unet/model.safetensors": b"weights",
        "vae/model.safetensors": b"more",
        "all-in-one.safetensors": b"both again",
        "README.md": b"read me",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with Hub() as hub:
        hub.publish("me/net", folder, COMMIT)
        yield User(hub, tmp_path / "home")


def test_what_is_used_is_downloaded_once_and_nothing_else(user: User) -> None:
    name, files = user.has(FIND, "me/net")
    assert name == f"me/net@{COMMIT}"
    assert files == "model_index.json unet/config.json unet/model.safetensors vae/model.safetensors"
    asked = len(user.hub.asked)
    assert user.has(FIND, "me/net") == [name, files]
    assert len(user.hub.asked) == asked
    assert user.has(FIND, "me/net", HF_HUB_OFFLINE="1") == [name, files]


def test_terms_that_nobody_accepted_are_named_with_the_page_to_accept_them_on(user: User) -> None:
    user.hub.gated.add("me/net")
    line = user.is_refused(FIND, "me/net")
    assert not lacking(line, f"accept their terms: do so at {user.hub.url}/me/net", "hf auth login", "1.0 GB")
    assert user.has(FIND, "me/net", HF_TOKEN="hf_of_mine")[0] == f"me/net@{COMMIT}"


def test_a_revision_that_is_not_there_is_named(user: User) -> None:
    assert not lacking(user.is_refused(FIND, f"me/net@{'2' * 40}"), "revision 2222", "is gone")


def test_a_mirror_and_a_folder_stand_in_for_the_hub(user: User, tmp_path: Path) -> None:
    (tmp_path / "mirror/me").mkdir(parents=True)
    (tmp_path / "net").rename(tmp_path / "mirror/me/net")
    mirrored = user.has(FIND, "me/net", FINER_RANK_MIRROR=tmp_path / "mirror")[0]
    brought = user.has(FIND, str(tmp_path / "mirror/me/net"))[0]
    assert mirrored.split("@")[0] == "me/net"
    assert mirrored.split("@")[1] == brought.split("@")[1]
    assert user.hub.asked == []
