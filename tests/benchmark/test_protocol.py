"""The protocol on a drawn zoo, against scikit-learn and sums over the record's own table."""

import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animals import ANIMALS, N_IMAGES, N_PHOTOS, draw, write_run, write_zoo
from handmade import Row, rows_of, write_rows
from PIL import Image
from protocol_oracle import embedded, judge, mean, oracle, ranked, table, value
from pytest import approx
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmark.aggregates import METRICS
from benchmark.embedders import load_embedder
from benchmark.metric import GalleryMeanAveragePrecision
from benchmark.protocol import Evaluation
from benchmark.records import Record, write_record
from benchmark.scores import chance_average_precision
from galleries.gallery import Gallery
from personalization_runs.run import Run

COLUMN = {
    "mAP": "average_precision",
    "AUC": "auc",
    "rank_1": "rank_1",
    "CMC@5": "cmc_5",
    "CMC@10": "cmc_10",
    "MAP@R": "map_at_r",
    "mINP": "inverse_negative_penalty",
    "first_hit_rank": "first_hit_rank",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("painter"))


@pytest.fixture(scope="module")
def evaluation(zoo: Path, painter: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return judge(zoo, painter, store=tmp_path_factory.mktemp("store"))


# ---- the score of a query


def test_every_query_is_scored_as_scikit_learn_scores_it(zoo: Path, painter: Path, evaluation: Evaluation) -> None:
    photos = Gallery.open(zoo).photos
    rows = table(evaluation.records[0])
    assert len(rows) == len(ANIMALS) * N_IMAGES
    for row in rows:
        names, similarity = ranked(painter / row["file_name"], row["category"], photos)
        is_relevant = np.array(names) == row["identity"]
        assert row["average_precision"] == approx(average_precision_score(is_relevant, similarity), abs=1e-9)
        assert row["auc"] == approx(roc_auc_score(is_relevant, similarity), abs=1e-9)
        assert (row["n_relevant"], row["n_gallery"]) == (N_PHOTOS, len(names))
    assert len({row["average_precision"] for row in rows}) > 5


def test_neighbours_are_the_nearest_photos_in_order(zoo: Path, painter: Path, evaluation: Evaluation) -> None:
    photos = Gallery.open(zoo).photos
    record = evaluation.records[0]
    for number, row in enumerate(table(record)):
        own = [n for n in record.neighbours.to_pylist() if n["query"] == number]
        names, similarity = ranked(painter / row["file_name"], row["category"], photos)
        order = np.argsort(-similarity)[:10]
        assert [n["rank"] for n in own] == list(range(1, len(order) + 1))
        assert [n["identity"] for n in own] == [names[i] for i in order]
        assert [n["similarity"] for n in own] == approx(similarity[order].tolist(), abs=1e-7)
        assert all(n["is_relevant"] == (n["identity"] == row["identity"]) for n in own)


def test_the_torchmetrics_class_gives_the_same_map(zoo: Path, painter: Path, evaluation: Evaluation) -> None:
    photos = Gallery.open(zoo).split("gallery", "distractor")
    embed = load_embedder("classical:").embed
    gallery = torch.from_numpy(embed([Image.open(photo.path) for photo in photos]))
    metric = GalleryMeanAveragePrecision(gallery, [p.identity for p in photos], [p.category for p in photos])
    images = Run.open(painter).images
    metric.update(
        torch.from_numpy(embed([Image.open(image.path) for image in images])), [image.identity for image in images]
    )
    assert float(metric.compute()) == approx(evaluation.records[0].summary["scores"]["mAP"]["value"], abs=1e-12)


# ---- aggregates


def test_every_aggregate_can_be_computed_again_from_the_table_of_queries(evaluation: Evaluation) -> None:
    record = evaluation.records[0]
    summary, rows = record.summary, table(record)
    assert METRICS.keys() == COLUMN.keys()
    for metric, column in COLUMN.items():
        by: dict[str, dict[str, list[float]]] = {"category": defaultdict(list), "identity": defaultdict(list)}
        for row, key in itertools.product(rows, by):
            by[key][row[key]].append(row[column])
        assert summary["scores"][metric]["value"] == approx(mean(row[column] for row in rows))
        for key, plural in (("category", "categories"), ("identity", "identities")):
            means = {name: mean(values) for name, values in by[key].items()}
            assert {n: part[metric]["value"] for n, part in summary[plural].items()} == approx(means)
            assert summary[f"mean_over_{plural}"][metric]["value"] == approx(mean(means.values()))
    assert summary["n_queries"] == len(rows) == summary["n_images"]
    assert summary["n_tied_queries"] == sum(row["is_tied"] for row in rows)
    assert summary["n_identities"] == summary["n_gallery_identities"] == len(ANIMALS)


def test_retention_places_the_run_between_chance_and_held_out_photos(zoo: Path, evaluation: Evaluation) -> None:
    summary, rows = evaluation.records[0].summary, table(evaluation.records[0])
    held_out = held_out_by_hand(zoo)
    above = [row["average_precision"] - row["chance_average_precision"] for row in rows]
    below = [held_out[row["identity"]] - row["chance_average_precision"] for row in rows]
    assert summary["identity_retention"]["value"] == approx(math.fsum(above) / math.fsum(below), abs=1e-9)
    anchors = summary["matched_anchors"]
    assert anchors["held_out"] == approx(mean(held_out[row["identity"]] for row in rows), abs=1e-9)
    assert anchors["chance"] == approx(mean(row["chance_average_precision"] for row in rows))


# ---- anchors


def held_out_by_hand(zoo: Path) -> dict[str, float]:
    """For each animal the mean average precision of its gallery photos, each left out of its own ranking."""
    photos = Gallery.open(zoo).photos
    return {
        animal: mean(
            oracle(p.path, animal, photos, lambda other, p=p: other == p)
            for p in photos
            if p.identity == animal and p.split == "gallery"
        )
        for animal in ANIMALS
    }


def test_the_held_out_anchor_ranks_each_photo_among_the_others(zoo: Path, evaluation: Evaluation) -> None:
    assert value(evaluation, "held_out") == approx(mean(held_out_by_hand(zoo).values()), abs=1e-9)


def test_the_copied_reference_anchor_ranks_the_references(zoo: Path, evaluation: Evaluation) -> None:
    gallery = Gallery.open(zoo)
    by_hand = [oracle(p.path, p.identity, gallery.photos) for p in gallery.split("reference")]
    assert value(evaluation, "copied_reference") == approx(mean(by_hand), abs=1e-9)


def test_the_chance_anchor_is_the_closed_form_over_identities(evaluation: Evaluation) -> None:
    n_dogs = 2 * N_PHOTOS + 3
    closed = {"cats": chance_average_precision(N_PHOTOS, 3 * N_PHOTOS), "dogs": chance_average_precision(4, n_dogs)}
    assert value(evaluation, "chance") == approx(mean(closed[category] for category in ANIMALS.values()))
    assert value(evaluation, "chance", "AUC") == 0.5
    estimate = evaluation.anchors["chance"]["mAP"]  # type: ignore[index]
    assert estimate is not None
    assert estimate.low == estimate.value == estimate.high


def test_a_model_that_pastes_its_reference_scores_the_copied_reference_anchor(zoo: Path, tmp_path: Path) -> None:
    references = Gallery.open(zoo).split("reference")
    for photo in references:
        target = tmp_path / "paster" / photo.identity / photo.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo.path, target)
    evaluation = judge(zoo, tmp_path / "paster", store=tmp_path / "store")
    summary = evaluation.records[0].summary
    assert summary["scores"]["mAP"]["value"] == approx(value(evaluation, "copied_reference"))
    assert summary["n_copied"] == len(references)


