"""`finer-rank gallery show` and `gallery distractors`: the commands on galleries that an embedder has a part in."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import BatchSize, Device, Interpolation, Precision, Resize, Size, Store, load_embedders
from galleries.options import AsJson, GalleryPath, Name, Out, Seed, Symlink, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmark.difficulty import Difficulty, IdentityLevel, Level, Needed, Shape
    from galleries.gallery import Gallery
    from galleries.leaks import Inspection

app = typer.Typer()


@app.command()
def show(
    gallery: GalleryPath,
    embedder: Annotated[
        str,
        typer.Option(
            "--embedder", "-e", help="Also say how hard the gallery is for this embedder.", show_default=False
        ),
    ] = "",
    plot: Annotated[Path | None, typer.Option(help="Picture to draw of it: .png, .pdf, .svg, .jpg or .webp.")] = None,
    by: Annotated[str, typer.Option(help="Also print a line for each: identity.", show_default=False)] = "",
    resize: Resize = None,
    size: Size = None,
    interpolation: Interpolation = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a gallery and how hard it is, before any run is scored.

    Example: finer-rank gallery show pets --embedder dinov2 --plot pets.png
    """
    from benchmark.difficulty import gallery_shape, measure_difficulty
    from benchmark.difficulty_plot import draw_difficulty
    from benchmark.embed import embed_gallery
    from benchmark.embedders import published_spec
    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from galleries.gallery import Gallery

    if by not in ("", "identity"):
        raise FinerRankError(f"--by {by}: unknown; write identity")
    if plot:
        check_format(plot)
        if not embedder:
            raise FinerRankError("--plot: draws what an embedder sees; name one with --embedder")
    opened = Gallery.open(gallery)
    overall, by_category = gallery_shape(opened)
    difficulty = inspection = None
    if embedder:
        [loaded], root = load_embedders([embedder], resize, size, interpolation, precision, device, store)
        with progress_bars() as progress:
            embedded = embed_gallery(opened, loaded, root, batch_size=batch_size, progress=progress, warn=note)
            inspection = opened.inspect(progress=progress)
        difficulty = measure_difficulty(opened, embedded)
        note(f"{len(embedded.photos)} photos, {embedded.n_forward_passes} forward passes of {embedder}")
        if plot:
            draw_difficulty(opened, difficulty, published_spec(embedder), plot)
            note(f"{plot}: drawn")
    if as_json:
        seen = {"embedder": embedder, "fingerprint": loaded.fingerprint, **_as_json(difficulty)} if difficulty else None
        shapes = _shape_as_json(overall, by_category)
        print_json(_contents_as_json(opened) | shapes | {"near_duplicates": _pairs(inspection), "difficulty": seen})
        return
    _print_contents(opened)
    for category, shape in by_category.items():
        unequal = f"{shape.n_unequal} of {shape.n_identities} identities have another number of photos than most"
        say(f"{category}: chance mAP {shape.chance:.3f}; {unequal}")
    if len(by_category) > 1:
        say(f"over all {overall.n_identities} identities: chance mAP {overall.chance:.3f}")
    if difficulty:
        _print_difficulty(difficulty, published_spec(embedder))
    if inspection:
        pairs = _pairs(inspection) or []
        say(f"near-duplicates: {len(pairs)}")
        for pair in pairs[:10]:
            say(f"  {pair['first']} ~ {pair['second']}: {pair['what']}")
        if len(pairs) > 10:
            say(f"  and {len(pairs) - 10} more; draw them with gallery check --picture")
    if by:
        _print_identities(opened, by_category, difficulty)
    say(f"table SHA-256 {opened.digest}")


