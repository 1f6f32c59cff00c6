"""`finer-rank ask`: what a language model with eyes thinks of a run, beside the ranking."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import GalleryOption
from galleries.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.language_judge import Score

app = typer.Typer()

INSTALL = "pip install 'finer-rank[language-judge]'"
SHOWN_MISSING = 10
FEW_IDENTITIES = 10
"""As for records: below so many, a bootstrap over identities gives intervals that are too narrow."""


@app.command()
def ask(
    gallery: GalleryOption,
    run: Annotated[Path, typer.Option("--run", "-r", help="Run folder.")],
    endpoint: Annotated[
        str,
        typer.Option(
            help="Server of chat completions that takes images, such as https://api.openai.com/v1 or "
            "http://localhost:8000/v1. Images are sent there. The key is read from $OPENAI_API_KEY."
        ),
    ],
    model: Annotated[str, typer.Option(help="Its name there.")],
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Times to ask about each image.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images, spread over the identities.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0: the likeliest words. Above, repeats differ.")
    ] = 0.0,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time; the result is the same.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 120.0,
    retries: Annotated[
        int, typer.Option(min=0, max=20, help="Of a request that met a busy or failing server, a timeout, a lost line.")
    ] = 6,
    retry_wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds before the first retry, doubled each time; the server may name others."),
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and scores.csv; must not exist yet.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of replies, none of which is asked for twice; your cache folder by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a language model whether each image shows the individual of its reference photo: 0 to 4.

    An opinion beside the ranking: no record, comparison or leaderboard holds it.

    Example: finer-rank ask --gallery pets --run runs/ip_adapter --endpoint http://localhost:8000/v1 --model qwen2.5-vl
    """
    import math

    from benchmark.language_judge import Settings, default_cache, judge_run
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError, below, raise_if_any
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_existing
    from galleries.tables import is_utf8
    from personalization_runs.run import Run

    _require("httpx", *(["krippendorff"] if repeats > 1 else []))
    from benchmark.chat_endpoint import ChatEndpoint, key_from_environment
    from benchmark.language_judge_scores import summary_of, write_scores

    if not model.strip() or not is_utf8(model):
        raise FinerRankError("--model: no name of a model; write the one that the server knows it by")
    for option, value in (("timeout", timeout), ("retry-wait", retry_wait)):
        if not math.isfinite(value):
            raise FinerRankError(f"--{option} {value}: not a number to work with; write an ordinary one")
    if out is not None:
        refuse_existing(out)
    opened, faults = Gallery.load(gallery)
    judged, run_faults = Run.load(run)
    raise_if_any("no question was asked", [*below(opened.root, faults), *below(judged.root, run_faults)])
    settings = Settings(model, repeats, temperature, limit, parallel)
    server = ChatEndpoint(
        endpoint,
        key_from_environment(),
        timeout_s=timeout,
        retries=retries,
        retry_wait_s=retry_wait,
        n_connections=parallel,
    )
    with server, progress_bars() as progress:
        judgement = judge_run(opened, judged, server, settings, cache or default_cache(), progress)
    summary = summary_of(judgement, opened, judged, server.host)
    if out is not None:
        write_scores(summary, judgement.scores, out)
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    _list_missing(judgement.scores, "" if out is None else f"; all of them: {out / 'scores.csv'}")
    if summary["n_identities"] < FEW_IDENTITIES:
        note(f"note: {summary['n_identities']} identities are too few for the interval to be taken at its word")
    note(f"{judgement.n_requests} requests to {server.host} for {summary['n_asked']} scores")
    if out is not None:
        note(f"scores: {out}")


def _require(*packages: str) -> None:
    from importlib import import_module

    from galleries.errors import FinerRankError

    for package in packages:
        try:
            import_module(package)
        except ImportError:
            raise FinerRankError(
                f"language models are asked through {package}, which is not installed; {INSTALL}"
            ) from None


def _print(summary: "dict[str, Any]") -> None:
    from galleries.console import print_table, say

    def interval(of: "dict[str, float | None]") -> str:
        if of["value"] is None:
            return "–"
        return f"{of['value']:.2f}" + ("" if of["low"] is None else f" [{of['low']:.2f}, {of['high']:.2f}]")

    columns = ["run", "same individual, 0–4", "of 1", "images", "identities", "answered", "missing"]
    counts = [str(summary[key]) for key in ("n_images", "n_identities", "n_answered", "n_missing")]
    cells = [interval(summary["mean_score"]), interval(summary["mean_score_of_1"]), *counts]
    if summary["repeats"] > 1:
        alpha = summary["krippendorff_alpha"]
        columns.append("alpha of repeats")
        cells.append("–" if alpha is None else f"{alpha:.3f}")
    print_table(f"{summary['gallery']['name']}, {summary['model']}", columns, [[summary["run"]["model"], *cells]])
    say(f"This is the {summary['what']}.")
    others = {kind: n for kind, n in summary["references"].items() if kind != "named by the run"}
    for kind, n in others.items():
        say(f"{n} of {sum(summary['references'].values())} images name no reference: compared with their {kind}")


def _list_missing(scores: "Sequence[Score]", where: str) -> None:
    from galleries.console import note

    missing = [score for score in scores if score.score is None]
    for score in missing[:SHOWN_MISSING]:
        note(f"missing: {score.file_name}, repeat {score.repeat}: {score.status} ({score.reason[:120]})")
    if len(missing) > SHOWN_MISSING:
        note(f"and {len(missing) - SHOWN_MISSING} more{where}")
