"""The command line: one verb, one file. `main` is the entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Without arguments, those of the process."""
    from ckmigrate.cli.run import run

    return run(tuple(sys.argv[1:] if arguments is None else arguments))
