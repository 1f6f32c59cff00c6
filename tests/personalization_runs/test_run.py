"""A run is the same rows whatever their order on disk, and asks a gallery for the identities that it names."""

import dataclasses
import json
from pathlib import Path

import pytest
from handmade import Cli, DrawPhoto, imagefolder_rows, rows_of, write_rows

from galleries import Faults, Gallery
from personalization_runs import GeneratedImage, Run, RunCard


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "in reverse"])
def test_a_run_is_the_same_in_every_kind_of_table_and_order(painted: Path, ending: str, reverse: bool) -> None:
    expected = Run.open(painted)
    rows = sorted(rows_of(painted), key=lambda row: row["file_name"], reverse=reverse)
    (painted / "metadata.csv").unlink()
    write_rows(painted / f"metadata{ending}", rows)
    opened = Run.open(painted)
    assert (opened, opened.digest) == (expected, expected.digest)


@pytest.mark.parametrize("category", ["", "dog/"])
def test_a_tree_is_a_run_of_its_folders(tmp_path: Path, photo: DrawPhoto, category: str) -> None:
    for seed, name in enumerate(["rex/1.png", "rex/2.png", "tom/1.png"]):
        photo(tmp_path / "outputs" / category / name, seed)
    run = Run.open(tmp_path / "outputs")
    assert [(image.category + "/" if image.category else "", image.identity) for image in run.images] == [
        (category, "rex"),
        (category, "rex"),
        (category, "tom"),
    ]
    assert (run.card.model, run.image_faults()) == ("outputs", [])


def test_the_card_says_how_the_images_were_made(painted: Path) -> None:
    (painted / "run.toml").write_text(
        'model = "painter"\nmethod = "dreambooth"\nbase_model = "sd"\n[parameters]\nsteps = 30\n'
    )
    expected = RunCard("painter", method="dreambooth", base_model="sd", parameters={"steps": 30})
    assert Run.open(painted).card == expected


def test_a_run_cannot_be_changed(painted: Path) -> None:
    run = Run.open(painted)
    for thing in (run, run.card, run.images[0]):
        for field in dataclasses.fields(thing):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(thing, field.name, None)
    assert isinstance(run.images, tuple)


def test_the_table_holds_a_row_per_image(painted: Path) -> None:
    frame = Run.open(painted).table()
    assert frame[list(rows_of(painted)[0])].to_dict("records") == rows_of(painted)


def test_each_image_asks_for_its_identity_and_knows_its_reference(zoo: Path, painted: Path) -> None:
    queries = Run.open(painted).queries(Gallery.open(zoo))
    assert [(q.image.file_name, q.identity, q.category, q.reference and q.reference.file_name) for q in queries] == [
        (f"images/{identity}_{number}.png", identity, "dog", f"images/{identity}_0.png")
        for identity in ("rex", "tom")
        for number in range(2)
    ]


def test_a_reference_may_be_named_as_it_was_at_its_source(zoo: Path, painted: Path) -> None:
    photos = [row | {"source_id": f"flickr/{row['file_name'][7:]}"} for row in rows_of(zoo)]
    write_rows(zoo / "metadata.csv", photos)
    images = [row | {"reference_file_name": f"flickr/{row['identity']}_0.png"} for row in rows_of(painted)]
    write_rows(painted / "metadata.csv", images)
    queries = Run.open(painted).queries(Gallery.open(zoo))
    assert {(q.identity, q.reference and q.reference.file_name) for q in queries} == {
        ("rex", "images/rex_0.png"),
        ("tom", "images/tom_0.png"),
    }


def class_only_run(folder: Path, rows: list[dict[str, str]]) -> Run:
    write_rows(folder / "metadata.csv", rows)
    (folder / "run.toml").write_text('model = "untuned"\nmethod = "class-only"\n')
    return Run.open(folder)


def test_a_class_only_image_asks_for_every_identity_of_its_category(tmp_path: Path, zoo: Path) -> None:
    cats = [
        row | {"file_name": f"cats/{row['identity']}.png", "identity": f"cat {row['identity']}", "category": "cat"}
        for row in rows_of(zoo)[2::3]
    ]
    write_rows(zoo / "metadata.csv", [*rows_of(zoo), *cats])
    run = class_only_run(
        tmp_path / "untuned",
        [{"file_name": "1.png", "category": "dog"}, {"file_name": "2.png", "category": "cat"}],
    )
    assert run.is_class_only
    assert [(q.image.file_name, q.identity, q.category) for q in run.queries(Gallery.open(zoo))] == [
        ("1.png", "rex", "dog"),
        ("1.png", "tom", "dog"),
        ("2.png", "cat rex", "cat"),
        ("2.png", "cat tom", "cat"),
    ]


