"""`finer-rank compare`: runs under one embedder, or embedders by the runs that they judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.options import one_of
from galleries.options import AsJson

if TYPE_CHECKING:
    from benchmark.encoder_agreement import Agreement, NamedEmbedder
    from benchmark.records import Record

    Found = Sequence[tuple[Path, Record]]

app = typer.Typer()

COLUMNS = {"mAP": "average_precision", "AUC": "auc", "rank_1": "rank_1", "MAP@R": "map_at_r"}


@app.command()
def compare(
    record: Annotated[list[Path], typer.Argument(help="Record folders, or a folder of them.")],
    metric: Annotated[str, typer.Option(help="mAP, AUC, rank_1 or MAP@R.")] = "mAP",
    region: Annotated[
        str, typer.Option(help="Only records of this region: full, subject or background.", show_default=False)
    ] = "",
    by: Annotated[
        str,
        typer.Option(help="embedder: whether embedders agree on which run is better.", show_default=False),
    ] = "",
    picture: Annotated[
        Path | None, typer.Option(help="With --by embedder: draw their agreement into this picture file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs pair by pair over the identities that both were asked for.

    Differences with 95 % bootstrap intervals, two-sided sign-flip permutation tests over identities with Holm's
    correction, and the range of ranks that each run may hold. With --by embedder, records of several embedders:
    Kendall's tau-b of the orders in which they put the runs, and the differences that more than one of them sees.
    """
    from benchmark.records import find_records, read_record
    from benchmark.regions import REGIONS
    from galleries.errors import FinerRankError
    from galleries.figures import check_format

    one_of("--metric", metric, tuple(COLUMNS))
    one_of("--region", region or None, REGIONS)
    one_of("--by", by or None, ("embedder",))
    if picture is not None:
        if not by:
            raise FinerRankError("--picture: draws how embedders agree; add --by embedder")
        check_format(picture)
    every = [(folder, read_record(folder)) for folder in find_records(record)]
    found = [(folder, each) for folder, each in every if region in ("", each.region)]
    if not found:
        raise FinerRankError(f"--region {region}: no such record; leave it out, or evaluate --region {region} first")
    if len(found) < 2:
        raise FinerRankError(f"{found[0][0]}: nothing to compare it with; name two records or more")
    _refuse_other_judges(found, besides=by)
    if by:
        _compare_embedders(found, metric, picture, as_json)
    else:
        _compare_runs(found, metric, as_json)


def _refuse_other_judges(found: "Found", besides: str) -> None:
    from benchmark.records import JUDGED_BY
    from galleries.errors import FinerRankError

    remedies = {"region": "; choose one with --region", "embedder": "; --by embedder says whether embedders agree"}
    for folder, record in found[1:]:
        for what, its, first in zip(JUDGED_BY, record.judged_by, found[0][1].judged_by, strict=True):
            if its != first and what != besides:
                raise FinerRankError(
                    f"{folder}: another {what} than {found[0][0]}; their scores cannot be compared"
                    + remedies.get(what, "")
                )


def _identity_means(folder: Path, record: "Record", metric: str) -> dict[str, float]:
    from galleries.errors import FinerRankError

    means = record.identity_means(COLUMNS[metric])
    if not means:
        raise FinerRankError(f"{folder}: {metric} is undefined for all of its queries; compare another --metric")
    return means


def _note_mask_sources(found: "Found") -> None:
    from benchmark.regions import FULL
    from galleries.console import note

    sources = sorted({str(r.summary["run"].get("mask_source", "")) or "unknown" for _, r in found})
    if len(sources) > 1 and found[0][1].region != FULL:
        note(f"note: the runs' masks are from several sources ({', '.join(sources)}): they were not treated alike")


def _title(start: str, record: "Record", *more: str) -> str:
    from benchmark.records import ALL
    from benchmark.regions import FULL

    parts = [f"{start}; {record.summary['gallery']['name']}", *more]
    parts += [f"{record.region} only"] if record.region != FULL else []
    parts += [f"positives: {record.positives}"] if record.positives != ALL else []
    return ", ".join(parts)


