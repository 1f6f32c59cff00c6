"""CLIP-T against OpenCLIP itself, in records, tables and JSON; and what is refused."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from handmade import change_row, drop_column, lacking, rows_of
from hub_server import Hub, User
from hypothesis import given
from hypothesis import strategies as st
from in_process import refused_here, run_here
from networks import TEXT_SIDE, save_clip, save_state, save_timm
from PIL import Image
from pytest import approx
from safetensors.torch import load_file

from benchmark.embedders import load_embedder
from benchmark.prompt_fidelity import without_identifier
from benchmark.protocol import Options, evaluate
from galleries.gallery import Gallery
from galleries.segmentation import quiet
from personalization_runs.run import Run

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
    zoo: Path, prompted: Path, clip: Path, tmp_path: Path
) -> None:
    spec = f"open_clip:local-dir:{clip}"
    arguments = ("evaluate", "-g", zoo, "-r", prompted, "-e", "classical", "--clip-t", spec)
    done = run_here(*arguments, "--out", tmp_path / "records", "--json")
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

    table = run_here(*arguments).stdout
    assert "CLIP-T without identifier" in table
    assert f"{found['clip_t']['value']:.3f}" in table


def test_prompts_are_embedded_once_and_move_no_other_score(zoo: Path, prompted: Path, clip: Path) -> None:
    arguments = ("evaluate", "-g", zoo, "-r", prompted, "-e", "classical", "--json")
    plain = json.loads(run_here(*arguments).stdout)
    with_prompts = [
        json.loads(run_here(*arguments, "--clip-t", f"open_clip:local-dir:{clip}").stdout) for _ in range(2)
    ]
    assert with_prompts[0]["records"] == with_prompts[1]["records"]
    del with_prompts[0]["records"][0]["prompt_fidelity"]
    assert with_prompts[0]["records"] == plain["records"]
    assert "prompt_fidelity" not in plain["records"][0]


def test_without_an_identifier_prompts_are_taken_as_they_are(zoo: Path, painted: Path, clip: Path) -> None:
    done = run_here("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", f"open_clip:local-dir:{clip}")
    assert "CLIP-T" in done.stdout
    assert "without identifier" not in done.stdout
    [prompt] = {row["prompt"] for row in rows_of(painted)}
    assert prompt == "a dog, asleep"


def test_a_run_without_prompts_is_refused(zoo: Path, painted: Path, clip: Path) -> None:
    drop_column(painted, "prompt")
    line = refused_here(
        "evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", f"open_clip:local-dir:{clip}"
    )
    assert "no image has a prompt" in line


def test_a_model_without_a_text_side_is_refused(zoo: Path, painted: Path, tmp_path: Path) -> None:
    spec = f"timm:test_vit@{save_timm(tmp_path / 'vit.safetensors')}"
    line = refused_here("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", spec)
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


# ---- what cannot be embedded


def test_images_that_the_judge_alone_cannot_embed_are_refused_or_said(zoo: Path, painted: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip", image_size=64, text=TEXT_SIDE)
    broken = painted / rows_of(painted)[1]["file_name"]
    Image.linear_gradient("L").convert("RGB").resize((1, 60000)).save(broken)
    arguments = ("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", f"open_clip:local-dir:{clip}")
    assert run_here(*arguments[:-2]).returncode == 0
    wanted = (broken.name, "1 × 60000 pixels: too long")
    assert lacking(refused_here(*arguments), *wanted) == []
    done = run_here(*arguments, "--skip-broken", "--json")
    assert done.returncode == 0, done.stderr
    assert lacking(done.stderr, "left out of CLIP-T: ", *wanted) == []
    assert "broken images were left out" not in done.stderr
    [record] = json.loads(done.stdout)["records"]
    assert (record["n_queries"], record["prompt_fidelity"]["n_queries"]) == (4, 3)


@pytest.mark.parametrize(
    ("side", "mentions"),
    [
        ("visual.proj", ("cannot place any image", "embedding is not finite")),
        ("text_projection", ("prompt 'a dog, asleep'", "embedding is not finite")),
    ],
)
def test_a_judge_that_embeds_nothing_is_refused_in_one_line(
    side: str, mentions: tuple[str, ...], zoo: Path, painted: Path, tmp_path: Path
) -> None:
    folder = save_clip(tmp_path / "clip", text=TEXT_SIDE)
    weights = folder / "open_clip_model.safetensors"
    state = load_file(weights)
    save_state(state | {side: state[side] * float("nan")}, weights)
    spec = f"open_clip:local-dir:{folder}"
    for _ in range(2):
        line = refused_here("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", spec)
        assert lacking(line, spec, *mentions) == []


# ---- tokenizers

LETTERS = {
    "<|startoftext|>": 0,
    "<|endoftext|>": 1,
    **{f"{c}</w>": i for i, c in enumerate("adogslep,", 2)},
    **{c: i for i, c in enumerate("adogslep,", 11)},
}


def save_tokenizer(folder: Path, vocabulary: Mapping[str, int] = LETTERS) -> None:
    with quiet():
        transformers.CLIPTokenizer(vocab=dict(vocabulary), merges=[]).save_pretrained(folder)


def save_library_clip(folder: Path, n_words: int = len(LETTERS)) -> Path:
    """A CLIP of transformers with its tokenizer."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": n_words, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    described = transformers.CLIPConfig(
        text_config=size | text | {"pad_token_id": 1},
        vision_config=size | {"patch_size": 8, "image_size": 32},
        projection_dim=16,
    )
    torch.manual_seed(0)
    with quiet():
        module = transformers.CLIPModel(described)
        with torch.no_grad():
            for parameter in module.parameters():  # as built, words hardly differ
                parameter.normal_(std=0.2)
        module.save_pretrained(folder)
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def clip_t(gallery: Path, run: Path, spec: str) -> float:
    done = run_here("evaluate", "-g", gallery, "-r", run, "-e", "classical", "--clip-t", spec, "--json")
    assert done.returncode == 0, done.stderr
    value: float = json.loads(done.stdout)["records"][0]["prompt_fidelity"]["clip_t"]["value"]
    return value


