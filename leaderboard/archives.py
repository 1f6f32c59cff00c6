"""Archives from strangers: unpacked into a temporary folder, or refused before anything else is written."""

import io
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import check_file_name
from galleries.tables import find_metadata
from personalization_runs.run import CARD_NAME

SUFFIXES = (".zip", ".tar.gz", ".tgz")
CHUNK_BYTES = 1 << 20
MAX_READ_BYTES = 16 << 20
"""That the archive libraries may ask for at once: a zip's directory or a tar's extended header, never a file."""


@dataclass(frozen=True)
class Limits:
    """What an archive may ask of this machine.

    Attributes:
        ratio: unpacked bytes per byte of the archive; pictures hardly shrink. Below `free_bytes` it does not matter.
    """

    members: int = 50_000
    unpacked_bytes: int = 10 << 30
    ratio: int = 100
    free_bytes: int = 16 << 20

    def fault(self, n_bytes: int, archive_bytes: int) -> Fault | None:
        """What is wrong with an archive that holds so many bytes, or None."""
        if n_bytes > self.unpacked_bytes:
            what = f"unpacks to more than {self.unpacked_bytes:,} bytes"
            return Fault("archive", what, "submit smaller images, or the folder")
        if n_bytes > max(self.free_bytes, self.ratio * archive_bytes):
            what = f"unpacks to more than {self.ratio} times its size"
            return Fault("archive", what, "submit images in a compressed format (PNG, JPEG, WebP)")
        return None


@dataclass(frozen=True)
class _Member:
    """A member as the archive names it; `wrong` says what it is where that is neither file nor folder."""

    name: str
    is_folder: bool
    n_bytes: int
    wrong: str
    content: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


@contextmanager
def unpacked(archive: Path, limits: Limits | None = None) -> Iterator[Path]:
    """The run folder inside an archive, in a temporary folder that vanishes when the block ends.

    Every member is looked at before the first is written. Permissions, owners and dates are not taken over.

    Raises:
        Faults: links, devices, names that leave the folder, names that stand twice, encrypted members; too many
            members, too many bytes, too high a compression.
        FinerRankError: damaged, or it holds no run, or several.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="finer-rank-") as temporary:
        root = Path(temporary) / "run"
        root.mkdir()
        try:
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, root, limits)
            else:
                _unpack_tar(archive, root, Path(temporary) / "run.tar", limits)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise FinerRankError(f"{archive}: damaged archive ({reason}); pack it again as .zip or .tar.gz") from None
        except OSError as error:  # a name that no file system takes, a file where a folder should be, a full disk
            reason = error.strerror or str(error)
            raise FinerRankError(f"{archive}: cannot be unpacked ({reason}); pack it again, or free disk") from None
        yield _run_folder(root, archive)


def _unpack_zip(archive: Path, root: Path, limits: Limits) -> None:
    with _SmallReads(io.FileIO(archive)) as file, zipfile.ZipFile(file) as packed:
        members = [_zip_member(info) for info in packed.infolist()]
        _check(archive, members, archive.stat().st_size, limits)
        for member in members:
            assert isinstance(member.content, zipfile.ZipInfo)
            target = root / PurePosixPath(member.name)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            with packed.open(member.content) as content:
                _write(target, content)


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    wrong = _kind_of(kind)
    if info.flag_bits & 1:
        wrong = "encrypted"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        wrong = "compressed in another way than deflate"
    # The name as it stands in the file: the library cuts names at a NUL.
    return _Member(info.orig_filename, info.is_dir(), info.file_size, wrong, info)


def _kind_of(kind: int) -> str:
    if kind in (0, stat.S_IFREG, stat.S_IFDIR):
        return ""
    return "a symbolic link" if kind == stat.S_IFLNK else "a device or another special file"


def _unpack_tar(archive: Path, root: Path, plain: Path, limits: Limits) -> None:
    """Decompressed into one file first, with the bounds in force, so that headers can be read at leisure."""
    import gzip

    archive_bytes = archive.stat().st_size
    n_bytes = 0
    with gzip.open(archive, "rb") as content, plain.open("wb") as file:
        while chunk := content.read(CHUNK_BYTES):
            n_bytes += len(chunk)
            fault = limits.fault(n_bytes, archive_bytes)
            raise_if_any(str(archive), [fault] if fault else [])
            file.write(chunk)
    with _SmallReads(io.FileIO(plain)) as headers, tarfile.open(fileobj=headers, mode="r:") as packed:
        members: list[_Member] = []
        for info in packed:
            members.append(_tar_member(info))
            if len(members) > limits.members:
                break
        _check(archive, members, archive_bytes, limits)
        for member in members:
            assert isinstance(member.content, tarfile.TarInfo)
            target = root / PurePosixPath(member.name)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            bytes_of = packed.extractfile(member.content)
            assert bytes_of is not None
            with bytes_of:
                _write(target, bytes_of)


def _tar_member(info: tarfile.TarInfo) -> _Member:
    wrong = ""
    if info.issym():
        wrong = "a symbolic link"
    elif info.islnk():
        wrong = "a hard link"
    elif info.issparse():
        wrong = "a sparse file"
    elif info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        wrong = "a device or another special file"
    return _Member(info.name, info.isdir(), info.size, wrong, info)


def _check(archive: Path, members: list[_Member], archive_bytes: int, limits: Limits) -> None:
    """Raises: Faults."""
    if len(members) > limits.members:
        what = f"more than {limits.members:,} members"
        raise_if_any(str(archive), [Fault("archive", what, "submit the run's images and nothing else")])
    faults = []
    seen: set[str] = set()
    for member in members:
        name = PurePosixPath(member.name).as_posix()
        wrong = (check_file_name(member.name) or "").replace("file_name", "its name")
        if wrong:
            faults.append(Fault(member.name or '""', wrong, "pack the run from inside its folder"))
        elif member.wrong:
            faults.append(Fault(member.name, member.wrong, "pack ordinary files and folders only"))
        elif name in seen and not member.is_folder:
            faults.append(Fault(member.name, "stands in the archive twice", "pack each file once"))
        seen.add(name)
    too_much = limits.fault(sum(member.n_bytes for member in members), archive_bytes)
    raise_if_any(str(archive), [*([too_much] if too_much else []), *faults])


def _write(target: Path, content: IO[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)


class _SmallReads(io.BufferedReader):
    """A file of which no more than `MAX_READ_BYTES` are read at once: headers name sizes that a library believes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = MAX_READ_BYTES + 1
        if size <= MAX_READ_BYTES:
            return super().read(size)
        content = super().read(MAX_READ_BYTES + 1)
        if len(content) > MAX_READ_BYTES:
            raise ValueError(f"a header of more than {MAX_READ_BYTES:,} bytes")
        return content


def _run_folder(root: Path, archive: Path) -> Path:
    """The unpacked folder itself, or its one folder that is a run."""
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    runs = [folder for folder in candidates if (folder / CARD_NAME).is_file() or find_metadata(folder)]
    if len(runs) != 1:
        what = "holds no run" if not runs else f"holds {len(runs)} runs"
        remedy = f"pack one run folder: {CARD_NAME}, metadata.csv and its images"
        raise FinerRankError(f"{archive}: {what}; {remedy}")
    return runs[0]
