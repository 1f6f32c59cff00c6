"""Models that cannot make masks: refused in one line that says why, and what to do."""

import json
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import transformers
from handmade import Refusal, lacking
from safetensors.torch import load_file, save_file
from segmentation_models import RED, save_mask2former, save_red, save_segformer
from test_masks import masked

from galleries.errors import FinerRankError
from galleries.mask_command import open_gallery
from galleries.masks import make_masks
from galleries.model_folders import find_model
from galleries.segmenters import find_segmenter


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segformer(tmp_path_factory.mktemp("models") / "segformer")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A sound SegFormer, of which a test may spoil anything."""
    return Path(shutil.copytree(sound, tmp_path / "segformer"))


def refused(zoo: Path, model: Path | str, **options: object) -> str:
    with pytest.raises(FinerRankError) as error:
        masked(zoo, Path(model), **options)
    assert "\n" not in str(error.value)
    assert not (zoo / "masks").exists()
    return str(error.value)


def test_an_unreachable_hub_is_said_in_one_line(zoo: Path, refusal: Refusal) -> None:
    line = refusal("gallery", "mask", zoo, "--model", "ZhengPeng7/BiRefNet", "--trust-remote-code")
    mentions = ("https://huggingface.co/ZhengPeng7/BiRefNet", "HF_HUB_OFFLINE", "hf download", "--local-dir", "--model")
    assert lacking(line, *mentions) == []


def put_into_cache(cache: Path, repository: str, model: Path, commit: str) -> Path:
    """A snapshot as the hub's client leaves it: links to files that are named by their content."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for path in [folder / "blobs", folder / "refs", snapshot]:
        path.mkdir(parents=True)
    for path in model.iterdir():
        shutil.copyfile(path, folder / "blobs" / f"blob of {path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs", f"blob of {path.name}"))
    (folder / "refs" / "main").write_text(commit)
    return snapshot


def test_a_cached_repository_is_used_and_named_by_its_commit(
    zoo: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = put_into_cache(tmp_path, "me/dogs", sound, commit)
    for revision in ("", "main", commit):
        assert find_segmenter("me/dogs", revision=revision).source == f"me/dogs@{commit} label by category"
    assert make_masks(open_gallery(zoo), find_segmenter("me/dogs")).source.startswith(f"me/dogs@{commit}")
    with pytest.raises(FinerRankError, match="not cached"):
        find_model("me/dogs", "v2")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FinerRankError, match="not cached"):
        find_model("me/dogs")

    put_into_cache(tmp_path, "me/red", save_red(tmp_path / "red"), commit)
    segmenter = find_segmenter("me/red", size=64, trust_remote_code=True)
    report = make_masks(open_gallery(zoo), segmenter, force=True)
    assert report.shares == masked(zoo, tmp_path / "red", force=True).shares


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_of_a_repository_only_what_is_needed_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    names = ["config.json", "net.py", "README.md", "onnx/model.onnx", "optimizer.bin", f"model.fp16.{ending}"]
    names += ["pytorch_model.bin", *(["model.safetensors"] if ending == "safetensors" else [])]
    snapshot = tmp_path / "abc"
    snapshot.mkdir()

    def fetch(repository: str, revision: str | None, allow_patterns: Sequence[str] = (), **options: object) -> str:
        if options:
            raise LookupError("not cached")
        if repository != "me/net":
            raise PermissionError("gated: ask its owner\nmore")
        for name in names:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (snapshot / name).write_text("{}")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("galleries.model_folders.why_hub_is_out_of_reach", lambda: None)
    found = find_model("me/net", "v1")
    weights = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    assert (found.name, found.weights) == ("me/net@abc", (snapshot / weights,))
    assert {path.name for path in snapshot.iterdir()} == {"config.json", "net.py", weights}
    with pytest.raises(FinerRankError, match=r"cannot be fetched \(gated: ask its owner\)"):
        find_model("me/secret")
    for name in ("model.safetensors", "pytorch_model.bin"):
        (snapshot / name).unlink(missing_ok=True)
    names[:] = ["config.json"]
    with pytest.raises(FinerRankError, match=r"no model\.safetensors or pytorch_model\.bin there"):
        find_model("me/net")


def test_without_transformers_the_extra_is_named(zoo: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.auto", None)
    assert lacking(refused(zoo, model), "transformers", "not installed", "finer-rank[masks]") == []


def test_labels_that_a_model_lacks_are_answered_with_those_that_it_has(zoo: Path, painted: Path, model: Path) -> None:
    assert lacking(refused(zoo, model, labels=["dogs"]), "--label dogs", "'dog'") == []
    assert lacking(refused(zoo, model, labels=["xyz"]), "--label xyz", "wall; dog, domestic dog; cat") == []
    rows = (zoo / "metadata.csv").read_text()
    (zoo / "metadata.csv").write_text(rows.replace("png,dog,tom", "png,vase,tom"))
    mentions = ("3 images", "images/tom_0.png: 'vase', 'tom'", "--label", "wall; dog")
    assert lacking(refused(zoo, model), *mentions) == []


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"threshold": 0.5}, ["--threshold", "leave it out"]),
        ({"size": 64}, ["--size", "states the size"]),
        ({"revision": "main"}, ["--revision main", "is a folder"]),
        ({"device": "cuda:99"}, ["--device cuda:99", "available: ", "cpu"]),
        ({"device": "tpu"}, ["--device tpu", "available: ", "cpu"]),
    ],
)
def test_options_without_a_use_are_refused(
    zoo: Path, model: Path, options: dict[str, object], mentions: list[str]
) -> None:
    assert lacking(refused(zoo, model, **options), *mentions) == []


