"""Encoders as folders that describe themselves: what comes out is what went in, and what is refused."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from handmade import lacking
from in_process import refused_here, run_here
from networks import colours, save_clip, save_state, save_timm, save_timm_folder, save_torchvision
from safetensors.torch import load_file

from benchmark.embedders import load_embedder
from galleries.errors import FinerRankError

PICTURES = [colours(seed) for seed in range(4)]


def rows(spec: str, **options: Any) -> Any:
    return load_embedder(spec, device="cpu", **options).embed(PICTURES)


def specs(folder: Path) -> list[str]:
    return [
        f"torchvision:squeezenet1_1@{save_torchvision(folder / 'squeezenet.safetensors')}",
        f"torchvision:resnet18@{save_torchvision(folder / 'resnet.pth', 'resnet18')}",
        f"timm:test_vit@{save_timm(folder / 'vit.safetensors')}",
        f"timm:test_resnet@{save_timm(folder / 'resnet.safetensors', 'test_resnet')}",
    ]


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, `squeezenet.safetensors`, and with what was exported of them, `exported`."""
    from benchmark.embedders.checkpoint import export

    folder = tmp_path_factory.mktemp("squeezenet")
    weights = save_torchvision(folder / "squeezenet.safetensors")
    export(load_embedder(f"torchvision:squeezenet1_1@{weights}", device="cpu"), folder / "exported")
    return folder


@pytest.fixture
def exported(tmp_path: Path, squeezenet: Path) -> Path:
    """A copy of the exported folder, of which a test may spoil anything."""
    return shutil.copytree(squeezenet / "exported", tmp_path / "exported")


