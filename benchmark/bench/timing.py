"""Times of alternatives, taken in turn, so that what else the machine does falls on all of them alike."""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Times:
    """Seconds of each repeat of each alternative; the n-th repeats of all stand side by side."""

    of: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds, over repeats."""
        return statistics.median(self.of[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over repeats of `name`'s time divided by that of `to` in the same repeat."""
        return statistics.median(a / b for a, b in zip(self.of[name], self.of[to], strict=True))


def in_turn(alternatives: Mapping[str, Callable[[], Any]], repeats: int, *, is_warmed: bool = True) -> Times:
    """Time each alternative once per repeat, one after another. A first round, which warms caches, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for function in alternatives.values() if is_warmed else ():
        function()
    for _ in range(repeats):
        for name, function in alternatives.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return Times(times)


def peak_memory_mb() -> float:
    """The most resident memory that this process has had, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says begins at the memory of whoever started this process
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
