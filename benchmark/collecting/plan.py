"""Which questions a page asks: those of a table, or of the images of runs beside the photos of their gallery."""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from benchmark.human_judgements.image_paths import ImagePaths
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.tables import Table, column_faults, read_table
from personalization_runs.run import Query, Run

CollectedKind = Literal["2afc", "ranking"]
COLLECTED_KINDS: tuple[CollectedKind, ...] = get_args(CollectedKind)

COLUMNS: Mapping[CollectedKind, tuple[str, ...]] = {"2afc": ("reference", "a", "b"), "ranking": ("target", "image")}

IGNORED: Mapping[CollectedKind, tuple[str, ...]] = {
    "2afc": ("choice", "votes", "rater", "split", "subset"),
    "ranking": ("rank", "rater", "split", "subset"),
}
"""Columns of tables of judgements, so that the questions of one can be asked anew."""

MOST_RANKED = 9
"""Images in a ranking: each has a digit on the keyboard."""

RANKED_OF_RUNS = 6
"""Images in a ranking that is made of runs, unless there are more runs."""


@dataclass(frozen=True)
class Question:
    """Which of `images` is more like `reference`, or: in which order are they.

    Attributes:
        images: of 2afc a and b; of a ranking 2 to 9.
        target: what the question is about; questions of one target are not independent.
        names: of reference and images, as table, gallery and run name them.
        where: table and row, or run and identity, for messages.
    """

    reference: Path
    images: tuple[Path, ...]
    target: str
    names: tuple[str, ...]
    where: str


def read_questions(path: Path) -> tuple[CollectedKind, list[Question]]:
    """The questions of a table: `reference, a, b[, target]`, or `target, image` with a row for each image to be
    ranked. Images lie below the table's folder. Answers that the table holds are not looked at.

    What several raters answered is one question: rows that name the same images and target count once.

    Raises:
        Faults: all that is wrong with the table, and images that are not there.
        FinerRankError: not a table.
    """
    table = read_table(path)
    kind: CollectedKind = "ranking" if "image" in table.columns else "2afc"
    optional = ("target",) if kind == "2afc" else ()
    faults = [*table.faults, *column_faults(table, COLUMNS[kind], (*COLUMNS[kind], *optional, *IGNORED[kind]))]
    if not table.rows and not faults:
        faults.append(Fault(path.name, "no rows", "add a row for each question"))
    raise_if_any(str(path), faults)
    images = ImagePaths(path.parent)
    if "rater" in table.columns:
        table = _once(table, (*COLUMNS[kind], *optional))
    found, wrong = (_choices if kind == "2afc" else _rankings)(table, images)
    raise_if_any(str(path), wrong)
    return kind, found


def _once(table: Table, columns: Sequence[str]) -> Table:
    """The first of the rows that say the same in these columns."""
    first = {tuple(row.get(column, "") for column in columns): i for i, row in reversed([*enumerate(table.rows)])}
    kept = sorted(first.values())
    return replace(table, rows=tuple(table.rows[i] for i in kept), numbers=tuple(table.numbers[i] for i in kept))


def _choices(table: Table, images: ImagePaths) -> tuple[list[Question], list[Fault]]:
    questions, faults = [], []
    for i, cells in enumerate(table.rows):
        names = tuple(cells[column] for column in COLUMNS["2afc"])
        files = [images.find(f"{table.where(i)}, {c}", cells[c]) for c in COLUMNS["2afc"]]
        faults += [file for file in files if isinstance(file, Fault)]
        paths = [file for file in files if isinstance(file, Path)]
        if paths and paths[0] in paths[1:]:
            faults.append(Fault(table.where(i), "the reference is one of the images", "mend the row"))
        elif len(paths) == len(files):
            target = cells.get("target", "").strip() or names[0]
            questions.append(Question(paths[0], tuple(paths[1:]), target, names, table.where(i)))
    return questions, faults


def _rankings(table: Table, images: ImagePaths) -> tuple[list[Question], list[Fault]]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for i, cells in enumerate(table.rows):
        rows_of[cells["target"]].append(i)
    questions, faults = [], []
    for target, rows in rows_of.items():
        where = table.where(rows[0])
        names = [table.rows[i]["image"] for i in rows]
        reference = images.find(f"{where}, target", target)
        files = [images.find(f"{table.where(i)}, image", name) for i, name in zip(rows, names, strict=True)]
        faults += [file for file in (reference, *files) if isinstance(file, Fault)]
        if not 2 <= len(rows) <= MOST_RANKED:
            what = f"target {target!r} has {len(rows)} image{'s' if len(rows) > 1 else ''}"
            faults.append(Fault(where, what, f"give it 2 to {MOST_RANKED} to be ranked"))
            continue
        paths = tuple(file for file in files if isinstance(file, Path))
        if reference in paths:
            at = table.where(rows[files.index(reference)])
            faults.append(Fault(at, "the image is the target itself", "remove the row"))
        elif isinstance(reference, Path) and len(paths) == len(files):
            # Rows of a table stand in no particular order; the question is the same.
            paths, names = tuple(sorted(paths)), sorted(names)
            questions.append(Question(reference, paths, target, (target, *names), where))
    return questions, faults


