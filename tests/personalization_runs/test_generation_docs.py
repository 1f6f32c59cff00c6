"""What the docs say of methods and prompts is what there is."""

from pathlib import Path

import pytest

from personalization_runs.methods import METHODS, SETS
from personalization_runs.prompt_sets import shipped

DOCS = (Path(__file__).parents[2] / "docs/generation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row_with_its_weights(name: str) -> None:
    table = DOCS.partition("\n## Methods\n")[2]
    [row] = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
    for weights in METHODS[name].weights.values():
        assert weights.repository in row
        assert (f"{weights.repository} (gated)" in row) == weights.is_gated
    assert f"| {METHODS[name].memory_gb:g} |" in row


def test_every_prompt_set_is_named() -> None:
    assert [name for name in shipped() if f"`{name}`" not in DOCS] == []


def test_sets_of_methods_hold_methods() -> None:
    assert {name for members in SETS.values() for name in members} <= METHODS.keys()
