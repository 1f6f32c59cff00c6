"""`finer-rank gallery mask` and `finer-rank run mask`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from galleries.masks import MaskReport, Unmasked


def add_mask_command(app: typer.Typer, noun: str, open_images: Callable[[Path], "Unmasked"]) -> None:
    """Give a group of commands its `mask`.

    Args:
        noun: `gallery` or `run`.
        open_images: called with the folder.
    """

    def mask(
        folder: Annotated[
            Path, typer.Argument(metavar=noun.upper(), help=f"A built {noun}: masks are written into it, below masks/.")
        ],
        model: Annotated[
            str, typer.Option(help="Segmentation model: hub repository (owner/name) or folder.", show_default=False)
        ] = "",
        revision: Annotated[str, typer.Option(help="Commit, tag or branch of it.", show_default=False)] = "",
        label: Annotated[
            list[str] | None,
            typer.Option(
                help="Class of the model that is the subject; without it, the class that is named like an image's "
                "category or identity. Repeatable.",
                show_default=False,
            ),
        ] = None,
        threshold: Annotated[
            float | None,
            typer.Option(
                min=0, max=1, help="Probability above which a pixel, or an object, is subject; 0.5 by default."
            ),
        ] = None,
        size: Annotated[
            int | None,
            typer.Option(min=16, help="Side of the input in pixels, for models that state none; 1024 by default."),
        ] = None,
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="Run the code that came with the model.")
        ] = False,
        masks: Annotated[
            Path | None,
            typer.Option("--from", help="Instead of a model: folder of masks that somebody drew.", show_default=False),
        ] = None,
        source: Annotated[
            str, typer.Option(help="Who or what drew them; goes into the card.", show_default=False)
        ] = "",
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
        batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model together.")] = 4,
        force: Annotated[
            bool, typer.Option("--force", help="Make all masks anew; replace those of another source in the table.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
    ) -> None:
        from galleries.console import print_json, progress_bars, say
        from galleries.errors import Faults, FinerRankError
        from galleries.masks import copy_masks, make_masks
        from galleries.segmenters import THRESHOLD, find_segmenter

        if bool(model) == bool(masks):
            raise FinerRankError("give either --model, which makes the masks, or --from, the folder that holds them")
        if bool(source) != bool(masks):
            raise FinerRankError("--source: says who drew the masks of --from; give both, or neither")
        if masks and (revision or label or size or trust_remote_code):
            raise FinerRankError("--revision, --label, --size, --trust-remote-code: for --model; leave them out")
        images = open_images(folder)
        try:
            with progress_bars() as progress:
                step = progress("masks", len(images.rows)) if progress else None
                if masks:
                    chosen = THRESHOLD if threshold is None else threshold
                    report = copy_masks(images, masks, source, threshold=chosen, force=force, step=step)
                else:
                    segmenter = find_segmenter(
                        model,
                        revision=revision,
                        labels=label or (),
                        threshold=threshold,
                        size=size,
                        device=device,
                        trust_remote_code=trust_remote_code,
                    )
                    report = make_masks(images, segmenter, batch_size=batch_size, force=force, step=step)
        except Faults as error:
            if as_json:
                print_json({noun: str(folder), "faults": [vars(fault) for fault in error.faults]})
            raise
        _remark(report)
        if as_json:
            print_json({noun: str(folder), "faults": [], **_as_json(report)})
            return
        say(f"{folder}: {len(report.shares)} masks in {report.folder}, source {report.source!r}")

    mask.__doc__ = f"""Make a mask of the subject for every image, with a segmentation model, or take given ones.

    What was made is kept: stopped, or run again, it goes on where it was.

    Example: finer-rank {noun} mask {noun} --model facebook/mask2former-swin-large-coco-panoptic --label dog
    """
    app.command("mask")(mask)


def open_gallery(folder: Path | str) -> "Unmasked":
    """A built gallery, as far as masks are concerned.

    Raises:
        Faults: see `Gallery.open`.
        FinerRankError: no gallery, or one without a table.
    """
    from galleries.gallery import CARD_NAME, Gallery
    from galleries.masks import Unmasked

    gallery = Gallery.open(folder)
    return Unmasked(gallery.root, CARD_NAME, gallery.photos, gallery.card.mask_source)


def _remark(report: "MaskReport") -> None:
    """What a person should know of the masks, on stderr."""
    from galleries.console import note

    if report.kept:
        note(f"{len(report.kept)} masks were there already and were kept; {len(report.shares) - len(report.kept)} made")
    shares = _spread(report)
    note("subject's share of the picture: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    for names, what in (
        (report.empty, "masks are empty: nothing was found, and no region of these images can be scored"),
        (report.touching, "masks touch all four borders: does the subject fill the picture, or are they inverted?"),
        (report.unused, "mask files are no image's"),
    ):
        if names:
            note(f"{len(names)} {what}: {_first(names)}")


def _as_json(report: "MaskReport") -> dict[str, Any]:
    return {
        "mask_source": report.source,
        "folder": report.folder,
        "n_images": len(report.shares),
        "n_kept": len(report.kept),
        "share": _spread(report),
        "empty": report.empty,
        "touching_all_borders": report.touching,
        "unused": report.unused,
    }


def _spread(report: "MaskReport") -> dict[str, float]:
    from statistics import median

    shares = list(report.shares.values())
    return {"min": min(shares), "median": median(shares), "max": max(shares)}


def _first(names: list[str], n: int = 5) -> str:
    return ", ".join(names[:n]) + ("…" if len(names) > n else "")
