"""Frozen galleries: the rows of a gallery as a small file, so that everybody with the photos builds the same one.

A manifest is TOML: the fields of the card, `table_sha256`, and `rows`, the lines of the table as CSV, with the SHA-256
of each photo where it was at hand. It holds no image.
"""

import csv
import io
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import CARD_NAME, SPLITS, Gallery, GalleryCard, Photo
from galleries.image_set import column_names, image_digests, new_folder, table_digest, values_of, write_image_set
from galleries.images import BadImage, check_file_name, in_threads, read_image_bytes, sha256_of
from galleries.photo_checks import is_bbox, is_file, label_faults
from galleries.sources import Found

if TYPE_CHECKING:
    from galleries.leaks import Alike, Inspection, Progress

FOLDER = Path(__file__).parent / "manifests"
CONTENT = "sha256"
NOT_FROZEN = ("mask_file_name",)
CARD_FIELDS = tuple(f.name for f in fields(GalleryCard) if f.name not in ("leaks", "mask_source"))


@dataclass(frozen=True)
class Manifest:
    """A frozen gallery.

    Attributes:
        photos: its rows.
        contents: file name → SHA-256 of the photo's bytes, where known.
        table_sha256: the digest that the rebuilt gallery must have.
    """

    path: Path
    card: GalleryCard
    photos: tuple[Photo, ...]
    contents: Mapping[str, str]
    table_sha256: str


def published() -> list[Path]:
    """The manifests that come with the package."""
    return sorted(FOLDER.glob("*.toml"))


def freeze(gallery: Gallery, out: Path, step: Callable[[int], Any] | None = None) -> Manifest:
    """Write a gallery's manifest.

    Raises:
        Faults: photos that cannot be used.
        FinerRankError: `out` exists, or cannot be written.
    """
    if out.suffix != ".toml":
        raise FinerRankError(f"{out}: a manifest is TOML; end its name in .toml")
    if any(not photo.file_name.startswith("images/") for photo in gallery.photos):
        raise FinerRankError(f"{gallery.root}: not a built gallery; build it first: finer-rank gallery build")
    if out.exists():
        raise FinerRankError(f"{out}: exists already; a frozen gallery stays as it is: raise its version")
    digests, faults = image_digests(gallery.photos, False, step)
    raise_if_any(str(gallery.root), faults)
    contents = {p.file_name: digest for p, digest in zip(gallery.photos, digests, strict=True) if digest}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.partial")
        try:
            partial.write_text(manifest_text(gallery.card, gallery.photos, contents), encoding="utf-8", newline="\n")
            read_manifest(partial)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise FinerRankError(f"{out}: cannot be written ({error.strerror}); name another --out") from None
    return read_manifest(out)


def manifest_text(card: GalleryCard, photos: Sequence[Photo], contents: Mapping[str, str]) -> str:
    """A manifest. The same gallery gives the same text."""
    import tomli_w

    named = [c for c in column_names(Photo) if c not in NOT_FROZEN]
    columns = [c for c in named if any(getattr(photo, c) for photo in photos)]
    rows = [[*columns, *([CONTENT] if contents else [])]]
    for photo in sorted(photos, key=lambda photo: photo.file_name):
        digest = [contents.get(photo.file_name, "")] if contents else []
        rows.append([getattr(photo, column) for column in columns] + digest)
    said = asdict(card)
    head = {name: said[name] for name in CARD_FIELDS if said[name]}
    return tomli_w.dumps({**head, "table_sha256": frozen_digest(photos), "rows": [_as_line(row) for row in rows]})


def _as_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    # The csv module leaves a lone carriage return unquoted, and then reads it as the end of the row.
    has_returns = any("\r" in cell for cell in cells)
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL).writerow(cells)
    return buffer.getvalue().removesuffix("\n")


