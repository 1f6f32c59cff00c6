"""The zoo's cards against the libraries that they name, what encoders have seen, ensembles, what may be embedded."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import torch
import torchvision
from handmade import encoded, write_gallery
from hypothesis import given
from hypothesis import strategies as st
from networks import colours, save_state, save_timm, save_timm_folder
from PIL import Image
from pytest import approx

import galleries.builders
from benchmark.embed import embed_gallery
from benchmark.embedders import Embedder, load_embedder
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
from galleries.gallery import Gallery

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
    if card.published is None and card.spec != "classical:":
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
    pooling = {"global_pool": card.pooling} if card.pooling else {}
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


# ---- ensembles

PICTURES = [colours(seed) for seed in range(6)]
SQUARES = [colours(seed, (40, 40)) for seed in range(5)]


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Specs of two networks of random weights."""
    folder = tmp_path_factory.mktemp("vits")
    return [f"timm:test_vit@{save_timm(folder / f'{seed}.safetensors', seed=seed)}" for seed in (0, 1)]


@pytest.fixture(scope="module")
def embedders(vits: list[str]) -> dict[str, Embedder]:
    specs = {"timm": vits[0], "other": vits[1], "classical": "classical", "ensemble": f"ensemble:{vits[0]},classical"}
    return {family: load_embedder(spec, device="cpu") for family, spec in specs.items()}


@pytest.fixture(scope="module")
def rows_of(embedders: dict[str, Embedder]) -> dict[str, npt.NDArray[np.float32]]:
    """Of `SQUARES`."""
    return {family: embedder.embed(SQUARES) for family, embedder in embedders.items()}


@pytest.fixture
def vit(embedders: dict[str, Embedder]) -> Embedder:
    return embedders["timm"]


def cosines(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = rows.astype(np.float64)
    return values @ values.T


@pytest.mark.parametrize(
    ("weights", "shares"),
    [(("=0.7", "=0.2", "=0.1"), (0.7, 0.2, 0.1)), (("=3", "=2e0", ""), (0.5, 2 / 6, 1 / 6)), (("",) * 3, (1 / 3,) * 3)],
    ids=str,
)
def test_cosines_of_an_ensemble_are_the_weighted_means_of_its_members(
    vits: list[str], rows_of: dict[str, npt.NDArray[np.float32]], weights: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    parts = [f"{name}{weight}" for name, weight in zip([*vits, "classical"], weights, strict=True)]
    alone = [cosines(rows_of[family]) for family in ("timm", "other", "classical")]
    expected = sum(share * part for share, part in zip(shares, alone, strict=True))
    ensemble = load_embedder(f"ensemble:{','.join(parts)}", device="cpu")
    assert [member.weight for member in ensemble.members] == approx(shares, abs=1e-12)
    rows = ensemble.embed(SQUARES)
    assert rows.dtype == np.float32
    assert np.abs(cosines(rows) - expected).max() <= 1e-6
    turned = load_embedder(f"ensemble:{', '.join(reversed(parts))}", device="cpu").embed(SQUARES)
    assert np.abs(cosines(turned) - expected).max() <= 1e-6
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ("", "'' is no member"),
        ("classical", "one member is no ensemble"),
        ("classical=1", "one member is no ensemble"),
        ("classical,classical", "classical is a member twice"),
        ("classical=1,dino=2, classical=3", "classical is a member twice"),
        ("classical=0,dino", "weight 0 of classical is out of range"),
        ("classical=-1,dino", "weight -1 of classical is out of range"),
        ("classical=nan,dino", "weight nan of classical is out of range"),
        ("classical=inf,dino", "weight inf of classical is out of range"),
        ("classical=much,dino", "'much' is no weight"),
        ("classical=,dino", "'' is no weight"),
        ("classical,,dino", "'' is no member"),
        ("=1,dino", "is no member"),
        ("ensemble:classical,dino", "is no member"),
        ("classical,ensemble:dino=1", "is no member"),
        ("classical,dyno", "'dino'"),
        ("classical,cars", "write cars@FILE"),
    ],
)
def test_an_ensemble_that_is_none_is_refused_in_one_line(members: str, what: str) -> None:
    with pytest.raises(FinerRankError) as caught:
        load_embedder(f"ensemble:{members}")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_ensembles_members_come_from_the_store(tmp_path: Path, vits: list[str]) -> None:
    gallery, store = Gallery.open(write_gallery(tmp_path / "zoo")), tmp_path / "store"
    names = [*vits, "classical"]

    def embedded(spec: str) -> tuple[npt.NDArray[np.float32], int]:
        found = embed_gallery(gallery, load_embedder(spec, device="cpu"), store)
        return found.rows, found.n_forward_passes

    n_photos = len(gallery.photos)
    alone = [embedded(name) for name in names]
    assert [n for _, n in alone] == [n_photos] * 3
    ensemble = f"ensemble:{vits[0]}=2,{vits[1]},classical"
    rows, n_forward_passes = embedded(ensemble)
    assert n_forward_passes == 0
    expected = sum(share * cosines(part) for share, (part, _) in zip((0.5, 0.25, 0.25), alone, strict=True))
    assert np.abs(cosines(rows) - expected).max() <= 1e-6
    assert [embedded(spec)[1] for spec in (*names, ensemble)] == [0] * 4