@app.command()
def distractors(
    gallery: GalleryPath,
    other: Annotated[Path, typer.Option("--from", help="Gallery folder or tree to take photos from.")],
    choose: Annotated[str, typer.Option(help="random, same-category (of the same name), or nearest (by --embedder).")],
    number: Annotated[int, typer.Option(min=1, help="Distractors to add to each category.")],
    out: Out,
    embedder: Annotated[
        str,
        typer.Option("--embedder", "-e", help="For nearest: who chooses. Not who judges later.", show_default=False),
    ] = "",
    seed: Seed = 0,
    resize: Resize = None,
    size: Size = None,
    interpolation: Interpolation = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    name: Name = "",
    version: Version = "1",
    symlink: Symlink = False,
) -> None:
    """Write a gallery with more distractors: photos of another gallery, of nobody who is asked for.

    Example: finer-rank gallery distractors pets --from strays --choose random --number 100 --out pets-100
    """
    from benchmark.distractors import CHOICES, Chooser, add_distractors
    from galleries.console import note, progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_existing, refuse_inside

    if choose not in CHOICES:
        raise FinerRankError(f"--choose {choose}: unknown; write {', '.join(CHOICES)}")
    if (choose == "nearest") != bool(embedder):
        wrong = "needs an --embedder to say what is near; add it"
        if embedder:
            wrong = "has no use for --embedder; leave it out"
        raise FinerRankError(f"--choose {choose}: {wrong}, or --choose another way")
    refuse_existing(out)
    for source in (gallery, other):
        refuse_inside(out, source)
    opened, strangers = Gallery.open(gallery), Gallery.open(other)
    chooser = None
    if embedder:
        [loaded], root = load_embedders([embedder], resize, size, interpolation, precision, device, store)
        chooser = Chooser(loaded, root, batch_size)
    with progress_bars() as progress:
        made = add_distractors(
            opened,
            strangers,
            choose,
            number,
            out,
            chooser=chooser,
            seed=seed,
            name=name,
            version=version,
            symlink=symlink,
            progress=progress,
            warn=note,
        )
    say(f"{out}: {len(made.split('distractor'))} distractors, {len(made.photos)} photos; {made.card.distractors}")


# ---- what show prints


