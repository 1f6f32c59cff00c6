"""Scores inside a training: those of `evaluate`, without a trace in the training; and what is refused."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animals import draw, write_zoo
from handmade import Cli, files_below, rows_of, write_rows
from networks import TEXT_SIDE, save_clip
from PIL import Image
from pytest import approx

from benchmark.embedders import Embedder, load_embedder
from benchmark.identity_callback import IdentityCallback, callbacks_for
from benchmark.protocol import Evaluation, Options, evaluate
from benchmark.training_curve import TrainingCurve
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.prompt_sets import read_prompts
from personalization_runs.run import Run

N_DOGS = 4 + 4 + 3 + 2
"""Gallery photos of both dogs, stray dogs, and the references of rex."""


@pytest.fixture(scope="module")
def classical() -> Embedder:
    return load_embedder("classical")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """Of random weights, with a text side."""
    return load_embedder(f"open_clip:local-dir:{save_clip(tmp_path_factory.mktemp('clip'), text=TEXT_SIDE)}")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def callback(zoo: Path, classical: Embedder, store: Path, tmp_path: Path) -> Callable[..., IdentityCallback]:
    """A callback for rex, with other arguments where given."""

    def make(gallery: Path = zoo, identity: str = "rex", **more: Any) -> IdentityCallback:
        given = {"embedder": classical, "class_word": "dog", "out": tmp_path / "out", "store": store, "every": 10}
        return IdentityCallback(gallery, identity, **given | more)

    return make


def learning(folder: Path, step: int, animal: str = "rex") -> Callable[[list[str], list[int]], list[Image.Image]]:
    """What a generator makes that has learned an animal by step 30, and shows fido until step 10."""

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        assert len(prompts) == len(seeds)
        who, likeness = ("fido", 0.5) if step < 10 else (animal, 0.2 + step / 60)
        return [Image.open(draw(folder / f"{who}_{step}_{seed}.png", who, seed, likeness)) for seed in seeds]

    return generate


def evaluated(gallery: Path, pictures: Path, folder: Path, embedder: Embedder, store: Path, **more: Any) -> Evaluation:
    """What `evaluate` says of a step's pictures of rex, as a run."""
    prompts = {p.prompt_id: p.text("dog", "sks") for p in read_prompts(["reid"])}
    rows = []
    for path in sorted(pictures.glob("*.png")):
        target = folder / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
        rows.append({"file_name": path.name, "identity": "rex", "prompt": prompts[path.stem.rpartition("_")[0]]})
    write_rows(folder / "metadata.csv", rows)
    (folder / "run.toml").write_text('model = "learner"\nidentifier = "sks"\n')
    [found] = evaluate(Gallery.open(gallery), [Run.open(folder)], [embedder], store, Options(**more))
    return found


@pytest.mark.parametrize("encounters", [False, True])
def test_a_steps_scores_are_those_that_evaluate_gives_its_pictures(
    callback: Callable[..., IdentityCallback], classical: Embedder, clip: Embedder, store: Path, tmp_path: Path,
    encounters: bool,
) -> None:  # fmt: skip
    zoo = write_zoo(tmp_path / "zoo", encounters)
    scorer = callback(zoo, n_images=2, n_prompts=3, identifier="sks", prompt_embedder=clip)
    for step in (0, 20):
        scored = scorer.score(step, learning(tmp_path, step))
        assert scored
        pictures = tmp_path / "out" / f"step-{step:06d}"
        assert len(list(pictures.iterdir())) == scored.n_images == 6
        run = tmp_path / f"run{step}"
        summary = evaluated(zoo, pictures, run, classical, store, prompt_judge=clip).records[0].summary
        assert scored.mAP == approx(summary["scores"]["mAP"]["value"], abs=1e-12)
        assert approx(summary["scores"]["AUC"]["value"], abs=1e-12) == scored.AUC
        assert scored.similarity == approx(summary["pairwise_similarity"]["value"], abs=1e-6)
        assert summary["pairwise_similarity"]["to"] == "all_references"
        bare = summary["prompt_fidelity"]["clip_t_without_identifier"]["value"]
        assert scored.clip_t == approx(bare, abs=1e-6)
        assert scorer.curve.chance == approx(summary["matched_anchors"]["chance"], abs=1e-12)
        assert scorer.curve.held_out == approx(summary["matched_anchors"]["held_out"], abs=1e-12)
    assert [s.step for s in scorer.curve.steps] == [0, 20]


