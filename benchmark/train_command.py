"""`finer-rank embedder train`: an encoder of your own, from galleries."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.options import Device
from galleries.options import AsJson, Out


def train(
    gallery: Annotated[
        list[Path],
        typer.Option("--gallery", "-g", help="Gallery whose photos are trained on. Repeatable."),
    ],
    backbone: Annotated[str, typer.Option(help="timm:NAME\\[@FILE] or torchvision:NAME\\[@FILE].")],
    out: Out,
    from_scratch: Annotated[bool, typer.Option(help="Begin with random weights, not with published ones.")] = False,
    loss: Annotated[str, typer.Option(help="arcface, softmax (normalised) or triplet.")] = "arcface",
    size: Annotated[int, typer.Option(help="Input size in pixels; photos are squashed to it.")] = 128,
    epochs: Annotated[int, typer.Option(help="At most so many passes over the photos.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    images_per_identity: Annotated[int, typer.Option(help="Of which so many of each identity.")] = 4,
    learning_rate: Annotated[
        float, typer.Option(help="At its peak; it rises first, then falls. From scratch: 2e-3.")
    ] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    held_out: Annotated[float, typer.Option(help="Share of the identities that are never trained on.")] = 0.2,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better one.")] = 10,
    seed: Annotated[int, typer.Option(help="Of who is held out, of order and variation of the photos.")] = 0,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network on a CPU.")] = None,
    augment: Annotated[bool, typer.Option(help="Vary the photos: crops, light, blur, patches.")] = True,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Also mirror them. By default only where no gallery names viewpoints: of an animal marked by side, "
            "the mirror image is another animal.",
            show_default=False,
        ),
    ] = None,
    train_split: Annotated[
        list[str] | None,
        typer.Option(help="Train only on photos of this split: reference, gallery or distractor. Repeatable."),
    ] = None,
    backbone_trained_on: Annotated[
        list[str] | None,
        typer.Option(help="Data set that the backbone's weights have seen, such as imagenet-1k. Repeatable."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16: half the size.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was killed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on the identities of galleries, judged by identities that it never trained on.

    Of each epoch the held-out mAP is measured, and of the backbone as it came; the best is written, for checkpoint:OUT.

    Example: finer-rank embedder train -g zebras --backbone timm:resnet18 --out zebra-reid
    """
    from benchmark import training
    from galleries.console import print_json, progress_bars, say
    from galleries.gallery import Gallery

    settings = training.Settings(
        backbone=backbone,
        from_scratch=from_scratch,
        loss=loss,  # type: ignore[arg-type]
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        images_per_identity=images_per_identity,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        held_out=held_out,
        patience=patience,
        seed=seed,
        augment=augment,
        flip=flip,
        train_splits=tuple(train_split or ()),
        half=half,
        backbone_trained_on=tuple(backbone_trained_on) if backbone_trained_on else None,
    )
    galleries = [Gallery.open(folder) for folder in gallery]
    with progress_bars() as progress:
        result = training.train(
            galleries, settings, out, device=device, threads=threads, resume=resume, progress=progress
        )
    if as_json:
        print_json({"out": out, **result.record})
        return
    for line in result.lines():
        say(line)
    say(f"{out}: use it as checkpoint:{out}")
