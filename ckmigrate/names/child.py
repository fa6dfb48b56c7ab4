"""A user's regular expression, run in another process, because Python cannot interrupt one.

Imported only where a `re.Pattern` is matched: a start of the program without one pays nothing.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

from ckmigrate.names.errors import no_worker, too_slow

__all__ = ["scan_regex"]

_REGEX_SECONDS = 0.5
_REGEX_WALL_SECONDS = 20.0  # for all names together; and where there is no processor timer


_WORKER = """
import json, re, signal, sys
source, flags, names, seconds = json.load(sys.stdin)
regex = re.compile(source, flags)
timer = getattr(signal, "setitimer", None)
if timer:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
for name in names:
    if timer:
        timer(signal.ITIMER_PROF, seconds)
    found = regex.fullmatch(name)
    print(json.dumps(found and found.groupdict("")), flush=True)
"""


def scan_regex(regex: re.Pattern[str], names: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Run a user's expression where it can be stopped; one line of answer per name.

    Matching names with their captures, in order. MigrationError CKM502 where it takes too long.
    """
    order = json.dumps([regex.pattern, int(regex.flags & ~re.DEBUG), names, _REGEX_SECONDS])
    command = [sys.executable, "-I", "-S", "-c", _WORKER]
    try:
        done = subprocess.run(
            command,
            input=order.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_REGEX_WALL_SECONDS,
            check=False,
        )
        answer, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        answer, code = expired.stdout or b"", None
    except OSError as error:
        raise no_worker(regex.pattern, error) from error
    lines = answer.splitlines()
    if len(lines) < len(names):
        slow = code is None or code == -getattr(signal, "SIGPROF", 0)
        why = "it ran out of time" if slow else f"its process ended with {code}"
        raise too_slow(regex.pattern, names[len(lines)], why)
    found = [json.loads(line) for line in lines]
    return [
        (name, captures)
        for name, captures in zip(names, found, strict=True)
        if captures is not None
    ]