def _compare_runs(found: "Found", metric: str, as_json: bool) -> None:
    from dataclasses import asdict

    from benchmark.report import number, p_value
    from benchmark.statistics import compare_paired
    from galleries.console import note, print_json, print_table
    from galleries.errors import FinerRankError

    names = [record.name for _, record in found]
    for name in names:
        if names.count(name) > 1:
            raise FinerRankError(f"two records are of the run {name!r}; name each run once")
    means = {record.name: _identity_means(folder, record, metric) for folder, record in found}
    try:
        pairs, ranks = compare_paired(means)
    except ValueError as error:
        raise FinerRankError(f"{error}; compare runs that were asked for the same identities") from None
    _note_mask_sources(found)
    if as_json:
        print_json({"metric": metric, "pairs": [asdict(p) for p in pairs], "ranks": [asdict(r) for r in ranks]})
        return
    print_table(
        _title(f"{metric}, mean over identities", found[0][1], found[0][1].embedder),
        ["run", metric, "ranks", "tied with best"],
        [
            [
                r.name,
                f"{r.mean:.3f}",
                str(r.best) if r.best == r.worst else f"{r.best}–{r.worst}",
                "yes" if r.tied_with_best else "",
            ]
            for r in ranks
        ],
    )
    rows = [
        [f"{p.first} − {p.second}", number(asdict(p.difference)), str(p.n_identities), p_value(p.p), p_value(p.p_holm)]
        for p in pairs
    ]
    print_table("pairs, over shared identities", ["first − second", "difference", "identities", "p", "p (Holm)"], rows)
    n_apart = len(found) * (len(found) - 1) // 2 - len(pairs)
    if n_apart:
        note(f"note: {n_apart} pairs share no identity and are not compared; their ranks say nothing of each other")
    blind = [p for p in pairs if p.smallest_p * len(pairs) >= 0.05]
    if blind:
        fewest = min(p.n_identities for p in blind)
        note(f"note: {fewest} shared identities are too few: no difference however large could reach p < 0.05")


def agreement_of(found: "Found", metric: str) -> "tuple[Agreement, dict[str, NamedEmbedder]]":
    """How the embedders of records agree, and what they are by their labels.

    Raises:
        FinerRankError: one embedder alone, too few runs that two share, or a damaged record.
    """
    import math

    from benchmark.encoder_agreement import UNSEEN, embedders_of, encoder_agreement, networks_of
    from galleries.errors import FinerRankError

    embedders = embedders_of(found)
    by_label = {embedder.label: embedder for embedder in embedders.values()}
    means: dict[str, dict[str, dict[str, float]]] = {label: {} for label in by_label}
    for folder, record in found:
        own = _identity_means(folder, record, metric)
        if not all(math.isfinite(mean) for mean in own.values()):
            raise FinerRankError(f"{folder}: damaged record ({metric} that is no number); evaluate again")
        means[embedders[record.summary["embedder"]["fingerprint"]].label][record.name] = own
    described = {
        embedders[own["fingerprint"]].label: own for own in (record.summary["embedder"] for _, record in found)
    }
    unseen = {label for label, embedder in by_label.items() if embedder.gallery_seen == UNSEEN}
    try:
        return encoder_agreement(means, unseen, networks_of(described)), by_label
    except ValueError as error:
        raise FinerRankError(f"{error}; name records of the same runs under each embedder") from None


def _compare_embedders(found: "Found", metric: str, picture: Path | None, as_json: bool) -> None:
    from dataclasses import asdict

    from benchmark.agreement_plot import draw_agreement
    from galleries.console import note, print_json

    agreement, embedders = agreement_of(found, metric)
    seen = {label: embedder.gallery_seen for label, embedder in embedders.items()}
    first = found[0][1]
    title = _title(f"{metric}, mean over identities", first)
    notes = _notes(agreement, seen)
    if picture is not None:
        draw_agreement(agreement, seen, f"Do embedders agree on which run is better? {title}", picture)
    _note_mask_sources(found)
    if as_json:
        print_json(
            {
                "metric": metric,
                "gallery": first.summary["gallery"]["name"],
                "region": first.region,
                "positives": first.positives,
                **asdict(agreement),
                "embedders": [asdict(embedder) for embedder in embedders.values()],
                "notes": notes,
            }
        )
    else:
        _print_agreement(agreement, seen, title, metric)
    for line in notes:
        note(f"note: {line}")
    if picture is not None:
        note(f"picture: {picture}")