def _counts(gallery: "Gallery") -> "dict[str, dict[str, Counter[str]]]":
    """Category → split → photos of each identity."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for photo in gallery.photos:
        counts.setdefault(photo.category, defaultdict(Counter))[photo.split][photo.identity] += 1
    return dict(sorted(counts.items()))


def _print_contents(gallery: "Gallery") -> None:
    from galleries.console import print_table

    rows = []
    for category, of in _counts(gallery).items():
        per_identity = sorted(of["gallery"].values())
        spread = f"{per_identity[0]}–{per_identity[-1]}" if per_identity else "–"
        totals = [str(of[split].total()) for split in ("gallery", "reference", "distractor")]
        rows.append([category, str(len(of["gallery"])), totals[0], spread, totals[1], totals[2]])
    title = f"{gallery.card.name} {gallery.card.version} ({gallery.card.granularity})"
    columns = ["category", "identities", "gallery photos", "per identity", "references", "distractors"]
    print_table(title, columns, rows)


def _print_difficulty(difficulty: "Difficulty", embedder: str) -> None:
    from dataclasses import asdict

    from benchmark.difficulty import DIFFERENCE
    from benchmark.report import number
    from galleries.console import note, print_table

    levels = dict(difficulty.categories)
    if len(levels) > 1:
        levels["(all)"] = difficulty.overall
    rows = []
    for name, level in levels.items():
        lost = {"mAP": level.lost_to_distractors} if level.lost_to_distractors else {}
        asked = {
            "held-out photos": level.held_out,
            "the same without distractors": level.without_distractors,
            "lost to distractors": lost,
            "copied references": level.copied_reference,
        }
        rows.append([name, "(chance)", f"{level.shape.chance:.3f}", "0.500"])
        for what, scores in asked.items():
            if scores:
                cells = [number(asdict(e) if (e := scores.get(metric)) else None) for metric in ("mAP", "AUC")]
                rows.append([name, what, *cells])
    print_table(f"difficulty for {embedder}", ["category", "asked", "mAP", "AUC"], rows)
    if difficulty.pairs:
        print_table(
            "hardest pairs: chance that a photo of the other scores above another photo of the one asked for",
            ["asked for", "other", "category", "chance", "the other way round"],
            [
                [p.asked, p.other, p.category, f"{p.confusion:.3f}", "–" if p.reverse is None else f"{p.reverse:.3f}"]
                for p in difficulty.pairs
            ],
        )
    has = f"{sum(bool(i.precisions) for i in difficulty.identities)}"
    needed = [("one score", difficulty.one_score), ("two runs, at least", difficulty.paired)]
    print_table(
        f"identities needed to tell {DIFFERENCE} in mAP (two-sided 5 % level, 80 % power)",
        ["of", "sd between identities", "needed", "there are"],
        [[what, f"{of.sd:.3f}", str(of.n_identities), has] for what, of in needed if of],
    )
    if difficulty.n_compared < difficulty.n_pairs:
        few = f"{difficulty.n_compared} of {difficulty.n_pairs} pairs, those of near mean embeddings"
        note(f"note: large categories: the hardest pairs are those among {few}")
    if difficulty.n_unanswerable:
        note(f"note: {difficulty.n_unanswerable} photos are no queries: no other photo of their identity can answer")


def _print_identities(gallery: "Gallery", shapes: "Mapping[str, Shape]", difficulty: "Difficulty | None") -> None:
    from benchmark.pool import chance_scores
    from galleries.console import print_table

    of = {i.identity: i for i in difficulty.identities} if difficulty else {}
    counts, rows = _counts(gallery), []
    for category, shape in shapes.items():
        for identity, n in sorted(counts[category]["gallery"].items()):
            cells = [identity, category, str(n), f"{chance_scores(n, shape.n_ranked).average_precision:.3f}"]
            rows.append([*cells, *(_held_out_cells(of[identity]) if difficulty else [])])
    extra = ["held-out mAP", "its worst photo", "its best photo"] if difficulty else []
    print_table("by identity", ["identity", "category", "gallery photos", "chance mAP", *extra], rows)


def _held_out_cells(of: "IdentityLevel") -> list[str]:
    if of.mean is None:
        return ["–"] * 3
    return [f"{value:.3f}" for value in (of.mean, of.precisions[0], of.precisions[-1])]


def _contents_as_json(gallery: "Gallery") -> dict[str, Any]:
    from dataclasses import asdict

    from galleries.gallery import SPLITS

    categories = {
        category: {split: dict(sorted(of[split].items())) for split in SPLITS if of[split]}
        for category, of in _counts(gallery).items()
    }
    return {**asdict(gallery.card), "table_sha256": gallery.digest, "categories": categories}


def _shape_as_json(overall: "Shape", by_category: "Mapping[str, Shape]") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "shape": asdict(overall),
        "shapes": {category: asdict(shape) for category, shape in by_category.items()},
    }


def _pairs(inspection: "Inspection | None") -> list[dict[str, str]] | None:
    """Pairs of photos that are one picture, or almost; leaks first. None where nobody looked."""
    if inspection is None:
        return None
    leaks = [
        {"first": leak.photo, "second": leak.reference, "what": f"leak: {leak.kind} {leak.detail}".strip()}
        for leak in inspection.leaks
        if leak.kind != "same encounter"
    ]
    return leaks + [{"first": p.first, "second": p.second, "what": p.what} for p in inspection.pairs]


def _as_json(difficulty: "Difficulty") -> dict[str, Any]:
    from dataclasses import asdict

    from benchmark.difficulty import DIFFERENCE

    def level(of: "Level") -> dict[str, Any]:
        return {key: value for key, value in asdict(of).items() if key != "shape"} | {"chance_mAP": of.shape.chance}

    def needed(of: "Needed | None") -> dict[str, Any] | None:
        return asdict(of) if of else None

    return {
        "overall": level(difficulty.overall),
        "categories": {category: level(of) for category, of in difficulty.categories.items()},
        "identities": {
            i.identity: {
                "category": i.category,
                "n_gallery": i.n_gallery,
                "chance_mAP": i.chance,
                "held_out_mAP": i.mean,
                "held_out_average_precisions": i.precisions,
            }
            for i in difficulty.identities
        },
        "hardest_pairs": [asdict(pair) for pair in difficulty.pairs],
        "n_pairs_compared": difficulty.n_compared,
        "n_pairs": difficulty.n_pairs,
        "identities_needed": {
            "difference": DIFFERENCE,
            "level": 0.05,
            "power": 0.8,
            "one_score": needed(difficulty.one_score),
            "paired_lower_bound": needed(difficulty.paired),
            "there_are": sum(bool(i.precisions) for i in difficulty.identities),
        },
        "n_unanswerable": difficulty.n_unanswerable,
    }
