"""What the builders of all data sets have in common: what is said of them, and mistakes on the command line."""

import json
from pathlib import Path

import pytest
from data_sets import built, command, refused, write_dreambooth
from handmade import Cli, files_below, lacking

from galleries.builders import cards

NAMES = ("cub", "stanford-cars", "animal-reid", "dreambooth", "dreambench-plus")
RECIPES = {
    "cub": ["paper", "full"],
    "stanford-cars": ["paper", "full"],
    "animal-reid": ["paper", "encounter"],
    "dreambooth": ["by-class", "one-category"],
    "dreambench-plus": ["subjects", "all"],
}


@pytest.mark.parametrize("name", NAMES)
def test_each_data_set_says_where_to_get_it_and_under_which_terms(name: str) -> None:
    text = command("gallery", "data-sets", name).out
    (card,) = [card for card in cards() if card.name == name]
    assert lacking(text, card.licence, card.citation, card.download, card.url, *card.mirrors) == []
    assert lacking(text, *(f"--recipe {recipe}: " for recipe in RECIPES[name])) == []
    assert lacking(text, *card.checksums.values()) == []


@pytest.mark.parametrize("name", ["", *NAMES])
def test_programs_read_the_same_of_the_data_sets(name: str) -> None:
    listed = json.loads(command("gallery", "data-sets", *([name] if name else []), "--json").out)
    assert [card["name"] for card in listed] == ([name] if name else list(NAMES))
    for card in listed:
        assert list(card["recipes"]) == RECIPES[card["name"]]
        assert all(card[field] for field in ("licence", "citation", "download", "thumbnails", "counts", "url"))


def test_the_list_of_data_sets_names_them_all_with_their_recipes() -> None:
    text = command("gallery", "data-sets").out
    assert lacking(text, *NAMES, *(", ".join(recipes) for recipes in RECIPES.values())) == []


def test_a_data_set_that_is_unknown_is_refused_with_those_that_are_known() -> None:
    ended = command("gallery", "data-sets", "cubs")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert lacking(ended.err, "cubs", *NAMES) == []


def test_data_sets_are_described_where_only_ascii_can_be_printed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    shown = cli("gallery", "data-sets", "animal-reid")
    assert (shown.returncode, "WildlifeReID-10k" in shown.stdout) == (0, True), shown.stderr[-300:]


@pytest.mark.parametrize("name", NAMES)
def test_help_says_recipes_and_what_to_download(name: str) -> None:
    text = " ".join(command("gallery", "build", name, "--help").out.replace("│", " ").split())
    (card,) = [card for card in cards() if card.name == name]
    assert lacking(text, card.title, *(f"--recipe {recipe}:" for recipe in card.recipes)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_that_is_unknown_is_refused_with_those_that_are_known(name: str, tmp_path: Path) -> None:
    (line,) = refused(name, tmp_path, tmp_path / "zoo", "--recipe", "stew")
    assert lacking(line, "--recipe stew", *RECIPES[name]) == []


def test_nothing_is_written_over_or_into_the_data_set(tmp_path: Path) -> None:
    booth = write_dreambooth(tmp_path / "booth", {"dog": "dog", "cat": "cat"})
    before = files_below(tmp_path)
    for out in (booth / "zoo", booth, booth.parent):
        assert command("gallery", "build", "dreambooth", booth, "--out", out).code == 2
        assert files_below(tmp_path) == before


def test_a_pattern_that_fits_nobody_is_refused(tmp_path: Path) -> None:
    booth = write_dreambooth(tmp_path / "booth", {"dog": "dog", "cat": "cat"})
    (line,) = refused("dreambooth", booth, tmp_path / "zoo", "--include", "horse*")
    assert lacking(line, "horse*", "--include") == []


def test_a_pattern_that_fits_nobody_hides_no_fault_of_the_data(tmp_path: Path) -> None:
    booth = write_dreambooth(tmp_path / "booth", {"dog": "dog", "cat": "cat"})
    for path in (booth / "cat").iterdir():
        path.unlink()
    assert "no photos" in "\n".join(refused("dreambooth", booth, tmp_path / "zoo", "--include", "cat"))


def test_links_instead_of_copies_show_the_same_photos(tmp_path: Path) -> None:
    booth = write_dreambooth(tmp_path / "booth", {"dog": "dog", "cat": "cat"})
    copy, links = (built("dreambooth", booth, tmp_path / o[0], *o[1:]) for o in (("copy",), ("links", "--symlink")))
    assert all(photo.path.is_symlink() for photo in links.photos)
    assert copy.digest == links.digest
