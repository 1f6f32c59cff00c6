"""`finer-rank agreement identity`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.options import BatchSize, Device, Precision, Store
from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.human_agreement.score import Result
    from benchmark.people_and_identity import Study
    from benchmark.statistics import Estimate

app = typer.Typer()


@app.command()
def identity(
    judgements: Annotated[list[Path], typer.Argument(help="Human data, as for agreement score. Several are pooled.")],
    gallery: Annotated[
        list[Path],
        typer.Option("--gallery", "-g", help="Gallery folder, or any tree that gallery check accepts. Repeatable."),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="An embedder or distance: dinov2, lpips. Repeatable."),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="BEFORE=AFTER, two metrics of which the second was tuned from the first: dino=checkpoint:tuned. "
            "Repeatable."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Of judgements, where the data hold several kinds.")] = None,
    split: Annotated[str, typer.Option(help="Only judgements of this split: test, after tuning on train.")] = "",
    subset: Annotated[str, typer.Option(help="Only judgements of this subset.")] = "",
    size: Annotated[int | None, typer.Option(help="Squash images to so many pixels, for every metric.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write what --json prints to this file.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture: agreement across, mAP up, an arrow for each pair.", show_default=False)
    ] = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    batch_size: BatchSize = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Does tuning to people hurt identity? Each metric's agreement with people beside how it tells identities apart.

    Judge by galleries whose identities no metric was tuned on.

    Example: finer-rank agreement identity nights --split test --gallery dogs --pair dino=checkpoint:dino-tuned -m clip
    """
    import json

    from benchmark.distances import Resources, load_distance
    from benchmark.human_judgements.judgements import KINDS
    from benchmark.human_judgements.sources import load_judgements
    from benchmark.options import one_of
    from benchmark.people_and_identity import study
    from benchmark.people_and_identity_plot import draw_study
    from benchmark.store import store_at
    from galleries.console import note, print_json, progress_bars
    from galleries.errors import FinerRankError, raise_if_any
    from galleries.figures import check_format
    from galleries.gallery import Gallery

    one_of("--kind", kind, KINDS)
    if plot is not None:
        check_format(plot)
    if out is not None and not out.absolute().parent.is_dir():
        raise FinerRankError(f"{out}: cannot be written (there is no folder {out.parent}); name another file")
    for option, named in (("--gallery", [*map(str, gallery)]), ("--metric", metric or []), ("--pair", pair or [])):
        if len(set(named)) < len(named):
            raise FinerRankError(f"{option}: one is named twice; name each once")
    pairs = [_pair(text) for text in pair or ()]
    specs = list(dict.fromkeys([*(spec for both in pairs for spec in both), *(metric or ())]))
    if not specs:
        raise FinerRankError("no metric; name one with --metric, or two with --pair BEFORE=AFTER")
    root = store_at(store)
    given = load_judgements(judgements, kind=kind, split=split, subset=subset)  # type: ignore[arg-type]
    loaded = [Gallery.load(path) for path in gallery]
    raise_if_any("cannot be scored", [fault for _, faults in loaded for fault in faults])
    opened = {str(path): of for path, (of, _) in zip(gallery, loaded, strict=True)}
    distances = [load_distance(spec, size=size, device=device, precision=precision, memo=root) for spec in specs]
    with progress_bars() as progress:
        found = study(given, opened, distances, pairs, Resources(root, batch_size, progress, note))
    content = found.as_json()
    if out is not None:
        _write(out, json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
    if plot is not None:
        draw_study(found, plot)
    if as_json:
        print_json(content)
        return
    _print(found)


def _pair(text: str) -> tuple[str, str]:
    """BEFORE and AFTER.

    Raises:
        FinerRankError: not two metrics.
    """
    from galleries.errors import FinerRankError

    before, _, after = text.partition("=")
    if not before or not after or "=" in after or before == after:
        raise FinerRankError(f"--pair {text}: write BEFORE=AFTER, two different metrics without = in their names")
    return before, after


def _write(out: Path, text: str) -> None:
    from galleries.errors import FinerRankError

    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FinerRankError(f"{out}: cannot be written ({error.strerror}); name another file") from None


def _print(found: "Study") -> None:
    from benchmark.human_agreement.plot import CHANCE_LEVEL
    from benchmark.identity_discrimination import chance_of_order
    from benchmark.report import number
    from galleries.console import note, print_table, say

    scores = found.scores
    several = len(found.discrimination) > 1
    columns = ["metric", scores.main]
    for name in found.discrimination:
        columns += [f"mAP, {name}", f"AUC, {name}"] if several else ["mAP", "AUC"]
    level = CHANCE_LEVEL.get(scores.kind)
    rows = [["(chance)", "–" if level is None else f"{level:.3f}"]]
    for of in found.discrimination.values():
        chance = chance_of_order(of)
        rows[0] += ["–" if chance is None else f"{chance:.3f}", "0.500"]
    people = scores.of("")
    if people:
        rows.append(["(one rater against the others)", _agreement(people), *["–"] * (len(columns) - 2)])
    for metric in found.metrics:
        row = [metric, _agreement(found.agreement(metric))]
        for of in found.discrimination.values():
            row += [number(_json(each.mean)) for each in (of[metric].average_precisions, of[metric].aucs)]
        rows.append(row)
    title = f"{scores.name}: {scores.n_judgements} judgements of {scores.n_targets} targets"
    print_table(f"{title}; identities of {', '.join(found.discrimination)}", columns, rows)
    for pair in found.pairs:
        say(pair.verdict)
    for name, each in found.correlations.items():
        what = f"{name}: rank correlation of {scores.main} and mAP"
        if each.value is None:
            say(f"{what}: none, {each.missing}")
        else:
            say(f"{what} over {each.n} metrics: {each.value:.3f} (permutation p {each.p:.2g})")
    for metric in found.metrics:
        if found.agreement(metric).value is None:
            note(f"{metric}: no {scores.main}: {found.agreement(metric).reason}")
    for line in (*scores.notes, *scores.left_out):
        note(line)
    for name, of in found.discrimination.items():
        for metric, one in of.items():
            for remark in [*([one.missing] if one.missing else []), *one.notes]:
                note(f"{metric} on {name}: {remark}")


def _agreement(result: "Result") -> str:
    from benchmark.report import number

    low, high = result.over_targets or (None, None)
    return number({"value": result.value, "low": low, "high": high})


def _json(estimate: "Estimate | None") -> "dict[str, Any] | None":
    from dataclasses import asdict

    return asdict(estimate) if estimate else None