@pytest.mark.parametrize("number", range(4))
def test_an_exported_encoder_embeds_as_before(tmp_path: Path, number: int) -> None:
    spec = specs(tmp_path)[number]
    done = run_here("embedder", "export", spec, "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"embedder.toml", "model.safetensors"}
    assert np.abs(rows(f"checkpoint:{tmp_path / 'mine'}") - rows(spec)).max() <= 1e-6
    described = tomllib.loads((tmp_path / "mine" / "embedder.toml").read_text())
    assert described["dimension"] == rows(spec).shape[1]
    assert described["weights_came_from"]["file"] == Path(spec.partition("@")[2]).name


def test_the_users_geometry_counts_as_with_the_original(squeezenet: Path) -> None:
    original = f"torchvision:squeezenet1_1@{squeezenet / 'squeezenet.safetensors'}"
    spec = f"checkpoint:{squeezenet / 'exported'}"
    for options in ({"resize": "squash"}, {"size": 96}, {"interpolation": "lanczos"}, {"precision": "bf16"}):
        assert np.abs(rows(spec, **options) - rows(original, **options)).max() <= 1e-6


def test_what_the_folder_says_decides_the_fingerprint_and_the_pixels(exported: Path) -> None:
    def fingerprint() -> str:
        return load_embedder(f"checkpoint:{exported}", device="cpu").fingerprint

    before, first = fingerprint(), rows(f"checkpoint:{exported}")
    change(exported, ("preprocessing", "resize"), "squash")
    assert fingerprint() != before
    assert np.abs(rows(f"checkpoint:{exported}") - first).max() > 1e-4
    change(exported, ("preprocessing", "resize"), "crop")
    assert fingerprint() == before
    state = load_file(exported / "model.safetensors")
    save_state({key: value + 0.01 for key, value in state.items()}, exported / "model.safetensors")
    assert fingerprint() != before


def test_the_folder_says_what_the_encoder_has_seen(exported: Path) -> None:
    cub = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
    assert load_embedder(f"checkpoint:{exported}").seen_state(cub) == "unknown"
    change(exported, ("trained_on",), ["cub"])
    assert load_embedder(f"checkpoint:{exported}").seen_state(cub) == "trained on it"
    change(exported, ("trained_on",), [])
    assert load_embedder(f"checkpoint:{exported}").seen_state(cub) == "unseen"


def test_a_card_is_shown_and_recorded(zoo: Path, painted: Path, exported: Path, tmp_path: Path) -> None:
    change(exported, ("licence",), "CC0")
    change(exported, ("trained_on",), [])
    shown = json.loads(run_here("embedder", "show", f"checkpoint:{exported}", "--json").stdout)
    assert (shown["licence"], shown["dimension"], shown["trained_on"]) == ("CC0", 512, [])
    out = tmp_path / "records"
    done = run_here("evaluate", "-g", zoo, "-r", painted, "-e", f"checkpoint:{exported}", "--out", out)
    assert done.returncode == 0, done.stderr
    [record] = out.glob("*/record.json")
    embedder = json.loads(record.read_text())["embedder"]
    assert embedder["spec"] == "checkpoint:exported"  # no folder of this machine
    assert embedder["gallery_seen"] == "unseen"
    assert str(tmp_path) not in record.read_text()


def change(folder: Path, keys: tuple[str, ...], value: Any) -> None:
    """Set, or with None remove, an entry of `embedder.toml`."""
    path = folder / "embedder.toml"
    described = tomllib.loads(path.read_text())
    place = described
    for key in keys[:-1]:
        place = place[key]
    place.pop(keys[-1], None)
    if value is not None:
        place[keys[-1]] = value
    path.write_text(tomli_w.dumps(described))


@pytest.mark.parametrize(
    ("keys", "value", "mention"),
    [
        (("format",), 2, "format 2"),
        (("format",), None, "lacks 'format'"),
        (("family",), "os", "family 'os'"),
        (("architecture",), "hf-hub:nobody/nothing", "architecture"),
        (("architecture",), "local-dir:/", "architecture"),
        (("architecture",), None, "architecture"),
        (("architecture",), "resnet18", "these are not weights of resnet18"),
        (("architecture",), "no_such_net", "no such classifier"),
        (("dimension",), "512", "another kind"),
        (("licence",), 3, "another kind"),
        (("trained_on",), ["nowhere"], "nowhere"),
        (("trained_on",), "cub", "trained_on"),
        (("dimension",), -1, "another kind"),
        (("preprocessing", "std"), [float("nan"), 1.0, 1.0], "out of range"),
        (("preprocessing", "resize_to"), [64, 64], "out of range"),
        (("preprocessing", "resize_to"), [256, 300], "out of range"),
        (("preprocessing", "fill"), ["a", "b", "c"], "out of range"),
        (("preprocessing", "size"), [224], "out of range"),
        (("preprocessing", "size"), [0, 0], "out of range"),
        (("preprocessing", "size"), [100000, 100000], "out of range"),
        (("preprocessing", "std"), [0.0, 1.0, 1.0], "out of range"),
        (("preprocessing", "mean"), ["a", "b", "c"], "out of range"),
        (("preprocessing", "resize"), "stretch", "out of range"),
        (("preprocessing", "interpolation"), "magic", "out of range"),
        (("preprocessing", "colour"), "blue", "colour"),
        (("preprocessing",), None, "preprocessing"),
        (("preprocessing",), 3, "embedder.toml"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    exported: Path, keys: tuple[str, ...], value: Any, mention: str
) -> None:
    change(exported, keys, value)
    with pytest.raises(FinerRankError) as caught:
        rows(f"checkpoint:{exported}")
    assert not lacking(str(caught.value), mention)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("embedder.toml", b"\xff"), ("embedder.toml", b"= ="), ("embedder.toml", None), ("model.safetensors", None),
     ("model.safetensors", b"nothing")],
)  # fmt: skip
def test_a_damaged_folder_is_named(zoo: Path, exported: Path, name: str, content: bytes) -> None:
    if content is None:
        (exported / name).unlink()
    else:
        (exported / name).write_bytes(content)
    assert name in refused_here("evaluate", "-g", zoo, "-e", f"checkpoint:{exported}")


def test_endless_nesting_is_named(zoo: Path, exported: Path) -> None:
    (exported / "embedder.toml").write_text("a = " + 20_000 * "[")
    assert "embedder.toml" in refused_here("evaluate", "-g", zoo, "-e", f"checkpoint:{exported}")


def test_an_export_claims_no_innocence_that_was_not_known(tmp_path: Path) -> None:
    from benchmark.embedders.checkpoint import export

    weights = save_timm(tmp_path / "mine.safetensors", "vit_small_patch16_224")
    export(load_embedder(f"dino-s16@{weights}", device="cpu"), tmp_path / "mine")
    cars = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
    assert load_embedder(f"checkpoint:{tmp_path / 'mine'}").seen_state(cars) == "unknown"


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    vit = save_timm(tmp_path / "vit.safetensors")
    folder = save_timm_folder(tmp_path / "vit")
    clip = save_clip(tmp_path / "clip")
    out = tmp_path / "out"
    for spec in ("classical", f"timm:local-dir:{folder}", f"open_clip:local-dir:{clip}", "ensemble:clip,dino"):
        assert "cannot be exported" in refused_here("embedder", "export", spec, "--out", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "full" in refused_here("embedder", "export", f"timm:test_vit@{vit}", "--out", tmp_path / "full")
    assert "damaged" not in refused_here("embedder", "export", f"timm:test_vit@{tmp_path / 'gone'}", "--out", out)
    assert not out.exists()
