"""`finer-rank plot …`: figures of results, for papers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import one_of

if TYPE_CHECKING:
    from leaderboard.board_plots import Measure, Panel
    from leaderboard.standings import Board

app = typer.Typer(no_args_is_help=True, help="Figures for papers, from bundles or from the records of evaluate --out.")

Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER...", help="Bundles, records of evaluate --out, or folders of them.")
]
Out = Annotated[Path, typer.Option(help="Picture to write: .svg, .pdf, .png, .jpg or .webp.")]
OfGallery = Annotated[
    str, typer.Option("--gallery", "-g", help="NAME, or 'NAME VERSION', where there are several.", show_default=False)
]
OfEmbedder = Annotated[
    str,
    typer.Option(
        "--embedder", "-e", help="Its name, or the start of its fingerprint; all if left out.", show_default=False
    ),
]
OfCategory = Annotated[str, typer.Option(help="Scores of this category alone.", show_default=False)]


@app.command()
def board(
    folders: Folders,
    out: Out,
    gallery: OfGallery = "",
    embedder: OfEmbedder = "",
    category: OfCategory = "",
    metric: Annotated[str, typer.Option(help="mAP, AUC, rank_1, identity_retention, similarity, clip_t, …")] = "mAP",
) -> None:
    """Draw models by score with 95 % intervals and the gallery's anchors; a panel per embedder.

    Example: finer-rank plot board leaderboard/records --embedder dinov2 --out board.pdf
    """
    from leaderboard.board_plots import draw_board, paper_style
    from leaderboard.results import label_of
    from leaderboard.standings import CARDS

    cards = {card.key: card for card in CARDS}
    one_of("--metric", metric, tuple(cards))
    chosen, panels, notes = _read(folders, out, gallery, embedder, category)
    drawn = [panel for panel in panels if any(_is_known(row.scores.get(metric)) for row in panel.standings.rows)]
    if not drawn:
        _refuse("--metric", metric, category)
    for panel in drawn:
        lacking = [row.model for row in panel.standings.rows if not _is_known(row.scores.get(metric))]
        notes += _left_out(lacking, f"no {cards[metric].label} under {panel.embedder.spec}")
        if not panel.standings.can_tell:
            notes.append(f"{panel.embedder.spec}: too few identities to tell so many models apart; ranks say nothing")
    title = ", ".join(part for part in (label_of(chosen), category) if part)
    with paper_style(_names(drawn)) as unknown:
        draw_board(drawn, cards[metric], title, out)
    _say(out, unknown, notes)


@app.command()
def pareto(
    folders: Folders,
    out: Out,
    gallery: OfGallery = "",
    embedder: OfEmbedder = "",
    against: Annotated[str, typer.Option(help="clip_t: prompt fidelity; or similarity: pairwise.")] = "clip_t",
) -> None:
    """Draw identity (mAP) against prompt fidelity with the frontier, or against pairwise similarity.

    Example: finer-rank plot pareto leaderboard/records --embedder dinov2 --out pareto.pdf
    """
    from leaderboard.board_plots import draw_against, paper_style
    from leaderboard.results import label_of

    one_of("--against", against, ("clip_t", "similarity"))
    chosen, panels, notes = _read(folders, out, gallery, embedder)
    drawn = []
    for panel in panels:
        measure, left_out = _measure(panel, against)
        notes += left_out
        if measure:
            drawn.append((panel, measure, _rank_correlation(panel, measure) if against == "similarity" else ""))
    if not drawn:
        _refuse("--against", against)
    with paper_style(_names([panel for panel, *_ in drawn])) as unknown:
        draw_against(drawn, against == "clip_t", label_of(chosen), out)
    _say(out, unknown, notes)


@app.command()
def agreement(folders: Folders, out: Out, gallery: OfGallery = "") -> None:
    """Draw how embedders agree on which model is better: Kendall's tau-b of their orders.

    Example: finer-rank plot agreement leaderboard/records --out agreement.pdf
    """
    from benchmark.agreement_plot import draw_agreement
    from benchmark.compare_commands import agreement_of
    from benchmark.records import read_record
    from leaderboard.board_plots import paper_style
    from leaderboard.results import label_of

    chosen, panels, notes = _read(folders, out, gallery, "")
    ranked = {row.bundle for panel in panels for row in panel.standings.rows}
    folders = [record.folder for bundle in chosen.bundles for record in bundle.records if bundle.name in ranked]
    found, embedders = agreement_of([(folder, read_record(folder)) for folder in folders], "mAP")
    seen = {label: each.gallery_seen for label, each in embedders.items()}
    with paper_style(list(seen)) as unknown:
        draw_agreement(found, seen, f"Do embedders agree on which model is better? {label_of(chosen)}", out)
    _say(out, unknown, notes)


@app.command()
def ablation(
    file: Annotated[Path, typer.Argument(help="What ablate wrote: --out FILE.csv, or --json > FILE.json.")], out: Out
) -> None:
    """Draw again how the score depends on the gallery's shape, without computing it.

    Example: finer-rank plot ablation shapes.json --out shapes.pdf
    """
    from benchmark.ablation_plot import draw_ablation
    from galleries.figures import check_format
    from leaderboard.board_plots import paper_style
    from leaderboard.saved_ablation import read_ablation

    check_format(out)
    rows, title = read_ablation(file)
    with paper_style([title, *(row["run"] or "" for row in rows)]) as unknown:
        draw_ablation(rows, title, out)
    _say(out, unknown, [])


@app.command()
def training(
    files: Annotated[
        list[Path], typer.Argument(metavar="CURVE.csv...", help="What benchmark.identity_callback wrote in a training.")
    ],
    out: Out,
    prompts_kept: Annotated[
        float, typer.Option(help="Share of the first step's CLIP-T that a step must keep to be picked.")
    ] = 0.95,
) -> None:
    """Draw identity and CLIP-T by step of training, and mark the step to pick; a panel per curve.

    Example: finer-rank plot training rex/curve.csv bella/curve.csv --out training.svg
    """
    from benchmark.training_curve import TrainingCurve
    from benchmark.training_curve_plot import draw_training_curves
    from galleries.figures import check_format
    from leaderboard.board_plots import paper_style

    check_format(out)
    curves = [TrainingCurve.read(file) for file in files]
    choices = [f"{file}: {curve.best(prompts_kept).reason}" for file, curve in zip(files, curves, strict=True)]
    with paper_style([f"{curve.identity}{curve.gallery}{curve.embedder}" for curve in curves]) as unknown:
        draw_training_curves(curves, out, prompts_kept)
    _say(out, unknown, choices)


def _read(
    folders: list[Path], out: Path, gallery: str, embedder: str, category: str = ""
) -> "tuple[Board, list[Panel], list[str]]":
    """The board that is asked for, its embedders' standings, and what is left out of them.

    Raises:
        FinerRankError: nothing that could be drawn.
    """
    from galleries.errors import FinerRankError
    from galleries.figures import check_format
    from leaderboard.board_plots import Panel
    from leaderboard.results import choose_board, choose_embedders, read_results

    check_format(out)
    bundles, notes = read_results(folders)
    board = choose_board(bundles, gallery, category)
    found = [
        Panel(each, board.standings(each.fingerprint, category)) for _, each in choose_embedders([board], embedder)
    ]
    lacks = {row.model: ", ".join(row.flags) for panel in found for row in panel.standings.incomplete}
    notes += [f"left out: {model}: {what}" for model, what in lacks.items()]
    panels = [panel for panel in found if panel.standings.rows]
    if not panels:
        what = (
            f"{next(iter(lacks))} is incomplete ({next(iter(lacks.values()))})" if lacks else "all runs are class-only"
        )
        raise FinerRankError(f"{folders[0]}: no model can be ranked: {what}; name runs on the whole gallery")
    return board, panels, notes


def _measure(panel: "Panel", against: str) -> "tuple[Measure | None, list[str]]":
    """Values of the models that have one and are measured alike, and what is said of the others.

    Where several kinds of measurement are there, the one of most models is drawn.
    """
    from benchmark.report import SIMILARITY_NAMES
    from leaderboard.board_plots import Measure

    kinds: dict[str, dict[str, Any]] = {}
    lacking = []
    for row in panel.standings.rows:
        estimate = row.scores.get(against)
        if estimate is None or not _is_known(estimate):
            lacking.append(row.model)
            continue
        if against == "similarity":
            kind = SIMILARITY_NAMES.get(row.similarity_to, "similarity")
        else:
            kind = f"CLIP-T by {row.clip_t_by or 'an unknown encoder'}"
        kinds.setdefault(kind, {})[row.bundle] = estimate
    if not kinds:
        return None, []
    kind = max(sorted(kinds), key=lambda kind: len(kinds[kind]))
    unlike = [row.model for row in panel.standings.rows if any(row.bundle in kinds[k] for k in kinds if k != kind)]
    return Measure(kind, kinds[kind]), [
        *_left_out(lacking, f"no {'CLIP-T' if against == 'clip_t' else 'similarity'}"),
        *_left_out(unlike, f"not measured as the others are, by {kind}"),
    ]


def _rank_correlation(panel: "Panel", measure: "Measure") -> str:
    """Spearman's, of the measure with mAP over the models drawn."""
    from scipy.stats import spearmanr

    pairs = [(measure.of[row.bundle], row.scores["mAP"]) for row in panel.standings.rows if row.bundle in measure.of]
    first, second = ([of["value"] for of in column if of] for column in zip(*pairs, strict=True))
    if len(set(first)) < 2 or len(set(second)) < 2:
        return f"{len(pairs)} models: no rank correlation"
    return f"Spearman’s ρ = {float(spearmanr(first, second).statistic):.2f}, {len(pairs)} models"


def _is_known(estimate: Any) -> bool:
    return bool(estimate) and estimate["value"] is not None


def _names(panels: "Sequence[Panel]") -> list[str]:
    return [row.model for panel in panels for row in panel.standings.rows]


def _left_out(models: Iterable[str], why: str) -> list[str]:
    return [f"left out: {model}: {why}" for model in models]


def _refuse(option: str, metric: str, category: str = "") -> None:
    from galleries.errors import FinerRankError

    remedy = "choose another"
    if metric == "clip_t" and not category:
        remedy = "score the runs with it: finer-rank evaluate --clip-t clip"
    elif category:
        remedy = "choose another, or leave --category out"
    raise FinerRankError(f"{option} {metric}: no record has it; {remedy}")


def _say(out: Path, unknown: str, notes: Iterable[str]) -> None:
    from galleries.console import note, say

    say(str(out))
    if unknown and out.suffix.lower() != ".svg":
        note(f"note: no font that is installed here has {unknown}; write .svg, or install one")
    for line in dict.fromkeys(notes):
        note(f"note: {line}")
