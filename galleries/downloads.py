"""Files that others publish: found in a mirror, in the cache, or downloaded once and checked."""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from galleries.errors import FinerRankError, printable

MIRROR = "FINER_RANK_MIRROR"
"""Environment variable: a folder that stands in for the hub (`OWNER/NAME/FILE`) and other servers (`FILE`)."""

_TIMEOUT_S = 30


def hub_file(repository: str, names: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """A file of a hub repository: the first of `names` that exists in the mirror, in the cache, or on the hub.

    Args:
        instead: what to write when the file was brought by hand, for the message.
        revision: commit, tag or branch; nothing else is taken from the cache or the hub then. A mirror has one only.

    Raises:
        FinerRankError: out of reach and not cached, or no such repository, revision or file; says how to bring it.
    """
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT

    if mirrored := in_mirror([f"{repository}/{name}" for name in names], instead):
        return mirrored
    try:
        for name in names:
            cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        with quiet_hub():
            return _from_hub(repository, names, revision)
    except Exception as error:  # full disk, a server that stops halfway: the hub's client raises many kinds
        reason = why_hub_refuses(error, repository, revision or "")
    wanted = f"{' or '.join(names)} of {ENDPOINT}/{repository} at {revision or 'main'}"
    raise FinerRankError(
        f"{printable(wanted)}: not cached under {printable(str(hub_cache(repository)))}, "
        f"and cannot be fetched ({reason}); mend that and run again, or download it elsewhere and write {instead}"
    )


def _from_hub(repository: str, names: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, utils

    # Once and briefly: some versions of the client ask a hub out of reach again for half a minute, for each file.
    utils.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_S)
    for name in names:
        try:
            size = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), timeout=_TIMEOUT_S).size
        except errors.EntryNotFoundError:
            continue
        _refuse_without_space(hub_cache(repository), size or 0)
        return Path(hf_hub_download(repository, name, revision=revision))
    raise FinerRankError("no such file there")


def hub_cache(repository: str) -> Path:
    """Where the hub's client keeps a repository."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Its client logs each attempt; what came of them is said once, by us."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def why_hub_refuses(error: Exception, repository: str, revision: str) -> str:
    """What an error of the hub's client means, in one line."""
    from huggingface_hub import constants, errors

    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's "is neither there nor in the cache" hides why
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        at = f"{constants.ENDPOINT}/{repository}"
        return f"its owners ask you to accept their terms: do so at {at}, then run hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return printable(f"revision {revision or 'main'} is gone from there")
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: run hf auth login"
    said = getattr(error, "server_message", None)
    return f"{first_line(error)}: {first_line(said)}" if said else first_line(error)


def url_file(url: str, cache: Path, instead: str, sha256: str = "") -> Path:
    """A file from its owners' server: in the mirror, or downloaded once into `cache`. `instead` as for `hub_file`.

    What came of an interrupted download is kept, and continued if the server still has the same file.

    Args:
        sha256: digest of the file, or its first characters; "" where it is unknown.

    Raises:
        FinerRankError: out of reach, another file than its owners published, or no space.
    """
    from filelock import FileLock

    name = PurePosixPath(urllib.parse.urlsplit(url).path).name
    target = cache / name
    if found := in_mirror([name], instead) or (target if target.is_file() else None):
        if wrong := _other_than(sha256, found):
            raise FinerRankError(f"{found}: not the file of {url} ({wrong}); remove it and run again")
        return found
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise FinerRankError("HF_HUB_OFFLINE is set")
        for folder in (cache, default_downloads()):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(default_downloads() / f"{name}.lock"):  # another process may be at it
            if not target.is_file():
                _download(url, target, sha256)
    except (OSError, http.client.HTTPException, ValueError, FinerRankError) as error:  # ValueError: redirects to no URL
        raise FinerRankError(
            f"{url} is neither cached as {target} nor within reach ({first_line(error)}); mend that and run again, "
            f"or download it elsewhere, and put it there or write {instead}"
        ) from None
    return target


def default_downloads() -> Path:
    """This user's cache folder for files that no library has a cache for."""
    import platformdirs

    return platformdirs.user_cache_path("finer-rank") / "downloads"