def test_another_vocabulary_gives_other_numbers_under_the_same_weights(
    zoo: Path, painted: Path, tmp_path: Path, store: Path
) -> None:
    folder = save_library_clip(tmp_path / "clip")
    spec = f"transformers:local-dir:{folder}"
    first = clip_t(zoo, painted, spec)
    assert clip_t(zoo, painted, spec) == first
    fingerprint = load_embedder(spec, device="cpu").fingerprint
    ends, words = list(LETTERS)[:2], list(LETTERS)[2:]
    save_tokenizer(folder, {word: i for i, word in enumerate([*ends, *reversed(words)])})
    assert load_embedder(spec, device="cpu").fingerprint == fingerprint
    second = clip_t(zoo, painted, spec)
    assert abs(second - first) > 1e-3
    shutil.rmtree(store)
    assert clip_t(zoo, painted, spec) == second


def test_a_second_evaluation_builds_no_network_for_the_texts(
    zoo: Path, painted: Path, clip: Path, store: Path, tmp_path: Path
) -> None:
    for spec in f"open_clip:local-dir:{clip}", f"transformers:local-dir:{save_library_clip(tmp_path / 'clip')}":
        for is_built in True, False:
            judge = load_embedder(spec, device="cpu", memo=store)
            plain = load_embedder("classical", device="cpu", memo=store)
            evaluate(Gallery.open(zoo), [Run.open(painted)], [plain], store, Options(prompt_judge=judge))
            assert ("model" in vars(judge)) == is_built, spec


def test_a_tokenizer_out_of_reach_or_of_another_model_is_said_in_one_line(
    zoo: Path, painted: Path, tmp_path: Path
) -> None:
    hub: dict[str, Any] = TEXT_SIDE | {"hf_tokenizer_name": "nobody/none"}
    specs = [
        f"open_clip:local-dir:{save_clip(tmp_path / 'hub', text=hub)}",
        f"open_clip:local-dir:{save_clip(tmp_path / 'small')}",  # of 64 words, without a tokenizer of its own
        f"transformers:local-dir:{save_library_clip(tmp_path / 'fewer', n_words=5)}",
    ]
    for spec in specs:
        line = refused_here("evaluate", "-g", zoo, "-r", painted, "-e", "classical", "--clip-t", spec)
        assert lacking(line, f"{spec}: cannot embed texts", "needs the tokenizer") == []


FETCH = """
import sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers, torch
from finer_rank import main
sys.argv[1:1] = ["embedder", "fetch"]
main()
"""
TEXT_ROWS = """
import sys
from benchmark.embedders import load_embedder
print(load_embedder(sys.argv[1], device="cpu").embed_texts(["a dog"]).shape)
"""


def test_a_fetch_brings_the_tokenizer_too(tmp_path: Path) -> None:
    spec = "transformers:hf-hub:me/clip"
    with Hub() as hub:
        hub.publish("me/clip", save_library_clip(tmp_path / "clip"), "0" * 40)
        user = User(hub, tmp_path / "home")
        process = user.start(FETCH, spec)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "ready" in out
        assert "not for prompts" not in err
    assert user.has(TEXT_ROWS, spec, HF_HUB_OFFLINE=1) == ["(1, 16)"]


def test_a_fetch_without_a_tokenizer_is_noted_and_no_error(tmp_path: Path) -> None:
    spec = f"open_clip:local-dir:{save_clip(tmp_path)}"
    done = run_here("embedder", "fetch", spec, "--json")
    assert done.returncode == 0, done.stderr
    assert f"note: ready for images, not for prompts (--clip-t): {spec}: cannot embed texts" in done.stderr
    assert len(json.loads(done.stdout)) == 1


# ---- one network


def test_an_encoder_that_also_judges_prompts_is_built_once(
    zoo: Path, painted: Path, clip: Path, store: Path, tmp_path: Path
) -> None:
    gallery, runs = Gallery.open(zoo), [Run.open(painted)]
    other = shutil.copytree(clip, tmp_path / "other")
    (other / "tokenizer.json").write_text("{}")
    for folder, is_shared in (clip, True), (other, False):
        shutil.rmtree(store, ignore_errors=True)
        asked = load_embedder(f"open_clip:local-dir:{clip}", device="cpu", memo=store)
        judge = load_embedder(f"open_clip:local-dir:{folder}", device="cpu", memo=store)
        [found] = evaluate(gallery, runs, [asked], store, Options(prompt_judge=judge))
        assert found.records[0].summary["prompt_fidelity"]["n_queries"] == 4
        assert "model" in vars(asked)
        assert ("model" in vars(judge)) != is_shared
