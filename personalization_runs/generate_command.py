"""`finer-rank run generate` and `finer-rank run methods`"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galleries.options import AsJson, Include
from personalization_runs.options import ClassWords

if TYPE_CHECKING:
    from collections.abc import Mapping

    from personalization_runs.methods.base import Method
    from personalization_runs.plans import Plan, Settings
    from personalization_runs.run import Run


def generate(
    gallery: Annotated[
        Path,
        typer.Option(
            "--gallery", "-g", help="Gallery whose identities are to be shown; for a --dry-run, also a manifest."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Run folder to write; with several methods, a folder of runs. A killed command goes on."),
    ],
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help="How: a name of finer-rank run methods, or paper or controls for several. Repeatable.",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option(
            help="[CATEGORY=]reid, cub, cars, dreambooth-live, dreambooth-object, a table with prompt_id and prompt, "
            "or DreamBench++'s folder. Repeatable."
        ),
    ],
    class_word: ClassWords = None,
    include: Include = None,
    images: Annotated[int, typer.Option(min=1, help="Of each identity and prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the run; noise and reference of each image follow from it.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a method's parameters, such as steps=30. Repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="ROLE=FOLDER or ROLE=OWNER/NAME@REVISION in place of the method's own; without ROLE, base. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(help="Folder of trained adapters (run train); those it lacks are trained.", show_default=False),
    ] = None,
    identifier: Annotated[
        str, typer.Option(help="Token that stands for the individual, where the method has one.", show_default=False)
    ] = "",
    fit: Annotated[str, typer.Option(help="How references become square: squash, crop or pad.")] = "squash",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once; halved when memory ends.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 elsewhere.")
    ] = "auto",
    shard: Annotated[
        str, typer.Option(help="I/N: make each N-th image, from the I-th on; the last to end completes the run.")
    ] = "1/1",
    workers: Annotated[
        int, typer.Option(min=0, help="Make it in so many shards at once, by Ray: one GPU each; 0: in this process.")
    ] = 0,
    address: Annotated[
        str,
        typer.Option(help="Ray cluster of these workers, such as auto; this machine by default.", show_default=False),
    ] = "",
    allow_remote_code: Annotated[
        bool, typer.Option("--allow-remote-code", help="Run code that the weights' repository brings (emu2).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, its cost and downloads; make nothing.")
    ] = False,
    model: Annotated[str, typer.Option(help="Name of the model in tables; the method's by default.")] = "",
    authors: Annotated[str, typer.Option(help="Who made the run.", show_default=False)] = "",
    contact: Annotated[str, typer.Option(help="Web page or address of whoever answers for it.")] = "",
    url: Annotated[str, typer.Option(help="Where code or paper is; the paper by default.", show_default=False)] = "",
    licence: Annotated[str, typer.Option(help="Of the images.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Make the images of a run: of every identity one for every prompt.

    An image's seed and reference follow from run seed, identity and prompt: all methods get the same, in any order.
    Killed, it goes on where it was when called again.

    Example: finer-rank run generate -g zebras -m ip-adapter --prompts reid --out runs/ip-adapter
    """
    from galleries.console import note, print_json, progress_bars, say
    from galleries.errors import FinerRankError
    from galleries.freeze import find_manifest
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_inside
    from personalization_runs.cluster import make_run_on_ray
    from personalization_runs.methods import find_methods
    from personalization_runs.plans import Settings, make_plan, make_run

    if workers and shard != "1/1":
        raise FinerRankError("--workers: makes all shards; leave --shard out")
    if address and not workers:
        raise FinerRankError(f"--address {address}: say how many --workers there are to be")
    methods = find_methods(method)
    if model and len(methods) > 1:
        raise FinerRankError("--model: each run is named after its method; leave it out, or give one --method")
    settings = Settings(
        prompts,
        class_word or (),
        include or (),
        images,
        seed,
        set_ or (),
        weights or (),
        adapters,
        identifier,
        fit,
        batch_size,
        device,
        dtype,
        _shard(shard),
        allow_remote_code,
        {"model": model, "authors": authors, "contact": contact, "url": url, "licence": licence},
    )
    if dry_run and gallery.suffix == ".toml":
        manifest = find_manifest(str(gallery))
        opened = Gallery(manifest.card, manifest.photos, gallery)
    else:
        opened = Gallery.open(gallery)
    refuse_inside(out, gallery)
    plans = [
        make_plan(opened, own, _meant_for(own, methods, settings), out / own.name if len(methods) > 1 else out)
        for own in methods
    ]
    if dry_run:
        _print_plans(plans, as_json)
        return
    results = []
    for plan in plans:
        run: Run | None
        if workers:
            run = make_run_on_ray(plan, workers, address=address, warn=note)
        else:
            with progress_bars("images/s") as progress:
                run = make_run(plan, progress=progress, warn=note)
        made = {"images": len(run.images), "refused": len(run.refused)} if run else {"images": None, "refused": None}
        results.append({"run": plan.out, "method": plan.method.name, **made})
        if as_json:
            continue
        if run is None:
            say(f"{plan.out}: shard {shard} is made; the run is complete once the other shards are")
        else:
            say(f"{plan.out}: {run.summary}")
    if as_json:
        print_json(results)