def _notes(agreement: "Agreement", seen: Mapping[str, str]) -> list[str]:
    from benchmark.encoder_agreement import ALPHA, ENOUGH, UNSEEN

    notes = [
        f"no record of {run} under {embedder}; what needs it is compared without" for run, embedder in agreement.missing
    ]
    if agreement.n_identities < agreement.n_all_identities:
        notes.append(
            f"{agreement.n_identities} of {agreement.n_all_identities} identities stand in all records; the table of "
            "runs is over these, what compares fewer records over those that they share"
        )
    between = {pair: f"{pair.first} and {pair.second}" for pair in agreement.embedder_pairs}
    of_two = ", ".join(who for pair, who in between.items() if pair.n_runs == 2)
    if of_two:
        notes.append(f"{of_two} share two runs: tau of two is only 1 or −1, whether they agree on this one pair")
    for pair, who in between.items():
        if pair.tau is None:
            notes.append(f"{who}: one of them gives all shared runs the same mean; tau is undefined (–)")
        elif pair.n_undefined:
            notes.append(f"{who}: {pair.n_undefined} resamples tie all runs; the interval is of the others")
    if agreement.n_tests and all(v.smallest_p * agreement.n_tests >= ALPHA for v in agreement.verdicts):
        fewest = min(pair.n_identities for pair in agreement.run_pairs)
        notes.append(
            f"{fewest} shared identities are too few for {agreement.n_tests} tests: no difference however large could "
            "reach p < 0.05"
        )
    if sum(state == UNSEEN for state in seen.values()) < ENOUGH:
        given = ", ".join(f"{label} ({state})" for label, state in seen.items())
        notes.append(f"a claim needs two embedders that have not seen the gallery (unseen); given: {given}")
    return notes


def _print_agreement(agreement: "Agreement", seen: Mapping[str, str], title: str, metric: str) -> None:
    from benchmark.report import number, p_value
    from galleries.console import print_table, say

    numbers = {embedder: f"({i})" for i, embedder in enumerate(agreement.embedders, start=1)}
    columns = list(numbers.values())
    print_table(
        f"Kendall's tau-b between embedders; {title}",
        ["embedder", "gallery", *columns],
        [
            [f"{numbers[embedder]} {embedder}", seen[embedder], *("–" if tau is None else f"{tau:.3f}" for tau in row)]
            for embedder, row in zip(agreement.embedders, agreement.matrix, strict=True)
        ],
    )
    print_table(
        "pairs of embedders, over the runs that both judged",
        ["embedders", "tau-b", "runs", "identities"],
        [
            [
                f"{numbers[pair.first]} {pair.first}, {numbers[pair.second]} {pair.second}",
                number({"value": pair.tau, "low": pair.low, "high": pair.high}),
                str(pair.n_runs),
                str(pair.n_identities),
            ]
            for pair in agreement.embedder_pairs
        ],
    )
    print_table(
        f"{metric} and rank over {agreement.n_identities} shared identities",
        ["run", *columns],
        [
            [run, *(f"{of[e].value:.3f}, rank {of[e].rank}" if e in of else "–" for e in numbers)]
            for run, of in agreement.places.items()
        ],
    )
    rows = []
    for pair in agreement.run_pairs:
        shown = {v.embedder: f"{v.difference.value:+.3f}, p {p_value(v.p_holm)}" for v in pair.verdicts}
        claim = f"{pair.better} is better: supported" if pair.better else "not supported"
        claim = "contradicted" if pair.is_contradicted else claim
        cells = [shown.get(embedder, "–") for embedder in numbers]
        rows.append([f"{pair.first} − {pair.second}", str(pair.n_identities), *cells, claim])
    print_table(
        f"differences, p with Holm's correction over all {agreement.n_tests}",
        ["first − second", "identities", *columns, "claim"],
        rows,
    )
    crossed = [pair for pair in agreement.run_pairs if pair.is_ordered_differently]
    say("ordered differently:" if crossed else "no two runs are ordered differently")
    for pair in crossed:
        sides = []
        for word, sign in (("before", 1), ("behind", -1)):
            under = [
                f"{numbers[v.embedder]} ({'told apart' if v.is_apart else 'not told apart'}, p {p_value(v.p_holm)})"
                for v in pair.verdicts
                if v.sign == sign
            ]
            sides.append(f"{word}{f' {pair.second}' if sign > 0 else ''} under {', '.join(under)}")
        say(f"  {pair.first} {', '.join(sides)}")