def test_a_foreground_model_takes_no_labels(zoo: Path, tmp_path: Path) -> None:
    assert lacking(refused(zoo, save_red(tmp_path / "red"), labels=["dog"]), "--label", "leave it out") == []


@pytest.mark.parametrize(
    ("file", "content", "mentions"),
    [
        ("config.json", None, ["no config.json"]),
        ("config.json", b"{", ["config.json", "not JSON"]),
        ("config.json", b"[]", ["config.json", "describes no model"]),
        ("config.json", b'{"model_type": "vit"}', ["'vit'", "mask2former", "semantic"]),
        ("config.json", b'{"model_type": "detr"}', ["'detr'", "mask2former", "semantic"]),
        ("model.safetensors", None, ["model.safetensors", "put the weights there"]),
        ("model.safetensors", b"torn", ["does not load"]),
        ("preprocessor_config.json", None, ["preprocessor_config.json", "not usable"]),
        ("preprocessor_config.json", b"{", ["preprocessor_config.json", "not usable"]),
    ],
)
def test_damaged_folders_are_refused(
    zoo: Path, model: Path, file: str, content: bytes | None, mentions: list[str]
) -> None:
    (model / file).unlink()
    if content is not None:
        (model / file).write_bytes(content)
    assert lacking(refused(zoo, model), *mentions) == []


def test_what_is_neither_folder_nor_repository_is_refused(zoo: Path, tmp_path: Path) -> None:
    for name in ("birefnet", str(tmp_path / "no such folder"), str(zoo / "metadata.csv")):
        assert lacking(refused(zoo, name), "neither a folder nor a repository", "owner/name") == []


def test_weights_that_were_not_trained_to_segment_are_refused(zoo: Path, model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, weights, metadata={"format": "pt"})
    assert lacking(refused(zoo, model), "lack decode_head.classifier.", "and 1 more", "not trained to segment") == []
    foreground = save_red(tmp_path / "red", tensors={"other": torch.zeros(1)})
    assert lacking(refused(zoo, foreground), "lack scale", "not trained to segment") == []
    foreground = save_red(tmp_path / "red", tensors={"scale": torch.zeros(2)})
    assert lacking(refused(zoo, foreground), "weights of another model", "scale") == []


def test_preprocessing_that_cuts_the_picture_is_refused(zoo: Path, model: Path) -> None:
    path = model / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_center_crop": True}))
    transformers.MobileViTImageProcessor(size={"shortest_edge": 32}).save_pretrained(model)
    assert lacking(refused(zoo, model), "do_center_crop is on", "another model") == []


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        (("import torch\n", "import torch\nimport no_such_package\n"), ["no_such_package"]),
        (("x.item()", "x.no_such_thing()"), ["its code does not run", "no_such_thing"]),
        (("red = x", "red = x.no_such_thing"), ["fails on an input of 64 × 64 pixels", "no_such_thing"]),
        (("(red - 0.5) * self.scale]", "[red]]"), ["last output is a list", "one map of logits"]),
        (("(red - 0.5) * self.scale]", "x]"), ["last output is of shape (4, 3, 64, 64)"]),
        (("(red - 0.5)", "(red - 0.5) * float('nan')"), ["values that are no numbers"]),
        (("red = x", "raise MemoryError; red = x"), ["out of memory with 4 pictures", "--batch-size"]),
    ],
)
def test_code_that_fails_is_told_in_one_line(
    zoo: Path, tmp_path: Path, change: tuple[str, str], mentions: list[str]
) -> None:
    assert change[0] in RED
    assert lacking(refused(zoo, save_red(tmp_path / "red", RED.replace(*change))), *mentions) == []


def test_weights_that_could_run_code_are_refused(zoo: Path, model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(marker)!r}, 'w')",)

    foreground = save_red(tmp_path / "red")
    for folder in (model, foreground):
        (folder / "model.safetensors").unlink()
        torch.save({"scale": Trap()}, folder / "pytorch_model.bin")
        assert lacking(refused(zoo, folder), str(folder)) == []
        assert not marker.exists()


def test_pickled_and_divided_weights_of_tensors_are_read(zoo: Path, tmp_path: Path) -> None:
    folder = save_red(tmp_path / "red")
    whole = masked(zoo, folder).shares
    (folder / "model.safetensors").unlink()
    torch.save({"scale": torch.tensor([16.0])}, folder / "pytorch_model.bin")
    assert masked(zoo, folder, force=True).shares == whole
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"scale": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert masked(zoo, folder, force=True).shares == whole
    (folder / "pytorch_model-00001-of-00001.bin").unlink()
    with pytest.raises(FinerRankError, match="or not all parts"):
        find_model(str(folder))


def test_the_preprocessing_of_a_foreground_model_is_its_own_where_it_has_one(zoo: Path, tmp_path: Path) -> None:
    folder = save_red(tmp_path / "red")
    expected = masked(zoo, folder).shares
    other = save_red(tmp_path / "stated")
    transformers.ViTImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(other)
    shares = masked(zoo, other, force=True, size=None).shares
    assert shares == pytest.approx(expected, abs=0.01)  # torchvision's resizing, not Pillow's
    with pytest.raises(FinerRankError, match="states the size"):
        find_segmenter(str(other), size=32, trust_remote_code=True)


def test_another_version_of_a_folder_is_another_source(model: Path, tmp_path: Path) -> None:
    before = find_segmenter(str(model)).source
    assert find_segmenter(str(model)).source == before
    path = model / "preprocessor_config.json"
    path.write_text(path.read_text() + " ")
    assert find_segmenter(str(model)).source != before
    mask2former = save_mask2former(tmp_path / "mask2former")
    sources = {
        find_segmenter(str(mask2former), threshold=t, labels=labels).source
        for t in (0.3, 0.5)
        for labels in ((), ("dog",))
    }
    assert len(sources) == 4
