"""What is learned from: reference photos, and images that the base model makes of the class."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from galleries.errors import FinerRankError
from galleries.images import sha256_of
from personalization_runs.methods.setup import fitted
from personalization_runs.prompt_sets import PLAIN
from personalization_runs.training.cards import safe_name
from personalization_runs.training.files import partial_of, put, writing
from personalization_runs.training.randomness import drawn_from

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor

    from personalization_runs.methods.setup import Setup
    from personalization_runs.training.families import Family
    from personalization_runs.training.recipe import Recipe

CLASS_IMAGES = "_class_images"
"""Folder beside the adapters; no identity's own begins with a line."""
N_TRIES = 8


class Pictures:
    """Pictures as latents: square, in an order and with noise of their own from random numbers that are handed in.

    Args:
        fit: as of references (`Setup.fit`), but that `crop` takes another part of the picture each time.
    """

    def __init__(self, images: "Sequence[Image]", family: "Family", size: int, fit: str) -> None:
        self.family = family
        self.size = size
        self.is_cropped = fit == "crop"
        self.images = [image if self.is_cropped else fitted(image, (size, size), fit) for image in images]
        self.encoded: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def latents(self, number: int, generator: "Generator") -> "Tensor":
        """Latents of a picture, (1, channel, y, x), in float32."""
        import torch

        if number not in self.encoded or self.is_cropped:
            image = self.images[number]
            self.encoded[number] = self._posterior(self._part(image, generator) if self.is_cropped else image)
        mean, std = self.encoded[number]
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return self.family.scaled(mean + std * noise)

    def _posterior(self, image: "Image") -> "tuple[Tensor, Tensor]":
        import numpy as np
        import torch

        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            found = self.family.vae.encode(pixels.to(self.family.device, self.family.dtype)).latent_dist
        return found.mean.float(), found.std.float()

    def _part(self, image: "Image", generator: "Generator") -> "Image":
        """A square part, as large as it can be, from anywhere in the picture."""
        import torch

        side = min(image.size)
        left, top = (
            int(torch.randint(length - side + 1, (1,), generator=generator)) for length in (image.width, image.height)
        )
        return image.crop((left, top, left + side, top + side)).resize((self.size, self.size), 1)


def class_images(
    pipeline: Any,
    setup: "Setup",
    recipe: "Recipe",
    class_word: str,
    seed: int,
    adapters: Path,
    step: Callable[[int], Any] | None = None,
) -> list[Path]:
    """Images of a class, made by the base model once for all of that class, and gone on with after a kill.

    Args:
        pipeline: of the base model, nothing of it trained yet. Its own guidance is used.

    Raises:
        FinerRankError: it makes none that shows anything; a full disk.
    """
    facts = {
        "class_word": class_word,
        "weights": {role: str(weights) for role, weights in sorted(setup.weights.items())},
        "size": recipe.size,
        "steps": recipe.prior_steps,
        "seed": seed,
        "dtype": setup.dtype,
    }
    content = json.dumps(facts, indent=1).encode()
    folder = adapters / CLASS_IMAGES / f"{safe_name(class_word)}-{sha256_of(content)[:8]}"
    paths = [folder / f"{number:04}.png" for number in range(recipe.n_prior_images)]
    lock = folder.with_name(f".{folder.name}.lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            put(folder / "class_images.json", content)
            for number, path in enumerate(paths):
                if not path.is_file():
                    partial = partial_of(path)
                    _class_image(pipeline, recipe, class_word, (seed, class_word, number)).save(partial, "PNG")
                    partial.replace(path)
                if step:
                    step(1)
        lock.unlink(missing_ok=True)
    return paths


def _class_image(pipeline: Any, recipe: "Recipe", class_word: str, key: tuple[Any, ...]) -> "Image":
    from personalization_runs.methods.setup import made_of, quiet_diffusers

    for number in range(N_TRIES):
        with quiet_diffusers():
            [made] = made_of(
                pipeline(
                    prompt=PLAIN.text(class_word),
                    width=recipe.size,
                    height=recipe.size,
                    num_inference_steps=recipe.prior_steps,
                    generator=drawn_from("class image", *key, number),
                )
            )
        if made.image and len(made.image.convert("RGB").getcolors(1) or ()) != 1:
            return made.image
    raise FinerRankError(f"class images of {class_word!r}: the base model makes none; write --set prior_weight=0")
