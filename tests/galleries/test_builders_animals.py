"""Animals of WildlifeReID-10k, and of the package's own classes, become the galleries that the recipes promise."""

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from data_sets import (
    ANIMAL_COLUMNS,
    Label,
    animal_row,
    built,
    copied,
    labels_of,
    put,
    refused,
    write_animals,
)
from handmade import Cli, Row, change_row, files_below, lacking, rows_of, write_rows

from galleries import Gallery
from galleries.builders import animal_reid
from galleries.gallery import GalleryCard

DOWNLOAD = "https://www.kaggle.com/datasets/wildlifedatasets/wildlifereid-10k"
COUNTS = {
    "zebra": [9, 10, 9, 9, 9, 13, 9, 16, 9, 9, 9, 12, 27],
    "seal": [9, 26, 8],
    "newt": [8, 1],
}


def scattered(rows: Sequence[Row]) -> list[Row]:
    """Rows in an order that is none of animals."""
    return sorted(rows, key=lambda row: hash_of(row["path"]))


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[::-1], "big") % 1009


PAPER_ROWS = scattered(
    [
        animal_row(f"{species}{who}", i, species, orientation=("left", "right", "")[i % 3])
        for species, counts in COUNTS.items()
        for who, n in enumerate(counts)
        for i in range(n)
    ]
)
FEW_ROWS = [
    *(animal_row("rex", i, date=f"2020-05-{1 + i // 3:02d}", orientation="left") for i in range(9)),
    *(animal_row("tom", i, cluster_id=f"tom_{i // 4}") for i in range(12)),
    *(animal_row("kit", i, date="2020-05-01") for i in range(2)),
]


@pytest.fixture(scope="module")
def few_animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_animals(tmp_path_factory.mktemp("herd"), FEW_ROWS)


@pytest.fixture
def herd(few_animals: Path, tmp_path: Path) -> Path:
    """Two animals with photos enough, and one without, of which a test may spoil the table, and replace photos."""
    return copied(few_animals, tmp_path / "herd")


def drawn_by_pandas(root: Path) -> set[Label]:
    """What the code of the paper draws; where animals have equally many references, the first by name are taken."""
    frame = pd.read_csv(root / "metadata.csv", low_memory=False)
    photos_of = {name: own for name, own in frame.groupby("identity") if len(own) >= 9}
    drawn = {name: own.sample(n=min(len(own) - 5, 10), random_state=42) for name, own in photos_of.items()}
    per_species: dict[str, list[str]] = defaultdict(list)
    for name in sorted(drawn, key=lambda name: (-len(drawn[name]), name)):
        per_species[photos_of[name]["species"].iloc[0]].append(name)
    labels = set()
    asked = {name for names in per_species.values() for name in names[:10]}
    for name in asked:
        rest = photos_of[name].drop(index=drawn[name].index)
        gallery = rest.sample(n=min(len(rest), 15), random_state=42)
        for split, chosen in (("reference", drawn[name]), ("gallery", gallery)):
            labels |= {(row.species, name, split, row.path) for row in chosen.itertuples()}
    others = frame[~frame["identity"].isin(asked)]
    return labels | {(row.species, row.identity, "distractor", row.path) for row in others.itertuples()}


def test_the_recipe_of_the_paper_draws_the_photos_that_pandas_draws(tmp_path: Path) -> None:
    root = write_animals(tmp_path / "herd", PAPER_ROWS)
    gallery = built("animal-reid", root, tmp_path / "zoo")
    assert labels_of(gallery) == drawn_by_pandas(root)
    asked = {photo.identity for photo in gallery.split("reference")}
    assert Counter(gallery.category_of[name] for name in asked) == {"zebra": 10, "seal": 2}
    assert asked.isdisjoint(photo.identity for photo in gallery.split("distractor"))
    for name in asked:
        assert 4 <= len(gallery.references[name]) <= 10
        assert 5 <= sum(p.identity == name for p in gallery.split("gallery")) <= 15
    orientations = {row["path"]: row["orientation"] for row in PAPER_ROWS}
    for photo in gallery.photos:
        assert photo.path.read_bytes() == (root / photo.source_id).read_bytes()
        assert photo.viewpoint == orientations[photo.source_id]
    assert (gallery.card.name, gallery.card.granularity) == ("animal-reid-paper", "instance")


