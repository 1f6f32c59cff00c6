"""What the commands share: output for people and machines, progress on stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, int], Callable[[int], Any]]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, default=str))


def say(message: str) -> None:
    """A line on stdout."""
    from galleries.errors import printable

    print(printable(message))


def note(message: str) -> None:
    """A remark for people, on stderr, so that stdout stays data."""
    from galleries.errors import printable

    print(printable(message), file=sys.stderr)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> None:
    """A table on stdout; all columns but the first `n_left` are right-aligned. Wide tables are not cut in pipes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from galleries.errors import printable

    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < n_left else "right", overflow="fold")
    for row in rows:
        # Text, not markup: a name such as "[red]" is a name.
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def progress_bars(rate: str = "") -> Iterator[Progress | None]:
    """Progress bars on stderr while the block runs; none where stderr is not a terminal.

    Args:
        rate: unit of the speed to show, such as `images/s`; none where empty.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.2f} {rate}" if task.speed else "")

    speed = (Speed(),) if rate else ()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def start(label: str, total: int) -> Callable[[int], Any]:
            task = bars.add_task(label, total=total)
            return lambda n: bars.advance(task, n)

        yield start
