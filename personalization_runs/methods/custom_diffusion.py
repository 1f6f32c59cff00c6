"""Custom Diffusion (Kumari et al. 2023), its form that is simplest: keys and values of the text, and a rare word.

The paper trains the word's vector as well, and finds its class images in a data set; here the base model makes them.
SD3 and FLUX have no cross-attention: there, the keys and values of text in double blocks are trained.
"""

from personalization_runs.methods.base import NEGATIVE_PROMPT, SDXL, SQUARE, Method
from personalization_runs.methods.trained import Generator

METHODS = (
    Method(
        "custom-diffusion",
        "keys and values of the text are trained on the references, and on images of the class",
        Generator,
        paper="https://arxiv.org/abs/2212.04488",
        weights={"base": SDXL},
        parameters={
            "steps": 50,
            "guidance": 5.0,
            **SQUARE,
            "negative_prompt": NEGATIVE_PROMPT,
            "training_steps": 500,
            "learning_rate": 1e-5,
            "training_size": 1024,
            "prior_weight": 1.0,
            "n_prior_images": 100,
            "prior_steps": 30,
        },
        training="key-value",
        identifier="sks",
        memory_gb=26,
        image_seconds=4,
        training_seconds=240,
    ),
)
