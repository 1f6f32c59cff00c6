"""`finer-rank plot`: pictures that are drawn, hold what the records hold, and of which nothing covers another."""

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from boards import HOSTILE, finer, refused, write_board, write_models, write_records
from handmade import lacking
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import leaderboard.board_plots
from benchmark.report import ANCHOR_NAMES
from galleries.figures import save_figure
from leaderboard.board_plots import COLUMN_INCHES, Panel, draw_board, frontier, paper_style
from leaderboard.standings import CARDS, Embedder, Row, Standings

MANY = [
    "painter", HOSTILE, "модель", "雪豹モデル", "نموذج شخصي", "$x^2$", "W" * 200, "a\u202eb\n", "雪" * 50,
    *(f"control step {n} with prior preservation" for n in range(36)),
]  # fmt: skip


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_board(tmp_path_factory.mktemp("board"))


def plot(*arguments: object) -> str:
    """What is said on stderr."""
    code, said, err = finer("plot", *arguments)
    assert code == 0, err
    assert said.strip() == str(arguments[-1])
    return err


def texts_of(svg: Path) -> list[str]:
    root = ElementTree.fromstring(svg.read_bytes())
    assert not [element.tag for element in root.iter() if "script" in str(element.tag).lower()]
    return ["".join(element.itertext()) for element in root.iter() if str(element.tag).endswith("}text")]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved while the test runs."""
    found: list[Figure] = []

    def save(figure: Figure, out: Path, dpi: int) -> None:
        found.append(figure)
        save_figure(figure, out, dpi)

    monkeypatch.setattr(leaderboard.board_plots, "save_figure", save)
    return found


def covered(figure: Figure) -> list[tuple[str, str]]:
    """Texts that lie upon each other or leave the page."""
    figure.draw_without_rendering()
    axes = [axis for ax in figure.axes if ax.axison for axis in (ax.xaxis, ax.yaxis)]
    axes_off = [label for ax in figure.axes if not ax.axison for axis in (ax.xaxis, ax.yaxis)
                for label in axis.get_ticklabels()]  # fmt: skip
    beyond = [
        label
        for axis in axes
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    hidden = {id(text) for text in (*beyond, *axes_off)}  # what matplotlib holds and does not draw
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    page = figure.bbox
    outside = [(text, "page") for text, box in boxes if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1]
    pairs = itertools.combinations(boxes, 2)
    return outside + [(a, b) for (a, one), (b, other) in pairs if one.padded(-2).overlaps(other.padded(-2))]


@pytest.mark.parametrize("n", [1, 3, 12, 45])
@pytest.mark.parametrize("kind", ["board", "pareto"])
@pytest.mark.filterwarnings("ignore:Glyph")  # boxes are drawn for letters that no font here has
def test_nothing_covers_another_text_in_a_column_of_a_paper(
    kind: str, n: int, board: Path, tmp_path: Path, figures: list[Figure]
) -> None:
    models = write_models(board, tmp_path / "models", MANY[:n])
    plot(kind, models, "--out", tmp_path / "out.png")
    (figure,) = figures
    assert figure.get_size_inches()[0] == COLUMN_INCHES
    assert covered(figure) == []
    with Image.open(tmp_path / "out.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_all_that_a_legend_can_hold_fits_into_the_column(tmp_path: Path, figures: list[Figure]) -> None:
    def row(name: str, bundle: str, is_tied: bool) -> Row:
        score = {"value": 0.5, "low": 0.4, "high": 0.6}
        return Row(name, bundle, 1, (1, 45), is_tied, {"mAP": score}, flags=("copies",))

    models = (row("one", "one", True), row("two", "two", False))
    anchors = [row(shown, "", False) for name, shown in ANCHOR_NAMES.items() if name != "class_only"]
    standings = Standings(models, (*anchors, row("class only: x", "x", False)), (), True)
    embedder = Embedder("open_clip:hf-hub:imageomics/bioclip-2", "0" * 64, "same data set family")
    with paper_style([]):
        draw_board(
            [Panel(embedder, standings)], CARDS[0], "a gallery of a long name 1, and a category", tmp_path / "a.png"
        )
        assert covered(figures[0]) == []


@pytest.mark.parametrize("kind", ["board", "pareto"])
def test_long_names_are_still_told_apart(kind: str, board: Path, tmp_path: Path) -> None:
    names = [f"control step {n} with prior preservation and more" for n in range(12)]
    plot(kind, write_models(board, tmp_path / "models", names), "--out", tmp_path / "out.svg")
    assert len({text for text in texts_of(tmp_path / "out.svg") if text.startswith("cont")}) == 12


def test_a_board_draws_scores_intervals_and_anchors_where_the_records_say(
    board: Path, tmp_path: Path, figures: list[Figure]
) -> None:
    plot("board", board, "-e", "classical:", "--out", tmp_path / "board.svg")
    ax = figures[0].axes[0]
    names = [label.get_text().replace(r"\$", "$") for label in ax.get_yticklabels()]
    drawn = {}
    for container in ax.containers:
        point, _, (bars,) = container.lines
        ((x,), (place,)) = point.get_data()
        ((low, _), (high, _)) = bars.get_segments()[0]
        drawn[names[place]] = (x, low, high)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in board.glob("*/records/cl*/record.json")]
    for record in records:
        estimate = tuple(record["scores"]["mAP"][key] for key in ("value", "low", "high"))
        if record["run"]["name"] in drawn:
            assert drawn[record["run"]["name"]] == pytest.approx(estimate)
    assert {"painter", "модель 雪"} <= drawn.keys()
    assert [x for x, _, _ in (drawn[name] for name in names)] == sorted((x for x, _, _ in drawn.values()), reverse=True)
    lines = {round(float(line.get_xdata()[0]), 9) for line in ax.lines if len(set(line.get_xdata())) == 1}
    anchors = [each["mAP"]["value"] for each in records[0]["gallery_anchors"].values()]
    assert {round(value, 9) for value in anchors} <= lines


@pytest.mark.parametrize("kind", ["board", "pareto", "agreement"])
@pytest.mark.parametrize("ending", [".svg", ".pdf", ".png"])
def test_the_same_records_give_the_same_bytes(kind: str, ending: str, board: Path, tmp_path: Path) -> None:
    options = ["--against", "similarity"] if kind == "pareto" else []
    drawn = []
    for number, folders in enumerate(([board], sorted(board.iterdir(), reverse=True))):
        out = tmp_path / f"{number}{ending}"
        plot(kind, *folders, *options, "--out", out)
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1]
    if ending == ".svg":
        assert texts_of(out)
    else:
        assert drawn[0].startswith(b"%PDF-" if ending == ".pdf" else b"\x89PNG")
    if ending == ".pdf":
        assert b"/Type3" not in drawn[0].replace(b" ", b"")


def test_names_are_text_in_an_svg_whatever_they_hold(board: Path, tmp_path: Path) -> None:
    names = ["painter", "$x^2$ & 50% <script>", "модель 雪", "نموذج", "a\u202eb", "\ud800"]
    models = write_models(board, tmp_path / "models", names)
    assert "note: no font" not in plot("board", models, "--out", tmp_path / "board.svg")
    texts = texts_of(tmp_path / "board.svg")
    assert {"painter", "$x^2$ & 50% <script>", "модель 雪", "نموذج", r"a\u202eb", r"\ud800"} <= set(texts)
    assert "copied reference" in texts


def test_there_is_a_panel_for_each_encoder(board: Path, tmp_path: Path) -> None:
    plot("board", board, "--out", tmp_path / "both.svg")
    texts = texts_of(tmp_path / "both.svg")
    assert texts.count("painter") == 2
    assert {"classical", "critter-reid"} <= set(texts)
    plot("board", board, "--embedder", "critter-reid", "--out", tmp_path / "one.svg")
    assert texts_of(tmp_path / "one.svg").count("painter") == 1


def test_models_that_are_tied_with_the_best_are_marked_and_ranks_are_ranges(board: Path, tmp_path: Path) -> None:
    said = plot("board", board, "-e", "classical:", "--out", tmp_path / "board.svg")
    texts = texts_of(tmp_path / "board.svg")
    assert texts.count("1–3") == 3  # five identities cannot tell models apart
    assert "tied with the best" in texts
    assert "worse than the best" not in texts
    assert "too few identities" in said


def test_an_incomplete_run_is_left_out_with_a_note(board: Path, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        if summary["run"]["name"] == "painter":
            summary["n_photos_left_out"] = 1

    records = write_records(board, tmp_path / "records", change)
    assert "left out: painter: 1 photos left out" in plot("board", records, "--out", tmp_path / "board.svg")
    assert "painter" not in texts_of(tmp_path / "board.svg")
    alone = [path for path in records.iterdir() if json.loads((path / "record.json").read_text())["n_photos_left_out"]]
    line = refused("plot", "board", *alone, "--out", tmp_path / "none.svg")
    assert not lacking(line, "painter is incomplete", "whole gallery")
    assert not (tmp_path / "none.svg").exists()


def test_the_frontier_is_of_the_models_that_no_other_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = {str(i): (float(x), float(y)) for i, (x, y) in enumerate(rng.integers(0, 6, (12, 2)))}
        by_hand = {
            name
            for name, (x, y) in points.items()
            if not any(u >= x and v >= y and (u, v) != (x, y) for u, v in points.values())
        }
        found = frontier(points)
        assert set(found) == by_hand
        assert [points[name][0] for name in found] == sorted(points[name][0] for name in found)


def test_similarity_is_drawn_with_its_rank_correlation(board: Path, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:  # the most similar has the lowest mAP, and so on
        summary["pairwise_similarity"]["value"] = 1 - summary["scores"]["mAP"]["value"]

    records = write_records(board, tmp_path / "records", change)
    plot("pareto", records, "--against", "similarity", "-e", "classical:", "--out", tmp_path / "out.svg")
    texts = texts_of(tmp_path / "out.svg")
    assert "Spearman’s ρ = -1.00, 3 models" in texts
    assert "similarity to own reference" in texts
    assert "frontier" not in texts


def test_models_whose_clip_t_is_by_another_encoder_are_left_out(board: Path, tmp_path: Path) -> None:
    models = write_models(board, tmp_path / "models", ["one", "two", "three"])
    path = models / "1" / "record.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["prompt_fidelity"]["embedder"] = "siglip"
    path.write_text(json.dumps(summary), encoding="utf-8")
    assert "left out: two: not measured as the others" in plot("pareto", models, "--out", tmp_path / "out.svg")
    assert {"one", "three", "CLIP-T by clip"} <= set(texts_of(tmp_path / "out.svg")) - {"two"}


def test_what_cannot_be_drawn_is_refused_in_one_line(board: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.svg"
    assert not lacking(refused("plot", "pareto", board, "--out", out), "clip_t", "evaluate --clip-t")
    assert not lacking(refused("plot", "board", board, "--out", tmp_path / "out.doc"), "out.doc", ".svg")
    assert not lacking(refused("plot", "board", board, "--metric", "x", "--out", out), "--metric x", "AUC")
    assert not lacking(refused("plot", "board", tmp_path / "none", "--out", out), "none", "no such folder")
    one = write_models(board, tmp_path / "models", ["one"])
    assert not lacking(refused("plot", "agreement", one, "--out", out), "classical", "another one")
    other = write_records(board, tmp_path / "other", lambda summary: summary["gallery"].update(name="farm"))
    line = refused("plot", "board", board, other, "--out", out)
    assert not lacking(line, "2 galleries", "'farm 1'", "'zoo 1'", "--gallery")
    assert not out.exists()
    plot("board", board, other, "--gallery", "farm 1", "--out", out)
    assert "farm 1" in texts_of(out)


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_an_ablation_is_drawn_again_from_what_was_saved(ending: str, board: Path, tmp_path: Path) -> None:
    ablate = ["ablate", "--gallery", board.parent / "zoo", "-e", "classical:", "--grid", "2x1,2x2", "--draws", "3"]
    code, said, err = finer(*ablate, "--json", "--out", tmp_path / "shape.csv", "--plot", tmp_path / "first.png")
    assert code == 0, err
    (tmp_path / "shape.json").write_text(said, encoding="utf-8")
    plot("ablation", tmp_path / f"shape{ending}", "--out", tmp_path / "again.svg")
    texts = texts_of(tmp_path / "again.svg")
    assert {"mAP", "AUC by chance"} <= set(texts)
    assert any(text.startswith("zoo, classical:" if ending == ".json" else "shape, mean of 3 draws") for text in texts)


@pytest.mark.parametrize(
    ("name", "content", "mentions"),
    [
        ("a.json", "{}", ("a.json", "cells", "missing")),
        ("a.json", '{"gallery": "zoo", "embedder": "x", "cells": []}', ("holds no cell",)),
        ("a.json", "[", ("a.json", "not readable as JSON")),
        ("a.csv", "cell,mAP\n2x1,2.5\n", ("a.csv", "finer-rank ablate")),
        ("a.txt", "", ("neither .json nor .csv",)),
    ],
)
def test_what_ablate_did_not_write_is_refused(
    name: str, content: str, mentions: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    code, said, err = finer("plot", "ablation", tmp_path / name, "--out", tmp_path / "out.png")
    assert (code, said) == (2, "")
    assert not lacking(err, *mentions)
    assert not (tmp_path / "out.png").exists()
