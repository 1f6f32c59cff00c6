"""`finer-rank export`"""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.options import one_of
from leaderboard.plot_commands import Folders, OfCategory, OfEmbedder, OfGallery

app = typer.Typer()

FORMATS = ("csv", "json", "latex", "markdown", "hf")


@app.command()
def export(
    folders: Folders,
    format: Annotated[
        str, typer.Option("--format", "-f", help="csv, json, latex, markdown, or hf: model-index of the Hub.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, in place of stdout; with hf a new folder.", show_default=False),
    ] = None,
    gallery: OfGallery = "",
    embedder: OfEmbedder = "",
    category: OfCategory = "",
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="Only this column: mAP, AUC, … Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Write the board as a table: scores with 95 % intervals, ranks and their ranges, anchors, what runs declare.

    Example: finer-rank export leaderboard/records --format latex --embedder dinov2 -m mAP -m AUC --out board.tex
    """
    import sys

    from galleries.console import note, say
    from galleries.errors import FinerRankError
    from galleries.image_set import new_folder
    from leaderboard import exports
    from leaderboard.results import choose_boards, choose_embedders, read_results
    from leaderboard.standings import CARDS

    one_of("--format", format, FORMATS)
    for name in metric or []:
        one_of("--metric", name, tuple(card.key for card in CARDS))
    if format == "hf" and out is None:
        raise FinerRankError("--format hf: writes a file for each model; name a folder with --out")
    cards = [card for card in CARDS if not metric or card.key in metric]
    bundles, notes = read_results(folders)
    boards = choose_boards(bundles, gallery, category)
    tables = [
        exports.Table(board, each, category, board.standings(each.fingerprint, category))
        for board, each in choose_embedders(boards, embedder)
    ]
    tables = [table for table in tables if table.rows]
    if not tables:
        raise FinerRankError(f"--category {category}: no result of --embedder {embedder} has it; leave one of them out")
    if format == "hf":
        files = exports.model_cards(tables, cards)
        if not files:
            raise FinerRankError(f"{folders[0]}: no model has a score to export; name complete runs")
        assert out is not None
        with new_folder(out) as partial:
            for name, text in files.items():
                exports.write_text(text, partial / name)
        say(f"{out}: {len(files)} model cards")
    else:
        write = {"csv": exports.as_csv, "json": exports.as_json, "latex": exports.as_latex,
                 "markdown": exports.as_markdown}[format]  # fmt: skip
        text = write(tables, cards)
        if out is None:
            sys.stdout.write(text)
        else:
            exports.write_text(text, out)
            say(str(out))
    if format not in ("csv", "json"):
        notes += [
            f"left out: {row.model}: {', '.join(row.flags)}" for table in tables for row in table.standings.incomplete
        ]
    for line in dict.fromkeys(notes):
        note(f"note: {line}")