def methods(as_json: AsJson = False) -> None:
    """List the methods that images can be made with, and what each takes."""
    from dataclasses import asdict

    from galleries.console import print_json, print_table, say
    from personalization_runs.methods import METHODS
    from personalization_runs.methods.base import COST_BASIS

    if as_json:
        rows = [asdict(method) for method in METHODS.values()]
        print_json([{key: value for key, value in row.items() if key != "generator"} for row in rows])
        return
    print_table("", ["method", "what it does", "memory", "s/image", "s/training"], [
        [
            method.name,
            method.summary,
            f"{method.memory_gb:g} GB",
            f"{method.image_seconds:g}",
            f"{method.training_seconds:g}" if method.training else "",
        ]
        for method in METHODS.values()
    ], n_left=2)  # fmt: skip
    say(f"Memory and seconds: {COST_BASIS}. Parameters: finer-rank run methods --json")


def _meant_for(method: "Method", methods: "Sequence[Method]", settings: "Settings") -> "Settings":
    """The settings without the parameters and weights that only others of the methods know."""
    from dataclasses import replace

    def known(assignment: str, own: "Mapping[str, object]", everybody: "Sequence[Mapping[str, object]]") -> bool:
        name = assignment.partition("=")[0] if "=" in assignment else "base"
        return name in own or not any(name in others for others in everybody)

    parameters = [each.parameters for each in methods]
    weights = [each.weights for each in methods]
    return replace(
        settings,
        parameters=[a for a in settings.parameters if known(a, method.parameters, parameters)],
        weights=[a for a in settings.weights if known(a, method.weights, weights)],
        identifier=settings.identifier if method.identifier or len(methods) == 1 else "",
        adapters=_adapters(method, methods, settings.adapters),
    )


def _adapters(method: "Method", methods: "Sequence[Method]", folder: Path | None) -> Path | None:
    """Of several methods each has a folder of adapters below the given one."""
    if folder is None or len(methods) == 1:
        return folder
    return folder / method.name if method.training else None


def _shard(text: str) -> tuple[int, int]:
    """Which of how many parts.

    Raises:
        FinerRankError: no such part.
    """
    from galleries.errors import FinerRankError

    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and len(part + of) < 20 and 1 <= int(part) <= int(of)):
        raise FinerRankError(f"--shard {text}: write I/N, such as 1/4 for the first of four")
    return int(part), int(of)


def _print_plans(plans: "Sequence[Plan]", as_json: bool) -> None:
    from galleries.console import print_json, print_table, say
    from personalization_runs.methods.base import COST_BASIS

    downloads = sorted({weights for plan in plans for weights in plan.downloads.values()}, key=str)
    gated = sorted({weights.repository for weights in downloads if weights.is_gated})
    total = {
        "images": sum(len(plan.requests) for plan in plans),
        "gpu_hours": round(sum(plan.gpu_hours for plan in plans), 2),
        "download_gb": round(sum(weights.gigabytes for weights in downloads), 1),
        "gated": gated,
        "assumption": COST_BASIS,
    }
    if as_json:
        print_json({"runs": [plan.as_json() for plan in plans], "total": total})
        return
    print_table("", ["method", "identities", "prompts", "images", "GPU hours", "memory", "download"], [
        [
            (row := plan.as_json())["method"],
            str(row["identities"]),
            str(row["prompts"]),
            str(row["images"]),
            f"{plan.gpu_hours:.1f}",
            f"{plan.method.memory_gb:g} GB",
            f"{sum(row['downloads_gb'].values()):.1f} GB",
        ]
        for plan in plans
    ])  # fmt: skip
    say(
        f"{total['images']} images, {total['gpu_hours']:.1f} GPU hours, {total['download_gb']:.1f} GB to download "
        "(weights that several methods share once)"
    )
    say(f"Hours and memory: {COST_BASIS}.")
    for weights in downloads:
        say(f"download {weights.repository}: {weights.gigabytes:g} GB, licence {weights.licence}")
    for name in gated:
        say(f"{name}: accept its terms at https://huggingface.co/{name}, then run hf auth login")
