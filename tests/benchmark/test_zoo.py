"""The zoo's cards say what the libraries that they name say, and training decides what an encoder has seen."""

import importlib
import pkgutil
import re
from itertools import chain
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import galleries.builders
from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing
from benchmark.embedders.zoo import (
    SEEN_STATES,
    EncoderCard,
    SeenState,
    data_set_of,
    inside,
    seen_state,
    training_data,
    worst_state,
    zoo,
)
from galleries.errors import FinerRankError

CARDS = zoo()
GALLERY_CARDS = [
    module.CARD
    for name in sorted(each.name for each in pkgutil.iter_modules(galleries.builders.__path__))
    if hasattr(module := importlib.import_module(f"galleries.builders.{name}"), "CARD")
]
SOURCES = {
    "cub": "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    "stanford-cars": "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    "wildlifereid-10k": "https://www.kaggle.com/datasets/wildlifedatasets/wildlifereid-10k",
    "dreambooth": "https://github.com/google/dreambooth",
    "dreambench-plus": "https://github.com/yuangpeng/dreambench_plus",
}


def of_family(family: str) -> list[str]:
    return [name for name, card in CARDS.items() if card.spec.startswith(f"{family}:")]


def model_of(card: EncoderCard) -> str:
    return card.spec.partition(":")[2]


def published_in(card: EncoderCard) -> str:
    assert card.published is not None
    return card.published.repository


def geometry(card: EncoderCard) -> Preprocessing:
    assert card.preprocessing is not None
    return card.preprocessing


# ---- every card


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_whole(name: str) -> None:
    card = CARDS[name]
    assert card.name == name
    assert card.kind in ("generic", "specialised")
    assert card.dimension > 0
    for text in (card.title, card.token):
        assert text
    published = card.published
    if published:
        assert re.fullmatch("(?:[0-9a-f]{40})?", published.revision)
        assert re.fullmatch("(?:[0-9a-f]{64})?", published.sha256)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+|https://\S+", published.repository)
        assert published.file
        assert card.licence
    assert card.trained_on is not None
    assert set(card.trained_on) <= training_data().keys()
    assert len(set(card.trained_on)) == len(card.trained_on)


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.variant_of])
def test_a_variant_has_the_weights_of_its_entry_and_says_what_differs(name: str) -> None:
    card = CARDS[name]
    entry = CARDS[card.variant_of]
    assert not entry.variant_of
    assert (card.published, card.dimension, card.trained_on) == (entry.published, entry.dimension, entry.trained_on)
    assert card.spec == entry.spec
    assert card.note != entry.note


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_found_by_its_name_without_building_anything(name: str) -> None:
    card = CARDS[name]
    if card.published is None and not card.spec.startswith(("classical:", "checkpoint:")):  # which need none
        with pytest.raises(FinerRankError, match=f"train it, and write {name}@FILE"):
            load_embedder(name)
        name = f"{name}@no such file.pth"
    embedder = load_embedder(name)
    assert embedder.card == card
    assert embedder.request.published == card.published
    assert "model" not in vars(embedder)


# ---- cards against timm, open_clip and torchvision

OTHER_REPOSITORIES = {
    "megadescriptor": "timm has the architecture, BVRA the weights",
    "megadescriptor-t": "timm has the architecture, BVRA the weights",
}
OTHER_GEOMETRIES = {
    "siglip2": "its owners squash; timm's setting would crop",
    "mae": "its authors scale to 256; timm to 248",
    "dino-before-norm": "DreamSim squashes; timm would crop",
    "dino-s16": "its authors scale to 256; timm to 248",
    "dino": "its authors scale to 256; timm to 248",
    "dreambooth-dino": "its authors scale to 256; timm to 248",
    "dreambench-dino": "its authors scale to 256; timm to 248",
    "megadescriptor": "its owners squash, bilinear",
    "megadescriptor-t": "its owners squash, bilinear",
    "cars": "that paper's classifier takes 480 px; torchvision's own takes 384",
    "fpr-cars": "that paper's classifier takes 480 px; torchvision's own takes 384",
}


@pytest.mark.parametrize("name", of_family("timm"))
def test_a_card_for_timm_says_what_timm_says(name: str) -> None:
    card, own = CARDS[name], geometry(CARDS[name])
    assert model_of(card) in timm.list_models() + timm.list_pretrained()
    config = timm.get_pretrained_cfg(model_of(card))
    size = config.input_size[1]
    scaled = int(size / config.crop_pct)
    same_repository = published_in(card) == config.hf_hub_id
    assert same_repository == (name not in OTHER_REPOSITORIES)
    if same_repository:
        assert card.licence == config.license
    assert (own.mean, own.std) == (config.mean, config.std)
    assert own.size == (size, size)
    same = (own.resize, own.resize_to, own.interpolation) == ("crop", (scaled, scaled), config.interpolation)
    assert config.crop_mode == "center"
    assert same == (name not in OTHER_GEOMETRIES)


