"""Prompts as data: tables of contexts, the same for every method, into which a subject is put."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.tables import column_faults, read_table

FOLDER = Path(__file__).parent / "prompts"
PLACEHOLDER = "{subject}"
COLUMNS = ("prompt_id", "prompt", "realism", "style", "category", "identity")


@dataclass(frozen=True)
class Prompt:
    """A context to show a subject in.

    Attributes:
        prompt_id: letters, digits, `-`, `_` and `.`: it becomes a part of file names.
        template: text with the placeholder `{subject}`.
        realism: `real` (such a photo could be taken) or `unreal`, or what the table says.
        style: `photo` (the text asks for one) or `plain`, or what the table says.
        category, identity: pattern of those that the prompt is for; all where empty.
    """

    prompt_id: str
    template: str
    realism: str = ""
    style: str = ""
    category: str = ""
    identity: str = ""

    def is_for(self, identity: str, category: str) -> bool:
        return fnmatchcase(identity, self.identity or "*") and fnmatchcase(category, self.category or "*")

    def text(self, class_word: str, identifier: str = "") -> str:
        """The prompt of a subject. The article is that of the class, so that only the identifier tells two apart.

        >>> Prompt("snow", "a photo of a {subject} in snow").text("owl", "sks")
        'a photo of an sks owl in snow'
        """
        article = "an" if class_word[:1].lower() in {*"aeiou"} else "a"
        template = re.sub(r"\b([Aa])n? (?=\{subject\})", lambda a: f"{a[1]}{article[1:]} ", self.template)
        return template.replace(PLACEHOLDER, f"{identifier} {class_word}" if identifier else class_word)


PLAIN = Prompt("photo", f"a photo of a {PLACEHOLDER}")
"""What a reference photo shows."""


def shipped() -> dict[str, Path]:
    """The prompt sets that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.csv"))}


def read_prompts(sources: Iterable[str]) -> tuple[Prompt, ...]:
    """The prompts of `[CATEGORY=]SOURCE`, in the order of their tables.

    Args:
        sources: a shipped set's name, a table of `COLUMNS`, or DreamBench++'s folder `data` (its `captions`); a
            category before it, which may be a pattern, restricts its prompts to that.

    Raises:
        FinerRankError: no such set or file.
        Faults: all that is wrong with the prompts.
    """
    prompts: list[Prompt] = []
    for source in sources:
        category, _, name = source.rpartition("=") if not Path(source).exists() else ("", "", source)
        found = _read(name)
        prompts += [
            Prompt(p.prompt_id, p.template, p.realism, p.style, category or p.category, p.identity) for p in found
        ]
    return tuple(prompts)


def _read(name: str) -> list[Prompt]:
    path = shipped().get(name, Path(name))
    if path.is_dir() and (path / "captions").is_dir():
        return _dreambench_plus(path / "captions")
    if not path.is_file():
        raise FinerRankError(f"--prompts {name}: no such file; name a table, or one of {', '.join(shipped())}")
    table = read_table(path)
    faults = [*table.faults, *column_faults(table, ("prompt_id", "prompt"), COLUMNS)]
    if not table.rows and not faults:
        faults.append(Fault(path.name, "no rows", "add a row per prompt"))
    prompts = []
    for i, cells in enumerate(table.rows):
        values = {column: cells.get(column, "").strip() for column in COLUMNS}
        prompts.append(Prompt(values.pop("prompt_id"), values.pop("prompt"), **values))
        faults += prompt_faults(table.where(i), prompts[-1])
    faults += _named_twice(path.name, prompts)
    raise_if_any(str(path), faults)
    return prompts


def prompt_faults(where: str, prompt: Prompt) -> list[Fault]:
    """What is wrong with a prompt."""
    faults = []
    if not re.fullmatch(r"\w[\w.-]{0,63}", prompt.prompt_id) or len(prompt.prompt_id.encode()) > 200:
        what = f"prompt_id {prompt.prompt_id!r}"
        remedy = "write at most 64 letters, digits, - and _: it becomes a part of file names"
        faults.append(Fault(where, what, remedy))
    if prompt.template.count(PLACEHOLDER) != 1:
        count = "no" if PLACEHOLDER not in prompt.template else "more than one"
        what = f"{count} placeholder in prompt {prompt.template!r}"
        faults.append(Fault(where, what, f"write {PLACEHOLDER} where the subject stands, once"))
    return faults


def _named_twice(where: str, prompts: Sequence[Prompt]) -> list[Fault]:
    seen: set[tuple[str, str, str]] = set()
    faults = []
    for prompt in prompts:
        key = (prompt.prompt_id.lower(), prompt.category, prompt.identity)
        if key in seen:
            faults.append(Fault(where, f"prompt_id {prompt.prompt_id!r} stands twice", "give each prompt its own"))
        seen.add(key)
    return faults


def _dreambench_plus(captions: Path) -> list[Prompt]:
    """DreamBench++'s prompts: of each subject a text file, its class in the first line, prompts in the others.

    Identities are those that `finer-rank gallery build dreambench-plus` gives its pictures. Where a prompt does not
    name the class, nothing can be put in its place: the prompt is a fault.
    """
    prompts, faults = [], []
    for path in sorted(captions.glob("*/*.txt")):
        where = f"{path.parent.name}/{path.name}"
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            subject, *texts = [line.strip() for line in lines if line.strip()]
        except (OSError, ValueError) as error:
            what = f"not UTF-8 ({error})" if isinstance(error, UnicodeDecodeError) else "empty, or cannot be read"
            faults.append(Fault(where, what, "bring the file as it is distributed"))
            continue
        for number, text in enumerate(texts):
            template = re.sub(rf"\b{re.escape(subject)}\b", PLACEHOLDER, text, count=1, flags=re.IGNORECASE)
            realism, style = _DREAMBENCH_PLUS[number] if number < len(_DREAMBENCH_PLUS) else ("", "")
            prompt = Prompt(str(number), template, realism, style, path.parent.name, f"*_{path.stem}_*")
            prompts.append(prompt)
            faults += prompt_faults(where, prompt)
    raise_if_any(str(captions), faults)
    return prompts


_DREAMBENCH_PLUS = (*[("real", "photo")] * 4, *[("real", "styled")] * 3, *[("unreal", "plain")] * 2)
"""Its nine prompts: four photos, three in other styles, two of what cannot be (arXiv 2406.16855, section 3)."""


def class_words(assignments: Iterable[str]) -> Mapping[str, str]:
    """`NAME=WORD` → word by pattern of an identity or a category; a word alone is everybody's.

    Raises:
        FinerRankError: an empty word.
    """
    words = {}
    for assignment in assignments:
        name, _, word = assignment.rpartition("=")
        if not word.strip():
            raise FinerRankError(f"--class-word {assignment}: no word; write NAME=WORD, for example dog6=dog")
        words[name.strip() or "*"] = word.strip()
    return words


def class_word_of(identity: str, category: str, words: Mapping[str, str]) -> str:
    """What to call a subject: the word given for it, for its category, or its category itself."""
    for name in (identity, category):
        for pattern, word in words.items():
            if pattern != "*" and fnmatchcase(name, pattern):
                return word
    return words.get("*", category.replace("_", " "))


def identifier_fault(identifier: str, words: Iterable[str]) -> str:
    """Why a token cannot stand for an individual; "" if it can."""
    if not re.fullmatch(r"[^\s{}\"=]{1,40}", identifier):
        return "must be one word without spaces, braces or quotes"
    if any(identifier.lower() in word.lower().split() for word in words):
        return "is a word of the class itself, and would be taken out of it where prompts are scored"
    return ""
