"""Pictures from a generator that is being trained, of which the training must notice nothing."""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image


def is_pipeline(generate: Any) -> bool:
    """Whether it is a pipeline of diffusers, or like one."""
    return hasattr(generate, "set_progress_bar_config") and hasattr(generate, "components")


def pipeline_pictures(
    pipeline: Any, options: Mapping[str, Any], prompts: list[str], seeds: list[int]
) -> "list[Image | None]":
    """One picture at a time: a training leaves little memory, and its neighbours move the last bits of a picture."""
    pictures = []
    with pipeline_kept(pipeline):
        for prompt, seed in zip(prompts, seeds, strict=True):
            # On the CPU: the same noise for every device.
            made = pipeline(prompt=prompt, generator=torch.Generator("cpu").manual_seed(seed), **options)
            flagged = getattr(made, "nsfw_content_detected", None) or [False]
            pictures.append(None if flagged[0] else made.images[0])
    return pictures


@contextmanager
def pipeline_kept(pipeline: Any) -> Iterator[None]:
    """Networks as they judge and not as they learn, no bars; afterwards all is as it was."""
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    is_training = {module: module.training for network in networks for module in network.modules()}
    bars = dict(getattr(pipeline, "_progress_bar_config", {}))
    scheduler = getattr(pipeline, "scheduler", None)
    try:
        if scheduler is not None:  # the loop may take its noise from it: a call would replace sigmas and timesteps
            pipeline.scheduler = copy.deepcopy(scheduler)
        pipeline.set_progress_bar_config(**{**bars, "disable": True})
        for network in networks:
            network.eval()
        yield
    finally:
        for module, was_training in is_training.items():
            module.training = was_training  # of each alone: train() would set all below it too
        pipeline.set_progress_bar_config(**bars)
        if scheduler is not None:
            pipeline.scheduler = scheduler


@contextmanager
def randomness_kept() -> Iterator[None]:
    """The global random numbers of Python, NumPy and torch (CPU and CUDA) go on afterwards where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def full_precision() -> Iterator[None]:
    """Encoders compute as they did for the stored photos, without TF32; the loop gets back what it had chosen."""
    # Embedders see to autocast themselves, and switch TF32 off for convolutions, for everybody, as they are loaded.
    of: Any = torch.backends
    switches: list[tuple[Any, str, Any]] = [(of.cuda.matmul, "allow_tf32", False), (of.cudnn, "allow_tf32", False)]
    if hasattr(of.cudnn, "conv"):  # from torch 2.9 on; the older switches raise where a loop has used these
        owners = (of.cuda.matmul, of.mkldnn.matmul, of.cudnn.conv, of.cudnn.rnn)
        switches = [(owner, "fp32_precision", "ieee") for owner in owners]
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        older = of.cudnn.allow_tf32
    except RuntimeError:  # a loop that uses both kinds cannot read this one
        older = None
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        if older is not None:
            of.cudnn.allow_tf32 = older
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
