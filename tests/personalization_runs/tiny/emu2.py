"""A stand-in for Emu2-Gen: the calls and the files of the published repository, with code of our own in it."""

import json
import shutil
from pathlib import Path
from typing import Literal

import torch

from tiny import parts, sd, sdxl
from tiny.emu2_remote.configuration_emu import EmuConfig
from tiny.emu2_remote.modeling_emu import EmuForCausalLM

CODE = Path(__file__).parent / "emu2_remote"


def save_encoder(folder: Path) -> None:
    """With its code beside it, so that `AutoModelForCausalLM` must be told to trust it."""
    encoder = EmuForCausalLM(EmuConfig(width=parts.WIDTH, n_tokens=len(parts.llama_tokenizer())))
    parts.amplify(encoder, 3, "visual", "project_up", "project_down")
    with torch.no_grad():  # what was read must not be forgotten at once
        for weight in (encoder.decoder.weight_ih_l0, encoder.decoder.weight_hh_l0):
            weight.mul_(3)
    encoder.eval().save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    described["auto_map"] = {
        "AutoConfig": "configuration_emu.EmuConfig",
        "AutoModelForCausalLM": "modeling_emu.EmuForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2))
    for name in ("configuration_emu.py", "modeling_emu.py"):
        shutil.copy(CODE / name, folder)


def save_emu2(
    folder: Path, *, flags: Literal["everything", "nothing"] | None = "nothing", passed_encoder: bool = False
) -> Path:
    """For `DiffusionPipeline` with `custom_pipeline="pipeline_emu2_gen"` and `trust_remote_code=True`.

    diffusers refuses an encoder that the caller passes if the index names a file of the repository, and cannot
    load one itself if the index names transformers; `passed_encoder` is the latter case, for an encoder from
    `AutoModelForCausalLM`. A safety checker saved as None must be passed as None, too.
    """
    torch.manual_seed(0)
    save_encoder(folder / "multimodal_encoder")
    saved = {
        "feature_extractor": parts.clip_image_processor(),
        "scheduler": parts.euler(),
        "tokenizer": parts.llama_tokenizer(),
        "unet": sdxl.unet(cross=parts.WIDTH, pooled=parts.WIDTH),
        "vae": parts.autoencoder(scaling_factor=0.13),
        "safety_checker": sd.checker(flags),
    }
    libraries = dict.fromkeys(("scheduler", "unet", "vae"), "diffusers") | {"safety_checker": "stable_diffusion"}
    index: dict[str, object] = {"_class_name": "EmuVisualGenerationPipeline", "_diffusers_version": "0.21.2"}
    for name, part in saved.items():
        if part is not None:
            part.save_pretrained(folder / name)
        index[name] = [None, None] if part is None else [libraries.get(name, "transformers"), type(part).__name__]
    own, common = ["modeling_emu", "EmuForCausalLM"], ["transformers", "PreTrainedModel"]
    index["multimodal_encoder"] = common if passed_encoder else own
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    shutil.copy(CODE / "pipeline_emu2_gen.py", folder)
    return folder
