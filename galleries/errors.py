"""Mistakes that a user can mend: one plain line each, never a traceback."""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_CHARACTERS = 400
"""Of each part of a fault's line."""


class FinerRankError(Exception):
    """Something the user can mend. The command line prints it on one line and exits with 2."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with an input: where it stands, what it is, and what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{_short(self.where)}: {_short(self.what)}; {_short(self.remedy)}"


class Faults(FinerRankError):
    """All that is wrong with an input, found in one pass."""

    def __init__(self, subject: str, faults: Iterable[Fault]) -> None:
        self.subject = printable(subject)
        self.faults = tuple(faults)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        if len(self.faults) == 1:
            return [f"{self.subject}: {self.faults[0]}"]
        return [f"{self.subject}: {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults)]


def _short(text: str) -> str:
    # Names come from untrusted files: control characters would break the line or the terminal, long ones hide the rest.
    text = printable(text)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS // 2]}…{text[-MAX_CHARACTERS // 2 :]}"


def printable(text: str) -> str:
    """`text` with control characters, line breaks and direction marks escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def below(root: object, faults: Iterable[Fault]) -> list[Fault]:
    """The faults of a folder, told apart from those of other folders."""
    return [Fault(f"{root}: {fault.where}", fault.what, fault.remedy) for fault in faults]


def raise_if_any(subject: str, faults: Iterable[Fault]) -> None:
    """Raise `Faults` unless `faults` is empty."""
    found = tuple(faults)
    if found:
        raise Faults(subject, found)
