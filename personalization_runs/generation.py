"""Make the images of a run: batch by batch, over kills, shards and shortage of memory."""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import FinerRankError
from galleries.image_set import refuse_existing, values_of, write_card
from galleries.images import BadImage, read_image_bytes, sha256_of
from galleries.tables import write_csv
from personalization_runs.methods.base import Generator, Made
from personalization_runs.methods.setup import Setup, free_memory
from personalization_runs.requests import Request
from personalization_runs.run import CARD_NAME, REFUSED_NAME, GeneratedImage, RefusedImage, Run, RunCard

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGES = ("diffusers", "transformers", "peft", "torch")
DETAILS_NAME = "generation.csv"
"""Of each image: what made it, and how long that took."""


@dataclass(frozen=True)
class Job:
    """A run that is to be made.

    Attributes:
        seed: of the run.
        batch_size: images at once. It changes the last bit of some values: images are the same for the same size.
        card: what `run.toml` will say; its parameters are filled in here.
    """

    requests: Sequence[Request]
    setup: Setup
    card: RunCard
    out: Path
    seed: int = 0
    batch_size: int = 1

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the images, and so whether those that are there belong to this run."""
        setup = self.setup
        return {
            "method": setup.method.name,
            "weights": {role: str(folder) for role, folder in sorted(setup.weights.items())},
            "seed": self.seed,
            "dtype": setup.dtype,
            "fit": setup.fit,
            "batch_size": self.batch_size,
            **({"adapters_sha256": sha256_of(json.dumps(self.adapters).encode())} if self.adapters else {}),
            **setup.parameters,
        }

    @cached_property
    def requests_sha256(self) -> str:
        """Digest of all that is asked for, the contents of references and their masks included."""
        method = self.setup.method
        photos = {request.reference for request in self.requests if request.reference and method.uses_reference}
        files = {photo: [photo.path, *([photo.mask_path] if method.uses_masks else [])] for photo in photos}
        contents = {photo.file_name: [_digest(path) for path in files[photo]] for photo in photos}
        asked = [[*_key(r), r.text, r.seed, _reference(r), contents.get(_reference(r))] for r in self.requests]
        return sha256_of(json.dumps(asked).encode())

    @property
    def adapters(self) -> dict[str, str]:
        """SHA-256 of each identity's adapter; of methods that train none, nothing."""
        from personalization_runs.training.cards import adapter_digests

        folder = self.setup.adapters
        return adapter_digests(folder, (request.identity for request in self.requests)) if folder else {}


