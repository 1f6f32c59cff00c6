"""The reference photo itself: it answers no prompt, and a pairwise similarity finds nothing better."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from personalization_runs.methods.base import Made, Method

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request


class Generator:
    """Hands out the photos as they are."""

    pipeline = None

    def __init__(self, setup: "Setup") -> None:
        pass

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import rgb

        return [Made(rgb(request.photo)) for request in requests]


METHODS = (
    Method("copy-reference", "the reference photo itself: an anchor, and no success", Generator, uses_reference=True),
)
