"""Prompts as data: the same for every method, but for the token that stands for the individual."""

from pathlib import Path

import pytest
from handmade import lacking, write_rows
from hypothesis import given
from hypothesis import strategies as st

from benchmark.prompt_fidelity import without_identifier
from galleries.errors import FinerRankError
from personalization_runs.prompt_sets import Prompt, class_word_of, class_words, identifier_fault, read_prompts, shipped


@pytest.mark.parametrize(("name", "n", "photos"), [("reid", 10, 3), ("cub", 10, 5), ("cars", 10, 5)])
def test_shipped_sets_have_the_shape_of_the_papers(name: str, n: int, photos: int) -> None:
    prompts = read_prompts([name])
    assert len(prompts) == n
    assert sum(prompt.template.startswith("a photo of a {subject}") for prompt in prompts) == photos
    assert sum(prompt.style == "photo" for prompt in prompts) == photos


def test_dreambooths_lists_have_25_prompts_of_which_15_are_shared() -> None:
    live, things = ({p.template for p in read_prompts([name])} for name in ("dreambooth-live", "dreambooth-object"))
    assert (len(live), len(things), len(live & things)) == (25, 25, 15)


@pytest.mark.parametrize("name", shipped())
@given(
    word=st.from_regex(r"[A-Za-z]{1,9}( [a-z]{1,9})?", fullmatch=True),
    token=st.sampled_from(["sks", "<rex>", "ohwx-7", "V*"]),
)
def test_without_the_token_all_methods_have_asked_for_the_same(name: str, word: str, token: str) -> None:
    for prompt in read_prompts([name]):
        if not identifier_fault(token, [word]):
            assert without_identifier(prompt.text(word, token), token) == prompt.text(word)


def test_the_article_is_that_of_the_class() -> None:
    prompt = Prompt("snow", "A {subject} in snow")
    assert prompt.text("owl") == "An owl in snow"
    assert prompt.text("owl", "sks") == "An sks owl in snow"
    assert prompt.text("grebe", "<a>") == "A <a> grebe in snow"


def test_a_set_may_be_for_a_category_or_an_identity_alone(tmp_path: Path) -> None:
    table = write_rows(
        tmp_path / "own.csv",
        [
            {"prompt_id": "1", "prompt": "a {subject}", "identity": "dog*"},
            {"prompt_id": "2", "prompt": "one {subject}", "identity": ""},
        ],
    )
    first, second, third, *_ = read_prompts([str(table), "cat=dreambooth-live"])
    assert (first.is_for("dog6", "dog"), first.is_for("cat", "cat"), second.is_for("cat", "cat")) == (True, False, True)
    assert (third.is_for("cat2", "cat"), third.is_for("dog", "dog")) == (True, False)


def test_dreambench_plus_is_read_as_distributed(tmp_path: Path) -> None:
    captions = tmp_path / "data/captions/animal"
    captions.mkdir(parents=True)
    lines = ["Cat", "a photo of a cat on a sofa", *(f"a cat, number {i}" for i in range(8))]
    (captions / "07.txt").write_text("\n".join(lines) + "\n")
    prompts = read_prompts([str(tmp_path / "data")])
    assert len(prompts) == 9
    assert prompts[0].text("kitten") == "a photo of a kitten on a sofa"
    assert prompts[0].is_for("live_subject_animal_07_cat", "animal")
    assert not prompts[0].is_for("live_subject_animal_08_cat", "animal")
    assert [prompt.realism for prompt in prompts] == ["real"] * 7 + ["unreal"] * 2
    (captions / "08.txt").write_text("Dog\na hound in snow\n")
    (captions / "09.txt").write_bytes(b"")
    (captions / "10.txt").write_bytes(b"\xff")
    with pytest.raises(FinerRankError) as caught:
        read_prompts([str(tmp_path / "data")])
    assert not lacking(
        str(caught.value),
        "no placeholder in prompt 'a hound in snow'",
        "animal/09.txt: empty",
        "animal/10.txt: not UTF-8",
    )


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "1", "prompt": "a dog"},
        {"prompt_id": "2", "prompt": "a {subject} and a {subject}"},
        {"prompt_id": "../3", "prompt": "a {subject}"},
        {"prompt_id": "4", "prompt": "a {subject}"},
        {"prompt_id": "4", "prompt": "the {subject}"},
        {"prompt_id": "\U00020000" * 64, "prompt": "a {subject}"},
    ]
    table = write_rows(tmp_path / "own.csv", rows)
    with pytest.raises(FinerRankError) as caught:
        read_prompts([str(table)])
    assert not lacking(
        str(caught.value),
        "row 1: no placeholder",
        "row 2: more than one",
        "row 3: prompt_id '../3'",
        "'4' stands twice",
        "row 6: prompt_id",
    )
    with pytest.raises(FinerRankError, match="no column 'prompt'"):
        read_prompts([str(write_rows(tmp_path / "other.csv", [{"prompt_id": "1", "text": "a {subject}"}]))])


def test_words_are_found_by_identity_category_or_for_all() -> None:
    words = class_words(["dog*=hound", "birds=bird", "animal"])
    assert [class_word_of(*names, words) for names in [("dog6", "x"), ("wren", "birds"), ("cow", "x")]] == [
        "hound",
        "bird",
        "animal",
    ]
    assert class_word_of("cow", "farm_animals", {}) == "farm animals"
    with pytest.raises(FinerRankError, match="no word"):
        class_words(["dog="])


@pytest.mark.parametrize(("token", "is_good"), [("sks", True), ("two words", False), ("dog", False), ("{x}", False)])
def test_a_token_is_one_word_that_the_class_does_not_have(token: str, is_good: bool) -> None:
    assert bool(identifier_fault(token, ["black dog"])) != is_good
