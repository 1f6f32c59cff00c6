"""The torchmetrics class: the same number as the protocol's, inside a training loop."""

import math

import numpy as np
import pytest
import torch
from pytest import approx
from sklearn.metrics import average_precision_score
from torchmetrics import MetricCollection
from torchmetrics.retrieval import RetrievalMAP

from benchmark.metric import GalleryMeanAveragePrecision
from benchmark.scores import GalleryMeanAveragePrecision as SameClass
from benchmark.scores import chance_average_precision

ANIMALS = ["ada", "ben", "cleo", "rex", "fido"]


def drawn(seed: int, n: int, dim: int = 6) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), [ANIMALS[i % len(ANIMALS)] for i in range(n)]


def mean_of_scikit_learn(queries: torch.Tensor, targets: list[str], gallery: torch.Tensor, labels: list[str]) -> float:
    unit_queries, unit_gallery = (
        rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (queries, gallery)
    )
    similarity = (unit_queries @ unit_gallery.T).numpy()
    return float(
        np.mean([average_precision_score(np.array(labels) == t, s) for t, s in zip(targets, similarity, strict=True)])
    )


def test_it_is_the_mean_of_scikit_learns_average_precision_over_all_updates() -> None:
    gallery, labels = drawn(0, 30)
    queries, targets = drawn(1, 12)
    metric = GalleryMeanAveragePrecision(gallery, labels)
    for start in 0, 5, 10:
        metric.update(queries[start : start + 5], targets[start : start + 5])
    assert float(metric.compute()) == approx(mean_of_scikit_learn(queries, targets, gallery, labels), abs=1e-9)


def test_negative_cosines_are_ranked_and_not_taken_for_not_retrieved() -> None:
    gallery = torch.tensor([[-1.0, 0.1], [-1.0, 1.0], [-0.1, -1.0]])
    query = torch.tensor([[1.0, 0.0]])
    metric = GalleryMeanAveragePrecision(gallery, ["ben", "ada", "cleo"])
    metric.update(query, ["ada"])
    assert float(metric.compute()) == 0.5  # second of three
    cosines = torch.nn.functional.cosine_similarity(query, gallery)
    trap = RetrievalMAP()
    trap.update(cosines, torch.tensor([False, True, False]), indexes=torch.zeros(3, dtype=torch.int64))
    assert float(trap.compute()) != 0.5


def test_categories_are_ranked_apart() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    identities, query = ["ada", "rex", "ben"], torch.tensor([[1.0, 0.0]])
    together = GalleryMeanAveragePrecision(gallery, identities)
    apart = GalleryMeanAveragePrecision(gallery, identities, ["cats", "dogs", "cats"])
    together.update(query, ["ben"])
    apart.update(query, ["ben"])
    assert float(together.compute()) == approx(1 / 3)
    assert float(apart.compute()) == 0.5


def test_a_collapsed_encoder_scores_chance() -> None:
    metric = GalleryMeanAveragePrecision(torch.ones(20, 4), [ANIMALS[i % 5] for i in range(20)])
    metric.update(torch.ones(3, 4), ["ada", "ben", "rex"])
    assert float(metric.compute()) == approx(chance_average_precision(4, 20))


def test_reset_forgets_and_a_forward_call_returns_its_own_batch() -> None:
    gallery, labels = drawn(0, 15)
    queries, targets = drawn(2, 10)
    metric = GalleryMeanAveragePrecision(gallery, labels)
    assert float(metric(queries[:4], targets[:4])) == approx(
        mean_of_scikit_learn(queries[:4], targets[:4], gallery, labels)
    )
    metric(queries[4:], targets[4:])
    assert float(metric.compute()) == approx(mean_of_scikit_learn(queries, targets, gallery, labels))
    metric.reset()
    metric.update(queries[:1], targets[:1])
    assert float(metric.compute()) == approx(mean_of_scikit_learn(queries[:1], targets[:1], gallery, labels))


def test_two_galleries_in_one_collection_stay_two_galleries() -> None:
    easy = GalleryMeanAveragePrecision(torch.eye(2), ["ada", "ben"])
    hard = GalleryMeanAveragePrecision(torch.tensor([[1.0, 0.0], [0.9, 0.1]]), ["ada", "ben"])
    collection = MetricCollection({"easy": easy, "hard": hard})
    collection.update(torch.tensor([[1.0, 0.0]]), ["ada"])  # both score 1
    collection.update(torch.tensor([[1.0, 0.8]]), ["ada"])  # in the hard gallery ben stands first
    found = {name: float(value) for name, value in collection.compute().items()}
    assert found == {"easy": 1.0, "hard": 0.75}


def test_labels_may_be_tensors_and_embeddings_on_any_scale_and_with_gradients() -> None:
    gallery, queries = torch.randn(8, 4, requires_grad=True), torch.randn(2, 4, dtype=torch.float16)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    by_tensor = GalleryMeanAveragePrecision(gallery, labels)
    by_tensor.update(queries, torch.tensor([2, 0]))
    by_list = GalleryMeanAveragePrecision(1000 * gallery, labels.tolist())
    by_list.update(queries, [2, 0])
    assert float(by_tensor.compute()) == float(by_list.compute())


def test_a_target_without_a_photo_is_refused_and_changes_nothing() -> None:
    metric = GalleryMeanAveragePrecision(torch.eye(3), ["ada", "ben", "cleo"])
    metric.update(torch.eye(3)[:1], ["ada"])
    with pytest.raises(ValueError, match="'rex' has no photo in the gallery"):
        metric.update(torch.eye(3)[:2], ["ada", "rex"])
    assert float(metric.compute()) == 1.0


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a label per row"):
        GalleryMeanAveragePrecision(torch.eye(3), ["ada", "ben"])
    with pytest.raises(ValueError, match="two categories"):
        GalleryMeanAveragePrecision(torch.eye(2), ["ada", "ada"], ["cats", "dogs"])
    metric = GalleryMeanAveragePrecision(torch.eye(3), ["ada", "ben", "cleo"])
    with pytest.raises(ValueError, match="a target per row"):
        metric.update(torch.eye(3), ["ada"])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0])
def test_embeddings_without_a_direction_are_refused(wrong: float) -> None:
    faulty = torch.full((1, 3), wrong)
    metric = GalleryMeanAveragePrecision(torch.eye(3), ["ada", "ben", "cleo"])
    with pytest.raises(ValueError, match="finite"):
        metric.update(faulty, ["ada"])
    with pytest.raises(ValueError, match="finite"):
        GalleryMeanAveragePrecision(faulty, ["ada"])


def test_scores_offer_the_class_without_importing_torch_themselves() -> None:
    assert SameClass is GalleryMeanAveragePrecision
