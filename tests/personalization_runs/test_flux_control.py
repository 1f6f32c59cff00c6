"""OminiControl and diptych prompting: FLUX's blocks and attention, worked through in other ways."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxPipeline, FluxTransformer2DModel
from handmade import change_row, write_rows
from in_process import refused_here
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import parts
from tiny.flux import PACKED, SIZES, save_diptych_controlnet, save_flux, save_schnell, save_subject_lora, transformer
from torch import Tensor

from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.methods.base import Generator, Parameter
from personalization_runs.methods.diptych import cut_out
from personalization_runs.methods.diptych_networks import PanelAttention
from personalization_runs.methods.ominicontrol_transformer import forward
from personalization_runs.methods.setup import Setup, call
from personalization_runs.methods.weights import WeightsFolder
from personalization_runs.prompt_sets import Prompt
from personalization_runs.requests import Request, plan_requests

SMALL = {"steps": 2, "width": 32, "height": 32}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_schnell(tmp_path_factory.mktemp("schnell"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_subject_lora(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diptych_controlnet(tmp_path_factory.mktemp("controlnet"))


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """A gallery of one dog: red, in the left half of the photo."""
    folder = tmp_path / "dog"
    (folder / "masks").mkdir(parents=True)
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save(folder / "masks" / "left.png")
    rows = []
    for number, split in enumerate(("reference", "gallery")):
        rows.append({"file_name": f"{number}.png", "category": "dog", "identity": "rex", "split": split})
        rows[-1]["mask_file_name"] = "masks/left.png"
        photo = Image.new("RGB", (64, 48), (0, 0, 200 + number))
        photo.paste((255, 0, 0), (0, 0, 32, 48))
        photo.save(folder / f"{number}.png")
    write_rows(folder / "metadata.csv", rows)
    write_rows(folder / "prompts.csv", [{"prompt_id": "snow", "prompt": "a {subject} in snow"}])
    return folder


def request_of(gallery: Path, method: str) -> Request:
    [request] = plan_requests(Gallery.open(gallery), [Prompt("snow", "a {subject} in snow")], METHODS[method])
    return request


def generator_of(method: str, parameters: dict[str, Parameter] | None = None, **weights: Path) -> Generator:
    chosen = METHODS[method]
    folders = {role: WeightsFolder(path, path.name, "0") for role, path in weights.items()}
    return chosen.generator(Setup(chosen, folders, {**chosen.parameters, **SMALL, **(parameters or {})}))


def refused(gallery: Path, out: Path, method: str, **weights: Path) -> str:
    """The line with which `run generate` ends."""
    given = [word for role, path in weights.items() for word in ("--weights", f"{role}={path}")]
    prompts = ("--prompts", gallery / "prompts.csv", "--set", "steps=2", "--set", "width=32", "--set", "height=32")
    return refused_here("run", "generate", "-g", gallery, "-m", method, *prompts, *given, "--out", out)


def pixels(image: Image.Image | None) -> np.ndarray[Any, Any]:
    assert image is not None
    return np.asarray(image, dtype=int)


# OminiControl


class Inputs(SimpleNamespace):
    """Of a transformer: five text tokens, a picture of 3 × 4 tokens, and a subject of as many beside it."""

    def __init__(self, *, guidance: bool) -> None:
        draw = torch.Generator().manual_seed(7)
        rows, columns = torch.arange(3), torch.arange(4)
        places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), rows, columns).float()
        super().__init__(
            image=torch.randn(2, 12, PACKED, generator=draw),
            subject=torch.randn(2, 12, PACKED, generator=draw),
            text=torch.randn(2, 5, parts.WIDTH, generator=draw),
            pooled=torch.randn(2, parts.WIDTH, generator=draw),
            image_ids=places,
            subject_ids=places + torch.tensor([0, 0, 4]),
            text_ids=torch.zeros(5, 3),
            timestep=torch.tensor([0.7, 0.7]),
            guidance=torch.tensor([3.5, 3.5]) if guidance else None,
        )

    def stock(self, **changes: Any) -> dict[str, Any]:
        """As `FluxPipeline` passes them."""
        return {
            "hidden_states": self.image,
            "encoder_hidden_states": self.text,
            "pooled_projections": self.pooled,
            "timestep": self.timestep,
            "guidance": self.guidance,
            "img_ids": self.image_ids,
            "txt_ids": self.text_ids,
            "return_dict": False,
            **changes,
        }


def test_without_subject_tokens_the_stock_pipelines_image_comes_out_however_strong_the_lora(
    schnell: Path, lora: Path, dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of("ominicontrol", base=schnell, lora=lora)
    request = request_of(dog, "ominicontrol")
    [with_subject] = generator.make([request])
    nothing = torch.zeros(1, 0, PACKED), torch.zeros(0, 3)
    monkeypatch.setattr(generator, "_tokens", lambda _: nothing)
    [without] = generator.make([request])
    base = FluxPipeline.from_pretrained(schnell, local_files_only=True)
    base.set_progress_bar_config(disable=True)
    [stock] = call(base, generator.setup, [request])  # type: ignore[attr-defined]
    assert abs(pixels(without.image) - pixels(stock.image)).max() <= 1
    assert abs(pixels(with_subject.image) - pixels(stock.image)).mean() > 2


@pytest.mark.parametrize("guidance", [False, True])
def test_at_timestep_0_an_empty_lora_makes_the_subject_a_part_of_the_picture(guidance: bool) -> None:
    """Of the stock transformer's own: nothing else then tells the streams apart."""
    torch.manual_seed(0)
    model = transformer(guidance_embeds=guidance)
    given = Inputs(guidance=guidance)
    still = {"timestep": torch.zeros(2), "guidance": torch.ones(2) if guidance else None}
    [ours] = forward(
        model,
        **given.stock(**still, joint_attention_kwargs={"subject": given.subject, "subject_ids": given.subject_ids}),
    )
    wide = {
        "hidden_states": torch.cat([given.image, given.subject], dim=1),
        "img_ids": torch.cat([given.image_ids, given.subject_ids]),
    }
    whole = model(**given.stock(**still, **wide))[0]
    torch.testing.assert_close(ours, whole[:, :12], rtol=1e-4, atol=1e-5)