def questions_of_runs(runs: Sequence[Run], gallery: Gallery, kind: CollectedKind, seed: int = 0) -> list[Question]:
    """Questions about the identities that all runs show, each beside a photo of its identity.

    Images of several runs are matched: same identity and prompt (where all name prompts for that identity), then in
    the order of their seeds. 2afc: a matched image of each of two runs, for every two runs; of a single run
    the images of an identity, each in one pair. Ranking: one for an identity, of equally many images of each run.

    The photo is the one that the run names for all images of a question; else the identity's first reference photo,
    else its first gallery photo.

    Raises:
        Faults: images that ask for somebody whom the gallery lacks.
        FinerRankError: too many runs for a ranking, or nothing to ask about.
    """
    if kind == "ranking" and len(runs) > MOST_RANKED:
        raise FinerRankError(f"{len(runs)} runs: a ranking holds at most {MOST_RANKED} images; give fewer --run")
    queries = [_by_identity(run, gallery) for run in runs]
    groups: Iterable[tuple[int, ...]] = [tuple(range(len(runs)))]
    if kind == "2afc" and len(runs) > 1:
        groups = itertools.combinations(range(len(runs)), 2)
    questions = []
    for group in groups:
        for identity in sorted(set.intersection(*(set(queries[i]) for i in group))):
            slots = _matched([queries[i][identity] for i in group])
            slots.sort(key=lambda slot: order_key(seed, *(query.image.file_name for query in slot)))
            for shown in _shown_together(slots, kind):
                reference = _reference(shown, identity, gallery)
                names = (reference.file_name, *(query.image.file_name for query in shown))
                where = f"{' and '.join(str(runs[i].root) for i in group)}: identity {identity!r}"
                paths = tuple(query.image.path for query in shown)
                questions.append(Question(reference.path, paths, identity, names, where))
    if not questions:
        what = "share no identity with a prompt in common" if len(runs) > 1 else "has no identity with two images"
        raise FinerRankError(f"{', '.join(str(run.root) for run in runs)}: {what}; there is nothing to compare")
    return questions


def _by_identity(run: Run, gallery: Gallery) -> dict[str, list[Query]]:
    found: dict[str, list[Query]] = defaultdict(list)
    for query in run.queries(gallery):
        found[query.identity].append(query)
    return found


def _matched(of_runs: Sequence[Sequence[Query]]) -> list[tuple[Query, ...]]:
    """Tuples of one image of each run, for the same prompt."""
    with_prompts = all(query.image.prompt_id or query.image.prompt for queries in of_runs for query in queries)
    by_prompt: list[dict[str, list[Query]]] = []
    for queries in of_runs:
        groups: dict[str, list[Query]] = defaultdict(list)
        for query in sorted(queries, key=_seed_and_name):
            groups[(query.image.prompt_id or query.image.prompt) if with_prompts else ""].append(query)
        by_prompt.append(groups)
    shared = sorted(set.intersection(*(set(groups) for groups in by_prompt)))
    return [slot for prompt in shared for slot in zip(*(groups[prompt] for groups in by_prompt), strict=False)]


def _seed_and_name(query: Query) -> tuple[int, str, str]:
    seed = query.image.seed
    return (int(seed) if seed.isdecimal() and len(seed) < 20 else 0, seed, query.image.file_name)


def _shown_together(slots: Sequence[tuple[Query, ...]], kind: CollectedKind) -> list[list[Query]]:
    n_runs = len(slots[0]) if slots else 1
    flat = [query for slot in slots for query in slot]
    if kind == "ranking":
        shown = flat[: max(1, RANKED_OF_RUNS // n_runs) * n_runs]
        return [shown] if len(shown) > 1 else []
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=False)]


def _reference(shown: Sequence[Query], identity: str, gallery: Gallery) -> Photo:
    named = {query.reference for query in shown}
    first = shown[0].reference
    if len(named) == 1 and first:
        return first
    known = gallery.references.get(identity)
    return known[0] if known else next(p for p in gallery.split("gallery") if p.identity == identity)


def sampled(questions: Sequence[Question], n: int | None, seed: int) -> list[Question]:
    """`n` of the questions, taken from each target in turn, whatever their order; all where None.

    Raises:
        FinerRankError: there are fewer.
    """
    if n is not None and n > len(questions):
        raise FinerRankError(f"--questions {n}: there are {len(questions)}; ask for at most as many")
    by_target: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda question: order_key(seed, question.target, *question.names)):
        by_target[question.target].append(question)
    in_turn = [
        (place, order_key(seed, target), question)
        for target, own in by_target.items()
        for place, question in enumerate(own)
    ]
    return [question for *_, question in sorted(in_turn, key=lambda entry: entry[:2])[:n]]


def order_key(seed: int, *names: str) -> str:
    """What seeded choices are sorted by: it depends on seed and names alone."""
    return hashlib.sha256("\0".join((str(seed), *names)).encode(errors="surrogatepass")).hexdigest()
