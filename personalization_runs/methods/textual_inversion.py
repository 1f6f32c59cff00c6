"""Textual inversion (Gal et al. 2023): vectors that a new word is read as; no network changes.

They begin as the class's own word. Prompts hold the word once, whatever the number of its vectors.
"""

from personalization_runs.methods.base import NEGATIVE_PROMPT, SDXL, SQUARE, Method
from personalization_runs.methods.trained import Generator

METHODS = (
    Method(
        "textual-inversion",
        "vectors of a new word are trained on the references (Stable Diffusion, SDXL, FLUX)",
        Generator,
        paper="https://arxiv.org/abs/2208.01618",
        weights={"base": SDXL},
        parameters={
            "steps": 50,
            "guidance": 5.0,
            **SQUARE,
            "negative_prompt": NEGATIVE_PROMPT,
            "training_steps": 2000,
            "learning_rate": 5e-4,
            "training_size": 1024,
            "n_vectors": 4,
        },
        training="vectors",
        identifier="<sks>",
        memory_gb=24,
        image_seconds=4,
        training_seconds=600,
    ),
)
