"""Images that a generator made: what is judged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalization_runs.run import CLASS_ONLY, GeneratedImage, Query, Run, RunCard

__all__ = ["CLASS_ONLY", "GeneratedImage", "Query", "Run", "RunCard"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: every command comes through here, and few need all of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("personalization_runs.run"), name)
