"""CLIP-T against OpenCLIP itself, in records, tables and JSON; and what is refused."""

import json
import math
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from handmade import Cli, Refusal, change_row, drop_column, rows_of
from hypothesis import given
from hypothesis import strategies as st
from networks import TEXT_SIDE, save_clip, save_timm
from PIL import Image
from pytest import approx

from benchmark.prompt_fidelity import without_identifier

PROMPTS = ["a photo of sks dog", "sks, a dog, asleep", "a photo of a dog", ""]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"), text=TEXT_SIDE)


@pytest.fixture
def prompted(painted: Path) -> Path:
    """The run with a prompt of each kind, the last one empty."""
    for number, prompt in enumerate(PROMPTS, start=1):
        change_row(painted, number, prompt=prompt)
    (painted / "run.toml").write_text('model = "painter"\nidentifier = "sks"\n')
    return painted


def own_cosine(clip: Path, image: Path, text: str) -> float:
    """What the library itself says of an image and a text."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip}", return_transform=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    with torch.inference_mode():
        pixels = transform(Image.open(image).convert("RGB"))[None]
        pair = [model.encode_image(pixels).double(), model.encode_text(tokenizer([text])).double()]
    return float(torch.nn.functional.cosine_similarity(*pair))


def test_each_image_is_compared_with_its_prompt_with_and_without_the_identifier(
    cli: Cli, zoo: Path, prompted: Path, clip: Path, tmp_path: Path
) -> None:
    spec = f"open_clip:local-dir:{clip}"
    arguments = ("evaluate", "-g", zoo, "-r", prompted, "-e", "classical", "--clip-t", spec)
    done = cli(*arguments, "--out", tmp_path / "records", "--json")
    assert done.returncode == 0, done.stderr
    assert "painter: 1 of 4 images have no prompt and no CLIP-T" in done.stderr
    [folder] = (tmp_path / "records").iterdir()
    queries = pq.read_table(folder / "queries.parquet").to_pylist()
    assert [q["prompt"] for q in queries] == PROMPTS
    assert [q["prompt_without_identifier"] for q in queries] == ["a photo of dog", ", a dog, asleep", PROMPTS[2], ""]
    for query in queries[:3]:
        image = prompted / query["file_name"]
        assert query["clip_t"] == approx(own_cosine(clip, image, query["prompt"]), abs=1e-6)
        bare = own_cosine(clip, image, query["prompt_without_identifier"])
        assert query["clip_t_without_identifier"] == approx(bare, abs=1e-6)
    assert queries[3]["clip_t"] is queries[3]["clip_t_without_identifier"] is None

    [record] = json.loads(done.stdout)["records"]
    found = record["prompt_fidelity"]
    assert found["n_queries"] == 3
    assert found["identifier"] == "sks"
    assert found["embedder"] == f"open_clip:local-dir:{clip.name}"
    for column in "clip_t", "clip_t_without_identifier":
        assert found[column]["value"] == approx(math.fsum(q[column] for q in queries[:3]) / 3)
    assert json.loads((folder / "record.json").read_text())["prompt_fidelity"] == found

    table = cli(*arguments).stdout
    assert "CLIP-T without identifier" in table
    assert f"{found['clip_t']['value']:.3f}" in table


def test_prompts_are_embedded_once_and_move_no_other_score(cli: Cli, zoo: Path, prompted: Path, clip: Path) -> None:
    arguments = ("evaluate", "-g", zoo, "-r", prompted, "-e", "classical", "--json")
    plain = json.loads(cli(*arguments).stdout)
    with_prompts = [json.loads(cli(*arguments, "--clip-t", f"open_clip:local-dir:{clip}").stdout) for _ in range(2)]
    assert with_prompts[0]["records"] == with_prompts[1]["records"]
    del with_prompts[0]["records"][0]["prompt_fidelity"]
    assert with_prompts[0]["records"] == plain["records"]
    assert "prompt_fidelity" not in plain["records"][0]


def test_without_an_identifier_prompts_are_taken_as_they_are(cli: Cli, zoo: Path, painted: Path, clip: Path) -> None:
    done = cli("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", f"open_clip:local-dir:{clip}")
    assert "CLIP-T" in done.stdout
    assert "without identifier" not in done.stdout
    [prompt] = {row["prompt"] for row in rows_of(painted)}
    assert prompt == "a dog, asleep"


def test_a_run_without_prompts_is_refused(refusal: Refusal, zoo: Path, painted: Path, clip: Path) -> None:
    drop_column(painted, "prompt")
    line = refusal("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", f"open_clip:local-dir:{clip}")
    assert "no image has a prompt" in line


def test_a_model_without_a_text_side_is_refused(refusal: Refusal, zoo: Path, painted: Path, tmp_path: Path) -> None:
    spec = f"timm:test_vit@{save_timm(tmp_path / 'vit.safetensors')}"
    line = refusal("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", spec)
    assert "has no text side" in line


@pytest.mark.parametrize(
    ("prompt", "identifier", "expected"),
    [
        ("a photo of sks dog", "sks", "a photo of dog"),
        ("Sks dog", "sks", "dog"),
        ("a dog in tsksa", "sks", "a dog in tsksa"),
        ("a <new1> dog", "<new1>", "a dog"),
        ("a dog of [V], asleep", "[V]", "a dog of, asleep"),
        ("sks", "sks", ""),
        ("a.c dog abc", "a.c", "dog abc"),
    ],
)
def test_the_identifier_is_taken_out_as_a_word(prompt: str, identifier: str, expected: str) -> None:
    assert without_identifier(prompt, identifier) == expected


@given(st.lists(st.sampled_from(["a", "photo", "dog", "sks", "SKS"])))
def test_all_other_words_stay(words: list[str]) -> None:
    expected = [word for word in words if word.lower() != "sks"]
    assert without_identifier(" ".join(words), "sks").split() == expected
