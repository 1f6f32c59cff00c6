"""Training of encoders: what is learned shows on identities never trained on; where nothing is, the result says so."""

import colorsys
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import lacking, rows_of, write_rows
from in_process import refused_here, run_here
from networks import save_state, save_timm, save_torchvision
from PIL import Image, ImageDraw
from pytest import approx
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

import finer_rank
from benchmark import training
from benchmark.embedders import load_embedder
from benchmark.embedders.zoo import training_data
from benchmark.training.feed import epoch_order
from benchmark.training.learner import Learner, rate_factor
from benchmark.training.pictures import erased, varied
from benchmark.training.sides import (
    HELD_OUT_IDENTITIES,
    OTHER_SPLITS,
    choose_sides,
    held_out_identities,
)
from galleries.errors import FinerRankError
from galleries.gallery import Gallery, Photo

CUB = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
FROM_SCRATCH = training.Settings(
    "timm:test_resnet", from_scratch=True, size=32, epochs=8, batch_size=32, learning_rate=3e-3, held_out=0.34
)


def draw_ball(path: Path, hue: float, number: int) -> None:
    """A ball, known by its hue, of any size and place before any grey: what an untrained network sees first."""
    random, px = np.random.default_rng([number, int(1000 * hue)]), 40
    picture = Image.new("RGB", (px, px), (int(random.integers(0, 256)),) * 3)
    radius = int(random.integers(8, 13))
    x, y = (int(v) for v in random.integers(radius, px - radius, 2))
    colour = tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue, 1, random.uniform(0.6, 1)))
    ImageDraw.Draw(picture).ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_balls(folder: Path, n_balls: int = 12, n_photos: int = 8, source: str = "", **columns: str) -> Path:
    rows = []
    for ball in range(n_balls):
        for number in range(n_photos):
            row = {"file_name": f"images/{ball:02d}_{number}.png", "category": "ball", "identity": f"{ball:02d}"}
            rows.append({**row, "split": "gallery" if number else "reference", **columns})
            draw_ball(folder / row["file_name"], (ball + 0.5) / n_balls, number)
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text(f'name = "{folder.name}"\nsource = "{source}"\n')
    return folder


def train(folders: Path | Sequence[Path], out: Path, settings: training.Settings, **options: Any) -> training.Trained:
    galleries = [Gallery.open(folder) for folder in ([folders] if isinstance(folders, Path) else folders)]
    said: list[str] = []
    return training.train(galleries, settings, out, **{"device": "cpu", "threads": 1, "report": said.append, **options})


def described(out: Path) -> dict[str, Any]:
    return tomllib.loads((out / "embedder.toml").read_text())


