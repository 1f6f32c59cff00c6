"""What is trained lowers its loss, changes the images of its own individual alone, and is told from what it is not."""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from handmade import Cli, Refusal
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny.flux import save_flux
from tiny.sd import save_sd
from tiny.sd3 import save_sd3
from tiny.sdxl import save_sdxl
from training_cases import PRIOR, SMALL, files, images, planned, write_dogs

from galleries.errors import FinerRankError
from personalization_runs.methods import METHODS
from personalization_runs.methods.setup import Setup
from personalization_runs.plans import Plan
from personalization_runs.training import _each_once, read_card, train_adapters
from personalization_runs.training.cards import Subject

Saved = Callable[[Any], Path]

TRAININGS = {
    "all of SD3": ("dreambooth", save_sd3, "learning_rate=0.002", 15, 0.6),
    "LoRA, SD3": ("dreambooth-lora", save_sd3, "learning_rate=0.01", 12, 0.8),
    "LoRA, SDXL": ("dreambooth-lora", save_sdxl, "learning_rate=0.02", 12, 0.98),
    "LoRA, FLUX": ("dreambooth-lora", save_flux, "learning_rate=0.01", 12, 0.8),
    "vectors, SD": ("textual-inversion", save_sd, "learning_rate=0.1", 12, 0.99),
    "vectors, SDXL": ("textual-inversion", save_sdxl, "learning_rate=0.1", 20, 0.99),
    "vectors, FLUX": ("textual-inversion", save_flux, "learning_rate=0.1", 12, 0.95),
    "keys and values, SD": ("custom-diffusion", save_sd, "learning_rate=0.02", 12, 0.95),
    "keys and values, SDXL": ("custom-diffusion", save_sdxl, "learning_rate=0.02", 12, 0.98),
    "keys and values, SD3": ("custom-diffusion", save_sd3, "learning_rate=0.01", 12, 0.8),
}
"""Method, weights, learning rate, steps, and what the loss on the probe falls below, as a share of what it was."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folders: dict[Any, Path] = {}

    def save(write: Any) -> Path:
        if write not in folders:
            folders[write] = tmp_path_factory.mktemp("weights") / write.__name__
            write(folders[write])
        return folders[write]

    return save


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dogs(tmp_path_factory.mktemp("dogs"))


@pytest.fixture(scope="module")
def trained(dogs: Path, saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of adapters of rex, each trained once."""
    folders: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in folders:
            method, write, rate, steps, _ = TRAININGS[name]
            folders[name] = tmp_path_factory.mktemp("adapters")
            plan, setup = planned(method, dogs, saved(write), folders[name], rate, f"training_steps={steps}")
            train_adapters(plan, setup, warn=print)
        return folders[name]

    return train


def by_base_model(plan: Plan, setup: Setup, change: Callable[[Any], Any] = id) -> np.ndarray[Any, Any]:
    """The image of the plan's first request that the base model makes, after a change to its pipeline."""
    generator = METHODS["class-only"].generator(setup)
    change(generator.pipeline)
    with torch.inference_mode():
        return np.asarray(generator.make([plan.requests[0]])[0].image, dtype=int)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_loss_on_a_fixed_probe_falls(name: str, trained: Callable[[str], Path]) -> None:
    steps, share = TRAININGS[name][3:]
    card = read_card(trained(name) / "rex")
    assert card["probe_after"] < share * card["probe_before"]
    rows = (trained(name) / "rex" / "losses.csv").read_text().splitlines()
    assert (rows[0], len(rows)) == ("step,loss", 1 + steps)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_adapter_changes_the_image_and_is_the_same_each_time_it_is_loaded(
    name: str, trained: Callable[[str], Path], dogs: Path, saved: Saved, tmp_path: Path
) -> None:
    method, write, rate, steps, _ = TRAININGS[name]
    settings = (rate, f"training_steps={steps}")
    plan, setup = planned(method, dogs, saved(write), trained(name), *settings)
    [image] = images(plan, setup)
    [again] = images(plan, setup)
    assert (image == again).all()

    if METHODS[method].training == "vectors":  # without them the prompt would be another one
        plan, setup = planned(method, dogs, saved(write), tmp_path, "learning_rate=1e-30", "training_steps=1")
        train_adapters(plan, setup, warn=print)
        [before] = images(plan, setup)
    else:
        before = by_base_model(plan, setup)
    assert abs(before - image).mean() > 0.2


