"""Pictures, and embedders of random weights with an ensemble among them."""

from pathlib import Path

from networks import colours, save_timm

from benchmark.embedders import Embedder, load_embedder

PICTURES = [colours(seed) for seed in range(6)]
SQUARES = [colours(seed, (40, 40)) for seed in range(5)]


def save_vits(folder: Path) -> list[str]:
    """Specs of two networks of random weights."""
    return [f"timm:test_vit@{save_timm(folder / f'{seed}.safetensors', seed=seed)}" for seed in (0, 1)]


def load_embedders(vits: list[str]) -> dict[str, Embedder]:
    specs = {"timm": vits[0], "other": vits[1], "classical": "classical", "ensemble": f"ensemble:{vits[0]},classical"}
    return {family: load_embedder(spec, device="cpu") for family, spec in specs.items()}
