"""`finer-rank leaderboard add`: a run becomes a bundle that can be published.

First come helpers, which the tests of `leaderboard check` use too: runs that may be submitted, and ways to spoil
bundles as a cheat would, digests and all.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import Cli, change_row, files_below, lacking, rows_of, write_rows
from handmade import write_gallery as write_dogs
from handmade import write_run as write_painted_dogs
from in_process import run_here
from PIL import Image
from pytest import approx
from sklearn.metrics import average_precision_score

CARD = """model = "{model}"
method = "lora"
base_model = "sdxl"
training_data = "none"
licence = "CC-BY-4.0"
contact = "https://example.org"
authors = "A. B."
gallery = "zoo"
gallery_version = "{version}"
"""


ANIMALS = {"ada": "cats", "ben": "cats", "cleo": "cats", "rex": "dogs", "fido": "dogs"}


def draw(path: Path, animal: str, number: int, likeness: float = 0.5) -> None:
    """Draw picture `number` of an animal: its colours are partly the animal's and partly the picture's own."""

    def patches(*seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (6, 6, 3))

    key = list(animal.encode())
    mixed = likeness * patches(*key) + (1 - likeness) * patches(*key, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mixed.astype(np.uint8)).resize((80, 64), Image.Resampling.BILINEAR).save(path)


def write_zoo(folder: Path, encounters: bool = False) -> Path:
    """A gallery of five animals, of each two references and four photos; and three stray dogs.

    With `encounters`, the first gallery photo of each animal is from the encounter of its first reference.
    """
    rows = []
    for animal, category in [*ANIMALS.items(), *((f"stray {number}", "dogs") for number in range(3))]:
        is_stray = animal not in ANIMALS
        for number in range(1 if is_stray else 6):
            split = "distractor" if is_stray else "reference" if number < 2 else "gallery"
            row = {"file_name": f"images/{animal}_{number}.png", "category": category, "identity": animal}
            rows.append({**row, "split": split})
            if encounters:
                rows[-1]["encounter"] = "" if is_stray else f"{animal}-{0 if number in (0, 2) else number}"
            draw(folder / row["file_name"], animal, number)
    write_rows(folder / "metadata.csv", rows)
    (folder / "gallery.toml").write_text('name = "zoo"\nversion = "1"\n')
    return folder


def write_run(folder: Path, likeness: float = 0.5, n_images: int = 3) -> Path:
    """A run of some images of each animal, made from its first reference."""
    rows = []
    for animal in ANIMALS:
        for number in range(n_images):
            row = {"file_name": f"images/{animal}_{number}.png", "identity": animal, "prompt": f"{animal}, asleep"}
            rows.append({**row, "reference_file_name": f"images/{animal}_0.png"})
            draw(folder / row["file_name"], animal, 1000 + number + round(likeness * 1000), likeness)
    write_rows(folder / "metadata.csv", rows)
    return folder


def declare(run: Path, model: str, version: str = "1") -> Path:
    """Fill in all that a submission declares."""
    (run / "run.toml").write_text(CARD.format(model=model, version=version), encoding="utf-8")
    return run


def record_of(bundle: Path) -> Path:
    (folder,) = (bundle / "records").iterdir()
    return folder


def seal(bundle: Path) -> None:
    """Make the manifest list the files as they are now."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_record(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    change_json(record_of(bundle) / "record.json", change)
    seal(bundle)


def change_table(bundle: Path, name: str, change: Callable[[dict[str, list[Any]]], Any]) -> None:
    """Change the columns of `queries` or `neighbours`; types stay as they are."""
    path = record_of(bundle) / f"{name}.parquet"
    table = pq.ParquetFile(path).read()
    columns = table.to_pydict()
    change(columns)
    types = {field.name: field.type for field in table.schema}
    arrays = {column: pa.array(values, types.get(column)) for column, values in columns.items()}
    pq.write_table(pa.table(arrays), path)
    seal(bundle)


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths to all numbers of a JSON document."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in leaves(each, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


def put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


GALLERY = 'name = "zoo"\nversion = "1"\nlicence = "CC-BY-4.0"\nthumbnails = "{}"\n'


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = write_zoo(tmp_path / "zoo")
    (folder / "gallery.toml").write_text(GALLERY.format("yes, with credit"))
    return folder


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    return declare(write_run(tmp_path / "painter", likeness=0.6), "painter")


def command(*arguments: object) -> tuple[int, str, str]:
    """`finer-rank leaderboard …` in this process: exit code, stdout, stderr."""
    done = run_here("leaderboard", *arguments)
    return done.returncode, done.stdout, done.stderr


