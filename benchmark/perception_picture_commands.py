"""`finer-rank perception attention` and `inversion`: analyses that end in pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import BatchSize, Device, Store, load_embedders, one_of
from benchmark.perception_options import Embedders, Metrics, Sizes, load_metrics
from galleries.options import AsJson, Out, Seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.perception.attention_study import OnSubject
    from benchmark.perception.inversion_study import Inversion

app = typer.Typer()


@app.command()
def attention(
    judgements: Annotated[list[Path], typer.Argument(help="Triplets or pairs, as for agreement score.")],
    metric: Metrics,
    out: Out,
    by: Annotated[
        str,
        typer.Option(
            help="occlusion: what moves the decision when it is hidden. parts: what makes the feature maps alike. "
            "class-token: what a Vision Transformer of timm's attends to."
        ),
    ] = "occlusion",
    masks: Annotated[
        Path | None, typer.Option(help="Gallery whose masks say where the subject of these images is.")
    ] = None,
    n: Annotated[int, typer.Option("--judgements", min=1, help="How many to look at.")] = 12,
    grid: Annotated[int, typer.Option(min=2, max=32, help="occlusion: cells along each side.")] = 8,
    kind: Annotated[str | None, typer.Option(help="Of judgements, where the data hold several kinds.")] = None,
    split: Annotated[str, typer.Option(help="Only judgements of this split.", show_default=False)] = "",
    subset: Annotated[str, typer.Option(help="Only judgements of this subset.", show_default=False)] = "",
    seed: Seed = 0,
    size: Sizes = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    as_json: AsJson = False,
) -> None:
    """Where does a distance look? A map over each image of some judgements, and how much of it lies on the subject.

    Example: finer-rank perception attention nights --split test -m dino -m dreamsim --out attention
    """
    from dataclasses import asdict

    from benchmark.human_judgements.judgements import KINDS
    from benchmark.human_judgements.sources import load_judgements
    from benchmark.perception.attention import WAYS
    from benchmark.perception.attention_study import chosen_judgements, look_at, masks_of
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError
    from galleries.image_set import new_folder, refuse_existing

    one_of("--by", by, WAYS)
    one_of("--kind", kind, KINDS)
    refuse_existing(out)
    distances, _ = load_metrics(metric, size, "fp32", device, None)
    given = load_judgements(judgements, kind=kind, split=split, subset=subset)  # type: ignore[arg-type]
    rows = chosen_judgements(given, n, seed)
    known = masks_of(masks)
    with new_folder(out) as folder, progress_bars() as progress:
        looked, shares = look_at(
            rows, distances, by, folder, masks=known, grid=grid, batch_size=batch_size or 32,  # type: ignore[arg-type]
            progress=progress,
        )  # fmt: skip
        if masks is not None and not any(share.n_pictures for share in shares):
            raise FinerRankError(
                f"{masks}: none of the {len(rows)} judgements looked at shows one of its photos with a mask; name the "
                "gallery that the images are from, byte for byte"
            )
        content = {
            "by": by,
            "kind": given.kind,
            "on_subject": [asdict(share) for share in shares] if masks is not None else None,
            "judgements": [asdict(each) for each in looked],
        }
        _write(folder / "attention.json", content)
    if as_json:
        print_json(content)
        return
    if masks is not None:
        _print_shares(shares, by)
    note(f"{out}: {len(looked)} pictures, attention.json")


@app.command()
def inversion(
    photos: Annotated[list[Path], typer.Argument(help="Photos to make again from their embeddings; files or folders.")],
    embedder: Embedders,
    out: Out,
    by: Annotated[
        list[str] | None,
        typer.Option(help="pixels: with a penalty on total variation. prior: a deep image prior. Both. Repeatable."),
    ] = None,
    among: Annotated[
        Path | None, typer.Option(help="Folder or gallery of other photos that it could be taken for.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 300,
    seed: Seed = 0,
    size: Sizes = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """What does an embedding hold? Pictures made from nothing but the embedding of a photo.

    Example: finer-rank perception inversion dog.jpg -e dino -e dreamsim --among dogs --out inversion
    """
    from dataclasses import asdict

    from benchmark.distances import Resources
    from benchmark.perception.inversion import WAYS
    from benchmark.perception.inversion_study import invert_photos
    from benchmark.perception.photos import photos_at
    from galleries.console import note, print_json, progress_bars
    from galleries.image_set import new_folder, refuse_existing

    ways = by or list(WAYS)
    for way in ways:
        one_of("--by", way, WAYS)
    refuse_existing(out)
    embedders, root = load_embedders(embedder, "squash" if size else None, size, None, "fp32", device, store)
    targets = [photo for path in photos for photo in photos_at(path)]
    others = photos_at(among) if among is not None else ()
    with new_folder(out) as folder, progress_bars() as progress:
        found = invert_photos(
            list({photo.digest: photo for photo in targets}.values()), others, embedders, ways, folder,
            Resources(root, batch_size, progress, note), steps=steps, seed=seed,
        )  # fmt: skip
        content = {"steps": steps, "seed": seed, "inversions": [asdict(each) for each in found]}
        _write(folder / "inversion.json", content)
    if as_json:
        print_json(content)
        return
    _print_inversions(found)
    note(f"{out}: {len(found)} pictures, inversion.png, curves.png, inversion.json")


def _write(path: Path, content: dict[str, Any]) -> None:
    import json

    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n", encoding="utf-8")


def _print_shares(shares: "Sequence[OnSubject]", by: str) -> None:
    from dataclasses import asdict

    from benchmark.embedders import published_spec
    from benchmark.report import number
    from galleries.console import print_table

    rows = [
        [
            published_spec(each.metric),
            str(each.n_pictures),
            number(asdict(each.share) if each.share else None),
            number(asdict(each.area) if each.area else None),
        ]
        for each in shares
    ]
    print_table(f"attention by {by}", ["metric", "pictures with a mask", "share on the subject", "its area"], rows)


def _print_inversions(found: "Sequence[Inversion]") -> None:
    from benchmark.embedders import published_spec
    from galleries.console import print_table

    rows = [
        [
            each.target,
            published_spec(each.embedder),
            each.way,
            f"{each.before:.4f}",
            f"{each.distance:.4f}",
            "–" if each.nearest_other is None else f"{each.nearest_other:.4f} ({each.nearest})",
            f"{each.rank} of {each.n_photos}",
        ]
        for each in found
    ]
    columns = ["photo", "embedder", "by", "start", "distance", "to the nearest other", "rank of its target"]
    print_table("pictures made from embeddings", columns, rows, n_left=3)
