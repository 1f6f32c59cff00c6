"""A run: all images that one personalization model made for one gallery."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galleries.errors import Fault, FinerRankError, printable, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import (
    checked_mask,
    column_names,
    image_digests,
    missing_masks,
    new_folder,
    read_card,
    read_rows,
    table_digest,
    values_of,
    write_image_set,
)
from galleries.sources import Found, told_apart
from galleries.sources.folder import find_in_folder
from galleries.tables import column_faults, find_metadata, read_table

if TYPE_CHECKING:
    import pandas as pd

CARD_NAME = "run.toml"
REFUSED_NAME = "refused.csv"
"""Beside the table: the images that a filter kept back."""

CLASS_ONLY = "class-only"
"""The `method` of an untuned generator, prompted with the class alone: its run is an anchor."""


@dataclass(frozen=True)
class GeneratedImage:
    """An image that a generator made. Absent values are "".

    Attributes:
        category: may be left out: the gallery knows the category of an identity.
        identity: whom it should show. Only an image of a class-only run may leave it out: it is then asked
            for every identity of its category.
        reference_file_name: the gallery's reference photo that it was made from (its file name or source id).
        mask_file_name: mask of the subject, relative to the run.
        path: the file; not part of the table.
    """

    file_name: str
    category: str = ""
    identity: str = ""
    prompt: str = ""
    prompt_id: str = ""
    reference_file_name: str = ""
    seed: str = ""
    mask_file_name: str = ""
    path: Path = field(default=Path(), compare=False, kw_only=True)


@dataclass(frozen=True)
class RefusedImage:
    """An image that was asked for and not made, as a safety filter kept it back. It is reported, and never scored."""

    identity: str
    category: str = ""
    prompt: str = ""
    prompt_id: str = ""
    reference_file_name: str = ""
    seed: str = ""
    reason: str = ""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        return column_names(cls)


@dataclass(frozen=True)
class RunCard:
    """What `run.toml` says of a run.

    Attributes:
        training_data: what the method learned from besides the references; `none` where there is nothing.
        licence: of the images.
        contact: web page or address of whoever answers for the run.
        identifier: token that stands for the individual in prompts, such as `sks`; CLIP-T is also taken without it.
        mask_source: what drew the masks: a program with its version, or a person.
    """

    model: str
    authors: str = ""
    contact: str = ""
    url: str = ""
    licence: str = ""
    method: str = ""
    base_model: str = ""
    training_data: str = ""
    gallery: str = ""
    gallery_version: str = ""
    identifier: str = ""
    mask_source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """A generated image, asked whether it shows `identity`.

    Attributes:
        reference: the photo it was made from, where the run names it.
    """

    image: GeneratedImage
    identity: str
    category: str
    reference: Photo | None


@dataclass(frozen=True)
class Run:
    """An immutable set of generated images, sorted by file name, whatever the order on disk.

    Raises:
        Faults: (on opening) every fault of the table at once.
    """

    card: RunCard
    images: tuple[GeneratedImage, ...]
    root: Path = field(compare=False)
    ignored: tuple[str, ...] = ()
    refused: tuple[RefusedImage, ...] = ()

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open a run folder, a tree `[category/]identity/*.png`, or the reference code's `generated_data.csv`.

        No image is read. A run may come from a stranger: files outside its folder are refused.

        Raises:
            Faults: all faults of table, card and tree.
            FinerRankError: nothing that could be a run.
        """
        run, faults = cls.load(path)
        raise_if_any(str(path), faults)
        return run

    @classmethod
    def load(cls, path: Path | str) -> "tuple[Run, list[Fault]]":
        """What can be opened of a run, and all that is wrong with table, card and tree. For checks.

        Raises:
            FinerRankError: nothing that could be a run.
        """
        from galleries.sources.reference_code import RUN_FILE, find_reference_code

        root = Path(path)
        if root.is_file() and root.name == RUN_FILE:
            root = root.parent
        if not root.is_dir():
            raise FinerRankError(f"{root}: no such run folder; check the path, or make one: finer-rank run import")
        card = RunCard(model=root.resolve().name)
        if find_metadata(root) or (root / CARD_NAME).is_file():
            return cls._load_table(root)
        if (root / RUN_FILE).is_file():
            return cls._load_found(told_apart(find_reference_code(root / RUN_FILE)).values(), card, root)
        if (root / "state.json").is_file() or (root / "dataset_dict.json").is_file():
            raise FinerRankError(f"{root}: a saved dataset; make a run of it first: finer-rank run import hub {root}")
        tree = find_in_folder(root, follow_links=False)
        run, faults = cls._load_found(tree.images, card, root)
        return replace(run, ignored=tree.ignored), [*tree.faults, *faults]

    @classmethod
    def _load_table(cls, root: Path) -> "tuple[Run, list[Fault]]":
        card, faults = read_card(root / CARD_NAME, RunCard, model=root.resolve().name)
        faults += _misspelt_method(card)
        is_class_only = card.method == CLASS_ONLY
        required = ("file_name",) if is_class_only else ("file_name", "identity")
        rows, row_faults = read_rows(root, GeneratedImage, required, labels=() if is_class_only else ("identity",))
        faults += row_faults
        images = []
        for where, image in rows:
            image, wrong = checked_mask(where, image)
            faults += wrong
            images.append(image)
        refused, wrong = _read_refused(root / REFUSED_NAME)
        return cls(card, _sorted(images), root, refused=refused), [*faults, *wrong, *_links_outside(images, root)]

    @classmethod
    def _load_found(cls, found: Iterable[Found], card: RunCard, root: Path) -> "tuple[Run, list[Fault]]":
        columns = set(column_names(GeneratedImage)) - {"file_name"}
        images, faults = [], _misspelt_method(card)
        for image in found:
            values = {key: value for key, value in image.values.items() if key in columns}
            images.append(GeneratedImage(image.name, path=image.path, **values))
            if card.method != CLASS_ONLY and not values.get("identity", "").strip():
                remedy = f"fill it in (only runs of method {CLASS_ONLY!r} may leave it out)"
                faults.append(Fault(image.where, "empty identity", remedy))
        return cls(card, _sorted(images), root), faults

    @classmethod
    def from_found(cls, found: Iterable[Found], card: RunCard, root: Path) -> "Run":
        """A run of the images that a source found, as they lie.

        Raises:
            Faults: empty labels.
        """
        run, faults = cls._load_found(found, card, root)
        raise_if_any(str(root), faults)
        return run

    @classmethod
    def build(
        cls,
        found: Sequence[Found],
        card: RunCard,
        root: Path,
        out: Path,
        *,
        known_faults: Sequence[Fault] = (),
        gallery: Gallery | None = None,
        step: Callable[[int], Any] | None = None,
    ) -> "Run":
        """Write what a source found as a run folder, and open it.

        Args:
            known_faults: what the source itself complained of.
            gallery: checked against, where given.

        Raises:
            Faults: every fault of source, labels, images and targets; nothing is written then.
        """
        by_name = told_apart(found)
        planned, faults = cls._load_found(by_name.values(), card, root)
        contents = {name: image.content for name, image in by_name.items() if image.content is not None}
        faults += planned.target_faults(gallery) if gallery else []
        faults += planned.image_faults(step, contents)
        raise_if_any(str(root), [*known_faults, *faults])
        rows = [(values_of(image), by_name[image.file_name]) for image in planned.images]
        with new_folder(out) as folder:
            write_image_set(folder, CARD_NAME, card, GeneratedImage, rows, symlink=False)
        return cls.open(out)

    @property
    def is_class_only(self) -> bool:
        return self.card.method == CLASS_ONLY

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the table's rows, whatever their order on disk. Masks label nothing: they do not move it."""
        return table_digest(self.images, without=("mask_file_name",))

    @property
    def summary(self) -> str:
        """The run in a line."""
        identities = {image.identity for image in self.images if image.identity}
        refused = f", {len(self.refused)} more refused by a filter" if self.refused else ""
        return printable(f"{self.card.model}: {len(self.images)} images of {len(identities)} identities{refused}")

    def table(self) -> "pd.DataFrame":
        """The table as a new frame, a row per image."""
        import pandas as pd

        return pd.DataFrame([values_of(image) for image in self.images], columns=list(column_names(GeneratedImage)))

    def image_faults(
        self, step: Callable[[int], Any] | None = None, contents: Mapping[str, bytes] | None = None
    ) -> list[Fault]:
        """Every fault that only the image files show. Reads and decodes all of them; see `Gallery.image_faults`."""
        return [*image_digests(self.images, True, step, contents)[1], *missing_masks(self.images, self.root)]

    def target_faults(self, gallery: Gallery) -> list[Fault]:
        """Images that ask for somebody whom the gallery cannot answer for."""
        asked_for = {photo.identity for photo in gallery.split("gallery")}
        categories = {photo.category for photo in gallery.split("gallery")}
        references = _by_either_name(gallery.split("reference"))
        of_gallery = f"gallery {gallery.card.name!r}"
        faults = []
        images_of: dict[str, list[GeneratedImage]] = defaultdict(list)
        for image in self.images:
            images_of[image.identity].append(image)
            if image.reference_file_name and image.reference_file_name not in references:
                faults.append(
                    Fault(
                        image.file_name,
                        f"reference_file_name {image.reference_file_name!r} is no reference photo of {of_gallery}",
                        "name one by its file_name or source_id there, or empty the cell",
                    )
                )
        for image in images_of.pop("", []):
            if image.category not in categories and (image.category or len(categories) > 1):
                faults.append(
                    Fault(
                        image.file_name,
                        f"neither identity nor a category of {of_gallery}",
                        f"fill one in ({', '.join(sorted(categories))})",
                    )
                )
        for identity, images in sorted(images_of.items()):
            first = images[0].file_name
            if identity not in asked_for:
                near = get_close_matches(identity, asked_for, n=1)
                hint = f"is {near[0]!r} meant?" if near else "add photos of it, or leave these images out"
                what = f"no photo of it in {of_gallery} ({len(images)} images ask for it, first {first})"
                faults.append(Fault(f"identity {identity!r}", what, hint))
                continue
            true_category = gallery.category_of[identity]
            wrong = [image for image in images if image.category not in ("", true_category)]
            if wrong:
                what = f"category {wrong[0].category!r} ({len(wrong)} images, first {wrong[0].file_name})"
                faults.append(
                    Fault(
                        f"identity {identity!r}",
                        what,
                        f"the gallery says {true_category!r}; write that, or empty the cells",
                    )
                )
        return faults

    def queries(self, gallery: Gallery) -> tuple[Query, ...]:
        """What the run asks of a gallery, in the order of its images.

        Raises:
            Faults: see `target_faults`.
        """
        raise_if_any(str(self.root), self.target_faults(gallery))
        references = _by_either_name(gallery.split("reference"))
        identities: dict[str, list[str]] = defaultdict(list)
        for identity in sorted({photo.identity for photo in gallery.split("gallery")}):
            identities[gallery.category_of[identity]].append(identity)
        queries = []
        for image in self.images:
            if image.identity:
                asked = [image.identity]
            else:
                category = image.category if image.category in identities else next(iter(identities))
                asked = identities[category]
            reference = references.get(image.reference_file_name)
            queries += [Query(image, identity, gallery.category_of[identity], reference) for identity in asked]
        return tuple(queries)


