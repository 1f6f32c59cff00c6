"""`finer-rank leaderboard …`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import BatchSize, Device, GalleryOption, Store
from galleries.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.store import Root
    from galleries.errors import Fault
    from leaderboard.board import Boards, Changes
    from leaderboard.bundle_check import CheckedBundle

app = typer.Typer(no_args_is_help=True, help="Submit scored runs as bundles, and check bundles that others submit.")


@app.command()
def add(
    run: Annotated[Path, typer.Argument(help="Run folder, or a .zip, .tar.gz or .tgz of one.")],
    gallery: GalleryOption,
    embedder: Annotated[
        list[str] | None,
        typer.Option(
            "--embedder", "-e", help="As for evaluate, repeatable. Without: the encoders of the board's other bundles."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of bundles, to which this one is added.")] = Path(
        "leaderboard/records"
    ),
    clip_t: Annotated[
        str,
        typer.Option(
            help="Also say how well images match their prompts, by this model with a text side, such as clip.",
            show_default=False,
        ),
    ] = "",
    pairwise: Annotated[
        str,
        typer.Option(
            help="Also say how far images are from their references by this distance, as for evaluate.",
            show_default=False,
        ),
    ] = "",
    incomplete: Annotated[
        bool,
        typer.Option("--incomplete", help="Take a run that misses identities or prompts: it is shown, but not ranked."),
    ] = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
) -> None:
    """Score a run on a gallery, and write the bundle that a leaderboard takes.

    The run must ask for every identity of the gallery and say in run.toml what made it.

    Example: finer-rank leaderboard add runs/ip_adapter --gallery pets --embedder dinov2 --out leaderboard/records
    """
    from contextlib import nullcontext

    from benchmark.options import load_embedders
    from benchmark.pairwise_distance import pairwise_judge
    from benchmark.protocol import Options
    from galleries.console import note, progress_bars, say
    from galleries.errors import FinerRankError, below, raise_if_any
    from galleries.gallery import Gallery
    from leaderboard.archives import is_archive, unpacked
    from leaderboard.board import embedders_on_board
    from leaderboard.bundle import bundle_name
    from leaderboard.bundle import incomplete as reasons_of
    from leaderboard.submission import contract_faults, refuse_bundle, score, write_bundle
    from personalization_runs.run import Run

    opened_gallery, gallery_faults = Gallery.load(gallery)
    card = opened_gallery.card
    on_board = {} if embedder else embedders_on_board(out, card.name, card.version)
    embedders, root = load_embedders(embedder or list(on_board.values()), None, None, None, "fp32", device, store)
    for other in embedders:
        if on_board and other.fingerprint not in on_board:
            raise FinerRankError(f"{out}: {other.spec} is another encoder here than on the board; name it: --embedder")
    judge = load_embedders([clip_t], None, None, None, "fp32", device, store)[0][0] if clip_t else None
    distance = pairwise_judge(pairwise, None, device, root) if pairwise else None
    with unpacked(run) if is_archive(run) else nullcontext(run) as folder, progress_bars() as progress:
        opened, faults = Run.load(folder)
        faults += contract_faults(opened, opened_gallery, incomplete)
        faults += [] if gallery_faults else opened.target_faults(opened_gallery)
        faults += opened.image_faults(progress("checking images", len(opened.images)) if progress else None)
        # Named as the user named it, and not after a temporary folder.
        raise_if_any("cannot be submitted", [*below(gallery, gallery_faults), *below(run, faults)])
        refuse_bundle(out / bundle_name({"name": card.name, "version": card.version}, opened.card.model))
        options = Options(batch_size=batch_size, prompt_judge=judge, pairwise=distance)
        records, remarks = score(opened_gallery, opened, embedders, root, options, progress, note)
        written, checked = write_bundle(records, opened_gallery, opened, out)
    scores = ", ".join(f"{r.embedder} mAP {r.summary['scores']['mAP']['value']:.3f}" for r in records)
    say(f"{written}: {scores}")
    for reason in reasons_of(checked.manifest):
        note(f"incomplete, will not be ranked: {reason}")
    for remark in remarks:
        note(f"note: {remark}")
    for line in checked.review:
        note(f"will be held for review: {line}")


@app.command()
def check(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Bundles, or folders of bundles.")],
    before: Annotated[
        Path | None, typer.Option(help="The folder of bundles as it was: also say what is new, changed and removed.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option("--gallery", "-g", help="With --run: the images, to compute everything again.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", "-r", help="With --gallery: the run of one of the bundles.")
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option("--embedder", "-e", help="With --run: an encoder whose weights lie elsewhere. Repeatable."),
    ] = None,
    pairwise: Annotated[
        str,
        typer.Option(
            help="With --run: the pairwise distance, where its weights lie elsewhere (lpips:alex@FILE).",
            show_default=False,
        ),
    ] = "",
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --run: of every number; devices round differently.")
    ] = 1e-3,
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Check bundles: files, fields, ranges, and every number again. Exit code 2 if anything is wrong.

    Needs no images. With --gallery and --run the numbers of that run's bundle are computed from the images.

    Example: finer-rank leaderboard check leaderboard/records --before ../main/leaderboard/records
    """
    from dataclasses import replace

    from galleries.console import note, print_json
    from galleries.errors import Faults, FinerRankError, below
    from leaderboard.board import (
        boards_of,
        changes_between,
        doubts_between,
        entries_of,
        faults_between,
        read_entries,
    )
    from leaderboard.bundle_check import find_bundles

    if (gallery is None) != (run is None):
        raise FinerRankError("--gallery and --run: everything is computed again from both; name both, or neither")
    old = read_entries(find_bundles([before])) if before else None
    bundles = [_check_one(folder) for folder in find_bundles(folders)]
    together = list(faults_between([bundle for bundle in bundles if bundle.manifest and not bundle.faults]))
    bundles = [
        replace(bundle, faults=(*bundle.faults, *(fault for folder, fault in together if folder == bundle.folder)))
        for bundle in bundles
    ]
    if gallery and run:
        bundles = _with_images(bundles, gallery, run, embedder or [], pairwise, tolerance, device, batch_size, store)
    sound = [bundle for bundle in bundles if not bundle.faults]
    doubts = list(doubts_between(sound))
    review = {
        str(bundle.folder): [*bundle.review, *(line for folder, line in doubts if folder == bundle.folder)]
        for bundle in sound
    }
    faults = [fault for bundle in bundles for fault in below(bundle.folder, bundle.faults)]
    boards = {} if faults else boards_of(entries_of(sound))
    changes = None if faults or old is None else changes_between(old, entries_of(sound))
    if as_json:
        print_json(_as_json(bundles, review, boards, changes))
    if faults:
        raise Faults("cannot be published", faults)
    for name, lines in review.items():
        for line in lines:
            note(f"held for review: {name}: {line}")
    for name in changes.removed if changes else ():
        note(f"held for review: {name}: is not there any more")
    if not as_json:
        _print(bundles, boards, changes)