def test_a_fresh_ensemble_leaves_its_members_in_the_store(tmp_path: Path, vits: list[str]) -> None:
    gallery, store = Gallery.open(write_gallery(tmp_path / "zoo")), tmp_path / "store"
    ensemble = load_embedder(f"ensemble:{vits[0]},{vits[1]}", device="cpu")
    assert embed_gallery(gallery, ensemble, store).n_forward_passes == 2 * len(gallery.photos)
    for name in vits:
        assert embed_gallery(gallery, load_embedder(name, device="cpu"), store).n_forward_passes == 0


# ---- what may be embedded, and what may come out

BYTES = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in SQUARES])
SAME_PICTURES: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(SQUARES),
    "uint8 array": lambda: BYTES,
    "uint8 array, not contiguous": lambda: BYTES.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "uint8 tensor": lambda: torch.from_numpy(BYTES),
    "float64 array": lambda: BYTES / 255,
    "float32 array": lambda: BYTES.astype(np.float32) / np.float32(255),
    "float16 array": lambda: (BYTES / 255).astype(np.float16),
    "float32 tensor": lambda: torch.from_numpy(BYTES).float() / 255,
    "float64 tensor, channels last": lambda: torch.from_numpy(BYTES / 255).to(memory_format=torch.channels_last),
    "RGBA without transparency": lambda: [picture.convert("RGBA") for picture in SQUARES],
}


@pytest.mark.parametrize("kind", SAME_PICTURES)
@pytest.mark.parametrize("family", ["timm", "classical", "ensemble"])
def test_the_same_pictures_have_the_same_rows_however_they_are_handed_over(
    embedders: dict[str, Embedder], rows_of: dict[str, npt.NDArray[np.float32]], family: str, kind: str
) -> None:
    rows = rows_of[family]
    assert rows.shape[0] == len(SQUARES)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    assert (embedders[family].embed(SAME_PICTURES[kind]()) == rows).all()


def test_files_have_the_rows_of_their_pictures(vit: Embedder, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(len(SQUARES))]
    for path, picture in zip(paths, SQUARES, strict=True):
        picture.save(path)
    rows = vit.embed(SQUARES)
    assert (vit.embed(paths) == rows).all()
    assert (vit.embed([str(path) for path in paths]) == rows).all()
    assert (vit.embed([paths[0], SQUARES[1], *paths[2:]]) == rows).all()


@pytest.mark.parametrize("family", ["timm", "classical", "ensemble"])
def test_the_batch_size_does_not_decide_the_rows(embedders: dict[str, Embedder], family: str) -> None:
    rows = embedders[family].embed(PICTURES)
    for batch_size in (1, 4, 6, 100):
        assert np.abs(embedders[family].embed(PICTURES, batch_size=batch_size) - rows).max() <= 1e-6


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 3, 8, 8), np.uint8), torch.zeros(0, 3, 8, 8)], ids=repr)
def test_of_no_pictures_there_are_no_rows(embedders: dict[str, Embedder], nothing: Any) -> None:
    for embedder in embedders["timm"], embedders["ensemble"]:
        rows = embedder.embed(nothing)
        assert (rows.shape[0], rows.ndim) == (0, 2)
        assert rows.dtype == np.float32