def details(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def measured(out: Path, gallery: Path) -> float:
    """mAP of the photos held back, by what was written, worked out another way."""
    validated = {name.partition("/")[2] for name in details(out)["validated_identities"]}
    rows = [row for row in rows_of(gallery) if row["identity"] in validated]
    found = load_embedder(f"checkpoint:{out}", device="cpu").embed([gallery / row["file_name"] for row in rows])
    similarity = found.astype(np.float64) @ found.astype(np.float64).T
    names = np.array([row["identity"] for row in rows])
    precisions = []
    for i in range(len(rows)):
        others = np.arange(len(rows)) != i
        precisions.append(average_precision_score(names[others] == names[i], similarity[i, others]))
    return float(np.mean(precisions))


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("galleries") / "balls")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small gallery, where only the mechanics matter."""
    return write_balls(tmp_path_factory.mktemp("galleries") / "few", n_balls=5, n_photos=4)


QUICK = replace(FROM_SCRATCH, epochs=2, batch_size=8, held_out=0.4)


@pytest.fixture(scope="module")
def trained(balls: Path, tmp_path_factory: pytest.TempPathFactory) -> training.Trained:
    return train(balls, tmp_path_factory.mktemp("trained") / "ball-reid", FROM_SCRATCH)


def test_training_tells_identities_apart_that_it_never_saw(trained: training.Trained) -> None:
    found = trained.comparison
    assert found.after.value > found.before.value + 0.1 > found.chance + 0.1
    assert found.best_epoch > 0
    assert found.has_helped
    assert found.verdict.startswith("training helped: +0.")
    [line, verdict] = trained.lines()
    assert not lacking(line, f"{found.before.value:.3f} [", f"{found.after.value:.3f} [", f"chance {found.chance:.3f}")
    assert verdict == found.verdict


def test_the_written_folder_embeds_as_it_was_judged(trained: training.Trained, balls: Path) -> None:
    assert {path.name for path in trained.out.iterdir()} == {"embedder.toml", "model.safetensors", "training.json"}
    assert measured(trained.out, balls) == approx(trained.comparison.after.value, abs=1e-12)
    assert not list(trained.out.parent.glob(".*"))


def test_who_is_held_out_is_never_trained_on(trained: training.Trained, balls: Path) -> None:
    named = details(trained.out)
    held, seen = set(named["validated_identities"]), set(named["trained_identities"])
    assert (len(held), len(seen), held & seen) == (4, 8, set())
    assert held | seen == {f"balls/{row['identity']}" for row in rows_of(balls)}
    assert described(trained.out)["training"]["validated_on"] == HELD_OUT_IDENTITIES
    assert described(trained.out)["training"]["n_trained_photos"] == 64


def test_the_card_tells_how_it_was_made(trained: training.Trained, balls: Path) -> None:
    card = described(trained.out)
    made = card["training"]
    assert (card["family"], card["architecture"], card["dimension"]) == ("timm", "test_resnet", 96)
    assert (card["preprocessing"]["resize"], card["preprocessing"]["size"]) == ("squash", [32, 32])
    assert made["galleries"] == [
        {"name": "balls", "version": "1", "sha256": Gallery.open(balls).digest, "source": "not stated"}
    ]
    assert made["mAP_after"]["value"] == trained.comparison.after.value
    assert made["made_with"]["threads"] == "1"
    assert not lacking(made["command"], "--gallery balls", "--from-scratch", "--learning-rate 0.003", "--out ball-reid")
    texts = [path.read_text() for path in (trained.out / "embedder.toml", trained.out / "training.json")]
    assert not any(str(balls.parent) in text or str(trained.out.parent) in text for text in texts)
    assert len(details(trained.out)["epochs"]) == 1 + made["n_epochs_trained"]
    shown = json.loads(run_here("embedder", "show", f"checkpoint:{trained.out}", "--json").stdout)
    assert shown["trained_on"] is None  # the gallery's source is none that is known
    assert not lacking(shown["note"], "the gallery balls (source: not stated)", "flatters")


def test_labels_that_mean_nothing_teach_nothing(trained: training.Trained, balls: Path, tmp_path: Path) -> None:
    """Who is trained on is shuffled; who is held out is real, and already told apart by the backbone."""
    held = {name.partition("/")[2] for name in details(trained.out)["validated_identities"]}
    rows = rows_of(balls)
    others = [row for row in rows if row["identity"] not in held]
    names = np.random.default_rng(0).permutation([row["identity"] for row in others])
    for row, name in zip(others, names, strict=True):
        row["identity"] = str(name)
    shuffled = write_balls(tmp_path / "balls")
    write_rows(shuffled / "metadata.csv", rows)
    file = trained.out / "model.safetensors"
    settings = replace(FROM_SCRATCH, backbone=f"timm:test_resnet@{file}", from_scratch=False, epochs=4)
    result = train(shuffled, tmp_path / "out", settings)
    assert set(details(tmp_path / "out")["validated_identities"]) == {f"balls/{name}" for name in held}
    assert result.comparison.before == trained.comparison.after
    assert result.comparison.best_epoch == 0
    assert not result.comparison.has_helped
    assert result.comparison.after == result.comparison.before
    assert "did not help" in result.comparison.verdict
    assert weights(tmp_path / "out") == weights(trained.out)
    assert "No epoch of the training was better" in described(tmp_path / "out")["note"]


def test_the_same_seed_gives_the_same_weights_whatever_is_kept_in_memory(
    trained: training.Trained, balls: Path, tmp_path: Path
) -> None:
    again = train(balls, tmp_path / "ball-reid", FROM_SCRATCH, memory_bytes=0)
    assert again.comparison.best_epoch > 0
    assert weights(again.out) == weights(trained.out)
    assert (again.out / "embedder.toml").read_text() == (trained.out / "embedder.toml").read_text()
    assert (again.out / "training.json").read_text() == (trained.out / "training.json").read_text()


def test_another_seed_holds_out_others_and_without_variation_something_else_is_learned(
    few: Path, tmp_path: Path
) -> None:
    first, other, plain = (
        details(train(few, tmp_path / str(i), settings).out)
        for i, settings in enumerate([QUICK, replace(QUICK, seed=3), replace(QUICK, augment=False)])
    )
    assert first["validated_identities"] == plain["validated_identities"] != other["validated_identities"]
    assert first["epochs"][0] == plain["epochs"][0]
    assert first["epochs"][1] != plain["epochs"][1]


# The fourth epoch never comes, so that the kill finds the training at work, however late it is.
TRAIN_THREE_EPOCHS = """
import signal, benchmark.training.trainer as t, finer_rank
train = t._Training._epoch
t._Training._epoch = lambda self, epoch: train(self, epoch) if epoch < 4 else signal.pause()
finer_rank.main()
"""


def test_a_killed_training_goes_on_to_the_same_end(
    balls: Path, trained: training.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ball-reid"
    command = ["-g", balls, "--backbone", "timm:test_resnet", "--from-scratch", "--size", 32, "--epochs", 8]
    command += ["--batch-size", 32, "--learning-rate", 3e-3, "--held-out", 0.34, "--threads", 1, "--device", "cpu"]
    words = ["finer-rank", "embedder", "train", *map(str, command), "--out", str(out)]
    state = tmp_path / ".ball-reid.training" / "state.json"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN_THREE_EPOCHS, *words[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.is_file()
    assert not out.exists()

    def run(*more: str) -> tuple[Any, list[str]]:
        """In this process: exit code, standard output, lines of the rest."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*words, *more])
            with pytest.raises(SystemExit) as end:
                finer_rank.main()
        said = capsys.readouterr()
        return (end.value.code or 0, said.out), said.err.splitlines()

    (code, _), [line] = run()
    assert code == 2
    assert not lacking(line, ".ball-reid.training", "--resume")
    (code, _), [line] = run("--resume", "--weight-decay", "0.5")
    assert code == 2
    assert "another weight decay" in line
    (code, printed), lines = run("--resume", "--json")
    assert code == 0
    assert "going on after epoch" in " ".join(lines)
    assert json.loads(printed)["mAP_after"] == trained.record["mAP_after"]
    assert weights(out) == weights(trained.out)
    assert (out / "training.json").read_text() == (trained.out / "training.json").read_text()
    assert not state.parent.exists()


