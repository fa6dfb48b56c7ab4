"""Pairs of runs: A B, B A, A B, …, so that whatever changes meanwhile meets both alike."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chains import write_project
from benchmarks.machine import free_memory, free_space
from benchmarks.process import Failed, Run, ckmigrate, python, run
from benchmarks.scenarios import COPY, Cache, Contender, Files, Limit, Scenario

__all__ = ["Row", "Skipped", "measure"]

_OUTPUTS = 3.2  # of the size of the inputs: a copy that is changed, its backup, the inputs


@dataclass(frozen=True, slots=True)
class Row:
    """Our command against one other: medians, and the ratios of the pairs from the least to the
    greatest.

    noise  least and greatest ratio of `cp + fsync` paired with itself on the same files
    """

    scenario: str
    cache: Cache
    nbytes: int
    other: str
    ratios: tuple[float, ...]
    ours: Run
    theirs: Run
    noise: tuple[float, ...]
    limit: Limit | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """Whether the promise is kept; "" where there is none."""
        if self.limit is None:
            return ""
        if self.nbytes < self.limit.at_least:
            return f"not judged below {self.limit.at_least / 1e9:g} GB"
        return "met" if self.limit.is_met(self.ratio, self.ours) else "not met"


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not measured, and why."""

    scenario: str
    other: str
    why: str


def measure(
    scenario: Scenario, folder: Path, *, pairs: int, caches: Sequence[Cache], settle: bool
) -> Iterator[Row | Skipped]:
    """Every row of a scenario, in a folder of its own that is removed afterwards.

    settle  before each run write back everything that is pending and, as root, empty the page
            cache of the whole machine where a run is cold
    """
    why = scenario.ours.lacking() or _too_large(scenario, folder)
    if why is not None:
        yield Skipped(scenario.name, scenario.ours.label, why)
        return
    place = folder / "scenario"
    place.mkdir()
    try:
        bench = _Bench(scenario, _make(scenario, place), settle)
        wanted = min(pairs, scenario.pairs or pairs)
        for cache in (c for c in scenario.caches if c in caches):
            yield from bench.rows(cache, wanted)
    except Failed as failed:
        yield Skipped(scenario.name, scenario.ours.label, str(failed))
    finally:
        shutil.rmtree(place)


def _too_large(scenario: Scenario, folder: Path) -> str | None:
    room, memory = free_space(folder), free_memory()
    if scenario.nbytes * _OUTPUTS > room:
        wanted = scenario.nbytes * _OUTPUTS / 1e9
        return f"it needs {wanted:.0f} GB of disk, {room / 1e9:.0f} are free"
    if scenario.memory > memory:
        return f"it needs {scenario.memory / 1e9:.0f} GB of memory, {memory / 1e9:.0f} are free"
    return None


def _make(scenario: Scenario, place: Path) -> Files:
    sources: dict[str, Path] = {}
    for key, wanted in scenario.inputs.items():
        path = place / f"{key}{wanted.file_name}"
        run(python("inputs", wanted.kind, path, wanted.nbytes, wanted.tensors))
        sources[key] = path
    config = write_project(place / "project", scenario.chain)
    first = next(iter(sources.values()))
    files = Files(sources, place / f"output{first.suffix}", place / f"copy{first.suffix}", config)
    if scenario.tagged:
        for path in sources.values():
            run(_first_step(config, path))
    return files


def _first_step(config: Path, path: Path) -> list[str]:
    """From then on the tag says where the file is."""
    head = ckmigrate("--config", config, "-q", "upgrade", path, "--in-place", "--no-backup")
    return [*head, "--no-model", "--from", "base", "--to", "+1"]


class _Bench:
    """The runs of one scenario on its files."""

    def __init__(self, scenario: Scenario, files: Files, settle: bool) -> None:
        self.scenario = scenario
        self.files = files
        self.settle = settle

    def rows(self, cache: Cache, pairs: int) -> Iterator[Row | Skipped]:
        """One row for each of the others."""
        noise = self.noise(cache, _more(pairs)) if self.scenario.writes_anew else ()
        for other in self.scenario.others:
            why = other.lacking()
            if why is not None:
                yield Skipped(self.scenario.name, other.label, why)
                continue
            try:
                wanted = _more(pairs) if other is COPY else pairs
                found = self.pairs(self.scenario.ours, other, cache, wanted)
            except Failed as failed:
                yield Skipped(self.scenario.name, other.label, str(failed))
                continue
            yield self.row(other, cache, found, noise)

    def row(
        self,
        other: Contender,
        cache: Cache,
        found: Sequence[tuple[Run, Run]],
        noise: tuple[float, ...],
    ) -> Row:
        limits = (limit for limit in self.scenario.limits if limit.against == other.label)
        return Row(
            self.scenario.name,
            cache,
            self.scenario.nbytes,
            other.label,
            _ratios(found),
            _median([ours for ours, _ in found]),
            _median([theirs for _, theirs in found]),
            noise,
            next(limits, None),
        )

    def noise(self, cache: Cache, pairs: int) -> tuple[float, ...]:
        return _ratios(self.pairs(COPY, COPY, cache, pairs)) if "" in self.files.sources else ()

    def pairs(
        self, first: Contender, second: Contender, cache: Cache, count: int
    ) -> list[tuple[Run, Run]]:
        """After one run of each that is not counted, unless it is only a try."""
        for contender in (first, second) if count > 1 else ():
            self.once(contender, cache)
        found = []
        for number in range(count):
            if number % 2:
                later, earlier = self.once(second, cache), self.once(first, cache)
                found.append((earlier, later))
            else:
                found.append((self.once(first, cache), self.once(second, cache)))
        return found

    def once(self, contender: Contender, cache: Cache) -> Run:
        self.clear()
        if contender.in_place:
            shutil.copyfile(self.files.sources[""], self.files.copy)
        paths = [*self.files.sources.values(), self.files.copy]
        _settle([path for path in paths if path.exists()], cache, self.settle)
        try:
            return run(contender.command(self.files))
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove whatever a run has written, backups too."""
        for path in self.files.output.parent.iterdir():
            if path not in (*self.files.sources.values(), self.files.config.parent):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _more(pairs: int) -> int:
    """Pairs with `cp + fsync`: disks are noisy, and these runs are short."""
    return 3 * pairs if pairs > 1 else pairs


def _settle(inputs: Sequence[Path], cache: Cache, settle: bool) -> None:
    """The inputs are in memory as a whole, or not at all; see `measure` for `settle`."""
    if settle:
        os.sync()
    for path in [path for found in inputs for path in _files(found)]:
        with path.open("rb", buffering=0) as file:
            if cache == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass
    if cache == "cold" and settle and os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")


def _files(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]


def _ratios(pairs: Sequence[tuple[Run, Run]]) -> tuple[float, ...]:
    return tuple(sorted(ours.seconds / theirs.seconds for ours, theirs in pairs))


def _median(runs: Sequence[Run]) -> Run:
    """Median of the seconds, greatest of the peaks."""
    seconds = statistics.median(run.seconds for run in runs)
    return Run(seconds, max(run.megabytes for run in runs))
