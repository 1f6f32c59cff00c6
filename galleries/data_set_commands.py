"""`finer-rank gallery build cub` and the other data sets of `galleries.builders`."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from galleries.build_commands import Gate, build, gated
from galleries.builders import DataSetCard, builder_of, cards, refuse_if_none_is_there
from galleries.options import Include, Name, Out, References, Seed, Symlink, Version

Recipe = Annotated[str, typer.Option(help="What to select of the data set.")]
Source = Annotated[Path, typer.Argument(help="The data set's folder, as its owners distribute it.")]


def _add_data_set(app: typer.Typer, card: DataSetCard) -> None:
    """The command of a builder of `galleries.builders` that takes nothing but a recipe."""

    def run(
        source: Source,
        out: Out,
        gate: Gate,
        recipe: Recipe = card.default_recipe,
        name: Name = "",
        version: Version = "1",
        include: Include = None,
        symlink: Symlink = False,
    ) -> None:
        _build_data_set(card, source, out, gate, recipe, name, version, symlink, include=include or ())

    run.__doc__ = card.help
    app.command(card.name)(gated(run))


def _add_dreambooth(app: typer.Typer, card: DataSetCard) -> None:
    def run(
        source: Source,
        out: Out,
        gate: Gate,
        recipe: Recipe = card.default_recipe,
        name: Name = "",
        version: Version = "1",
        include: Include = None,
        references: References = 0,
        seed: Seed = 0,
        symlink: Symlink = False,
    ) -> None:
        _build_data_set(
            card, source, out, gate, recipe, name, version, symlink,
            include=include or (), n_references=references, seed=seed,
        )  # fmt: skip

    run.__doc__ = card.help
    app.command(card.name)(gated(run))


def _add_animal_reid(app: typer.Typer, card: DataSetCard) -> None:
    def run(
        source: Source,
        out: Out,
        gate: Gate,
        recipe: Recipe = card.default_recipe,
        wildlife_class: Annotated[
            str,
            typer.Option(
                "--class",
                help="Class of wildlife_datasets that reads the folder, e.g. SeaTurtleID2022.",
                show_default=False,
            ),
        ] = "",
        name: Name = "",
        version: Version = "1",
        include: Include = None,
        symlink: Symlink = False,
    ) -> None:
        from dataclasses import replace

        chosen = card
        if wildlife_class:  # whose licence and citation its own documentation says
            chosen = replace(card, title=wildlife_class, licence="", url="", citation="", thumbnails="")
        find = {"wildlife_class": wildlife_class}
        _build_data_set(chosen, source, out, gate, recipe, name, version, symlink, find, include=include or ())

    run.__doc__ = card.help
    app.command(card.name)(gated(run))


def add_data_sets(app: typer.Typer) -> None:
    """Give `gallery build` a command for each data set; two take more than a recipe."""
    for card in cards():
        add = {"animal-reid": _add_animal_reid, "dreambooth": _add_dreambooth}.get(card.name, _add_data_set)
        add(app, card)


def _build_data_set(
    card: DataSetCard,
    source: Path,
    out: Path,
    gate: Gate,
    recipe: str,
    name: str,
    version: str,
    symlink: bool,
    find: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    from galleries.console import note
    from galleries.errors import FinerRankError, raise_if_any
    from galleries.gallery import GalleryCard

    if recipe not in card.recipes:
        raise FinerRankError(f"--recipe {recipe}: unknown; {card.name} has {', '.join(card.recipes)}")
    selection = builder_of(card.name).find(source, recipe, **(find or {}))
    for remark in selection.notes:
        note(f"note: {remark}")
    include = options.pop("include")
    images = [
        image
        for image in selection.images
        if not include or any(fnmatchcase(image.values["identity"], pattern) for pattern in include)
    ]
    if not images:
        raise_if_any(str(source), selection.faults)
        raise FinerRankError(f"{source}: no identity is named {', '.join(include)}; loosen --include")
    refuse_if_none_is_there(card, source, images)
    has_masks = any(image.values.get("mask_file_name") for image in images)
    gallery_card = GalleryCard(
        name or "-".join([card.name, recipe, *([f"{n}-references"] if (n := options.get("n_references")) else [])]),
        version,
        card.granularity,
        description=f"{card.title}, recipe {recipe}: {card.recipes[recipe]}",
        licence=card.licence,
        source=card.url,
        citation=card.citation,
        thumbnails=card.thumbnails,
        mask_source=f"{card.title}: the owners' own" if has_masks else "",
    )
    build(
        images,
        source,
        out,
        gallery_card,
        gate,
        options,
        selection.faults,
        symlink=symlink,
        if_missing=f"the data are incomplete: {card.download}",
    )