@pytest.mark.parametrize("loss", ["triplet", "softmax"])
def test_a_classifier_of_torchvision_is_trained_with_another_loss(few: Path, tmp_path: Path, loss: Any) -> None:
    file = save_torchvision(tmp_path / "net.safetensors", prefix="features.")
    settings = replace(QUICK, backbone=f"torchvision:squeezenet1_1@{file}", from_scratch=False, loss=loss, half=True)
    result = train(few, tmp_path / "out", settings)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(value.dtype) for value in stored.values()} == {"torch.float16"}
    assert measured(tmp_path / "out", few) == approx(result.comparison.after.value, abs=1e-12)
    assert described(tmp_path / "out")["training"]["backbone"] == "torchvision:squeezenet1_1@net.safetensors"


def test_a_transformer_is_trained_at_another_size_than_its_own(few: Path, tmp_path: Path) -> None:
    file = save_timm(tmp_path / "vit.safetensors")
    settings = replace(QUICK, backbone=f"timm:test_vit@{file}", from_scratch=False, size=48, loss="softmax")
    result = train(few, tmp_path / "out", settings)
    assert measured(tmp_path / "out", few) == approx(result.comparison.after.value, abs=1e-12)


def test_float16_keeps_what_it_cannot_hold(few: Path, tmp_path: Path) -> None:
    state = load_file(save_torchvision(tmp_path / "net.safetensors", prefix="features."))
    state["features.0.bias"][0] = 1e6
    file = save_state(state, tmp_path / "net.safetensors")
    settings = replace(QUICK, backbone=f"torchvision:squeezenet1_1@{file}", from_scratch=False, half=True, epochs=1)
    train(few, tmp_path / "out", settings)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert [key for key, value in stored.items() if str(value.dtype) == "torch.float32"] == ["features.0.bias"]


