"""Images whose paths say what they are: `{identity}/{prompt_id}_{seed}.png`."""

import re
from collections.abc import Sequence
from pathlib import Path

from galleries.errors import Fault, FinerRankError
from galleries.sources import Found
from galleries.sources.folder import Tree, image_files

_ANYTHING = "[^/]+"
_SHAPES = {"seed": r"-?\d+"}


def find_by_pattern(root: Path, pattern: str, columns: Sequence[str], follow_links: bool = True) -> Tree:
    """All images below `root`, labelled by what stands in their paths.

    Args:
        pattern: of the path below `root`, with `{column}` where a value stands (of `seed`, a whole number) and `*` for
            anything else, neither across folders; the ending may be left out. Where a path can be read in two ways,
            the first placeholder takes as much as it can.
        columns: that may be named.
        follow_links: see `find_in_folder`.

    Returns:
        The images; those that the pattern does not fit are faults, as leaving them out would lose them silently.

    Raises:
        FinerRankError: no such folder, no image in it, or a pattern that names no or an unknown column.
    """
    fits = _compile(pattern, columns)
    paths, ignored, faults = image_files(root, follow_links)
    images = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        found = fits.fullmatch(name) or fits.fullmatch(path.relative_to(root).with_suffix("").as_posix())
        if found is None:
            faults.append(Fault(name, f"does not fit --pattern {pattern}", "mend the pattern, or move the file out"))
        else:
            images.append(Found(name, name, path, found.groupdict()))
    if not images and faults:
        raise FinerRankError(
            f"{root}: --pattern {pattern} fits none of its {len(faults)} images (first {faults[0].where}); mend it"
        )
    return Tree(tuple(images), tuple(ignored), tuple(sorted(faults)))


def _compile(pattern: str, columns: Sequence[str]) -> re.Pattern[str]:
    parts = re.split(r"(\{[^{}]*\}|\*)", pattern)
    named = [part[1:-1] for part in parts if part.startswith("{")]
    unknown = [name for name in named if name not in columns]
    if unknown or not named or len(set(named)) < len(named):
        what = f"unknown {{{unknown[0]}}}" if unknown else "a name twice" if named else "no {name} in it"
        known = ", ".join(f"{{{column}}}" for column in columns)
        raise FinerRankError(f"--pattern {pattern}: {what}; write each of these at most once: {known}")
    return re.compile("".join(_as_regex(part) for part in parts))


def _as_regex(part: str) -> str:
    if part.startswith("{"):
        return f"(?P<{part[1:-1]}>{_SHAPES.get(part[1:-1], _ANYTHING)})"
    return "[^/]*" if part == "*" else re.escape(part)
