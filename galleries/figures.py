"""What every picture that is drawn here has in common."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".webp")
THUMBNAIL_PX = 256


def check_format(out: Path) -> None:
    """Refuse a picture that could not be written, before anything long is begun.

    Raises:
        FinerRankError: the name says no picture format, or is a folder's, or its folder is not there.
    """
    if out.suffix.lower() not in FORMATS:
        raise FinerRankError(f"{out}: no picture format; end its name in {', '.join(FORMATS)}")
    if out.is_dir() or not out.absolute().parent.is_dir():
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise FinerRankError(f"{out}: cannot be written ({what}); name another file")


def save_figure(figure: "Figure", out: Path, dpi: int = 110) -> None:
    """Write a figure; the same figure gives the same bytes.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    from matplotlib import rc_context

    # No date and no random ids in the file.
    metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    partial = out.with_name(f".{out.name}.partial")
    try:
        with rc_context({"svg.hashsalt": "finer-rank"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box; names may be in any script
            ending = out.suffix.lower()
            figure.savefig(partial, format=ending[1:], dpi=dpi, metadata=metadata.get(ending))
        partial.replace(out)
    except OSError as error:
        raise FinerRankError(f"{out}: cannot be written ({error.strerror}); name another file") from None
    finally:
        with suppress(OSError):  # there is no such folder
            partial.unlink(missing_ok=True)


def shorten(text: str, length: int = 24) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def plain(text: str) -> str:
    """Text without mathematics or control characters: names come from strangers."""
    return "\n".join(printable(line) for line in text.split("\n")).replace("$", r"\$")