@pytest.mark.parametrize("recipe", ["paper", "encounter"])
def test_copies_at_other_places_become_the_same_gallery(
    herd: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    gallery = built("animal-reid", herd, tmp_path / "zoo", "--recipe", recipe)
    write_animals(tmp_path / "elsewhere/again", FEW_ROWS, backwards=True)
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    made = cli(
        "gallery", "build", "animal-reid", "again", "--recipe", recipe, "--out", "zoo", cwd=tmp_path / "elsewhere"
    )
    assert made.returncode == 0, made
    assert Gallery.open(tmp_path / "elsewhere/zoo").digest == gallery.digest


def test_the_recipe_of_encounters_has_no_encounter_on_both_sides(herd: Path, tmp_path: Path) -> None:
    gallery = built("animal-reid", herd, tmp_path / "zoo", "--recipe", "encounter")
    sides: dict[str, set[str]] = defaultdict(set)
    for photo in gallery.split("reference", "gallery"):
        sides[photo.encounter].add(photo.split)
    assert all(len(of) == 1 for of in sides.values())
    by_split = Counter((photo.identity, photo.split) for photo in gallery.photos)
    # Of tom, three clusters of 4: one is enough. Of rex, three days of 3: 4 references take two, which leaves 3.
    assert by_split == {
        ("Herd_tom", "reference"): 4,
        ("Herd_tom", "gallery"): 8,
        ("Herd_rex", "distractor"): 9,
        ("Herd_kit", "distractor"): 2,
    }


def encounters_of(tmp_path: Path, sizes: Sequence[int], days: bool = True) -> Gallery:
    """A gallery of one animal with encounters of these sizes, the earliest first, and of a distractor."""
    where = "date" if days else "cluster_id"
    rows = [
        animal_row("rex", 100 * day + i, **{where: f"2020-05-{day + 1:02d}"})
        for day, n in enumerate(sizes)
        for i in range(n)
    ]
    write_rows(tmp_path / "metadata.csv", [*rows, animal_row("kit", 1)])
    selection = animal_reid.find(tmp_path, "encounter")
    return Gallery.from_found(selection.images, GalleryCard("herd"), tmp_path)


@pytest.mark.parametrize("sizes", [(4, 5), (3, 1, 5), (12, 20), (2, 2, 2, 2, 2), (5, 4), (20, 5, 3)])
@pytest.mark.parametrize("days", [True, False])
def test_sides_are_as_large_as_promised_and_the_earlier_photos_are_references(
    tmp_path: Path, sizes: Sequence[int], days: bool
) -> None:
    gallery = encounters_of(tmp_path, sizes, days)
    references, photos = gallery.split("reference"), gallery.split("gallery")
    assert 4 <= len(references) <= 10
    assert 5 <= len(photos) <= 15
    assert {p.identity for p in references} == {p.identity for p in photos} == {"Herd_rex"}
    assert not {p.encounter for p in references} & {p.encounter for p in photos}
    if sizes not in ((5, 4), (20, 5, 3)):
        assert max(p.source_id for p in references) < min(p.source_id for p in photos)


@pytest.mark.parametrize("sizes", [(3, 20, 1), (2, 9, 2), (4, 1, 1, 30, 1)])
def test_an_animal_whose_encounters_divide_in_some_way_is_asked_for(tmp_path: Path, sizes: Sequence[int]) -> None:
    gallery = encounters_of(tmp_path, sizes)
    assert (len(gallery.split("reference")) >= 4, len(gallery.split("gallery")) >= 5) == (True, True)


def test_a_photo_without_a_cluster_belongs_to_the_clusters_of_its_day(tmp_path: Path) -> None:
    rows = [animal_row("rex", i, date="2020-05-01", cluster_id="Herd_rex_1") for i in range(4)]
    rows += [animal_row("rex", 10 + i, date="2020-05-01") for i in range(4)]
    rows += [animal_row("rex", 20 + i, date="2020-05-09", cluster_id="Herd_rex_2") for i in range(6)]
    root = write_animals(tmp_path / "herd", [*rows, animal_row("kit", 1)])
    gallery = built("animal-reid", root, tmp_path / "zoo", "--recipe", "encounter")
    day = {row["path"]: row["date"] for row in rows}
    references = {day[p.source_id] for p in gallery.split("reference")}
    assert not references & {day[p.source_id] for p in gallery.split("gallery")}


def test_hours_do_not_tell_the_photos_of_a_day_apart(tmp_path: Path) -> None:
    rows = [animal_row("rex", i, date=f"2020-05-0{1 + i // 6} 10:{i:02d}:00") for i in range(12)]
    root = write_animals(tmp_path / "herd", [*rows, animal_row("kit", 1)])
    gallery = built("animal-reid", root, tmp_path / "zoo", "--recipe", "encounter")
    assert {p.source_id for p in gallery.split("reference")} == {row["path"] for row in rows[:6]}


def test_photos_of_nobody_known_are_left_out(tmp_path: Path) -> None:
    rows = [*FEW_ROWS[:9], animal_row("rex", 100) | {"identity": "unknown"}, animal_row("kit", 1)]
    gallery = built("animal-reid", write_animals(tmp_path / "herd", rows), tmp_path / "zoo")
    assert {p.identity for p in gallery.photos} == {"Herd_rex", "Herd_kit"}


def test_names_and_species_may_be_of_any_script(tmp_path: Path) -> None:
    rows = [animal_row("Čeněk 犬 'x' /", i, 'żubr, or "bison"') for i in range(9)]
    rows = [row | {"path": f"images/Herd/žubři 犬/{i}.jpg"} for i, row in enumerate(rows)]
    gallery = built("animal-reid", write_animals(tmp_path / "herd", rows), tmp_path / "zoo")
    assert {(p.category, p.identity) for p in gallery.photos} == {('żubr, or "bison"', "Herd_Čeněk 犬 'x' /")}


@pytest.mark.parametrize("change", [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text])
def test_tables_that_went_through_windows_are_read(
    herd: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    sound = built("animal-reid", herd, tmp_path / "sound")
    (herd / "metadata.csv").write_bytes(change((herd / "metadata.csv").read_bytes().replace(b"\r\n", b"\n")))
    assert built("animal-reid", herd, tmp_path / "zoo").digest == sound.digest


# ---- What is not the data set, or half of it


def test_other_folders_are_refused_with_what_to_download(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "holiday/rex/1.jpg", b"")
    put(tmp_path / "file", b"")
    for source in ("empty", "holiday", "nowhere", "file"):
        (line,) = refused("animal-reid", tmp_path / source, tmp_path / "zoo")
        assert lacking(line, str(tmp_path / source), DOWNLOAD) == []


def test_a_table_without_the_photos_is_refused_with_what_to_download(herd: Path, tmp_path: Path) -> None:
    (herd / "images").rename(tmp_path / "gone")
    lines = refused("animal-reid", herd, tmp_path / "zoo")
    assert DOWNLOAD in lines[0]
    assert len(lines) == 1


def test_each_missing_photo_is_named(herd: Path, tmp_path: Path) -> None:
    gone = [row["path"] for row in FEW_ROWS[::6]]
    for path in gone:
        (herd / path).unlink()
    first, *faults = refused("animal-reid", herd, tmp_path / "zoo")
    assert f"{len(gone)} faults" in first
    assert [path for path in gone if not any(path.removeprefix("images/") in fault for fault in faults)] == []


@pytest.mark.parametrize("column", ["identity", "path", "species"])
def test_a_table_that_lacks_a_column_is_refused(herd: Path, tmp_path: Path, column: str) -> None:
    write_rows(herd / "metadata.csv", [{k: v for k, v in row.items() if k != column} for row in FEW_ROWS])
    (line,) = refused("animal-reid", herd, tmp_path / "zoo")
    assert lacking(line, "metadata.csv", repr(column), "fetch") == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"identity;path;species\n", b"\x1f\x8b\x08\x00" * 9])
