"""`finer-rank run …`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from galleries.mask_command import add_mask_command
from galleries.options import AsJson, Columns, Conditions, Constants, Images, Out
from personalization_runs.generate_command import generate, methods
from personalization_runs.options import ClassWords
from personalization_runs.simulate_command import simulate

app = typer.Typer(no_args_is_help=True, help="Make, import, check and look at runs: the images that one model made.")
import_app = typer.Typer(no_args_is_help=True, help="Make a run folder of generated images that lie elsewhere.")
app.add_typer(import_app, name="import")

Model = Annotated[str, typer.Option(help="Name of the model, as shown in tables; that of the folder by default.")]
Method = Annotated[
    str,
    typer.Option(
        help="Personalization method. 'class-only': an untuned generator; its run is an anchor, and its images, "
        "where they name no identity, are asked for every identity of their category.",
        show_default=False,
    ),
]
Authors = Annotated[str, typer.Option(help="Who made the run.", show_default=False)]
Contact = Annotated[str, typer.Option(help="Web page or address of whoever answers for it.", show_default=False)]
Url = Annotated[str, typer.Option(help="Where code or paper is.", show_default=False)]
Licence = Annotated[str, typer.Option(help="Of the images.", show_default=False)]
BaseModel = Annotated[str, typer.Option(help="Generator that was personalized.", show_default=False)]
TrainingData = Annotated[
    str,
    typer.Option(help="What the method learned from besides the references; none, if nothing.", show_default=False),
]
Identifier = Annotated[
    str,
    typer.Option(help="Token that stands for the individual in prompts, such as sks; CLIP-T is taken without it."),
]
AgainstGallery = Annotated[
    Path | None, typer.Option("--gallery", help="Gallery to check the run against while importing.")
]


@import_app.command("folder")
def import_folder(
    source: Annotated[Path, typer.Argument(help="Tree of \\[category/]identity/FILES, or as --pattern says.")],
    out: Out,
    pattern: Annotated[
        str,
        typer.Option(
            help="What the paths below it say, such as {identity}/{prompt_id}_{seed}.png; * stands for anything.",
            show_default=False,
        ),
    ] = "",
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="Prompt sets of run generate, which say what each prompt_id asked for. Repeatable."),
    ] = None,
    class_word: ClassWords = None,
    model: Model = "",
    method: Method = "",
    base_model: BaseModel = "",
    training_data: TrainingData = "",
    licence: Licence = "",
    authors: Authors = "",
    contact: Contact = "",
    url: Url = "",
    identifier: Identifier = "",
    gallery: AgainstGallery = None,
) -> None:
    """From a tree of folders, one per identity, or of files whose paths say what they are.

    Example: finer-rank run import folder outputs/ip_adapter --pattern '{identity}/{prompt_id}_{seed}' --prompts reid
    --gallery zebras --out runs/ip_adapter
    """
    from galleries.console import note, say
    from galleries.image_set import column_names
    from galleries.sources.folder import find_in_folder
    from galleries.sources.pattern import find_by_pattern
    from personalization_runs.run import GeneratedImage, RunCard

    card = RunCard(model, authors, contact, url, licence, method, base_model, training_data, identifier=identifier)
    if pattern:
        columns = [name for name in column_names(GeneratedImage) if not name.endswith("file_name")]
        tree = find_by_pattern(source, pattern, columns, follow_links=False)
    else:
        tree = find_in_folder(source, follow_links=False)
    images, faults = tree.images, tree.faults
    if prompts:
        images, faults = _with_prompts(tree, prompts, class_word or [], identifier, gallery)
    if tree.ignored:
        note(f"{len(tree.ignored)} files are no images and were left out: {', '.join(tree.ignored[:5])}")
    say(_import(images, source, out, card, gallery, faults))


@import_app.command("table")
def import_table(
    source: Annotated[
        Path, typer.Argument(help="A .csv, .tsv, .parquet or .jsonl table, or a folder with metadata.*.")
    ],
    out: Out,
    column: Columns = None,
    constant: Constants = None,
    where: Conditions = None,
    images: Images = None,
    split_by: Annotated[
        str,
        typer.Option(help="Column whose every value becomes a run of its own, below --out.", show_default=False),
    ] = "",
    model: Model = "",
    method: Method = "",
    base_model: BaseModel = "",
    training_data: TrainingData = "",
    licence: Licence = "",
    authors: Authors = "",
    contact: Contact = "",
    url: Url = "",
    identifier: Identifier = "",
    gallery: AgainstGallery = None,
) -> None:
    """From a table with other column names.

    Example: finer-rank run import table manifest.csv --column file_name=path --column identity=subject
    --where kind=generated --split-by method --out runs
    """
    from dataclasses import replace

    from galleries.console import say
    from galleries.errors import Fault, Faults, FinerRankError, raise_if_any
    from galleries.image_set import column_names, new_folder
    from galleries.sources.table import find_in_table, open_table, parse_assignments, parse_conditions
    from personalization_runs.run import GeneratedImage, RunCard

    card = RunCard(model, authors, contact, url, licence, method, base_model, training_data, identifier=identifier)
    known = column_names(GeneratedImage)
    columns, constants = parse_assignments(column or [], known), parse_assignments(constant or [], known)
    table = open_table(source)
    rows, faults = find_in_table(table, known, columns, constants, parse_conditions(where or []), images)
    if not split_by:
        say(_import([found for found, _ in rows], source, out, card, gallery, faults))
        return
    if model:
        raise FinerRankError("--model and --split-by: each run is named after its value; leave --model out")
    if split_by not in table.columns:
        raise FinerRankError(f"{source}: no column {split_by!r}; --split-by one of {', '.join(table.columns)}")
    groups: dict[str, list[Any]] = {}
    for found, row in rows:
        groups.setdefault(row[split_by], []).append(found)
    folders = {value: _folder_name(value) for value in groups}
    if "" in groups or len(set(folders.values())) < len(folders):
        raise FinerRankError(
            f"{source}: column {split_by!r} has an empty value, or values alike but for signs; mend it"
        )
    wrong: list[Fault] = []
    made = []
    with new_folder(out) as partial:
        for value, members in groups.items():
            folder = folders[value]
            try:
                own = replace(card, model=value)
                made.append(_import(members, source, partial / folder, own, gallery, shown_as=out / folder))
            except Faults as error:
                wrong += error.faults
        raise_if_any(str(source), [*faults, *wrong])
    for line in made:
        say(line)


@import_app.command("hub")
def import_hub(
    source: Annotated[str, typer.Argument(help="Hub id (owner/name), or a folder written by save_to_disk.")],
    out: Out,
    image_column: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    identity_column: Annotated[str, typer.Option(help="Column of the identities that they should show.")] = "label",
    prompt_column: Annotated[str, typer.Option(help="Column of the prompts.", show_default=False)] = "",
    split: Annotated[str | None, typer.Option(help="The dataset's own split, where it has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
    model: Model = "",
    method: Method = "",
    base_model: BaseModel = "",
    training_data: TrainingData = "",
    licence: Licence = "",
    authors: Authors = "",
    contact: Contact = "",
    url: Url = "",
    identifier: Identifier = "",
    gallery: AgainstGallery = None,
) -> None:
    """From a Hugging Face dataset."""
    from galleries.console import say
    from galleries.sources.hub import find_in_dataset
    from personalization_runs.run import RunCard

    card = RunCard(model, authors, contact, url, licence, method, base_model, training_data, identifier=identifier)
    columns = {"identity": identity_column} | ({"prompt": prompt_column} if prompt_column else {})
    found = find_in_dataset(source, image_column, columns, split, revision)
    say(_import(found, Path(source), out, card, gallery))


@import_app.command("reference-code")
def import_reference_code(
    source: Annotated[Path, typer.Argument(help="generated_data.csv, or its folder.")],
    out: Out,
    images: Images = None,
    model: Model = "",
    method: Method = "",
    base_model: BaseModel = "",
    training_data: TrainingData = "",
    licence: Licence = "",
    authors: Authors = "",
    contact: Contact = "",
    url: Url = "",
    identifier: Identifier = "",
    gallery: AgainstGallery = None,
) -> None:
    """From the table of the protocol's reference code (name, species, file_path, ref_path)."""
    from galleries.console import say
    from galleries.sources.reference_code import RUN_FILE, find_reference_code
    from personalization_runs.run import RunCard

    card = RunCard(model, authors, contact, url, licence, method, base_model, training_data, identifier=identifier)
    found = find_reference_code(source / RUN_FILE if source.is_dir() else source, images)
    say(_import(found, source, out, card, gallery))


