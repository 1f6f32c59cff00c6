"""What a run consists of and costs, and which orders for one are refused before anything is made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import Cli, Refusal, lacking

from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.plans import Settings, make_plan, make_run
from personalization_runs.prompt_sets import read_prompts
from personalization_runs.requests import plan_requests

COPY = ("run", "generate", "-m", "copy-reference", "--prompts", "reid")


def test_neither_order_nor_neighbours_move_seed_and_reference(zoo: Path) -> None:
    gallery, prompts = Gallery.open(zoo), read_prompts(["reid", "cub=cub"])
    plan = plan_requests(gallery, prompts, METHODS["img2img"], seed=3, n_images=2)
    alone = plan_requests(gallery, prompts[::-1], METHODS["ip-adapter"], seed=3, n_images=3, include=["to*"])
    shared = {(r.identity, r.prompt_id, r.number): r for r in plan}
    for request in (r for r in alone if r.number < 2):
        other = shared[request.identity, request.prompt_id, request.number]
        assert (request.seed, request.reference, request.text) == (other.seed, other.reference, other.text)
    assert len({request.seed for request in plan}) == len(plan) == 2 * 10 * 2
    assert {r.seed for r in plan}.isdisjoint(r.seed for r in plan_requests(gallery, prompts, METHODS["img2img"]))


def test_the_plan_is_told_without_weights_or_network(zoo: Path, tmp_path: Path, cli: Cli) -> None:
    methods = ("class-only", "img2img", "copy-reference", "flux-kontext")
    order = ["run", "generate", "-g", zoo, "--prompts", "reid", "--images", 3, "--dry-run", "--out", tmp_path / "runs"]
    order += [word for name in methods for word in ("--method", name)]
    told = json.loads(cli(*order, "--json").stdout)
    assert [run["images"] for run in told["runs"]] == [60] * 4
    hours = sum(60 * METHODS[name].image_seconds for name in methods) / 3600
    assert told["total"]["gpu_hours"] == pytest.approx(hours, abs=0.01)
    sdxl, flux = (METHODS[name].weights["base"] for name in ("class-only", "flux-kontext"))
    assert told["total"]["download_gb"] == pytest.approx(sdxl.gigabytes + flux.gigabytes)  # what two share once
    assert told["total"]["gated"] == [flux.repository]
    text = cli(*order).stdout
    assert not lacking(text, "240 images", "400 TFLOP/s", f"https://huggingface.co/{flux.repository}")
    fewer = json.loads(cli(*order, "--set", "steps=25", "--json").stdout)
    assert fewer["total"]["gpu_hours"] < told["total"]["gpu_hours"]
    assert not (tmp_path / "runs").exists()


REFUSED = {
    "unknown method": (("-m", "ip_adapter"), ("--method ip_adapter", "'ip-adapter'")),
    "unknown prompts": (("-m", "img2img", "--prompts", "moon"), ("--prompts moon", "dreambooth-live")),
    "unknown parameter": (("-m", "img2img", "--set", "step=3"), ("--set step=3", "steps=50")),
    "no number": (("-m", "img2img", "--set", "steps=many"), ("steps is no int",)),
    "no steps": (("-m", "img2img", "--set", "steps=0"), ("at least 1",)),
    "far too many steps": (("-m", "img2img", "--set", f"steps={10**400}", "--dry-run"), ("at most 1000000",)),
    "half a letter": (("-m", "img2img", "--class-word", "\udcff"), ("not UTF-8",)),
    "weights of a long name": (("-m", "img2img", "--weights", "x" * 300), ("File name too long", "--weights")),
    "nobody's home": (("-m", "img2img", "--weights", "~nobody-at-all/x"), ("~nobody-at-all/x", "cannot be fetched")),
    "prompts of a long name": (("-m", "img2img", "--prompts", "x" * 300), ("File name too long", "--prompts")),
    "a shard without end": (("-m", "img2img", "--shard", f"1/{'9' * 5000}"), ("--shard 1/99", "I/N")),
    "unknown role": (("-m", "img2img", "--weights", "lora=x/y"), ("no weights 'lora'", "base")),
    "no such folder": (("-m", "img2img", "--weights", "nowhere"), ("--weights nowhere", "no such folder")),
    "no pipeline": (("-m", "img2img", "--weights", "."), ("no AutoPipelineForImage2Image", "whole repository")),
    "no such shard": (("-m", "img2img", "--shard", "3/2"), ("--shard 3/2", "I/N")),
    "no token needed": (("-m", "img2img", "--identifier", "sks"), ("without a token",)),
    "nobody": (("-m", "img2img", "--include", "cat*"), ("no identity", "--include")),
    "out of reach": (("-m", "img2img"), ("stabilityai/stable-diffusion-xl-base-1.0", "HF_HUB_OFFLINE", "hf download")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_order_is_answered_in_one_line_and_writes_nothing(
    zoo: Path, tmp_path: Path, refusal: Refusal, name: str
) -> None:
    words, mentions = REFUSED[name]
    prompts = () if "--prompts" in words else ("--prompts", "reid")
    line = refusal("run", "generate", "-g", zoo, *prompts, *words, "--out", tmp_path / "run", cwd=tmp_path)
    assert not lacking(line, *mentions)
    assert {path.name for path in tmp_path.iterdir()} <= {"zoo"}


def test_what_is_wrong_with_the_gallery_is_said_at_once(zoo: Path, tmp_path: Path) -> None:
    gallery = Gallery.open(zoo)
    lone = replace(gallery, photos=tuple(replace(p, category="all") for p in gallery.photos if p.split == "gallery"))
    with pytest.raises(FinerRankError) as caught:
        make_plan(lone, METHODS["img2img"], Settings(["cub"]), tmp_path / "run")
    assert not lacking(
        str(caught.value), "identity 'rex': no reference photo, which img2img needs", "identity 'tom'", "--class-word"
    )
    plan = make_plan(lone, METHODS["class-only"], Settings(["cub"], class_words=["wren"]), tmp_path / "run")
    assert plan.requests[0].text == "a photo of a wren on the branch of a tree"


def test_too_little_memory_is_said_before_anything_is_downloaded(zoo: Path, tmp_path: Path) -> None:
    huge = replace(METHODS["img2img"], memory_gb=1e6)
    plan = make_plan(Gallery.open(zoo), huge, Settings(["reid"], device="cpu"), tmp_path / "run")
    with pytest.raises(FinerRankError, match="needs about 2000000 GB in float32; nothing of its 7 GB was downloaded"):
        make_run(plan, warn=print)
    folder = tmp_path / "weights"
    (folder / "unet").mkdir(parents=True)
    for name in ("unet/model.fp16.safetensors", "all-in-one.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(10**13)  # a file of holes
    brought = replace(plan, weights={"base": (str(folder), "")}, method=METHODS["img2img"])
    with pytest.raises(FinerRankError, match="the weights alone fill 10000 GB"):
        make_run(brought, warn=print)


def test_other_files_of_one_repository_are_other_downloads(zoo: Path, tmp_path: Path, cli: Cli) -> None:
    order = ["run", "generate", "-g", zoo, "--prompts", "reid", "--dry-run", "--out", tmp_path / "runs", "--json"]
    told = json.loads(cli(*order, "-m", "ip-adapter", "-m", "ip-adapter-plus").stdout)
    adapters = [METHODS[name].weights["adapter"].gigabytes for name in ("ip-adapter", "ip-adapter-plus")]
    base = METHODS["ip-adapter"].weights["base"].gigabytes
    assert told["total"]["download_gb"] == pytest.approx(sum(adapters) + base)


def test_training_and_images_of_the_class_are_part_of_the_cost(zoo: Path, tmp_path: Path) -> None:
    def hours(*parameters: str) -> float:
        settings = Settings(["reid"], parameters=parameters)
        return make_plan(Gallery.open(zoo), METHODS["dreambooth"], settings, tmp_path / "run").gpu_hours

    method = METHODS["dreambooth"]
    images, training = 20 * method.image_seconds, 2 * method.training_seconds
    assert hours() * 3600 == pytest.approx(images + training + 100 * method.image_seconds)  # both are of one class
    assert hours("training_steps=400") * 3600 == pytest.approx(images + training / 2 + 100 * method.image_seconds)
    assert hours("prior_weight=0") * 3600 == pytest.approx(images + training)


@pytest.mark.parametrize("strength", ["0", "0.1", "1.5"])
def test_a_strength_that_leaves_no_step_is_refused(zoo: Path, tmp_path: Path, refusal: Refusal, strength: str) -> None:
    (tmp_path / "sdxl").mkdir()
    options = ("-m", "img2img", "--weights", tmp_path / "sdxl", "--set", "steps=4", "--set", f"strength={strength}")
    line = refusal("run", "generate", "-g", zoo, "--prompts", "reid", *options, "--out", tmp_path / "run")
    assert not lacking(line, f"--set strength={strength}", "1/steps (0.25)")


def test_a_run_is_not_made_where_it_would_become_a_part_of_its_gallery_or_has_no_name(
    zoo: Path, tmp_path: Path, refusal: Refusal
) -> None:
    for photo in zoo.glob("images/*.png"):
        target = tmp_path / "tree" / photo.stem.partition("_")[0] / photo.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo.read_bytes())
    order = (*COPY, "--class-word", "dog", "-g", tmp_path / "tree", "--out")
    assert "lies inside" in refusal(*order, tmp_path / "tree/run")
    (tmp_path / "empty").mkdir()
    order = (*COPY, "-g", zoo, "--out")
    assert "no name of a new folder" in refusal(*order, ".", cwd=tmp_path / "empty")
    assert "File name too long" in refusal(*order, tmp_path / ("x" * 300))
    assert "File name too long" in refusal(*order, tmp_path / ("x" * 250))
    assert not [path for path in tmp_path.rglob("*") if "generating" in path.name]
