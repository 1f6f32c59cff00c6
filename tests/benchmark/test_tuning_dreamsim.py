"""DreamSim's recipe: what a made judge saw is learned, by updates of a transformer and by a head on any encoder."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import lacking
from in_process import run_here
from judged_pictures import Rule, write_triplets
from networks import save_timm
from pytest import approx
from safetensors.torch import load_file

from benchmark.distances import Resources, load_distance
from benchmark.embedders import load_embedder
from benchmark.embedders.concatenated import residual_head, through
from benchmark.human_agreement.compared import distances_of
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.judgements import Judgements
from benchmark.human_judgements.sources import load_judgements
from benchmark.tuning import dreamsim
from benchmark.tuning.dreamsim_settings import Settings
from benchmark.tuning.dreamsim_triplets import choose_sides

Made = Callable[[str, str], dreamsim.Tuned]
RULES: tuple[Rule, Rule] = ("colour", "shape")
OTHER = dict(zip(RULES, RULES[::-1], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triplets as either judge sees them, `colour` and `shape`; the same of other pictures, `new-…`; a small ViT."""
    folder = tmp_path_factory.mktemp("judged")
    for rule in RULES:  # drawn so that the untrained network hears both judges as often as chance does
        write_triplets(folder / rule, rule, 160, drawing="inked", tint=0.35, ground=190)
        write_triplets(folder / f"new-{rule}", rule, 100, seed=1, drawing="inked", tint=0.35, ground=190)
    save_timm(folder / "vit.safetensors")
    return folder


def judged(folder: Path, rule: str, new: bool = False) -> Judgements:
    return load_judgements([folder / (f"new-{rule}" if new else rule) / f"{rule}.csv"])


def tune(
    judgements: Judgements, settings: Settings, out: Path, store: Path | None = None, **options: Any
) -> dreamsim.Tuned:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resources = Resources(store or out.parent / "store", warn=lambda line: None)
        return dreamsim.tune(judgements, settings, out, resources, **{"device": "cpu", "resume": False, **options})
    finally:
        torch.set_num_threads(threads)


def lora(folder: Path, **options: Any) -> Settings:
    backbone = f"timm:test_vit@{folder / 'vit.safetensors'}"
    own = {"size": 64, "learning_rate": 3e-3, "epochs": 4, "batch_size": 8, "held_out": 0.25}
    return Settings((backbone,), **{**own, **options})


def mlp(folder: Path, **options: Any) -> Settings:
    own = {"hidden": 256, "epochs": 15, "batch_size": 16, "learning_rate": 6e-3}
    return lora(folder, method="mlp", **{**own, **options})


def agreement(spec: str, judgements: Judgements, store: Path, **options: Any) -> float:
    """2AFC score of an embedder, as anybody measures it."""
    found = distances_of(judgements, load_distance(spec, device="cpu", **options), Resources(store))
    votes = np.array([row.answer for row in judgements.rows])
    return float(two_afc_scores(found[:, 0], found[:, 1], votes).mean())


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Made:
    """What comes of tuning by a method to a judge, made when it is first asked for; the images are embedded once."""

    @cache
    def made(method: str, rule: str) -> dreamsim.Tuned:
        return tune(
            judged(folder, rule), lora(folder) if method == "lora" else mlp(folder), folder / f"{method}-{rule}"
        )

    return made


@pytest.mark.parametrize("method", ["lora", "mlp"])
@pytest.mark.parametrize("rule", RULES)
def test_the_rule_that_was_shown_is_learned_and_the_other_unlearned(
    tuned: Made, folder: Path, method: str, rule: str
) -> None:
    """On pictures of neither training nor judging, too."""
    found, store = tuned(method, rule), folder / "store"
    before, after = (
        {each: agreement(spec, judged(folder, each, new=True), store, **size) for each in RULES}
        for spec, size in ((lora(folder).backbones[0], {"size": 64}), (f"checkpoint:{found.out}", {}))
    )
    assert all(0.4 < before[each] < 0.6 for each in RULES)
    assert after[rule] >= 0.85
    assert after[OTHER[rule]] < before[OTHER[rule]] - 0.2
    assert 0.4 < found.comparison.before.value < 0.6
    assert found.comparison.after.value >= 0.85
    assert found.comparison.has_helped
    assert found.lines()[1].startswith("tuning helped: +0.")


@pytest.mark.parametrize("method", ["lora", "mlp"])
def test_what_is_written_is_what_was_judged_by_targets_held_out(tuned: Made, folder: Path, method: str) -> None:
    found, judgements = tuned(method, "shape"), judged(folder, "shape")
    settings = lora(folder) if method == "lora" else mlp(folder)
    sides = choose_sides(judgements, settings.held_out, settings.seed)
    held_out = judgements.only(targets=set(sides.tested.targets))
    assert set(sides.tested.targets).isdisjoint(sides.trained.targets + sides.validated.targets)
    assert len(held_out.rows) == found.comparison.n_triplets
    score = agreement(f"checkpoint:{found.out}", held_out, folder / "store")
    assert score == approx(found.comparison.after.value, abs=1e-12)


