"""`finer-rank run import` makes runs of whatever a generator left behind."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
from handmade import Cli, DrawPhoto, Refusal, Row, files_below, lacking, noise, rows_of, write_rows
from PIL import Image

from galleries import Gallery
from personalization_runs import Run


def labels_of(run: Run) -> set[tuple[str, str, str, bytes]]:
    """What a run says of each image, and the image itself."""
    return {(i.category, i.identity, i.reference_file_name, i.path.read_bytes()) for i in run.images}


def test_a_tree_is_imported_for_a_gallery(tmp_path: Path, zoo: Path, photo: DrawPhoto, cli: Cli) -> None:
    for seed, name in enumerate(["rex/0.png", "rex/1.png", "tom/0.png", "tom/1.png"]):
        photo(tmp_path / "outputs" / name, seed)
    (tmp_path / "outputs/log.txt").write_text("done")
    order = ("run", "import", "folder", tmp_path / "outputs", "--model", "IP-Adapter", "--gallery", zoo)
    imported = cli(*order, "--out", tmp_path / "runs/ip")
    assert imported.stdout == f"{tmp_path / 'runs/ip'}: IP-Adapter: 4 images of 2 identities\n"
    assert imported.stderr == "1 files are no images and were left out: log.txt\n"
    run = Run.open(tmp_path / "runs/ip")
    assert (run.card.model, run.card.gallery, run.card.gallery_version) == ("IP-Adapter", "zoo", "2")
    assert len(run.images) == 4
    assert labels_of(run) == labels_of(Run.open(tmp_path / "outputs"))
    assert cli("run", "check", tmp_path / "runs/ip", "--gallery", zoo).returncode == 0


SUBMITTED = {
    "method": "lora", "base_model": "sdxl", "training_data": "none", "licence": "CC-BY-4.0", "authors": "A. B.",
    "contact": "https://example.org", "url": "https://example.org/paper",
}  # fmt: skip


def test_what_a_submission_declares_is_told_while_importing(
    tmp_path: Path, zoo: Path, manifest: Path, cli: Cli
) -> None:
    said = [word for key, value in SUBMITTED.items() for word in (f"--{key.replace('_', '-')}", value)]
    order = ("run", "import", "table", manifest, *OURS, "--where", "kind=generated", "--images", tmp_path / "files")
    done = cli(*order, *said, "--split-by", "method", "--gallery", zoo, "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    for folder, model in (("IP-Adapter", "IP-Adapter"), ("LoRA_r_8", "LoRA r=8")):
        card = tomllib.loads((tmp_path / "runs" / folder / "run.toml").read_text(encoding="utf-8"))
        assert card == {"model": model, "gallery": "zoo", "gallery_version": "2", **SUBMITTED}


@pytest.fixture
def manifest(tmp_path: Path, photo: DrawPhoto) -> Path:
    """A list of what two methods made of two dogs, with their inputs between."""
    rows = []
    for seed, (method, subject) in enumerate((m, s) for m in ("IP-Adapter", "LoRA r=8") for s in ("rex", "tom")):
        for number, kind in enumerate(("input", "generated", "draft")):
            path = photo(tmp_path / f"files/{seed}_{kind}.png", 3 * seed + number)
            row = {"path": path.name, "subject": subject, "kind": kind, "method": method, "text": f"{subject}, asleep"}
            rows.append(row | {"note": "" if rows else "good", "elsewhere": path.name if rows else "../secret.png"})
    return write_rows(tmp_path / "lists/manifest.csv", rows)


NAMED = ["--column", "file_name=path", "--column", "identity=subject", "--column", "prompt=text"]
OURS = [*NAMED, "--set", "category=dog"]


def test_a_table_is_imported_by_its_own_column_names(tmp_path: Path, manifest: Path, cli: Cli) -> None:
    chosen = ("--where", "kind=generated", "--where", "kind=draft", "--where", "method!=LoRA r=8")
    order = ("run", "import", "table", manifest, *OURS, *chosen, "--images", tmp_path / "files")
    assert cli(*order, "--out", tmp_path / "ip").returncode == 0
    run = Run.open(tmp_path / "ip")
    assert [(i.file_name, i.category, i.identity, i.prompt) for i in run.images] == [
        ("images/0_draft.png", "dog", "rex", "rex, asleep"),
        ("images/0_generated.png", "dog", "rex", "rex, asleep"),
        ("images/1_draft.png", "dog", "tom", "tom, asleep"),
        ("images/1_generated.png", "dog", "tom", "tom, asleep"),
    ]
    assert run.card.model == "ip"


def test_a_table_is_split_into_runs_by_a_column(tmp_path: Path, zoo: Path, manifest: Path, cli: Cli) -> None:
    order = ("run", "import", "table", manifest, *OURS, "--where", "kind=generated", "--images", tmp_path / "files")
    imported = cli(*order, "--split-by", "method", "--gallery", zoo, "--out", tmp_path / "runs")
    assert imported.stdout.splitlines() == [
        f"{tmp_path / 'runs/IP-Adapter'}: IP-Adapter: 2 images of 2 identities",
        f"{tmp_path / 'runs/LoRA_r_8'}: LoRA r=8: 2 images of 2 identities",
    ]
    runs = [Run.open(folder) for folder in sorted((tmp_path / "runs").iterdir())]
    assert [run.card.model for run in runs] == ["IP-Adapter", "LoRA r=8"]
    assert [[image.file_name for image in run.images] for run in runs] == [
        ["images/0_generated.png", "images/1_generated.png"],
        ["images/2_generated.png", "images/3_generated.png"],
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"zoo", "files", "lists", "runs"}


def test_a_fault_in_one_of_several_runs_leaves_none_and_hides_no_other(
    tmp_path: Path, manifest: Path, cli: Cli
) -> None:
    for name in ("0_generated.png", "3_generated.png"):
        (tmp_path / "files" / name).write_bytes(b"")
    before = files_below(tmp_path)
    order = ("run", "import", "table", manifest, *OURS, "--where", "kind=generated", "--images", tmp_path / "files")
    refused = cli(*order, "--split-by", "method", "--out", tmp_path / "runs")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert lacking(refused.stderr, "0_generated.png", "3_generated.png") == []
    assert files_below(tmp_path) == before


WRONG_ORDERS: dict[str, tuple[Sequence[str], str]] = {
    "a name for several runs": (("--split-by", "method", "--model", "x"), "leave --model out"),
    "a split by a column that is not there": (("--split-by", "methods"), "no column 'methods'"),
    "a split by a column with holes": (("--split-by", "note"), "empty value"),
    "a condition on a column that is not there": (("--where", "sort=generated"), "no column 'sort'"),
    "a column that runs do not have": (("--column", "split=kind"), "unknown column 'split'"),
    "images that lie elsewhere": (("--column", "file_name=elsewhere"), "lies outside"),
}


@pytest.mark.parametrize("order", WRONG_ORDERS)
def test_a_wrong_order_is_answered_in_one_line_and_writes_nothing(
    tmp_path: Path, manifest: Path, refusal: Refusal, order: str
) -> None:
    options, mention = WRONG_ORDERS[order]
    before = files_below(tmp_path)
    common = ("run", "import", "table", manifest, *OURS, "--images", tmp_path / "files", "--out", tmp_path / "runs")
    assert mention in refusal(*common, *options)
    assert files_below(tmp_path) == before


def test_a_class_only_run_needs_no_identity(
    tmp_path: Path, zoo: Path, photo: DrawPhoto, cli: Cli, refusal: Refusal
) -> None:
    rows = [{"file_name": photo(tmp_path / f"untuned/{n}.png", n).name, "prompt": "a dog"} for n in range(2)]
    table = write_rows(tmp_path / "untuned/list.jsonl", rows)
    order = ("run", "import", "table", table, "--set", "category=dog", "--gallery", zoo, "--out", tmp_path / "run")
    assert "empty identity" in refusal(*order, "--where", "file_name=0.png")
    assert cli(*order, "--method", "class-only").returncode == 0
    run = Run.open(tmp_path / "run")
    assert run.is_class_only
    assert [query.identity for query in run.queries(Gallery.open(zoo))] == ["rex", "tom"] * 2


def test_identities_that_look_like_numbers_stay_as_written(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    identities = ("7", "007", "1e3", "nan")
    rows = [
        {"file_name": photo(tmp_path / f"out/{n}.png", n).name, "identity": identity}
        for n, identity in enumerate(identities)
    ]
    table = write_rows(tmp_path / "out/list.csv", rows)
    assert cli("run", "import", "table", table, "--out", tmp_path / "run").returncode == 0
    assert {image.identity for image in Run.open(tmp_path / "run").images} == set(identities)


def test_a_saved_dataset_is_imported_with_its_prompts(tmp_path: Path, zoo: Path, cli: Cli) -> None:
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "dog": datasets.ClassLabel(names=["tom", "rex"]),
            "text": datasets.Value("string"),
        }
    )
    rows = {"picture": [noise(50), noise(51)], "dog": [1, 0], "text": ["asleep", None]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "made")
    columns = ("--image-column", "picture", "--identity-column", "dog", "--prompt-column", "text")
    imported = cli("run", "import", "hub", tmp_path / "made", *columns, "--gallery", zoo, "--out", tmp_path / "run")
    assert imported.returncode == 0, imported.stderr
    images = Run.open(tmp_path / "run").images
    assert {(i.identity, i.prompt, Image.open(i.path).tobytes()) for i in images} == {
        ("rex", "asleep", noise(50).tobytes()),
        ("tom", "", noise(51).tobytes()),
    }


def reference_code_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Write a table as `pandas.DataFrame.to_csv` does: the index is a column without a name."""
    return write_rows(path, [{"": str(i), **row} for i, row in enumerate(rows)])


