"""The encoder that comes with the package: small, open about its training, and of use on critters it never saw."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from handmade import Cli, Refusal
from safetensors import safe_open

from benchmark.embedders import load_embedder
from benchmark.embedders.zoo import data_set_of, seen_state
from benchmark.embedders.zoo import zoo as cards
from galleries.critters.drawn_gallery import Plan
from personalization_runs.demo import PLAN

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "benchmark" / "embedders" / "critter-reid"
WEIGHTS = FOLDER / "model.safetensors"
DESCRIBED = tomllib.loads((FOLDER / "embedder.toml").read_text(encoding="utf-8"))


def test_it_is_small() -> None:
    assert WEIGHTS.stat().st_size <= 5_000_000
    with safe_open(WEIGHTS, "np") as file:
        assert sum(file.get_tensor(key).size for key in file.keys()) <= 2_000_000  # noqa: SIM118


def test_its_card_is_that_of_its_folder() -> None:
    card = cards()["critter-reid"]
    own = load_embedder(f"checkpoint:{FOLDER}").card
    assert own
    assert (card.preprocessing, card.dimension, card.kind) == (own.preprocessing, own.dimension, own.kind)
    assert card.trained_on == own.trained_on == ("critters-training",)
    assert load_embedder("critter-reid").fingerprint == load_embedder(f"checkpoint:{FOLDER}").fingerprint


def test_the_command_that_makes_it_stands_in_the_makefile() -> None:
    made = re.sub(r"\\\n\t*", "", (ROOT / "Makefile").read_text(encoding="utf-8")).replace("$(BIN)/", "")
    [train] = re.findall(r"^\t(finer-rank embedder train .*)", made, re.MULTILINE)
    [draw] = re.findall(r"^\t(finer-rank gallery build critters .*)", made, re.MULTILINE)
    told = re.findall(r"--[\w-]+(?: [^-\s]\S*)?", DESCRIBED["training"]["command"])
    assert sorted(told) == sorted(re.findall(r"--[\w-]+(?: [^-\s]\S*)?", train))
    seed, species, identities = (re.findall(rf"--{name} (\d+)", draw)[0] for name in ("seed", "species", "identities"))
    [gallery] = DESCRIBED["training"]["galleries"]
    assert gallery["source"] == Plan(int(seed), int(species), int(identities)).source


def test_it_knows_critters_but_none_of_those_that_it_judges() -> None:
    trained_on = DESCRIBED["trained_on"]
    [gallery] = DESCRIBED["training"]["galleries"]
    assert seen_state(trained_on, gallery["source"]) == "trained on it"
    for source in (Plan().source, PLAN.source, Plan(seed=1010).source, Plan(seed=102).source):
        assert data_set_of(source) == "critters"
        assert seen_state(trained_on, source) == "same data set family"
    assert seen_state(trained_on, "https://www.vision.caltech.edu/datasets/cub_200_2011/") == "unseen"


def test_it_tells_individuals_apart_that_it_never_saw(cli: Cli, tmp_path: Path) -> None:
    drawn = ("--species", 3, "--identities", 6, "--photos", 6, "--references", 0, "--seed", 4711)
    assert cli("gallery", "build", "critters", "--out", tmp_path / "new", *drawn).returncode == 0
    done = cli("evaluate", "--gallery", tmp_path / "new", "-e", "critter-reid", "-e", "classical", "--json")
    assert done.returncode == 0, done.stderr
    anchors = json.loads(done.stdout)["anchors_by_embedder"]
    specialised, generic = anchors["critter-reid"], anchors["classical"]
    assert specialised["held_out"]["mAP"]["low"] > specialised["chance"]["mAP"]["value"]
    assert specialised["held_out"]["mAP"]["value"] > generic["held_out"]["mAP"]["value"] + 0.1


@pytest.mark.parametrize("spec", ["critter-reid@", "critter-reid@weights.safetensors"])
def test_it_takes_no_other_weights(spec: str, refusal: Refusal, zoo: Path) -> None:
    assert "@" in refusal("evaluate", "--gallery", zoo, "--embedder", spec)
