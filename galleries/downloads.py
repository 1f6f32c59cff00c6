"""Files that others publish: found in a mirror, in the cache, or downloaded once and checked."""

import contextlib
import hashlib
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from galleries.errors import FinerRankError, printable

MIRROR = "FINER_RANK_MIRROR"
"""Environment variable: a folder that stands in for the hub (`OWNER/NAME/FILE`) and other servers (`FILE`)."""

_CHUNK = 1 << 20


def hub_file(repository: str, names: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """A file of a hub repository: the first of `names` that exists in the mirror, in the cache, or on the hub.

    Args:
        instead: what to write when the file was brought by hand, for the message.
        revision: commit, tag or branch; nothing else is taken from the cache or the hub then.

    Raises:
        FinerRankError: out of reach and not cached, or no such repository, revision or file; says how to bring it.
    """
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    mirrored = _in_mirror([f"{repository}/{name}" for name in names], instead)
    if mirrored:
        return mirrored
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    reason = why_hub_is_out_of_reach()
    for name in names if reason is None else ():
        try:
            address = huggingface_hub.hf_hub_url(repository, name, revision=revision)
            _refuse_without_space(Path(HF_HUB_CACHE), huggingface_hub.get_hf_file_metadata(address).size or 0)
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except FinerRankError as error:
            reason = str(error)
            break
        except LocalEntryNotFoundError as error:
            reason = f"{first_line(error)}; run again, what came is kept"
            break
        except EntryNotFoundError:
            reason = "no such file there"
        except Exception as error:  # full disk, a server that stops halfway: the hub's client raises many kinds
            reason = why_hub_refuses(error, repository, revision or "")
            break
    cache = Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    at = f" at {revision}" if revision else ""
    raise FinerRankError(
        f"{' or '.join(names)} of https://huggingface.co/{repository}{at}: not cached under {cache}, and cannot be "
        f"fetched ({reason}); download it where there is a network, and write {instead}"
    )


def why_hub_refuses(error: Exception, repository: str, revision: str) -> str:
    """What an error of the hub's client means, in one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    address = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        return f"its owners ask you to accept their terms: do so at {address}, then run hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"revision {revision} is gone from there"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: run hf auth login"
    return first_line(error)


def why_hub_is_out_of_reach() -> str | None:
    """Asked once and briefly: the hub's client itself would try again for half a minute, for each file."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.utils import get_session

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(ENDPOINT, timeout=10)
    except Exception as error:  # of the HTTP library, which the hub's client may change
        return first_line(error)
    return None


def url_file(url: str, cache: Path, instead: str, sha256: str = "") -> Path:
    """A file from its owners' server: in the mirror, or downloaded once into `cache`. `instead` as for `hub_file`.

    What came of an interrupted download is kept, and continued.

    Args:
        sha256: digest of the file, or its first characters; "" where it is unknown.

    Raises:
        FinerRankError: out of reach, another file than its owners published, or no space.
    """
    from filelock import FileLock

    name = url.rsplit("/", 1)[-1]
    mirrored = _in_mirror([name], instead)
    target = cache / name
    if mirrored or target.is_file():
        return mirrored or target
    partial = target.with_name(f"{name}.part")
    by_hand = f"download it where there is a network, and put it there or write {instead}"
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise FinerRankError("HF_HUB_OFFLINE is set")
        for folder in (cache, default_downloads()):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(default_downloads() / f"{name}.lock"):  # another process may be at it
            if not target.is_file():
                _download(url, partial)
                _check_and_move(partial, target, sha256)
    except (OSError, FinerRankError) as error:  # those of urllib are of the former
        raise FinerRankError(
            f"{url} is neither cached as {target} nor within reach ({first_line(error)}); {by_hand}"
        ) from None
    return target


def default_downloads() -> Path:
    """This user's cache folder for files that no library has a cache for."""
    import platformdirs

    return platformdirs.user_cache_path("finer-rank") / "downloads"


def _check_and_move(partial: Path, target: Path, sha256: str) -> None:
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        partial.unlink()
        raise FinerRankError(
            f"what came is not what its owners published: SHA-256 {digest[:12]}…, not {sha256[:12]}…; run again"
        )
    partial.replace(target)


def _download(url: str, partial: Path) -> None:
    """Fetch into `partial`, from where it ends."""
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies beyond what came
            raise
        with contextlib.suppress(OSError):
            partial.unlink()
        answer = urllib.request.urlopen(url, timeout=30)
    with answer:
        have = have if answer.status == 206 else 0
        length = int(answer.headers.get("Content-Length") or 0)
        _refuse_without_space(partial.parent, length)
        step = _progress(partial.stem, have + length, have)
        with partial.open("ab" if have else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                step(len(chunk))
        size = partial.stat().st_size
    if length and size != have + length:
        raise FinerRankError(f"the server stopped after {size} of {have + length} bytes; run again, what came is kept")


def _progress(name: str, total: int, done: int) -> Callable[[int], Any]:
    from huggingface_hub.utils import tqdm

    bar = tqdm(desc=name, total=total or None, initial=done, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    update: Callable[[int], Any] = bar.update
    return update


def _refuse_without_space(folder: Path, size: int) -> None:
    there = next(parent for parent in [folder, *folder.parents] if parent.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise FinerRankError(f"no space: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free in {there}")


def _in_mirror(names: Sequence[str], instead: str) -> Path | None:
    folder = os.environ.get(MIRROR)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FinerRankError(f"{MIRROR}={folder}: no such folder; mend the variable, or unset it and write {instead}")
    return next((Path(folder, name) for name in names if Path(folder, name).is_file()), None)


def first_line(error: BaseException) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0][:150])
