"""2AFC against principal components: planted rules, scikit-learn as the oracle."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import Cli, Refusal
from hypothesis import given
from hypothesis import strategies as st
from judged_pictures import write_triplets
from perceiving import coarse, judged, patchwork, save, seeing
from pytest import approx
from sklearn.decomposition import PCA

from benchmark.distances import Resources
from benchmark.distances.embeddings import EmbeddingDistance
from benchmark.embedders import Embedder
from benchmark.human_agreement.compared import distances_of
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.judgements import Judgement, Judgements
from benchmark.perception.dimensions import folds_of, measure_dimensions


def red_and_green(pixels: torch.Tensor) -> torch.Tensor:
    """Red and green strongly, and blue a little in eight dimensions that make up for it together."""
    means = pixels.mean(dim=(2, 3)) - 0.5
    blue = means[:, 2:] * torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]) * 0.02
    return torch.cat([torch.ones(len(pixels), 1), 0.1 * means[:, :2], blue], dim=1)


@pytest.fixture(scope="module")
def plain_colours(tmp_path_factory: pytest.TempPathFactory) -> Judgements:
    """Triplets of plain colours that somebody judges by red and green alone."""
    folder = tmp_path_factory.mktemp("plain")
    random = np.random.default_rng(0)
    rows = []
    while len(rows) < 60:
        colours = random.integers(0, 256, (3, 3))
        to_a, to_b = (np.linalg.norm((colours[0] - colours[i])[:2]) for i in (1, 2))
        if abs(to_a - to_b) < 30:
            continue
        names = [f"{len(rows)}-{i}" for i in range(3)]
        for name, colour in zip(names, colours, strict=True):
            save(np.broadcast_to(colour, (4, 4, 3)), folder / f"{name}.png")
        rows.append((names, float(to_b < to_a), f"target {len(rows) % 20}"))
    return judged(folder, rows)


@pytest.fixture
def resources(store: Path) -> Resources:
    return Resources(store)


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    return seeing(tmp_path, red_and_green, px=8)


def test_a_rule_of_two_dimensions_is_met_in_full_by_two(
    plain_colours: Judgements, embedder: Embedder, resources: Resources
) -> None:
    found = measure_dimensions(folds_of(plain_colours.rows), embedder, resources)
    score = {step.n_kept: step.score.value for step in found.steps}
    assert score[1] < 0.9
    assert score[2] == 1.0
    assert score[None] < 1.0
    assert found.steps[1].against_all.value == approx(1 - score[None])


def test_scores_are_those_of_components_by_scikit_learn(tmp_path: Path, resources: Resources) -> None:
    fitted = [save(patchwork(seed), tmp_path / f"other-{seed}.png") for seed in range(30)]
    rows = []
    for i in range(25):
        for place in range(3):
            save(patchwork(100 + 3 * i + place), tmp_path / f"{i}-{place}.png")
        rows.append(([f"{i}-{place}" for place in range(3)], (i % 4) / 3, str(i)))
    given_ = judged(tmp_path, rows)
    embedder = seeing(tmp_path, coarse)
    found = measure_dimensions(folds_of(given_.rows, fitted), embedder, resources)
    pca = PCA(svd_solver="full").fit(embedder.embed(fitted).astype(np.float64))
    assert [step.n_kept for step in found.steps] == [1, 2, 4, 8, 16, 29, None]
    for step in found.steps[:-1]:
        scores = []
        for row in given_.rows:
            reference, a, b = pca.transform(embedder.embed(row.images).astype(np.float64))[:, : step.n_kept]
            b_is_nearer = np.linalg.norm(reference - b) < np.linalg.norm(reference - a)
            scores.append(row.answer if b_is_nearer else 1 - row.answer)
        assert step.score.value == approx(np.mean(scores))
        assert step.variance == approx(pca.explained_variance_ratio_[: step.n_kept].sum())


def test_all_dimensions_agree_as_the_embedders_own_distance(
    plain_colours: Judgements, embedder: Embedder, resources: Resources
) -> None:
    found = measure_dimensions(folds_of(plain_colours.rows), embedder, resources)
    to = distances_of(plain_colours, EmbeddingDistance(embedder), resources)
    answers = np.array([row.answer for row in plain_colours.rows])
    assert found.steps[-1].score.value == approx(two_afc_scores(to[:, 0], to[:, 1], answers).mean())


def test_the_order_of_judgements_moves_no_number(
    plain_colours: Judgements, embedder: Embedder, resources: Resources
) -> None:
    one, other = (
        asdict(measure_dimensions(folds_of(rows), embedder, resources))
        for rows in (plain_colours.rows, plain_colours.rows[::-1])
    )
    assert one == other


@given(
    st.lists(
        st.tuples(st.tuples(*[st.integers(0, 9)] * 3), st.integers(0, 3), st.sampled_from(["train", "test", ""])),
        min_size=2,
        max_size=20,
    )
)
def test_no_image_is_judged_under_components_that_it_was_fitted_for(
    drawn: list[tuple[tuple[int, int, int], int, str]],
) -> None:
    rows = [Judgement(tuple(Path(f"{i}.png") for i in images), 0.0, str(t), split=s) for images, t, s in drawn]
    judged_ = [row for row in rows if row.split != "train"] or rows
    if len({row.target for row in judged_}) < 2:
        return
    folds = folds_of(rows)
    for row, fold in zip(folds.rows, folds.fold_of, strict=True):
        assert not set(row.images) & set(folds.fitted[fold])


def test_components_come_from_the_split_train_and_the_others_are_judged(plain_colours: Judgements) -> None:
    rows = [replace(row, split="train" if i < 40 else "test") for i, row in enumerate(plain_colours.rows)]
    folds = folds_of(rows)
    assert folds.rows == tuple(rows[40:])
    assert set(folds.fitted[0]) == {path for row in rows[:40] for path in row.images}


def test_a_copy_under_another_name_is_no_other_image(
    plain_colours: Judgements, embedder: Embedder, resources: Resources, tmp_path: Path
) -> None:
    copies = []
    for path in plain_colours.images:
        copies.append(tmp_path / f"copy-{path.name}")
        copies[-1].write_bytes(path.read_bytes())
    others = [save(patchwork(seed), tmp_path / f"other-{seed}.png") for seed in range(5)]
    folds = folds_of(plain_colours.rows, [*copies, *others])
    assert measure_dimensions(folds, embedder, resources).n_fitted == 5


def test_the_command_prints_and_draws_each_embedder(tmp_path: Path, cli: Cli) -> None:
    table = write_triplets(tmp_path / "drawn", "colour", 12, side=32)
    command = ("perception", "dimensions", table, "-e", "critter-reid", "-e", "classical")
    done = cli(*command, "--json", "--plot", tmp_path / "plot.png")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["embedder"] for each in found] == ["critter-reid", "classical"]
    assert [step["n_kept"] for step in found[0]["steps"]][-1] is None
    assert (tmp_path / "plot.png").stat().st_size > 5_000
    shown = cli(*command)
    assert "all 96" in shown.stdout
    assert "in 5 folds" in " ".join(shown.stdout.split())


def test_what_cannot_be_measured_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    table = write_triplets(tmp_path / "drawn", "colour", 3, side=32)
    rows = table.read_text().splitlines()
    (tmp_path / "drawn" / "one.csv").write_text("\n".join(rows[:2]) + "\n")
    command = ("perception", "dimensions", "-e", "critter-reid")
    assert "intervals are over targets" in refusal(*command, tmp_path / "drawn" / "one.csv")
    assert "besides those judged" in refusal(*command, table, "--fit", tmp_path / "drawn" / "0000-reference.png")
    assert "0 triplets of the split test" in refusal(*command, table, "--split", "test")
