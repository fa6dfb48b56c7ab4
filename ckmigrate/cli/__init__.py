"""The command line: one verb, one file. `main` is the entry point."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Without arguments, those of the process."""
    from ckmigrate.uncollected import uncollected

    with uncollected():
        from ckmigrate.cli.run import run

    if arguments is not None:
        return run(tuple(arguments))
    code = run(tuple(sys.argv[1:]))
    # Python's last collection visits every module and frees what the kernel frees anyway: a tenth
    # of the time of a short command.
    gc.freeze()
    return code