def merged(path: Path, base: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """A copy of the base model whose weights have the LoRA's products added."""
    own = transformer(guidance_embeds=base.config.guidance_embeds)
    state = dict(base.state_dict())
    tensors = load_file(path / "omini" / "subject_512.safetensors")
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            state[f"{layer}.weight"] = state[f"{layer}.weight"] + tensors[name.replace("lora_A", "lora_B")] @ down
    own.load_state_dict(state)
    return own


def gathered_slowly(tokens: list[Any], places: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Attention by its definition, one head after the other, with places turned as complex numbers."""
    query, key, value = (torch.cat(each, dim=1) for each in zip(*tokens, strict=True))
    angles = torch.cat(
        [places[:, [i]] / 10000 ** (torch.arange(0, axis, 2) / axis) for i, axis in enumerate(axes)], dim=1
    )

    def turned(each: Tensor) -> Tensor:
        numbers = torch.view_as_complex(each.reshape(*each.shape[:2], -1, 2))
        return torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    heads = []
    for i in range(query.shape[2]):
        scores = turned(query[:, :, i]) @ turned(key[:, :, i]).transpose(1, 2) / query.shape[-1] ** 0.5
        heads.append(scores.softmax(dim=-1) @ value[:, :, i])
    return torch.cat(heads, dim=-1)


def slowly(base: Any, tuned: Any, given: Inputs) -> Tensor:
    """The same computation from two whole models: the base for text and image, the merged one for the subject."""

    def modulation(model: Any, timestep: Tensor, guidance: Tensor | None) -> Tensor:
        numbers = [timestep * 1000] if guidance is None else [timestep * 1000, guidance * 1000]
        return model.time_text_embed(*numbers, given.pooled)  # type: ignore[no-any-return]

    now = modulation(base, given.timestep, given.guidance)
    clean = modulation(tuned, torch.zeros(2), None if given.guidance is None else torch.ones(2))
    text, image = base.context_embedder(given.text), base.x_embedder(given.image)
    subject = tuned.x_embedder(given.subject)
    places = torch.cat([given.text_ids, given.image_ids, given.subject_ids])
    axes = base.config.axes_dims_rope

    def heads(attention: Any, x: Tensor, *names: str) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, of_query, of_key = (getattr(attention, name) for name in names)
        cut = [layer(x).view(2, -1, 2, 16) for layer in (query, key, value)]
        return of_query(cut[0]), of_key(cut[1]), cut[2]

    of_image = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
    of_text = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
    for block, other in zip(base.transformer_blocks, tuned.transformer_blocks, strict=True):
        normed = [block.norm1_context(text, emb=now), block.norm1(image, emb=now), other.norm1(subject, emb=clean)]
        attentions = ((block.attn, of_text), (block.attn, of_image), (other.attn, of_image))
        cut = [heads(attention, x[0], *names) for (attention, names), x in zip(attentions, normed, strict=True)]
        parts_of = gathered_slowly(cut, places, axes).tensor_split([5, 17], dim=1)
        outs = (block.attn.to_add_out, block.attn.to_out[0], other.attn.to_out[0])
        nets = ((block.norm2_context, block.ff_context), (block.norm2, block.ff), (other.norm2, other.ff))
        ends = []
        for x, own, out, (norm, net), (_, gate, shift, scale, last) in zip(
            (text, image, subject), parts_of, outs, nets, normed, strict=True
        ):
            x = x + gate[:, None] * out(own)
            ends.append(x + last[:, None] * net(norm(x) * (1 + scale[:, None]) + shift[:, None]))
        text, image, subject = ends
    for block, other in zip(base.single_transformer_blocks, tuned.single_transformer_blocks, strict=True):
        streams = ((block, text, now), (block, image, now), (other, subject, clean))
        normed = [own.norm(x, emb=emb) for own, x, emb in streams]
        cut = [heads(own.attn, x[0], *of_image) for (own, *_), x in zip(streams, normed, strict=True)]
        parts_of = gathered_slowly(cut, places, axes).tensor_split([5, 17], dim=1)
        text, image, subject = (
            x + gate[:, None] * own.proj_out(torch.cat([part, own.act_mlp(own.proj_mlp(y))], dim=-1))
            for (own, x, _), (y, gate), part in zip(streams, normed, parts_of, strict=True)
        )
    return base.proj_out(base.norm_out(image, now))  # type: ignore[no-any-return]


@pytest.mark.parametrize("guidance", [False, True])
def test_a_slow_restatement_with_two_whole_models_agrees(guidance: bool, schnell: Path, dev: Path, lora: Path) -> None:
    folder = dev if guidance else schnell
    generator = generator_of("ominicontrol", base=folder, lora=lora)
    base = FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    given = Inputs(guidance=guidance)
    subject = {"subject": given.subject, "subject_ids": given.subject_ids}
    [ours] = generator.pipeline.transformer(**given.stock(joint_attention_kwargs=subject))
    expected = slowly(base, merged(lora, base), given)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    unadapted = slowly(base, base, given)
    assert (ours - unadapted).abs().max() > 100 * (ours - expected).abs().max(), "the LoRA changes nothing"


def test_the_subject_is_packed_as_flux_packs_latents_and_stands_beside_the_image(
    schnell: Path, lora: Path, dog: Path
) -> None:
    generator: Any = generator_of("ominicontrol", base=schnell, lora=lora)
    request = request_of(dog, "ominicontrol")
    tokens, ids = generator._tokens([request])
    pipeline = generator.pipeline
    seen = pipeline.image_processor.preprocess(generator.setup.picture(request.photo))
    latents = (pipeline.vae.encode(seen).latent_dist.mean - 0.06) * 1.5
    packed = pipeline._pack_latents(latents, 1, 4, 16, 16)
    torch.testing.assert_close(tokens, packed, atol=0.05, rtol=0)  # the posterior's own noise
    places = pipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
    assert torch.equal(ids, places + torch.tensor([0, 0, 8]))
    mirrored: Any = generator_of("ominicontrol", {"position_shift": -1.0}, base=schnell, lora=lora)
    assert torch.equal(mirrored._tokens([request])[1], places - torch.tensor([0, 0, 8]))
    [right], [left] = generator.make([request]), mirrored.make([request])
    assert (pixels(right.image) != pixels(left.image)).any(), "the subject's place changes nothing"


def test_a_lora_that_does_not_fit_is_refused_in_one_line(schnell: Path, dog: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = refused(dog, out, "ominicontrol", base=schnell, lora=save_subject_lora(tmp_path / "deep", n_double=3))
    assert f"--weights lora={tmp_path / 'deep'}: its omini/subject_512.safetensors does not fit the base model" in line
    good = load_file(save_subject_lora(tmp_path / "good") / "omini" / "subject_512.safetensors")
    spoilt = {
        "wide": {name: torch.cat([tensor, tensor], dim=int("lora_A" in name)) for name, tensor in good.items()},
        "other": {name.replace("transformer.", "unet.", 1): tensor for name, tensor in good.items()},
        "text": {
            name.replace(".transformer_blocks.0.attn.to_q", ".transformer_blocks.0.attn.add_q_proj"): good[name]
            for name in good
        },
    }
    why = {
        "wide": "size mismatch for",
        "other": "50 tensors, of which 0 have a layer",
        "text": "it changes transformer_blocks.0.attn.add_q_proj for image and text, too",
    }
    for name, tensors in spoilt.items():
        (tmp_path / name / "omini").mkdir(parents=True)
        save_file(tensors, tmp_path / name / "omini" / "subject_512.safetensors")
        line = refused(dog, out, "ominicontrol", base=schnell, lora=tmp_path / name)
        assert f"--weights lora={tmp_path / name}: its omini/subject_512.safetensors does not fit" in line
        assert why[name] in line
    (tmp_path / "empty").mkdir()
    assert "subject_512.safetensors" in refused(dog, out, "ominicontrol", base=schnell, lora=tmp_path / "empty")


# Diptych


def enforced_slowly(query: Tensor, key: Tensor, value: Tensor, n_text: int, columns: int, factor: float) -> Tensor:
    """Attention by its definition: each weight by which a right token heeds a left one is multiplied."""
    weights = torch.einsum("bqhd,bkhd->bhqk", query, key).div(query.shape[-1] ** 0.5).softmax(dim=-1)
    for i in range(n_text, weights.shape[2]):
        for j in range(n_text, weights.shape[3]):
            if (i - n_text) % columns >= columns // 2 > (j - n_text) % columns:
                weights[:, :, i, j] *= factor
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("factor", [1.0, 1.3, 0.5])
def test_a_right_panels_attention_to_the_left_is_multiplied_after_the_softmax(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the stock processor, whose attention is replaced by a matrix of weights that is written out."""
    torch.manual_seed(1)
    given, model = Inputs(guidance=True), transformer()
    plain = model(**given.stock())[0]
    model.set_attn_processor(PanelAttention(3, 4, factor))
    ours = model(**given.stock())[0]
    again = transformer()
    again.load_state_dict(model.state_dict())
    monkeypatch.setattr(
        "diffusers.models.transformers.transformer_flux.dispatch_attention_fn",
        lambda query, key, value, **_: enforced_slowly(query, key, value, 5, 4, factor),
    )
    torch.testing.assert_close(ours, again(**given.stock())[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5) == (factor == 1)


def test_the_controlnet_is_told_which_panel_is_known(dev: Path, controlnet: Path) -> None:
    given = Inputs(guidance=True)
    ours = generator_of("diptych", base=dev, controlnet=controlnet).pipeline.controlnet
    with pytest.warns(FutureWarning):
        stock = FluxControlNetModel(num_layers=2, num_single_layers=0, guidance_embeds=True, **SIZES)
    stock.controlnet_x_embedder = torch.nn.Linear(PACKED + 4, stock.inner_dim)
    stock.load_state_dict(load_file(controlnet / "diffusion_pytorch_model.safetensors"))
    mask = torch.tensor([[1.0, 1, 0, 0]] * 3).reshape(1, 12, 1).expand(2, -1, 4)
    told = torch.cat([given.subject, mask], dim=-1)
    for own, expected in zip(
        ours(**given.stock(controlnet_cond=given.subject))[0],
        stock(**given.stock(controlnet_cond=told))[0],
        strict=True,
    ):
        torch.testing.assert_close(own, expected)


class Echo:
    """A pipeline that hands back a canvas on which each pixel says where it is."""

    seen: dict[str, Any]

    def __call__(
        self, width: int, height: int, prompt: Any, negative_prompt: Any, guidance_scale: Any, **given: Any
    ) -> Any:
        own = {"prompt": prompt, "negative_prompt": negative_prompt, "guidance_scale": guidance_scale}
        self.seen = {"size": (width, height), **own, **given}
        down, right = np.mgrid[:height, :width]
        canvas = np.stack([right, down, 0 * down], axis=-1).astype(np.uint8)
        return SimpleNamespace(images=[Image.fromarray(canvas)])


def test_the_subject_stands_cut_out_on_the_left_and_the_right_panel_is_kept_without_margins(
    dev: Path, controlnet: Path, dog: Path
) -> None:
    generator = generator_of("diptych", {"width": 64}, base=dev, controlnet=controlnet)
    generator.pipeline = echo = Echo()
    [made] = generator.make([request_of(dog, "diptych")])
    assert made.image is not None
    assert (made.image.size, made.image.getpixel((0, 0)), made.image.getpixel((63, 31))) == (
        (64, 32), (80 + 8, 8, 0), (80 + 8 + 63, 8 + 31, 0)
    )  # fmt: skip
    [canvas], [prompt] = echo.seen["control_image"], echo.seen["prompt"]
    assert canvas.size == echo.seen["size"] == (160, 48)
    assert [canvas.getpixel((x, y)) for x in (0, 30, 50, 79, 80, 159) for y in (0, 47)] == [
        colour for colour in ((255, 0, 0), (255, 0, 0), (255,) * 3, (255,) * 3, (0,) * 3, (0,) * 3) for _ in range(2)
    ]
    assert prompt.endswith("a dog in snow")
    assert prompt.count("dog") == 4
    assert (echo.seen["true_cfg_scale"], echo.seen["guidance_scale"]) == (3.5, 3.5)
    assert echo.seen["controlnet_conditioning_scale"] == 0.95
    assert echo.seen["negative_prompt"] == [METHODS["diptych"].parameters["negative_prompt"]]


def test_all_of_enforcement_control_and_negative_prompt_are_alive(dev: Path, controlnet: Path, dog: Path) -> None:
    generator: Any = generator_of("diptych", {"steps": 1}, base=dev, controlnet=controlnet)
    request = request_of(dog, "diptych")
    [first] = generator.make([request])
    setup = generator.setup
    for name, value in (("control", 0.5), ("negative_prompt", "snow"), ("enforcement", 1.0)):
        generator.setup = replace(setup, parameters={**setup.parameters, name: value})
        if name == "enforcement":
            generator.pipeline.transformer.set_attn_processor(PanelAttention(12, 24, 1.0))
        [other] = generator.make([request])
        assert (pixels(first.image) != pixels(other.image)).any(), name


def test_references_without_masks_are_refused_before_anything_is_loaded(dog: Path, tmp_path: Path) -> None:
    change_row(dog, 1, mask_file_name="")
    line = refused(dog, tmp_path / "run", "diptych")
    assert "1 of 1 reference photos (first 0.png): no mask" in line
    assert f"finer-rank gallery mask {dog} --model" in line


@pytest.mark.parametrize(
    ("mask", "wrong"),
    [
        (Image.new("L", (64, 48)), "no part of the picture is subject"),
        (Image.new("L", (48, 64), "white"), "48 × 64 pixels"),
        (None, "left.png"),
    ],
)
def test_a_mask_that_cannot_be_used_is_one_line(
    mask: Image.Image | None, wrong: str, dev: Path, controlnet: Path, dog: Path, tmp_path: Path
) -> None:
    path = dog / "masks" / "left.png"
    mask.save(path) if mask else path.unlink()
    line = refused(dog, tmp_path / "run", "diptych", base=dev, controlnet=controlnet)
    assert "left.png" in line
    assert wrong in line


def test_photos_in_folders_find_their_masks_in_the_gallery(dog: Path) -> None:
    photo = request_of(dog, "diptych").photo
    (dog / "deep" / "er").mkdir(parents=True)
    (dog / "0.png").rename(dog / "deep" / "er" / "0.png")
    moved = replace(photo, file_name="deep/er/0.png", path=dog / "deep/er/0.png")
    assert pixels(cut_out(moved)).sum() > 0


def test_a_controlnet_that_does_not_fit_is_refused_in_one_line(
    dev: Path, controlnet: Path, dog: Path, tmp_path: Path
) -> None:
    stock = load_file(controlnet / "diffusion_pytorch_model.safetensors")
    narrow = {**stock, "controlnet_x_embedder.weight": stock["controlnet_x_embedder.weight"][:, :PACKED].contiguous()}
    lacking = {name: tensor for name, tensor in stock.items() if "controlnet_blocks.1" not in name}
    for name, tensors in {"narrow": narrow, "lacking": lacking}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((controlnet / "config.json").read_bytes())
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
        line = refused(dog, tmp_path / "run", "diptych", base=dev, controlnet=folder)
        assert f"--weights controlnet={folder}: no inpainting ControlNet" in line
        assert {"narrow": "size mismatch for controlnet_x_embedder", "lacking": "Missing key(s)"}[name] in line
    (tmp_path / "empty").mkdir()
    line = refused(dog, tmp_path / "run", "diptych", base=dev, controlnet=tmp_path / "empty")
    assert f"--weights controlnet={tmp_path / 'empty'}: no inpainting ControlNet" in line


def test_a_controlnet_of_another_size_than_the_base_model_is_refused(
    dev: Path, dog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "num_attention_heads", 3)
    other = save_diptych_controlnet(tmp_path / "other")
    line = refused(dog, tmp_path / "run", "diptych", base=dev, controlnet=other)
    assert f"--weights controlnet={other}: does not fit the base model (num_attention_heads 3, not 2)" in line