def add(run: Path, gallery: Path, out: Path) -> Path:
    """The bundle of a run, in an empty folder."""
    code, _, err = command("add", run, "--gallery", gallery, "--embedder", "classical:", "--out", out)
    assert code == 0, err
    (bundle,) = out.iterdir()
    return bundle


def refuse(run: Path, gallery: Path, out: Path) -> str:
    """The one line with which a run is refused."""
    code, said, err = command("add", run, "--gallery", gallery, "--embedder", "classical:", "--out", out)
    assert (code, said, len(err.splitlines())) == (2, "", 1), err
    return err


def test_a_bundle_holds_records_thumbnails_and_the_digest_of_every_file(
    zoo: Path, painter: Path, tmp_path: Path
) -> None:
    bundle = add(painter, zoo, tmp_path / "board")
    assert bundle.name == "zoo-1--painter"
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert {key: manifest[key] for key in ("format", "protocol", "model")} == {
        "format": 1, "protocol": "1", "model": "painter",
    }  # fmt: skip
    record = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))
    assert manifest["gallery"].items() <= record["gallery"].items()
    files = {path for path in bundle.rglob("*") if path.is_file()} - {bundle / "manifest.json"}
    digests = {f.relative_to(bundle).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert manifest["files"] == digests
    assert {path.name for path in record_of(bundle).iterdir()} == {
        "record.json", "queries.parquet", "neighbours.parquet",
    }  # fmt: skip
    for path in files - set((bundle / "thumbnails").iterdir()):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_thumbnails_show_queries_neighbours_and_references_and_carry_no_metadata(
    zoo: Path, painter: Path, tmp_path: Path
) -> None:
    query = painter / "images" / "ada_0.png"
    large = Image.open(query).resize((900, 500))
    place = Image.Exif()
    place[0x010E] = "at home"
    large.save(query, exif=place, icc_profile=b"profile")
    bundle = add(painter, zoo, tmp_path / "board")
    queries = pq.read_table(record_of(bundle) / "queries.parquet").column("image_sha256").to_pylist()
    near = pq.read_table(record_of(bundle) / "neighbours.parquet").column("image_sha256").to_pylist()
    references = [zoo / "images" / f"{row['identity']}_0.png" for row in rows_of(painter)]
    shown = {*queries, *near, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in references)}
    assert {path.name for path in (bundle / "thumbnails").iterdir()} == {f"{digest}.webp" for digest in shown}
    thumbnail = Image.open(bundle / "thumbnails" / f"{hashlib.sha256(query.read_bytes()).hexdigest()}.webp")
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (256, 142))
    assert not {"exif", "icc_profile", "xmp"} & thumbnail.info.keys()
    original = np.asarray(large.convert("RGB").resize((256, 142))).astype(int)
    assert np.abs(np.asarray(thumbnail.convert("RGB")).astype(int) - original).mean() < 6


@pytest.mark.parametrize("card", ["", "no", "no, unless the licence of the part allows it", "yesterday"])
def test_a_gallery_that_does_not_say_yes_is_not_shown(card: str, zoo: Path, painter: Path, tmp_path: Path) -> None:
    (zoo / "gallery.toml").write_text(GALLERY.format(card))
    bundle = add(painter, zoo, tmp_path / "board")
    assert not [name for name in files_below(bundle) if name.startswith("thumbnails")]
    assert json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["references"] == []


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(
    zoo: Path, painter: Path, tmp_path: Path, cli: Cli
) -> None:
    first = add(painter, zoo, tmp_path / "board")
    shutil.move(painter, tmp_path / "elsewhere")
    shutil.move(zoo, tmp_path / "other")
    again = cli("leaderboard", "add", "elsewhere", "-g", "other", "-e", "classical:", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    second = tmp_path / "again" / first.name
    names = files_below(first)
    assert names == files_below(second)
    for name in names:
        assert (first / name).is_dir() or (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_score_is_that_of_another_implementation(tmp_path: Path) -> None:
    gallery = write_dogs(tmp_path / "zoo")
    run = declare(write_painted_dogs(tmp_path / "run", (64, 64)), "painter", "2")
    bundle = add(run, gallery, tmp_path / "board")
    near = pq.read_table(record_of(bundle) / "neighbours.parquet").to_pandas()
    of_query = [
        average_precision_score(own["is_relevant"], own["similarity"]) for _, own in near.groupby("query", sort=True)
    ]  # the gallery has four photos: all of them are neighbours
    queries = pq.read_table(record_of(bundle) / "queries.parquet")
    record = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))
    assert queries.column("average_precision").to_pylist() == approx(of_query)
    assert record["scores"]["mAP"]["value"] == approx(np.mean(of_query))


