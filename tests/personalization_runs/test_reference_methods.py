"""Methods that look at one reference photo: what they do with it agrees with the published way of calling them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline, StableDiffusionXLPipeline
from PIL import Image
from tiny.flux import save_flux, save_kontext, save_redux
from tiny.flux2 import save_flux2, save_flux2_klein
from tiny.sdxl import save_ip_adapters, save_sdxl

from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.methods.setup import fitted, noise_sources, quiet_diffusers, rgb
from personalization_runs.plans import Settings, make_plan, set_up
from personalization_runs.requests import Request

Pixels = np.ndarray[Any, Any]
Folders = dict[str, Path]
SMALL = ("steps=2", "width=32", "height=32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Folders]]:
    """Weights by role, written once each."""
    root = tmp_path_factory.mktemp("weights")

    def folders_of(**writers: Callable[[Path], object]) -> Folders:
        for write in writers.values():
            if not (root / write.__name__).is_dir():
                write(root / write.__name__)
        return {role: root / write.__name__ for role, write in writers.items()}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folders_of
    torch.set_num_threads(threads)


def prepared(
    method: str, folders: Folders, zoo: Path, *settings: str, fit: str = "squash"
) -> tuple[Any, list[Request]]:
    """A generator, and an image of each dog to be made by it."""
    asked = Settings(
        ["reid"], ["dog"], parameters=settings or SMALL, weights=[f"{role}={path}" for role, path in folders.items()],
        fit=fit, device="cpu", dtype="float32",
    )  # fmt: skip
    plan = make_plan(Gallery.open(zoo), METHODS[method], asked, zoo / "run")
    requests = {request.identity: request for request in plan.requests}
    return METHODS[method].generator(set_up(plan, warn=print)), list(requests.values())


@torch.inference_mode()
def images(generator: Any, requests: Sequence[Request]) -> list[Pixels]:
    return [np.asarray(made.image, dtype=int) for made in generator.make(requests)]


def picture(request: Request, input_px: int) -> Image.Image:
    return fitted(rgb(request.photo), (input_px, input_px), "squash")


def alike(these: Sequence[Pixels], those: Sequence[Pixels]) -> bool:
    """Within the one grey level that the size of a batch may make."""
    return all(abs(a - b).max() <= 1 for a, b in zip(these, those, strict=True))


@pytest.mark.parametrize("method", ["ip-adapter", "ip-adapter-plus"])
def test_an_ip_adapter_of_no_weight_leaves_the_base_model_as_it_is(
    method: str, folders: Callable[..., Folders], zoo: Path
) -> None:
    weights = folders(base=save_sdxl, adapter=save_ip_adapters)
    generator, requests = prepared(method, weights, zoo, *SMALL, "scale=0")
    base, _ = prepared("class-only", {"base": weights["base"]}, zoo)
    for with_adapter, without in zip(images(generator, requests), images(base, requests), strict=True):
        assert (with_adapter == without).all()


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("method", ["ip-adapter", "ip-adapter-plus"])
@torch.inference_mode()
def test_ip_adapters_side_by_side_make_what_the_library_makes_one_at_a_time(
    method: str, guidance: float, folders: Callable[..., Folders], zoo: Path
) -> None:
    weights = folders(base=save_sdxl, adapter=save_ip_adapters)
    generator, requests = prepared(method, weights, zoo, *SMALL, f"guidance={guidance}")
    with quiet_diffusers():
        library = StableDiffusionXLPipeline.from_pretrained(weights["base"])
        library.set_progress_bar_config(disable=True)
        adapter, encoder = METHODS[method].weights["adapter"].files[:2]
        library.load_ip_adapter(
            str(weights["adapter"]),
            subfolder="sdxl_models",
            weight_name=Path(adapter).name,
            image_encoder_folder=str(Path(encoder).parent),
        )
        library.set_ip_adapter_scale(0.6)
        expected = [
            library(
                request.text,
                negative_prompt=METHODS[method].parameters["negative_prompt"],
                ip_adapter_image=picture(request, 32),
                num_inference_steps=2,
                guidance_scale=guidance,
                width=32,
                height=32,
                generator=noise_sources([request]),
            ).images[0]
            for request in requests
        ]
    assert alike(images(generator, requests), [np.asarray(image, dtype=int) for image in expected])


@pytest.mark.parametrize(("fit", "is_seen"), [("squash", True), ("pad", True), ("crop", False)])
def test_the_ends_of_a_long_photo_are_seen_unless_cropping_is_asked_for(
    fit: str, is_seen: bool, folders: Callable[..., Folders], zoo: Path
) -> None:
    weights = folders(base=save_sdxl, adapter=save_ip_adapters)
    generator, [request, _] = prepared("ip-adapter", weights, zoo, fit=fit)
    photo = request.photo
    made = []
    for end in ("white", "black"):
        long = Image.new("RGB", (192, 64), end)
        long.paste("red", (48, 0, 144, 64))
        long.save(zoo / f"{end}.png")
        changed = replace(request, reference=replace(photo, path=zoo / f"{end}.png"))
        made += images(generator, [changed])
    assert (made[0] != made[1]).any() == is_seen


@torch.inference_mode()
def test_redux_side_by_side_makes_what_the_library_makes_one_at_a_time(
    folders: Callable[..., Folders], zoo: Path
) -> None:
    weights = folders(base=save_flux, redux=save_redux)
    generator, requests = prepared("flux-redux", weights, zoo)
    with quiet_diffusers():
        library = FluxPipeline.from_pretrained(weights["base"])
        library.set_progress_bar_config(disable=True)
        encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        prior = FluxPriorReduxPipeline.from_pretrained(
            weights["redux"], **{name: getattr(library, name) for name in encoders}
        )
        expected = [
            library(
                **prior(picture(request, 32), request.text),
                num_inference_steps=2,
                guidance_scale=2.5,
                width=32,
                height=32,
                generator=noise_sources([request]),
            ).images[0]
            for request in requests
        ]
    assert alike(images(generator, requests), [np.asarray(image, dtype=int) for image in expected])


def test_the_weight_of_redux_is_that_of_the_photo_and_not_of_the_prompt(
    folders: Callable[..., Folders], zoo: Path
) -> None:
    weights = folders(base=save_flux, redux=save_redux)
    none, [rex, tom] = prepared("flux-redux", weights, zoo, *SMALL, "image_weight=0")
    other_photo = replace(rex, reference=tom.reference)
    other_prompt = replace(rex, text="a cat")
    own, photo, prompt = images(none, [rex, other_photo, other_prompt])
    assert (own == photo).all()
    assert (own != prompt).any()
    half, _ = prepared("flux-redux", weights, zoo, *SMALL, "image_weight=0.5")
    own_half, photo_half = images(half, [rex, other_photo])
    assert (own_half != photo_half).any()


@pytest.mark.parametrize(
    ("method", "write", "reference_px"),
    [("flux-kontext", save_kontext, 64), ("flux2", save_flux2, 64), ("flux2", save_flux2_klein, 80)],
)
def test_images_have_the_size_that_is_asked_for_whatever_the_references(
    method: str, write: Callable[[Path], object], reference_px: int, folders: Callable[..., Folders], zoo: Path
) -> None:
    settings = ("steps=1", "width=48", "height=32", f"reference_px={reference_px}")
    generator, requests = prepared(method, folders(base=write), zoo, *settings)
    assert [image.shape for image in images(generator, requests)] == [(32, 48, 3)] * 2


def test_klein_heeds_guidance_unless_it_was_distilled(folders: Callable[..., Folders], zoo: Path) -> None:
    def save_undistilled(folder: Path) -> None:
        save_flux2_klein(folder, is_distilled=False)

    for write, heeds in ((save_flux2_klein, False), (save_undistilled, True)):
        generator, [request, _] = prepared(
            "flux2", folders(base=write), zoo, "steps=1", "width=32", "height=32", "reference_px=64"
        )
        made = []
        for guidance in (2.0, 6.0):
            generator.setup = replace(generator.setup, parameters={**generator.setup.parameters, "guidance": guidance})
            made += images(generator, [request])
        assert (made[0] != made[1]).any() == heeds
