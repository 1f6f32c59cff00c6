"""DreamSim's recipe: several encoders in one folder, tunings that are broken off, and what is refused."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tomli_w
import torch
from handmade import lacking
from in_process import refused_here, run_here
from judged_pictures import write_triplets
from networks import TINY_CLIP, save_state, save_timm
from pytest import approx
from safetensors.torch import load_file

from benchmark.distances import Resources
from benchmark.embedders import load_embedder
from benchmark.embedders.base import unit_rows
from benchmark.human_judgements.judgements import Judgement, Judgements
from benchmark.human_judgements.sources import load_judgements
from benchmark.tuning import dreamsim
from benchmark.tuning.dreamsim_lora import Adapted
from benchmark.tuning.dreamsim_settings import Settings
from benchmark.tuning.dreamsim_triplets import as_triplets, choose_sides
from galleries.console import Progress
from galleries.errors import FinerRankError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few triplets, `triplets`; a ViT of timm's and one of OpenCLIP's, which are as small as can be."""
    folder = tmp_path_factory.mktemp("few")
    write_triplets(folder / "triplets", "colour", 16, side=32)
    save_timm(folder / "vit.safetensors")
    described = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], "context_length": 77}}  # type: ignore[dict-item]
    (folder / "tiny-clip.json").write_text(json.dumps(described))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    save_state(open_clip.create_model("tiny-clip").state_dict(), folder / "clip.safetensors")
    return folder


def judged(folder: Path) -> Judgements:
    return load_judgements([folder / "triplets" / "colour.csv"])


