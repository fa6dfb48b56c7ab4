"""Measure, and print a table as it grows.

python -m benchmarks [--size 2GB] [--pairs 5] [--only TEXT] [--output RESULTS.md]
python -m benchmarks --quick          every row once, tiny: does everything still run?
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.measure import Row, Skipped, measure
from benchmarks.report import data, page, table_head, table_line
from benchmarks.scenarios import CACHES, Cache, Scenario, scenarios

_QUICK = 4_000_000
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every row was measured or says why not; 130 after Ctrl-C."""
    options = _parse(arguments)
    wanted = _wanted(scenarios(options.size, few=options.quick), options.only)
    if options.list:
        print("\n".join(scenario.name for scenario in wanted))
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="ckmigrate-bench-", dir=options.folder) as name:
            machine = describe(Path(name))
            results = _printed(machine, _measured(wanted, Path(name), options))
    except KeyboardInterrupt:
        print("interrupted; the rows above stand", file=sys.stderr)
        return 130
    _write(machine, results, options)
    return 0


def _printed(machine: Mapping[str, str], results: Iterator[Row | Skipped]) -> list[Row | Skipped]:
    """The results, each line printed as soon as it is there."""
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), end="\n\n")
    print("\n".join(table_head()), flush=True)
    found: list[Row | Skipped] = []
    for result in results:
        found.append(result)
        print(_line(result), flush=True)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", type=_bytes, default="2GB", help="of the largest copied file")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs for each row")
    parser.add_argument("--only", action="append", default=[], help="names that hold this text")
    parser.add_argument("--cache", choices=CACHES, action="append", help="default: both")
    parser.add_argument("--folder", type=Path, help="where to write the files")
    parser.add_argument("--output", type=Path, help="write the page here, and JSON beside it")
    parser.add_argument("--quick", action="store_true", help="every row once, with tiny files")
    parser.add_argument("--list", action="store_true", help="only name the scenarios")
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.pairs = _QUICK, 1
    return options


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9.]+) *([KMG]B)", text.strip().upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 2GB")
    return int(float(found[1]) * _UNITS[found[2]])


def _measured(
    wanted: Sequence[Scenario], folder: Path, options: argparse.Namespace
) -> Iterator[Row | Skipped]:
    caches: Sequence[Cache] = options.cache or CACHES
    for scenario in wanted:
        yield from measure(
            scenario, folder, pairs=options.pairs, caches=caches, settle=not options.quick
        )


def _wanted(found: Sequence[Scenario], only: Sequence[str]) -> list[Scenario]:
    return [s for s in found if not only or any(fnmatch.fnmatch(s.name, f"*{t}*") for t in only)]


def _line(result: Row | Skipped) -> str:
    if isinstance(result, Row):
        return table_line(result)
    return f"not measured: {result.scenario}, {result.other}: {result.why}"


def _write(
    machine: Mapping[str, str], results: Sequence[Row | Skipped], options: argparse.Namespace
) -> None:
    if options.output is None:
        return
    words = [f"--size {options.size / 1e9:g}GB", f"--pairs {options.pairs}"]
    words += [f"--only {text!r}" for text in options.only]
    command = f"python -m benchmarks {' '.join(words)}"
    options.output.write_text(page(machine, results, command), encoding="utf-8")
    document = json.dumps(data(machine, results), indent=1) + "\n"
    options.output.with_suffix(".json").write_text(document, encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