@pytest.fixture
def reference_code(tmp_path: Path, photo: DrawPhoto) -> Path:
    """Zebras 7 and 12 in a gallery of the reference code, and an image of each, listed twice."""
    folder = tmp_path / "zebras"
    tables: dict[str, list[Row]] = {"train": [], "gallery": [], "generated": []}
    for seed, (name, part) in enumerate((name, part) for name in ("7", "12") for part in tables):
        photo(folder / f"{part}/{name}.jpg", seed)
        tables[part].append({"name": name, "species": "zebra", "file_path": f"{part}/{name}.jpg"})
    tables["generated"] = [row | {"ref_path": f"train/{row['name']}.jpg"} for row in tables["generated"]] * 2
    for part, rows in tables.items():
        reference_code_csv(folder / f"{part}_data.csv", rows)
    return folder


@pytest.mark.parametrize("given", ["its folder", "its table"])
@pytest.mark.parametrize("paths", ["relative", "absolute"])
def test_the_reference_codes_images_are_opened_and_imported_once_each(
    tmp_path: Path, reference_code: Path, cli: Cli, given: str, paths: str
) -> None:
    if paths == "absolute":
        for table in reference_code.glob("*.csv"):
            text = table.read_text()
            for part in ("train/", "gallery/", "generated/"):
                text = text.replace(part, f"{reference_code}/{part}")
            table.write_text(text)
    source = reference_code if given == "its folder" else reference_code / "generated_data.csv"
    assert cli("gallery", "build", "reference-code", reference_code, "--out", tmp_path / "zoo").returncode == 0
    order = ("run", "import", "reference-code", source, "--gallery", tmp_path / "zoo", "--out", tmp_path / "run")
    imported = cli(*order)
    assert imported.returncode == 0, imported.stderr

    opened, run = Run.open(source), Run.open(tmp_path / "run")

    start = f"{reference_code}/" if paths == "absolute" else ""
    expected = {
        ("zebra", name, f"{start}train/{name}.jpg", (reference_code / f"generated/{name}.jpg").read_bytes())
        for name in ("7", "12")
    }
    assert labels_of(opened) == labels_of(run) == expected
    assert len(opened.images) == len(run.images) == 2
    for queries in (opened.queries(Gallery.open(reference_code)), run.queries(Gallery.open(tmp_path / "zoo"))):
        named = {(query.identity, query.reference.path.read_bytes()) for query in queries if query.reference}
        assert named == {(name, (reference_code / f"train/{name}.jpg").read_bytes()) for name in ("7", "12")}


