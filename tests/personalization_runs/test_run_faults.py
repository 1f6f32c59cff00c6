"""Whatever is wrong with a run, the command says it in one line, exits with 2, and reads nothing outside the run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import (
    Cli,
    Refusal,
    add_column,
    append,
    change_row,
    drop_column,
    encoded,
    files_below,
    half,
    lacking,
    noise,
    raw_png,
    relink,
    rename_column,
    replace_table,
    rows_of,
    save_noise,
    several_frames,
    write_rows,
)

Spoil = Callable[[Path], object]
IMAGE = "images/rex_1.png"  # the second row

FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no image": (lambda run: (run / IMAGE).unlink(), (IMAGE, "no such file")),
    "text for an image": (lambda run: (run / IMAGE).write_text("error 500"), (IMAGE, "not a readable image")),
    "an image of no bytes": (lambda run: (run / IMAGE).write_bytes(b""), (IMAGE, "empty (0 bytes)")),
    "a truncated JPEG": (
        lambda run: (run / IMAGE).write_bytes(half(encoded(noise(9, (64, 64)), "JPEG"))),
        (IMAGE, "truncated"),
    ),
    "an animation": (lambda run: (run / IMAGE).write_bytes(several_frames("WEBP")), (IMAGE, "3 frames")),
    "a decompression bomb": (
        lambda run: (run / IMAGE).write_bytes(raw_png(10**6, 10**6, 8, 2, b"")),
        (IMAGE, "80 megapixels"),
    ),
    "a row twice": (
        lambda run: write_rows(run / "metadata.csv", [*rows_of(run), rows_of(run)[1]]),
        ("row 5", IMAGE, "row 2"),
    ),
    "no identity": (lambda run: change_row(run, 2, identity=""), ("row 2", IMAGE, "empty identity")),
    "no column of identities": (lambda run: drop_column(run, "identity"), ("metadata.csv", "no column 'identity'")),
    "a misspelt column": (lambda run: rename_column(run, "prompt", "promt"), ("'promt'", "'prompt'")),
    "an empty name": (lambda run: change_row(run, 2, file_name=""), ("row 2", "empty file_name")),
    "an absolute name": (lambda run: change_row(run, 2, file_name="/etc/hostname"), ("row 2", "/etc/hostname")),
    "a name that climbs out": (lambda run: change_row(run, 2, file_name="../secret.png"), ("row 2", "../secret.png")),
    "a name with a NUL": (lambda run: change_row(run, 2, file_name="images/\0.png"), ("row 2", r"\x00")),
    "an endless name": (lambda run: change_row(run, 2, file_name=f"images/{'a' * 300}.png"), ("aaa.png",)),
    "a link to a file outside": (lambda run: link_image(run / IMAGE), (IMAGE, "link that leaves the folder")),
    "a link to itself": (lambda run: relink(run / IMAGE, run / IMAGE), (IMAGE,)),
    "a link to a folder outside": (lambda run: link_folder(run), ("more/rex_1.png", "leaves the folder")),
    "two tables": (lambda run: shutil.copy(run / "metadata.csv", run / "metadata.jsonl"), ("metadata.jsonl",)),
    "a line with too few fields": (
        lambda run: append(run / "metadata.csv", b"images/kit.png,kit\n"),
        ("metadata.csv row 5", "2 fields"),
    ),
    "a table that is not UTF-8": (
        lambda run: append(run / "metadata.csv", "images/1.png,é,,,\n".encode("latin-1")),
        ("metadata.csv", "not UTF-8"),
    ),
    "a damaged JSON table": (
        lambda run: replace_table(run, "metadata.jsonl", b'{"file_name": "images/rex_1.png", "identity": "rex"}\n{\n'),
        ("metadata.jsonl row 2", "not JSON"),
    ),
    "a damaged Parquet table": (
        lambda run: replace_table(run, "metadata.parquet", b"PAR1PAR1"),
        ("metadata.parquet", "not a readable Parquet file"),
    ),
    "a card that is not TOML": (lambda run: (run / "run.toml").write_text("model = \n"), ("run.toml", "line 1")),
    "an unknown field of the card": (
        lambda run: (run / "run.toml").write_text('modell = "painter"\n'),
        ("run.toml", "unknown field 'modell'"),
    ),
    "parameters that no JSON can hold": (
        lambda run: (run / "run.toml").write_text("[parameters]\nguidance = nan\n"),
        ("run.toml", "parameters holds nan"),
    ),
    "parameters that are no table": (
        lambda run: (run / "run.toml").write_text('parameters = "30 steps"\n'),
        ("run.toml", "parameters = '30 steps'", "table"),
    ),
}

TARGET_FAULTS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "an identity that the gallery lacks": (
        lambda run: change_row(run, 2, identity="kit"),
        ("identity 'kit'", "no photo of it in gallery 'zoo'", "1 images", IMAGE),
    ),
    "an identity that is misspelt": (
        lambda run: change_row(run, 2, identity="rexx"),
        ("identity 'rexx'", "is 'rex' meant?"),
    ),
    "an identity of references alone": (
        lambda run: write_rows(
            run.parent / "zoo/metadata.csv",
            [row for row in rows_of(run.parent / "zoo") if row["file_name"] not in TOMS],
        ),
        ("identity 'tom'", "no photo of it in gallery 'zoo'", "2 images"),
    ),
    "another category": (
        lambda run: add_column(run, "category", "cat", 2),
        ("identity 'rex'", "category 'cat'", IMAGE, "'dog'"),
    ),
    "a reference that is none": (
        lambda run: change_row(run, 2, reference_file_name="images/rex_2.png"),
        (IMAGE, "reference_file_name 'images/rex_2.png' is no reference photo of gallery 'zoo'"),
    ),
}
TOMS = ("images/tom_1.png", "images/tom_2.png")


def link_image(path: Path) -> None:
    relink(path, save_noise(path.parents[2] / "secret.png", 9))


def link_folder(run: Path) -> None:
    save_noise(run.parent / "secrets/rex_1.png", 9)
    (run / "more").symlink_to(run.parent / "secrets")
    change_row(run, 2, file_name="more/rex_1.png")


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_what_is_wrong_with_a_run(painted: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = FAULTS[fault]
    spoil(painted)
    assert lacking(refusal("run", "check", painted), str(painted), *mentions) == []


@pytest.mark.parametrize("fault", TARGET_FAULTS)
def test_check_names_what_the_gallery_cannot_answer(zoo: Path, painted: Path, refusal: Refusal, fault: str) -> None:
    spoil, mentions = TARGET_FAULTS[fault]
    spoil(painted)
    assert lacking(refusal("run", "check", painted, "--gallery", zoo), str(painted), *mentions) == []


@pytest.mark.parametrize("fault", TARGET_FAULTS)
def test_import_writes_nothing_that_the_gallery_cannot_answer(
    tmp_path: Path, zoo: Path, painted: Path, refusal: Refusal, fault: str
) -> None:
    spoil, mentions = TARGET_FAULTS[fault]
    spoil(painted)
    before = files_below(tmp_path)
    message = refusal("run", "import", "table", painted, "--gallery", zoo, "--out", tmp_path / "runs/painter")
    assert lacking(message, *mentions) == []
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "fault",
    [
        "no image",
        "text for an image",
        "a truncated JPEG",
        "no identity",
        "an empty name",
        "an absolute name",
        "a name that climbs out",
        "a name with a NUL",
        "an endless name",
        "a link to a file outside",
        "a link to itself",
        "a line with too few fields",
    ],
)
def test_import_writes_nothing_of_a_wrong_table(tmp_path: Path, painted: Path, refusal: Refusal, fault: str) -> None:
    spoil, _ = FAULTS[fault]
    spoil(painted)
    before = files_below(tmp_path)
    message = refusal("run", "import", "table", painted, "--out", tmp_path / "runs/painter")
    assert IMAGE in message or "row" in message or "aaa.png" in message
    assert files_below(tmp_path) == before


def test_faults_of_card_table_rows_images_and_targets_are_listed_at_once(zoo: Path, painted: Path, cli: Cli) -> None:
    (painted / "run.toml").write_text('modell = "painter"\n')
    add_column(painted, "weather", "sun")
    change_row(painted, 1, identity="")
    change_row(painted, 2, identity="kit")
    change_row(painted, 3, reference_file_name="nowhere.png")
    (painted / "images/tom_1.png").write_bytes(b"")

    result = cli("run", "check", painted, "--gallery", zoo)

    mentions = ("'modell'", "'weather'", "row 1", "'kit'", "'nowhere.png'", "images/tom_1.png")
    assert (result.returncode, result.stdout) == (2, "")
    assert lacking(result.stderr, *mentions) == []
    assert len(result.stderr.splitlines()) == 1 + len(mentions)


def test_faults_of_the_gallery_are_not_said_to_be_of_the_run(zoo: Path, painted: Path, refusal: Refusal) -> None:
    change_row(zoo, 2, split="test")
    message = refusal("run", "check", painted, "--gallery", zoo)
    assert lacking(message, str(zoo), "row 2", "split is 'test'") == []
    assert str(painted) not in message


def test_a_class_only_image_without_any_label_is_refused_where_categories_are_several(
    zoo: Path, painted: Path, refusal: Refusal
) -> None:
    cats = [
        row | {"file_name": f"cats/{n}.png", "identity": "kit", "category": "cat"}
        for n, row in enumerate(rows_of(zoo)[1:3])
    ]
    write_rows(zoo / "metadata.csv", [*rows_of(zoo), *cats])
    write_rows(painted / "metadata.csv", [{"file_name": IMAGE}])
    (painted / "run.toml").write_text('method = "class-only"\n')
    message = refusal("run", "check", painted, "--gallery", zoo)
    assert lacking(message, IMAGE, "neither identity nor a category", "cat, dog") == []


@pytest.mark.parametrize(
    ("name", "mention"),
    [("1.png", "no identity's folder"), ("dog/kit/1.png", "same depth")],
)
def test_check_names_what_is_wrong_with_a_tree_of_images(
    tmp_path: Path, refusal: Refusal, name: str, mention: str
) -> None:
    for seed, file_name in enumerate(["rex/0.png", name]):
        path = tmp_path / "outputs" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(seed), "PNG"))
    assert lacking(refusal("run", "check", tmp_path / "outputs"), name, mention) == []


def test_a_tree_with_a_link_that_leaves_it_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    save_noise(tmp_path / "outputs/rex/0.png", 0)
    (tmp_path / "outputs/rex/1.png").symlink_to(save_noise(tmp_path / "secret.png", 1))
    before = files_below(tmp_path)
    assert "rex/1.png: is a link that leaves the folder" in refusal("run", "check", tmp_path / "outputs")
    refused = refusal("run", "import", "folder", tmp_path / "outputs", "--out", tmp_path / "runs/painter")
    assert "rex/1.png: is a link that leaves the folder" in refused
    assert files_below(tmp_path) == before


def test_a_linked_folder_in_a_tree_is_not_entered(tmp_path: Path, cli: Cli) -> None:
    save_noise(tmp_path / "outputs/rex/0.png", 0)
    save_noise(tmp_path / "secrets/1.png", 1)
    (tmp_path / "outputs/tom").symlink_to(tmp_path / "secrets")
    result = cli("run", "check", tmp_path / "outputs")
    assert result.stdout == f"{tmp_path / 'outputs'}: no faults; outputs: 1 images of 1 identities\n"


@pytest.mark.parametrize("what", ["nothing", "a gallery's card", "a saved dataset"])
def test_what_is_no_run_is_refused(tmp_path: Path, refusal: Refusal, what: str) -> None:
    folder = tmp_path / "folder"
    if what != "nothing":
        folder.mkdir()
        (folder / {"a gallery's card": "gallery.toml", "a saved dataset": "state.json"}[what]).write_text("")
    mention = {
        "nothing": "no such run folder",
        "a gallery's card": "no image files in its folders",
        "a saved dataset": "finer-rank run import hub",
    }[what]
    assert lacking(refusal("run", "check", folder), str(folder), mention) == []


def test_nothing_is_imported_over_what_is_there(tmp_path: Path, painted: Path, refusal: Refusal) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mine.txt").write_text("mine")
    assert "exists already" in refusal("run", "import", "table", painted, "--out", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine.txt"]
