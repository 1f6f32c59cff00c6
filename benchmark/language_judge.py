"""Is it the same individual? A language model that sees reference and generated image says 0 to 4.

The score is *concept preservation* in the manner of DreamBench++ (Peng et al. 2024, arXiv 2406.16855), in a wording of
our own. It is an opinion beside the ranking: no record, no comparison and no leaderboard holds it.
"""

import base64
import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.chat_endpoint import ChatEndpoint, Stopped
from benchmark.chat_reply import NoCompletion
from benchmark.language_judge_replies import Question, Reply, keep_reply, kept_reply, score_of
from galleries.errors import FinerRankError, printable, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.images import decode_image, read_image_bytes, sha256_of
from personalization_runs.run import Query, Run

if TYPE_CHECKING:
    from benchmark.embed import ImageFile
    from galleries.console import Progress
    from galleries.image_set import ImageRow

    Pictures = tuple[ImageFile, ImageFile]

PROMPT_FILE = Path(__file__).parent / "prompts" / "same_individual.txt"

LONGEST_PX = 768
JPEG_QUALITY = 95
SENT_AS = f"RGB JPEG of quality {JPEG_QUALITY}, at most {LONGEST_PX} px"
"""How both images are sent."""


@dataclass(frozen=True)
class Settings:
    """How to ask.

    Attributes:
        repeats: times that each image is asked about; each time its number is sent as the seed.
        temperature: 0 to 2.
        limit: at most so many images, spread over the identities; all where None.
        parallel: requests at a time; changes nothing but the time that it takes.
    """

    model: str
    repeats: int = 1
    temperature: float = 0.0
    limit: int | None = None
    parallel: int = 4


@dataclass(frozen=True)
class Prompt:
    """The text that goes before the two images, and its SHA-256."""

    text: str
    sha256: str


@dataclass(frozen=True)
class Score:
    """What one reply says of one image.

    Attributes:
        reference: file name of the gallery's photo that the image was compared with.
        repeat: from 1.
        score: 0 to 4; None where the reply gives none, which `status` and `reason` explain.
    """

    file_name: str
    identity: str
    reference: str
    repeat: int
    score: int | None
    reason: str
    status: str


@dataclass(frozen=True)
class Judgement:
    """All scores of a run, in the order of its images, and where they come from.

    Attributes:
        references: how many images were compared with which kind of photo.
        replies: those that hold completions: (host of the server, model it says it ran) → how many.
        n_requests: asked now; other replies were kept from before, or serve several equal images.
    """

    settings: Settings
    prompt: Prompt
    scores: tuple[Score, ...]
    references: dict[str, int]
    replies: dict[tuple[str, str], int]
    n_requests: int


def read_prompt() -> Prompt:
    text = PROMPT_FILE.read_text(encoding="utf-8")
    return Prompt(text, sha256_of(text.encode()))


def default_cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("finer-rank") / "language-judge"


def judge_run(
    gallery: Gallery,
    run: Run,
    endpoint: ChatEndpoint,
    settings: Settings,
    cache: Path,
    progress: "Progress | None" = None,
) -> Judgement:
    """Ask a model of each image of a run whether it shows the individual of its reference photo.

    The result depends neither on file order nor on the number of requests at a time.

    Args:
        cache: folder of replies.

    Raises:
        Faults: images that cannot be used, or that ask for somebody the gallery lacks; nothing is asked then.
        FinerRankError: the server does not answer, see `ChatEndpoint.complete`; replies so far are kept.
    """
    from benchmark.embed import image_files

    queries = _spread(run.queries(gallery), settings.limit)
    references = [_reference_of(query, gallery) for query in queries]
    photos = sorted({photo for photo, _ in references}, key=lambda photo: photo.file_name)
    images = list(dict.fromkeys(query.image for query in queries))
    files, faults = image_files([(gallery.root, photos), (run.root, images)], decode=False, progress=progress)
    raise_if_any("no question was asked", faults)

    prompt = read_prompt()
    asked: list[tuple[Query, Photo, Question]] = []
    pictures: dict[Question, Pictures] = {}
    for query, (photo, _) in zip(queries, references, strict=True):
        shown = files[photo.path], files[query.image.path]
        for repeat in range(1, settings.repeats + 1):
            question = Question(
                settings.model,
                prompt.sha256,
                shown[0].digest,
                shown[1].digest,
                repeat,
                settings.temperature,
                SENT_AS,
            )
            asked.append((query, photo, question))
            pictures.setdefault(question, shown)
    replies = {question: kept for question in pictures if (kept := kept_reply(cache, question))}
    missing = {question: shown for question, shown in pictures.items() if question not in replies}
    paths = {file.path for shown in missing.values() for file in shown}
    sets: list[tuple[Path, Sequence[ImageRow]]] = [(gallery.root, photos), (run.root, images)]
    to_send = [(root, [row for row in rows if row.path in paths]) for root, rows in sets]
    raise_if_any("no question was asked", image_files(to_send, decode=True, progress=progress)[1])
    replies |= _ask(missing, prompt, endpoint, settings, cache, progress)

    failures = {replies[question].failure for question in pictures}
    if "" not in failures:
        raise FinerRankError(
            f"{endpoint.url}: answers with {sorted(failures)[0]}, not with completions; check --endpoint"
        )
    counts: dict[str, int] = defaultdict(int)
    for _, kind in references:
        counts[kind] += 1
    served: dict[tuple[str, str], int] = defaultdict(int)
    for *_, question in asked:
        reply = replies[question]
        if reply.completion:
            served[reply.endpoint_host, reply.completion.served_model] += 1
    scores = tuple(
        Score(query.image.file_name, query.identity, photo.file_name, question.repeat, *score_of(replies[question]))
        for query, photo, question in asked
    )
    return Judgement(settings, prompt, scores, dict(sorted(counts.items())), dict(sorted(served.items())), len(missing))