def photos(*identities: str, n: int = 3, **columns: str) -> list[Photo]:
    """Of each `category/identity` so many photos."""
    rows = []
    for identity in identities:
        category = identity.partition("/")[0]
        rows += [Photo(f"{identity}_{i}.png", category, identity, "gallery", **columns) for i in range(n)]
    return rows


def digests(of: Sequence[Photo]) -> list[str]:
    return [photo.file_name for photo in of]


def test_of_each_category_a_share_is_held_out_and_nobody_alone() -> None:
    names = [f"{kind}/{i}" for kind, n in (("dogs", 20), ("cats", 10), ("owls", 3), ("rats", 2)) for i in range(n)]
    held = held_out_identities(photos(*names), 0.2, seed=0)
    n_held = {kind: sum(name.startswith(kind) for name in held) for kind in ("dogs", "cats", "owls", "rats")}
    assert (n_held["dogs"], n_held["cats"], n_held["owls"] + n_held["rats"]) == (4, 2, 2)
    assert set(n_held.values()) <= {0, 2, 4}
    assert held == held_out_identities(photos(*reversed(names)), 0.2, seed=0)
    assert held != held_out_identities(photos(*names), 0.2, seed=1)


def test_who_cannot_be_asked_for_is_not_held_out() -> None:
    burst = photos("dogs/1", "dogs/2", encounter="one day")
    single = photos("dogs/3", "dogs/4", n=1)
    assert held_out_identities([*burst, *single, *photos("dogs/5", "dogs/6", "dogs/7")], 0.5, 0) <= {
        "dogs/5",
        "dogs/6",
        "dogs/7",
    }
    with pytest.raises(FinerRankError, match="nobody can be held out"):
        held_out_identities([*burst, *single, *photos("dogs/5")], 0.5, 0)


def test_one_photo_of_somebody_is_a_class_but_no_pair() -> None:
    own = [*photos("dogs/1", "dogs/2", "dogs/3", "dogs/4"), *photos("dogs/5", n=1)]
    sides = choose_sides(own, digests(own), held_out=0.5)
    assert "dogs/5" in {photo.identity for photo in sides.trained}
    assert "trained on as classes" in sides.notes[0]
    in_pairs = choose_sides(own, digests(own), held_out=0.5, in_pairs=True)
    assert "dogs/5" not in {photo.identity for photo in in_pairs.trained}
    assert "not trained on" in in_pairs.notes[0]


def test_who_shares_a_photo_with_somebody_held_out_is_not_trained_on() -> None:
    own = photos("zoo/1", "zoo/2", "zoo/3", "zoo/4", "farm/1", "farm/2", "farm/3", "farm/4")
    held = held_out_identities(own, 0.5, 0)
    double = next(photo for photo in own if photo.identity not in held)
    names = digests(own)
    names[own.index(double)] = next(photo.file_name for photo in own if photo.identity in held)
    sides = choose_sides(own, names, held_out=0.5)
    assert double.identity not in {photo.identity for photo in sides.trained}
    assert "1 identities share a photo" in sides.notes[0]


def test_a_classifier_of_the_references_is_judged_by_the_other_photos(few: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, held_out=0, train_splits=("reference",), images_per_identity=1)
    train(few, tmp_path / "out", settings)
    made, named = described(tmp_path / "out")["training"], details(tmp_path / "out")
    assert (made["validated_on"], made["n_trained_photos"], made["n_validated_photos"]) == (OTHER_SPLITS, 5, 15)
    assert named["trained_identities"] == named["validated_identities"]
    assert not lacking(made["command"], "--held-out 0", "--train-split reference")