def _with_prompts(
    tree: Any, sources: list[str], assignments: list[str], identifier: str, gallery: Path | None
) -> tuple[Any, Any]:
    """Images with the prompts that their ids stand for, and those whose id no prompt has."""
    from dataclasses import replace

    from galleries.errors import Fault
    from galleries.gallery import Gallery
    from personalization_runs.prompt_sets import class_word_of, class_words, read_prompts

    prompts, words = read_prompts(sources), class_words(assignments)
    category_of = Gallery.open(gallery).category_of if gallery else {}
    images, faults = [], list(tree.faults)
    for found in tree.images:
        identity = found.values.get("identity", "")
        category = found.values.get("category") or category_of.get(identity, "")
        asked = found.values.get("prompt_id", "")
        own = [prompt for prompt in prompts if prompt.prompt_id == asked and prompt.is_for(identity, category)]
        word = class_word_of(identity, category, words)
        if not own or not word:
            what = f"no prompt has the id {asked!r}" if not own else "nothing says what it is"
            remedy = "name the table that has it (--prompts)" if not own else "give --class-word, or --gallery"
            faults.append(Fault(found.where, what, remedy))
            continue
        images.append(replace(found, values={**found.values, "prompt": own[0].text(word, identifier)}))
    return tuple(images), tuple(faults)