def test_what_is_trained_is_not_trained_again(
    trained: Callable[[str], Path], dogs: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained("LoRA, FLUX")
    before = files(folder)
    rate, steps = "learning_rate=0.01", "training_steps=12"
    plan, setup = planned("dreambooth-lora", dogs, saved(save_flux), folder, rate, steps, "steps=3", "guidance=2.0")
    monkeypatch.delattr("personalization_runs.training.school.School")
    train_adapters(plan, setup, warn=print)
    assert files(folder) == before


def test_an_adapter_of_other_settings_is_refused_and_left_alone(
    trained: Callable[[str], Path], dogs: Path, saved: Saved, tmp_path: Path
) -> None:
    folder = trained("LoRA, FLUX")
    before = files(folder)
    changed = shutil.copytree(dogs, tmp_path / "dogs")
    Image.new("RGB", (64, 64), "red").save(changed / "rex_1.png")

    def refused(*others: str, gallery: Path = dogs, write: Any = save_flux, **settings: Any) -> str:
        parameters = ("learning_rate=0.01", "training_steps=12", *others)
        plan, setup = planned("dreambooth-lora", gallery, saved(write), folder, *parameters, **settings)
        with pytest.raises(FinerRankError) as error:
            train_adapters(plan, setup, warn=print)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "parameters training_steps (12, now 21)" in refused("training_steps=21")
    assert "weights base (save_flux@" in refused(write=save_sd3)
    assert "reference photos (rex_1.png is another one)" in refused(gallery=changed)
    assert "seed (0, now 1)" in refused(seed=1)
    assert "class_word (dog, now puppy)" in refused(class_words=["puppy"])
    assert "identifier (sks, now ohwx)" in refused(identifier="ohwx")
    assert files(folder) == before


def interrupt(plan: Plan, setup: Setup) -> None:
    """Begin a training, and end it after two steps and two checkpoints."""

    def stop(step: int, pipeline: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapters(plan, setup, warn=print, checkpoint_every=1, callback_for=lambda subject: stop, callback_every=2)


def test_a_training_that_was_begun_with_other_settings_is_refused(dogs: Path, saved: Saved, tmp_path: Path) -> None:
    begun = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=3")
    interrupt(*begun)
    other = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=3", "rank=2")
    with pytest.raises(FinerRankError, match=r"a training, not ended, with other parameters rank \(16, now 2\)"):
        train_adapters(*other, warn=print)
    train_adapters(*begun, warn=print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_class_images", "rex"]

    with (tmp_path / "rex" / "adapter.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(FinerRankError, match="is not what"):
        images(*begun)


def test_a_step_whose_call_a_kill_prevented_is_called_again(dogs: Path, saved: Saved, tmp_path: Path) -> None:
    plan, setup = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=5")
    called: list[int] = []

    def die_at(last: int) -> Callable[[int, Any], None]:
        def call(step: int, pipeline: Any) -> None:
            if step == last:
                raise KeyboardInterrupt
            called.append(step)

        return call

    every = {"checkpoint_every": 2, "callback_every": 2}
    with pytest.raises(KeyboardInterrupt):
        train_adapters(plan, setup, warn=print, callback_for=lambda subject: die_at(2), **every)  # type: ignore[arg-type]
    train_adapters(plan, setup, warn=print, callback_for=lambda subject: die_at(-1), **every)  # type: ignore[arg-type]
    assert called == [0, 2, 4, 5]


CARD = {"weights_sha256": "0", "probe_before": 1.0, "probe_after": 1.0}
LEFT: dict[str, tuple[str, bytes, str]] = {
    "a card that is no table": ("rex/adapter.json", b"[]", "adapter.json: damaged"),
    "a card without losses": ("rex/adapter.json", b'{"weights_sha256": "0"}', "adapter.json: damaged"),
    "a card with a word": ("rex/adapter.json", json.dumps(CARD | {"probe_after": "x"}).encode(), "json: damaged"),
    "a folder of somebody else's": ("rex/notes.txt", b"", "rex: holds no adapter; remove it"),
    "a file in its place": ("rex", b"", "rex: is no folder; remove it"),
    "settings that are no table": (".rex.training/asked.json", b"[]", "asked.json: damaged"),
    "a checkpoint of something else": (".rex.training/checkpoint.safetensors", b"a", "safetensors: damaged; remove"),
    "a checkpoint of another shape": (".rex.training/checkpoint.safetensors", b"b", "safetensors: damaged; remove"),
    "a pickle": (".rex.training/checkpoint.safetensors", b"\x80\x04K\x01.", "safetensors: damaged"),
}
"""What lies in a folder of adapters, and what is said of it."""


@pytest.mark.parametrize("name", LEFT)
def test_what_is_damaged_or_foreign_is_named_in_one_line(name: str, dogs: Path, saved: Saved, tmp_path: Path) -> None:
    file, content, said = LEFT[name]
    plan, setup = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=2", "prior_weight=0")
    if content == b"b":
        interrupt(*planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=3", "prior_weight=0"))
        (tmp_path / ".rex.training" / "asked.json").unlink()
        state = load_file(tmp_path / file)
        save_file({key: value[:1] if "exp_avg" in key else value for key, value in state.items()}, tmp_path / file)
    else:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
        if content == b"a":
            save_file({"a": torch.zeros(1)}, tmp_path / file)
    with pytest.raises(FinerRankError) as error:
        train_adapters(plan, setup, warn=print)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_photo_that_cannot_be_used_is_named_before_anything_is_trained(
    is_there: bool, dogs: Path, saved: Saved, tmp_path: Path
) -> None:
    spoilt = shutil.copytree(dogs, tmp_path / "dogs")
    plan, setup = planned("dreambooth-lora", spoilt, saved(save_sd3), tmp_path / "out", "training_steps=1", include=())
    (spoilt / "tom_1.png").unlink()
    if is_there:
        (spoilt / "tom_1.png").write_bytes(b"no picture")
    with pytest.raises(FinerRankError, match=r"tom_1\.png: "):
        train_adapters(plan, setup, warn=print)
    assert not (tmp_path / "out").exists()


def test_what_was_learned_has_to_be_numbers(dogs: Path, saved: Saved, tmp_path: Path) -> None:
    plan, setup = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path, "training_steps=1", "learning_rate=1e30")
    with pytest.raises(FinerRankError, match="step 1: the loss is no number"):
        train_adapters(plan, setup, warn=print)
    assert not (tmp_path / "rex").exists()


def test_a_word_of_many_vectors_leaves_room_for_the_prompt(dogs: Path, saved: Saved, tmp_path: Path) -> None:
    plan, setup = planned("textual-inversion", dogs, saved(save_sd), tmp_path, "training_steps=1", "n_vectors=39")
    with pytest.raises(FinerRankError, match="n_vectors=39: leaves no room for prompts; at most 38"):
        train_adapters(plan, setup, warn=print)


def test_whoever_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    rex, tom = (Subject(name, "dog", ()) for name in ("rex", "tom"))
    other = FileLock(tmp_path / ".rex.lock")
    trained = []

    def train_one(subject: Subject, folder: Path) -> None:
        trained.append(subject)
        folder.mkdir()
        (tmp_path / "rex").mkdir()  # by now, the other process is done
        other.release()

    with other.acquire():
        _each_once([rex, tom], tmp_path, train_one)
    assert trained == [tom]


@pytest.mark.parametrize(
    ("method", "write"),
    [
        ("dreambooth", save_sd3),
        ("dreambooth-lora", save_sdxl),
        ("textual-inversion", save_sd),
        ("custom-diffusion", save_sd),
    ],
)
def test_of_who_was_shown_before_nothing_stays(
    method: str, write: Any, dogs: Path, saved: Saved, tmp_path: Path
) -> None:
    parameters = ("learning_rate=0.05", "training_steps=3")
    plan, setup = planned(method, dogs, saved(write), tmp_path / "both", *parameters, include=())
    train_adapters(plan, setup, warn=print)
    rex, tom, rex_again = images(plan, setup, (0, 1, 0))
    assert (rex == rex_again).all()
    assert (rex != tom).any()
    alone = planned(method, dogs, saved(write), tmp_path / "alone", *parameters, include=["tom"])
    interrupt(*alone)
    train_adapters(*alone, warn=print)
    assert files(tmp_path / "alone" / "tom") == files(tmp_path / "both" / "tom"), "rex has left something behind"


def test_other_programs_load_the_lora_with_its_own_alpha(
    trained: Callable[[str], Path], dogs: Path, saved: Saved
) -> None:
    plan, setup = planned(
        "dreambooth-lora", dogs, saved(save_flux), trained("LoRA, FLUX"), "learning_rate=0.01", "training_steps=12"
    )
    [ours] = images(plan, setup)
    adapter = str(trained("LoRA, FLUX") / "rex")
    image = by_base_model(plan, setup, lambda base: base.load_lora_weights(adapter, weight_name="adapter.safetensors"))
    assert (image == ours).all()


def test_a_callback_sees_the_pipeline_with_what_is_learned_so_far(dogs: Path, saved: Saved, tmp_path: Path) -> None:
    seen: list[tuple[int, Any]] = []

    def look(step: int, pipeline: Any) -> None:
        made = pipeline(
            "a photo of a sks dog", width=32, height=32, num_inference_steps=2, generator=torch.manual_seed(0)
        )
        seen.append((step, np.asarray(made.images[0], dtype=int)))

    with_callback = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path / "a", "training_steps=4")
    train_adapters(*with_callback, warn=print, callback_for=lambda subject: look, callback_every=3)
    assert [step for step, _ in seen] == [0, 3, 4]
    assert all((a != b).any() for (_, a), (_, b) in pairwise(seen))
    without = planned("dreambooth-lora", dogs, saved(save_sd3), tmp_path / "b", "training_steps=4")
    train_adapters(*without, warn=print)
    assert files(tmp_path / "a") == files(tmp_path / "b"), "looking has changed what is learned"


@pytest.mark.parametrize("method", ["dreambooth", "dreambooth-lora"])
def test_networks_may_compute_in_bfloat16(method: str, dogs: Path, saved: Saved, tmp_path: Path) -> None:
    parameters = ("training_steps=12", "learning_rate=0.003")
    plan, setup = planned(method, dogs, saved(save_sd3), tmp_path, *parameters, dtype="bfloat16")
    seen = []

    def look(step: int, pipeline: Any) -> None:
        seen.append(pipeline("a dog", width=32, height=32, num_inference_steps=1).images[0].size)

    train_adapters(plan, setup, warn=print, callback_for=lambda subject: look)
    card = read_card(tmp_path / "rex")
    assert card["probe_after"] < card["probe_before"]
    assert [image.shape[:2] for image in images(plan, setup)] == seen[1:] == [(32, 32)]


def test_the_command_trains_and_runs_say_which_adapter_made_each_image(
    dogs: Path, saved: Saved, cli: Cli, refusal: Refusal, tmp_path: Path
) -> None:
    parameters = [*SMALL, *PRIOR, "training_steps=2"]
    shared = ["-g", dogs, "-m", "dreambooth-lora", "--weights", saved(save_sdxl)]
    shared += [word for value in parameters for word in ("--set", value)]
    done = cli("run", "train", *shared, "--out", tmp_path / "adapters", "--include", "rex", "--json")
    assert done.returncode == 0, done.stderr
    [card] = json.loads(done.stdout)
    before = files(tmp_path / "adapters")

    generate = ["run", "generate", *shared, "--prompts", "reid", "--adapters", tmp_path / "adapters"]
    assert "now <new>" in refusal(*generate, "--out", tmp_path / "run", "--identifier", "<new>")
    done = cli(*generate, "--out", tmp_path / "run", "--include", "rex", "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "adapters") == before
    lines = (tmp_path / "run" / "generation.csv").read_text().splitlines()
    assert "adapter_sha256" in lines[0]
    assert all(card["weights_sha256"] in line for line in lines[1:])
    assert "trains nothing" in refusal("run", "train", "-g", dogs, "-m", "img2img", "--out", tmp_path / "no")