def test_the_reference_codes_images_of_one_name_are_told_apart(tmp_path: Path, photo: DrawPhoto, cli: Cli) -> None:
    rows = [
        {
            "name": "7",
            "species": "zebra",
            "file_path": str(photo(tmp_path / f"made/{prompt}/1.png", seed)),
            "ref_path": "",
        }
        for seed, prompt in enumerate(("asleep", "awake"))
    ]
    table = reference_code_csv(tmp_path / "lists/generated_data.csv", rows)
    assert cli("run", "import", "reference-code", table, "--out", tmp_path / "run").returncode == 0
    for run in (Run.open(table), Run.open(tmp_path / "run")):
        assert len({image.file_name for image in run.images}) == 2
        assert {image.path.read_bytes() for image in run.images} == {
            Path(row["file_path"]).read_bytes() for row in rows
        }


def test_the_reference_codes_table_may_lie_apart_from_its_images(
    tmp_path: Path, reference_code: Path, cli: Cli
) -> None:
    (tmp_path / "lists").mkdir()
    table = (reference_code / "generated_data.csv").rename(tmp_path / "lists/generated_data.csv")
    order = ("run", "import", "reference-code", table, "--images", reference_code, "--out", tmp_path / "run")
    assert cli(*order).returncode == 0
    assert {image.identity for image in Run.open(tmp_path / "run").images} == {"7", "12"}


