"""`finer-rank neighbours --explain` and `--matches`: what is drawn below a strip, and what is refused."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from boards import finer, refused
from handmade import Cli, rows_of, write_gallery, write_rows, write_run
from PIL import Image
from safetensors.torch import save_file
from transformers import LightGlueConfig, LightGlueForKeypointMatching, LightGlueImageProcessor, SuperPointConfig

from benchmark.embedders import Embedder, load_embedder
from benchmark.explain import KeypointMatcher
from benchmark.protocol import Options, evaluate
from benchmark.records import read_record, write_record
from benchmark.regions import Region
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from leaderboard.explanations import MAX_LINES, Explanation, recorded_embedder
from leaderboard.strips import draw_strips
from personalization_runs.run import Run


def save_network(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)
    return path


def save_matcher(folder: Path) -> Path:
    """A small LightGlue of random weights that are large enough to tell points apart."""
    torch.manual_seed(0)
    points = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=16,
        keypoint_threshold=0.0, max_keypoints=64, initializer_range=0.3,
    )  # fmt: skip
    config = LightGlueConfig(
        keypoint_detector_config=points, descriptor_dim=16, num_hidden_layers=2, num_attention_heads=2,
        filter_threshold=0.0, depth_confidence=0.9999, width_confidence=0.9999, initializer_range=0.3,
    )  # fmt: skip
    LightGlueForKeypointMatching(config).save_pretrained(folder)
    LightGlueImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Scored:
    """A gallery, a run on it, its record under a network, and how to name that network."""

    gallery: Gallery
    run: Run
    record: Path
    spec: str

    def explained(self, out: Path, embedder: Embedder | None, matcher: KeypointMatcher | None = None) -> bytes:
        record = read_record(self.record)
        explanation = Explanation(record, self.gallery, self.run, embedder, matcher)
        draw_strips(record, self.gallery, self.run, [0, 1], 2, out, explanation)
        return out.read_bytes()

    def plain(self, out: Path) -> bytes:
        draw_strips(read_record(self.record), self.gallery, self.run, [0, 1], 2, out)
        return out.read_bytes()


def score(folder: Path, spec: str, region: Region = "full", **geometry: Any) -> Scored:
    """The gallery `zoo` and the run `run` of a folder, with a record of theirs."""
    gallery, run = Gallery.open(folder / "zoo"), Run.open(folder / "run")
    embedder = load_embedder(spec, device="cpu", **geometry)
    (evaluation,) = evaluate(gallery, [run], [embedder], folder / "store", Options(regions=(region,)))
    write_record(evaluation.records[0], folder / "record")
    return Scored(gallery, run, folder / "record", spec)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"timm:test_resnet@{save_network(tmp_path_factory.mktemp('weights') / 'w.safetensors')}"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, spec: str) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    write_gallery(folder / "zoo")
    write_run(folder / "run")
    return score(folder, spec, resize="squash", size=96)


@pytest.fixture(scope="module")
def embedder(scored: Scored) -> Embedder:
    return recorded_embedder(read_record(scored.record), scored.spec, "cpu")


def test_the_command_explains_a_record(scored: Scored, tmp_path: Path) -> None:
    out = tmp_path / "strips.png"
    arguments = ("neighbours", scored.record, "--out", out, "--worst", "2", "-k", "2", "--device", "cpu")
    assert finer(*arguments, "--explain", "--embedder", scored.spec) == (0, f"{out}: 2 queries\n", "")
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.height > 1.5 * image.width  # two strips of three lines of four pictures


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg", ".jpg"])
def test_every_format_is_written_and_the_same_bytes_again(
    scored: Scored, embedder: Embedder, tmp_path: Path, ending: str
) -> None:
    first = scored.explained(tmp_path / f"first{ending}", embedder)
    assert first == scored.explained(tmp_path / f"second{ending}", embedder)
    assert len(first) > len(scored.plain(tmp_path / f"plain{ending}"))


def test_the_caption_says_what_is_shown_and_that_it_is_no_score(
    scored: Scored, embedder: Embedder, tmp_path: Path
) -> None:
    drawn = scored.explained(tmp_path / "strips.svg", embedder).decode()
    for said in "what this part adds to the similarity", "this is no score", "where the photo is like":
        assert said in drawn
    assert "timm:test_resnet@w.safetensors" in drawn
    assert str(tmp_path) not in drawn


def test_the_geometry_of_the_record_is_taken_over(
    scored: Scored, embedder: Embedder, tmp_path: Path, spec: str
) -> None:
    assert embedder.fingerprint == read_record(scored.record).summary["embedder"]["fingerprint"]
    write_gallery(tmp_path / "zoo")
    write_run(tmp_path / "run")
    for geometry in {}, {"interpolation": "nearest"}, {"resize": "pad"}, {"size": 64}:
        record = read_record(score(tmp_path, spec, **geometry).record)
        assert recorded_embedder(record, spec, "cpu").fingerprint == record.summary["embedder"]["fingerprint"]


def test_another_encoder_is_refused_by_both_fingerprints(scored: Scored, tmp_path: Path) -> None:
    other = f"timm:test_resnet@{save_network(tmp_path / 'w.safetensors', seed=1)}"
    out = tmp_path / "strips.png"
    line = refused("neighbours", scored.record, "--out", out, "--explain", "--embedder", other, "--device", "cpu")
    own = load_embedder(other, device="cpu").fingerprint
    assert own[:12] in line
    assert read_record(scored.record).summary["embedder"]["fingerprint"][:12] in line
    assert not out.exists()


def test_weights_whose_folder_is_not_known_must_be_named_again(scored: Scored, tmp_path: Path) -> None:
    line = refused("neighbours", scored.record, "--out", tmp_path / "strips.png", "--explain")
    assert "--embedder timm:test_resnet@FOLDER/w.safetensors" in line


def test_what_has_no_parts_is_refused(tmp_path: Path) -> None:
    write_gallery(tmp_path / "zoo")
    write_run(tmp_path / "run")
    classical = score(tmp_path, "classical:")
    arguments = ("neighbours", classical.record, "--out", tmp_path / "strips.png")
    assert "keeps no map of a picture's parts" in refused(*arguments, "--explain")
    assert "add --explain" in refused(*arguments, "--embedder", "classical:")
    assert "--matches" in refused(*arguments, "--matches", tmp_path / "nowhere")
    assert not (tmp_path / "strips.png").exists()


def test_of_an_ensemble_a_member_is_explained(tmp_path: Path, spec: str) -> None:
    write_gallery(tmp_path / "zoo")
    write_run(tmp_path / "run")
    both = score(tmp_path, f"ensemble:classical:,{spec}=2", size=96)
    record = read_record(both.record)
    with pytest.raises(FinerRankError, match=r"name one with --embedder: classical:, timm:test_resnet@w\.safetensors"):
        recorded_embedder(record, "", "cpu")
    member = recorded_embedder(record, spec, "cpu")
    assert both.explained(tmp_path / "strips.png", member)
    other = f"timm:test_resnet@{save_network(tmp_path / 'w.safetensors', seed=1)}"
    with pytest.raises(FinerRankError, match="name the encoder that was evaluated"):
        recorded_embedder(record, other, "cpu")


def write_masks(folder: Path) -> None:
    """A mask for each picture of a folder: its left half is the subject."""
    rows = rows_of(folder)
    (folder / "masks").mkdir()
    for row in rows:
        row["mask_file_name"] = f"masks/{Path(row['file_name']).name}"
        mask = Image.new("L", (48, 48))
        mask.paste(255, (0, 0, 24, 48))
        mask.save(folder / row["mask_file_name"])
    write_rows(folder / "metadata.csv", rows)


def test_a_region_is_cut_as_it_was_when_it_was_scored(tmp_path: Path, spec: str) -> None:
    for folder in write_gallery(tmp_path / "zoo"), write_run(tmp_path / "run"):
        write_masks(folder)
    subject = score(tmp_path, spec, "subject", size=96)
    record = read_record(subject.record)
    embedder = recorded_embedder(record, spec, "cpu")
    assert subject.explained(tmp_path / "strips.png", embedder)
    older = replace(record, summary={**record.summary, "masks": {"treatment": "0"}})
    with pytest.raises(FinerRankError, match="cut by another version"):
        Explanation(older, subject.gallery, subject.run, embedder)
    for mask in (tmp_path / "zoo" / "masks").iterdir():  # which says otherwise by now
        Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    with pytest.raises(FinerRankError, match="zoo: its masks are not those that were scored; evaluate again"):
        subject.explained(tmp_path / "strips.png", embedder)


def count_red(picture: Path) -> int:
    with Image.open(picture) as image:
        return int((np.asarray(image.convert("RGB")) == (255, 0, 0)).all(axis=-1).sum())


def test_outside_the_crop_nothing_is_shown(tmp_path: Path, spec: str) -> None:
    for folder in write_gallery(tmp_path / "zoo"), write_run(tmp_path / "run"):
        for picture in (folder / "images").iterdir():
            wide = Image.new("RGB", (144, 48), "red")
            wide.paste(Image.open(picture), (48, 0))
            wide.save(picture)
    red = {}
    for resize in "crop", "squash":
        found = score(tmp_path, spec, size=96, resize=resize)
        found.plain(tmp_path / "plain.png")
        found.explained(tmp_path / "explained.png", recorded_embedder(read_record(found.record), spec, "cpu"))
        red[resize] = count_red(tmp_path / "explained.png") / count_red(tmp_path / "plain.png")
    assert red["squash"] <= 1.1  # the strip's own
    assert red["crop"] > 1.4  # both margins of each picture keep their colour


def test_matches_are_lines_between_the_query_and_its_first_neighbours(
    scored: Scored, embedder: Embedder, tmp_path: Path, process: Cli
) -> None:
    folder = save_matcher(tmp_path / "glue")
    matcher = KeypointMatcher(str(folder), "cpu")
    drawn = scored.explained(tmp_path / "both.svg", embedder, matcher).decode()
    assert 4 <= drawn.count("stroke: #d55e00") <= 4 * MAX_LINES
    assert "glue@" in drawn
    alone = scored.explained(tmp_path / "alone.svg", None, matcher).decode()
    assert alone.count("stroke: #d55e00") == drawn.count("stroke: #d55e00")
    assert "what this part adds" not in alone
    out, both = tmp_path / "strips.png", tmp_path / "both.png"
    options = ("-k", "2", "--device", "cpu", "--matches", folder)
    code, _, err = finer("neighbours", scored.record, "--out", out, *options)
    assert (code, err) == (0, "")
    assert out.is_file()
    # In a process of its own, what libraries say while they are loaded is seen, too.
    done = process("neighbours", scored.record, "--out", both, *options, "--explain", "--embedder", scored.spec)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{both}: 4 queries\n", "")
    assert both.is_file()


def test_a_similarity_that_is_not_the_recorded_one_is_refused(
    scored: Scored, embedder: Embedder, tmp_path: Path
) -> None:
    record = read_record(scored.record)
    column = record.neighbours.column_names.index("similarity")
    other = pa.array([value - 0.01 for value in record.neighbours.column("similarity").to_pylist()])
    record = replace(record, neighbours=record.neighbours.set_column(column, "similarity", other))
    explanation = Explanation(record, scored.gallery, scored.run, embedder)
    with pytest.raises(FinerRankError, match=r"\.png: similarity .*: packages have changed; evaluate again"):
        draw_strips(record, scored.gallery, scored.run, [0], 2, tmp_path / "strips.png", explanation)


DATA = os.environ.get("FINER_RANK_DATA", "")


@pytest.mark.skipif(not DATA, reason="real data are not at hand: FINER_RANK_DATA names no folder")
def test_a_trained_network_looks_at_the_cat_and_not_at_the_floor(tmp_path: Path) -> None:
    from benchmark.explain import pair_maps, parts_of

    spec = f"torchvision:squeezenet1_1@{DATA}/weights/squeezenet1_1_imagenet.safetensors"
    embedder = load_embedder(spec, resize="squash", size=224, device="cpu")
    photos = [Image.open(Path(DATA, "data/dreambooth/images/cat2", f"0{i}.jpg")).convert("RGB") for i in (0, 1)]
    first, second = parts_of(embedder, photos)
    maps = pair_maps(first, second)
    assert maps.kind == "contributions"
    assert maps.similarity == pytest.approx(first.embedding @ second.embedding)
    assert (maps.query > 0.5).mean() < 0.3  # it looks at something
