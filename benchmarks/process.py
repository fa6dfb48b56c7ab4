"""One command as a fresh process: how long it took and how much memory it held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Failed", "Run", "ckmigrate", "python", "run"]

_ROOT = Path(__file__).parents[1]
_LONGEST_REASON = 200


class Failed(Exception):  # noqa: N818 - a verdict that becomes a line of the report
    """A command ended with an error; the text is the last thing that it said."""


@dataclass(frozen=True, slots=True)
class Run:
    """Wall seconds, start of the interpreter included, and the peak resident megabytes of the
    largest process of the tree, by the account of the operating system."""

    seconds: float
    megabytes: float


def python(module: str, *arguments: object) -> list[str]:
    """A module of this package as a command."""
    return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]


def ckmigrate(*arguments: object) -> list[str]:
    """The installed command beside this interpreter, as a user runs it."""
    script = Path(sys.executable).with_name("ckmigrate")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "ckmigrate"]
    return [*start, *map(str, arguments)]


def run(command: Sequence[str]) -> Run:
    """Run a command to its end; Failed where its exit code is not 0."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stderr.close()
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(_reason(said, process.returncode))
    return Run(seconds, usage.ru_maxrss / 1024)


def _reason(said: bytes, code: int) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    error = next((line for line in lines if line.startswith("error")), lines[-1] if lines else "")
    return f"exit code {code}: {error}"[:_LONGEST_REASON]