def test_an_imported_run_imported_again_is_the_same(tmp_path: Path, painted: Path, cli: Cli) -> None:
    assert cli("run", "import", "table", painted, "--out", tmp_path / "copy").returncode == 0
    assert labels_of(Run.open(tmp_path / "copy")) == labels_of(Run.open(painted))
    assert [row["prompt"] for row in rows_of(tmp_path / "copy")] == ["a dog, asleep"] * 4


def test_paths_say_what_images_are(tmp_path: Path, zoo: Path, photo: DrawPhoto, cli: Cli) -> None:
    for seed, name in enumerate(["rex/snow_dog_7.png", "rex/beach_8.PNG", "tom/snow_dog_9.png", "tom/beach_10.png"]):
        photo(tmp_path / "outputs" / name, seed)
    (tmp_path / "outputs/log.txt").write_text("done")
    table = write_rows(
        tmp_path / "prompts.csv",
        [
            {"prompt_id": "snow_dog", "prompt": "a {subject} in snow"},
            {"prompt_id": "beach", "prompt": "a {subject} by the sea"},
        ],
    )
    order = ("run", "import", "folder", tmp_path / "outputs", "--pattern", "{identity}/{prompt_id}_{seed}")
    done = cli(*order, "--prompts", table, "--identifier", "sks", "--gallery", zoo, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.card.identifier == "sks"
    assert [(i.identity, i.prompt_id, i.seed, i.prompt) for i in run.images] == [
        ("rex", "beach", "8", "a sks dog by the sea"),
        ("rex", "snow_dog", "7", "a sks dog in snow"),
        ("tom", "beach", "10", "a sks dog by the sea"),
        ("tom", "snow_dog", "9", "a sks dog in snow"),
    ]


@pytest.mark.parametrize(
    ("pattern", "mentions"),
    [
        ("{identity}/{prompt_id}_{seed}", ("rex/draft.png", "does not fit", "move the file out")),
        ("{who}/*", ("{who}", "{identity}")),
        ("{identity}/{identity}", ("twice",)),
        ("*/*", ("no {name} in it",)),
        ("{identity}/a/b", ("fits none of its 3 images", "rex/draft.png")),
    ],
)
def test_a_pattern_that_does_not_fit_loses_no_image_silently(
    tmp_path: Path, photo: DrawPhoto, refusal: Refusal, pattern: str, mentions: tuple[str, ...]
) -> None:
    for seed, name in enumerate(["rex/snow_7.png", "rex/draft.png", "tom/snow_9.png"]):
        photo(tmp_path / "outputs" / name, seed)
    order = ("run", "import", "folder", tmp_path / "outputs", "--pattern", pattern, "--out", tmp_path / "run")
    assert not lacking(refusal(*order), *mentions)
    assert not (tmp_path / "run").exists()


def test_an_id_that_no_prompt_has_is_a_fault(tmp_path: Path, zoo: Path, photo: DrawPhoto, refusal: Refusal) -> None:
    photo(tmp_path / "outputs/rex/moon_1.png", 1)
    order = ("run", "import", "folder", tmp_path / "outputs", "--pattern", "{identity}/{prompt_id}_{seed}")
    line = refusal(*order, "--prompts", "reid", "--gallery", zoo, "--out", tmp_path / "run")
    assert not lacking(line, "moon_1.png", "no prompt has the id 'moon'", "--prompts")