def refusal(embedder: Embedder, images: Any) -> str:
    with pytest.raises(FinerRankError) as caught:
        embedder.embed(images)
    message = str(caught.value)
    assert "\n" not in message
    return message


FLOATS = BYTES.astype(np.float32) / 255
WITH_NAN, TOO_HIGH, TOO_LOW = FLOATS.copy(), FLOATS.copy(), FLOATS.copy()
WITH_NAN[2, 1, 3, 4], TOO_HIGH[4, 2, 0, 0], TOO_LOW[0, 0, 0, 0] = np.nan, 1.001, -0.001


@pytest.mark.parametrize("family", ["timm", "ensemble"])
@pytest.mark.parametrize(
    ("images", "what"),
    [
        pytest.param(BYTES.astype(np.float32), "floats outside [0, 1]", id="floats to 255"),
        pytest.param(torch.from_numpy(BYTES).float(), "floats outside [0, 1]", id="float tensor to 255"),
        pytest.param(FLOATS * 2 - 1, "floats outside [0, 1]", id="floats from -1"),
        pytest.param(TOO_HIGH, "floats outside [0, 1]", id="a little above 1"),
        pytest.param(TOO_LOW, "floats outside [0, 1]", id="a little below 0"),
        pytest.param(WITH_NAN, "floats outside [0, 1]", id="NaN"),
        pytest.param(FLOATS + np.float32(np.inf), "floats outside [0, 1]", id="infinite"),
        pytest.param(BYTES[0], "an array [3, 40, 40]", id="one picture, CHW"),
        pytest.param(BYTES[0].transpose(1, 2, 0), "an array [40, 40, 3]", id="one picture, HWC"),
        pytest.param(BYTES.transpose(0, 2, 3, 1), "an array [5, 40, 40, 3]", id="NHWC"),
        pytest.param(BYTES[:, :1], "an array [5, 1, 40, 40]", id="grey"),
        pytest.param(BYTES[None], "an array [1, 5, 3, 40, 40]", id="five axes"),
        pytest.param(np.array(3), "an array []", id="a number"),
        pytest.param(BYTES.astype(np.int64), "values of int64", id="int64"),
        pytest.param(BYTES > 100, "values of bool", id="bool"),
        pytest.param(BYTES.astype(complex), "values of complex128", id="complex"),
        pytest.param(np.zeros((1, 3, 0, 8), np.uint8), "8 × 0 pixels", id="no rows of pixels"),
        pytest.param(SQUARES[0], "put it into a list", id="one PIL image"),
        pytest.param("picture.png", "put it into a list", id="one name"),
        pytest.param(Path("picture.png"), "put it into a list", id="one path"),
        pytest.param([BYTES[0]], "image 0: ndarray", id="list of arrays"),
        pytest.param([SQUARES[0], torch.zeros(3, 8, 8)], "image 1: Tensor", id="list with a tensor"),
        pytest.param([SQUARES[0], None], "image 1: NoneType", id="list with None"),
        pytest.param([b"\x89PNG"], "image 0: bytes", id="list of bytes"),
        pytest.param([Image.new("RGB", (0, 5))], "0 × 5 pixels", id="picture without pixels"),
    ],
)
def test_what_is_no_list_of_pictures_is_refused_in_one_line(
    embedders: dict[str, Embedder], family: str, images: Any, what: str
) -> None:
    assert what in refusal(embedders[family], images)


def test_a_file_that_cannot_be_read_is_named(vit: Embedder, tmp_path: Path) -> None:
    (good := tmp_path / "good.png").write_bytes(encoded(SQUARES[0], "PNG"))
    (empty := tmp_path / "empty.png").write_bytes(b"")
    (text := tmp_path / "text.png").write_text("no picture")
    (cut := tmp_path / "cut.png").write_bytes(good.read_bytes()[:500])
    for path in (tmp_path / "gone.png", tmp_path, empty, text, cut):
        assert refusal(vit, [good, path]).startswith(f"{path}: ")
        assert refusal(vit, [good, str(path)]).startswith(f"{path}: ")


# The last norm of a network decides what comes out of it.
SPOILED = {"not finite": (torch.nan, 0.0), "zero": (0.0, 0.0), "constant": (0.0, 1.0)}


