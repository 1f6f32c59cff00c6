"""Images by adapters that were trained: what the methods of `personalization_runs.training` share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError
from personalization_runs.methods.base import Made

if TYPE_CHECKING:
    from personalization_runs.methods.setup import Setup
    from personalization_runs.requests import Request
    from personalization_runs.training.adapters import Adapter


class Generator:
    """The base model, loaded once, in which one identity's adapter takes the place of another's."""

    def __init__(self, setup: "Setup") -> None:
        from diffusers import AutoPipelineForText2Image

        self.setup = setup
        self.pipeline = setup.pipeline(AutoPipelineForText2Image)
        self.adapter: Adapter | None = None
        self.identity: str | None = None

    def make(self, requests: "Sequence[Request]") -> Sequence[Made]:
        from personalization_runs.methods.setup import call

        made: dict[int, Made] = {}
        for identity in dict.fromkeys(request.identity for request in requests):
            own = [number for number, request in enumerate(requests) if request.identity == identity]
            self._put_on(identity)
            made |= zip(own, call(self.pipeline, self.setup, [requests[number] for number in own]), strict=True)
        return [made[number] for number in range(len(requests))]

    def _put_on(self, identity: str) -> None:
        """Let the pipeline show somebody.

        Raises:
            FinerRankError: there is no adapter, or it is damaged.
        """
        from personalization_runs.methods.setup import quiet_diffusers
        from personalization_runs.training.adapters import make_adapter
        from personalization_runs.training.cards import WEIGHTS, folder_of, read_card
        from personalization_runs.training.families import family_of
        from personalization_runs.training.files import digest_of, read_safetensors

        if identity == self.identity:
            return
        assert self.setup.adapters is not None
        folder = folder_of(self.setup.adapters, identity)
        card, path = read_card(folder), folder / WEIGHTS
        if digest_of(path) != card["weights_sha256"]:
            raise FinerRankError(f"{path}: is not what {folder} was written with; remove the folder, and train again")
        if self.adapter is None:
            with quiet_diffusers():
                trained, identifier = self.setup.method.training, card["identifier"]
                self.adapter = make_adapter(family_of(self.pipeline), trained, self.setup.parameters, identifier)
        self.identity = None
        self.adapter.put(read_safetensors(path)[0], path)
        self.identity = identity
