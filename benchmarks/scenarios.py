"""What is measured, as data: an input, a history, our command, the commands of the others."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from benchmarks.chains import Chain, Change
from benchmarks.inputs import Input, Kind
from benchmarks.process import Run, ckmigrate, python

__all__ = ["CACHES", "Cache", "Contender", "Files", "Limit", "Scenario", "scenarios"]

Cache = Literal["warm", "cold"]
CACHES: tuple[Cache, ...] = ("warm", "cold")
MB, GB = 10**6, 10**9

_COPY = 'cp -r "$1" "$2" && find "$2" -exec sync {} +'
"""`sync` with names is an fsync of each."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything of one scenario lies.

    sources  the inputs by their key; most scenarios have one, ""
    output   what the command writes; it does not exist before
    copy     of a contender that works in place: a fresh copy of the source
    config   of the migration project
    """

    sources: Mapping[str, Path]
    output: Path
    copy: Path
    config: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """A command under a label.

    in_place  it changes `Files.copy`, which is made anew before each run and is not timed
    lacking   why it cannot run here, or None
    """

    label: str
    command: Callable[[Files], Sequence[str]]
    in_place: bool = False
    lacking: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Limit:
    """A promise about a row.

    against    label of the contender that it is about
    ratio      most times as long as that
    megabytes  most that we hold
    seconds    longest that we take
    at_least   bytes of input from which on it is a promise: below, starting Python dominates
    """

    against: str
    ratio: float | None = None
    megabytes: float | None = None
    seconds: float | None = None
    at_least: int = 0

    def is_met(self, ratio: float, ours: Run) -> bool:
        pairs = (
            (self.ratio, ratio),
            (self.megabytes, ours.megabytes),
            (self.seconds, ours.seconds),
        )
        return all(most is None or found <= most for most, found in pairs)

    def __str__(self) -> str:
        words = [f"≤ {self.ratio:g} ×"] if self.ratio is not None else []
        words += [f"≤ {self.seconds:g} s"] if self.seconds is not None else []
        words += [f"≤ {self.megabytes:.0f} MB"] if self.megabytes is not None else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Our command against those of others, on one set of inputs.

    pairs          fewer than usual, where one takes long
    writes_anew    a whole file is written, so that `cp` paired with itself tells the noise
    tagged         the sources are brought to the first revision before, which their tag then says
    memory         bytes that the greediest of the others needs, or the making of the input
    """

    name: str
    inputs: Mapping[str, Input]
    chain: Chain
    ours: Contender
    others: tuple[Contender, ...]
    limits: tuple[Limit, ...] = ()
    caches: tuple[Cache, ...] = ("warm",)
    pairs: int | None = None
    writes_anew: bool = True
    tagged: bool = False
    memory: int = 0

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.inputs.values())


# --- contenders -------------------------------------------------------------------------------


def _upgrade(files: Files) -> list[str]:
    return ckmigrate(
        "--config", files.config, "-q", "upgrade", files.sources[""],
        "-o", files.output, "--no-model", "--from", "base",
    )  # fmt: skip


OURS = Contender("ckmigrate upgrade", _upgrade)
COPY = Contender(
    "cp + fsync",
    lambda files: ["sh", "-c", _COPY, "cp", str(files.sources[""]), str(files.output)],
)


def _today(label: str, way: str, chain: Chain, module: str = "torch") -> Contender:
    def command(files: Files) -> list[str]:
        source = files.sources[""]
        return python("others", way, source, files.output, chain.change, chain.revisions)

    return Contender(label, command, lacking=_module(module))


def _module(name: str) -> Callable[[], str | None]:
    def lacking() -> str | None:
        top = name.partition(".")[0]
        found = importlib.util.find_spec(top) and importlib.util.find_spec(name)
        return None if found else f"{name} is not installed"

    return lacking


def _option(verb: str, name: str) -> Callable[[], str | None]:
    """Whether our own command has an option: a branch may be older than its benchmark."""

    def lacking() -> str | None:
        return None if name in _help(verb) else f"`ckmigrate {verb}` has no {name}"

    return lacking


