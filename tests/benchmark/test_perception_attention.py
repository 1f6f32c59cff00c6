"""Where a distance looks: networks that read one place alone, and timm's own attention as the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import Cli, Refusal, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import save_timm
from perceiving import as_distance, coarse, left_half, patchwork, save
from PIL import Image
from pytest import approx

from benchmark.distances.embeddings import EmbeddingDistance
from benchmark.embedders import load_embedder
from benchmark.explain import contributions
from benchmark.human_judgements.judgements import Judgement, Judgements
from benchmark.perception.attention import AttentionMap, look
from benchmark.perception.attention_study import chosen_judgements

PICTURES = [Image.fromarray(patchwork(seed, 64)) for seed in range(3)]


@pytest.mark.parametrize("n", [2, 3])
def test_what_a_network_of_the_left_half_looks_at_lies_there(tmp_path: Path, n: int) -> None:
    maps = look(as_distance(tmp_path, left_half), PICTURES[:n], "occlusion", grid=4)
    left = np.zeros((64, 64), dtype=bool)
    left[:, :32] = True
    assert len(maps) == n
    for each in maps:
        assert each.weights.sum() == approx(1)
        assert each.share_on(left) == approx(1, abs=0.03)  # bicubic scaling reads a little of the other half


def test_occlusion_is_the_change_of_the_decision(tmp_path: Path) -> None:
    distance = as_distance(tmp_path, coarse)
    found = look(distance, PICTURES, "occlusion", grid=2)

    def decision(reference: Image.Image, a: Image.Image, b: Image.Image) -> float:
        to_a, to_b = distance.between([reference, reference], [a, b])
        return float(to_b - to_a)

    moved = []
    for top, left in ((0, 0), (0, 32), (32, 0), (32, 32)):
        hidden = np.array(PICTURES[2])
        hidden[top : top + 32, left : left + 32] = np.rint(hidden.reshape(-1, 3).mean(axis=0))
        moved.append(abs(decision(*PICTURES[:2], Image.fromarray(hidden)) - decision(*PICTURES)))
    assert found[2].weights.ravel() == approx(np.array(moved) / sum(moved), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(5, 40), st.integers(5, 40)),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_shares_of_pixels_add_up_to_one_wherever_the_map_lies(
    cells: tuple[int, int], size: tuple[int, int], corner: tuple[float, float]
) -> None:
    box = (*corner, size[0] + corner[0] + 3, size[1] + corner[1] + 3)
    shares = AttentionMap(np.full(cells, 1 / np.prod(cells)), box).on_picture(size)
    assert shares.shape == size[::-1]
    assert shares.sum() == approx(1)
    inside = shares[shares > 0]
    assert inside == approx(inside[0])


def test_of_parts_the_map_is_that_of_the_terms_of_the_cosine(critters: EmbeddingDistance) -> None:
    model = critters.embedder.model
    assert model.feature_map is not None
    batch = np.stack([model.preprocess(picture) for picture in PICTURES])
    features = model.feature_map(batch).astype(np.float64)
    expected = np.maximum(contributions(features[1], features[0]), 0)
    found = look(critters, PICTURES[:2], "parts")[1]
    assert found.weights == approx(expected / expected.sum())


@pytest.fixture(scope="module")
def critters() -> EmbeddingDistance:
    return EmbeddingDistance(load_embedder("critter-reid", device="cpu"))


def test_the_class_token_attends_as_timm_says(tmp_path: Path) -> None:
    weights = save_timm(tmp_path / "vit.safetensors")
    embedder = load_embedder(f"timm:test_vit@{weights}", device="cpu")
    found = look(EmbeddingDistance(embedder), PICTURES[:2], "class-token")
    vit = embedder.model.module
    assert vit is not None
    attention = vit.blocks[-1].attn  # type: ignore[index,union-attr]
    attention.fused_attn = False  # so that its dropout sees the probabilities
    seen: list[torch.Tensor] = []
    attention.attn_drop.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    embedder.model.forward(np.stack([embedder.model.preprocess(picture) for picture in PICTURES[:2]]))
    of_patches = seen[0].mean(dim=1)[:, 0, 1:].numpy()
    for own, each in zip(found, of_patches, strict=True):
        assert own.weights.ravel() == approx(each / each.sum(), rel=1e-4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with masks, and triplets of its photos beside it."""
    folder = tmp_path_factory.mktemp("world")
    photos = []
    for i in range(6):
        save(patchwork(i, 64), folder / "images" / f"{i}.png")
        mask = np.zeros((64, 64, 3))
        mask[:, : 16 + 8 * (i % 2)] = 255
        save(mask, folder / "masks" / f"{i}.png")
        row = {"file_name": f"images/{i}.png", "mask_file_name": f"masks/{i}.png", "split": "gallery"}
        photos.append({**row, "identity": f"toy {i // 3}", "category": "toys"})
    write_rows(folder / "metadata.csv", photos)
    triplets = [{"reference": f"{i}.png", "a": f"{i + 1}.png", "b": f"{i + 2}.png", "choice": "a"} for i in range(4)]
    write_rows(folder / "images" / "triplets.csv", triplets)
    return folder


