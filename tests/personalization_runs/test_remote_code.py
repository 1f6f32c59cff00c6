"""Emu2-Gen's repository brings code of its own, which nothing but `--allow-remote-code` may set in motion."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handmade import Cli, Refusal, files_below, lacking
from tiny.emu2 import save_emu2

from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.methods import METHODS
from personalization_runs.methods.base import Made
from personalization_runs.plans import Settings, make_plan, set_up

SIZES = ("steps=2", "width=32", "height=32")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_emu2(tmp_path_factory.mktemp("weights") / "Emu2-Gen")


@pytest.fixture
def marking(repository: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The repository with code that makes a folder each time it runs, and where."""
    folder, mark = Path(shutil.copytree(repository, tmp_path / "marking")), tmp_path / "it ran"
    for path in folder.rglob("*.py"):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n__import__('pathlib').Path({str(mark)!r}).mkdir(exist_ok=True)\n")
    return folder, mark


def order(zoo: Path, out: Path, method: str = "emu2") -> tuple[object, ...]:
    sizes = [word for size in SIZES for word in ("--set", size)]
    return (
        "run",
        "generate",
        "-g",
        zoo,
        "-m",
        method,
        "--prompts",
        "reid",
        *sizes,
        "--class-word",
        "dog",
        "--out",
        out,
    )


def test_no_code_of_a_repository_runs_without_the_flag(
    zoo: Path, marking: tuple[Path, Path], tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object) -> None:
        raise AssertionError("weights were looked for")

    monkeypatch.setattr("personalization_runs.methods.weights.find_weights", fetch)
    folder, mark = marking
    for weights in ((), ("--weights", folder)):
        line = refusal(*order(zoo, tmp_path / "run"), *weights)
        assert not lacking(line, "--method emu2", "code of their own", "--allow-remote-code")
    assert not mark.exists()
    assert not {name for name in files_below(tmp_path) if "run" in Path(name).name and "ran" not in name}


def test_with_the_flag_it_runs(zoo: Path, marking: tuple[Path, Path], tmp_path: Path, cli: Cli) -> None:
    folder, mark = marking
    done = cli(*order(zoo, tmp_path / "run"), "--weights", folder, "--include", "rex", "--allow-remote-code")
    assert done.returncode == 0, done.stderr
    assert mark.is_dir()


def test_the_method_itself_asks_for_leave(zoo: Path, marking: tuple[Path, Path], tmp_path: Path) -> None:
    folder, mark = marking
    for encoder in ("modeling_emu", "transformers"):
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace("modeling_emu", encoder))
        with pytest.raises(FinerRankError, match="can be made of it"):
            generator(zoo, folder, tmp_path, allow_remote_code=False)
    assert not mark.exists()


@pytest.mark.parametrize("method", ["class-only", "img2img", "qwen-image-edit"])
def test_no_other_method_runs_code(
    method: str, zoo: Path, marking: tuple[Path, Path], tmp_path: Path, refusal: Refusal
) -> None:
    folder, mark = marking
    assert str(folder) in refusal(*order(zoo, tmp_path / "run", method), "--weights", folder, "--allow-remote-code")
    assert not mark.exists()


def generator(zoo: Path, folder: Path, tmp_path: Path, allow_remote_code: bool = True) -> Any:
    settings = Settings(
        ["reid"], ["dog"], parameters=SIZES, weights=[str(folder)], dtype="float32", device="cpu",
        allow_remote_code=True,
    )  # fmt: skip
    plan = make_plan(Gallery.open(zoo), METHODS["emu2"], settings, tmp_path / "run")
    setup = replace(set_up(plan, warn=print), allow_remote_code=allow_remote_code)
    made = METHODS["emu2"].generator(setup)
    return lambda: made.make(plan.requests[:1])


def as_published(folder: Path) -> Path:
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".bf16.safetensors")))
    return folder


@pytest.mark.parametrize(
    ("save", "is_made"),
    [
        pytest.param(lambda folder: save_emu2(folder, flags="everything"), False, id="flagged"),
        pytest.param(lambda folder: save_emu2(folder, flags=None), True, id="no checker"),
        pytest.param(lambda folder: save_emu2(folder, passed_encoder=True), True, id="an encoder of transformers"),
        pytest.param(lambda folder: as_published(save_emu2(folder)), True, id="named as bfloat16"),
    ],
)
def test_emu2_makes_an_image_or_says_that_it_was_flagged(
    save: Callable[[Path], Path], is_made: bool, zoo: Path, tmp_path: Path
) -> None:
    [made] = generator(zoo, save(tmp_path / "Emu2-Gen"), tmp_path)()
    if is_made:
        assert made.image.size == (32, 32)
    else:
        assert made == Made(None, "flagged by the safety checker")