def _download(url: str, target: Path, sha256: str) -> None:
    """Fetch `target`: what came earlier lies in `.part`, and `.part.json` says of which version of the file."""
    partial, note = (target.with_name(target.name + ending) for ending in (".part", ".part.json"))
    have, version, total = _kept(url, partial, note)
    have = have if version or sha256 else 0  # else nothing could tell two versions of the file apart
    if not have or have != total:
        answer, have = _answer(url, have, version)
        with answer:
            if not have:
                partial.unlink(missing_ok=True)
            left = answer.length or 0  # 0: the server does not say
            _refuse_without_space(partial.parent, left)
            total = have + left if left else 0
            version = _version(answer)
            note.write_text(json.dumps([url, version, total]), encoding="utf-8")
            try:
                _write(answer, partial, have, total)
            except (OSError, http.client.HTTPException) as error:
                size = f"{partial.stat().st_size} of {total or 'unknown'} bytes"
                kept = "what came is kept" if version or sha256 else "it starts anew then"
                raise FinerRankError(f"broke off after {size}: {first_line(error)}; {kept}") from None
    wrong = _other_than(sha256, partial)
    note.unlink(missing_ok=True)
    if wrong:
        partial.unlink()
        raise FinerRankError(f"what came is not what its owners published: {wrong}")
    partial.replace(target)


def _kept(url: str, partial: Path, note: Path) -> tuple[int, str, int]:
    """Size and version of what an earlier attempt left, and the size of the whole; 0 where it is unknown."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        of, version, total = json.loads(note.read_text(encoding="utf-8"))
        have = partial.stat().st_size
        if of == url and (not total or have <= total):
            return have, version, total
    return 0, "", 0


def _answer(url: str, have: int, version: str) -> tuple[http.client.HTTPResponse, int]:
    """The server's answer, and how many of the bytes that are here it continues: `have`, or none."""
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    request = urllib.request.Request(url, headers={name: value for name, value in headers.items() if value})
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener().open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if not have or error.code != 416:  # 416: the file is shorter now
            raise
        return _answer(url, 0, "")
    begins = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if have and answer.status == 206 and not (begins and _version(answer) == version):
        answer.close()
        return _answer(url, 0, "")
    return answer, have if answer.status == 206 else 0


def _version(answer: http.client.HTTPResponse) -> str:
    """What changes whenever the file does, as `If-Range` takes it; "" if the server promises nothing of the kind."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def _write(answer: http.client.HTTPResponse, partial: Path, have: int, total: int) -> None:
    from huggingface_hub.utils import tqdm

    shown = {"desc": partial.stem, "initial": have, "disable": not sys.stderr.isatty()}
    with tqdm.wrapattr(answer, "read", total=total or None, **shown) as source, partial.open("ab") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if not (size := partial.stat().st_size) or size != (total or size):
        raise ConnectionError("the server stopped")


def _other_than(sha256: str, path: Path) -> str:
    """How a file differs from the one of that digest; "" if it does not, or nothing is known of it."""
    if not sha256:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest.startswith(sha256) else f"SHA-256 {digest[:12]}…, not {sha256[:12]}…"


def _refuse_without_space(folder: Path, size: int) -> None:
    there = next(parent for parent in [folder, *folder.parents] if parent.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        needed = f"{min(size, 1e18) / 1e9:.1f} GB are needed"  # a server may announce more than a float holds
        raise FinerRankError(f"no space: {needed}, {free / 1e9:.1f} are free in {there}")


def in_mirror(names: Sequence[str], instead: str, is_there: Callable[[Path], bool] = Path.is_file) -> Path | None:
    """The first of `names` in the mirror, if there is a mirror. Links in it are the user's own, and followed.

    Raises:
        FinerRankError: the variable names no folder.
    """
    folder = os.environ.get(MIRROR)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FinerRankError(f"{MIRROR}={folder}: no such folder; mend the variable, or unset it and write {instead}")
    inside = [Path(folder, name) for name in names if not name.startswith("/") and ".." not in name.split("/")]
    return next((path for path in inside if is_there(path)), None)


def first_line(said: Any) -> str:
    """The first line of a message, or an error's name if it has none; short, and harmless to a terminal."""
    return printable((str(said).strip().splitlines() or [type(said).__name__])[0][:300])