def _spread(queries: Sequence[Query], limit: int | None) -> list[Query]:
    """At most `limit` queries, taken from each identity in turn; in their own order."""
    by_identity: dict[str, list[int]] = defaultdict(list)
    for i, query in enumerate(queries):
        by_identity[query.identity].append(i)
    in_turn = sorted((place, identity, i) for identity, own in by_identity.items() for place, i in enumerate(own))
    return [queries[i] for i in sorted(i for *_, i in in_turn[:limit])]


def _reference_of(query: Query, gallery: Gallery) -> tuple[Photo, str]:
    """The photo that an image is compared with, and which kind of photo that is."""
    if query.reference:
        return query.reference, "named by the run"
    known = gallery.references.get(query.identity)
    if known:
        return known[0], "first reference photo"
    return next(p for p in gallery.split("gallery") if p.identity == query.identity), "first gallery photo"


def _ask(
    missing: "Mapping[Question, Pictures]",
    prompt: Prompt,
    endpoint: ChatEndpoint,
    settings: Settings,
    cache: Path,
    progress: "Progress | None",
) -> dict[Question, Reply]:
    def ask_one(question: Question, reference: "ImageFile", image: "ImageFile") -> Reply:
        pictures = [data_uri(_unchanged(file)) for file in (reference, image)]
        try:
            completion = endpoint.complete(_request(question, prompt, pictures))
        except NoCompletion as error:
            return Reply(None, endpoint.host, str(error))
        reply = Reply(completion, endpoint.host)
        keep_reply(cache, question, reply)
        return reply

    step = progress(f"asking {printable(settings.model)}", len(missing)) if progress else None
    replies: dict[Question, Reply] = {}
    with ThreadPoolExecutor(settings.parallel) as pool:
        futures: dict[Future[Reply], Question] = {
            pool.submit(ask_one, question, *shown): question for question, shown in missing.items()
        }
        try:
            for future in as_completed(futures):
                # The error that stopped the others may be told of after them.
                with contextlib.suppress(Stopped):
                    replies[futures[future]] = future.result()
                if step:
                    step(1)
        except BaseException:
            endpoint.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return replies


def _request(question: Question, prompt: Prompt, pictures: Sequence[str]) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    return {
        "model": question.model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": prompt.text}, *shown]}],
        "temperature": question.temperature,
        "seed": question.repeat,
    }


def data_uri(content: bytes) -> str:
    """An image as it is sent: decoded as everywhere here, at most `LONGEST_PX` on its longer side, without metadata.

    Raises:
        BadImage: see `galleries.images.decode_image`.
    """
    from PIL import Image

    image = decode_image(content)
    image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS, reducing_gap=None)
    image.info.clear()  # places and comments are nobody's business
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _unchanged(file: "ImageFile") -> bytes:
    content = read_image_bytes(file.path)
    if sha256_of(content) != file.digest:
        raise FinerRankError(f"{file.name}: changed while the model was being asked; run the same command again")
    return content
