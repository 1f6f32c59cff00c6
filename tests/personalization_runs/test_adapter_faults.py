"""Adapters that do not fit their base model: refused in one line while they are loaded, and nothing is left behind."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from handmade import half, lacking
from in_process import refused_here
from safetensors.torch import load_file, save_file
from tiny import parts
from tiny.flux import save_flux, save_kontext, save_redux
from tiny.sd import save_sd
from tiny.sd3 import save_sd3
from tiny.sdxl import save_ip_adapters, save_sdxl

State = dict[str, torch.Tensor]
PLAIN, PLUS = "sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"
ENCODER = "sdxl_models/image_encoder"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Folders of weights, written once each, which a test must not spoil."""
    root = tmp_path_factory.mktemp("weights")
    writers: Mapping[str, Callable[[Path], object]] = {
        "sdxl": save_sdxl,
        "sd": save_sd,
        "sd3": save_sd3,
        "flux": save_flux,
        "kontext": save_kontext,
        "redux": save_redux,
        "ip-adapters": save_ip_adapters,
        "empty": Path.mkdir,
    }

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            writers[name](root / name)
        return root / name

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def refused(zoo: Path, out: Path, method: str, *settings: str, **weights: Path) -> str:
    arguments: list[object] = ["run", "generate", "-g", zoo, "-m", method, "--prompts", "reid", "--out", out]
    arguments += [word for setting in settings for word in ("--set", setting)]
    arguments += [word for role, path in weights.items() for word in ("--weights", f"{role}={path}")]
    before = set(out.parent.iterdir())
    line = refused_here(*arguments)
    assert set(out.parent.iterdir()) == before, "something is left behind"
    return line


def changed(folder: Path, change: Callable[[State], State]) -> None:
    state = change(load_file(folder / PLAIN))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / PLAIN)


def without(state: State, word: str) -> State:
    return {name: tensor for name, tensor in state.items() if word not in name}


def lose_a_layer(folder: Path) -> None:
    changed(folder, lambda state: without(state, "ip_adapter.5."))


def gain_a_layer(folder: Path) -> None:
    """Which the library would not miss."""
    changed(folder, lambda state: state | {"ip_adapter.7.to_k_ip.weight": torch.zeros(8, 64)})


def narrow_the_layers(folder: Path) -> None:
    changed(folder, lambda state: {k: v[:, :32] if "_ip." in k else v for k, v in state.items()})


def narrow_the_tokens(folder: Path) -> None:
    changed(folder, lambda state: {k: v[: len(v) // 2] if "image_proj" in k else v for k, v in state.items()})


def lose_the_projection(folder: Path) -> None:
    changed(folder, lambda state: without(state, "image_proj"))


def cut_the_file(folder: Path) -> None:
    (folder / PLAIN).write_bytes(half((folder / PLAIN).read_bytes()))


def exchange_the_encoder(folder: Path) -> None:
    shutil.rmtree(folder / ENCODER)
    shutil.copytree(folder / "models/image_encoder", folder / ENCODER)


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no file": (lambda folder: (folder / PLAIN).unlink(), ("No such file",)),
    "half a file": (cut_the_file, ("cannot be put into the base model",)),
    "a layer less": (lose_a_layer, ("a model with other layers",)),
    "a layer more": (gain_a_layer, ("a model with other layers",)),
    "narrower layers": (narrow_the_layers, ("a model with other layers",)),
    "narrower tokens": (narrow_the_tokens, ("do not fit", "32 values for a model of 64")),
    "no projection": (lose_the_projection, ("it has no image projection",)),
    "no encoder": (lambda folder: shutil.rmtree(folder / ENCODER), ("has no weights in safetensors",)),
    "another's encoder": (exchange_the_encoder, (ENCODER, "do not fit")),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_an_ip_adapter_that_does_not_fit(fault: str, sound: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    spoil, mentions = SPOILT[fault]
    spoilt = shutil.copytree(sound("ip-adapters"), tmp_path / "spoilt")
    spoil(spoilt)
    line = refused(zoo, tmp_path / "run", "ip-adapter", base=sound("sdxl"), adapter=spoilt)
    assert not lacking(line, f"--weights adapter={spoilt}", PLAIN, *mentions)


@pytest.mark.parametrize("base", ["sd", "sd3", "flux", "empty"])
def test_a_base_model_that_has_no_place_for_an_ip_adapter(
    base: str, sound: Callable[[str], Path], zoo: Path, tmp_path: Path
) -> None:
    line = refused(zoo, tmp_path / "run", "ip-adapter-plus", base=sound(base), adapter=sound("ip-adapters"))
    wanted = "model_index.json" if base == "empty" else "needs a StableDiffusionXLPipeline"
    assert not lacking(line, f"--weights base={sound(base)}", wanted)


def test_models_that_do_not_know_what_a_reference_is(sound: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    line = refused(zoo, tmp_path / "run", "flux-kontext", base=sound("flux"))
    assert not lacking(line, f"base={sound('flux')}: a FluxPipeline", "needs a FluxKontextPipeline")
    line = refused(zoo, tmp_path / "run", "flux2", base=sound("kontext"))
    assert not lacking(line, "a FluxKontextPipeline", "needs a Flux2Pipeline or Flux2KleinPipeline")


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 2 * parts.WIDTH), (24, parts.WIDTH)])
def test_redux_of_another_width(n_in: int, n_out: int, sound: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(sound("redux"), tmp_path / "spoilt")
    ReduxImageEncoder(n_in, n_out).save_pretrained(spoilt / "image_embedder")
    line = refused(zoo, tmp_path / "run", "flux-redux", base=sound("flux"), redux=spoilt)
    assert not lacking(line, f"--weights redux={spoilt}", "its tokens do not fit the base model")


@pytest.mark.parametrize("other", ["empty", "sdxl"])
def test_no_redux(other: str, sound: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    line = refused(zoo, tmp_path / "run", "flux-redux", base=sound("flux"), redux=sound(other))
    wanted = "model_index.json" if other == "empty" else "needs a FluxPriorReduxPipeline"
    assert not lacking(line, f"--weights redux={sound(other)}", wanted)


def test_sizes_that_the_models_would_change(sound: Callable[[str], Path], zoo: Path, tmp_path: Path) -> None:
    line = refused(zoo, tmp_path / "run", "flux-kontext", "width=40", base=sound("kontext"))
    assert not lacking(line, "--set width=40: must be a multiple of 16")
    line = refused(zoo, tmp_path / "run", "flux2", "reference_px=32", base=sound("kontext"))
    assert not lacking(line, "--set reference_px=32: must be at least 64")


@pytest.mark.parametrize("part", ["unet", "text_encoder", "image_encoder"])
def test_pickles_are_not_read_in_place_of_safetensors(
    sound: Callable[[str], Path], zoo: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"base": sound("sdxl"), "adapter": sound("ip-adapters")}
    role, where = ("adapter", f"sdxl_models/{part}") if part == "image_encoder" else ("base", part)
    folders[role] = Path(shutil.copytree(folders[role], tmp_path / "pickled"))
    [path] = (folders[role] / where).glob("*.safetensors")
    name = "diffusion_pytorch_model.bin" if part == "unet" else "pytorch_model.bin"
    torch.save(load_file(path), path.with_name(name))
    path.unlink()

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", load)
    line = refused(zoo, tmp_path / "run", "ip-adapter", "width=32", "height=32", **folders)
    assert not lacking(line, f"--weights {role}={folders[role]}", "safetensors")
    assert "pickle was read" not in line
