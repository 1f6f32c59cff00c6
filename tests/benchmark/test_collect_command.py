"""`finer-rank agreement collect`: which questions a page asks, what its folder holds, and what is refused."""

import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collected_results import hand_in, result_of
from handmade import Cli, Refusal, Row, files_below, lacking, noise, save_noise, write_gallery, write_rows
from PIL import Image, ImageCms


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(f"{target}{side}" for target in "1234" for side in "rabc"):
        save_noise(folder / f"{name}.png", i, (16, 12))
    return folder


def choice_rows(targets: str = "1234", b: str = "b") -> list[Row]:
    return [{"reference": f"{t}r.png", "a": f"{t}a.png", "b": f"{t}{b}.png", "target": f"dog {t}"} for t in targets]


def collected(cli: Cli, out: Path, *arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the command says of the page that it writes, and the study file."""
    done = cli("agreement", "collect", "--json", "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads(out.with_name(f"{out.name}.study.json").read_text())


def told(page: Path) -> dict[str, Any]:
    """What the page itself knows."""
    text = (page / "index.html").read_text()
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])  # type: ignore[no-any-return]


def asked(study: dict[str, Any], role: str = "question") -> list[list[str]]:
    """Files of the reference and the images of each trial."""
    trials = [trial for trial in study["trials"] if trial["role"] == role]
    return sorted([Path(side["file"]).name for side in (t["reference"], *t["images"])] for t in trials)


def test_a_page_asks_what_the_table_says_and_says_nothing_else(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    table = write_rows(pictures / "all.csv", choice_rows())
    said, study = collected(cli, tmp_path / "page", table)
    assert (said["kind"], said["n_questions"], said["n_targets"], said["n_sentinels"]) == ("2afc", 4, 4, 3)
    assert asked(study) == [[f"{t}{side}.png" for side in "rab"] for t in "1234"]
    # A sentinel shows the reference again, and a picture of another target.
    for reference, one, other in [*asked(study, "sentinel"), *asked(study, "practice")]:
        assert one == reference
        assert other[0] != reference[0]
    names = {side["shown"] for t in study["trials"] for side in (t["reference"], *t["images"])}
    assert files_below(tmp_path / "page") == {
        "index.html", "collect.css", "collect.js", "images", *(f"images/{name}" for name in names)
    }  # fmt: skip
    content = told(tmp_path / "page")
    assert set(content["trials"][0]) == {"id", "reference", "images"}
    assert len(content["trials"]) == 7
    # Neither a file's name, nor its column in the table, nor which trials are sentinels can be read from the page.
    told_of = (".png", "dog 1", "sentinel", "target")
    assert lacking((tmp_path / "page" / "index.html").read_text(), *told_of) == list(told_of)
    assert all(trial["images"] == sorted(trial["images"]) for trial in content["trials"])
    assert [trial["id"] for trial in content["trials"]] == sorted(trial["id"] for trial in content["trials"])


def test_the_same_questions_make_the_same_page_whatever_the_order_of_rows(
    pictures: Path, tmp_path: Path, cli: Cli
) -> None:
    rows = [*choice_rows(), *choice_rows(b="c")]
    table = write_rows(pictures / "double.csv", rows)
    options = ("--questions", 6, "--seed", 3)
    said, study = collected(cli, tmp_path / "one", table, *options)
    write_rows(table, rows[::-1])
    _, again = collected(cli, tmp_path / "two", table, *options)
    assert study == again
    one, two = tmp_path / "one", tmp_path / "two"
    assert files_below(one) == files_below(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files_below(one) if "." in name)
    # Each target in turn: none is asked about twice before all are asked about once.
    assert sorted(Counter(t["target"] for t in study["trials"] if t["role"] == "question").values()) == [1, 1, 2, 2]
    others = [collected(cli, tmp_path / str(s), table, "--questions", 6, "--seed", s)[1] for s in (4, 5)]
    assert any(asked(study) != asked(other) for other in others)
    assert said["id"] not in {other["id"] for other in others}


def test_rankings_hold_all_images_of_a_target(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{"target": f"{t}r.png", "image": f"{t}{side}.png"} for side in "cab" for t in "12"]
    said, study = collected(cli, tmp_path / "page", write_rows(pictures / "ranks.csv", rows), "--sentinels", 1)
    assert (said["kind"], said["n_questions"]) == ("ranking", 2)
    assert asked(study) == [[f"{t}{side}.png" for side in "rabc"] for t in "12"]
    ((reference, copy, *others),) = asked(study, "sentinel")
    assert (copy, len(others)) == (reference, 2)
    assert all(other[0] != reference[0] for other in others)


def write_prompted_run(folder: Path, prompts: dict[str, list[str]], seed: int) -> Path:
    """A run that made one image of each identity for each of its prompts."""
    rows = []
    for i, (identity, prompt) in enumerate((who, p) for who, own in prompts.items() for p in own):
        row = {"file_name": f"images/{folder.name}-{identity}-{prompt}.png", "identity": identity, "prompt": prompt}
        save_noise(folder / row["file_name"], seed + i, (20, 20))
        rows.append({**row, "seed": "0"})
    write_rows(folder / "metadata.csv", rows)
    (folder / "run.toml").write_text(f'model = "{folder.name}"\n')
    return folder


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of rex and tom, and three runs of them, of which two share prompts for both."""
    folder = tmp_path_factory.mktemp("generated")
    write_gallery(folder / "zoo")
    write_prompted_run(folder / "x", {"rex": ["asleep", "at sea", "red"], "tom": ["asleep"]}, 100)
    write_prompted_run(folder / "y", {"tom": ["asleep"], "rex": ["red", "asleep", "at home"]}, 200)
    write_prompted_run(folder / "z", {"rex": ["asleep"]}, 300)
    return folder


def of_runs(generated: Path, *runs: str) -> list[object]:
    return ["--gallery", generated / "zoo", *itertools.chain(*(("--run", generated / run) for run in runs))]


def test_two_runs_are_compared_on_the_prompts_that_both_have(generated: Path, tmp_path: Path, cli: Cli) -> None:
    _, study = collected(cli, tmp_path / "page", *of_runs(generated, "x", "y"))
    assert asked(study) == [
        ["rex_0.png", "x-rex-asleep.png", "y-rex-asleep.png"],
        ["rex_0.png", "x-rex-red.png", "y-rex-red.png"],
        ["tom_0.png", "x-tom-asleep.png", "y-tom-asleep.png"],
    ]
    assert {trial["target"] for trial in study["trials"]} == {"rex", "tom"}
    # A third is compared with either.
    _, study = collected(cli, tmp_path / "three", *of_runs(generated, "x", "y", "z"))
    assert [row[1:] for row in asked(study)] == [
        ["x-rex-asleep.png", "y-rex-asleep.png"],
        ["x-rex-asleep.png", "z-rex-asleep.png"],
        ["x-rex-red.png", "y-rex-red.png"],
        ["y-rex-asleep.png", "z-rex-asleep.png"],
        ["x-tom-asleep.png", "y-tom-asleep.png"],
    ]


def test_one_run_is_compared_with_itself_each_image_once(generated: Path, tmp_path: Path, cli: Cli) -> None:
    _, study = collected(cli, tmp_path / "page", *of_runs(generated, "x"))
    ((reference, one, other),) = asked(study)
    assert reference == "rex_0.png"
    assert one != other
    assert one.startswith("x-rex")
    assert other.startswith("x-rex")


def test_a_ranking_of_runs_holds_as_many_of_each(generated: Path, tmp_path: Path, cli: Cli) -> None:
    _, study = collected(cli, tmp_path / "page", *of_runs(generated, "x", "y"), "--kind", "ranking")
    rankings = {row[0]: sorted(row[1:]) for row in asked(study)}
    assert rankings == {
        "rex_0.png": [f"{run}-rex-{prompt}.png" for run in "xy" for prompt in ("asleep", "red")],
        "tom_0.png": [f"{run}-tom-asleep.png" for run in "xy"],
    }


def test_pictures_are_shown_upright_in_srgb_small_and_without_a_trace(tmp_path: Path, cli: Cli) -> None:
    wide = Image.fromarray(
        np.kron(np.array([[[250, 20, 20], [20, 20, 250]]], np.uint8), np.ones((60, 60, 1), np.uint8))
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "made by model x"  # turned by a quarter; a description
    wide.save(tmp_path / "r.jpg", exif=exif, quality=98)
    # Red and blue change places both in the file and in its profile: the picture is the same.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    wide.save(tmp_path / "a.png")
    Image.merge("RGB", wide.split()[::-1]).save(tmp_path / "b.png", icc_profile=swapped)
    for seed in (3, 4):
        save_noise(tmp_path / f"{seed}.png", seed, (30, 10))
    rows = [{"reference": "r.jpg", "a": a, "b": b} for a, b in (("a.png", "3.png"), ("b.png", "4.png"))]
    _, study = collected(cli, tmp_path / "page", write_rows(tmp_path / "q.csv", rows), "--pixels", 40)
    shown = {Path(s["file"]).name: s["shown"] for t in study["trials"] for s in (t["reference"], *t["images"])}
    opened = {
        name: Image.open(io.BytesIO((tmp_path / "page" / "images" / file).read_bytes())) for name, file in shown.items()
    }
    for image in opened.values():
        assert (image.format, image.mode, max(image.size) <= 40) == ("WEBP", "RGB", True)
        assert not set(image.info) & {"exif", "icc_profile", "xmp"}
    upright = np.asarray(opened["r.jpg"])
    assert upright.shape == (40, 20, 3)
    assert np.abs(upright[5, 10].astype(int) - (250, 20, 20)).max() < 12
    assert np.abs(upright[35, 10].astype(int) - (20, 20, 250)).max() < 12
    plain, profiled = (np.asarray(opened[name]).astype(int) for name in ("a.png", "b.png"))
    assert np.abs(plain - profiled).max() <= 3
    assert (np.asarray(opened["3.png"]) == np.asarray(noise(3, (30, 10)))).all()


def test_what_cannot_be_asked_is_left_out_and_said(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copy(pictures / "1a.png", pictures / "1copy.png")
    rows = [*choice_rows("12"), {**choice_rows("1")[0], "b": "1copy.png"}, choice_rows("2")[0]]
    said, study = collected(cli, tmp_path / "page", write_rows(pictures / "odd.csv", rows), "--sentinels", 40)
    assert said["n_questions"] == len(asked(study)) == 2
    assert sorted(said["left_out"]) == [
        "40 sentinels and 2 trials for practice: these pictures make 4 together",
        "odd.csv row 3: left out, as two of its images are the same picture",
        "odd.csv row 4: left out, as odd.csv row 2 asks the same",
    ]


REFUSED: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]] = {
    "nothing": (lambda p: [], ("give a table of them, or --run and --gallery",)),
    "a run without a gallery": (lambda p: ["--run", p], ("or --run and --gallery",)),
    "both": (lambda p: [write_rows(p / "t.csv", choice_rows()), "--run", p], ("leave --run and --gallery out",)),
    "no such table": (lambda p: [p / "none.csv"], ("none.csv: no such file",)),
    "unknown kind": (lambda p: [p / "none.csv", "--kind", "jnd"], ("--kind jnd: unknown; write 2afc, ranking",)),
    "another kind": (
        lambda p: [write_rows(p / "t.csv", choice_rows()), "--kind", "ranking"],
        ("t.csv: holds 2afc questions", "leave --kind ranking out"),
    ),
    "missing column": (
        lambda p: [write_rows(p / "t.csv", [{"reference": "1r.png", "a": "1a.png", "bb": "1b.png"}])],
        ("no column 'b'; rename column 'bb'",),
    ),
    "no rows": (lambda p: [write_text(p / "t.csv", "reference,a,b\n")], ("no rows; add a row for each question",)),
    "missing image": (
        lambda p: [write_rows(p / "t.csv", [{**choice_rows()[0], "b": "gone.png"}])],
        ("t.csv row 1, b", "no image gone.png"),
    ),
    "an image elsewhere": (
        lambda p: [write_rows(p / "t.csv", [{**choice_rows()[0], "b": "../../etc/passwd"}])],
        ("t.csv row 1, b", "leads out of"),
    ),
    "no picture": (
        lambda p: [write_rows(p / "t.csv", [{**choice_rows()[0], "b": write_text(p / "x.png", "text").name}])],
        ("x.png: not a readable image",),
    ),
    "one image to rank": (
        lambda p: [write_rows(p / "t.csv", [{"target": "1r.png", "image": "1a.png"}])],
        ("target '1r.png' has 1 image", "give it 2 to 9"),
    ),
    "the reference among its images": (
        lambda p: [write_rows(p / "t.csv", [choice_rows()[0], {**choice_rows()[0], "b": "./1r.png"}])],
        ("t.csv row 2: the reference is one of the images; mend the row",),
    ),
    "the target among its images": (
        lambda p: [write_rows(p / "t.csv", [{"target": "1r.png", "image": name} for name in ("1a.png", "1r.png")])],
        ("t.csv row 2: the image is the target itself; remove the row",),
    ),
    "too many": (
        lambda p: [write_rows(p / "t.csv", choice_rows()), "--questions", 5],
        ("--questions 5: there are 4",),
    ),
    "same pictures": (
        lambda p: [write_rows(p / "t.csv", [{**choice_rows()[0], "b": "1a.png"}])],
        ("no question is left", "two of its images are the same picture"),
    ),
    "no question": (lambda p: [write_rows(p / "t.csv", choice_rows()), "--question", " "], ("--question: write 1",)),
}  # fmt: skip


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_page_is_refused_in_a_line_and_nothing_is_written(
    pictures: Path, tmp_path: Path, refusal: Refusal, name: str
) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "in"))
    arguments, mentions = REFUSED[name]
    (tmp_path / "out").mkdir()
    line = refusal("agreement", "collect", *arguments(folder), "--out", tmp_path / "out" / "page")
    assert lacking(line, *mentions) == []
    assert files_below(tmp_path / "out") == set()


