"""CLIP-T: how well generated images match their prompts. Identity that comes by ignoring the prompt is no success."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.aggregates import as_json_estimate
from benchmark.embed import ImageFile, Progress, embed_images
from benchmark.embedders import Embedder, published_spec
from benchmark.embedders.pictures import what_is_wrong
from benchmark.rank import pair_similarity, row_norms
from benchmark.statistics import estimate_mean
from benchmark.store import EmbeddingStore, Root
from galleries.downloads import first_line
from galleries.errors import Fault, FinerRankError
from galleries.images import sha256_of
from personalization_runs.run import Query, Run

TEXTS_PER_PASS = 256
SURELY_CUT = 76
"""Words from which on a prompt is longer than CLIP's 77 tokens, two of which mark its ends."""


@dataclass(frozen=True)
class PromptMatch:
    """How an image matches its prompt.

    Attributes:
        cosine: to the prompt as it is, -1 to 1.
        text: the prompt without the identifier token; "" where the run names no token.
        cosine_without_identifier: to `text`; None where there is none.
    """

    cosine: float
    text: str
    cosine_without_identifier: float | None


@dataclass(frozen=True)
class PromptFidelity:
    """CLIP-T of all images of some runs that have a prompt.

    Attributes:
        embedder: what embedded images and prompts.
        of: image file → its match.
        notes: what a reader of the numbers should know.
        faults: images with a prompt that `embedder` cannot embed; they have no match.
    """

    embedder: Embedder
    of: Mapping[Path, PromptMatch]
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]

    def columns(self, queries: Sequence[Query]) -> dict[str, list[Any]]:
        """Columns of a record's `queries.parquet`; null where an image has no prompt, or the run no identifier."""
        matches = [self.of.get(query.image.path) for query in queries]
        return {
            "clip_t": [match.cosine if match else None for match in matches],
            "prompt_without_identifier": [match.text if match else "" for match in matches],
            "clip_t_without_identifier": [match.cosine_without_identifier if match else None for match in matches],
        }

    def summary(self, run: Run, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """What a record says of it: means over queries with intervals over identities, and by what they were made."""
        identities = columns["identity"]

        def mean(column: str) -> Any:
            values = [float("nan") if value is None else value for value in columns[column]]
            return as_json_estimate(estimate_mean(values, identities))

        return {
            "embedder": published_spec(self.embedder.spec),
            "fingerprint": self.embedder.fingerprint,
            "n_queries": sum(value is not None for value in columns["clip_t"]),
            "clip_t": mean("clip_t"),
            "identifier": run.card.identifier,
            "clip_t_without_identifier": mean("clip_t_without_identifier"),
        }


def without_identifier(prompt: str, identifier: str) -> str:
    """A prompt without the token that stands for the individual.

    >>> without_identifier("a photo of sks, a dog", "sks")
    'a photo of, a dog'
    """
    left = re.sub(rf"(?<!\w){re.escape(identifier)}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(left.split()))


def prompt_fidelity(
    runs: Sequence[Run],
    files: Mapping[Path, ImageFile],
    embedder: Embedder,
    store: Root,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None],
) -> PromptFidelity:
    """Compare each image of the runs with its prompt: the cosine of their embeddings, neither clipped nor scaled.

    Source: CLIPScore (Hessel et al. 2021, arXiv 2104.08718) without its factor 2.5 and its floor at 0, as DreamBooth
    and DreamBench++ report it.

    Args:
        files: usable images; the others are left out.
        embedder: with a text side.

    Raises:
        FinerRankError: no image has a prompt, none can be embedded, or a prompt cannot; the embedder has no text side.
            Faults of some images are returned, not raised.
    """
    images = [(run, image) for run in runs for image in run.images if image.prompt.strip() and image.path in files]
    if not images:
        raise FinerRankError("--clip-t: no image has a prompt; fill in the column prompt, or leave --clip-t out")
    texts = {
        image.path: (image.prompt, without_identifier(image.prompt, run.card.identifier) if run.card.identifier else "")
        for run, image in images
    }
    wanted = {text for pair in texts.values() for text in pair if text}
    row_of_text, text_rows = _embed_texts(wanted, embedder, store, warn)
    found = embed_images(
        [files[path] for path in texts], embedder, store, batch_size=batch_size, progress=progress, warn=warn
    )
    if not found.row_of:
        first = found.faults[0]
        raise FinerRankError(
            f"--clip-t {embedder.spec}: cannot place any image that has a prompt ({first.where}: {first.what}); "
            "if its weights are not what they should be, name another model"
        )
    usable = [path for path in texts if files[path].key in found.row_of]
    pairs = [(path, text) for path in usable for text in texts[path] if text]
    rows = np.concatenate([found.rows, text_rows])
    left = np.array([found.row_of[files[path].key] for path, _ in pairs], dtype=np.int64)
    right = np.array([len(found.rows) + row_of_text[text] for _, text in pairs], dtype=np.int64)
    norms = row_norms(rows)
    cosine = dict(zip(pairs, pair_similarity(rows, rows, left, right, norms, norms).tolist(), strict=True))
    of = {}
    for path in usable:
        prompt, text = texts[path]
        of[path] = PromptMatch(cosine[path, prompt], text, cosine[path, text] if text else None)
    return PromptFidelity(embedder, of, tuple(_notes(runs, [image.prompt for _, image in images])), found.faults)


def _embed_texts(
    texts: set[str], embedder: Embedder, root: Root, warn: Callable[[str], None]
) -> tuple[dict[str, int], Any]:
    """Each text's row, embedded once: the store holds texts beside images.

    Raises:
        FinerRankError: a text without an embedding, or an embedder that embeds none.
    """
    store = EmbeddingStore(root, embedder.fingerprint, warn)
    key_of = _keys(texts, embedder)
    there, _ = store.read(key_of.values())
    if len(there) < len(texts):
        embedder.embed_texts(sorted(texts)[:1])  # fetches the tokenizer, whose files the keys speak of
        embedder.is_outdated()  # mends the fingerprint, and remembers it with the folder as it is now
        store = EmbeddingStore(root, embedder.fingerprint, warn)
        key_of = _keys(texts, embedder)
        there, _ = store.read(key_of.values())
    missing = sorted(text for text, key in key_of.items() if key not in there)
    for start in range(0, len(missing), TEXTS_PER_PASS):
        part = missing[start : start + TEXTS_PER_PASS]
        found = embedder.embed_texts(part)
        for text, row in zip(part, found, strict=True):
            wrong = what_is_wrong(row)
            if wrong:
                raise FinerRankError(
                    f"--clip-t {embedder.spec}: prompt {first_line(text)!r}: {wrong}; if its weights are not what they "
                    "should be, name another model"
                )
        store.append([key_of[text] for text in part], found)
    row_of, rows = store.read(key_of.values())
    return {text: row_of[key] for text, key in key_of.items()}, rows


def _keys(texts: set[str], embedder: Embedder) -> dict[str, str]:
    """What each text's embedding is stored under."""
    digest = embedder.texts_digest()
    return {text: sha256_of(f"text\0{digest}\0{text}".encode()) for text in texts}


def _notes(runs: Sequence[Run], prompts: Sequence[str]) -> list[str]:
    notes = []
    for run in runs:
        n = sum(not image.prompt.strip() for image in run.images)
        if n:
            notes.append(f"{run.card.model}: {n} of {len(run.images)} images have no prompt and no CLIP-T")
    n_long = sum(len(prompt.split()) >= SURELY_CUT for prompt in set(prompts))
    if n_long:
        notes.append(f"{n_long} prompts are longer than CLIP's 77 tokens; it does not read the rest")
    return notes