def _read_refused(path: Path) -> tuple[tuple[RefusedImage, ...], list[Fault]]:
    if not path.is_file():
        return (), []
    table = read_table(path)
    columns = RefusedImage.columns()
    faults = [*table.faults, *column_faults(table, ("identity", "reason"), columns)]
    if faults:
        return (), faults
    return tuple(RefusedImage(**{c: row.get(c, "") for c in columns}) for row in table.rows), []


def _misspelt_method(card: RunCard) -> list[Fault]:
    """Another spelling of class-only would make an anchor an ordinary run."""
    if card.method != CLASS_ONLY and card.method.lower().replace("_", "-").replace(" ", "-") == CLASS_ONLY:
        return [Fault("method", f"{card.method!r}", f"{CLASS_ONLY!r} is meant? Write it so")]
    return []


def _sorted(images: Iterable[GeneratedImage]) -> tuple[GeneratedImage, ...]:
    return tuple(sorted(images, key=lambda image: image.file_name))


def _by_either_name(photos: Sequence[Photo]) -> dict[str, Photo]:
    by_source = {photo.source_id: photo for photo in photos if photo.source_id}
    return by_source | {photo.file_name: photo for photo in photos}


def _links_outside(images: Sequence[GeneratedImage], root: Path) -> list[Fault]:
    inside = root.resolve()
    named = [(image.file_name, image.path) for image in images]
    named += [(image.mask_file_name, root / image.mask_file_name) for image in images if image.mask_file_name]
    return [
        Fault(name, "is a link that leaves the folder", "put the image itself there")
        for name, path in named
        if not Path(os.path.realpath(path)).is_relative_to(inside)
    ]
