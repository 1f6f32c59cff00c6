"""The methods that images can be made with."""

import importlib
from collections.abc import Mapping, Sequence

from galleries.errors import FinerRankError
from personalization_runs.methods.base import Method

MODULES = (
    "class_only",
    "copy_reference",
    "custom_diffusion",
    "diptych",
    "dreambooth",
    "flux2",
    "flux_kontext",
    "flux_redux",
    "img2img",
    "ominicontrol",
    "omnigen",
    "qwen_image_edit",
    "emu2",
    "ip_adapter",
    "textual_inversion",
)
"""One file each, which lists its `METHODS`. Nothing heavy is imported before one is used."""

METHODS: Mapping[str, Method] = {
    method.name: method
    for module in MODULES
    for method in importlib.import_module(f"personalization_runs.methods.{module}").METHODS
}


SETS: Mapping[str, tuple[str, ...]] = {
    "paper": ("dreambooth", "ip-adapter", "ip-adapter-plus", "flux-kontext", "ominicontrol", "diptych", "emu2"),
    "controls": ("class-only", "copy-reference", "img2img"),
}
"""Methods under one name: those that arXiv 2512.19026 compares; those that every board needs."""


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        FinerRankError: there is none.
    """
    from difflib import get_close_matches

    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f"is {near[0]!r} meant?" if near else f"one of {', '.join(METHODS)}"
        raise FinerRankError(f"--method {name}: unknown; {hint}")
    return METHODS[name]


def find_methods(names: Sequence[str]) -> list[Method]:
    """Methods by their names or the names of `SETS`, each once.

    Raises:
        FinerRankError: there is none of a name.
    """
    return [find_method(name) for name in dict.fromkeys(member for each in names for member in SETS.get(each, (each,)))]
