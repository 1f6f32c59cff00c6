"""Runs that strangers send as archives: ordinary ones are taken, hostile ones leave no trace."""

import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from boards import finer, refused
from handmade import files_below, write_gallery, write_run
from test_bundles import declare

from galleries.errors import FinerRankError
from leaderboard.archives import Limits, unpacked

Build = Callable[[Path, Path], None]
"""Packs a run folder, and something hostile with it, into a new archive."""


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return write_gallery(tmp_path / "zoo")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return declare(write_run(tmp_path / "painted", (64, 64)), "painter", "2")


def into_zip(run: Path, archive: Path, inside: str = "painted/") -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(run.rglob("*")):
            if path.is_file():
                packed.write(path, inside + path.relative_to(run).as_posix())


def into_tar(run: Path, archive: Path, inside: str = "painted") -> None:
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(run, inside)


def zip_with(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Build:
    def build(run: Path, archive: Path) -> None:
        into_zip(run, archive)
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(member, content, zipfile.ZIP_DEFLATED)

    return build


def tar_with(name: str, content: bytes = b"x", **fields: object) -> Build:
    def build(run: Path, archive: Path) -> None:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(run, "painted")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            packed.addfile(member, io.BytesIO(content))

    return build


def encrypted_zip(run: Path, archive: Path) -> None:
    """Only marked so: the mark is what is looked at."""
    into_zip(run, archive)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)


def zip_of_many(run: Path, archive: Path) -> None:
    into_zip(run, archive)
    with zipfile.ZipFile(archive, "a") as packed:
        for number in range(50_001):
            packed.writestr(str(number), b"")


def tar_with_a_long_header(run: Path, archive: Path) -> None:
    noise = np.random.default_rng(0).bytes(10 << 20).hex()
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(run, "painted")
        member = tarfile.TarInfo("painted/note")
        member.pax_headers = {"comment": noise}
        packed.addfile(member)


def half_of(build: Callable[[Path, Path], None]) -> Build:
    def cut(run: Path, archive: Path) -> None:
        build(run, archive)
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])

    return cut


ZEROS = bytes(32 << 20)
HOSTILE: dict[str, tuple[str, Build, str]] = {
    "slip": (".zip", zip_with("../outside.png"), "leaves the folder"),
    "slip deep inside": (".zip", zip_with("painted/images/../../../outside.png"), "leaves the folder"),
    "absolute": (".zip", zip_with("/tmp/finer-rank-outside.png"), "leaves the folder"),
    "drive letter": (".zip", zip_with("C:/outside.png"), "leaves the folder"),
    "backslash": (".zip", zip_with("painted\\..\\..\\outside.png"), "backslash"),
    "link": (".zip", zip_with("painted/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "symbolic link"),
    "fifo": (".zip", zip_with("painted/pipe", b"", stat.S_IFIFO | 0o644), "special file"),
    "twice": (".zip", zip_with("painted/./run.toml"), "twice"),
    "file as folder": (".zip", zip_with("painted/run.toml/x"), "cannot be unpacked"),
    "encrypted": (".zip", encrypted_zip, "encrypted"),
    "bomb": (".zip", zip_with("painted/zeros", ZEROS), "times its size"),
    "many": (".zip", zip_of_many, "more than 50,000 members"),
    "half": (".zip", half_of(into_zip), "damaged archive"),
    "tar slip": (".tar.gz", tar_with("../outside.png"), "leaves the folder"),
    "tar absolute": (".tgz", tar_with("/tmp/finer-rank-outside.png"), "leaves the folder"),
    "tar link": (".tgz", tar_with("painted/a", b"", type=tarfile.SYMTYPE, linkname="/etc"), "symbolic link"),
    "tar hard link": (".tgz", tar_with("painted/a", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "hard link"),
    "tar device": (".tgz", tar_with("painted/a", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "special file"),
    "tar fifo": (".tgz", tar_with("painted/a", b"", type=tarfile.FIFOTYPE), "special file"),
    "tar bomb": (".tgz", tar_with("painted/zeros", ZEROS), "times its size"),
    "tar header": (".tgz", tar_with_a_long_header, "a header of more than"),
    "tar half": (".tgz", half_of(into_tar), "damaged archive"),
    "no gzip": (".tgz", into_zip, "cannot be unpacked"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_and_nothing_is_written(
    case: str, gallery: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, build, why = HOSTILE[case]
    archive = tmp_path / f"archive{suffix}"
    build(run, archive)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = files_below(tmp_path)
    line = refused(
        "leaderboard", "add", archive, "--gallery", gallery, "--embedder", "classical:", "--out", tmp_path / "board"
    )
    assert why in line
    assert files_below(tmp_path) == before
    assert not Path("/tmp/finer-rank-outside.png").exists()


@pytest.mark.parametrize("pack", [into_zip, into_tar])
@pytest.mark.parametrize("inside", ["painted", "."])
def test_a_packed_run_gives_the_bundle_of_the_folder(
    pack: Callable[[Path, Path, str], None], inside: str, gallery: Path, run: Path, tmp_path: Path
) -> None:
    archive = tmp_path / ("run.zip" if pack is into_zip else "run.TAR.GZ")
    pack(run, archive, f"{inside}/" if pack is into_zip else inside)
    for source, out in ((run, "of-folder"), (archive, "of-archive")):
        code, _, err = finer(
            "leaderboard", "add", source, "--gallery", gallery, "-e", "classical:", "--out", tmp_path / out,
        )  # fmt: skip
        assert code == 0, err
    assert files_below(tmp_path / "of-folder") == files_below(tmp_path / "of-archive")
    for name in files_below(tmp_path / "of-folder"):
        first, second = tmp_path / "of-folder" / name, tmp_path / "of-archive" / name
        assert first.is_dir() or first.read_bytes() == second.read_bytes(), name


def test_faults_of_a_packed_run_name_the_archive(gallery: Path, run: Path, tmp_path: Path) -> None:
    (run / "images" / "rex_0.png").write_bytes(b"no picture")
    into_zip(run, tmp_path / "run.zip")
    line = refused(
        "leaderboard", "add", tmp_path / "run.zip", "-g", gallery, "-e", "classical:", "--out", tmp_path / "board"
    )
    assert "run.zip: images/rex_0.png: not a readable image" in line


def test_an_archive_holds_exactly_one_run(run: Path, tmp_path: Path) -> None:
    into_zip(run, tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as packed:
        packed.writestr("other/run.toml", "")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as packed:
        packed.writestr("readme.txt", "nothing")
    for name, why in (("two.zip", "holds 2 runs"), ("none.zip", "holds no run")):
        with pytest.raises(FinerRankError, match=why), unpacked(tmp_path / name):
            pass


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_the_bounds_hold_for_the_sum_of_all_members(suffix: str, run: Path, tmp_path: Path) -> None:
    archive = tmp_path / f"run{suffix}"
    (into_zip if suffix == ".zip" else into_tar)(run, archive)
    with unpacked(archive) as folder:
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        n_files = sum(path.is_file() for path in folder.rglob("*"))
    for limits, why in (
        (Limits(unpacked_bytes=n_bytes - 1), "more than"),
        (Limits(members=n_files - 1), "members"),
        (Limits(ratio=0, free_bytes=n_bytes - 1), "times its size"),
    ):
        with pytest.raises(FinerRankError, match=why), unpacked(archive, limits):
            pass