@pytest.mark.parametrize("name", of_family("timm"))
def test_a_network_of_timms_has_the_length_that_its_card_says(name: str) -> None:
    card = CARDS[name]
    pooling = {"global_pool": card.pooling.removesuffix(" before norm")} if card.pooling else {}
    with torch.device("meta"), torch.inference_mode():
        network = timm.create_model(model_of(card), num_classes=0, **pooling)
        assert network(torch.empty(2, 3, *geometry(card).size)).shape == (2, card.dimension)
    pooled = {"token": "CLS", "avg": "average", "map": "attention"}[getattr(network, "global_pool", "avg") or "avg"]
    assert pooled in card.token


def tag_of(name: str) -> tuple[str, str]:
    model, _, tag = model_of(CARDS[name]).partition("/")
    return model, tag


TAGGED = [name for name in of_family("open_clip") if not model_of(CARDS[name]).startswith("hf-hub:")]


@pytest.mark.parametrize("name", TAGGED)
def test_a_card_for_open_clip_says_what_open_clip_says(name: str) -> None:
    card, own = CARDS[name], geometry(CARDS[name])
    assert tag_of(name) in open_clip.list_pretrained()
    config = open_clip.get_pretrained_cfg(*tag_of(name))
    assert config["hf_hub"].rstrip("/") == published_in(card)
    size = (open_clip.get_model_config(tag_of(name)[0])["vision_cfg"]["image_size"],) * 2
    assert (own.size, own.resize, own.resize_to) == (size, "crop", size)
    assert (config["resize_mode"], config["interpolation"]) == ("shortest", own.interpolation)
    assert (own.mean, own.std) == (config["mean"], config["std"])


@pytest.mark.parametrize("name", TAGGED)
def test_openais_weights_get_the_activation_that_they_were_trained_with(name: str) -> None:
    model, tag = tag_of(name)
    is_quick = bool(open_clip.get_model_config(model).get("quick_gelu"))
    assert is_quick == (tag == "openai") == model.endswith("-quickgelu")
    assert is_quick == bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"))


@pytest.mark.parametrize("name", of_family("open_clip"))
def test_a_network_of_open_clips_has_the_length_that_its_card_says(name: str) -> None:
    card = CARDS[name]
    # BioCLIP 2 has its configuration on the hub; its title says which of open_clip's it is.
    model = tag_of(name)[0] if name in TAGGED else "ViT-L-14"
    assert model.startswith("ViT-L-14") == ("ViT-L/14" in CARDS[card.variant_of or name].title)
    with torch.device("meta"), torch.inference_mode():
        network = open_clip.CLIP(**open_clip.get_model_config(model))
        size = network.visual.image_size
        assert network.encode_image(torch.empty(2, 3, *size)).shape == (2, card.dimension)


@pytest.mark.parametrize("name", of_family("torchvision"))
def test_a_card_for_torchvision_says_what_torchvision_says(name: str) -> None:
    card, own = CARDS[name], geometry(CARDS[name])
    assert model_of(card) in torchvision.models.list_models(module=torchvision.models)
    transform = torchvision.models.get_model_weights(model_of(card)).DEFAULT.transforms()
    assert (list(own.mean), list(own.std)) == (transform.mean, transform.std)
    assert own.interpolation == transform.interpolation.value
    assert (own.size == tuple(transform.crop_size * 2)) == (name not in OTHER_GEOMETRIES)
    with torch.device("meta"), torch.inference_mode():
        network = torchvision.models.get_model(model_of(card), weights=None)
        assert network.features(torch.empty(2, 3, *own.size)).shape[:2] == (2, card.dimension)


@pytest.mark.parametrize("name", of_family("miewid"))
def test_a_miewid_has_the_length_that_its_card_says(name: str) -> None:
    card = CARDS[name]
    with torch.device("meta"), torch.inference_mode():
        network = timm.create_model(model_of(card), num_classes=0, global_pool="")
        assert network(torch.empty(2, 3, *geometry(card).size)).shape[:2] == (2, card.dimension)


def test_no_exception_is_left_over() -> None:
    assert {*OTHER_GEOMETRIES, *OTHER_REPOSITORIES} <= CARDS.keys()


# ---- what encoders have seen


@pytest.mark.parametrize("name", training_data())
def test_a_data_set_names_data_sets_that_there_are_and_does_not_contain_itself(name: str) -> None:
    data_set = training_data()[name]
    assert data_set.title
    assert {*data_set.contains, *data_set.related} <= training_data().keys()
    assert name in inside([name])
    assert name not in inside(data_set.contains)
    assert name not in data_set.related


@pytest.mark.parametrize("card", GALLERY_CARDS, ids=lambda card: card.name)
def test_the_source_that_a_builder_writes_is_known(card: Any) -> None:
    assert card.url in training_data()[data_set_of(card.url)].sources
    assert card.url in SOURCES.values()


