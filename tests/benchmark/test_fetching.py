"""Encoders from a hub on this machine: at exactly their revision, then without a network."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from handmade import lacking
from hub_server import Hub, User
from networks import colours, save_clip, save_timm_folder

from benchmark.embedders import load_embedder

OLD, NEW = "0" * 40, "1" * 40
PICTURES = [colours(seed) for seed in range(2)]
# Embeddings, or refusals, of `spec`s; after a space the JSON of what a card would say of the published file.
EMBED = """
import json, sys, warnings
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
for argument in sys.argv[1:]:
    spec, _, published = argument.partition(" ")
    embedder = load_embedder(spec, device="cpu")
    if published:
        embedder.request = replace(embedder.request, published=Published(**json.loads(published)))
    try:
        print(json.dumps(embedder.embed([colours(seed) for seed in range(2)]).tolist()))
    except FinerRankError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Of a hub with two versions of a ViT and of a CLIP, of which the newer is `main`."""
    with Hub() as hub:
        for seed, commit in enumerate((OLD, NEW)):
            hub.publish("me/vit", save_timm_folder(tmp_path / f"vit{seed}", seed=seed), commit)
            hub.publish("me/clip", save_clip(tmp_path / f"clip{seed}", seed), commit)
        yield User(hub, tmp_path / "home")


def results(user: User, *specs: str, **variables: object) -> list[object]:
    return [json.loads(line) for line in user.has(EMBED, *specs, **variables)]


def are_rows_of(found: object, spec: str) -> bool:
    expected = load_embedder(spec, device="cpu").embed(PICTURES)
    other = np.asarray(found, dtype=np.float32)
    return other.shape == expected.shape and bool(np.abs(other - expected).max() <= 1e-6)


def card(file: str, revision: str = OLD, repository: str = "me/vit", sha256: str = "") -> str:
    return json.dumps({"repository": repository, "file": file, "revision": revision, "sha256": sha256})


def test_a_hub_mirror_serves_exactly_the_revision_and_then_nobody_is_asked(user: User, tmp_path: Path) -> None:
    folders = {f"{kind}{seed}": tmp_path / f"{kind}{seed}" for kind in ("vit", "clip") for seed in range(2)}
    weights = folders["vit0"] / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    specs = {
        f"timm:hf-hub:me/vit@{OLD}": f"timm:local-dir:{folders['vit0']}",
        f"open_clip:hf-hub:me/clip@{OLD}": f"open_clip:local-dir:{folders['clip0']}",
        f"timm:test_vit {card('model.safetensors', sha256=digest)}": f"timm:test_vit@{weights}",
    }
    for found, expected in zip(results(user, *specs), specs.values(), strict=True):
        assert are_rows_of(found, expected)
    files = [asked.path for asked in user.hub.asked if "/resolve/" in asked.path]
    assert {path.rsplit("/", 1)[-1] for path in files} == {
        "config.json",
        "model.safetensors",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    assert [path for path in files if f"/resolve/{OLD}/" not in path] == []

    newer = {
        f"timm:hf-hub:me/vit@{NEW}": f"timm:local-dir:{folders['vit1']}",
        "open_clip:hf-hub:me/clip": f"open_clip:local-dir:{folders['clip1']}",
    }
    for found, expected in zip(results(user, *newer), newer.values(), strict=True):
        assert are_rows_of(found, expected)

    before = len(user.hub.asked)
    everything = specs | newer
    for found, expected in zip(results(user, *everything, HF_HUB_OFFLINE=1), everything.values(), strict=True):
        assert are_rows_of(found, expected)
    assert len(user.hub.asked) == before


def test_what_the_hub_refuses_is_said_in_one_line_with_the_way_around(user: User) -> None:
    gone = "2" * 40
    user.hub.gated.add("me/clip")
    user.hub.spoil(f"/me/vit/resolve/{NEW}/model.safetensors", {"announced": 10**18})
    expected = {
        f"timm:hf-hub:me/vit@{gone}": [f"revision {gone} is gone", "timm:local-dir:FOLDER"],
        "timm:hf-hub:me/none": ["no such repository", "timm:local-dir:FOLDER"],
        f"open_clip:hf-hub:me/clip@{OLD}": ["accept their terms", "hf auth login", "open_clip:local-dir:FOLDER"],
        f"timm:test_vit {card('no.safetensors')}": ["no.safetensors", "no such file", "timm:test_vit@FILE"],
        f"timm:test_vit {card('model.safetensors', gone)}": [f"revision {gone} is gone", "timm:test_vit@FILE"],
        f"timm:hf-hub:me/vit@{NEW}": ["no space: 1000000000.0 GB", "timm:local-dir:FOLDER"],
        f"timm:test_vit {card('model.safetensors', sha256='0' * 64)}": [
            "not the file model.safetensors that its owners published"
        ],
        "timm:hf-hub:me//vit": ["me//vit"],
    }
    for (spec, mentions), found in zip(expected.items(), results(user, *expected), strict=True):
        assert isinstance(found, str), spec
        assert found.isprintable()
        assert lacking(found, *mentions) == []


def test_the_mirror_folder_stands_in_for_the_hub(user: User, tmp_path: Path) -> None:
    for seed, kind in enumerate(("vit", "clip")):
        target = tmp_path / "mirror" / "me" / kind
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{kind}{seed}").rename(target)
    specs = {
        f"timm:hf-hub:me/vit@{OLD}": f"timm:local-dir:{tmp_path / 'mirror/me/vit'}",
        "open_clip:hf-hub:me/clip": f"open_clip:local-dir:{tmp_path / 'mirror/me/clip'}",
        f"timm:test_vit {card('model.safetensors')}": f"timm:test_vit@{tmp_path / 'mirror/me/vit/model.safetensors'}",
    }
    found = results(user, *specs, FINER_RANK_MIRROR=tmp_path / "mirror")
    for rows, expected in zip(found, specs.values(), strict=True):
        assert are_rows_of(rows, expected)
    assert user.hub.asked == []


def test_a_mirror_with_half_of_a_folder_never_gives_random_weights(user: User, tmp_path: Path) -> None:
    half = tmp_path / "mirror" / "me" / "clip"
    half.mkdir(parents=True)
    (tmp_path / "clip0" / "open_clip_config.json").rename(half / "open_clip_config.json")
    [found] = results(user, "open_clip:hf-hub:me/clip", FINER_RANK_MIRROR=tmp_path / "mirror")
    assert lacking(str(found), "without the weights", str(half), "open_clip_model.safetensors") == []