class Workshop:
    """The folder beside `out` in which a run is made; several processes may work in it.

    An image counts once the note beside it names its digest. Both are moved into place: a kill leaves neither in half.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.parent / f".{out.name}.generating"
        self.run = self.folder / "run"
        self._whole: dict[str, dict[str, Any]] = {}  # notes of images whose digest this process has seen to be right

    def begin(self, job: Job, *, is_to_be_made: bool = True) -> None:
        """Make the folder, or go on in one of the same run.

        Args:
            is_to_be_made: if not, a folder that is there is compared, and none is made.

        Raises:
            FinerRankError: it holds another run, or cannot be written.
        """
        refuse_existing(self.out)
        plan = json.loads(json.dumps({**job.facts, "requests_sha256": job.requests_sha256}))
        path = self.folder / "plan.json"
        with _writing(self.folder):
            if not path.is_file():
                if is_to_be_made:
                    (self.folder / "partial").mkdir(parents=True, exist_ok=True)
                    self._put(path, json.dumps(plan, indent=1).encode())
                return
            content = path.read_bytes()
        try:
            begun = dict(json.loads(content))
        except (ValueError, TypeError):
            raise FinerRankError(f"{path}: damaged; remove the folder {self.folder}, and start again") from None
        other = [key for key in {**plan, **begun} if plan.get(key) != begun.get(key)]
        if other:
            key = other[0]
            what = "prompts or gallery" if key == "requests_sha256" else f"{key} {begun.get(key)}, now {plan.get(key)}"
            raise FinerRankError(
                f"{self.folder}: holds images of a run with other {what}; go on with those settings, give another "
                "--out, or remove the folder"
            )

    def note_of(self, request: Request) -> dict[str, Any] | None:
        """What is known of an image that is there, whole; None where it has to be made."""
        known = self._whole.get(request.file_name)
        if known and (known["refused"] or self._image(request).is_file()):
            return known
        try:
            note: dict[str, Any] = json.loads(self._note(request).read_bytes())
            if note["refused"] or sha256_of(self._image(request).read_bytes()) == note["sha256"]:
                self._whole[request.file_name] = note
                return note
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def add(self, request: Request, made: Made, details: Mapping[str, Any]) -> None:
        """Put an image, or why there is none, into place.

        Raises:
            FinerRankError: it cannot be written, as on a full disk; what is there stays.
        """
        refused = made.refused or ("all of one colour" if made.image and _is_constant(made.image) else "")
        note = {"refused": refused, **details}
        with _writing(self.folder):
            if made.image and not refused:
                buffer = BytesIO()
                made.image.save(buffer, "PNG")
                self._put(self._image(request), buffer.getvalue())
                note["sha256"] = sha256_of(buffer.getvalue())
            self._put(self._note(request), json.dumps(note).encode())
        self._whole[request.file_name] = note

    def finish(self, job: Job) -> Run:
        """Write card and tables, and move the run to `out`, where another process has not done so.

        Raises:
            FinerRankError: every image was refused: there is no run without images. The notes of it stay.
        """
        from filelock import FileLock

        if all(map(self._refusal, job.requests)):
            raise FinerRankError(
                f"{self.out}: every image was refused ({self._refusal(job.requests[0])}), so that there is no run; try "
                f"other prompts, --weights or --dtype, with another --out, or remove the folder {self.folder}"
            )
        with _writing(self.folder):
            try:
                with FileLock(self.folder / "lock"):
                    if self.run.is_dir():
                        self._write_tables(job)
                        if self.out.exists():
                            self.out.rmdir()
                        self.run.rename(self.out)  # at once: a kill before it loses no note
            except FileNotFoundError:
                if self.run.is_dir() or not self.out.is_dir():  # else another process has completed it and tidied up
                    raise
        return self.completed()

    def completed(self) -> Run:
        """The run that is in its place, without what its making has left beside it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return Run.open(self.out)

    def _write_tables(self, job: Job) -> None:
        images, refused, details = [], [], []
        for request in sorted(job.requests, key=lambda request: request.file_name):
            note = self.note_of(request)
            if note is None:
                raise FinerRankError(f"{self.folder}: {request.file_name} is gone; run the command again")
            row = GeneratedImage(
                request.file_name,
                request.category,
                request.identity,
                request.text,
                request.prompt_id,
                _reference(request) if job.setup.method.uses_reference else "",
                str(request.seed),
            )
            if note["refused"]:
                values = {key: value for key, value in values_of(row).items() if key in RefusedImage.columns()}
                refused.append(values | {"reason": note["refused"]})
            else:
                images.append(values_of(row))
            details.append({"file_name": request.file_name, **{k: str(v) for k, v in note.items() if k != "sha256"}})
        columns = [column for column in values_of(row) if any(image[column] for image in images)]
        write_csv(self.run / "metadata.csv", columns, [
            {column: image[column] for column in columns} for image in images
        ])  # fmt: skip
        if refused:
            write_csv(self.run / REFUSED_NAME, RefusedImage.columns(), refused)
        write_csv(self.run / DETAILS_NAME, list(details[0]), details)
        write_card(self.run / CARD_NAME, replace(job.card, parameters=job.facts | dict(job.card.parameters)))

    def _refusal(self, request: Request) -> str:
        """Why there is no image; "" where there is one, or it is not made yet."""
        note = self.note_of(request)
        return note["refused"] if note else ""

    def _image(self, request: Request) -> Path:
        return self.run / request.file_name

    def _note(self, request: Request) -> Path:
        return self.folder / "notes" / f"{request.file_name}.json"

    def _put(self, path: Path, content: bytes) -> None:
        """Write a file whole, or not at all; what a kill leaves of it is not among the images."""
        partial = self.folder / "partial" / f"{platform.node()}-{os.getpid()}"
        partial.write_bytes(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)


