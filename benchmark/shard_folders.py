"""Where the shards of an embedding store lie: in a folder of this machine, or under a URL of an object store."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galleries.downloads import first_line
from galleries.errors import FinerRankError

Root = Path | str
"""A store's folder; or its URL, such as `s3://bucket/prefix`."""

SUFFIX = ".parquet"
OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "memory": ""}
"""Kinds of URL, and the package that speaks with each. A file put there is there as a whole or not at all, which a
network drive that is reached through another protocol does not promise."""


def as_root(text: str) -> Root:
    """What an option or a variable names: a folder, a `file://` URL of one, or the URL of an object store.

    Raises:
        FinerRankError: a URL of another kind, or of one whose package is not installed.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    if scheme == "file":
        return Path(rest)
    if scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in ("file", *OBJECT_STORES))
        raise FinerRankError(f"store {text}: unknown kind of URL; name a folder, or one of {known}")
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise FinerRankError(
            f"store {text}: needs {OBJECT_STORES[scheme]}; run: pip install {OBJECT_STORES[scheme]}"
        ) from None
    return text.rstrip("/")


def shard_folder(root: Root, name: str) -> "LocalFolder | RemoteFolder":
    """The folder `name` of a store."""
    return LocalFolder(root / name) if isinstance(root, Path) else RemoteFolder(f"{root}/{name}")


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine, or of a drive that several machines share."""

    path: Path

    def sizes(self) -> dict[str, int]:
        """File names of the shards, sorted, and their sizes in bytes."""
        found = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # another process set it aside
                        found[entry.name] = entry.stat().st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """The bytes of a shard.

        Raises:
            FileNotFoundError: another process removed it.
        """
        return (self.path / name).read_bytes()

    def open(self, name: str) -> Any:
        """A shard, to read parts of it."""
        return (self.path / name).open("rb")

    def write(self, name: str, content: Any) -> None:
        """Write a shard under a temporary name, and move it into place.

        Raises:
            FinerRankError: the folder cannot be written.
        """
        # Processes of two machines that share the drive may have one number.
        partial = self.path / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise FinerRankError(
                f"{self.path}: cannot be written ({error.strerror}); free space there, or name another --store"
            ) from None

    def rename(self, name: str, other: str) -> bool:
        """Give a shard another name; False if another process was faster.

        Raises:
            FinerRankError: the folder cannot be written.
        """
        try:
            (self.path / name).replace(self.path / other)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FinerRankError(
                f"{self.path / name}: damaged, and cannot be set aside ({error.strerror}); remove it"
            ) from None
        return True

    def remove(self, name: str) -> None:
        """Remove a shard, if it is there.

        Raises:
            FinerRankError: the folder cannot be written.
        """
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise FinerRankError(f"{self.path / name}: cannot be removed ({error.strerror}); remove it") from None


@dataclass(frozen=True)
class RemoteFolder:
    """A prefix of an object store, through fsspec."""

    url: str

    def sizes(self) -> dict[str, int]:
        """As `LocalFolder.sizes`."""
        with self._reached() as (files, path):
            files.invalidate_cache(path)
            try:
                entries = files.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        named = {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in entries}
        return dict(sorted((name, size) for name, size in named.items() if name.endswith(SUFFIX)))

    def read(self, name: str) -> bytes:
        """As `LocalFolder.read`."""
        with self._reached() as (files, path):
            content: bytes = files.cat_file(f"{path}/{name}")
        return content

    def open(self, name: str) -> Any:
        """As `LocalFolder.open`."""
        with self._reached() as (files, path):
            return files.open(f"{path}/{name}", "rb", cache_type="none")

    def write(self, name: str, content: Any) -> None:
        """Put a shard, which is atomic.

        Raises:
            FinerRankError: it cannot be put there.
        """
        with self._reached() as (files, path):
            files.pipe_file(f"{path}/{name}", bytes(content))

    def rename(self, name: str, other: str) -> bool:
        """As `LocalFolder.rename`."""
        with self._reached() as (files, path):
            try:
                files.mv(f"{path}/{name}", f"{path}/{other}")
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str) -> None:
        """As `LocalFolder.remove`."""
        with contextlib.suppress(FileNotFoundError), self._reached() as (files, path):
            files.rm_file(f"{path}/{name}")

    @contextlib.contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        import fsspec

        try:
            yield fsspec.core.url_to_fs(self.url)
        except FileNotFoundError:
            raise
        except Exception as error:  # each library has errors of its own: no credentials, no network, no right
            raise FinerRankError(
                f"{self.url}: the store cannot be used ({first_line(error)}); check its name, your credentials and the "
                "network"
            ) from None
