"""Awkward pictures, as each encoder's owners prepare them: every card of the zoo against its owners' own transform."""

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import timm
import transformers
from networks import save_clip
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmark.embedders import load_embedder
from benchmark.embedders.base import Preprocessing
from benchmark.embedders.zoo import zoo
from galleries.images import MAX_PIXELS, BadImage, decode_image

FOLDER = Path(__file__).parent / "awkward"
FORMS = (
    "plain.jpg",
    "odd.png",
    "half_pixel.png",
    "exif_6.jpg",
    "exif_8.jpg",
    "alpha.png",
    "palette_alpha.png",
    "grey.png",
    "grey_16.png",
    "cmyk.jpg",
    "cmyk_profile.jpg",
    "1x1.png",
    "wide.jpg",
    "high.jpg",
    "line.png",
)
TOO_LONG = "line.png"  # 30,000 × 2: scaled by its short side it would have hundreds of millions of pixels

Pixels = npt.NDArray[np.float32]
Transform = Callable[[Image.Image], Any]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def decoded(form: str) -> Image.Image:
    return decode_image((FOLDER / form).read_bytes())


def raw(form: str) -> Image.Image:
    """As Pillow opens it."""
    with Image.open(FOLDER / form) as image:
        image.load()
    return image


# ---- the owners' transforms; every name of the zoo has its own


@cache
def of_open_clip(model: str, tag: str) -> Transform:
    """open_clip: the tag's settings over the library's, at the model's size."""
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    settings = open_clip.transform.merge_preprocess_dict(
        open_clip.transform.PreprocessCfg(size=size), open_clip.get_pretrained_cfg(model, tag)
    )
    assert settings.pop("mode") == "RGB"
    transform: Transform = open_clip.image_transform(settings.pop("size"), is_train=False, **settings)
    return transform


@cache
def of_timm(name: str) -> Transform:
    """timm: the settings beside the weights."""
    settings = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform: Transform = timm.data.create_transform(**settings, is_training=False)
    return transform


def compose(*steps: Transform) -> Transform:
    composed: Transform = transforms.Compose(steps)
    return composed


@cache
def of_dino() -> Transform:
    """facebookresearch/dino, eval_knn.py; facebookresearch/mae, util/datasets.py."""
    steps = [transforms.Resize(256, InterpolationMode.BICUBIC), transforms.CenterCrop(224), transforms.ToTensor()]
    return compose(*steps, transforms.Normalize(*IMAGENET))


@cache
def squashed(size: int) -> Transform:
    """The README of MiewID, wildlife-tools for MegaDescriptor, and the car classifier of arXiv 2512.19026."""
    return compose(transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(*IMAGENET))


@cache
def in_0_to_1(size: int) -> Transform:
    """DreamSim; each of its networks normalises by itself."""
    return compose(transforms.Resize((size, size), InterpolationMode.BICUBIC), transforms.ToTensor())


@cache
def branch_of_dreamsim() -> Transform:
    """What enters its DINO: the squashed picture, normalised by the network itself."""
    return compose(in_0_to_1(224), transforms.Normalize(*IMAGENET))


@cache
def in_plus_minus_1(size: int) -> Transform:
    squash = transforms.Resize((size, size), InterpolationMode.BICUBIC)
    return compose(squash, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3))


def by_pillow(name: str) -> Any:
    """Until transformers 5, which prefers torchvision's pixels, the plain name was Pillow's."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def of_transformers(processor: Any) -> Transform:
    # Without the layout, transformers takes a picture that is 1 or 3 pixels high for one of channels first.
    return lambda image: processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]


@cache
def clip_of_transformers() -> Transform:
    """openai/clip-vit-base-patch32, whose published values are the class's own."""
    return of_transformers(by_pillow("CLIPImageProcessor")())


