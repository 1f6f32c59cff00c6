"""`finer-rank agreement collect`: a page on which people judge your pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import Runs
from galleries.options import AsJson, Out

if TYPE_CHECKING:
    from benchmark.collecting.page import Page
    from benchmark.collecting.plan import CollectedKind, Question

app = typer.Typer()


@app.command()
def collect(
    out: Out,
    questions: Annotated[
        Path | None,
        typer.Argument(help="Table with columns reference, a, b[, target]; or target, image, for rankings."),
    ] = None,
    run: Runs = None,
    gallery: Annotated[
        Path | None, typer.Option("--gallery", "-g", help="Gallery of the runs: ask about their images instead.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="2afc (which of two) or ranking; what the table holds, and 2afc for runs.")
    ] = None,
    n_questions: Annotated[
        int | None, typer.Option("--questions", min=1, help="Ask so many, taken from each target in turn; all.")
    ] = None,
    practice: Annotated[int, typer.Option(min=0, help="Trials before the first, whose answer is told.")] = 2,
    sentinels: Annotated[
        int, typer.Option(min=0, help="Trials among the questions whose answer is plain: who fails one is left out.")
    ] = 3,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Comparing pictures",
    question: Annotated[
        str, typer.Option(help="What is asked; which one shows the same individual, by default.", show_default=False)
    ] = "",
    pixels: Annotated[int, typer.Option(min=32, max=2048, help="Longer side of the pictures that are shown.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of questions and sentinels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a page on which people judge your pictures: which of two is more like a reference, or in which order.

    The folder works from a disk and from any web server, and sends nothing: each rater gets a file at the end. Put
    these files into a folder, OUT.study.json into it or beside it, and agreement score and agreement tune read them.

    Example: finer-rank agreement collect triplets.csv --out page

    Example: finer-rank agreement collect --run runs/a --run runs/b --gallery pets --questions 60 --out page
    """
    from benchmark.collecting.page import Settings, write_page
    from benchmark.collecting.plan import COLLECTED_KINDS, sampled
    from benchmark.options import one_of
    from galleries.console import print_json, progress_bars
    from galleries.image_set import refuse_existing

    one_of("--kind", kind, COLLECTED_KINDS)
    refuse_existing(out)
    asked_kind, found = _found(questions, run or [], gallery, kind, seed)
    settings = Settings(title, question, practice, sentinels, pixels, seed)
    with progress_bars() as progress:
        page = write_page(asked_kind, sampled(found, n_questions, seed), out, settings, progress)
    if as_json:
        print_json(_summary(page))
        return
    _print(page)


def _found(
    table: Path | None, runs: list[Path], gallery: Path | None, kind: str | None, seed: int
) -> "tuple[CollectedKind, list[Question]]":
    """The questions that the options name, and their kind.

    Raises:
        FinerRankError: neither a table nor runs with their gallery, or both; a table of another kind.
    """
    from benchmark.collecting.plan import COLLECTED_KINDS, questions_of_runs, read_questions
    from benchmark.options import load_runs
    from galleries.errors import FinerRankError, raise_if_any
    from galleries.gallery import Gallery

    if table is not None:
        if runs or gallery is not None:
            raise FinerRankError(f"{table}: asks its own questions; leave --run and --gallery out, or the table")
        its_kind, found = read_questions(table)
        if kind not in (None, its_kind):
            raise FinerRankError(f"{table}: holds {its_kind} questions; leave --kind {kind} out")
        return its_kind, found
    if not runs or gallery is None:
        raise FinerRankError("no questions; give a table of them, or --run and --gallery")
    opened, faults = load_runs(runs)
    raise_if_any("runs", faults)
    asked = next(known for known in COLLECTED_KINDS if known == (kind or "2afc"))
    return asked, questions_of_runs(opened, Gallery.open(gallery), asked, seed)


def _summary(page: "Page") -> dict[str, object]:
    trials = page.trials
    return {
        "out": page.folder,
        "study": page.study.path,
        "id": page.study.id,
        "kind": page.study.kind,
        "n_questions": len(trials.questions),
        "n_targets": len({trial.target for trial in trials.questions}),
        "n_sentinels": len(trials.sentinels),
        "n_practice": len(trials.practice),
        "n_images": page.n_images,
        "n_bytes": page.n_bytes,
        "left_out": list(trials.left_out),
    }


def _print(page: "Page") -> None:
    from galleries.console import note, say

    trials = page.trials
    for line in trials.left_out:
        note(line)
    n_targets = len({trial.target for trial in trials.questions})
    say(
        f"{page.folder}: {len(trials.questions)} questions ({page.study.kind}) about {n_targets} targets, "
        f"{len(trials.sentinels)} sentinels, {len(trials.practice)} trials for practice, "
        f"{page.n_images} pictures ({page.n_bytes / 1e6:.1f} MB)"
    )
    note(f"{page.folder}/index.html: open it, send the folder, or put it on any web server")
    note(f"{page.study.path}: keep it, and send it to no rater; results are read with it")
