"""Encoders from a hub on this machine: at exactly their revision, then without a network."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from handmade import lacking
from hub_server import ROOT, Hub, User
from networks import colours, save_clip, save_timm_folder

from benchmark.embedders import load_embedder

OLD, NEW = "0" * 40, "1" * 40
PICTURES = [colours(seed) for seed in range(2)]
# For each line with the `specs` and the environment `variables` of a request: embeddings, or refusals. After a space, a
# spec has the JSON of what a card would say of the published file.
EMBED = """
import json, os, sys, warnings
from dataclasses import replace
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm, open_clip, torch
import numpy as np
sys.path.append("tests/benchmark")
from networks import colours
from benchmark.embedders import load_embedder
from benchmark.embedders.base import Published
from galleries.errors import FinerRankError
own = dict(os.environ)
for line in sys.stdin:
    request = json.loads(line)
    os.environ.update(request["variables"])
    for argument in request["specs"]:
        spec, _, published = argument.partition(" ")
        embedder = load_embedder(spec, device="cpu")
        if published:
            embedder.request = replace(embedder.request, published=Published(**json.loads(published)))
        try:
            print(json.dumps(embedder.embed([colours(seed) for seed in range(2)]).tolist()), flush=True)
        except FinerRankError as error:
            print(json.dumps(str(error)), flush=True)
    for name in request["variables"]:
        del os.environ[name]
    assert os.environ == own
"""


class Process:
    """Runs `EMBED` for a user. What is read while libraries are imported is given at its start."""

    def __init__(self, user: User, errors: Path, **variables: object) -> None:
        self._errors = errors
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", EMBED], cwd=ROOT, env=user.environment(**variables),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, encoding="utf-8",
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends by itself, and has printed nothing besides."""
        try:
            out, _ = self._process.communicate(timeout=120)
        finally:
            self._process.kill()
        assert (self._process.returncode, out, self._errors.read_text()) == (0, "", "")

    def results(self, *specs: str, **variables: object) -> list[object]:
        """One for each spec, with these environment variables besides."""
        request = {"specs": specs, "variables": {name: str(value) for name, value in variables.items()}}
        out, into = self._process.stdout, self._process.stdin
        assert out is not None
        assert into is not None
        print(json.dumps(request), file=into, flush=True)
        timer = threading.Timer(120, self._process.kill)
        timer.start()
        lines = [out.readline() for _ in specs]
        timer.cancel()
        assert self._errors.read_text() == ""
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two versions of a ViT and of a CLIP: `vit0`, `vit1`, `clip0`, `clip1`."""
    folder = tmp_path_factory.mktemp("networks")
    for seed in range(2):
        save_timm_folder(folder / f"vit{seed}", seed=seed)
        save_clip(folder / f"clip{seed}", seed)
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Of a hub on which each test publishes repositories of its own."""
    with Hub() as hub:
        yield User(hub, tmp_path_factory.mktemp("user") / "home")