def _check_one(folder: Path) -> "CheckedBundle":
    from galleries.errors import Fault
    from leaderboard.bundle_check import CheckedBundle, check_bundle

    try:
        return check_bundle(folder)
    except OSError as error:
        fault = Fault(error.filename or "folder", error.strerror or "cannot be read", "check permissions and disk")
        return CheckedBundle(folder, faults=(fault,))


def _with_images(
    bundles: "Sequence[CheckedBundle]",
    gallery: Path,
    run: Path,
    specs: list[str],
    pairwise: str,
    tolerance: float,
    device: str,
    batch_size: int | None,
    store: "Root | None",
) -> "list[CheckedBundle]":
    """The bundles, with the faults that the images show in the one that is of this run."""
    from contextlib import nullcontext
    from dataclasses import replace

    from benchmark.options import load_embedders
    from benchmark.protocol import Options
    from galleries.console import note, progress_bars
    from galleries.errors import FinerRankError
    from galleries.gallery import Gallery
    from leaderboard.archives import is_archive, unpacked
    from leaderboard.bundle import bundle_name
    from leaderboard.bundle_check import MAX_FAULTS
    from leaderboard.rescore import embedders_of, pairwise_judge_of, prompt_judge_of, record_faults, thumbnail_faults
    from leaderboard.submission import score
    from personalization_runs.run import Run

    given, root = load_embedders(specs, None, None, None, "fp32", device, store)
    opened_gallery = Gallery.open(gallery)
    with unpacked(run) if is_archive(run) else nullcontext(run) as folder, progress_bars() as progress:
        opened = Run.open(folder)
        name = bundle_name(
            {"name": opened_gallery.card.name, "version": opened_gallery.card.version}, opened.card.model
        )
        mine = [bundle for bundle in bundles if bundle.folder.resolve().name == name]
        if len(mine) != 1:
            raise FinerRankError(f"{run}: is the run of {name}, of which {len(mine)} bundles were named; name it once")
        [bundle] = mine
        if bundle.faults:
            return list(bundles)
        embedders = embedders_of(bundle, given, device, root)
        options = Options(
            batch_size=batch_size,
            prompt_judge=prompt_judge_of(bundle, given, device, root),
            pairwise=pairwise_judge_of(bundle, pairwise, device, root),
        )
        records, _ = score(opened_gallery, opened, list(embedders.values()), root, options, progress, note)
        faults: list[Fault] = []
        for (place, claimed), record in zip(bundle.records.items(), records, strict=True):
            faults += _below(place, record_faults(claimed, record, tolerance))
        faults += thumbnail_faults(bundle, records, opened_gallery, opened)
    again = replace(bundle, faults=tuple(faults[:MAX_FAULTS]))
    return [again if each is bundle else each for each in bundles]