def test_galleries_share_no_identity_by_name_and_sides_are_not_mirrored(few: Path, tmp_path: Path) -> None:
    marked = write_balls(tmp_path / "marked", n_balls=4, n_photos=3, source=CUB, viewpoint="left")
    said: list[str] = []
    train([few, marked], tmp_path / "out", QUICK, report=said.append)
    named, made = details(tmp_path / "out"), described(tmp_path / "out")["training"]
    everyone = named["trained_identities"] + named["validated_identities"]
    assert sorted(everyone) == sorted([*(f"few/0{i}" for i in range(5)), *(f"marked/0{i}" for i in range(4))])
    assert set(named["categories"]) == {"few/ball", "marked/ball"}
    assert made["mirrored"] is False
    assert "not mirrored" in " ".join(said)
    card = described(tmp_path / "out")
    assert "trained_on" not in card  # one of the two is known, which is not all
    assert not lacking(card["note"], "the gallery few", "beside cub")


def test_a_card_names_the_data_sets_that_are_known(tmp_path: Path) -> None:
    birds = write_balls(tmp_path / "birds", n_balls=5, n_photos=3, source=CUB)
    train(birds, tmp_path / "out", QUICK)
    embedder = load_embedder(f"checkpoint:{tmp_path / 'out'}", device="cpu")
    assert embedder.card is not None
    assert embedder.card.trained_on == ("cub",)
    assert embedder.seen_state(CUB) == "trained on it"
    assert "imagenet-1k" in training_data()
    file = save_timm(tmp_path / "net.safetensors", "test_resnet")
    settings = replace(QUICK, backbone=f"timm:test_resnet@{file}", from_scratch=False)
    train(birds, tmp_path / "unknown", settings)
    assert "the backbone timm:test_resnet@net.safetensors" in described(tmp_path / "unknown")["note"]
    train(birds, tmp_path / "told", replace(settings, backbone_trained_on=("imagenet-1k",)))
    assert described(tmp_path / "told")["trained_on"] == ["cub", "imagenet-1k"]


def test_a_photo_is_varied_by_its_own_numbers_alone() -> None:
    picture = Image.radial_gradient("L").resize((40, 40)).convert("RGB")
    views = [np.asarray(varied(picture, 32, np.random.default_rng([0, i]), flip=True)) for i in range(20)]
    again = [np.asarray(varied(picture, 32, np.random.default_rng([0, i]), flip=True)) for i in reversed(range(20))]
    assert all((a == b).all() for a, b in zip(views, reversed(again), strict=True))
    assert len({view.tobytes() for view in views}) == 20
    patched = [erased(np.ones((3, 32, 32), np.float32), np.random.default_rng(i)) for i in range(40)]
    share = [1 - each.mean() for each in patched]
    assert 4 <= sum(s > 0 for s in share) <= 20
    assert max(share) < 0.2


def test_each_batch_holds_as_many_photos_of_each_of_its_identities() -> None:
    labels = [i for i in range(7) for _ in range(5)]
    order = epoch_order(labels, 3, 12, 2, seed=1, epoch=4)
    assert order == epoch_order(labels, 3, 12, 2, seed=1, epoch=4)
    assert order != epoch_order(labels, 3, 12, 2, seed=1, epoch=5)
    for start in (0, 12):
        batch = [labels[i] for i in order[start : start + 12]]
        assert [batch.count(label) for label in set(batch)] == [3] * 4


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, 100) for step in range(100)]
    assert max(factors) == factors[9] == 1
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == approx(0.01)