def test_a_bundle_of_the_same_name_is_refused_before_anything_is_scored(
    zoo: Path, painter: Path, tmp_path: Path
) -> None:
    bundle = add(painter, zoo, tmp_path / "board")
    before = (bundle / "manifest.json").read_bytes()
    declare(painter, "PAINTER")  # another spelling is no other model
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, "zoo-1--painter", "is there already", "name the model otherwise")
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "field",
    [
        "model", "method", "base_model", "training_data", "licence", "authors", "contact", "gallery", "gallery_version",
    ],
)  # fmt: skip
def test_what_a_submission_declares_is_asked_for(field: str, zoo: Path, painter: Path, tmp_path: Path) -> None:
    lines = (painter / "run.toml").read_text(encoding="utf-8").splitlines()
    (painter / "run.toml").write_text("\n".join(line for line in lines if not line.startswith(f"{field} =")))
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, f"run.toml: {field} is not declared", f'add {field} = "…"')
    assert not (tmp_path / "board").exists()


def test_a_run_for_another_version_of_the_gallery_is_refused(zoo: Path, painter: Path, tmp_path: Path) -> None:
    declare(painter, "painter", version="0")
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, "gallery_version = '0'", "the gallery at hand is '1'")


def test_every_identity_of_the_gallery_must_be_asked_for(zoo: Path, painter: Path, tmp_path: Path) -> None:
    write_rows(painter / "metadata.csv", [row for row in rows_of(painter) if row["identity"] != "cleo"])
    line = refuse(painter, zoo, tmp_path / "board")
    assert not lacking(line, "no image of 1 of the gallery's 5 identities (cleo)", "generate them too")


def test_a_class_only_run_asks_for_everybody(zoo: Path, painter: Path, tmp_path: Path) -> None:
    rows = [
        {"file_name": row["file_name"], "category": c}
        for row, c in zip(rows_of(painter)[:2], ("cats", "dogs"), strict=True)
    ]
    write_rows(painter / "metadata.csv", rows)
    card = (painter / "run.toml").read_text(encoding="utf-8").replace("lora", "class-only")
    (painter / "run.toml").write_text(card, encoding="utf-8")
    bundle = add(painter, zoo, tmp_path / "board")
    queries = pq.read_table(record_of(bundle) / "queries.parquet")
    assert set(queries.column("identity").to_pylist()) == {"ada", "ben", "cleo", "rex", "fido"}
    assert command("check", bundle)[0] == 0


def test_all_faults_are_listed_at_once(zoo: Path, painter: Path, tmp_path: Path) -> None:
    (painter / "run.toml").write_text('model = "painter"\n')
    change_row(painter, 1, identity="adda")
    (painter / "images" / "ben_0.png").write_bytes(b"")
    code, said, err = command("add", painter, "-g", zoo, "-e", "classical:", "--out", tmp_path / "board")
    assert (code, said) == (2, "")
    assert not lacking(err, "10 faults", "method", "'adda'", "is 'ada' meant?", "ben_0.png: the file is empty")
    assert not (tmp_path / "board").exists()


def test_an_embedder_must_be_named(zoo: Path, painter: Path, tmp_path: Path) -> None:
    code, _, err = command("add", painter, "--gallery", zoo, "--out", tmp_path / "board")
    assert code == 2
    assert "--embedder" in err


def test_names_of_models_make_safe_folders(zoo: Path, painter: Path, tmp_path: Path) -> None:
    declare(painter, "../../Ünsafe: 模型 [red]\\u001b")
    add(painter, zoo, tmp_path / "board")
    (bundle,) = (tmp_path / "board").iterdir()
    assert bundle.name.isascii()
    code, said, err = command("check", tmp_path / "board")
    assert code == 0, err
    assert "\x1b" not in said
    assert "[red]" in said


def test_what_will_be_held_for_review_is_said(zoo: Path, painter: Path, tmp_path: Path) -> None:
    for row in rows_of(painter):
        shutil.copyfile(zoo / "images" / f"{row['identity']}_0.png", painter / row["file_name"])
    code, _, err = command("add", painter, "-g", zoo, "-e", "classical:", "--out", tmp_path / "board")
    assert code == 0, err
    for what in (
        "identical to another one",
        "15 images are photos of the gallery",
        "similarity above 0.999",
        "copy rate 1.000",
    ):
        assert any("will be held for review" in line and what in line for line in err.splitlines()), what


def test_encounters_that_are_left_out_are_scored_and_checked(painter: Path, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo", encounters=True)
    bundle = add(painter, zoo, tmp_path / "board")
    record = json.loads((record_of(bundle) / "record.json").read_text(encoding="utf-8"))
    assert "with_same_encounter" in record
    code, _, err = command("check", bundle, "--gallery", zoo, "--run", painter)
    assert code == 0, err