def test_what_is_no_table_is_refused_by_name(herd: Path, tmp_path: Path, content: bytes) -> None:
    put(herd / "metadata.csv", content)
    (line,) = refused("animal-reid", herd, tmp_path / "zoo")
    assert "metadata.csv" in line


def test_a_table_without_rows_is_refused(herd: Path, tmp_path: Path) -> None:
    put(herd / "metadata.csv", ",".join(ANIMAL_COLUMNS).encode())
    (line,) = refused("animal-reid", herd, tmp_path / "zoo")
    assert lacking(line, str(herd), "4 reference", "5 gallery") == []


def test_a_table_that_was_cut_off_is_refused_by_its_row(herd: Path, tmp_path: Path) -> None:
    text = (herd / "metadata.csv").read_text(encoding="utf-8")
    (herd / "metadata.csv").write_text(text[:-40], encoding="utf-8")
    assert f"metadata.csv row {len(FEW_ROWS)}" in refused("animal-reid", herd, tmp_path / "zoo")[-1]


@pytest.mark.parametrize(
    ("cells", "mentions"),
    [
        ({"identity": " "}, ["row 3", "identity"]),
        ({"path": ""}, ["row 3", "path"]),
        ({"species": ""}, ["row 3", "species"]),
        ({"path": "../secret.jpg"}, ["row 3", "../secret.jpg", "leaves"]),
        ({"path": "/etc/hostname"}, ["row 3", "/etc/hostname", "leaves"]),
        ({"path": "C:\\photos\\1.jpg"}, ["row 3", "leaves"]),
        ({"path": "images/" + "x" * 5000 + ".jpg"}, ["row 3", "255"]),
        ({"path": "images/no such.jpg"}, ["no such.jpg"]),
        ({"path": FEW_ROWS[10]["path"]}, [FEW_ROWS[10]["path"], "Herd_rex", "Herd_tom"]),
        ({"species": "quagga"}, ["Herd_rex", "quagga", "zebra"]),
        ({"bbox": "a,b,c,d"}, ["row 3", "bbox"]),
        ({"bbox": "-1,0,5,5"}, ["row 3", "bbox"]),
        ({"bbox": "[1, 2, 3]"}, ["row 3", "bbox"]),
    ],
)
def test_a_changed_row_is_refused_by_what_is_wrong(herd: Path, tmp_path: Path, cells: Row, mentions: list[str]) -> None:
    rows = [row | {"bbox": "1,2,3,4"} for row in rows_of(herd)] if "bbox" in cells else rows_of(herd)
    write_rows(herd / "metadata.csv", rows)
    change_row(herd, 3, **cells)
    lines = refused("animal-reid", herd, tmp_path / "zoo", "--include", "Herd_rex")
    assert lacking("\n".join(lines), *mentions) == []
    assert max(len(line) for line in lines) < 1300