@cache
def _help(verb: str) -> str:
    done = subprocess.run(ckmigrate(verb, "--help"), capture_output=True, text=True, check=False)
    return done.stdout


def _naive(kind: Kind, chain: Chain) -> tuple[Contender, ...]:
    """Load everything, make a dict, save everything."""
    match kind:
        case "safetensors":
            return (_today("load_file → dict → save_file", "safetensors", chain, "safetensors"),)
        case "torch":
            return (
                _today("torch.load → dict → torch.save", "torch", chain),
                _today("torch.load(mmap=True) → dict → torch.save", "torch-mmap", chain),
            )
        case "sharded":
            return (_today("shard by shard in torch", "sharded", chain, "safetensors"),)
        case "dcp":
            return (_today("dcp.load → dict → dcp.save", "dcp", chain),)
        case "lightning":
            return ()


# --- the table --------------------------------------------------------------------------------


def scenarios(size: int, *, few: bool = False) -> tuple[Scenario, ...]:
    """Every scenario; `size` is that of the largest copied file in bytes, others follow from it.

    few  a hundredth of the tensors where there are many: a try that takes no time
    """
    half, quarter = size // 2, size // 4
    many, most = (200, 2_000) if few else (20_000, 200_000)
    return (
        _start_up(),
        _planning(most, 50),
        *(_copied("safetensors", size, 300, "rename", count) for count in (1, 50)),
        _copied("safetensors", size, 300, "split", 10, cold=True, naive=True),
        _copied("torch", size, 300, "split", 10, cold=True, naive=True),
        _copied("safetensors", quarter, many, "rename", 10, naive=True),
        _copied("torch", quarter, many, "rename", 10, naive=True),
        _copied("safetensors", quarter, most, "rename", 10, naive=True, pairs=3),
        _copied("sharded", half, 300, "split", 10, naive=True),
        _copied("dcp", half, 300, "rename", 10, naive=True),
        _lightning(half),
        *(_numbers(change, quarter) for change in _NUMBERS),
        *(_fast(kind, 2 * size) for kind in _FAST),
        _batch(quarter),
    )


_NUMBERS: tuple[Change, ...] = ("transpose", "cast", "compute")
_FAST: tuple[Kind, ...] = ("safetensors", "torch", "dcp")


def _copied(
    kind: Kind,
    nbytes: int,
    tensors: int,
    change: Change,
    revisions: int,
    *,
    cold: bool = False,
    naive: bool = False,
    pairs: int | None = None,
) -> Scenario:
    """Bytes only move: compared with `cp`, and with a script where that is new."""
    chain = Chain(change, revisions)
    label = "rename" if change == "rename" else "rename, split, concat"
    return Scenario(
        f"{kind}, {tensors} tensors, {revisions} × {label}",
        {"": Input(kind, nbytes, tensors)},
        chain,
        replace(OURS, lacking=_module("ckmigrate.formats.dcp")) if kind == "dcp" else OURS,
        (COPY, *(_naive(kind, chain) if naive else ())),
        limits=(Limit(COPY.label, ratio=1.10, megabytes=100, at_least=2 * GB),),
        caches=CACHES if cold else ("warm",),
        pairs=pairs,
        memory=int(2.5 * nbytes) if naive else 0,
    )


def _numbers(change: Change, nbytes: int) -> Scenario:
    """New numbers, or another order of them."""
    chain, source = Chain(change), Input("safetensors", nbytes, 300)
    naive = _naive("safetensors", chain)
    peak = 3 * source.largest / MB + 300
    limit = Limit(naive[0].label, ratio=1.3, megabytes=peak)
    return Scenario(
        f"safetensors, 300 tensors, {change} of everything",
        {"": source},
        chain,
        OURS,
        (*naive, COPY),
        limits=(limit,) if change == "cast" else (),
        memory=int(2.5 * nbytes),
    )


