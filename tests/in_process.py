"""The command in the process of the test: its start, which costs seconds, is not what is tested."""

import contextlib
import io
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.main import get_command

import finer_rank


@cache
def built() -> Any:
    """All commands with their options, which typer would otherwise build from the functions at each call."""
    return get_command(finer_rank.app)


def run_here(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `finer-rank ARGUMENTS` in this process; a traceback, or a warning, is an error of the test."""
    argv = ["finer-rank", *map(str, arguments)]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
        stack.enter_context(patch.object(sys, "argv", argv))
        stack.enter_context(patch.object(finer_rank, "app", built()))
        stack.enter_context(contextlib.redirect_stdout(streams[0]))
        stack.enter_context(contextlib.redirect_stderr(streams[1]))
        try:
            finer_rank.main()
        except SystemExit as end:
            code = int(end.code or 0)
    printed = []
    for stream in streams:
        stream.seek(0)
        printed.append(stream.read())
    return subprocess.CompletedProcess(argv, code, *printed)


def refused_here(*arguments: object, cwd: Path | None = None) -> str:
    """The one line with which a command that runs in this process refuses its input."""
    result = run_here(*arguments, cwd=cwd)
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout, len(lines)) == (2, "", 1), result
    assert lines[0].startswith("finer-rank: ")
    return lines[0]