@pytest.mark.parametrize(
    ("changed", "mention"),
    [
        ({"backbone": "open_clip:ViT-B-32/openai"}, "cannot be trained"),
        ({"backbone": "timm:hf-hub:nobody/nothing"}, "cannot be trained"),
        ({"backbone": "timm:test_resnet@x.safetensors", "from_scratch": True}, "--from-scratch"),
        ({"loss": "magic"}, "--loss magic"),
        ({"size": 0}, "--size 0"),
        ({"held_out": 1.0}, "--held-out 1.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"images_per_identity": 1, "loss": "triplet"}, "--images-per-identity 1"),
        ({"batch_size": 4}, "--batch-size 4"),
        ({"train_splits": ("test",)}, "--train-split test"),
        ({"backbone_trained_on": ("nowhere",)}, "--backbone-trained-on nowhere"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, Any], mention: str) -> None:
    with pytest.raises(FinerRankError) as caught:
        replace(QUICK, **changed)
    assert not lacking(str(caught.value), mention)


def refused(gallery: Path, out: Path, settings: training.Settings, **options: Any) -> str:
    """The line that a training is refused with; nothing is left of it."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(FinerRankError) as caught:
        train(gallery, out, settings, **options)
    assert sorted(out.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_trained_is_refused_in_a_line(few: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out", replace(QUICK, from_scratch=False)
    gone, wrong = tmp_path / "gone.safetensors", save_timm(tmp_path / "vit.safetensors")
    vit = replace(QUICK, backbone="torchvision:vit_b_32")
    one = write_balls(tmp_path / "one", n_balls=1)
    single = write_balls(tmp_path / "single", n_balls=6, n_photos=1, split="gallery")
    pair = write_balls(tmp_path / "pair", n_balls=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "no such weights file" in refused(few, out, replace(given, backbone=f"timm:test_resnet@{gone}"))
    assert "not weights of" in refused(few, out, replace(given, backbone=f"timm:test_resnet@{wrong}"))
    for backbone in ("timm:no_such_net", "torchvision:no_such_net"):
        assert "no such model" in refused(few, out, replace(QUICK, backbone=backbone))
        assert "no such" in refused(few, out, replace(given, backbone=f"{backbone}@{wrong}"))
    assert "224 × 224 pixels only; give the --size" in refused(few, out, vit)
    assert "nobody can be held out" in refused(one, out, QUICK)
    assert "nobody can be held out" in refused(single, out, QUICK)
    assert "1 of 3 identities left" in refused(pair, out, QUICK)
    assert "--train-split reference" in refused(few, out, replace(QUICK, held_out=0))
    assert "full" in refused(few, tmp_path / "full", QUICK)


def test_a_damaged_photo_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    gallery = write_balls(tmp_path / "balls", n_balls=4, n_photos=3)
    broken = gallery / "images" / "01_2.png"
    broken.write_bytes(broken.read_bytes()[:120])
    command = ["embedder", "train", "-g", gallery, "--backbone", "timm:test_resnet", "--from-scratch", "--size", 32]
    assert "01_2.png" in refused_here(*command, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["balls"]


def test_a_loss_that_is_no_number_stops_the_training(few: Path, tmp_path: Path) -> None:
    line = refused(few, tmp_path / "out", replace(QUICK, learning_rate=1e30))
    assert not lacking(line, "epoch 1", "lower --learning-rate (now 1e+30)")


def test_memory_that_ends_is_one_line_and_epochs_are_kept(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Learner.learn

    def small(self: Learner, pixels: Any, labels: Any, step: int) -> float:
        if step >= 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes.")
        return learn(self, pixels, labels, step)

    whole = train(few, tmp_path / "whole", replace(QUICK, epochs=4))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", small)
        with pytest.raises(FinerRankError) as caught:
            train(few, tmp_path / "out", replace(QUICK, epochs=4))
    assert not lacking(str(caught.value), "memory ended", "--batch-size", "--resume")
    result = train(few, tmp_path / "out", replace(QUICK, epochs=4), resume=True)
    assert weights(result.out) == weights(whole.out)


def test_a_damaged_state_is_refused(few: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".out.training"
    folder.mkdir()
    for content in ("", "{}", "[]", '{"format": 9}'):
        (folder / "state.json").write_text(content)
        with pytest.raises(FinerRankError, match="no state that can be resumed"):
            train(few, tmp_path / "out", QUICK, resume=True)


def test_without_the_library_of_losses_a_line_says_what_to_install(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'finer-rank[train]'" in refused(few, tmp_path / "out", QUICK)
