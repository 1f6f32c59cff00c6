"""`finer-rank agreement tune`: a distance of your own, from what people said."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.options import Device, Store
from galleries.options import AsJson, Out

app = typer.Typer()

RECIPES = ("dreamsim", "clpips")


@app.command()
def tune(
    judgements: Annotated[list[Path], typer.Argument(help="Human data, as for agreement score. Several are pooled.")],
    recipe: Annotated[str, typer.Option(help="dreamsim: adapt encoders. clpips: weigh the layers of LPIPS.")],
    out: Out,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="dreamsim: an embedder, such as dino. Repeatable: embeddings stand side by side."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="dreamsim: lora (of Vision Transformers), or mlp (a head on any embedder).")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="dreamsim, lora: rank of the update; 16.")] = None,
    alpha: Annotated[float | None, typer.Option(help="dreamsim, lora: 8 for several backbones, 32 for one.")] = None,
    dropout: Annotated[float | None, typer.Option(help="dreamsim, lora: 0.3 for several, 0.2 for one.")] = None,
    hidden: Annotated[int | None, typer.Option(help="dreamsim, mlp: units of the hidden layer; 512.")] = None,
    network: Annotated[str | None, typer.Option(help="clpips: alex, the default, vgg or squeeze.")] = None,
    trunk: Annotated[
        Path | None, typer.Option(help="clpips: file of that network's weights; fetched where not given.")
    ] = None,
    per: Annotated[
        str | None, typer.Option(help="clpips: one scale per layer, the default, or one weight per channel.")
    ] = None,
    rater: Annotated[str | None, typer.Option(help="clpips: tune to this person alone.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="By how much the nearer should be nearer. dreamsim: in cosine distance; 0.05. clpips: in root mean "
            "square gaps of LPIPS; 0.3."
        ),
    ] = None,
    pull: Annotated[
        float | None, typer.Option(help="clpips: how strongly weights stay near LPIPS'; 0.01, from 0.0001 on.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="dreamsim: of Adam.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="dreamsim: judgements per step.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="dreamsim: passes over the judgements.")] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Share of the targets, where the data name no splits. dreamsim: judged by, never trained on; 0.2. "
            "clpips: held out at a time, each target once; 0.1."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Squash images to so many pixels; 224 for dreamsim, 256 for clpips.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of order, start and held-out targets; of clpips, of the latter alone.")
    ] = None,
    device: Device = "auto",
    store: Store = None,
    resume: Annotated[bool, typer.Option("--resume", help="dreamsim: go on with a tuning that was killed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tune a distance to what people said, and say how well it agrees with them before and after, on held-out targets.

    Example: finer-rank agreement tune nights --recipe dreamsim --backbone dino --out dino-tuned

    Example: finer-rank agreement tune rankings.csv --recipe clpips --network alex --out clpips
    """
    from benchmark.distances import Resources
    from benchmark.human_judgements.sources import load_judgements
    from benchmark.options import one_of
    from benchmark.store import store_at
    from galleries.console import note, print_json, progress_bars, say
    from galleries.image_set import refuse_existing

    one_of("--recipe", recipe, RECIPES)
    asked = {
        "backbones": tuple(backbone) if backbone else None, "method": method, "rank": rank, "alpha": alpha,
        "dropout": dropout, "hidden": hidden, "network": network, "trunk": trunk, "per": per, "rater": rater,
        "margin": margin, "pull": pull, "learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs,
        "held_out": held_out, "size": size, "seed": seed,
    }  # fmt: skip
    module = _module(recipe)
    settings = module.Settings(**_own(recipe, module.Settings, asked))
    refuse_existing(out)
    given = load_judgements(judgements)
    with progress_bars() as progress:
        resources = Resources(store_at(store), None, progress, note)
        tuned = module.tune(given, settings, out, resources, device=device, resume=resume)
    if as_json:
        print_json({"out": out, **tuned.record})
        return
    for line in tuned.lines():
        say(line)


def _module(recipe: str) -> Any:
    from importlib import import_module

    return import_module(f"benchmark.tuning.{recipe}")


def _own(recipe: str, settings: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, where the recipe has them.

    Raises:
        FinerRankError: one that it has not.
    """
    import dataclasses

    from galleries.errors import FinerRankError

    given = {name: value for name, value in asked.items() if value is not None}
    foreign = sorted(given.keys() - {field.name for field in dataclasses.fields(settings)})
    if foreign:
        option = foreign[0].rstrip("s") if foreign[0] == "backbones" else foreign[0]
        raise FinerRankError(f"--{option.replace('_', '-')}: is no option of the recipe {recipe}; leave it out")
    return given