def _import(
    found: Any,
    source: Path,
    out: Path,
    card: Any,
    gallery: Path | None,
    known_faults: Any = (),
    shown_as: Path | None = None,
) -> str:
    from dataclasses import replace

    from galleries.console import progress_bars
    from galleries.gallery import Gallery
    from galleries.image_set import refuse_inside
    from personalization_runs.run import Run

    refuse_inside(shown_as or out, source)
    against = Gallery.open(gallery) if gallery else None
    card = replace(
        card,
        model=card.model or out.resolve().name,
        gallery=against.card.name if against else "",
        gallery_version=against.card.version if against else "",
    )
    with progress_bars() as progress:
        step = progress("checking images", len(found)) if progress else None
        run = Run.build(found, card, source, out, known_faults=known_faults, gallery=against, step=step)
    return f"{shown_as or out}: {run.summary}"


@app.command()
def check(
    run: Annotated[Path, typer.Argument(help="Run folder, folder tree, or folder of generated_data.csv.")],
    gallery: Annotated[Path | None, typer.Option("--gallery", "-g", help="Gallery that the run is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for every fault, in the table and in every image. Exit code 2 if there is one."""
    from dataclasses import asdict

    from galleries.console import print_json, progress_bars, say
    from galleries.errors import raise_if_any
    from galleries.gallery import Gallery
    from personalization_runs.run import Run

    opened, faults = Run.load(run)
    faults += opened.target_faults(Gallery.open(gallery)) if gallery else []
    with progress_bars() as progress:
        faults += opened.image_faults(progress("checking images", len(opened.images)) if progress else None)
    if as_json and faults:
        print_json({"run": str(run), "faults": [asdict(fault) for fault in faults]})
    raise_if_any(str(run), faults)
    if as_json:
        print_json({"run": str(run), "faults": []})
        return
    say(f"{run}: no faults; {opened.summary}")


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Run folder, folder tree, or folder of generated_data.csv.")],
    as_json: AsJson = False,
) -> None:
    """Say what is in a run: identities, images, prompts."""
    from collections import Counter
    from dataclasses import asdict

    from galleries.console import print_json, print_table, say
    from personalization_runs.run import Run

    opened = Run.open(run)
    images = Counter(image.identity for image in opened.images)
    if as_json:
        refused = {"refused": [asdict(image) for image in opened.refused]} if opened.refused else {}
        identities = dict(sorted(images.items()))
        print_json({**asdict(opened.card), "table_sha256": opened.digest, "identities": identities, **refused})
        return
    rows = [[identity or "(every identity of its category)", str(n)] for identity, n in sorted(images.items())]
    print_table(f"{opened.card.model} {opened.card.method}".strip(), ["identity", "images"], rows)
    say(f"{opened.summary}; table SHA-256 {opened.digest}")


def _open_run(folder: Path) -> Any:
    from galleries.masks import Unmasked
    from personalization_runs.run import CARD_NAME, Run

    run = Run.open(folder)
    return Unmasked(run.root, CARD_NAME, run.images, run.card.mask_source)


add_mask_command(app, "run", _open_run)
app.command()(simulate)
app.command()(generate)
app.command()(methods)

demo_app = typer.Typer()


@demo_app.command()
def demo(out: Out = Path("demo")) -> None:
    """Draw a small gallery of animals and runs of five simulated models, to try everything on.

    Then: finer-rank evaluate --gallery demo/gallery --run demo/runs --embedder critter-reid --out demo/records
    """
    from galleries.console import progress_bars, say
    from personalization_runs.demo import MODELS, total, write_demo

    with progress_bars() as progress:
        write_demo(out, progress("drawing", total()) if progress else None)
    say(f"{out}: gallery, {', '.join(f'runs/{name}' for name in MODELS)}")


def _folder_name(value: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in value).strip(".") or "_"