def test_boxes_of_the_table_are_kept(herd: Path, tmp_path: Path) -> None:
    write_rows(herd / "metadata.csv", [row | {"bbox": "[1.0, 2.0, 3.5, 4.0]"} for row in rows_of(herd)])
    boxes = {p.bbox.strip("[]").replace(" ", "") for p in built("animal-reid", herd, tmp_path / "zoo").photos}
    assert {tuple(float(x) for x in box.split(",")) for box in boxes} == {(1, 2, 3.5, 4)}


PEAK = """
import finer_rank, sys
try:
    finer_rank.main()
finally:
    # Not getrusage: a child inherits the peak of the process that started it.
    print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def test_three_bad_rows_of_a_hundred_thousand_are_all_named_in_little_memory(herd: Path, tmp_path: Path) -> None:
    rows = rows_of(herd) + [animal_row("x", i) | {"identity": "unknown"} for i in range(100_000 - len(FEW_ROWS))]
    bad = {500: {"path": ""}, 50_000: {"identity": ""}, 100_000: {"path": "../secret.jpg"}}
    for number, cells in bad.items():
        rows[number - 1] = rows[number - 1] | cells
    write_rows(herd / "metadata.csv", rows)
    before = files_below(tmp_path)
    command = [sys.executable, "-c", PEAK, "gallery", "build", "animal-reid", str(herd), "--out", str(tmp_path / "zoo")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, "3 faults" in done.stderr) == (2, True)
    assert lacking(done.stderr, *(f"metadata.csv row {number}" for number in bad)) == []
    assert int(done.stdout) < 1_000_000  # kB
    assert files_below(tmp_path) == before


def test_a_leak_stands_in_the_way_until_it_is_dropped_or_kept(tmp_path: Path) -> None:
    root = write_animals(tmp_path / "herd", FEW_ROWS)
    drawn = sorted(drawn_by_pandas(root))
    reference = next(name for _, who, split, name in drawn if (who, split) == ("Herd_tom", "reference"))
    photos = [next(n for _, who, split, n in drawn if (who, split) == ("Herd_tom", "gallery"))]
    photos.append(next(n for _, _, split, n in drawn if split == "distractor"))
    for photo in photos:
        put(root / photo, (root / reference).read_bytes())
    first, *faults = refused("animal-reid", root, tmp_path / "zoo")
    assert ("2 faults" in first, len(faults)) == (True, 2)
    for photo in photos:
        assert any(lacking(fault, photo.removeprefix("images/"), "same bytes") == [] for fault in faults)
    dropped = built("animal-reid", root, tmp_path / "dropped", "--drop-leaks")
    kept = built("animal-reid", root, tmp_path / "kept", "--keep-leaks")
    assert {p.source_id for p in kept.photos} - {p.source_id for p in dropped.photos} == set(photos)
    assert (dropped.card.leaks, kept.card.leaks) == ("dropped 2 photos: 2 same bytes", "kept 2 photos: 2 same bytes")
