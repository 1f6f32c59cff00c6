"""The methods that images can be made with."""

import importlib
from collections.abc import Mapping

from galleries.errors import FinerRankError
from personalization_runs.methods.base import Method

MODULES = (
    "class_only",
    "copy_reference",
    "img2img",
)
"""One file each, which lists its `METHODS`. Nothing heavy is imported before one is used."""

METHODS: Mapping[str, Method] = {
    method.name: method
    for module in MODULES
    for method in importlib.import_module(f"personalization_runs.methods.{module}").METHODS
}


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
