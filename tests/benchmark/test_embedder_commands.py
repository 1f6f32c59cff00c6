"""`finer-rank embedder list|show|fetch` as a user meets them."""

import json
from pathlib import Path

import pytest
from handmade import Cli, Refusal, lacking
from networks import save_timm

from benchmark.embedders import load_embedder
from benchmark.embedders.zoo import zoo as encoders


def test_list_names_every_encoder(cli: Cli) -> None:
    listed = json.loads(cli("embedder", "list", "--json").stdout)
    assert [card["name"] for card in listed] == list(encoders())
    table = cli("embedder", "list").stdout
    assert not lacking(table, *encoders())
    some = json.loads(cli("embedder", "list", "--kind", "specialised", "--json").stdout)
    assert {card["kind"] for card in some} == {"specialised"}
    assert 0 < len(some) < len(listed)


def test_list_says_what_each_has_seen_of_a_gallery(cli: Cli, zoo: Path) -> None:
    done = cli("embedder", "list", "--gallery", zoo)
    assert "names no source" in done.stderr
    card = zoo / "gallery.toml"
    card.write_text(card.read_text() + 'source = "https://www.kaggle.com/datasets/wildlifedatasets/wildlifereid-10k"\n')
    listed = json.loads(cli("embedder", "list", "--gallery", zoo, "--json").stdout)
    seen = {card["name"]: card["gallery_seen"] for card in listed}
    assert seen["megadescriptor"] == "trained on it"
    assert seen["classical"] == "unseen"
    assert seen["clip"] == "unknown"


def test_a_record_says_what_its_encoder_has_seen(cli: Cli, zoo: Path, painted: Path, tmp_path: Path) -> None:
    weights = save_timm(tmp_path / "s16.safetensors", "vit_small_patch16_224")
    card = zoo / "gallery.toml"
    card.write_text(card.read_text() + 'source = "https://www.vision.caltech.edu/datasets/cub_200_2011/"\n')
    done = cli(
        "evaluate", "-g", zoo, "-r", painted, "-e", f"dino-s16@{weights}", "-e", "classical", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "akin to this gallery" in done.stderr
    records = [json.loads(path.read_text())["embedder"] for path in (tmp_path / "out").glob("*/record.json")]
    seen = {record["spec"]: record["gallery_seen"] for record in records}
    assert seen == {"dino-s16@s16.safetensors": "same data set family", "classical": "unseen"}


def test_weights_that_were_brought_may_have_seen_more_than_their_card_says(tmp_path: Path) -> None:
    cars = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
    weights = save_timm(tmp_path / "s16.safetensors", "vit_small_patch16_224")
    assert load_embedder("dino-s16").seen_state(cars) == "unseen"
    assert load_embedder(f"dino-s16@{weights}").seen_state(cars) == "unknown"
    assert load_embedder(f"cars@{weights}").seen_state(cars) == "trained on it"


def test_show_tells_all_that_a_card_holds(cli: Cli) -> None:
    shown = cli("embedder", "show", "dinov2").stdout
    card = encoders()["dinov2"]
    assert card.published
    assert not lacking(shown, card.title, card.published.revision, card.published.sha256, card.licence, card.paper)
    assert not lacking(shown, "518", "LVD-142M", "CUB-200-2011: same data set family")
    assert json.loads(cli("embedder", "show", "dinov2", "--json").stdout)["published"]["file"] == "model.safetensors"


def test_brought_weights_are_tried_and_reported(cli: Cli, tmp_path: Path) -> None:
    weights = save_timm(tmp_path / "s16.safetensors", "vit_small_patch16_224")
    [fetched] = json.loads(cli("embedder", "fetch", f"dino-s16@{weights}", "--json").stdout)
    assert (fetched["length"], fetched["files"]) == (384, [str(weights)])


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (("show", "dinov22"), ("'dinov2'", "embedder list")),
        (("show", "timm:test_vit"), ("no card",)),
        (("show", "ensemble:clip,dino=3"), ("0.25 clip", "0.75 dino")),
        (("list", "--kind", "small"), ("generic, specialised",)),
        (("fetch", "cars"), ("nobody publishes", "cars@FILE")),
        (("fetch", "miewid@"), ("miewid@FILE",)),
        (("fetch", "ensemble:clip"), ("no ensemble",)),
    ],
)
def test_what_makes_no_sense_is_refused(
    refusal: Refusal, arguments: tuple[str, ...], mentions: tuple[str, ...]
) -> None:
    assert not lacking(refusal("embedder", *arguments), *mentions)


def test_a_fetch_without_a_network_says_what_to_bring_and_where(cli: Cli) -> None:
    done = cli("embedder", "fetch", "dinov2")
    assert done.returncode == 2
    assert not lacking(done.stderr, "timm/vit_base_patch14_dinov2.lvd142m", "HF_HUB_OFFLINE", "dinov2@FILE")
