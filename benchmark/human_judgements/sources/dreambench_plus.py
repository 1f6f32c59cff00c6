"""DreamBench++ (Peng et al. 2024, arXiv 2406.16855): people's ratings of personalised images, as they are distributed.

The folder that its code runs in: `data_human_rating/raw_data/<group>/*-<method>.json`, each key `<id>-<prompt>` →
[concept preservation, prompt following], 0 to 4; and `samples/<method>_…/{src_image,tgt_image}/<id>/<prompt>_<n>.jpg`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.human_judgements.image_paths import ImagePaths
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from galleries.errors import Fault, FinerRankError, printable, raise_if_any

READS = "DreamBench++ (the folder of data_human_rating and samples)"
PUBLISHED: dict[Kind, dict[tuple[str, str], range]] = {}

RATINGS = Path("data_human_rating", "raw_data")
MAX_BYTES = 50_000_000
SAMPLE = 0
"""Of the images of one prompt, which one is taken: the keys of the ratings name none, and the owners' own judge is
shown the first (`eval_concept_preservation.py`)."""

SCALE = range(5)


def is_here(path: Path) -> bool:
    return (path / RATINGS).is_dir()


def kinds(path: Path) -> tuple[Kind, ...]:
    return ("rating",)


def read(path: Path, kind: Kind) -> Judgements:
    """Ratings of concept preservation. The target is the collection's id and its source image, the image is the
    method's first of that prompt, the subset is the method, the rater is the group, as in the owners' analysis.

    Ratings are joined by key. One that is null or NaN is absent; methods without images in `samples` are left out.

    Raises:
        Faults: files that are no such ratings, images that are not there, and what a group rated twice and differently.
        FinerRankError: no ratings at all, or two folders of one method's images.
    """
    images = ImagePaths(path)
    rows: list[Judgement] = []
    faults: list[Fault] = []
    n_absent = 0
    without_samples: dict[str, int] = {}
    samples: dict[str, Path | None] = {}
    first_seen: dict[tuple[str, str, str], tuple[str, Any]] = {}
    for file in sorted((path / RATINGS).glob("*/*-*.json")):
        where, group, method = file.relative_to(path).as_posix(), file.parent.name, file.stem.rpartition("-")[2]
        if method not in samples:
            samples[method] = _samples_of(path, method)
        folder = samples[method]
        for key, value in _entries(path, file, where, faults):
            rating = _concept_preservation(value)
            if rating is None:
                n_absent += 1
                continue
            at = f"{where}, {key}"
            first, said = first_seen.setdefault((group, method, key), (at, rating))
            if first != at:
                if said != rating:
                    faults.append(Fault(at, f"{rating}, but {said} in {first}", "remove one of them"))
                continue
            collection, _, prompt = key.rpartition("-")  # ids hold hyphens too
            if not collection or "/" in collection or not prompt.isdecimal():
                faults.append(Fault(at, "no key <id>-<prompt>", "fetch the file again"))
            elif rating not in SCALE:
                faults.append(Fault(at, f"rating {rating!r}", "ratings go from 0 to 4; fetch the file again"))
            elif folder is None:
                without_samples[method] = without_samples.get(method, 0) + 1
            else:
                name = f"{collection}/{prompt}_{SAMPLE}.jpg"
                found = [images.find(at, f"{folder}/{side}/{name}") for side in ("src_image", "tgt_image")]
                faults += [each for each in found if isinstance(each, Fault)]
                paths = tuple(each for each in found if isinstance(each, Path))
                if len(paths) == 2:
                    rows.append(Judgement(paths, float(rating), collection, group, 1, "", method, at))
    raise_if_any(str(path), faults)
    left_out = [
        f"ratings of {method}, which has no images in samples: {n}" for method, n in sorted(without_samples.items())
    ]
    if n_absent:
        left_out.append(f"ratings that are null or NaN: {n_absent}")
    if not rows:
        why = "; ".join(left_out) or "no file *-<method>.json with ratings"
        raise FinerRankError(printable(f"{path}: no rating with its images ({why}); put the methods' images there"))
    return Judgements("dreambench++", kind, path, tuple(rows), tuple(left_out))


def _samples_of(path: Path, method: str) -> Path | None:
    """The folder of a method's images, relative to `path`: the method's name and its settings.

    Raises:
        FinerRankError: several.
    """
    folders = path / "samples"
    names = sorted(each.name for each in folders.iterdir() if each.is_dir()) if folders.is_dir() else []
    found = [name for name in names if name == method or name.startswith(f"{method}_")]
    if len(found) > 1:
        raise FinerRankError(f"{folders}: {' and '.join(found)} are of method {method}; keep the one that was rated")
    return Path("samples", found[0]) if found else None


def _entries(path: Path, file: Path, where: str, faults: list[Fault]) -> Iterator[tuple[str, Any]]:
    remedy = "fetch the file again"
    try:
        if not file.resolve().is_relative_to(path.resolve()):
            faults.append(Fault(where, f"leads out of {path}", "put the file itself there"))
            return
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            faults.append(Fault(where, f"no regular file of at most {MAX_BYTES:,} bytes", remedy))
            return
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(where, f"no JSON ({error})", remedy))
        return
    if not isinstance(content, dict):
        faults.append(Fault(where, "no JSON object of ratings", remedy))
        return
    for key, value in content.items():
        if isinstance(value, list) and len(value) == 2:
            yield key, value
        else:
            faults.append(Fault(f"{where}, {key}", f"{value!r} is no pair of ratings", remedy))


def _concept_preservation(pair: list[Any]) -> Any:
    """None where it is absent."""
    is_absent = pair[0] is None or pair[0] != pair[0]
    return None if is_absent else pair[0]
