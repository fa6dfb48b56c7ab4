"""What holds for every draft, on random refactors whose truth is known."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, note, settings

from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.replay import remainder, replay
from ckmigrate.compile import State
from ckmigrate.expr import Expr, sources
from tests.autogenerate.refactors import Case, cases

_SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


def asked(found: Draft) -> set[str]:
    """Every name that a question of the draft touches, with all its readings."""
    open_ones = [p for p in found.proposals if p.certainty != "certain"]
    readings = [q for p in open_ones for q in (p, *p.alternatives)]
    return {name for p in readings for name in (*p.sources, *p.targets)}


def wrong(case: Case, found: Draft) -> list[str]:
    """What the certain proposals alone say and the truth does not."""
    certain = [p for p in found.proposals if p.certainty == "certain"]
    state = replay([p.call for p in certain], case.old)
    open_names = asked(found)
    open_lists = _lists(open_names) if found.proposals else set()
    given_names = {name for p in certain for name in p.targets}
    told = [
        f"{name}: {_said(state.entries[name])}, in truth {_said(case.truth.entries[name])}"
        for name in given_names & set(state.entries) & set(case.new.schema) - open_names
        if state.entries[name].spec == case.new.schema[name]
        and not _lists({name}) & open_lists & _changed_lists(state, case)
        and not _equal(state.entries[name], case.truth.entries[name])
    ]
    lost = _used(case.truth.entries.values()) - _used(state.entries.values())
    return told + [f"{name} is dropped, and needed" for name in lost]


def _lists(names: set[str]) -> set[str]:
    """Every `blocks.` around a number."""
    return {
        ".".join(parts[:n])
        for parts in (name.split(".") for name in names)
        for n, part in enumerate(parts)
        if part.isdecimal()
    }


def _changed_lists(state: State, case: Case) -> set[str]:
    """Lists that still have other numbers than in the new schema: a layer was put in, or taken out.

    Equal names within such a list need not be equal layers; that is what is asked.
    """
    both = set(state.entries), set(case.new.schema)
    return {
        around
        for around in _lists(both[0] | both[1])
        if len({frozenset(_numbers(names, around)) for names in both}) > 1
    }


def _numbers(names: set[str], around: str) -> set[str]:
    some = (name[len(around) :].lstrip(".") for name in names if name.startswith(around))
    return {rest.partition(".")[0] for rest in some}


def _used(entries: object) -> set[str]:
    return {name for expr in entries for name in sources(expr)}  # type: ignore[attr-defined]


def _equal(one: Expr, other: Expr) -> bool:
    """Of new entries, that they are new: a draft knows no initialisers here."""
    return one == other or not (set(sources(one)) | set(sources(other)))


def _said(expr: Expr) -> str:
    return " + ".join(sources(expr)) or "new"


def _shown(proposals: tuple[Proposal, ...]) -> str:
    return "\n".join(f"{p.certainty}: {p.call}  # {p.why}" for p in proposals)


def check(case: Case) -> None:
    for known in ({}, dict.fromkeys(case.new.schema, "init.zeros()")):
        _check(case, draft(case.old, case.new, initialisers=known))


def _check(case: Case, found: Draft) -> None:
    note(f"{case.story}\n{_shown(found.proposals)}")
    assert not wrong(case, found)
    done = [p for p in found.proposals if p.kind != "todo"]
    left = remainder(replay([p.call for p in done], case.old), case.new)
    assert bool(left) == any(p.kind == "todo" for p in found.proposals)


@settings(_SETTINGS, derandomize=True)
@given(cases())
def test_what_is_certain_is_true_and_nothing_is_left_out(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(_SETTINGS, max_examples=3000, derandomize=True)
@given(cases())
def test_the_same_on_thousands(case: Case) -> None:
    check(case)
