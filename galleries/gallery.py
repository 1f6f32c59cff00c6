"""A gallery: identity-labelled real photos that generated images are ranked against."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.image_set import (
    checked_mask,
    column_names,
    missing_masks,
    new_folder,
    read_card,
    read_rows,
    spaced_labels,
    table_digest,
    values_of,
    write_image_set,
)
from galleries.images import NO_FILE
from galleries.photo_checks import is_bbox, label_faults, shape_warnings
from galleries.sources import Found, told_apart
from galleries.sources.folder import find_in_folder
from galleries.tables import find_metadata

if TYPE_CHECKING:
    import pandas as pd

    from galleries.leaks import Alike, Inspection, Leak, Progress

SPLITS = ("reference", "gallery", "distractor")
GRANULARITIES = ("instance", "category")
DEFAULT_CATEGORY = "all"
CARD_NAME = "gallery.toml"


@dataclass(frozen=True)
class Photo:
    """A real photo. Absent values are "".

    Attributes:
        category: pool of look-alikes that the identity is ranked within.
        identity: who or what it shows.
        split: `reference` (the generator may see it), `gallery`, or `distractor` (of nobody who is asked for).
        encounter: photos of one encounter (burst, day, place) share a value.
        viewpoint: side or angle, such as `left`.
        bbox: `x,y,width,height` in pixels.
        mask_file_name: mask of the subject, relative to the gallery.
        source_id: the photo's name where it came from.
        path: the file; not part of the table.
    """

    file_name: str
    category: str
    identity: str
    split: str
    encounter: str = ""
    viewpoint: str = ""
    bbox: str = ""
    mask_file_name: str = ""
    source_id: str = ""
    path: Path = field(default=Path(), compare=False, kw_only=True)

    @property
    def mask_path(self) -> Path:
        """The mask's file, of a photo that names one."""
        return self.path.parents[len(PurePosixPath(self.file_name).parts) - 1] / self.mask_file_name


@dataclass(frozen=True)
class GalleryCard:
    """What `gallery.toml` says of a gallery.

    Attributes:
        thumbnails: whether small copies of the photos may be shown in public: `yes`, `no`, or under which condition.
        leaks: what the leak gate found when the gallery was built, and what became of it.
        distractors: how distractors were chosen that were added from another gallery, and by which encoder.
        mask_source: what drew the masks: a program with its version, or a person.
    """

    name: str
    version: str = "1"
    granularity: str = "instance"
    description: str = ""
    licence: str = ""
    source: str = ""
    citation: str = ""
    thumbnails: str = ""
    leaks: str = ""
    distractors: str = ""
    mask_source: str = ""