@pytest.mark.parametrize("what", SPOILED)
@pytest.mark.parametrize("family", ["timm", "ensemble"])
def test_an_embedding_that_tells_nothing_is_refused_with_the_name_of_its_picture(
    tmp_path: Path, family: str, what: str
) -> None:
    state = timm.create_model("test_vit", num_classes=10).state_dict()
    weight, bias = SPOILED[what]
    state["norm.weight"], state["norm.bias"] = torch.full((64,), weight), torch.full((64,), bias)
    spec = f"timm:test_vit@{save_state(state, tmp_path / 'spoiled.safetensors')}"
    embedder = load_embedder(spec if family == "timm" else f"ensemble:classical,{spec}", device="cpu")
    SQUARES[0].save(tmp_path / "square.png")
    message = refusal(embedder, [tmp_path / "square.png"])
    assert message.startswith(f"{tmp_path / 'square.png'}: embedding is {what}; ")
    assert refusal(embedder, BYTES).startswith(f"image 0: embedding is {what}; ")


def test_the_picture_at_fault_is_the_one_that_is_named(tmp_path: Path) -> None:
    # Fresh convolutions add nothing: black pixels stay zero from the first layer to the last.
    folder = save_timm_folder(tmp_path / "model", "test_resnet", mean=[0.0] * 3, std=[1.0] * 3)
    embedder = load_embedder(f"timm:local-dir:{folder}", device="cpu")
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    assert len(embedder.embed(SQUARES)) == 5
    assert refusal(embedder, [*SQUARES, black]).startswith(f"{black}: embedding is zero; ")
    assert refusal(embedder, BYTES * (np.arange(5) != 3).astype(np.uint8)[:, None, None, None]).startswith("image 3: ")


AWKWARD = Path(__file__).parent / "awkward"


@pytest.mark.parametrize("form", ["plain.jpg", "odd.png", "grey.png", "cmyk.jpg", "1x1.png", "wide.jpg", "high.jpg"])
def test_an_opened_picture_has_the_row_of_its_file(form: str) -> None:
    embedder = load_embedder("classical")
    with Image.open(AWKWARD / form) as image:
        assert (embedder.embed([image]) == embedder.embed([AWKWARD / form])).all()


@pytest.mark.parametrize(
    "form", ["exif_6.jpg", "exif_8.jpg", "alpha.png", "palette_alpha.png", "grey_16.png", "cmyk_profile.jpg"]
)
def test_an_opened_awkward_picture_has_the_row_of_its_file(form: str) -> None:
    embedder = load_embedder("classical")
    with Image.open(AWKWARD / form) as image:
        assert (embedder.embed([image]) == embedder.embed([AWKWARD / form])).all()


@pytest.mark.parametrize(
    ("images", "name"),
    [
        pytest.param([SQUARES[0], AWKWARD / "line.png"], f"{AWKWARD / 'line.png'}: ", id="too long"),
        pytest.param(np.zeros((1, 3, 0, 8), np.uint8), "image 0: ", id="no pixels"),
    ],
)
def test_a_picture_that_cannot_be_prepared_is_named(vit: Embedder, images: Any, name: str) -> None:
    assert refusal(vit, images).startswith(name)


@pytest.mark.parametrize(
    "images", [None, 5, torch.zeros(1, 3, 8, 8).bfloat16(), torch.zeros(1, 3, 8, 8).requires_grad_()]
)
def test_every_other_object_is_embedded_or_refused_as_a_users_mistake(vit: Embedder, images: Any) -> None:
    with suppress(FinerRankError):
        assert len(vit.embed(images)) == 1


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused_and_loses_no_picture(vit: Embedder, batch_size: int) -> None:
    with suppress(FinerRankError):
        assert len(vit.embed(PICTURES, batch_size=batch_size)) == len(PICTURES)


def test_an_ensemble_embeds_all_pictures_of_an_iterator(embedders: dict[str, Embedder]) -> None:
    assert len(embedders["ensemble"].embed(iter(PICTURES))) == len(PICTURES)  # type: ignore[arg-type]


def test_weights_that_are_too_large_to_be_added_are_refused_or_shared() -> None:
    with suppress(FinerRankError):
        ensemble = load_embedder("ensemble:classical=1e308,dino=1e308")
        assert [member.weight for member in ensemble.members] == approx([0.5, 0.5])