@cache
def dinov2_of_transformers() -> Transform:
    """preprocessor_config.json of facebook/dinov2-base and -small."""
    return of_transformers(
        by_pillow("BitImageProcessor")(
            size={"shortest_edge": 256},
            crop_size={"height": 224, "width": 224},
            resample=3,
            rescale_factor=0.00392156862745098,
            image_mean=list(IMAGENET[0]),
            image_std=list(IMAGENET[1]),
        )
    )


@cache
def of_albumentations(size: int) -> Transform:
    """Resize and Normalize of albumentations 2.0.8: OpenCV, then a table of the 256 values, in float32."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with the extra opencv: pip install 'finer-rank[opencv]'")
    mean, std = (np.array(values, np.float32) * np.float32(255) for values in IMAGENET)
    table = (np.arange(256, dtype=np.float32)[:, None] - mean) * np.reciprocal(std)

    def transform(image: Image.Image) -> Pixels:
        scaled = cv2.resize(np.asarray(image), (size, size), interpolation=cv2.INTER_LINEAR)
        channels = [table[scaled[:, :, channel], channel] for channel in range(3)]
        return np.stack(channels).astype(np.float32)

    return transform


OWNERS: dict[str, Callable[[], Transform]] = {
    "clip": lambda: of_open_clip("ViT-B-32-quickgelu", "openai"),
    "clip-l14": lambda: of_open_clip("ViT-L-14-quickgelu", "openai"),
    "openclip-b32": lambda: of_open_clip("ViT-B-32", "laion2b_s34b_b79k"),
    "openclip-b16": lambda: of_open_clip("ViT-B-16", "laion2b_s34b_b88k"),
    "openclip-h14": lambda: of_open_clip("ViT-H-14", "laion2b_s32b_b79k"),
    "siglip2": lambda: of_open_clip("ViT-B-16-SigLIP2", "webli"),
    "dino-s16": of_dino,
    "dino": of_dino,
    "dino-before-norm": branch_of_dreamsim,
    "mae": of_dino,
    "dinov2": lambda: of_timm("vit_base_patch14_dinov2.lvd142m"),
    "dinov3": lambda: of_timm("vit_base_patch16_dinov3.lvd1689m"),
    "classical": lambda: in_0_to_1(128),  # its owners are we
    "critter-reid": lambda: in_plus_minus_1(96),  # as timm prepares for its test_resnet, squashed
    "miewid": lambda: squashed(440),
    "miewid-msv3": lambda: squashed(440),
    "megadescriptor": lambda: squashed(384),
    "megadescriptor-t": lambda: squashed(224),
    "cars": lambda: squashed(480),
    "dreamsim": lambda: in_0_to_1(224),
    "dreamsim-dino": lambda: in_0_to_1(224),
    "dreamsim-clip": lambda: in_0_to_1(224),
    "dreamsim-openclip": lambda: in_0_to_1(224),
    "dreamsim-dinov2": lambda: in_0_to_1(224),
    "dreamsim-synclr": lambda: in_0_to_1(224),
    "dreamsim-dino-patch": lambda: in_0_to_1(224),
    "dreamsim-dinov2-patch": lambda: in_0_to_1(224),
    "dreambooth-dino": of_dino,
    "dreambooth-clip-i": lambda: of_open_clip("ViT-B-32-quickgelu", "openai"),
    "dreambench-dino": of_dino,
    "dreambench-dinov2": dinov2_of_transformers,
    "dreambench-clip-i": clip_of_transformers,
    "fpr-clip": clip_of_transformers,
    "fpr-dino": dinov2_of_transformers,
    "fpr-miewid": lambda: of_albumentations(440),
    "fpr-cars": lambda: squashed(480),
}
# It multiplies by a rounded 1/std where torch, and we, divide: the last bits of a float32 differ.
IN_ANOTHER_ORDER = ("fpr-miewid",)

WITHOUT = [name for name, card in zoo().items() if card.preprocessing is None]
BIOCLIP_2: dict[str, dict[str, Any]] = {  # what its hub configuration may say: the file itself was not at hand
    "crop": {"resize_mode": "shortest"},
    "halves": {"resize_mode": "shortest", "mean": [0.5] * 3, "std": [0.5] * 3},
    "squash": {"resize_mode": "squash", "interpolation": "bilinear"},
}


# All cards of one form come in turn, and many share their preparation.


@lru_cache(maxsize=16)
def ours(preprocessing: Preprocessing, form: str) -> Pixels:
    return preprocessing(decoded(form))


@lru_cache(maxsize=16)
def theirs(transform: Transform, form: str) -> Pixels:
    return np.asarray(transform(decoded(form)))


def is_too_long(form: str, resize: str) -> bool:
    return form == TOO_LONG and resize == "crop"


@pytest.mark.parametrize("name", [name for name in zoo() if name not in WITHOUT])
@pytest.mark.parametrize("form", FORMS)
def test_an_awkward_picture_is_prepared_as_by_the_encoders_owners(name: str, form: str) -> None:
    preprocessing = zoo()[name].preprocessing
    assert preprocessing is not None
    owners = OWNERS[name]()
    if is_too_long(form, preprocessing.resize):
        assert preprocessing.resize_to[0] ** 2 * 30_000 / 2 > MAX_PIXELS  # gigabytes, which the owners would take
        with pytest.raises(BadImage, match="30000 × 2 pixels: too long") as caught:
            ours(preprocessing, form)
        assert "\n" not in str(caught.value)
        return
    found, expected = ours(preprocessing, form), theirs(owners, form)
    assert found.dtype == np.float32
    assert expected.dtype == np.float32
    assert found.shape == expected.shape == (3, *preprocessing.size)
    assert np.abs(found - expected).max() <= (1e-6 if name in IN_ANOTHER_ORDER else 0)


@pytest.mark.parametrize("said", BIOCLIP_2)
@pytest.mark.parametrize("name", WITHOUT)
def test_an_encoder_whose_card_leaves_it_open_is_prepared_as_its_hub_folder_says(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = zoo()[name]
    assert card.spec == "open_clip:hf-hub:imageomics/bioclip-2"
    folder = save_clip(tmp_path / "imageomics" / "bioclip-2", image_size=224, **BIOCLIP_2[said])
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=True)
    monkeypatch.setenv("FINER_RANK_MIRROR", str(tmp_path))
    preprocess = load_embedder(card.spec, device="cpu").model.preprocess
    for form in ("plain.jpg", "odd.png", "half_pixel.png", "1x1.png", "high.jpg", TOO_LONG):
        if is_too_long(form, "squash" if said == "squash" else "crop"):
            with pytest.raises(BadImage, match="too long"):
                preprocess(decoded(form))
        else:
            assert (preprocess(decoded(form)) == transform(decoded(form)).numpy()).all(), form


def test_every_owner_is_asked_about_a_card_that_there_is() -> None:
    assert sorted([*OWNERS, *WITHOUT]) == sorted(zoo())


def test_the_pictures_are_small_and_all_looked_at() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert {path.name for path in files} == {*FORMS, "make.py"}
    assert sum(path.stat().st_size for path in files) <= 150_000


def test_transformers_cuts_beside_torchvision_where_the_centre_falls_between_two_pixels() -> None:
    shown = decoded("half_pixel.png")
    of_hub, of_tag = clip_of_transformers()(shown), of_open_clip("ViT-B-32-quickgelu", "openai")(shown).numpy()
    assert np.abs(of_hub - of_tag).max() > 0.2
    assert np.abs(of_hub[:, :, 1:] - of_tag[:, :, :-1]).max() <= 1e-6


# ---- decoding


@pytest.mark.parametrize(
    "form",
    [
        "plain.jpg",
        "odd.png",
        "half_pixel.png",
        "grey.png",
        "cmyk.jpg",
        "1x1.png",
        "wide.jpg",
        "high.jpg",
        "line.png",
    ],
)
def test_an_ordinary_picture_is_decoded_as_the_encoders_owners_do(form: str) -> None:
    plain = raw(form).convert("RGB")
    assert decoded(form).size == plain.size
    assert (np.asarray(decoded(form)) == np.asarray(plain)).all()


@pytest.mark.parametrize(("form", "n_turns"), [("exif_6.jpg", -1), ("exif_8.jpg", 1)])
def test_a_turned_photo_is_shown_upright_where_owners_leave_it_lying(form: str, n_turns: int) -> None:
    lying = raw(form)
    assert lying.size == (64, 40)
    seen = np.asarray(decoded(form))
    assert (seen == np.asarray(ImageOps.exif_transpose(lying))).all()
    assert (seen == np.rot90(np.asarray(lying), n_turns)).all()


def on_white(colours: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    share = opacity[..., None] / 255
    return share * colours + (1 - share) * 255


def test_a_transparent_picture_lies_on_white() -> None:
    image = raw("alpha.png")
    assert image.mode == "RGBA"
    values = np.asarray(image)
    seen = np.asarray(decoded("alpha.png"))
    assert np.abs(seen - on_white(values[..., :3], values[..., 3])).max() <= 1  # Pillow lays it on in integers
    assert np.abs(seen.astype(int) - np.asarray(image.convert("RGB"))).max() > 100  # where owners drop the alpha


def test_transparent_colours_of_a_palette_lie_on_white() -> None:
    image = raw("palette_alpha.png")
    assert image.mode == "P"
    entries = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    opacity = np.full(len(entries), 255, dtype=np.uint8)
    given = np.frombuffer(image.info["transparency"], dtype=np.uint8)
    assert given.min() == 0 < given.max() < 255
    opacity[: len(given)] = given[: len(entries)]
    drawn = np.asarray(image)
    expected = on_white(entries[drawn], opacity[drawn])
    assert np.abs(np.asarray(decoded("palette_alpha.png")) - expected).max() <= 1


def test_16_bit_grey_is_scaled_where_owners_clip_it() -> None:
    image = raw("grey_16.png")
    assert image.mode == "I;16"
    values = np.asarray(image)
    assert values.max() > 60_000
    expected = np.round(values / 257).astype(np.uint8)  # 65535 = 255 · 257, so that no value lies halfway
    for channel in range(3):
        assert (np.asarray(decoded("grey_16.png"))[:, :, channel] == expected).all()


def srgb_of_lab(lightness: float, a: float, b: float) -> npt.NDArray[np.float64]:
    """CIE Lab under D50, as colour profiles mean it, to sRGB in [0, 255] (matrix: Lindbloom, Bradford-adapted)."""
    to_xyz = [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    f = (lightness + 16) / 116 + np.array([a / 500, 0, -b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    linear = np.clip(np.linalg.solve(np.array(to_xyz), xyz), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_inks_have_the_colours_that_their_profile_says_where_owners_guess() -> None:
    image = raw("cmyk_profile.jpg")
    assert image.mode == "CMYK"
    # Nodes of the profile in Lab bytes: paper, and 100 % of the first, second and third ink (see awkward/make.py).
    nodes = [(255, 128, 128), (145, 168, 168), (165, 88, 158), (125, 158, 78)]
    for i, (lightness, a, b) in enumerate(nodes):
        middle = (8 + 16 * i, 8)
        assert image.getpixel(middle) == tuple(255 if ink == i - 1 else 0 for ink in range(4))
        expected = srgb_of_lab(lightness / 2.55, a - 128, b - 128)
        # Rendered for looks, as viewers do (ICC's perceptual intent), which moves strong colours inwards a little.
        assert np.abs(np.array(decoded("cmyk_profile.jpg").getpixel(middle)) - expected).max() <= 12
        guess = np.array(image.convert("RGB").getpixel(middle))
        assert (np.abs(guess - expected).max() > 100) == (i > 0)


def test_all_forms_are_decoded_to_8_bit_rgb() -> None:
    for form in FORMS:
        assert decoded(form).mode == "RGB", form
