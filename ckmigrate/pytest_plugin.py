"""The pytest plugin: five tests of the migrations, in the project's own test run.

    [tool.pytest.ini_options]
    ckmigrate = true

They stand at the end of every run that names no file, test or inner folder, one for each model (and
each script): `ckmigrate_single_head`, `ckmigrate_chain_runs`, `ckmigrate_model_matches_head`,
`ckmigrate_up_down_up_is_identity`, `ckmigrate_scripts_are_self_contained`. Without that line, or
`--ckmigrate`, nothing beyond this file is imported.
"""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

if TYPE_CHECKING:
    from ckmigrate.revisions.script import Script
    from ckmigrate.self_contained import Finding
    from ckmigrate.trial import Subject

__all__: list[str] = []

_MEGABYTE = 1 << 20


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ckmigrate", "migrations of checkpoints")
    group.addoption(
        "--ckmigrate",
        action=BooleanOptionalAction,
        default=None,
        help="Test the migrations in this run, whatever it names, or leave them out.",
    )
    parser.addini("ckmigrate", "Test the migrations of the project.", type="bool", default=False)
    parser.addini(
        "ckmigrate_max_megabytes",
        "Largest synthetic checkpoint; models beyond it are skipped (256).",
        default="256",
    )
    parser.addini(
        "ckmigrate_accept",
        "Revisions whose lost or repeated values are meant.",
        type="args",
        default=[],
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers of xdist are given paths where this run was given none."""
    node.workerinput["ckmigrate"] = _is_wanted(node.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add our tests before anything chooses among all of them (-k, --deselect)."""
    if not _is_wanted(config):
        return
    collector: Migrations = Migrations.from_parent(
        session, name="ckmigrate", nodeid="ckmigrate", max_bytes=_max_bytes(config)
    )
    report = collector.ihook.pytest_make_collect_report(collector=collector)
    collector.ihook.pytest_collectreport(report=report)
    for item in report.result or ():
        item.ihook.pytest_itemcollected(item=item)
        items.append(item)


def _max_bytes(config: pytest.Config) -> int:
    text = str(config.getini("ckmigrate_max_megabytes"))
    if not text.isdecimal():
        raise pytest.UsageError(f"ckmigrate_max_megabytes = {text!r}: expected a whole number")
    return int(text) * _MEGABYTE


def _is_wanted(config: pytest.Config) -> bool:
    """Whether this run tests the migrations: it says so, or the configuration says so and the run
    is of whole folders."""
    told: bool | None = config.getoption("ckmigrate")
    if told is not None:
        return told
    if hasattr(config, "workerinput"):
        return bool(config.workerinput.get("ckmigrate"))
    if not config.getini("ckmigrate"):
        return False
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return True
    return all(_is_whole(config, config.invocation_params.dir / arg) for arg in config.args)


def _is_whole(config: pytest.Config, path: Path) -> bool:
    """Whether an argument is the project, or one of its folders of tests as a whole."""
    root, real = config.rootpath.resolve(), path.resolve()
    tops = {root, *root.parents, *((root / name).resolve() for name in config.getini("testpaths"))}
    return real.is_dir() and (real in tops or real.parent == root)


@dataclass
class Tried:
    """The project of a test run, read once; `subject` raises what is wrong with it."""

    config: pytest.Config
    max_bytes: int
    _subject: Subject | None = None
    _findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def subject(self) -> Subject:
        from ckmigrate.project import find_project
        from ckmigrate.trial import subject

        if self._subject is None:
            self._subject = subject(find_project(self.config.rootpath))
        return self._subject

    def one_head(self) -> Subject:
        """The project, if its history does not fork."""
        if len(self.subject.history.heads) > 1:
            raise SkipTest("the history has several heads: see ckmigrate_single_head")
        return self.subject

    def finding(self, revision: str) -> Finding:
        """What became of a script in a fresh process, which runs all of them at once."""
        from ckmigrate.self_contained import examine

        if not self._findings:
            self._findings.update(examine(self.subject, max_bytes=self.max_bytes))
        return self._findings[revision]


class Migrations(pytest.Collector):
    """The migrations of the project that pytest runs in."""

    def __init__(self, *, max_bytes: int, **more: Any) -> None:
        super().__init__(**more)
        self.max_bytes = max_bytes

    def collect(self) -> Iterator[pytest.Item]:
        from ckmigrate.errors import CkmigrateError

        tried = Tried(self.config, self.max_bytes)
        try:
            cases = list(_cases(tried))
        except CkmigrateError as error:
            cases = list(_broken(error))
        for name, run in cases:
            yield Trial.from_parent(self, name=name, run=run)


class Trial(pytest.Item):
    """One test of the migrations; fails with the text of the error, and no traceback."""

    def __init__(self, *, run: Callable[[], None], **more: Any) -> None:
        super().__init__(**more)
        self._run = run

    def runtest(self) -> None:
        try:
            self._run()
        except SkipTest as reason:
            # The place that a list of skipped tests shows: ours, not a line of the machinery.
            raise pytest.skip.Exception(f"{self.name}: {reason}", _use_item_location=True) from None

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from ckmigrate.errors import CkmigrateError
        from ckmigrate.report.escape import printable_text

        if isinstance(excinfo.value, CkmigrateError):
            return printable_text(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.config.rootpath / "migrations", 0, self.name


Case = tuple[str, Callable[[], object]]


def _cases(tried: Tried) -> Iterator[Case]:
    """Every test with its name; one that has no model or script to test is skipped as a whole."""
    from ckmigrate.trial import head_of

    models = tried.subject.models
    scripts = tried.subject.history.order
    pairs = [(model, script) for model in models for script in scripts]
    none = "there is no model" if scripts else "there are no migrations yet"
    yield "ckmigrate_single_head", partial(head_of, tried.subject)
    yield from _named("chain_runs", [((m,), partial(_chain, tried, m)) for m in models], none)
    named = [((m,), partial(_model, tried, m)) for m in models]
    yield from _named("model_matches_head", named, none)
    trips = [((m, s.path.stem), partial(_round_trip, tried, m, s.id)) for m, s in pairs]
    yield from _named("up_down_up_is_identity", trips, none)
    alone = [((s.path.stem,), partial(_self_contained, tried, s)) for s in scripts]
    yield from _named("scripts_are_self_contained", alone, none)


def _named(
    name: str, cases: Sequence[tuple[tuple[str, ...], Callable[[], object]]], none: str
) -> Iterator[Case]:
    if not cases:
        yield f"ckmigrate_{name}", partial(_raise, SkipTest(none))
    for parts, run in cases:
        yield f"ckmigrate_{name}[{'-'.join(parts)}]", run


def _broken(error: Exception) -> Iterator[Case]:
    """Where project or history cannot be read there is one failure, and nothing else to test."""
    yield "ckmigrate_single_head", partial(_raise, error)
    names = ("chain_runs", "model_matches_head", "up_down_up_is_identity")
    for name in (*names, "scripts_are_self_contained"):
        reason = "the migrations cannot be read: see ckmigrate_single_head"
        yield f"ckmigrate_{name}", partial(_raise, SkipTest(reason))


def _raise(error: Exception) -> None:
    raise error


def _chain(tried: Tried, model: str) -> None:
    from ckmigrate.trial import try_chain

    accept = tuple(tried.config.getini("ckmigrate_accept"))
    try_chain(tried.one_head(), model, max_bytes=tried.max_bytes, accept=accept)


def _model(tried: Tried, model: str) -> None:
    from ckmigrate.trial import try_model

    try_model(tried.one_head(), model)


def _round_trip(tried: Tried, model: str, revision: str) -> None:
    from ckmigrate.round_trip import try_round_trip

    try_round_trip(tried.subject, model, revision, max_bytes=tried.max_bytes)


def _self_contained(tried: Tried, script: Script) -> None:
    from ckmigrate.self_contained import require_self_contained

    require_self_contained(script, tried.finding(script.id))