def test_an_embedder_that_maps_all_images_to_one_point_scores_chance_everywhere(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    for number, path in enumerate(sorted(tmp_path.rglob("*.png"))):
        # Of one colour, told apart by a comment alone: references must not equal gallery photos byte for byte.
        Image.new("RGB", (20, 20), "teal").save(path, pnginfo=comment(str(number)))
    evaluation = judge(zoo, painter, store=tmp_path / "store")
    record = evaluation.records[0]
    for row in table(record):
        assert row["average_precision"] == approx(chance_average_precision(row["n_relevant"], row["n_gallery"]))
        assert row["is_tied"]
        assert row["auc"] == 0.5
    assert record.summary["n_tied_queries"] == record.summary["n_queries"]
    assert record.summary["scores"]["mAP"]["value"] == approx(value(evaluation, "chance"))


def comment(text: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", text)
    return info


@pytest.fixture
def class_only(tmp_path: Path) -> Path:
    """Two cats of nobody in particular, a dog of nobody, and a cat that is to be taken for ada."""
    rows: list[Row] = []
    for number, (category, identity) in enumerate([("cats", ""), ("cats", ""), ("dogs", ""), ("", "ada")]):
        row = {"file_name": f"{number}.png", "category": category, "identity": identity}
        draw(tmp_path / "untuned" / row["file_name"], "nobody", number)
        rows.append(row)
    write_rows(tmp_path / "untuned" / "metadata.csv", rows)
    (tmp_path / "untuned" / "run.toml").write_text('model = "untuned"\nmethod = "class-only"\n')
    return tmp_path / "untuned"


def test_class_only_images_are_asked_for_every_identity_of_their_category(
    zoo: Path, painter: Path, class_only: Path, tmp_path: Path
) -> None:
    evaluation = judge(zoo, painter, class_only, store=tmp_path / "store")
    record = evaluation.records[1]
    asked = [(row["file_name"], row["identity"]) for row in table(record)]
    cats, dogs = (sorted(a for a, c in ANIMALS.items() if c == category) for category in ("cats", "dogs"))
    expected = [*((f"{n}.png", cat) for n in (0, 1) for cat in cats), *(("2.png", dog) for dog in dogs)]
    assert asked == [*expected, ("3.png", "ada")]
    photos = Gallery.open(zoo).photos
    for row in table(record):
        by_hand = oracle(class_only / row["file_name"], row["identity"], photos)
        assert row["average_precision"] == approx(by_hand, abs=1e-9)
    assert (record.summary["n_images"], record.summary["n_queries"]) == (4, 9)
    assert value(evaluation, "class_only") == record.summary["scores"]["mAP"]["value"]


# ---- pairwise similarity


@pytest.mark.parametrize("kind", ["own_reference", "all_references", "gallery_photos"])
def test_pairwise_similarity_says_what_it_was_taken_to(tmp_path: Path, kind: str) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    painter = write_run(tmp_path / "painter", references=kind == "own_reference")
    if kind == "gallery_photos":
        write_rows(zoo / "metadata.csv", [row for row in rows_of(zoo) if row["split"] != "reference"])
    record = judge(zoo, painter, store=tmp_path / "store").records[0]
    gallery = Gallery.open(zoo)
    partners = {
        "own_reference": lambda animal: [zoo / f"images/{animal}_0.png"],
        "all_references": lambda animal: [p.path for p in gallery.references[animal]],
        "gallery_photos": lambda animal: [p.path for p in gallery.split("gallery") if p.identity == animal],
    }[kind]
    rows = table(record)
    for row in rows:
        query, *others = embedded([painter / row["file_name"], *partners(row["identity"])])
        assert row[f"similarity_to_{kind}"] == approx(mean(float(other @ query) for other in others), abs=1e-6)
    columns = [column for column in record.queries.column_names if column.startswith("similarity_to_")]
    assert columns == [f"similarity_to_{kind}"]
    found = record.summary["pairwise_similarity"]
    assert found["to"] == kind
    assert found["value"] == approx(mean(row[f"similarity_to_{kind}"] for row in rows))


# ---- the same bytes


def files_of(record: Record, folder: Path) -> dict[str, bytes]:
    write_record(record, folder)
    return {name: (folder / name).read_bytes() for name in ("record.json", "queries.parquet", "neighbours.parquet")}


def test_a_record_does_not_depend_on_the_order_of_rows_nor_on_blocks_batches_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.mapped_rows.WORTH_A_FILE", 1)
    zoo, painter = write_zoo(tmp_path / "zoo", encounters=True), write_run(tmp_path / "painter")
    store = tmp_path / "store"
    expected = files_of(judge(zoo, painter, store=store).records[0], tmp_path / "first")
    shuffle = random.Random(0)
    for block in 1, 3, 7:
        for folder in zoo, painter:
            rows = rows_of(folder)
            shuffle.shuffle(rows)
            write_rows(folder / "metadata.csv", rows)
        memory, device = 0 if block == 3 else 10**9, "cpu:0" if block == 7 else "cpu"  # "cpu:0": by torch
        options = {"gallery_block": block, "batch_size": block, "memory": memory, "ranking_device": device}
        again = judge(zoo, painter, store=store, **options).records[0]
        assert files_of(again, tmp_path / str(block)) == expected


def test_a_record_does_not_depend_on_the_number_of_threads_nor_on_other_runs(
    tmp_path: Path, zoo: Path, painter: Path
) -> None:
    sketcher = write_run(tmp_path / "sketcher", "sketcher", likeness=0.3)
    store = tmp_path / "store"
    expected = files_of(judge(zoo, painter, store=store).records[0], tmp_path / "first")
    command = [sys.executable, "-m", "finer_rank", "evaluate", "--embedder", "classical:", "--gallery", str(zoo)]
    command += ["--run", str(sketcher), "--run", str(painter), "--store", str(store)]
    for n in "1", "2":
        environment = os.environ | {"OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n}
        out = tmp_path / f"records {n}"
        subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, check=True)
        (folder,) = out.glob("painter*")
        assert {name: (folder / name).read_bytes() for name in expected} == expected


def test_a_second_evaluation_embeds_nothing_and_says_the_same(tmp_path: Path, zoo: Path, painter: Path) -> None:
    first, second = (judge(zoo, painter, store=tmp_path) for _ in range(2))
    assert first.n_forward_passes == first.n_distinct == first.n_images == 33 + 15
    assert second.n_forward_passes == 0
    assert second.anchors == first.anchors
    assert second.records[0].summary == first.records[0].summary


# ---- small galleries


def test_a_category_of_one_identity_has_no_auc_and_everything_else(tmp_path: Path) -> None:
    zoo, painter = write_zoo(tmp_path / "zoo"), write_run(tmp_path / "painter")
    for folder in zoo, painter:
        write_rows(folder / "metadata.csv", [row for row in rows_of(folder) if row["identity"] == "ada"])
    evaluation = judge(zoo, painter, store=tmp_path / "store")
    record = evaluation.records[0]
    assert record.summary["scores"]["mAP"] == {"value": 1.0, "low": None, "high": None}
    assert record.summary["scores"]["AUC"] is None
    assert record.summary["identity_retention"] is None
    assert all(row["auc"] is None for row in table(record))
    assert evaluation.anchors["chance"]["AUC"] is None  # type: ignore[index]
    json.dumps(record.summary, allow_nan=False)


def test_a_gallery_of_single_photos_has_no_held_out_anchor_and_no_retention(tmp_path: Path, painter: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    kept = [row for row in rows_of(zoo) if row["split"] == "gallery" and row["file_name"].endswith("_2.png")]
    write_rows(zoo / "metadata.csv", kept)
    run = write_run(tmp_path / "painter", references=False)
    evaluation = judge(zoo, run, store=tmp_path / "store")
    assert evaluation.anchors["held_out"] is None
    assert evaluation.anchors["copied_reference"] is None
    summary = evaluation.records[0].summary
    assert summary["identity_retention"] is None
    assert summary["matched_anchors"]["held_out"] is None
    assert 0 < summary["scores"]["mAP"]["value"] < 1


def test_without_runs_there_are_the_anchors_alone(zoo: Path, tmp_path: Path) -> None:
    evaluation = judge(zoo, store=tmp_path)
    assert evaluation.records == ()
    assert evaluation.anchors["class_only"] is None
    assert evaluation.n_images == 33
    assert 0 < value(evaluation, "chance") < value(evaluation, "held_out") < 1
