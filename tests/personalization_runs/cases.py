"""Every method with tiny weights of its architecture, for the tests that look at each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest import MonkeyPatch
from tiny.emu2 import save_emu2
from tiny.flux import save_diptych_controlnet, save_flux, save_kontext, save_redux, save_schnell, save_subject_lora
from tiny.flux2 import save_flux2, save_flux2_klein
from tiny.omnigen import save_omnigen
from tiny.qwen_edit import save_qwen_edit, save_qwen_edit_plus, shrink_references
from tiny.sd import save_sd
from tiny.sd3 import save_sd3
from tiny.sdxl import save_ip_adapters, save_sdxl

Save = Callable[[Path], object]
SMALL = ("steps=4", "width=32", "height=32")
SHORT = ("steps=2", *SMALL[1:])
TRAINED = (*SMALL, "training_size=32", "training_steps=4", "learning_rate=0.05")
WITH_PRIOR = (*TRAINED, "n_prior_images=2", "prior_steps=2")


@dataclass(frozen=True)
class Case:
    """A method, and how to run it in a fraction of a second.

    Attributes:
        weights: role → what writes the folder.
        parameters: `NAME=VALUE` besides two steps and 32 × 32 pixels.
        flags: further options of the command.
        shrink: makes sizes small that the pipeline insists on.
    """

    method: str
    weights: Mapping[str, Save]
    parameters: tuple[str, ...] = SMALL
    flags: tuple[str, ...] = ()
    shrink: Callable[[MonkeyPatch], None] | None = None


CASES = {
    "class-only, SDXL": Case("class-only", {"base": save_sdxl}),
    "class-only, SD3": Case("class-only", {"base": save_sd3}),
    "class-only, FLUX": Case("class-only", {"base": save_flux}),
    "copy-reference": Case("copy-reference", {}, ()),
    "custom-diffusion, SD": Case("custom-diffusion", {"base": save_sd}, WITH_PRIOR),
    "diptych": Case("diptych", {"base": save_flux, "controlnet": save_diptych_controlnet}, ("steps=2", *SMALL[1:])),
    "dreambooth": Case("dreambooth", {"base": save_sd3}, WITH_PRIOR),
    "dreambooth-lora": Case("dreambooth-lora", {"base": save_flux}, WITH_PRIOR),
    "flux-kontext": Case("flux-kontext", {"base": save_kontext}, (*SMALL, "reference_px=32")),
    "flux-redux": Case("flux-redux", {"base": save_flux, "redux": save_redux}),
    "flux2": Case("flux2", {"base": save_flux2}, (*SMALL, "reference_px=64")),
    "flux2-klein": Case("flux2-klein", {"base": save_flux2_klein}, (*SMALL, "reference_px=64")),
    "ip-adapter": Case("ip-adapter", {"base": save_sdxl, "adapter": save_ip_adapters}),
    "ip-adapter-plus": Case("ip-adapter-plus", {"base": save_sdxl, "adapter": save_ip_adapters}),
    "img2img, SDXL": Case("img2img", {"base": save_sdxl}),
    "img2img, SD3": Case("img2img", {"base": save_sd3}),
    "img2img, FLUX": Case("img2img", {"base": save_flux}),
    "ominicontrol": Case("ominicontrol", {"base": save_schnell, "lora": save_subject_lora}),
    "omnigen": Case("omnigen", {"base": save_omnigen}, (*SHORT, "reference_px=32")),
    "qwen-image-edit": Case("qwen-image-edit", {"base": save_qwen_edit}, SHORT, shrink=shrink_references),
    "qwen-image-edit, Plus": Case("qwen-image-edit", {"base": save_qwen_edit_plus}, SHORT, shrink=shrink_references),
    "textual-inversion": Case("textual-inversion", {"base": save_sdxl}, TRAINED),
    "emu2": Case("emu2", {"base": save_emu2}, flags=("--allow-remote-code",)),
}