def test_the_gallery_is_embedded_once_and_a_call_embeds_the_pictures_alone(
    callback: Callable[..., IdentityCallback], zoo: Path, classical: Embedder, store: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    passed: list[int] = []
    forward = Embedder.forward
    monkeypatch.setattr(Embedder, "forward", lambda self, batch: passed.append(len(batch)) or forward(self, batch))
    assert callback().n_forward_passes == sum(passed) == N_DOGS
    again = callback()
    assert again.n_forward_passes == 0
    again.score(0, learning(tmp_path, 0))
    again.score(10, learning(tmp_path, 10))
    assert passed[-2:] == [4, 4]
    assert sum(passed) == N_DOGS + 8
    [found] = evaluate(Gallery.open(zoo), [], [classical], store)
    assert found.n_forward_passes == found.n_distinct - N_DOGS


def test_it_acts_at_every_so_many_steps_at_the_first_and_at_the_last(
    callback: Callable[..., IdentityCallback], tmp_path: Path
) -> None:
    scorer = callback(last=25)
    for step in range(26):
        scorer(step, learning(tmp_path, step))
    assert [s.step for s in scorer.curve.steps] == [0, 10, 20, 25]


def test_the_step_at_which_identity_is_learned_is_picked(
    callback: Callable[..., IdentityCallback], tmp_path: Path
) -> None:
    scorer = callback()
    for step in (0, 10, 20, 30):
        scorer(step, learning(tmp_path, step))
    by_step = {s.step: s.mAP for s in scorer.curve.steps}
    assert by_step[0] < scorer.curve.chance + 0.1 < by_step[30]
    best = scorer.best()
    assert best.scored.mAP == max(by_step.values()) == by_step[best.scored.step]
    assert best.reason.endswith("of the 4 steps, prompts not looked at")


def test_a_training_is_the_same_with_the_callback_and_without(
    callback: Callable[..., IdentityCallback], tmp_path: Path
) -> None:
    def greedy(step: int) -> Callable[[list[str], list[int]], list[Image.Image]]:
        def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
            torch.randn(5), np.random.rand(5), random.random()
            assert not torch.is_grad_enabled()
            return learning(tmp_path, step)(prompts, seeds)

        return generate

    def trained(is_watched: bool) -> tuple[torch.Tensor, float, float]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        scorer = callback(out=None, every=1) if is_watched else None
        layer = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for step in range(3):
            if scorer:
                scorer(step, greedy(step))
            optimizer.zero_grad()
            layer(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
        return layer.weight.detach(), np.random.rand(), random.random()

    watched, alone = trained(True), trained(False)
    assert torch.equal(watched[0], alone[0])
    assert watched[1:] == alone[1:]


def test_the_precision_of_the_loop_is_not_that_of_the_encoders(
    callback: Callable[..., IdentityCallback], clip: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"embedder": clip, "prompt_embedder": clip, "out": None}
    expected = callback(**given).score(0, learning(tmp_path, 0))
    seen: list[tuple[str, str]] = []
    forward = Embedder.forward

    def watched(self: Embedder, batch: Any) -> Any:
        torch.backends.cudnn.allow_tf32 = False  # as loading on a GPU does
        seen.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
        return forward(self, batch)

    monkeypatch.setattr(Embedder, "forward", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert callback(**given, store=tmp_path / "new store").score(0, learning(tmp_path, 0)) == expected
        assert set(seen) == {("none", "ieee")}
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_training_that_starts_again_replaces_the_steps_after_its_checkpoint(
    callback: Callable[..., IdentityCallback], tmp_path: Path
) -> None:
    first = callback()
    for step in (0, 10, 20, 30):
        first(step, learning(tmp_path, step))
    assert TrainingCurve.read(tmp_path / "out" / "curve.csv") == first.curve
    before = first.curve.steps
    again = callback()
    assert again.curve == first.curve
    again(15, learning(tmp_path, 15))
    assert again.curve.steps == before
    again(20, learning(tmp_path, 0))
    assert again.curve.steps[:2] == before[:2]
    assert [s.step for s in again.curve.steps] == [0, 10, 20]
    assert again.curve.steps[2].mAP != before[2].mAP
    assert TrainingCurve.read(tmp_path / "out" / "curve.csv") == again.curve
    assert {name for name in files_below(tmp_path / "out") if "/" not in name} == {
        "curve.csv", "step-000000", "step-000010", "step-000020"
    }  # fmt: skip
    with pytest.raises(FinerRankError, match="a curve of another gallery, encoder, prompts or seed"):
        callback(seed=1)
    with pytest.raises(FinerRankError, match="a curve of another identity"):
        callback(identity="fido")


def test_pictures_that_a_filter_kept_back_are_left_out(
    callback: Callable[..., IdentityCallback], tmp_path: Path
) -> None:
    warnings: list[str] = []
    scorer = callback(warn=warnings.append)
    whole = scorer.score(0, learning(tmp_path, 20))
    part = scorer.score(10, lambda p, s: [None, *learning(tmp_path, 20)(p[1:], s[1:])])
    assert whole
    assert part
    assert (whole.n_images, part.n_images) == (4, 3)
    assert len(list((tmp_path / "out" / "step-000010").iterdir())) == 3
    assert scorer.score(20, lambda p, s: [None] * 4) is None
    assert [s.step for s in scorer.curve.steps] == [0, 10]
    assert warnings == ["step 20: not scored, as a filter kept all 4 pictures back"]


def test_numbers_are_logged_where_the_user_looks(
    callback: Callable[..., IdentityCallback], clip: Embedder, tmp_path: Path
) -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.seen.append((tag, value, step))

    class WandbRun:
        def __init__(self) -> None:
            self.seen: list[tuple[dict[str, float], int]] = []

        def log(self, values: dict[str, float], step: int) -> None:
            self.seen.append((values, step))

    board, wandb = Writer(), WandbRun()
    scored = callback(logger=board, out=None).score(10, learning(tmp_path, 10))
    assert scored
    of_identity = {"map": scored.mAP, "auc": scored.AUC, "similarity": scored.similarity}
    expected = {f"finer_rank/{name}": value for name, value in of_identity.items()}
    assert board.seen == [(tag, value, 10) for tag, value in expected.items()]
    scored = callback(logger=wandb, out=None, prompt_embedder=clip).score(10, learning(tmp_path, 10))
    assert scored
    assert wandb.seen == [({**expected, "finer_rank/clip_t": scored.clip_t}, 10)]


def test_tensorboard_reads_what_was_logged(callback: Callable[..., IdentityCallback], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="a choice of the user's, and no dependency: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scored = callback(logger="tensorboard").score(10, learning(tmp_path, 10))
    assert scored
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    [event] = events.Scalars("finer_rank/map")
    assert (event.step, event.value) == (10, approx(scored.mAP, abs=1e-6))


@pytest.mark.parametrize("package", ["torch.utils.tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_refused(
    callback: Callable[..., IdentityCallback], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    name = package.rpartition(".")[2]
    with pytest.raises(FinerRankError, match=f"logger '{name}': not installed; run: pip install {name}"):
        callback(logger=name)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(FinerRankError) as caught:
        make()
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"identity": "rx"}, "identity 'rx': not in this gallery; did you mean 'rex'?"),
        ({"identity": "stray 1", "n_prompts": 0}, "n_prompts 0: out of range"),
        ({"every": 0}, "every 0: out of range"),
        ({"prompts": ("nowhere",)}, "--prompts nowhere: no such file"),
        ({"identifier": "dog"}, "is a word of the class itself"),
        ({"embedder": "nothing:known"}, "nothing"),
        ({"prompt_embedder": "classical"}, "classical: has no text side"),
        ({"logger": "paper"}, "logger 'paper': has neither add_scalar nor log"),
        ({"logger": "tensorboard", "out": None}, "logger 'tensorboard': nowhere to write; give out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    callback: Callable[..., IdentityCallback], given: dict[str, Any], message: str
) -> None:
    assert message in refusal(lambda: callback(**given))


def test_a_gallery_that_cannot_tell_is_refused(callback: Callable[..., IdentityCallback], tmp_path: Path) -> None:
    def spoilt(number: int, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
        folder = write_zoo(tmp_path / f"zoo{number}")
        write_rows(folder / "metadata.csv", [change(row) for row in rows_of(folder)])
        return folder

    none = spoilt(0, lambda row: row | {"split": "gallery"} if row["identity"] == "rex" else row)
    assert "identity 'rex': no reference photo; set one aside" in refusal(lambda: callback(none))
    alone = spoilt(1, lambda row: row | {"category": row["identity"]} if row["identity"] == "rex" else row)
    assert "its category 'rex' shows nobody else" in refusal(lambda: callback(alone))
    one = spoilt(2, lambda row: row | {"encounter": "walk"} if row["identity"] == "rex" else row | {"encounter": ""})
    assert "no gallery photo that its references do not give away" in refusal(lambda: callback(one))
    gone = spoilt(3, lambda row: row)
    (gone / "images" / "rex_3.png").unlink()
    assert "rex_3.png" in refusal(lambda: callback(gone))
    copied = spoilt(4, lambda row: row)
    (copied / "images" / "rex_3.png").write_bytes((copied / "images" / "rex_0.png").read_bytes())
    assert "same bytes as the reference images/rex_0.png" in refusal(lambda: callback(copied))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda p, s: [Image.new("RGB", (32, 32))], "generate: 1 images for 4 prompts; return one for each"),
        (lambda p, s: [np.zeros((32, 32, 3))] * 4, "generate: image 0 is of type ndarray; return PIL images"),
        (lambda p, s: None, "generate: returned NoneType; return a list of PIL images"),
        (lambda p, s: Image.new("RGB", (32, 32)), "generate: returned Image; return a list of PIL images"),
    ],
)
def test_something_else_than_a_picture_for_each_prompt_is_refused(
    callback: Callable[..., IdentityCallback], made: Any, message: str, tmp_path: Path
) -> None:
    scorer = callback()
    assert message in refusal(lambda: scorer(0, made))
    assert not (tmp_path / "out").exists()
    assert "step -1" in refusal(lambda: scorer.score(-1, made))


def test_a_folder_that_cannot_be_written_is_named(callback: Callable[..., IdentityCallback], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scorer = callback(out=tmp_path / "file" / "out")
    assert "cannot be written (Not a directory)" in refusal(lambda: scorer(0, learning(tmp_path, 0)))


def test_options_of_a_command_make_the_callbacks_of_several_identities(zoo: Path, store: Path, tmp_path: Path) -> None:
    make = callbacks_for(
        Gallery.open(zoo), every=5, embedder="classical", device="cpu", store=store, prompts=("reid",), n_prompts=1
    )
    rex, fido = make("rex", out=tmp_path / "rex"), make("fido", out=tmp_path / "fido", class_word="dog", last=3)
    assert rex.embedder is fido.embedder
    assert (rex.every, fido.last, rex.prompt_embedder) == (5, 3, None)
    rex(0, learning(tmp_path, 0))
    assert files_below(tmp_path / "rex") == {"curve.csv", "step-000000", "step-000000/meadow_0.png"}


def test_the_example_of_the_docs_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ("--species", 1, "--identities", 3, "--photos", 3)
    assert cli("gallery", "build", "critters", *world, "--out", tmp_path / "critters").returncode == 0
    page = (Path(__file__).parents[2] / "docs" / "training-callback.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code.replace("n_images=4", "n_images=1").replace("1001", "101"), {"__name__": "example"})
    found = TrainingCurve.read(tmp_path / "curve" / "curve.csv")
    assert [s.step for s in found.steps] == [0, 100]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' schedulers
def test_a_pipeline_is_left_as_it_was(zoo: Path, store: Path, tmp_path: Path, classical: Embedder) -> None:
    from diffusers import StableDiffusionXLPipeline
    from tiny.sdxl import save_sdxl

    pipeline = StableDiffusionXLPipeline.from_pretrained(save_sdxl(tmp_path / "sdxl"), local_files_only=True)
    pipeline.set_progress_bar_config(desc="mine", disable=True)
    options = {"num_inference_steps": 2, "width": 32, "height": 32}
    scorer = IdentityCallback(
        zoo, "rex", embedder=classical, class_word="dog", n_prompts=2, pipeline_options=options, store=store,
        out=tmp_path / "out",
    )  # fmt: skip
    pipeline.unet.train()
    pipeline.unet.mid_block.eval()
    pipeline.scheduler.set_timesteps(7)
    scheduler, timesteps = pipeline.scheduler, pipeline.scheduler.timesteps.clone()
    is_training = [module.training for module in pipeline.unet.modules()]
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    first = scorer.score(0, pipeline)
    assert torch.equal(torch.randn(4), expected)
    assert [module.training for module in pipeline.unet.modules()] == is_training
    assert pipeline.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, timesteps)
    assert pipeline._progress_bar_config == {"desc": "mine", "disable": True}
    second = scorer.score(1, pipeline)
    assert first
    assert second
    assert first.mAP == second.mAP
    pipeline.unet.eval()
    request = scorer._requests[0]
    made = pipeline(request.text, generator=torch.Generator("cpu").manual_seed(request.seed), **options).images[0]
    assert np.array_equal(np.asarray(made), np.asarray(Image.open(tmp_path / "out" / "step-000001" / "meadow_0.png")))