def make_images(
    job: Job,
    load: Callable[[], Generator],
    *,
    shard: tuple[int, int] = (1, 1),
    step: Callable[[int], Any] | None = None,
    warn: Callable[[str], Any],
) -> Run | None:
    """Make the images that are not there yet, and the run once all are.

    Args:
        load: the method; only called where an image is to be made.
        shard: which part of how many this process makes: each n-th image.
        step: told of each image done.

    Returns:
        The run, or None while images of other shards are missing.

    Raises:
        FinerRankError: the folder holds another run; not enough memory for one image; a full disk. What is made stays.
    """
    workshop = Workshop(job.out)
    workshop.begin(job, is_to_be_made=False)
    part, n_parts = shard
    own = job.requests[part - 1 :: n_parts]
    todo = [request for request in own if workshop.note_of(request) is None]
    if step:
        step(len(own) - len(todo))
    if todo:
        generator = _loaded(load, job)  # weights that turn out to be unfit leave no folder behind
        workshop.begin(job)
        details = {
            "method": job.setup.method.name,
            "weights": " ".join(str(folder) for folder in job.setup.weights.values()),
            **{name: job.setup.parameters[name] for name in ("steps", "guidance") if name in job.setup.parameters},
            "packages": " ".join(f"{package}-{version(package)}" for package in PACKAGES),
            "device": _device_name(job.setup.device),
        }
        adapters = job.adapters
        for request, made, seconds, batch_size in _made(generator, todo, job, warn):
            own_details = {"batch_size": batch_size, "seconds": f"{seconds:.3f}"}
            if adapters:
                own_details["adapter_sha256"] = adapters[request.identity]
            try:
                workshop.add(request, made, details | own_details)
            except FinerRankError:
                if not (job.out / CARD_NAME).is_file():
                    raise
                return workshop.completed()  # by another process that made the same images
            if step:
                step(1)
    if n_parts > 1 and any(workshop.note_of(request) is None for request in job.requests):
        return None
    return workshop.finish(job)


def _loaded(load: Callable[[], Generator], job: Job) -> Generator:
    import torch

    try:
        return load()
    except (torch.OutOfMemoryError, MemoryError):
        raise FinerRankError(
            f"{job.setup.device}: not enough memory to load {job.setup.method.name}; end what else is at work "
            "there, or take a larger device"
        ) from None


def _made(
    generator: Generator, todo: Sequence[Request], job: Job, warn: Callable[[str], Any]
) -> Iterator[tuple[Request, Made, float, int]]:
    """Each request with what came of it, the seconds it took, and the batch size.

    Where memory ends, the batch is halved, then parts of the pipeline wait off the device. A batch is filled up to
    its size by repeating a request: values differ in their last bits between sizes, not within one.
    """
    import torch

    size = min(job.batch_size, job.setup.method.max_batch or job.batch_size)
    is_offloaded = job.setup.offload
    left = list(todo)
    while left:
        batch = left[:size]
        if job.setup.method.training:  # one adapter is in place at once: a batch in parts would be smaller
            batch = [request for request in batch if request.identity == batch[0].identity]
        filled = [*batch, *[batch[-1]] * (size - len(batch))]
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                results = generator.make(filled)
        except (torch.OutOfMemoryError, MemoryError):
            free_memory()
            if size > 1:
                size //= 2
                warn(f"out of memory: {size} images at once from here on")
            elif not is_offloaded and generator.pipeline is not None and job.setup.device != "cpu":
                generator.pipeline.enable_model_cpu_offload(device=job.setup.device)
                is_offloaded = True
                warn("out of memory: networks that are not at work wait in the computer's memory from here on")
            else:
                raise FinerRankError(
                    f"{job.setup.device}: not enough memory for one image at a time; images made so far are kept; "
                    "choose a smaller --set width and height, or a larger device"
                ) from None
            continue
        except FinerRankError:
            raise
        except Exception as error:  # pipelines raise many kinds, of parameters that they cannot be called with
            said = " ".join(str(error).split())[:300]
            raise FinerRankError(
                f"{job.setup.method.name}: its pipeline stopped ({type(error).__name__}: {said}); images made so far "
                "are kept; mend --set, --weights or --device"
            ) from error
        seconds = (time.perf_counter() - began) / len(batch)
        for request, made in zip(batch, results[: len(batch)], strict=True):
            yield request, made, seconds, size
        left = left[len(batch) :]


def _digest(path: Path) -> str:
    try:
        return sha256_of(read_image_bytes(path))
    except BadImage as error:
        raise FinerRankError(f"{path}: {error}") from None


def _key(request: Request) -> tuple[str, str, int]:
    return request.identity, request.prompt_id, request.number


def _reference(request: Request) -> str:
    return request.reference.file_name if request.reference else ""


def _is_constant(image: "Image") -> bool:
    """Black by another name: what a filter or an overflow leaves is one colour all over."""
    return len(image.convert("RGB").getcolors(1) or ()) == 1


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FinerRankError(
            f"{error.filename or folder}: {error.strerror}; mend that and run it again: what is made stays"
        ) from None