def _start_up() -> Scenario:
    """How long nothing takes."""
    return Scenario(
        "start-up: current of a small file",
        {"": Input("safetensors", MB, 30)},
        Chain("rename"),
        Contender(
            "ckmigrate current",
            lambda f: ckmigrate("--config", f.config, "current", f.sources[""]),
        ),
        (
            Contender("ckmigrate --version", lambda _: ckmigrate("--version")),
            Contender("python -c pass", lambda _: [sys.executable, "-c", "pass"]),
        ),
        writes_anew=False,
        tagged=True,
    )


def _planning(tensors: int, revisions: int) -> Scenario:
    """A header alone: nothing is read but names and shapes."""

    def plan(files: Files) -> list[str]:
        return ckmigrate("--config", files.config, "plan", files.sources[""], "--from", "base")

    return Scenario(
        f"plan: safetensors, {tensors} tensors, {revisions} × rename",
        {"": Input("safetensors", 0, tensors)},
        Chain("rename", revisions),
        Contender("ckmigrate plan", plan),
        (Contender("python -c pass", lambda _: [sys.executable, "-c", "pass"]),),
        limits=(Limit("python -c pass", seconds=30, megabytes=2000),),
        pairs=3,
        writes_anew=False,
    )


def _lightning(nbytes: int) -> Scenario:
    """In place, as Lightning's own upgrade works, each on a fresh copy."""

    def in_place(files: Files) -> list[str]:
        return ckmigrate(
            "--config", files.config, "-q", "upgrade", files.copy,
            "--in-place", "--no-model", "--from", "base",
        )  # fmt: skip

    module = "lightning.pytorch.utilities.upgrade_checkpoint"
    theirs = Contender(
        "Lightning's upgrade_checkpoint",
        lambda files: [sys.executable, "-m", module, str(files.copy), "--map-to-cpu"],
        in_place=True,
        lacking=_module("lightning"),
    )
    return Scenario(
        "Lightning .ckpt, 300 tensors, 10 × rename, in place",
        {"": Input("lightning", nbytes, 300)},
        Chain("rename", 10),
        Contender("ckmigrate upgrade --in-place", in_place, in_place=True),
        (COPY, theirs),
        memory=int(2.5 * nbytes),
    )


def _fast(kind: Kind, nbytes: int) -> Scenario:
    """One revision further each time, of 50, in place: the large file against the small one."""

    def step(key: str) -> Callable[[Files], list[str]]:
        def command(files: Files) -> list[str]:
            return ckmigrate(
                "--config", files.config, "-q", "upgrade", files.sources[key],
                "--in-place", "--fast", "--no-backup", "--no-model", "--to", "+1",
            )  # fmt: skip

        return command

    small, has_fast = Contender("the same, 4 MB", step("small")), _option("upgrade", "--fast")
    return Scenario(
        f"{kind} in place with --fast, 1 × rename",
        {"": Input(kind, nbytes, 300), "small": Input(kind, 4 * MB, 300)},
        Chain("rename", 50),
        Contender("upgrade --in-place --fast", step(""), lacking=has_fast),
        (small,),
        limits=(Limit(small.label, ratio=1.25, seconds=0.2),),
        writes_anew=False,
        tagged=True,
        memory=int(1.5 * nbytes),
    )


def _batch(nbytes: int) -> Scenario:
    """Eight files, two at a time, against one at a time."""
    sources = {str(number): Input("safetensors", nbytes // 8, 300) for number in range(8)}

    def jobs(count: int) -> Callable[[Files], list[str]]:
        def command(files: Files) -> list[str]:
            wanted = ["--jobs", str(count)] if count > 1 else []
            return ckmigrate(
                "--config", files.config, "-q", "upgrade", *files.sources.values(),
                "--out-dir", files.output, "--no-model", "--from", "base", *wanted,
            )  # fmt: skip

        return command

    return Scenario(
        "8 safetensors files, 300 tensors each, 1 × rename",
        sources,
        Chain("rename"),
        Contender("upgrade --jobs 2", jobs(2), lacking=_option("upgrade", "--jobs")),
        (Contender("upgrade, one by one", jobs(1)),),
    )