@dataclass(frozen=True)
class Gallery:
    """An immutable set of labelled photos, sorted by file name, whatever the order on disk.

    Raises:
        Faults: (on opening) every fault of the table at once.
    """

    card: GalleryCard
    photos: tuple[Photo, ...]
    root: Path = field(compare=False)
    ignored: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path | str) -> "Gallery":
        """Open a gallery folder, a folder tree, or the reference code's `gallery_data.csv` and `train_data.csv`.

        No image is read. Datasets of the Hugging Face hub are built into a folder first (`from_found`).

        Raises:
            Faults: all faults of table, card and tree.
            FinerRankError: nothing that could be a gallery.
        """
        gallery, faults = cls.load(path)
        raise_if_any(str(path), faults)
        return gallery

    @classmethod
    def load(cls, path: Path | str) -> "tuple[Gallery, list[Fault]]":
        """What can be opened of a gallery, and all that is wrong with table, card and tree. For checks.

        Raises:
            FinerRankError: nothing that could be a gallery.
        """
        from galleries.sources.reference_code import find_gallery_in_reference_code

        root = Path(path)
        if not root.is_dir():
            raise FinerRankError(
                f"{root}: no such gallery folder; check the path, or make one: finer-rank gallery build"
            )
        if find_metadata(root) or (root / CARD_NAME).is_file():
            return cls._load_table(root)
        card = GalleryCard(name=_name_of(root))
        if (root / "gallery_data.csv").is_file():
            return cls._load_found(find_gallery_in_reference_code(root), card, root)
        if (root / "state.json").is_file() or (root / "dataset_dict.json").is_file():
            raise FinerRankError(
                f"{root}: a saved dataset; make a gallery of it first: finer-rank gallery build hub {root}"
            )
        tree = find_in_folder(root, SPLITS)
        gallery, faults = cls._load_found(tree.images, card, root)
        return replace(gallery, ignored=tree.ignored), [*tree.faults, *faults]

    @classmethod
    def _load_table(cls, root: Path) -> "tuple[Gallery, list[Fault]]":
        card, faults = read_card(root / CARD_NAME, GalleryCard, name=_name_of(root))
        required = ("file_name", "category", "identity", "split")
        rows, row_faults = read_rows(root, Photo, required, labels=("category", "identity", "split"))
        faults += row_faults
        photos = []
        for where, photo in rows:
            if photo.split and photo.split not in SPLITS:
                faults.append(Fault(where, f"split is {photo.split!r}", f"write one of {', '.join(SPLITS)}"))
            photo, wrong = checked_mask(where, photo)
            faults += wrong
            photos.append(photo)
            if photo.bbox and not is_bbox(photo.bbox):
                faults.append(Fault(where, f"bbox {photo.bbox!r}", "write x,y,width,height in pixels"))
        if card.granularity not in GRANULARITIES:
            what = f"granularity {card.granularity!r}"
            faults.append(Fault(CARD_NAME, what, f"write one of {', '.join(GRANULARITIES)}"))
        return cls(card, _sorted(photos), root), faults + label_faults(photos)

    @classmethod
    def _load_found(
        cls,
        found: Iterable[Found],
        card: GalleryCard,
        root: Path,
        *,
        category: str = "",
        include: Sequence[str] = (),
        n_references: int = 0,
        seed: int = 0,
    ) -> "tuple[Gallery, list[Fault]]":
        photos = _photos(found, category, include)
        if not photos and include:
            raise FinerRankError(f"{root}: no identity is named {', '.join(include)}; loosen --include")
        faults = [Fault(p.file_name, "empty identity", "fill it in") for p in photos if not p.identity.strip()]
        faults += [
            Fault(p.file_name, f"split is {p.split!r}", f"write one of {', '.join(SPLITS)}")
            for p in photos
            if p.split and p.split not in SPLITS
        ]
        faults += [
            Fault(p.file_name, f"bbox {p.bbox!r}", "write x,y,width,height in pixels")
            for p in photos
            if p.bbox and not is_bbox(p.bbox)
        ]
        faults += [fault for photo in photos for fault in spaced_labels(photo.file_name, values_of(photo))]
        if any(photo.split for photo in photos):
            if n_references:
                raise FinerRankError(f"{root}: has a split of its own; leave --references out")
            photos = [photo if photo.split else replace(photo, split="gallery") for photo in photos]
        else:
            photos, too_few = _with_seeded_split(photos, n_references, seed)
            faults += too_few
        return cls(card, _sorted(photos), root), faults + label_faults(photos)

    @classmethod
    def from_found(cls, found: Iterable[Found], card: GalleryCard, root: Path, **options: Any) -> "Gallery":
        """A gallery of the images that a source found, as they lie.

        Args:
            category: (option) one category for all; else the source's own, else "all".
            include: (option) patterns (`dog*`) of identities to take; all where empty.
            n_references: (option) photos of each identity to set aside as references, where the source has no split.
            seed: (option) of that choice, which does not depend on file order.

        Raises:
            Faults: see `Gallery`.
        """
        gallery, faults = cls._load_found(found, card, root, **options)
        raise_if_any(str(root), faults)
        return gallery

    @classmethod
    def build(
        cls,
        found: Sequence[Found],
        card: GalleryCard,
        root: Path,
        out: Path,
        *,
        known_faults: Sequence[Fault] = (),
        symlink: bool = False,
        leaks: str = "refuse",
        progress: "Progress | None" = None,
        alike: "Alike | None" = None,
        report: "Callable[[Inspection], object] | None" = None,
        if_missing: str = "",
        **options: Any,
    ) -> "Gallery":
        """Write what a source found as a gallery folder, and open it. `options` are those of `from_found`.

        Args:
            known_faults: what the source itself complained of.
            leaks: what to do with photos that repeat a reference: `refuse`, `drop` them, or `keep` them; the card says.
                `unchecked` opens no image, of a source that knows its photos: the card claims nothing then.
            alike: an encoder's opinion of which photos are close, see `galleries.leaks`.
            report: told what the images showed, before anything is raised.
            if_missing: what to do about a photo that is not there, where more can be said than to put it there.

        Raises:
            Faults: every fault of source, labels and images, and every leak; nothing is written then.
        """
        by_name = told_apart(found)
        planned, faults = cls._load_found(by_name.values(), card, root, **options)
        contents = {name: image.content for name, image in by_name.items() if image.content is not None}
        inspection = None if leaks == "unchecked" else planned.inspect(contents, progress, alike)
        if inspection and report:
            report(inspection)
        refused = [leak.fault for leak in inspection.leaks] if inspection and leaks == "refuse" else []
        shown = inspection.faults if inspection else ()
        shown = tuple(replace(f, remedy=if_missing) if if_missing and f.what == NO_FILE else f for f in shown)
        raise_if_any(str(root), [*known_faults, *faults, *shown, *refused])
        photos = planned.photos
        if inspection:
            card, photos = _passed(card, photos, inspection.leaks, leaks)
        rows = [(values_of(photo), by_name[photo.file_name]) for photo in photos]
        with new_folder(out) as folder:
            write_image_set(folder, CARD_NAME, card, Photo, rows, symlink)
        return cls.open(out)

    def split(self, *names: str) -> tuple[Photo, ...]:
        """The photos of these splits."""
        return tuple(photo for photo in self.photos if photo.split in names)

    @cached_property
    def category_of(self) -> Mapping[str, str]:
        """Each identity's category."""
        return MappingProxyType({photo.identity: photo.category for photo in self.photos})

    @cached_property
    def references(self) -> Mapping[str, tuple[Photo, ...]]:
        """The reference photos of each identity that has any."""
        by_identity: dict[str, list[Photo]] = defaultdict(list)
        for photo in self.split("reference"):
            by_identity[photo.identity].append(photo)
        return MappingProxyType({identity: tuple(photos) for identity, photos in by_identity.items()})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the table's rows, whatever their order on disk. Masks label nothing: they do not move it."""
        return table_digest(replace(photo, mask_file_name="") for photo in self.photos)

    def table(self) -> "pd.DataFrame":
        """The table as a new frame, a row per photo."""
        import pandas as pd

        return pd.DataFrame([values_of(photo) for photo in self.photos], columns=list(column_names(Photo)))

    def image_faults(self) -> list[Fault]:
        """Every fault that only the image files show, leaks among them. Reads and decodes all of them."""
        inspection = self.inspect()
        return [*inspection.faults, *(leak.fault for leak in inspection.leaks)]

    def inspect(
        self,
        contents: Mapping[str, bytes] | None = None,
        progress: "Progress | None" = None,
        alike: "Alike | None" = None,
    ) -> "Inspection":
        """What the images show: faults, leaks, near-duplicates. See `galleries.leaks.inspect_photos`."""
        from galleries.leaks import inspect_photos

        inspection = inspect_photos(self.photos, contents=contents, progress=progress, alike=alike)
        return replace(inspection, faults=(*inspection.faults, *self.missing_masks()))

    def missing_masks(self) -> list[Fault]:
        """Masks that the table names and that are not there."""
        return missing_masks(self.photos, self.root)

    def warnings(self) -> list[str]:
        """What is allowed but makes the scores say less than they seem to."""
        return shape_warnings(self.photos)