@pytest.fixture(scope="module")
def process(user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One of the user's, of which several tests ask: its start takes longer than they do."""
    with Process(user, tmp_path_factory.mktemp("process") / "errors") as started:
        yield started


def publish(hub: Hub, owner: str, networks: Path) -> None:
    """`OWNER/vit` and `OWNER/clip` in two versions, of which the newer is `main`."""
    for seed, commit in enumerate((OLD, NEW)):
        hub.publish(f"{owner}/vit", networks / f"vit{seed}", commit)
        hub.publish(f"{owner}/clip", networks / f"clip{seed}", commit)


def are_rows_of(found: object, spec: str) -> bool:
    expected = load_embedder(spec, device="cpu").embed(PICTURES)
    other = np.asarray(found, dtype=np.float32)
    return other.shape == expected.shape and bool(np.abs(other - expected).max() <= 1e-6)


def card(file: str, repository: str, revision: str = OLD, sha256: str = "") -> str:
    return json.dumps({"repository": repository, "file": file, "revision": revision, "sha256": sha256})


def test_a_hub_mirror_serves_exactly_the_revision_and_then_nobody_is_asked(
    user: User, process: Process, networks: Path, tmp_path: Path
) -> None:
    publish(user.hub, "me", networks)
    weights = networks / "vit0" / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    specs = {
        f"timm:hf-hub:me/vit@{OLD}": f"timm:local-dir:{networks / 'vit0'}",
        f"open_clip:hf-hub:me/clip@{OLD}": f"open_clip:local-dir:{networks / 'clip0'}",
        f"timm:test_vit {card('model.safetensors', 'me/vit', sha256=digest)}": f"timm:test_vit@{weights}",
    }
    before = len(user.hub.asked)
    for found, expected in zip(process.results(*specs), specs.values(), strict=True):
        assert are_rows_of(found, expected)
    files = [asked.path for asked in user.hub.asked[before:] if "/resolve/" in asked.path]
    assert {path.rsplit("/", 1)[-1] for path in files} == {
        "config.json",
        "model.safetensors",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    assert [path for path in files if f"/resolve/{OLD}/" not in path] == []

    newer = {
        f"timm:hf-hub:me/vit@{NEW}": f"timm:local-dir:{networks / 'vit1'}",
        "open_clip:hf-hub:me/clip": f"open_clip:local-dir:{networks / 'clip1'}",
    }
    for found, expected in zip(process.results(*newer), newer.values(), strict=True):
        assert are_rows_of(found, expected)

    before = len(user.hub.asked)
    everything = specs | newer
    with Process(user, tmp_path / "errors", HF_HUB_OFFLINE=1) as offline:
        for found, expected in zip(offline.results(*everything), everything.values(), strict=True):
            assert are_rows_of(found, expected)
    assert len(user.hub.asked) == before


def test_what_the_hub_refuses_is_said_in_one_line_with_the_way_around(
    user: User, process: Process, networks: Path
) -> None:
    publish(user.hub, "they", networks)
    gone = "2" * 40
    user.hub.gated.add("they/clip")
    user.hub.spoil(f"/they/vit/resolve/{NEW}/model.safetensors", {"announced": 10**18})
    ours = "model.safetensors", "they/vit"
    expected = {
        f"timm:hf-hub:they/vit@{gone}": [f"revision {gone} is gone", "timm:local-dir:FOLDER"],
        "timm:hf-hub:they/none": ["no such repository", "timm:local-dir:FOLDER"],
        f"open_clip:hf-hub:they/clip@{OLD}": ["accept their terms", "hf auth login", "open_clip:local-dir:FOLDER"],
        f"timm:test_vit {card('no.safetensors', 'they/vit')}": [
            "no.safetensors",
            "no such file",
            "timm:test_vit@FILE",
        ],
        f"timm:test_vit {card(*ours, gone)}": [f"revision {gone} is gone", "timm:test_vit@FILE"],
        f"timm:hf-hub:they/vit@{NEW}": ["no space: 1000000000.0 GB", "timm:local-dir:FOLDER"],
        f"timm:test_vit {card(*ours, sha256='0' * 64)}": ["not the file model.safetensors that its owners published"],
        "timm:hf-hub:they//vit": ["they//vit"],
    }
    for (spec, mentions), found in zip(expected.items(), process.results(*expected), strict=True):
        assert isinstance(found, str), spec
        assert found.isprintable()
        assert lacking(found, *mentions) == []


def test_the_mirror_folder_stands_in_for_the_hub(user: User, process: Process, networks: Path, tmp_path: Path) -> None:
    publish(user.hub, "we", networks)
    for seed, kind in enumerate(("vit", "clip")):
        shutil.copytree(networks / f"{kind}{seed}", tmp_path / "mirror" / "we" / kind)
    specs = {
        f"timm:hf-hub:we/vit@{OLD}": f"timm:local-dir:{tmp_path / 'mirror/we/vit'}",
        "open_clip:hf-hub:we/clip": f"open_clip:local-dir:{tmp_path / 'mirror/we/clip'}",
        f"timm:test_vit {card('model.safetensors', 'we/vit')}": (
            f"timm:test_vit@{tmp_path / 'mirror/we/vit/model.safetensors'}"
        ),
    }
    before = len(user.hub.asked)
    found = process.results(*specs, FINER_RANK_MIRROR=tmp_path / "mirror")
    for rows, expected in zip(found, specs.values(), strict=True):
        assert are_rows_of(rows, expected)
    assert user.hub.asked[before:] == []


def test_a_mirror_with_half_of_a_folder_never_gives_random_weights(
    user: User, process: Process, networks: Path, tmp_path: Path
) -> None:
    publish(user.hub, "you", networks)
    half = tmp_path / "mirror" / "you" / "clip"
    half.mkdir(parents=True)
    shutil.copy(networks / "clip0" / "open_clip_config.json", half)
    [found] = process.results("open_clip:hf-hub:you/clip", FINER_RANK_MIRROR=tmp_path / "mirror")
    assert lacking(str(found), "without the weights", str(half), "open_clip_model.safetensors") == []
