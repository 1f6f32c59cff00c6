"""Files of raters, read back: what counts, who is left out, and what is refused."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from collected_results import hand_in, result_of
from handmade import Cli, Refusal, lacking, save_noise, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.human_judgements.sources import load_judgements
from galleries.errors import Faults, FinerRankError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """A folder with pictures, two pages and their study files."""
    folder = tmp_path_factory.mktemp("made")
    for i, name in enumerate(f"{target}{side}" for target in "123" for side in "rab"):
        save_noise(folder / "images" / f"{name}.png", i, (16, 16))
    rows = [{"reference": f"images/{t}r.png", "a": f"images/{t}a.png", "b": f"images/{t}b.png"} for t in "123"]
    choices = write_rows(folder / "choices.csv", [{**row, "target": f"dog {i}"} for i, row in enumerate(rows)])
    ranked = [{"target": row["reference"], "image": row[side]} for row in rows for side in "ab"]
    rankings = write_rows(folder / "rankings.csv", ranked)
    for table in (choices, rankings):
        assert cli("agreement", "collect", table, "--out", folder / table.stem, "--sentinels", 2).returncode == 0
    return folder


@pytest.fixture
def results(made: Path) -> Path:
    """An empty folder beside the study files."""
    folder = made / "results"
    for old in folder.glob("*"):
        old.unlink()
    folder.mkdir(exist_ok=True)
    return folder


def first(reference: str, images: Sequence[str]) -> Sequence[str]:
    return sorted(images)


def last(reference: str, images: Sequence[str]) -> Sequence[str]:
    return sorted(images, reverse=True)


def test_choices_become_votes_about_the_original_files(made: Path, results: Path) -> None:
    hand_in(results, result_of(made / "choices.study.json", "anna", first))
    hand_in(results, result_of(made / "choices.study.json", "bo", last))
    found = load_judgements([results])
    images = [tuple(made / "images" / f"{t}{side}.png" for side in "rab") for t in "123"]
    expected = {(images[i], f"dog {i}", rater, vote) for rater, vote in (("anna", 0.0), ("bo", 1.0)) for i in range(3)}
    assert {(row.images, row.target, row.rater, row.answer) for row in found.rows} == expected
    assert (len(found.rows), found.kind, found.left_out) == (6, "2afc", ())


def test_rankings_become_ranks_from_the_nearest(made: Path, results: Path) -> None:
    hand_in(results, result_of(made / "rankings.study.json", "anna", last))
    found = load_judgements([results])
    expected = {
        (tuple(made / "images" / f"{t}{side}.png" for side in ("r", image)), f"images/{t}r.png", rank)
        for t in "123"
        for image, rank in (("b", 1.0), ("a", 2.0))
    }
    assert {(row.images, row.target, row.answer) for row in found.rows} == expected
    assert len(found.rows) == 6


def test_raters_who_fail_a_sentinel_are_left_out_whole_and_unfinished_ones_count_as_far_as_they_went(
    made: Path, results: Path
) -> None:
    study = made / "choices.study.json"
    hand_in(results, result_of(study, "anna", first))
    hand_in(results, result_of(study, "bo", first, fails=1))
    n_done = 5  # two of them for practice
    hand_in(results, result_of(study, "cleo", first, n=n_done))
    roles = [trial["role"] for trial in json.loads(study.read_text())["trials"][:n_done]]
    n_questions, n_sentinels = roles.count("question"), roles.count("sentinel")
    found = load_judgements([results])
    assert sorted(row.rater for row in found.rows) == [*3 * ["anna"], *n_questions * ["cleo"]]
    assert found.left_out == (
        "rater bo: left out, failed 1 of 2 sentinels",
        f"rater cleo: stopped after {n_questions} of 3 questions and {n_sentinels} of 2 sentinels; "
        "these answers are counted, the others are missing",
    )
    (results / "anna.json").unlink()
    (results / "cleo.json").unlink()
    with pytest.raises(FinerRankError, match=r"no answer is left \(rater bo: left out, failed 1 of 2 sentinels\)"):
        load_judgements([results])


def test_single_files_read_as_their_folder_does(made: Path, results: Path) -> None:
    study = made / "choices.study.json"
    files = [hand_in(results, result_of(study, rater, rule)) for rater, rule in (("zoe", first), ("al", last))]
    together, apart = load_judgements([results]), load_judgements(files)
    assert sorted(map(repr, together.rows)) == sorted(map(repr, apart.rows))
    assert load_judgements([files[0]]).raters == ("zoe",)


def test_a_study_file_among_the_results_serves_too(made: Path, tmp_path: Path, cli: Cli) -> None:
    for name in "rab":
        save_noise(tmp_path / f"{name}.png", ord(name), (16, 16))
    save_noise(tmp_path / "c.png", 1, (16, 16))
    rows = [{"reference": "r.png", "a": "a.png", "b": side} for side in ("b.png", "c.png")]
    table = write_rows(tmp_path / "few.csv", rows)
    assert cli("agreement", "collect", table, "--out", tmp_path / "page").returncode == 0
    hand_in(tmp_path / "page.results", result_of(tmp_path / "page.study.json", "anna", first))
    apart = load_judgements([tmp_path / "page.results"])
    assert {row.images for row in apart.rows} == {
        tuple(tmp_path / name for name in ("r.png", row["a"], row["b"])) for row in rows
    }
    # A study file that was moved among the results finds its pictures where they were.
    (tmp_path / "page.study.json").rename(tmp_path / "page.results" / "page.study.json")
    assert {row.images for row in load_judgements([tmp_path / "page.results"]).rows} == {
        row.images for row in apart.rows
    }
    (tmp_path / "page.results" / "page.study.json").rename(tmp_path / "page.study.json")
    # Moved with its pictures, a study goes on to be read.
    (tmp_path / "page.results" / "anna.json").rename(tmp_path / "anna.json")
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert [row.answer for row in load_judgements([moved / "anna.json"]).rows] == [row.answer for row in apart.rows]


def spoilt(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], str]:
    def apply(result: dict[str, Any]) -> str:
        change(result)
        return json.dumps(result)

    return apply


DEEP = "[" * 100_000

SPOILT: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "cut off": (lambda r: json.dumps(r)[:-40], "cut off"),
    "deep": (lambda r: json.dumps(r).replace('"trials": [', f'"trials": [{DEEP}'), "is no JSON"),
    "NaN": (lambda r: json.dumps(r).replace('"ms": 900', '"ms": NaN'), "is no JSON"),
    "huge number": (lambda r: json.dumps(r).replace('"ms": 900', f'"ms": {"9" * 9000}'), "is no JSON"),
    "huge": (lambda r: json.dumps(r) + " " * 10_000_001, "more than 10 MB"),
    "another format": (spoilt(lambda r: r.update(format=2)), "is no result of a page in format 1"),
    "study of a wrong type": (spoilt(lambda r: r.update(study=["x"])), "is no result of a page in format 1"),
    "another study": (spoilt(lambda r: r.update(study="f00d")), "whose .study.json file lies neither in"),
    "another kind": (spoilt(lambda r: r.update(kind="ranking")), "kind is not 2afc"),
    "rater a path": (spoilt(lambda r: r.update(rater="../x")), "rater is no code"),
    "rater a number": (spoilt(lambda r: r.update(rater=7)), "rater is no code"),
    "no list": (spoilt(lambda r: r.update(trials={})), "trials is no list"),
    "unknown trial": (spoilt(lambda r: r["trials"][3].update(id="beef")), "trial 4: is no trial of the study"),
    "trial of a wrong type": (spoilt(lambda r: r["trials"].append(3)), "trial 8: is no trial of the study"),
    "trial without end": (spoilt(lambda r: r["trials"][3].update(id=[])), "trial 4: is no trial of the study"),
    "twice": (spoilt(lambda r: r["trials"].append(r["trials"][2])), "trial 8: is answered twice"),
    "choice": (spoilt(lambda r: r["trials"][2].update(choice="x.webp")), "trial 3: choice was not shown"),
    "choice of a wrong type": (spoilt(lambda r: r["trials"][2].update(choice={})), "trial 3: choice was not shown"),
    "shown": (spoilt(lambda r: r["trials"][2]["shown"].pop()), "trial 3: shown is not what the study shows"),
    "time": (spoilt(lambda r: r["trials"][2].update(ms=-1)), "trial 3: ms is no time"),
    "practice": (spoilt(lambda r: r["trials"][0].update(practice=False)), "trial 1: practice is not as in the study"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_that_is_no_sound_result_is_refused_in_a_line(
    made: Path, results: Path, refusal: Refusal, name: str
) -> None:
    change, says = SPOILT[name]
    result = result_of(made / "choices.study.json", "anna", first)
    (results / "anna.json").write_text(change(result))
    assert lacking(refusal("agreement", "show", results), "anna.json", says) == []


def test_all_faults_of_all_files_are_told_at_once(made: Path, results: Path) -> None:
    study = made / "choices.study.json"
    sound = result_of(study, "anna", first)
    for name, change in (("1", {"trials": None}), ("2", {"kind": ""}), ("3", {}), ("4", {})):
        hand_in(results, {**sound, **change}, name)
    with pytest.raises(Faults) as raised:
        load_judgements([results])
    assert [(fault.where, fault.what) for fault in raised.value.faults] == [
        ("1.json", "trials is no list"),
        ("2.json", "kind is not 2afc, as in the study"),
        ("4.json", "rater anna has handed in 3.json too"),
    ]
    hand_in(results, result_of(made / "rankings.study.json", "bo", first), "5")
    with pytest.raises(Faults, match=r"5.json: is of the study \w+, the others are of \w+"):
        load_judgements([results])


def test_images_that_are_not_those_of_then_are_refused(made: Path, results: Path) -> None:
    hand_in(results, result_of(made / "choices.study.json", "anna", first))
    photo, other = made / "images" / "1a.png", made / "images" / "2b.png"
    before = {path: path.read_bytes() for path in (photo, other)}
    try:
        save_noise(photo, 77, (16, 16))
        other.unlink()
        with pytest.raises(Faults) as raised:
            load_judgements([results])
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert [(Path(fault.where).name, fault.what) for fault in raised.value.faults] == [
        ("1a.png", "has changed since the page was made"),
        ("2b.png", "no such file"),
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_whatever_stands_anywhere_in_a_file_it_is_read_or_refused(
    made: Path, results: Path, place: list[int], value: Any
) -> None:
    kind = random.Random(str(place)).choice(["choices", "rankings"])
    result = result_of(made / f"{kind}.study.json", "anna", first)
    whole = copy.deepcopy(result)
    holder: Any = result
    for step, index in enumerate(place):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[index % len(keys)]
        if step == len(place) - 1 or not isinstance(holder[key], dict | list) or not holder[key]:
            holder[key] = value
            break
        holder = holder[key]
    hand_in(results, result, "anna")
    rows, refused = (), ""
    try:
        rows = load_judgements([results]).rows
    except FinerRankError as error:
        refused = str(error)
    # What can be read says no more than was asked.
    hand_in(results, whole, "anna")
    assert {row.images for row in rows} <= {row.images for row in load_judgements([results]).rows}
    assert rows or "anna" in refused or "holds no judgements" in refused


def test_a_study_file_that_was_spoilt_is_named(made: Path, tmp_path: Path, refusal: Refusal) -> None:
    hand_in(tmp_path, result_of(made / "choices.study.json", "anna", first))
    for content in ("[]", "{", "[" * 100_000, '{"format": 1, "kind": "2afc", "trials": [{"role": "question"}]}'):
        (tmp_path / "x.study.json").write_text(content)
        assert lacking(refusal("agreement", "show", tmp_path), "x.study.json: not a study file") == []
