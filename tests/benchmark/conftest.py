"""What the tests of the language model as a judge share: the command on two dogs, and no key of the user's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Ask, Asking, Row, Server
from handmade import Cli, Refusal


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def asking(tmp_path: Path, zoo: Path, painted: Path) -> Asking:
    return Asking(tmp_path, zoo, painted)


@pytest.fixture
def ask(asking: Asking, cli: Cli) -> Ask:
    """Runs the command; returns scores.json, the rows of scores.csv and what was said on stderr."""

    def run(server: Server | str, *more: object) -> tuple[dict[str, Any], list[Row], str]:
        out = asking.new_out()
        done = cli(*asking.options(server, *more, "--out", out))
        assert done.returncode == 0, done
        with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return json.loads((out / "scores.json").read_text(encoding="utf-8")), rows, done.stderr

    return run


@pytest.fixture
def refuse(asking: Asking, refusal: Refusal) -> Callable[..., str]:
    def run(server: Server | str, *more: object) -> str:
        out = asking.new_out()
        line = refusal(*asking.options(server, *more, "--out", out))
        assert not out.exists()
        return line

    return run
