"""`finer-rank run train`: it trains, which knows nothing of scores, and scores what is learned on the way."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import Device, Store
from galleries.options import AsJson, Include
from personalization_runs.options import ClassWords

if TYPE_CHECKING:
    from benchmark.identity_callback import IdentityCallback
    from personalization_runs.training.cards import Subject

app = typer.Typer()


@app.command()
def train(
    gallery: Annotated[
        Path, typer.Option("--gallery", "-g", help="Gallery whose identities are learned, from their reference photos.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of adapters, one per identity, to write or add to. A killed command goes on.")
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help="dreambooth, dreambooth-lora, textual-inversion or custom-diffusion.")
    ] = "dreambooth-lora",
    class_word: ClassWords = None,
    include: Include = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, crops, order and class images; that of the runs.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the method's parameters, such as training_steps=800. Repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="FOLDER or OWNER/NAME@REVISION in place of the method's own base model.", show_default=False),
    ] = None,
    identifier: Annotated[
        str, typer.Option(help="Token that stands for the individual; by default the method's.", show_default=False)
    ] = "",
    fit: Annotated[
        str, typer.Option(help="How photos become square: squash, crop (another part each time) or pad.")
    ] = "squash",
    checkpoint_every: Annotated[
        int,
        typer.Option(min=0, help="Steps between checkpoints, each three times as large as what is trained; 0: none."),
    ] = 250,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16, which is the default on a GPU; adapters are held in float32.")
    ] = "auto",
    score_every: Annotated[
        int,
        typer.Option(
            min=0,
            help="Steps between scores of identity and prompt fidelity, written with pictures to OUT-scores; 0: none.",
        ),
    ] = 0,
    embedder: Annotated[
        str, typer.Option(help="Encoder that tells individuals apart, for --score-every.", show_default=False)
    ] = "",
    clip_t: Annotated[
        str, typer.Option(help="Encoder that compares images with prompts, such as clip.", show_default=False)
    ] = "",
    prompts: Annotated[
        list[str] | None, typer.Option(help="Prompt sets whose first four are scored; reid by default.")
    ] = None,
    logger: Annotated[
        str, typer.Option(help="tensorboard or wandb, to see the scores there too.", show_default=False)
    ] = "",
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Train an adapter of each identity, for run generate with the same method, weights, seed and --adapters OUT.

    Parameters of images (steps, guidance, width, height, negative_prompt) may change from run to run; others may not.
    Killed, it goes on from its last checkpoint when called again, and ends in the same bytes.

    With --score-every, images of a few prompts are made and ranked on the way: which step has learned who it is, and
    still does what prompts say? The same command with that number of training_steps ends there.

    Example: finer-rank run train -g zebras -m dreambooth --score-every 100 --embedder miewid --out adapters
    """
    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.gallery import Gallery
    from personalization_runs.methods import METHODS, find_method
    from personalization_runs.plans import Settings, make_plan, set_up
    from personalization_runs.training import read_card, train_adapters
    from personalization_runs.training.cards import folder_of, subjects_of
    from personalization_runs.training.recipe import Recipe

    if bool(score_every) != bool(embedder) or (not score_every and (clip_t or prompts or logger)):
        raise FinerRankError(
            "--score-every K and --embedder NAME go together, and the other options of scores with them"
        )
    found = find_method(method)
    if not found.training:
        trained = ", ".join(name for name, each in METHODS.items() if each.training)
        raise FinerRankError(f"--method {method}: trains nothing; one of {trained}")
    settings = Settings(
        (),
        class_word or (),
        include or (),
        seed=seed,
        parameters=set_ or (),
        weights=weights or (),
        adapters=out,
        identifier=identifier,
        fit=fit,
        device=device,
        dtype=dtype,
    )
    opened = Gallery.open(gallery)
    plan = make_plan(opened, found, settings, out)
    Recipe.of(plan.parameters, dtype)  # what nothing can be trained with is refused before anything is fetched
    callbacks: dict[str, IdentityCallback] = {}
    with progress_bars("steps/s") as progress:
        callback_for = None
        if score_every:
            from benchmark.identity_callback import callbacks_for

            shown = {"guidance_scale": plan.parameters["guidance"], "num_inference_steps": plan.parameters["steps"]}
            same = ("width", "height", "negative_prompt")
            make = callbacks_for(
                opened,
                every=score_every,
                embedder=embedder,
                clip_t=clip_t,
                device=device,
                store=store,
                prompts=prompts or ["reid"],
                identifier=plan.identifier,
                seed=seed,
                last=plan.parameters["training_steps"],
                logger=logger or None,
                pipeline_options=shown | {name: plan.parameters[name] for name in same if name in plan.parameters},
                warn=note,
            )

            def callback_for(subject: "Subject") -> "IdentityCallback":
                folder = out.with_name(f"{out.name}-scores") / folder_of(out, subject.identity).name
                callbacks[subject.identity] = make(subject.identity, class_word=subject.class_word, out=folder)
                return callbacks[subject.identity]

            for subject in subjects_of(plan):  # what is wrong with any is said before anything is downloaded or trained
                if not folder_of(out, subject.identity).is_dir():
                    callback_for(subject)
            callbacks.clear()

        setup = set_up(plan, warn=note)
        train_adapters(
            plan,
            setup,
            progress=progress,
            warn=note,
            checkpoint_every=checkpoint_every,
            callback_for=callback_for,
            callback_every=score_every,
        )
    folders = {subject.identity: folder_of(out, subject.identity) for subject in subjects_of(plan)}
    cards = {identity: read_card(folder) for identity, folder in folders.items()}
    if as_json:
        print_json([{"adapter": folder, **cards[identity]} for identity, folder in folders.items()])
        return
    for identity, folder in folders.items():
        card = cards[identity]
        say(f"{folder}: {identity}, loss on a fixed probe {card['probe_before']:.4f} -> {card['probe_after']:.4f}")
        if identity in callbacks and callbacks[identity].curve.steps:
            best = callbacks[identity].best()
            say(f"  {callbacks[identity].out}: step {best.scored.step}, {best.reason}")
