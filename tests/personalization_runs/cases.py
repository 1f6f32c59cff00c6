"""Every method with tiny weights of its architecture, for the tests that look at each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny.flux import save_flux
from tiny.sd3 import save_sd3
from tiny.sdxl import save_sdxl

Save = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A method, and how to run it in a fraction of a second.

    Attributes:
        weights: role → what writes the folder.
        parameters: `NAME=VALUE` besides two steps and 32 × 32 pixels.
        flags: further options of the command.
    """

    method: str
    weights: Mapping[str, Save]
    parameters: tuple[str, ...] = ("steps=4", "width=32", "height=32")
    flags: tuple[str, ...] = ()


CASES = {
    "class-only, SDXL": Case("class-only", {"base": save_sdxl}),
    "class-only, SD3": Case("class-only", {"base": save_sd3}),
    "class-only, FLUX": Case("class-only", {"base": save_flux}),
    "copy-reference": Case("copy-reference", {}, ()),
    "img2img, SDXL": Case("img2img", {"base": save_sdxl}),
    "img2img, SD3": Case("img2img", {"base": save_sd3}),
    "img2img, FLUX": Case("img2img", {"base": save_flux}),
}