def test_a_class_only_image_needs_no_category_where_there_is_one_only(tmp_path: Path, zoo: Path) -> None:
    run = class_only_run(tmp_path / "untuned", [{"file_name": "1.png"}])
    assert [query.identity for query in run.queries(Gallery.open(zoo))] == ["rex", "tom"]


def test_a_class_only_image_that_names_an_identity_asks_for_it_alone(tmp_path: Path, zoo: Path) -> None:
    run = class_only_run(tmp_path / "untuned", [{"file_name": "1.png", "identity": "tom"}])
    assert [query.identity for query in run.queries(Gallery.open(zoo))] == ["tom"]


def test_a_distractor_is_asked_for_by_nobody(tmp_path: Path, zoo: Path) -> None:
    write_rows(
        zoo / "metadata.csv",
        [*rows_of(zoo), rows_of(zoo)[1] | {"file_name": "x", "identity": "kit", "split": "distractor"}],
    )
    run = class_only_run(tmp_path / "untuned", [{"file_name": "1.png"}])
    assert [query.identity for query in run.queries(Gallery.open(zoo))] == ["rex", "tom"]
    with pytest.raises(Faults, match="identity 'kit': no photo of it"):
        class_only_run(tmp_path / "other", [{"file_name": "1.png", "identity": "kit"}]).queries(Gallery.open(zoo))


def test_show_counts_the_images_of_each_identity(painted: Path, cli: Cli) -> None:
    table, as_json = cli("run", "show", painted).stdout, json.loads(cli("run", "show", painted, "--json").stdout)
    cells = dict(line.split()[1:4:2] for line in table.splitlines() if line.startswith("│"))
    assert cells == {"rex": "2", "tom": "2"}
    assert as_json["identities"] == {"rex": 2, "tom": 2}
    assert as_json["table_sha256"] == Run.open(painted).digest
    assert as_json["table_sha256"] in table


def test_a_sound_run_has_no_faults(zoo: Path, painted: Path, cli: Cli) -> None:
    result = cli("run", "check", painted, "--gallery", zoo)
    expected = f"{painted}: no faults; painter: 4 images of 2 identities\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")
    assert json.loads(cli("run", "check", painted, "--json").stdout) == {"run": str(painted), "faults": []}


@pytest.mark.parametrize(
    "name", ["[red]x", "[/red]", r"two\nlines", r"\u001b[31mred", r"right\u202eleft", "<script>", "x" * 150]
)
def test_a_hostile_name_of_model_or_identity_is_shown_as_it_is(painted: Path, cli: Cli, name: str) -> None:
    (painted / "run.toml").write_text(f'model = "{name}"\n')
    write_rows(painted / "metadata.csv", [row | {"identity": json.loads(f'"{name}"')} for row in rows_of(painted)])
    shown_name = name.replace(r"\u001b", r"\x1b")

    shown, checked = cli("run", "show", painted), cli("run", "check", painted)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert [c for c in shown.stdout + checked.stdout if not c.isprintable() and c != "\n"] == []
    assert shown.stdout.splitlines()[0].rstrip() == shown_name
    assert [line.split()[1:4:2] for line in shown.stdout.splitlines() if line.startswith("│")] == [[shown_name, "4"]]
    assert checked.stdout == f"{painted}: no faults; {shown_name}: 4 images of 1 identities\n"


def test_datasets_opens_a_run_but_for_the_references_which_lie_in_the_gallery(tmp_path: Path, painted: Path) -> None:
    rows = [row | {"reference_file_name": f"photos of the gallery/{row['identity']}.png"} for row in rows_of(painted)]
    write_rows(painted / "metadata.csv", rows)
    # `datasets` takes any column …_file_name for files of the folder, and leaves the ending out of its name.
    loaded = imagefolder_rows(painted, tmp_path / "cache", without=["reference"])
    assert [(row["identity"], row["prompt"]) for row in loaded] == [(row["identity"], row["prompt"]) for row in rows]


def test_a_card_may_hold_dates_which_are_shown_as_text(painted: Path, cli: Cli) -> None:
    (painted / "run.toml").write_text('model = "painter"\n[parameters]\nmade = 2026-01-31\nsteps = 30\n')
    shown = json.loads(cli("run", "show", painted, "--json").stdout)
    assert shown["parameters"] == {"made": "2026-01-31", "steps": 30}


def test_a_generated_image_is_equal_to_one_of_the_same_row_elsewhere() -> None:
    one, other = (GeneratedImage("1.png", identity="rex", path=Path(folder) / "1.png") for folder in ("a", "b"))
    assert one == other
    assert one != dataclasses.replace(one, seed="1")