def test_a_source_is_known_with_remarks_and_pages_but_not_by_its_beginning_alone() -> None:
    address = SOURCES["dreambooth"]
    for known in (address, f"{address}/", f"{address}/tree/main/dataset", f"{address} (commit 1a2b)", f"{address}#top"):
        assert data_set_of(known) == "dreambooth", known
    for unknown in (f"{address}-look-alikes", f"{address}2", f"{address}_v2", address[:-1], f"see {address}", ""):
        assert data_set_of(unknown) == "", unknown
    assert data_set_of(SOURCES["cub"].rstrip("/")) == "cub"


@pytest.mark.parametrize(
    ("encoder", "data_set", "expected"),
    [
        ("megadescriptor", "wildlifereid-10k", "trained on it"),
        ("megadescriptor-t", "wildlifereid-10k", "trained on it"),
        ("megadescriptor", "cub", "same data set family"),  # through ImageNet, which holds some of its photos
        ("miewid", "wildlifereid-10k", "same data set family"),
        ("miewid", "stanford-cars", "unknown"),
        ("dinov2", "cub", "same data set family"),
        ("dinov2", "stanford-cars", "same data set family"),
        ("dinov2", "wildlifereid-10k", "unknown"),
        ("dinov3", "cub", "same data set family"),
        ("dinov3", "stanford-cars", "unknown"),
        ("dino", "stanford-cars", "unseen"),
        ("dino", "wildlifereid-10k", "unseen"),
        ("dino", "cub", "same data set family"),
        ("clip", "dreambooth", "unknown"),
        ("clip", "cub", "unknown"),
        ("siglip2", "cub", "unknown"),
        ("bioclip2", "cub", "unknown"),
        ("bioclip2", "wildlifereid-10k", "unknown"),
        ("cars", "stanford-cars", "trained on it"),
        ("fpr-cars", "stanford-cars", "trained on it"),
        ("cars", "dreambooth", "unseen"),
        ("dreamsim", "dreambooth", "unknown"),
        ("dreamsim-dino", "dreambooth", "unseen"),
        ("dreamsim-dinov2", "stanford-cars", "same data set family"),
        ("dreamsim-synclr", "stanford-cars", "same data set family"),  # pictures made from its class names
        ("dreamsim-synclr", "cub", "unseen"),
        *[("classical", data_set, "unseen") for data_set in SOURCES],
    ],
)
def test_what_an_encoder_has_seen_of_a_gallery(encoder: str, data_set: str, expected: SeenState) -> None:
    assert seen_state(CARDS[encoder].trained_on, SOURCES[data_set]) == expected
    if CARDS[encoder].published or encoder == "classical":
        assert load_embedder(encoder).seen_state(SOURCES[data_set]) == expected


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("source", ["", "my own photos", "https://example.org/cub"])
def test_of_an_unknown_source_nothing_is_known_unless_nothing_was_learned(name: str, source: str) -> None:
    assert seen_state(CARDS[name].trained_on, source) == ("unknown" if CARDS[name].trained_on else "unseen")


def test_of_an_encoder_whose_training_nobody_tells_nothing_is_known() -> None:
    for source in (*SOURCES.values(), ""):
        assert seen_state(None, source) == "unknown"
        assert load_embedder("timm:test_vit@some.pth").seen_state(source) == "unknown"


def test_a_training_set_that_the_table_lacks_may_hold_anything() -> None:
    assert seen_state(["somebody's own"], SOURCES["cub"]) == "unknown"
    assert seen_state(["imagenet-1k", "somebody's own"], SOURCES["stanford-cars"]) == "unknown"
    assert seen_state(["stanford-cars", "somebody's own"], SOURCES["stanford-cars"]) == "trained on it"


TRAINING = st.lists(st.sampled_from(sorted(training_data())), max_size=4)
SOURCE = st.sampled_from([*SOURCES.values(), "my own photos"])


@given(trained_on=TRAINING, also=st.sampled_from([*sorted(training_data()), "somebody's own"]), source=SOURCE)
def test_more_training_never_makes_an_encoder_more_innocent(trained_on: list[str], also: str, source: str) -> None:
    before, after = seen_state(trained_on, source), seen_state([*trained_on, also], source)
    assert SEEN_STATES.index(after) <= SEEN_STATES.index(before)


@given(members=st.lists(TRAINING, min_size=2, max_size=4), source=SOURCE)
def test_an_ensemble_has_seen_what_all_its_members_have(members: list[list[str]], source: str) -> None:
    states = [seen_state(trained_on, source) for trained_on in members]
    together = worst_state(states)
    assert together == seen_state(list(chain(*members)), source)
    assert all(SEEN_STATES.index(together) <= SEEN_STATES.index(state) for state in states)


LOADABLE = [name for name, card in CARDS.items() if card.published or card.spec == "classical:"]


@given(members=st.lists(st.sampled_from(LOADABLE), min_size=2, max_size=4, unique=True), source=SOURCE)
def test_an_ensemble_is_as_guilty_as_its_worst_member(members: list[str], source: str) -> None:
    ensemble = load_embedder(f"ensemble:{','.join(members)}")
    alone = [load_embedder(name).seen_state(source) for name in members]
    assert SEEN_STATES.index(ensemble.seen_state(source)) == min(map(SEEN_STATES.index, alone))