class Drawn:
    """Pictures that are no files."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __getitem__(self, i: int) -> Any:
        return self.draw(i)


def vit(folder: Path) -> str:
    return f"timm:test_vit@{folder / 'vit.safetensors'}"


def clip(folder: Path) -> str:
    return f"open_clip:tiny-clip@{folder / 'clip.safetensors'}"


def quick(*backbones: str, **options: Any) -> Settings:
    return Settings(backbones, **{"size": 32, "epochs": 1, "batch_size": 5, "learning_rate": 1e-2, **options})


def tune(folder: Path, settings: Settings, out: Path, **options: Any) -> dreamsim.Tuned:
    resources = Resources(folder / "store", warn=lambda line: None)
    return dreamsim.tune(judged(folder), settings, out, resources, **{"device": "cpu", "resume": False, **options})


def rows(spec: str, folder: Path, **options: Any) -> Any:
    return load_embedder(spec, device="cpu", **options).embed(judged(folder).images[:4])


@pytest.fixture(scope="module")
def pair(folder: Path) -> Path:
    """What comes of both transformers together."""
    return tune(folder, quick(vit(folder), clip(folder), learning_rate=3e-3), folder / "pair").out


def test_several_encoders_stand_side_by_side_as_they_come(folder: Path, pair: Path) -> None:
    assert {path.name for path in pair.iterdir()} == {"0", "1", "embedder.toml", "training.json"}
    members = [load_embedder(f"checkpoint:{pair / name}", device="cpu").model for name in "01"]
    pictures = [judged(folder).images[i] for i in range(4)]
    from PIL import Image

    features = [
        member.forward(np.stack([member.preprocess(Image.open(path).convert("RGB")) for path in pictures]))
        for member in members
    ]
    expected = unit_rows(np.concatenate(features, axis=1))
    assert expected.shape == (4, 64 + 24)
    assert np.abs(rows(f"checkpoint:{pair}", folder) - expected).max() <= 1e-6
    assert [member.preprocessing["mean"] for member in members] == [(0.5, 0.5, 0.5), open_clip.OPENAI_DATASET_MEAN]


def test_openclips_tower_is_adapted_at_its_attentions_input_alone(folder: Path, pair: Path) -> None:
    before, after = load_file(folder / "clip.safetensors"), load_file(pair / "1" / "model.safetensors")
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {f"visual.transformer.resblocks.{i}.attn.in_proj_weight" for i in range(2)}


def test_an_untouched_openclip_embeds_as_before_it_was_fused_and_put_back(folder: Path, tmp_path: Path) -> None:
    settings = quick(clip(folder), learning_rate=1e-30, size=48)  # not the network's own
    out = tune(folder, settings, tmp_path / "out").out
    expected = rows(clip(folder), folder, resize="squash", size=48)
    assert np.abs(rows(f"checkpoint:{out}", folder) - expected).max() <= 1e-6


def test_merged_weights_embed_as_weights_with_an_update_beside_them(folder: Path) -> None:
    def pictures(i: int) -> Any:
        return np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    embedders = [load_embedder(spec, device="cpu", resize="squash", size=32) for spec in (vit(folder), clip(folder))]
    untouched = [embedder.model.module.state_dict() for embedder in embedders if embedder.model.module]
    assert len(untouched) == 2
    keys = [set(state) for state in untouched]
    adapted = Adapted(
        embedders,
        Drawn(pictures),
        rank=3,
        alpha=6.0,
        dropout=0.5,
        seed=0,
        device="cpu",  # type: ignore[arg-type]
    )
    adapted.train(False)
    with torch.inference_mode():
        plain = adapted.features([0, 1])
        for name, parameter in adapted.parameters().items():
            torch.manual_seed(len(name))
            parameter.data += torch.randn_like(parameter) * 0.1
        beside = adapted.features([0, 1])
        adapted.train(True)
        dropped = adapted.features([0, 1])
        adapted.train(False)
        adapted.merge()
        merged = adapted.features([0, 1])
    assert (merged - beside).abs().max() <= 1e-5 * beside.abs().max()
    assert (beside - plain).abs().max() > 1e-2
    assert (dropped - beside).abs().max() > 1e-3
    assert [set(embedder.model.module.state_dict()) for embedder in embedders if embedder.model.module] == keys


def test_a_class_token_before_the_norm_is_what_the_norm_is_given(folder: Path) -> None:
    from benchmark.embedders import timm
    from benchmark.embedders.base import Request

    request = Request("", "timm", "test_vit", folder / "vit.safetensors")
    raw = timm.load(replace(request, pooling=timm.BEFORE_NORM), "cpu", "fp32")
    normed = timm.load(replace(request, pooling="token"), "cpu", "fp32")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 160, 160)).astype(np.float32)
    found = raw.forward(pixels).astype(np.float64)
    assert normed.module is not None
    scale, shift = (getattr(normed.module.norm, name).numpy() for name in ("weight", "bias"))
    centred = found - found.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6) * scale + shift
    assert np.abs(normed.forward(pixels) - expected).max() <= 1e-5


def test_the_folder_is_an_encoder_like_any_other(pair: Path, zoo: Path, painted: Path, tmp_path: Path) -> None:
    out = tmp_path / "records"
    done = run_here("evaluate", "-g", zoo, "-r", painted, "-e", f"checkpoint:{pair}", "--out", out)
    assert done.returncode == 0, done.stderr
    [record] = out.glob("*/record.json")
    assert json.loads(record.read_text())["embedder"]["spec"] == "checkpoint:pair"
    done = run_here("embedder", "show", f"checkpoint:{pair}", "--json")
    assert json.loads(done.stdout)["dimension"] == 64 + 24


def change(copy: Path, entry: str, value: Any) -> None:
    described = tomllib.loads((copy / "embedder.toml").read_text())
    (copy / "embedder.toml").write_text(tomli_w.dumps({**described, entry: value}))


def test_any_tensor_and_any_setting_of_a_member_changes_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    out = tune(folder, quick(vit(folder), clip(folder), method="mlp", hidden=4), tmp_path / "out").out
    found = [load_embedder(f"checkpoint:{out}", device="cpu").fingerprint]
    for file in ("model.safetensors", "0/model.safetensors", "1/model.safetensors"):
        state = load_file(out / file)
        key = sorted(state)[-1]
        save_state({**state, key: state[key] + 0.01}, out / file)
        found.append(load_embedder(f"checkpoint:{out}", device="cpu").fingerprint)
    for i in "01":
        described = tomllib.loads((out / i / "embedder.toml").read_text())
        described["preprocessing"]["interpolation"] = "bilinear"
        (out / i / "embedder.toml").write_text(tomli_w.dumps(described))
    found.append(load_embedder(f"checkpoint:{out}", device="cpu").fingerprint)
    assert len(set(found)) == 5


@pytest.mark.parametrize("of_pair", [True, False])
def test_a_folder_whose_tensors_are_not_all_numbers_or_of_another_network_is_refused(
    pair: Path, folder: Path, tmp_path: Path, of_pair: bool
) -> None:
    copy = shutil.copytree(pair, tmp_path / "copy")
    member = copy / "0"
    spec, file = f"checkpoint:{copy if of_pair else member}", member / "model.safetensors"
    state = load_file(file)
    key = "blocks.1.attn.qkv.weight"  # of which attention's kernel can make finite numbers
    spoilt = state[key].clone()
    spoilt[0, 0] = float("nan")
    less = {name: value for name, value in state.items() if name != key}
    for content, mention in (
        ({**state, key: spoilt}, f"tensor {key} holds NaN"),
        (less, f"lacks tensor {key}"),
        ({**state, "extra": spoilt}, "unknown tensor extra"),
        ({**state, key: spoilt[1:]}, f"misshapen tensor {key}"),
    ):
        save_state(content, file)
        with pytest.raises(FinerRankError) as caught:
            rows(spec, folder)
        assert not lacking(str(caught.value), f"{file}: ", mention)
    save_state(state, file)
    change(member, "hidden", 4)
    with pytest.raises(FinerRankError, match="hidden is of family concatenated"):
        rows(spec, folder)


def test_a_member_that_is_a_link_is_refused(pair: Path, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(pair, tmp_path / "copy")
    shutil.rmtree(copy / "1")
    (copy / "1").symlink_to(copy)
    with pytest.raises(FinerRankError, match="1: is a link"):
        rows(f"checkpoint:{copy}", folder)


@pytest.mark.parametrize(
    ("entry", "value", "mention"),
    [
        ("members", [], "members"),
        ("members", 3, "members"),
        ("members", [{"name": "../../elsewhere", "weights_sha256": "0"}], "no name of the zoo"),
        ("members", [{"folder": "elsewhere"}], "other entries"),
        ("members", [{}, {}, {}], "2: no embedder.toml"),
        ("members", [{"name": "dino", "size": 10**6, "weights_sha256": "0"}], "size 1000000"),
        ("hidden", 0, "hidden"),
        ("hidden", 8, "model.safetensors"),
        ("dimension", 5, "says 5 numbers, its members give 88"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused(
    pair: Path, folder: Path, tmp_path: Path, entry: str, value: Any, mention: str
) -> None:
    copy = shutil.copytree(pair, tmp_path / "copy")
    change(copy, entry, value)
    with pytest.raises(FinerRankError) as caught:
        rows(f"checkpoint:{copy}", folder)
    assert not lacking(str(caught.value).replace(f"{copy}/", ""), mention)
    assert "\n" not in str(caught.value)


# ---- breaks


def broken_off_after(n_steps: int) -> Progress:
    """A display of progress at which the user presses Ctrl-C."""

    def start(label: str, total: int) -> Any:
        done = iter(range(n_steps)) if label == "tuning" else iter(range(10**6))

        def step(n: int) -> None:
            if next(done, None) is None:
                raise KeyboardInterrupt

        return step

    return start


@pytest.mark.parametrize("method", ["lora", "mlp"])
def test_a_tuning_that_was_broken_off_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path, method: str) -> None:
    own = {"backbones": (vit(folder),), "dropout": 0.3} if method == "lora" else {"backbones": (vit(folder),)}
    settings = Settings(method=method, size=32, epochs=4, batch_size=5, learning_rate=1e-2, **own)  # type: ignore[arg-type]
    (tmp_path / "whole").mkdir()
    whole = tune(folder, settings, tmp_path / "whole" / "out").out
    out = tmp_path / "out"
    resources = Resources(folder / "store", progress=broken_off_after(6), warn=lambda line: None)
    with pytest.raises(KeyboardInterrupt):  # in the middle of the third epoch
        dreamsim.tune(judged(folder), settings, out, resources, device="cpu", resume=False)
    assert not out.exists()
    with pytest.raises(FinerRankError, match="add --resume, or remove it"):
        tune(folder, settings, out)
    with pytest.raises(FinerRankError, match="of a training with another seed"):
        tune(folder, replace(settings, seed=5), out, resume=True)
    again = tune(folder, settings, out, resume=True)
    for name in ("model.safetensors", "embedder.toml", "training.json"):
        assert (again.out / name).read_bytes() == (whole / name).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_loss_that_is_no_number_is_refused_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FinerRankError, match=r"lower --learning-rate \(now 1e\+30\)"):
        tune(folder, quick(vit(folder), learning_rate=1e30, epochs=3), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---- which triplets


def judgement(target: str, *images: str, answer: float = 0.0, **more: Any) -> Judgement:
    return Judgement(tuple(map(Path, images)), answer, target, **more)


def test_rankings_and_ratings_become_all_pairs_that_differ() -> None:
    def triplets(kind: Any, *answers: float) -> list[tuple[str, ...]]:
        given = [judgement("t", "t", name, answer=answer) for name, answer in zip("abc", answers, strict=True)]
        found = as_triplets(Judgements("made", kind, Path("made.csv"), tuple(given)))
        assert found.kind == "2afc"
        assert {row.answer for row in found.rows} == {0.0}
        return sorted(tuple(map(str, row.images)) for row in found.rows)

    assert triplets("ranking", 2, 1, 3) == [("t", "a", "c"), ("t", "b", "a"), ("t", "b", "c")]
    assert triplets("ranking", 1, 1, 2) == [("t", "a", "c"), ("t", "b", "c")]
    assert triplets("rating", 0, 4, 2) == [("t", "b", "a"), ("t", "b", "c"), ("t", "c", "a")]
    with pytest.raises(FinerRankError, match="nobody puts one picture before another"):
        triplets("rating", 1, 1, 1)


def test_splits_that_the_data_name_are_kept() -> None:
    rows = [
        judgement(f"{split}{i}", f"{split}{i}", f"{split}{i}a", f"{split}{i}b", split=split)
        for split in ("train", "val", "test")
        for i in range(4)
    ]
    sides = choose_sides(Judgements("made", "2afc", Path("made.csv"), tuple(rows)), 0.2, 0)
    assert [{t[:-1] for t in side.targets} for side in (sides.trained, sides.validated, sides.tested)] == [
        {"train"}, {"val"}, {"test"}
    ]  # fmt: skip
    without_test = [row for row in rows if row.split != "test"]
    sides = choose_sides(Judgements("made", "2afc", Path("made.csv"), tuple(without_test)), 0.25, 0)
    assert {t[:-1] for t in sides.tested.targets} == {"val"}
    assert {t[:-1] for t in sides.validated.targets} == {"train"}
    assert set(sides.validated.targets).isdisjoint(sides.trained.targets)
    assert sides.notes == ()
    near = [judgement(f"near{i}", f"train{i}", f"near{i}", f"val{i}a", split="train") for i in range(4)]
    sides = choose_sides(Judgements("made", "2afc", Path("made.csv"), (*without_test, *near)), 0.25, 0)
    assert set(sides.trained.images).isdisjoint(sides.validated.images)
    assert not lacking(" ".join(sides.notes), "are left out", "share an image with one of the split val")


def test_what_shares_an_image_with_a_held_out_triplet_is_not_trained_on() -> None:
    rows = [judgement(f"{i:02d}", f"r{i}", f"a{i}", f"b{i // 2}", answer=i % 2) for i in range(40)]
    sides = choose_sides(Judgements("made", "2afc", Path("made.csv"), tuple(rows)), 0.2, 3)
    held = {*sides.tested.images, *sides.validated.images}
    assert held.isdisjoint(sides.trained.images)
    assert set(sides.tested.images).isdisjoint(sides.validated.images)
    assert len(set(sides.tested.targets)) == 8
    n_left_out = 40 - len(sides.trained.targets) - len(sides.validated.targets) - len(sides.tested.targets)
    assert sides.notes == (f"{n_left_out} triplets share an image with a held-out one and are left out",)
    assert n_left_out > 0


def test_votes_that_are_divided_equally_are_judged_but_teach_nothing() -> None:
    rows = [judgement(f"{i:02d}", f"r{i}", f"a{i}", f"b{i}", answer=0.5 if i % 2 else 1.0) for i in range(20)]
    sides = choose_sides(Judgements("made", "2afc", Path("made.csv"), tuple(rows)), 0.2, 0)
    assert {*sides.trained.share_b, *sides.validated.share_b} == {1.0}
    assert len(sides.tested.targets) == 4
    assert "teach nothing" in sides.notes[0]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "mention"),
    [
        ((), "--backbone: none is named"),
        (("--backbone", "dino", "--backbone", "dino"), "named twice"),
        (("--backbone", "ensemble:dino,clip"), "each as a --backbone of its own"),
        (("--backbone", "dino", "--method", "tune"), "write lora or mlp"),
        (("--backbone", "dino", "--hidden", 5), "--hidden: is no option of --method lora"),
        (("--backbone", "dino", "--method", "mlp", "--rank", 5), "--rank: is no option of --method mlp"),
        (("--backbone", "dino", "--network", "alex"), "--network: is no option of the recipe dreamsim"),
        (("--backbone", "dino", "--margin", 0), "--margin 0.0: out of range"),
        (("--backbone", "dino", "--dropout", 1), "--dropout 1.0: out of range"),
        (("--backbone", "dino", "--held-out", 0.5), "--held-out 0.5: out of range"),
        (("--backbone", "dino", "--learning-rate", "nan"), "--learning-rate nan: out of range"),
        (("--backbone", "classical"), "classical: no Vision Transformer of timm or open_clip"),
        (("--backbone", "torchvision:squeezenet1_1"), "or take --method mlp"),
        (("--backbone", "timm:test_vit@nowhere.pth"), "nowhere.pth"),
        (("--backbone", "timm:hf-hub:somebody/something"), "cannot be exported"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    folder: Path, tmp_path: Path, options: tuple[object, ...], mention: str
) -> None:
    table, out = folder / "triplets" / "colour.csv", tmp_path / "out"
    line = refused_here("agreement", "tune", table, "--recipe", "dreamsim", "--device", "cpu", *options, "--out", out)
    assert not lacking(line, mention)
    assert not list(tmp_path.iterdir())


def test_a_network_without_attention_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = save_timm(tmp_path / "resnet.safetensors", "test_resnet")
    with pytest.raises(FinerRankError, match="no Vision Transformer of timm or open_clip"):
        tune(folder, quick(f"timm:test_resnet@{weights}"), tmp_path / "out")


def test_too_few_targets_are_named(folder: Path) -> None:
    few = replace(judged(folder), rows=judged(folder).rows[:4])
    with pytest.raises(FinerRankError, match=r"too few targets .* give 6 or more"):
        choose_sides(few, 0.2, 0)


def test_a_missing_image_is_named_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "triplets", tmp_path / "triplets")
    given = load_judgements([copy / "colour.csv"])
    (copy / "0003-reference.png").unlink()
    with pytest.raises(FinerRankError, match=r"0003-reference\.png: no such file"):
        dreamsim.tune(
            given, quick(vit(folder)), tmp_path / "out", Resources(tmp_path / "store"), device="cpu", resume=False
        )
    assert not (tmp_path / "out").exists()


def test_twice_the_margin_on_top_of_the_worst_distance_is_the_largest_loss() -> None:
    worst = dreamsim.hinge_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([0.0]), 0.05)
    assert worst.item() == approx(2.05)
