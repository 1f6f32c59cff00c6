"""Plain tables of judgements: what a user writes is what is read, and whatever is wrong is named."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Refusal, Row, write_rows
from human_data import touch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.human_judgements.judgements import Judgement
from benchmark.human_judgements.sources import load_judgements
from benchmark.human_judgements.sources.table import ANSWER, IMAGES
from galleries.errors import FinerRankError

NAMES = [f"folder {i % 2}/{i}, «ü».png" for i in range(6)]
LABEL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(lambda text: text == text.strip())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name in (*NAMES, "r.png", "x.png", "y.png", "z.png"):
        touch(folder / name)
    return folder


def facts(row: Judgement) -> tuple[Any, ...]:
    return (row.images, row.answer, row.rater, row.n_votes, row.split, row.subset)


@st.composite
def written_tables(draw: st.DrawFn) -> tuple[Any, list[Row], list[tuple[Any, ...]]]:
    """A kind, the rows of a table, and for each what it means."""
    kind = draw(st.sampled_from(sorted(IMAGES)))
    n_images = len(IMAGES[kind])
    rows, meant, asked = [], [], set()
    for _ in range(draw(st.integers(1, 8))):
        images = draw(st.permutations(NAMES))[:n_images]
        rater, split = draw(LABEL), draw(st.sampled_from(["", "train", "val", "test"]))
        subset, n_votes = draw(LABEL), 1
        row = dict(zip(IMAGES[kind], images, strict=True))
        if (frozenset(images), rater) in asked:
            continue
        asked.add((frozenset(images), rater))
        answer: float
        if kind in ("2afc", "jnd"):
            n_votes = draw(st.integers(1, 12))
            n_for = draw(st.integers(0, n_votes))
            answer = n_for / n_votes
            word = {"2afc": "ab", "jnd": ("no", "yes")}[kind][n_for] if n_votes == 1 else f"{answer:.2f}"
            row |= {ANSWER[kind]: draw(st.sampled_from([word, repr(answer)])), "votes": str(n_votes)}
        elif kind == "odd-one-out":
            place = draw(st.integers(0, 2))
            answer, row["odd"] = float(place), ("one", "two", "three")[place]
        else:
            answer = draw(st.integers(1, 9)) + draw(st.sampled_from([0, 0.5]))
            row[ANSWER[kind]] = str(answer)
        rows.append(row | {"rater": rater, "split": split, "subset": subset})
        meant.append((tuple(images), answer, rater, n_votes, split, subset))
    return kind, rows, meant


@settings(max_examples=25, deadline=None)
@given(table=written_tables(), ending=st.sampled_from([".csv", ".tsv", ".parquet", ".jsonl"]), data=st.data())
def test_what_is_written_in_any_format_and_order_is_read(
    pictures: Path, table: tuple[Any, list[Row], list[tuple[Any, ...]]], ending: str, data: st.DataObject
) -> None:
    kind, rows, meant = table
    with tempfile.NamedTemporaryFile(dir=pictures, suffix=ending) as file:
        path = Path(file.name)
        found = load_judgements([write_rows(path, data.draw(st.permutations(rows)))])
        again = load_judgements([write_rows(path, rows)])
    assert found.kind == kind
    assert [facts(row) for row in found.rows] == [facts(row) for row in again.rows]
    expected = Counter((tuple(pictures / name for name in images), *rest) for images, *rest in meant)
    assert Counter(facts(row) for row in found.rows) == expected


def write(folder: Path, *rows: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_the_target_is_the_reference_unless_the_table_says_another(pictures: Path) -> None:
    without = load_judgements([write(pictures, "reference,a,b,choice", "./r.png,x.png,y.png,a")])
    said = load_judgements([write(pictures, "reference,a,b,choice,target", "r.png,x.png,y.png,a,dog")])
    pair = load_judgements([write(pictures, "first,second,same", "y.png,x.png,yes")])
    assert (without.targets, said.targets, pair.targets) == (("r.png",), ("dog",), ("x.png + y.png",))


def test_an_absolute_name_is_read_where_it_lies_below_the_table(pictures: Path) -> None:
    path = write(pictures, "reference,a,b,choice", f"{pictures}/r.png,x.png,y.png,b")
    assert load_judgements([path]).rows[0].images[0] == pictures / "r.png"


HEADER = "reference,a,b,choice,rater,votes,split"
SPOILT = {
    "r.png,x.png,lost.png,a,ann,1,": "no image lost.png below",
    "r.png,x.png,,a,ann,1,": "row 1, b: an image's name is empty; fill it in",
    "r.png,x.png,../up.png,a,ann,1,": "../up.png leads out of",
    "r.png,x.png,/etc/hostname,a,ann,1,": "/etc/hostname leads out of",
    "r.png,x.png,link.png,a,ann,1,": "link.png leads out of",
    "r.png,x.png,far/hostname,a,ann,1,": "far/hostname leads out of",
    "r.png,x.png,far,a,ann,1,": "no image far below",
    r"r.png,x.png,folder\y.png,a,ann,1,": "write folders with /",
    "r.png,x.png,./x.png,a,ann,1,": "reference and a and b are not different files",
    "r.png,x.png,r.png,a,ann,1,": "reference and a and b are not different files",
    "r.png,x.png,y.png,c,ann,1,": "choice 'c' is no number; write a or b, or the share of votes for b, 0 to 1",
    "r.png,x.png,y.png,,ann,1,": "choice is empty; write a or b",
    "r.png,x.png,y.png,nan,ann,1,": "choice 'nan' is no number",
    "r.png,x.png,y.png,1.5,ann,2,": "choice '1.5'; write a or b, or the share",
    "r.png,x.png,y.png,-0.1,ann,2,": "choice '-0.1'; write",
    "r.png,x.png,y.png,0.6,ann,1,": "choice '0.6' is no share of 1 vote; say in column votes how many people judged",
    "r.png,x.png,y.png,0.5,ann,3,": "choice '0.5' is no share of 3 votes",
    "r.png,x.png,y.png,a,ann,3,": "choice 'a' of 3 votes; write the share of votes for b",
    "r.png,x.png,y.png,a,ann,0,": "votes '0'; write how many people judged: 1 or more",
    "r.png,x.png,y.png,a,ann,2.5,": "votes '2.5'",
    f"r.png,x.png,y.png,a,ann,{'9' * 5000},": "write how many people judged",
    "r.png,x.png,y.png,a,ann ,1,": "rater 'ann ' begins or ends with a space; remove it",
    "r.png,x.png,y.png,a,ann,1,training": "split 'training'; write train, val or test",
    "r.png,x.png,y.png,a": "4 fields where the header has 7",
}


@pytest.mark.parametrize("row", SPOILT)
def test_a_row_that_means_nothing_is_refused_in_one_line(
    tmp_path: Path, pictures: Path, refusal: Refusal, row: str
) -> None:
    (tmp_path / "t").symlink_to(pictures)  # the table's own folder may be reached by a link; files may not leave it
    for name, to in (("link.png", "/etc/hostname"), ("far", "/etc")):
        (pictures / name).unlink(missing_ok=True)
        (pictures / name).symlink_to(to)
    line = refusal("agreement", "show", write(tmp_path / "t", HEADER, row))
    assert SPOILT[row] in line
    assert "t.csv row 1" in line


def test_all_faults_of_a_table_are_named_at_once(pictures: Path, cli: Cli) -> None:
    done = cli("agreement", "show", write(pictures, HEADER, *SPOILT))
    assert (done.returncode, done.stdout) == (2, "")
    for number, fault in enumerate(SPOILT.values(), start=1):
        assert any(f"row {number}" in line and fault.split("row 1")[-1] in line for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("target,image,rank", "x.png,y.png,first"), "rank 'first' is no number; write 1 for the nearest"),
        (("target,image,rank", "x.png,y.png,0"), "rank '0'; ranks count from 1, the nearest"),
        (("target,image,rating", "x.png,y.png,inf"), "rating 'inf' is no number"),
        (("target,image,rating", "x.png,y.png,-1e308"), "rating '-1e308' is out of range"),
        (("first,second,same", "x.png,y.png,maybe"), "same 'maybe' is no number; write yes or no"),
        (("first,second,same", "x.png,x.png,yes"), "first and second are not different files"),
        (("one,two,three,odd", "x.png,y.png,z.png,4"), "odd '4'; write one, two or three"),
    ],
)
def test_an_answer_that_its_kind_does_not_have_is_refused(
    pictures: Path, refusal: Refusal, rows: tuple[str, str], said: str
) -> None:
    assert said in refusal("agreement", "show", write(pictures, *rows))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ("r.png,x.png,y.png,a,ann", "r.png,x.png,y.png,a,ann"),
            "rater ann judged these images in t.csv row 1 already",
        ),
        (("r.png,x.png,y.png,a,ann", "r.png,y.png,x.png,b,ann"), "and said the same"),
        (("r.png,x.png,y.png,a,ann", "r.png,y.png,x.png,a,ann"), "and said the contrary; remove one of them"),
        (("r.png,x.png,y.png,a,", "r.png,x.png,y.png,b,"), "name who judged in column rater, or pool votes"),
    ],
)
def test_whoever_judged_the_same_thing_twice_is_named(
    pictures: Path, refusal: Refusal, rows: tuple[str, str], said: str
) -> None:
    line = refusal("agreement", "show", write(pictures, "reference,a,b,choice,rater", *rows))
    assert said in line
    assert "t.csv row 2" in line


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("refrence,a,b,choice", "r.png,x.png,y.png,a"), "no column 'reference'; rename column 'refrence'"),
        (
            ("reference,a,b,choice,ratr", "r.png,x.png,y.png,a,ann"),
            "unknown column 'ratr'; 'rater' is meant? Rename it",
        ),
        (("reference,a,b,choice",), "no rows; add a row for each judgement"),
        (("file,label", "x.png,dog"), "has columns file, label; judgements have reference, a, b, choice (2afc); or"),
        (("target,image,rank,rating", "x.png,y.png,1,5"), "holds ranking and rating judgements; choose with --kind"),
    ],
)
def test_columns_that_say_no_kind_are_refused(pictures: Path, tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    with pytest.raises(FinerRankError) as refused:
        load_judgements([write(pictures, *rows)])
    assert said in str(refused.value)


def test_ranks_and_ratings_may_stand_in_one_table(pictures: Path) -> None:
    path = write(pictures, "target,image,rank,rating", "x.png,y.png,1,5", "x.png,z.png,2,3.5")
    assert [row.answer for row in load_judgements([path], kind="ranking").rows] == [1, 2]
    assert [row.answer for row in load_judgements([path], kind="rating").rows] == [5, 3.5]
    with pytest.raises(FinerRankError, match="holds no 2afc judgements; give --kind ranking or rating"):
        load_judgements([path], kind="2afc")


def folder_of(tmp_path: Path, name: str, *rows: str) -> Path:
    for image in ("r.png", "x.png", "y.png"):
        touch(tmp_path / name / image)
    return write(tmp_path / name, *rows)


def test_files_of_one_name_in_two_folders_are_two_targets(tmp_path: Path) -> None:
    row = "r.png,x.png,y.png,a"
    first, second = (folder_of(tmp_path, name, "reference,a,b,choice", row) for name in ("one", "two"))
    again = write(tmp_path / "one", "reference,a,b,choice", "r.png,y.png,x.png,b", name="more.csv")
    assert load_judgements([first, second]).targets == ("1. t: r.png", "2. t: r.png")
    assert load_judgements([first, again]).targets == ("r.png",)


def test_a_target_that_tables_name_alike_is_one(tmp_path: Path) -> None:
    tables = [
        folder_of(tmp_path, name, "reference,a,b,choice,target", "r.png,x.png,y.png,a,dog") for name in ("one", "two")
    ]
    assert load_judgements(tables).targets == ("dog",)


def test_pooling_refuses_what_would_count_twice(tmp_path: Path) -> None:
    header, row = "reference,a,b,choice,rater", "r.png,x.png,y.png,a,ann"
    first = folder_of(tmp_path, "one", header, row)
    second = write(tmp_path / "one", header, row, name="copy.csv")
    with pytest.raises(FinerRankError, match=r"copy\.csv row 1: rater ann judged these images in t\.csv row 1"):
        load_judgements([first, second])
    with pytest.raises(FinerRankError, match="is given already; name it once"):
        load_judgements([first, tmp_path / "one" / ".." / "one" / "t.csv"])
    inside = write(tmp_path / "one", header, row, name="triplets.csv")
    with pytest.raises(FinerRankError, match="is given already; name it once"):
        load_judgements([inside, inside.parent])
    inside.unlink()
    other = write(tmp_path / "one", "first,second,same", "x.png,y.png,yes", name="pairs.csv")
    with pytest.raises(FinerRankError, match=r"pairs\.csv: holds jnd judgements"):
        load_judgements([first, other])


def test_a_split_or_subset_is_taken_alone(pictures: Path) -> None:
    rows = ("r.png,x.png,y.png,a,train,", "r.png,x.png,z.png,a,val,day", "r.png,y.png,z.png,b,val,night")
    path = write(pictures, "reference,a,b,choice,split,subset", *rows)
    assert len(load_judgements([path], split="val").rows) == 2
    assert [row.answer for row in load_judgements([path], split="val", subset="night").rows] == [1]
    with pytest.raises(FinerRankError, match="no judgement of --split test; there are those of train, val day"):
        load_judgements([path], split="test")


Made = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder; check the path"),
        (lambda folder: folder, "holds no judgements that can be read; give one of: NIGHTS"),
        (lambda folder: touch(folder / "a.png"), "holds no judgements that can be read; give one of: NIGHTS"),
        (lambda folder: touch(folder / "a.parquet"), "not a readable Parquet file"),
    ],
)
def test_a_path_without_judgements_is_refused_and_told_what_is_read(
    tmp_path: Path, refusal: Refusal, make: Made, said: str
) -> None:
    assert said in refusal("agreement", "show", make(tmp_path))


def test_show_names_raters_of_a_single_judgement_and_escapes_names(pictures: Path, cli: Cli) -> None:
    rows = ("r.png,x.png,y.png,a,ann", "r.png,x.png,z.png,a,ann", "r.png,x.png,y.png,b,\x1b[31mbob")
    done = cli("agreement", "show", write(pictures, "reference,a,b,choice,rater", *rows))
    assert done.returncode == 0
    assert "t: 3 2afc judgements about 1 targets, 4 images" in done.stdout
    assert "raters: 2" in done.stdout
    assert "raters with a single judgement: \\x1b[31mbob" in done.stdout
    assert "\x1b" not in done.stdout