def test_the_update_is_of_low_rank_and_of_the_attentions_input_alone(tuned: Made, folder: Path) -> None:
    found = tuned("lora", "shape")
    before, after = load_file(folder / "vit.safetensors"), load_file(found.out / "model.safetensors")
    same_shape = {key for key in after if before[key].shape == after[key].shape}  # positions are fewer at 64 pixels
    changed = {key for key in same_shape if not torch.equal(before[key], after[key])}
    assert changed == {f"blocks.{i}.attn.qkv.weight" for i in range(6)}
    for key in changed:
        values = torch.linalg.svdvals((after[key] - before[key]).double())
        assert (values > 1e-4 * values[0]).sum() <= 16
    assert found.record["n_parameters"] == 6 * 16 * (64 + 192)


def test_the_folder_says_how_it_was_made(tuned: Made, folder: Path) -> None:
    rule, found = "shape", tuned("lora", "shape")
    text = (found.out / "embedder.toml").read_text()
    card = tomllib.loads(text)
    made = card["training"]
    assert (card["family"], card["architecture"], card["dimension"]) == ("timm", "test_vit", 64)
    assert made["2AFC_after"]["value"] == found.comparison.after.value
    command = made["command"]
    assert not lacking(command, f"{rule}.csv --recipe dreamsim", "test_vit@vit.safetensors", "--epochs 4", "--size 64")
    assert "--rank" not in command
    assert str(folder) not in text
    epochs = json.loads((found.out / "training.json").read_text())["epochs"]
    assert [each["epoch"] for each in epochs] == list(range(5))
    best = min(epochs, key=lambda each: each["validation_loss"])
    assert best["epoch"] == found.comparison.best_epoch
    shown = json.loads(run_here("embedder", "show", f"checkpoint:{found.out}", "--json").stdout)
    assert shown["trained_on"] is None
    assert not lacking(shown["note"], "not known in full", f"the judgements {rule}")


def test_the_head_adds_to_its_input_what_its_tensors_say(tuned: Made, folder: Path) -> None:
    out = tuned("mlp", "shape").out
    images = judged(folder, "shape", new=True).images[:5]
    backbone = load_embedder(lora(folder).backbones[0], device="cpu", resize="squash", size=64)
    rows = backbone.embed(images).astype(np.float64)
    w = {key: value.numpy().astype(np.float64) for key, value in load_file(out / "model.safetensors").items()}
    scaled = rows * np.sqrt(rows.shape[1])
    expected = scaled + np.maximum(scaled @ w["0.weight"].T + w["0.bias"], 0) @ w["2.weight"].T + w["2.bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(load_embedder(f"checkpoint:{out}", device="cpu").embed(images) - expected).max() <= 1e-6


def test_an_untrained_head_changes_nothing_and_has_the_papers_number_of_parameters() -> None:
    head = residual_head(1792, 512)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_837_312
    rows = torch.nn.functional.normalize(torch.randn(3, 1792, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert torch.allclose(torch.nn.functional.normalize(through(head, rows), dim=-1), rows, atol=1e-7)


def test_the_loss_of_a_case_worked_by_hand() -> None:
    to_a, to_b = torch.tensor([0.4, 0.2, 0.3, 0.3]), torch.tensor([0.2, 0.4, 0.3, 0.28])
    found = dreamsim.hinge_loss(to_a, to_b, torch.tensor([1.0, 1.0, 0.0, 1.0]), 0.05)
    assert found.item() == approx(0.0825, abs=1e-7)


def test_adapters_of_a_vit_b_have_the_papers_number_of_parameters() -> None:
    import timm
    from peft import LoraConfig, inject_adapter_in_model

    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    inject_adapter_in_model(LoraConfig(r=16, target_modules=["qkv"]), vit)
    assert sum(p.numel() for name, p in vit.named_parameters() if "lora_" in name) == 589_824


def test_the_same_seed_gives_the_same_files_and_another_does_not(tuned: Made, folder: Path) -> None:
    judgements, found = judged(folder, "shape"), tuned("mlp", "shape")
    shuffled = replace(judgements, rows=judgements.rows[::-1])
    (folder / "again").mkdir()
    again = tune(shuffled, mlp(folder), folder / "again" / found.out.name, store=folder / "store")
    for name in ("model.safetensors", "embedder.toml", "training.json"):
        assert (again.out / name).read_bytes() == (found.out / name).read_bytes()
    other = tune(judgements, mlp(folder, seed=7), folder / "other")
    assert (other.out / "model.safetensors").read_bytes() != (found.out / "model.safetensors").read_bytes()


def test_the_command_embeds_no_image_twice(tuned: Made, folder: Path, tmp_path: Path) -> None:
    found, store = tuned("mlp", "shape"), folder / "store"
    held = {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")}
    options = ("--backbone", lora(folder).backbones[0], "--method", "mlp", "--hidden", 256, "--batch-size", 16)
    table, rate = (
        folder / "shape" / "shape.csv",
        ("--learning-rate", 6e-3, "--epochs", 15, "--size", 64, "--held-out", 0.25, "--device", "cpu"),
    )
    out = tmp_path / "by-command"
    done = run_here("agreement", "tune", table, "--recipe", "dreamsim", *options, *rate, "--store", store, "--out", out)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.parquet")} == held
    assert done.stdout.splitlines()[:2] == found.lines()[:2]
    assert f"checkpoint:{out}" in done.stdout
    assert (out / "model.safetensors").read_bytes() == (found.out / "model.safetensors").read_bytes()
