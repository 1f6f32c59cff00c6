"""Files made by hand for tests: galleries, runs, tables of any kind, pictures that an ordinary encoder does not write.

Also the types of the fixtures of `conftest.py`, which tests cannot import."""

import csv
import gc
import io
import json
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, str]


class DrawPhoto(Protocol):
    """Writes a photo of coloured noise, the same for the same seed; the ending says the format."""

    def __call__(self, path: Path, seed: int, size: tuple[int, int] = (48, 48)) -> Path: ...


class Cli(Protocol):
    """Runs `finer-rank ARGUMENTS`."""

    def __call__(self, *arguments: object, cwd: Path | None = None) -> CompletedProcess[str]: ...


class Refusal(Protocol):
    """Runs a command that must refuse its input, and returns the one line that it says why with."""

    def __call__(self, *arguments: object, cwd: Path | None = None) -> str: ...


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write a table in the format that the ending of `path` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def rows_of(folder: Path) -> list[Row]:
    """The rows of a folder's `metadata.csv`."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def change_row(folder: Path, number: int, **values: str) -> None:
    """Overwrite cells of row `number` (from 1) of a folder's `metadata.csv`."""
    rows = rows_of(folder)
    rows[number - 1] |= values
    write_rows(folder / "metadata.csv", rows)


def add_column(folder: Path, column: str, value: str, number: int = 1) -> None:
    """Add a column to a folder's `metadata.csv` that is empty but for row `number` (from 1)."""
    rows = [row | {column: value if i == number else ""} for i, row in enumerate(rows_of(folder), start=1)]
    write_rows(folder / "metadata.csv", rows)


def drop_column(folder: Path, column: str) -> None:
    write_rows(folder / "metadata.csv", [{k: v for k, v in row.items() if k != column} for row in rows_of(folder)])


def rename_column(folder: Path, old: str, new: str) -> None:
    write_rows(folder / "metadata.csv", [{new if k == old else k: v for k, v in r.items()} for r in rows_of(folder)])


def replace_table(folder: Path, name: str, content: bytes) -> None:
    """Put a table of this name and content in the place of `metadata.csv`."""
    (folder / "metadata.csv").unlink()
    (folder / name).write_bytes(content)


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def relink(path: Path, target: Path) -> None:
    """Put a link in the place of a file."""
    path.unlink()
    path.symlink_to(target)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def lacking(message: str, *mentions: str) -> list[str]:
    """The mentions that a message lacks; none, if it is as it should be."""
    return [mention for mention in mentions if mention not in message]


def write_gallery(folder: Path) -> Path:
    """A gallery of the dogs rex and tom; of each, photo 0 is the reference and photos 1 and 2 are the gallery."""
    rows = []
    for seed, (identity, number) in enumerate([(identity, n) for identity in ("rex", "tom") for n in range(3)]):
        row = {"file_name": f"images/{identity}_{number}.png", "category": "dog", "identity": identity}
        rows.append({**row, "split": "gallery" if number else "reference"})
        save_noise(folder / row["file_name"], seed)
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text('name = "zoo"\nversion = "2"\n')
    return folder


def write_run(folder: Path, size: tuple[int, int] = (48, 48)) -> Path:
    """A run of two images of each dog of `write_gallery`, made from its reference."""
    rows = []
    for seed, (identity, number) in enumerate([(identity, n) for identity in ("rex", "tom") for n in range(2)]):
        row = {"file_name": f"images/{identity}_{number}.png", "identity": identity, "prompt": "a dog, asleep"}
        rows.append({**row, "reference_file_name": f"images/{identity}_0.png", "seed": str(number)})
        save_noise(folder / row["file_name"], 1000 + seed, size)
    write_rows(folder / "metadata.csv", rows)
    (folder / "run.toml").write_text('model = "painter"\n')
    return folder


def save_noise(path: Path, seed: int, size: tuple[int, int] = (48, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path)
    return path


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def several_frames(format: str, **options: object) -> bytes:
    """An animation, or a file of several pages, of three unlike pictures."""
    first, *others = (noise(seed) for seed in range(3))
    return encoded(first, format, save_all=True, append_images=others, **options)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def raw_png(width: int, height: int, bits: int, colour_type: int, pixels: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of the given header and packed pixels of its one row; `transparent` is the tRNS chunk."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    if transparent:
        chunks.insert(1, (b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def imagefolder_rows(folder: Path, cache: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows that `datasets` reads from a folder, with all images decoded."""
    import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the loader leaves its metadata file to the collector
        loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache))["train"]
        rows = list(loaded.remove_columns(list(without)))
        gc.collect()
    return rows
