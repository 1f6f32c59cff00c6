"""What a method is asked for: an image of every identity in every prompt."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import DEFAULT_CATEGORY, Gallery, Photo
from galleries.image_set import free_name
from personalization_runs.methods.base import Method
from personalization_runs.prompt_sets import Prompt, class_word_of, identifier_fault


@dataclass(frozen=True)
class Request:
    """An image to be made.

    Attributes:
        class_word: what the prompt calls the subject.
        text: the prompt with class word and, where the method has one, identifier.
        number: of the images of one identity and prompt, from 0.
        reference: the photo that the image is made from; None where the gallery has none of this identity.
        seed: of this image alone, below 2**32.
        file_name: of the image, in the run.
    """

    identity: str
    category: str
    class_word: str
    prompt_id: str
    text: str
    number: int
    reference: Photo | None = field(compare=False)
    seed: int
    file_name: str

    @property
    def photo(self) -> Photo:
        """The reference, of a method that cannot do without.

        Raises:
            FinerRankError: there is none.
        """
        if self.reference is None:
            raise FinerRankError(f"identity {self.identity!r}: no reference photo")
        return self.reference


def plan_requests(
    gallery: Gallery,
    prompts: Sequence[Prompt],
    method: Method,
    *,
    identifier: str = "",
    class_words: Mapping[str, str] | None = None,
    n_images: int = 1,
    seed: int = 0,
    include: Sequence[str] = (),
) -> tuple[Request, ...]:
    """The images that a run of a method consists of, sorted by identity, prompt (as given) and number.

    Seed and reference of an image follow from run seed, identity, prompt id and number alone: neither order nor
    what else is asked for moves them, and all methods get the same.

    Args:
        identifier: token that stands for the individual; only given to methods that have one.
        class_words: see `class_word_of`.
        n_images: of each identity and prompt.
        include: patterns (`dog*`) of identities; all that have gallery photos where empty.

    Raises:
        Faults: identities without references, class word or prompts; an identifier that is none.
    """
    from fnmatch import fnmatchcase

    words = class_words or {}
    identities = sorted({photo.identity for photo in gallery.split("gallery")})
    identities = [name for name in identities if not include or any(fnmatchcase(name, p) for p in include)]
    if not identities:
        raise FinerRankError(f"{gallery.root}: no identity with gallery photos fits; loosen --include")
    faults: list[Fault] = []
    requests: list[Request] = []
    taken: set[str] = set()
    for identity in identities:
        category = gallery.category_of[identity]
        where = f"identity {identity!r}"
        references = gallery.references.get(identity, ())
        if (method.uses_reference or method.training) and not references:
            remedy = "set one aside (split = reference), or leave the identity out (--include)"
            faults.append(Fault(where, f"no reference photo, which {method.name} needs", remedy))
        word = class_word_of(identity, category, words)
        if category == DEFAULT_CATEGORY and word == category:
            faults.append(Fault(where, "nothing says what it is", "give --class-word WORD, or NAME=WORD for each"))
        own = [prompt for prompt in prompts if prompt.is_for(identity, category)]
        if not own:
            faults.append(Fault(where, f"no prompt is for it or its category {category!r}", "add prompts"))
        if len({prompt.prompt_id.lower() for prompt in own}) < len(own):
            faults.append(Fault(where, "two prompts of one prompt_id are for it", "give each prompt its own id"))
        folder = free_name("/".join(["images", *(name.replace("/", "_") for name in (category, identity))]), taken)
        for prompt in own:
            for number in range(n_images):
                chosen = _hash(seed, identity, prompt.prompt_id, number, "reference")
                requests.append(
                    Request(
                        identity=identity,
                        category=category,
                        class_word=word,
                        prompt_id=prompt.prompt_id,
                        text=prompt.text(word, identifier),
                        number=number,
                        reference=references[chosen % len(references)] if references else None,
                        seed=_hash(seed, identity, prompt.prompt_id, number, "noise"),
                        file_name=f"{folder}/{prompt.prompt_id}_{number}.png",
                    )
                )
    if identifier and (wrong := identifier_fault(identifier, {request.class_word for request in requests})):
        faults.append(Fault(f"--identifier {identifier}", wrong, f"the default is {method.identifier}"))
    raise_if_any(str(gallery.root), sorted(set(faults)))
    return tuple(requests)


def _hash(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:4])
