"""`finer-rank export`: what stands in a table is what stands in the records, whoever named them."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from boards import HOSTILE, NAMES, finer, refused, write_board, write_models, write_records
from handmade import lacking
from huggingface_hub import ModelCard
from pytest import approx

from leaderboard.exports import latex_text, markdown_text


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_board(tmp_path_factory.mktemp("board"))


def export(*arguments: object) -> str:
    code, said, err = finer("export", *arguments)
    assert code == 0, err
    return said


def summaries(board: Path) -> dict[tuple[str, str], Any]:
    """(model, fingerprint of the encoder) → record.json."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in board.glob("*/records/*/record.json")]
    return {(each["run"]["name"], each["embedder"]["fingerprint"]): each for each in read}


def test_csv_holds_the_numbers_of_the_records_in_full(board: Path) -> None:
    table = pd.read_csv(io.StringIO(export(board, "--format", "csv")), keep_default_na=False)
    models = table[table["kind"] == "model"]
    known = {key: each for key, each in summaries(board).items() if key[0] in NAMES}
    assert len(models) == len(known) == 6
    for row in models.to_dict("records"):
        record = known[row["model"], row["embedder_fingerprint"]]
        for metric, estimate in record["scores"].items():
            for column, bound in ((metric, "value"), (f"{metric}_low", "low"), (f"{metric}_high", "high")):
                assert float(row[column]) == estimate[bound], column
        assert row["similarity_to"] == record["pairwise_similarity"]["to"]
        assert float(row["similarity"]) == record["pairwise_similarity"]["value"]
        assert (int(row["n_queries"]), int(row["n_identities"])) == (15, 5)
        assert [row[field] for field in ("method", "authors")] == ["lora", "A. B."]
    for _, own in models.groupby("embedder"):
        assert own["mAP"].astype(float).is_monotonic_decreasing
        assert own["rank"].astype(int).tolist() == [1, 2, 3]
        assert own["tied_with_best"].iloc[0] == "true"
        assert (own["rank_best"].astype(int) <= own["rank"].astype(int)).all()
    assert set(table[table["kind"] == "anchor"]["model"]) == {
        "chance", "class only: untuned", "copied reference", "held-out photos",
    }  # fmt: skip


def test_json_says_the_same_as_csv_and_holds_no_nan(board: Path) -> None:
    def no_constant(name: str) -> float:
        raise AssertionError(name)

    document = json.loads(export(board, "--format", "json"), parse_constant=no_constant)
    table = pd.read_csv(io.StringIO(export(board, "--format", "csv")), keep_default_na=False)
    rows = [
        (each["embedder"], kind, row)
        for each in document["boards"]
        for kind in ("rows", "anchors", "incomplete")
        for row in each[kind]
    ]
    assert [(spec, row["model"]) for spec, _, row in rows] == list(zip(table["embedder"], table["model"], strict=True))
    for (_, _, row), line in zip(rows, table.to_dict("records"), strict=True):
        value = row["scores"]["AUC"]["value"]
        assert value == float(line["AUC"])
        assert row.get("rank") == (int(line["rank"]) if line["rank"] else None)


def test_records_that_are_not_published_give_the_same_rows(board: Path, tmp_path: Path) -> None:
    records = write_records(board, tmp_path / "records", lambda summary: summary.pop("copy_rate"))
    published, own = (json.loads(export(folder, "--format", "json")) for folder in (board, records))

    def core(document: Any) -> Any:
        return [
            (row["model"], row["rank"], row["rank_range"], row["scores"]["mAP"])
            for each in document["boards"]
            for row in each["rows"]
        ]

    assert core(published) == core(own)


def test_a_category_has_its_own_scores(board: Path) -> None:
    document = json.loads(export(board, "--format", "json", "--category", "dogs"))
    known = summaries(board)
    for each in document["boards"]:
        for row in each["rows"]:
            part = known[row["model"], each["embedder_fingerprint"]]["categories"]["dogs"]
            assert row["scores"]["mAP"] == part["mAP"]
            assert row["n_identities"] == 2
            assert row["scores"]["similarity"] is None


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_is_given_no_formula(start: str, board: Path, tmp_path: Path) -> None:
    name = f'{start}HYPERLINK("http://a")'
    models = write_models(board, tmp_path / "models", [name])
    out = tmp_path / "table.csv"
    export(models, "--format", "csv", "--out", out)
    table = pd.read_csv(out, keep_default_na=False)
    assert table["model"].tolist()[0] == f"'{name}"
    assert float(table["mAP"][0]) == approx(0.5)


LATEX = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\char34{}": '"', r"\textasciigrave{}": "`", "{[}": "[", "{]}": "]",
    "{*}": "*", r"$\dagger$": "†", "-{}-": "--", **{"\\" + c: c for c in "{}&%$#_"},
}  # fmt: skip


def as_set(text: str) -> str:
    """What LaTeX sets: its commands are read back, and nothing else may be special."""
    pattern = "|".join(re.escape(each) for each in sorted(LATEX, key=len, reverse=True))
    rest = re.sub(pattern, "", text)
    assert not set(rest) & set('\\{}&%$#_~^[]*`<>|"'), rest
    return re.sub(pattern, lambda found: LATEX[found[0]], text)


@pytest.mark.parametrize(
    "name", [HOSTILE, r"\end{document}", "a--b", "^^41", 'say "x"', "$$", "\\", "50%", "x" * 200, "雪", "!`?`"]
)
def test_latex_sets_a_name_as_it_is(name: str) -> None:
    assert as_set(latex_text(name)) == name


def test_latex_shows_control_characters_and_direction_marks_by_their_numbers() -> None:
    assert as_set(latex_text("a\nb\u202ec")) == r"a\nb\u202ec"


def test_a_latex_table_is_one_for_booktabs_with_bold_best(board: Path) -> None:
    said = export(board, "--format", "latex", "-e", "classical:", "-m", "mAP", "-m", "AUC")
    assert said.count(r"\begin{table*}") == 1
    caption = said[said.index(r"\caption{") : said.index(r"\begin{tabular}")]
    assert not lacking(caption, "Gallery zoo, version 1", "classical", "protocol 1", "5 identities", "15 queries")
    body = said[said.index(r"\toprule") : said.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    models = [line for line in rows if re.match(r"\d", line)]
    table = pd.read_csv(io.StringIO(export(board, "--format", "csv", "-e", "classical:")), keep_default_na=False)
    for line, row in zip(models, table[table["kind"] == "model"].to_dict("records"), strict=True):
        assert as_set(line.split(" & ")[1] if row["model"] != HOSTILE else latex_text(HOSTILE)) == row["model"]
        value, low, high = (f"{float(row[column]):.3f}" for column in ("mAP", "mAP_low", "mAP_high"))
        assert f"_{{{low}}}^{{{high}}}$" in line
        assert (rf"$\mathbf{{{value}}}_" in line) == (row["tied_with_best"] == "true")
    assert r"\input" not in said


def test_long_names_stay_apart_in_latex(board: Path, tmp_path: Path) -> None:
    models = write_models(board, tmp_path / "models", ["a" * 199 + end for end in "xy"])
    rows = [line for line in export(models, "--format", "latex").splitlines() if "aaa" in line]
    names = {row.split(" & ")[1] for row in rows}
    assert len(names) == 2
    assert max(map(len, names)) < 80


def test_markdown_shows_a_name_as_it_is(board: Path) -> None:
    said = export(board, "--format", "markdown", "-e", "critter-reid", "-m", "mAP")
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert "<script>" not in said
    assert markdown_text(HOSTILE) in said
    assert markdown_text("a\n| b") == r"a\\n\| b"
    assert "| *held-out photos* | " in said


def test_similarities_of_two_kinds_share_no_column(board: Path, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        if summary["run"]["name"] == "painter":
            summary["pairwise_similarity"]["to"] = "all_references"

    records = write_records(board, tmp_path / "records", change)
    said = export(records, "--format", "markdown", "-e", "classical:", "-m", "similarity")
    header = next(line for line in said.splitlines() if line.startswith("| rank"))
    assert header == "| rank | model | similarity to all references | similarity to own reference |"
    (painter,) = (line for line in said.splitlines() if "| painter |" in line)
    assert painter.split(" | ")[3].strip(" |") == "–"


def test_model_cards_are_what_the_hub_reads(board: Path, tmp_path: Path) -> None:
    assert "3 model cards" in export(board, "--format", "hf", "--out", tmp_path / "cards", "-m", "mAP", "-m", "AUC")
    known = summaries(board)
    models = set()
    for path in (tmp_path / "cards").iterdir():
        card = ModelCard.load(path).data
        models.add(card.model_name)
        assert len(card.eval_results) == 4  # two encoders, two metrics
        for result in card.eval_results:
            record = known[card.model_name, result.dataset_args["embedder_fingerprint"]]
            estimate = record["scores"][result.metric_type]
            assert result.metric_value == estimate["value"]
            assert result.metric_args == {"confidence": 0.95, "low": estimate["low"], "high": estimate["high"]}
            assert (result.dataset_type, result.dataset_revision) == ("zoo", "1")
        (index,) = yaml.safe_load(path.read_text(encoding="utf-8").strip("-\n"))["model-index"]
        assert len(index["results"]) == 2
    assert models == set(NAMES)
    assert not lacking(refused("export", board, "-f", "hf", "--out", tmp_path / "cards"), "cards", "exists")


@pytest.mark.parametrize("format", ["csv", "json", "latex", "markdown"])
def test_the_same_records_give_the_same_bytes_in_any_order(format: str, board: Path, tmp_path: Path) -> None:
    first = export(board, "--format", format)
    out = tmp_path / "out"
    export(*sorted(board.iterdir(), reverse=True), "--format", format, "--out", out)
    assert out.read_text(encoding="utf-8") == first
    assert "nan" not in first.lower()


def test_an_incomplete_run_has_no_rank(board: Path, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        if summary["run"]["name"] == "painter":
            summary["n_images_left_out"] = 2

    records = write_records(board, tmp_path / "records", change)
    table = pd.read_csv(io.StringIO(export(records, "--format", "csv")), keep_default_na=False)
    painters = table[table["model"] == "painter"]
    assert set(zip(painters["kind"], painters["rank"], painters["flags"], strict=True)) == {
        ("incomplete", "", "2 images left out")
    }
    code, said, err = finer("export", records, "--format", "markdown")
    assert (code, "painter" in said) == (0, False)
    assert "left out: painter: 2 images left out" in err


def test_what_cannot_be_exported_is_refused_in_one_line(board: Path, tmp_path: Path) -> None:
    assert not lacking(refused("export", board, "-f", "xls"), "--format xls", "csv, json")
    assert not lacking(refused("export", board, "-f", "csv", "-g", "zoos"), "--gallery zoos", "'zoo 1'")
    assert not lacking(refused("export", board, "-f", "csv", "-e", "dino"), "--embedder dino", "'classical'")
    assert not lacking(refused("export", board, "-f", "csv", "--category", "cows"), "cows", "'cats', 'dogs'")
    assert not lacking(refused("export", board, "-f", "csv", "-m", "map"), "--metric map", "mAP")
    assert not lacking(refused("export", board, "-f", "hf"), "--out")
    assert not lacking(refused("export", tmp_path, "-f", "csv"), str(tmp_path), "holds no bundle")
    nowhere = tmp_path / "no" / "out.csv"
    assert not lacking(refused("export", board, "-f", "csv", "--out", nowhere), "out.csv", "cannot be written")


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        (lambda s: s["scores"]["mAP"].update(value=float("nan")), ("record.json", "NaN")),
        (lambda s: s["scores"].update(mAP=None), ("scores.mAP", "null", "evaluate again")),
        (lambda s: s.pop("gallery_anchors"), ("gallery_anchors", "missing")),
    ],
)
def test_a_damaged_record_is_refused(change: Any, mentions: tuple[str, ...], board: Path, tmp_path: Path) -> None:
    first = sorted(write_records(board, tmp_path / "records", change).iterdir())[0]
    assert not lacking(refused("export", first, "-f", "csv"), str(first), *mentions)


def test_runs_of_one_name_are_told_apart_or_refused(board: Path, tmp_path: Path) -> None:
    other = write_records(board, tmp_path / "records", lambda summary: summary["run"].update(name="one"))
    assert not lacking(refused("export", other, "-f", "csv"), "'one'", "rename one of them")
    twice = [write_records(board, tmp_path / name) for name in ("first", "second")]
    assert not lacking(refused("export", *twice, "-f", "csv"), "of one run under one encoder", "name each run once")


def test_records_of_a_part_of_the_picture_are_left_out(board: Path, tmp_path: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        if summary["run"]["name"] == "painter":
            summary["region"] = "subject"

    code, said, err = finer("export", write_records(board, tmp_path / "records", change), "-f", "csv")
    assert (code, "painter" in said) == (0, False)
    assert "a board is of full pictures" in err