def _below(place: str, faults: Any) -> "list[Fault]":
    from galleries.errors import below

    return below(place, faults)


def _as_json(
    bundles: "Sequence[CheckedBundle]", review: dict[str, list[str]], boards: "Boards", changes: "Changes | None"
) -> dict[str, Any]:
    from dataclasses import asdict

    from leaderboard.bundle import incomplete

    return {
        "bundles": [
            {
                "bundle": str(bundle.folder),
                "model": bundle.manifest.get("model"),
                "faults": [asdict(fault) for fault in bundle.faults],
                "review": review.get(str(bundle.folder), []),
            }
            for bundle in bundles
        ],
        "incomplete": [
            {
                "bundle": str(bundle.folder),
                "model": bundle.manifest["model"],
                "rank": None,
                "lacks": list(incomplete(bundle.manifest)),
            }
            for bundle in bundles
            if not bundle.faults and incomplete(bundle.manifest)
        ],
        "boards": [{**asdict(name), "rows": [asdict(row) for row in rows]} for name, rows in boards.items()],
        "changes": None
        if changes is None
        else {
            **{key: list(getattr(changes, key)) for key in ("new", "changed", "removed")},
            "moves": [{**asdict(name), "lines": list(lines)} for name, lines in changes.moves.items()],
        },
    }


def _print(bundles: "Sequence[CheckedBundle]", boards: "Boards", changes: "Changes | None") -> None:
    from galleries.console import print_table, say
    from leaderboard.board import is_class_only
    from leaderboard.bundle import incomplete

    for name, rows in boards.items():
        cells = []
        for row in rows:
            interval = "" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]"
            cells.append([str(row.rank), row.model, f"{row.mean_average_precision:.3f}{interval}"])
        print_table(str(name), ["rank", "model", "mAP"], cells)
    for bundle in bundles:
        for reason in incomplete(bundle.manifest):
            say(f"incomplete, not ranked: {bundle.manifest['model']} ({bundle.folder.name}): {reason}")
        if not incomplete(bundle.manifest) and any(is_class_only(record.summary) for record in bundle.records.values()):
            say(f"class only, not ranked: {bundle.manifest['model']} ({bundle.folder.name}): an anchor")
    if changes:
        for kind in ("new", "changed", "removed"):
            for changed in getattr(changes, kind):
                say(f"{kind}: {changed}")
        for board, lines in changes.moves.items():
            for line in lines:
                say(f"{board}: {line}")
    say(f"{len(bundles)} bundles, no faults")
