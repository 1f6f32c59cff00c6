"""DreamBooth (Ruiz et al. 2023): the network learns a rare word for an individual, and keeps what it knew of its class.

The row `dreambooth` is as in arXiv 2512.19026: Stable Diffusion 3 medium, all of its transformer.
"""

from personalization_runs.methods.base import NEGATIVE_PROMPT, SD3, SDXL, SQUARE, Method
from personalization_runs.methods.trained import Generator

METHODS = (
    Method(
        "dreambooth",
        "all of the network is trained on the references, and on images of the class",
        Generator,
        paper="https://arxiv.org/abs/2208.12242",
        weights={"base": SD3},
        parameters={
            "steps": 30,
            "guidance": 5.0,
            **SQUARE,
            "training_steps": 800,
            "learning_rate": 5e-6,
            "training_size": 768,
            "prior_weight": 0.5,
            "n_prior_images": 100,
            "prior_steps": 30,
        },
        training="full",
        identifier="sks",
        memory_gb=45,
        image_seconds=3,
        training_seconds=240,
    ),
    Method(
        "dreambooth-lora",
        "LoRA (SDXL, SD3, FLUX) is trained on the references, and on images of the class",
        Generator,
        paper="https://arxiv.org/abs/2208.12242",
        weights={"base": SDXL},
        parameters={
            "steps": 50,
            "guidance": 5.0,
            **SQUARE,
            "negative_prompt": NEGATIVE_PROMPT,
            "training_steps": 500,
            "learning_rate": 1e-4,
            "training_size": 1024,
            "rank": 16,
            "prior_weight": 1.0,
            "n_prior_images": 100,
            "prior_steps": 30,
        },
        training="lora",
        identifier="sks",
        memory_gb=24,
        image_seconds=4,
        training_seconds=240,
    ),
)