def _cells(line: object) -> list[str] | None:
    """The cells of a line; None where it is no line of CSV."""
    if not isinstance(line, str):
        return None
    try:
        rows = list(csv.reader(io.StringIO(line, newline=""), strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def frozen_digest(photos: Sequence[Photo]) -> str:
    """`Gallery.digest` of these photos."""
    return table_digest(replace(photo, mask_file_name="") for photo in photos)


def frozen_name_faults(gallery: Gallery) -> list[str]:
    """A warning where a gallery bears the name and version of a published one, and is another."""
    frozen = [(path, read_manifest(path)) for path in published()]
    if any(manifest.table_sha256 == gallery.digest for _, manifest in frozen):
        return []
    for path, manifest in frozen:
        same_name = (manifest.card.name, manifest.card.version) == (gallery.card.name, gallery.card.version)
        if same_name and manifest.table_sha256 != gallery.digest:
            return [
                f"calls itself {gallery.card.name} {gallery.card.version}, but its rows are not those of the published "
                f"{path.stem}: give it another name or version"
            ]
    return []


def find_manifest(name: str) -> Manifest:
    """A manifest by its path, or by the name of a published one.

    Raises:
        FinerRankError: neither.
    """
    from difflib import get_close_matches

    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return read_manifest(path)
    known = {p.stem: p for p in published()}
    if name in known:
        return read_manifest(known[name])
    near = get_close_matches(name, known, n=1)
    hint = f"{near[0]} is meant? " if near else ""
    raise FinerRankError(f"{name}: no such manifest; {hint}published: {', '.join(known)}; or name a .toml file")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, and see that its rows are those that it was frozen with.

    Raises:
        FinerRankError: not a manifest, or rows that were changed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FinerRankError(f"{path}: not TOML ({error}); fetch it again") from None
    for key, kind in (("name", str), ("version", str), ("table_sha256", str), ("rows", list)):
        if not isinstance(content.get(key), kind):
            raise FinerRankError(f"{path}: no {key}; this is no manifest (finer-rank gallery freeze writes one)")
    card = GalleryCard(**{name: content[name] for name in CARD_FIELDS if isinstance(content.get(name), str)})
    header, *lines = [_cells(line) for line in content["rows"]] or [None]
    required = {"file_name", "category", "identity", "split"}
    if header is None or not required <= set(header) or not lines:
        raise FinerRankError(f"{path}: no rows with {', '.join(sorted(required))}; fetch it again")
    photos, contents = [], {}
    columns = set(column_names(Photo)) - set(NOT_FROZEN)
    for i, cells in enumerate(lines, start=1):
        if cells is None or len(cells) != len(header):
            raise FinerRankError(f"{path}: row {i} has another number of fields than the header; fetch it again")
        row = dict(zip(header, cells, strict=True))
        if wrong := check_file_name(row["file_name"]):
            raise FinerRankError(f"{path}: row {i}: {row['file_name']}: {wrong}; fetch it again")
        photos.append(Photo(path=Path(), **{name: value for name, value in row.items() if name in columns}))
        if row.get(CONTENT):
            contents[row["file_name"]] = row[CONTENT]
    if frozen_digest(photos) != content["table_sha256"]:
        raise FinerRankError(f"{path}: its rows are not those it was frozen with (table_sha256); fetch it again")
    raise_if_any(str(path), _row_faults(photos))
    return Manifest(path, card, tuple(photos), contents, content["table_sha256"])


def _row_faults(photos: Sequence[Photo]) -> list[Fault]:
    """What keeps rows from being a gallery."""
    again = "fetch the manifest again"
    faults = [
        Fault(photo.file_name, f"empty {label}", again)
        for photo in photos
        for label in ("category", "identity", "split")
        if not getattr(photo, label).strip()
    ]
    faults += [Fault(p.file_name, f"split is {p.split!r}", again) for p in photos if p.split not in ("", *SPLITS)]
    faults += [Fault(p.file_name, f"bbox {p.bbox!r}", again) for p in photos if p.bbox and not is_bbox(p.bbox)]
    names = Counter(photo.file_name.casefold() for photo in photos)
    faults += [Fault(name, "stands there twice, or but for capitals", again) for name, n in names.items() if n > 1]
    return faults + label_faults(photos)


def rebuild(
    manifest: Manifest,
    source: str,
    out: Path,
    *,
    symlink: bool = False,
    progress: "Progress | None" = None,
    alike: "Alike | None" = None,
    report: "Callable[[Inspection, Mapping[str, Found]], object] | None" = None,
) -> Gallery:
    """Build the frozen gallery from the photos that `source` holds.

    Args:
        source: the data set's folder as its owners distribute it, another copy of the gallery, or a Hugging Face
            dataset.
        report: told what the images showed, and where each is, before anything is raised.

    Raises:
        Faults: photos that are missing, changed or broken, by name; nothing is written then.
    """
    found, faults = _find_photos(manifest, source)
    faults += _changed(manifest, found)
    raise_if_any(f"{source}, for {manifest.path.name}", faults)
    contents = {name: image.content for name, image in found.items() if image.content is not None}
    planned = Gallery(manifest.card, tuple(_at(photo, found) for photo in manifest.photos), Path(source))
    inspection = planned.inspect(contents, progress, alike)
    if report:
        report(inspection, found)
    raise_if_any(source, inspection.faults)
    from galleries.leaks import summary_of

    # Frozen rows stay: what the gate finds is written down, not dropped.
    has_sides = any(photo.split == "reference" for photo in manifest.photos)
    leaks = f"kept {summary_of(inspection.leaks)}" if inspection.leaks else "none found" if has_sides else ""
    rows = [(values_of(photo), found[photo.file_name]) for photo in manifest.photos]
    with new_folder(out) as folder:
        card = replace(manifest.card, leaks=leaks)
        write_image_set(folder, CARD_NAME, card, Photo, rows, symlink, keep_names=True)
        if Gallery.open(folder).digest != manifest.table_sha256:
            raise FinerRankError(f"{manifest.path}: names that this system cannot write as they are; report it")
    return Gallery.open(out)


def _at(photo: Photo, found: Mapping[str, Found]) -> Photo:
    return replace(photo, path=found[photo.file_name].path)


def _find_photos(manifest: Manifest, source: str) -> tuple[dict[str, Found], list[Fault]]:
    """File name → where the photo is."""
    root = Path(source)
    found: dict[str, Found] = {}
    if _is_dataset(root):
        by_key = _images_of_dataset(source)
        for photo in manifest.photos:
            image = by_key.get(photo.source_id) or by_key.get(manifest.contents.get(photo.file_name, ""))
            if image:
                found[photo.file_name] = Found(photo.source_id, photo.file_name, image.path, {}, image.content)
    else:
        base = _base(root, manifest.photos)
        is_gallery = (root / CARD_NAME).is_file()
        for photo in manifest.photos:
            places = [root / photo.file_name] if is_gallery else _places(base, photo)
            path = next((place for place in places if is_file(place)), None)
            if path:
                found[photo.file_name] = Found(photo.source_id, photo.file_name, path, {})
    faults = [
        Fault(photo.source_id or photo.file_name, "is missing", f"fetch the data again ({manifest.card.source})")
        for photo in manifest.photos
        if photo.file_name not in found
    ]
    return found, faults


def _places(folder: Path, photo: Photo) -> list[Path]:
    """Where a photo should lie in its owners' folder: nowhere, where `source_id` is no path inside it."""
    return [folder / photo.source_id] if photo.source_id and not check_file_name(photo.source_id) else []


def _base(root: Path, photos: Sequence[Photo]) -> Path:
    """The folder that `source_id` starts from: `root`, or the one below it that holds the most of a sample."""
    if not root.is_dir():
        raise FinerRankError(f"{root}: no such folder; name the one that holds the photos")
    sample = photos[:: max(1, len(photos) // 20)]
    folders = [root, *sorted(sub for sub in root.iterdir() if sub.is_dir())]
    return max(folders, key=lambda folder: sum(is_file(place) for p in sample for place in _places(folder, p)))


def _is_dataset(root: Path) -> bool:
    is_saved = (root / "state.json").is_file() or (root / "dataset_dict.json").is_file()
    return is_saved or (not root.exists() and len(root.parts) == 2 and not root.is_absolute())


def _images_of_dataset(source: str) -> dict[str, Found]:
    """The images by `split/row`, and by the SHA-256 of their bytes."""
    from galleries.sources.hub import find_all

    found = {}
    for split, images in find_all(source).items():
        for i, image in enumerate(images):
            found[f"{split}/{i:06d}"] = image
            if image.content is not None:
                found.setdefault(sha256_of(image.content), image)
    return found


def _changed(manifest: Manifest, found: Mapping[str, Found]) -> list[Fault]:
    """Photos whose bytes are not those that were frozen."""
    known = [(name, found[name]) for name in sorted(manifest.contents.keys() & found.keys())]

    def digest(item: tuple[str, Found]) -> str:
        try:
            return sha256_of(item[1].content if item[1].content is not None else read_image_bytes(item[1].path))
        except BadImage:
            return ""  # the inspection says what is wrong with it

    return [
        Fault(image.where or name, "has other bytes than the frozen photo", "fetch the data again")
        for (name, image), found_digest in zip(known, in_threads(digest, known), strict=True)
        if found_digest and found_digest != manifest.contents[name]
    ]