def _photos(found: Iterable[Found], category: str, include: Sequence[str]) -> list[Photo]:
    columns = set(column_names(Photo)) - {"file_name", "category"}
    photos = []
    for image in found:
        values = {key: value for key, value in image.values.items() if key in columns}
        if include and not any(fnmatchcase(values.get("identity", ""), pattern) for pattern in include):
            continue
        own_category = category or image.values.get("category", "").strip() or DEFAULT_CATEGORY
        values = {"identity": "", "split": "", "source_id": image.name, **values}
        photos.append(Photo(file_name=image.name, category=own_category, path=image.path, **values))
    return photos


def _passed(
    card: GalleryCard, photos: tuple[Photo, ...], leaks: Sequence["Leak"], policy: str
) -> tuple[GalleryCard, tuple[Photo, ...]]:
    """Card and photos after the leak gate."""
    from galleries.leaks import summary_of

    leaked = {leak.photo for leak in leaks}
    if not leaked:
        has_sides = any(photo.split == "reference" for photo in photos)
        return replace(card, leaks="none found" if has_sides else ""), photos
    if policy == "keep":
        return replace(card, leaks=f"kept {summary_of(leaks)}"), photos
    left = tuple(photo for photo in photos if photo.file_name not in leaked)
    raise_if_any(card.name, label_faults(left))
    return replace(card, leaks=f"dropped {summary_of(leaks)}"), left


def _sorted(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    return tuple(sorted(photos, key=lambda photo: photo.file_name))


def _with_seeded_split(photos: Sequence[Photo], n_references: int, seed: int) -> tuple[list[Photo], list[Fault]]:
    by_identity: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        by_identity[photo.identity].append(photo)
    split, faults = [], []
    for identity, own in sorted(by_identity.items()):
        if n_references and len(own) <= n_references:
            faults.append(
                Fault(
                    identity,
                    f"{len(own)} photos, of which {n_references} would be references",
                    "add photos, or lower --references",
                )
            )
        # A keyed hash, not a generator: adding one photo or identity reshuffles nobody else's.
        own.sort(key=lambda photo: hashlib.sha256(f"{seed}\0{photo.file_name}".encode()).digest())
        split += [replace(p, split="reference" if i < n_references else "gallery") for i, p in enumerate(own)]
    return split, faults


def _name_of(root: Path) -> str:
    return root.resolve().name