def test_neither_a_page_nor_a_study_file_is_written_over(pictures: Path, tmp_path: Path, refusal: Refusal) -> None:
    table = write_rows(pictures / "all.csv", choice_rows())
    study = write_text(tmp_path / "page.study.json", "mine")
    assert lacking(refusal("agreement", "collect", table, "--out", tmp_path / "page"), "exists already") == []
    assert (study.read_text(), files_below(tmp_path)) == ("mine", {"page.study.json"})
    (tmp_path / "full").mkdir()
    write_text(tmp_path / "full" / "x", "mine")
    assert lacking(refusal("agreement", "collect", table, "--out", tmp_path / "full"), "exists already") == []


def test_results_go_through_the_score_of_a_metric(tmp_path: Path, cli: Cli) -> None:
    for i in range(4):
        pixels = np.asarray(noise(i, (32, 32))).astype(int)
        for side, change in (("r", 0), ("a", 5), ("b", 120)):
            drift = np.random.default_rng(50 + i).integers(-change, change + 1, pixels.shape)
            Image.fromarray(np.clip(pixels + drift, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}{side}.png")
    rows = [{"reference": f"{i}r.png", "a": f"{i}a.png", "b": f"{i}b.png"} for i in range(4)]
    collected(cli, tmp_path / "page", write_rows(tmp_path / "q.csv", rows))
    # Who goes by the nearer picture agrees with any metric, whoever says the contrary with none.
    for rater, says_otherwise, score in (("anna", False, 1.0), ("bo", True, 0.0)):
        result = result_of(
            tmp_path / "page.study.json", rater, lambda _, images, other=says_otherwise: sorted(images, reverse=other)
        )
        results = hand_in(tmp_path, result)
        done = cli("agreement", "score", results, "--metric", "classical", "--json")
        assert done.returncode == 0, done.stderr
        assert [row["value"] for row in json.loads(done.stdout)["results"]] == [score]


def test_questions_that_were_answered_once_can_be_asked_anew(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{**row, "choice": "a", "split": "train", "rater": r} for row in choice_rows() for r in ("anna", "bo")]
    said, study = collected(cli, tmp_path / "page", write_rows(pictures / "answered.csv", rows))
    assert said["left_out"] == []
    assert asked(study) == [[f"{t}{side}.png" for side in "rab"] for t in "1234"]
