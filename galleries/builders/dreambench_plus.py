"""DreamBench++: 150 pictures of subjects and styles, one each (Peng et al. 2024)."""

from pathlib import Path

from galleries.builders import DataSetCard, Selection, read_lines
from galleries.errors import Fault
from galleries.images import READABLE_SUFFIXES
from galleries.sources import Found
from galleries.tables import is_utf8

CARD = DataSetCard(
    name="dreambench-plus",
    title="DreamBench++",
    granularity="instance",
    licence="tagged Apache-2.0; pictures of Unsplash, Rawpixel and Google Image Search, whose licences are not listed",
    thumbnails="no",
    citation="Peng, Cui, Tang, Qi, Dong, Bai, Han, Ge, Zhang, Xia: DreamBench++: A Human-Aligned Benchmark for "
    "Personalized Image Generation. ICLR 2025",
    counts="150 pictures (animal, human, object, style), one of each subject, with 9 prompts each",
    url="https://github.com/yuangpeng/dreambench_plus",
    download="fetch data.zip from https://huggingface.co/datasets/yuangpeng/dreambench_plus, unpack it, and name the "
    "folder data, which holds images and captions",
    mirrors=("https://drive.google.com/file/d/17HNVYU5yvuHDC6VhesJsWsXo1UWy_CSs",),
    checksums={"data.zip": "sha256 fabdaac1cbff6826c226e874902193ac7965e29b6c1644e983551c980ec82a33"},
    recipes={
        "subjects": "animals, humans and objects, each a category of its own",
        "all": "styles too",
    },
)

AGAIN = "fetch the data again"
CATEGORIES = ("animal", "human", "object", "style")
NOTE = (
    "each subject has a single picture, which the generator sees: a score on this gallery rewards copying; "
    "use it to hold scores against the human ratings"
)


def find(source: Path, recipe: str) -> Selection:
    """One picture a subject, in the gallery, labelled by the owners' collection id (identity) and category.

    Raises:
        FinerRankError: this is not the data set, or half of it.
    """
    root = next((r for r in (source, source / "data") if (r / "images").is_dir()), None)
    if root is None:
        raise CARD.missing(source, "no folder images")
    if not (root / "captions").is_dir():
        raise CARD.missing(root, "no folder captions")
    categories = CATEGORIES[:3] if recipe == "subjects" else CATEGORIES
    images: list[Found] = []
    faults: list[Fault] = []
    for category in categories:
        pictures, twice = _by_stem(root / "images" / category, READABLE_SUFFIXES)
        captions, _ = _by_stem(root / "captions" / category, (".txt",))
        if not pictures and not captions:
            raise CARD.missing(root, f"neither pictures nor captions of the category {category}")
        faults += [Fault(f"images/{category}/{path.name}", "another picture has its caption", AGAIN) for path in twice]
        faults += [
            Fault(f"images/{category}/{path.name}", "has no caption", AGAIN)
            for stem, path in pictures.items()
            if stem not in captions
        ]
        faults += [
            Fault(f"captions/{category}/{path.name}", "has no picture", AGAIN)
            for stem, path in captions.items()
            if stem not in pictures
        ]
        for stem in sorted(pictures.keys() & captions.keys()):
            lines = read_lines(captions[stem])
            subject = lines[0].strip() if lines else ""
            if not subject or not is_utf8(stem):
                what = "file name is not UTF-8" if subject else "names no subject"
                faults.append(Fault(f"captions/{category}/{stem}.txt", what, AGAIN))
                continue
            kind = f"live_subject_{category}" if category in ("animal", "human") else category
            name = f"images/{category}/{pictures[stem].name}"
            identity = f"{kind}_{stem}_{subject.lower().replace(' ', '_')}"
            values = {"category": category, "identity": identity, "split": "gallery", "source_id": name}
            images.append(Found(name, f"{category}/{pictures[stem].name}", pictures[stem], values))
    return Selection(tuple(images), tuple(faults), (NOTE,))


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Path]]:
    """Files by their names without ending, and those whose name another file has too."""
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (
            path.suffix.lower() in suffixes
            and not path.name.startswith(".")
            and found.setdefault(path.stem, path) != path
        ):
            twice.append(path)
    return found, twice
