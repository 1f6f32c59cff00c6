"""The curve of a training: the step to pick, the table on disk, and the picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import Cli, Refusal, rows_of, write_rows
from matplotlib.figure import Figure
from test_plots import covered, texts_of

import benchmark.training_curve_plot
from benchmark.training_curve import ScoredStep, TrainingCurve
from benchmark.training_curve_plot import draw_training_curves
from galleries.errors import FinerRankError
from galleries.figures import save_figure

Steps = tuple[tuple[int, float, float | None], ...]
LEARNING: Steps = ((0, 0.2, 0.30), (10, 0.6, 0.29), (20, 0.6, 0.30), (30, 0.9, 0.20))


def curve(*steps: tuple[int, float, float | None], identity: str = "rex") -> TrainingCurve:
    scored = tuple(ScoredStep(step, m_ap, 0.7, 0.5, clip_t, 4) for step, m_ap, clip_t in steps)
    return TrainingCurve(identity, "zoo 1", "dinov2", "clip", "abc", 0.25, 0.75, scored)


def test_of_the_steps_whose_prompts_work_that_of_the_highest_map_is_picked() -> None:
    found = curve(*LEARNING)
    assert found.best().scored.step == 10
    assert found.best().reason == (
        "step 10: highest mAP (0.600) of the 3 of 4 steps that keep 95% of step 0’s CLIP-T"
    )  # fmt: skip
    assert found.best(prompts_kept=0.5).scored.step == 30
    assert found.best(prompts_kept=1).scored.step == 20
    assert curve((0, 0.2, -0.30), (10, 0.6, -0.29), (20, 0.9, -0.4)).best().scored.step == 10
    assert curve((0, 0.9, None), (10, 0.6, None)).best().scored.step == 0
    for share in (0, 1.1, float("nan")):
        with pytest.raises(FinerRankError, match="out of range"):
            found.best(share)
    with pytest.raises(FinerRankError, match="no step is scored yet"):
        curve().best()


def test_a_curve_comes_back_from_its_table_as_it_was(tmp_path: Path) -> None:
    for name, steps in (("a", LEARNING), ("b", ((0, 1 / 3, None),))):
        written = curve(*steps, identity="re,x")
        written.write(tmp_path / name / "curve.csv")
        assert TrainingCurve.read(tmp_path / name / "curve.csv") == written
        assert [path.name for path in (tmp_path / name).iterdir()] == ["curve.csv"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("mAP", "nan", "curve.csv row 2: mAP 'nan'; name a curve.csv"),
        ("mAP", "1.5", "row 2: mAP '1.5'"),
        ("AUC", "", "row 2: AUC ''"),
        ("step", "-3", "row 2: step '-3'"),
        ("step", "0", "row 2: step 0 after 0"),
        ("identity", "tom", "row 2: of another curve than the row before"),
    ],
)
def test_a_table_that_is_no_curve_is_refused(
    tmp_path: Path, refusal: Refusal, column: str, value: str, message: str
) -> None:
    curve(*LEARNING[:2]).write(tmp_path / "metadata.csv")
    rows = rows_of(tmp_path)
    rows[1][column] = value
    path = write_rows(tmp_path / "curve.csv", rows)
    assert message in refusal("plot", "training", path, "--out", tmp_path / "curve.svg")
    assert not (tmp_path / "curve.svg").exists()


def test_other_files_and_names_are_refused(tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "curve.csv"
    assert "no such file" in refusal("plot", "training", path, "--out", tmp_path / "curve.svg")
    curve(*LEARNING).write(path)
    assert "no picture format" in refusal("plot", "training", path, "--out", tmp_path / "curve.txt")
    out = ("--out", tmp_path / "curve.svg")
    assert "0: out of range; write 0.95" in refusal("plot", "training", path, *out, "--prompts-kept", 0)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0])
    assert "holds no step" in refusal("plot", "training", path, *out)
    path.write_text("step,mAP\n0,0.5\n")
    result = refuse_many(lambda: TrainingCurve.read(path))
    assert "no column 'AUC'" in result


def refuse_many(read: Callable[[], object]) -> str:
    with pytest.raises(FinerRankError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_curves_are_drawn_and_the_step_to_pick_is_said(tmp_path: Path, cli: Cli, ending: str) -> None:
    curve(*LEARNING).write(tmp_path / "rex.csv")
    curve((0, 0.3, None), (50, 0.5, None), identity="$x^2$ <script>").write(tmp_path / "other.csv")
    out = tmp_path / f"curve.{ending}"
    done = cli("plot", "training", tmp_path / "rex.csv", tmp_path / "other.csv", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert f"note: {tmp_path / 'rex.csv'}: step 10: highest mAP (0.600) of the 3 of 4 steps" in done.stderr
    content = out.read_bytes()
    cli("plot", "training", tmp_path / "rex.csv", tmp_path / "other.csv", "--out", out)
    assert out.read_bytes() == content
    if ending == "svg":
        texts = texts_of(out)
        assert {"chance", "held-out photos", "step to pick", "mAP", "CLIP-T", "rex", "$x^2$ <script>"} <= set(texts)
        assert "steps of training (picked: 10)" in texts


@pytest.mark.parametrize(("n", "has_prompts"), [(1, True), (1, False), (2, True), (4, True)])
def test_nothing_covers_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, has_prompts: bool) -> None:
    figures: list[Figure] = []

    def save(figure: Figure, out: Path, dpi: int) -> None:
        figures.append(figure)
        save_figure(figure, out, dpi)

    monkeypatch.setattr(benchmark.training_curve_plot, "save_figure", save)
    steps = [(step, m_ap, clip_t if has_prompts else None) for step, m_ap, clip_t in LEARNING]
    draw_training_curves([curve(*steps, identity="W" * 40)] * n, tmp_path / "curve.png")
    [figure] = figures
    assert not covered(figure)