def test_the_command_draws_each_judgement_and_says_how_much_lies_on_the_subject(
    world: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("perception", "attention", world / "images" / "triplets.csv", "-m", "critter-reid", "--grid", 2)
    out = tmp_path / "out"
    done = cli(*command, "-m", "ssim", "--judgements", 2, "--masks", world, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert json.loads((out / "attention.json").read_text()) == content
    assert [each["metric"] for each in content["on_subject"]] == ["critter-reid", "ssim"]
    for each in content["on_subject"]:
        assert each["n_pictures"] == 6
        assert 0 < each["share"]["value"] < 1
        assert each["area"]["value"] == approx(np.mean([0.25, 0.375]), abs=0.03)
    assert [each["file"] for each in content["judgements"]] == ["001.png", "002.png"]
    assert all((out / each["file"]).stat().st_size > 10_000 for each in content["judgements"])


def test_two_files_of_weights_of_one_name_are_two_metrics(world: Path, tmp_path: Path, cli: Cli) -> None:
    specs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        specs.append(f"timm:test_vit@{save_timm(tmp_path / name / 'vit.safetensors')}")
    command = ("perception", "attention", world / "images" / "triplets.csv", "-m", specs[0], "-m", specs[1])
    done = cli(*command, "--judgements", 1, "--by", "class-token", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "attention.json").read_text())
    assert content["on_subject"] is None
    assert content["judgements"][0]["on_subject"] == {spec: [None] * 3 for spec in specs}


def test_answers_about_the_same_images_are_one_judgement_with_their_mean() -> None:
    names = tuple(map(Path, ("reference", "a", "b")))
    rows = [Judgement(names, answer, "toy", rater) for answer, rater in ((1, "ann"), (0, "bob"), (1, "cas"))]
    for order in (rows, rows[::-1]):
        (found,) = chosen_judgements(Judgements("made", "2afc", Path("made.csv"), tuple(order)), 5, 0)
        assert found.answer == approx(2 / 3)


def test_what_cannot_be_looked_at_is_refused(world: Path, tmp_path: Path, refusal: Refusal) -> None:
    table = world / "images" / "triplets.csv"
    command = ("perception", "attention", table, "--out", tmp_path / "out", "--judgements", 1, "--grid", 2)
    assert "is not one Vision Transformer" in refusal(*command, "-m", "critter-reid", "--by", "class-token")
    assert "is no embedder; look at it by occlusion" in refusal(*command, "-m", "ssim", "--by", "parts")
    assert "keeps no map" in refusal(*command, "-m", "classical", "--by", "parts")
    assert "--by gaze: unknown" in refusal(*command, "-m", "critter-reid", "--by", "gaze")
    save(patchwork(50), tmp_path / "bare" / "toy" / "0.png")
    assert "no photo has a mask" in refusal(*command, "-m", "critter-reid", "--masks", tmp_path / "bare")
    assert not (tmp_path / "out").exists()
