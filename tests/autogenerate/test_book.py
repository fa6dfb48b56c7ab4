"""Every pair of architectures of the cookbook and of the example's history: right, or it asks.

With values: the certain calls, carried out, give what the recipe's own script gives, wherever no
question is open.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.initialisers import compare_builds
from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.autogenerate.replay import remainder, replay, run_call, start_of
from ckmigrate.compile import State, trace
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr, sources
from ckmigrate.revisions.graph import read_history
from ckmigrate.revisions.script import Script
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from tests.cookbook.recipe import Kitchen, Recipe

Make = Callable[[], nn.Module]

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    f"{path.stem}:{name}": value
    for path in sorted((ROOT / "tests" / "cookbook").glob("test_[0-9]*.py"))
    for name, value in vars(importlib.import_module(f"tests.cookbook.{path.stem}")).items()
    if isinstance(value, Recipe)
}
RELEASES = [f"examples.digits.history.v1_{n}" for n in range(5)] + ["examples.digits.model"]


def snapshot_of(model: nn.Module) -> Snapshot:
    state = model.state_dict(keep_vars=True)
    specs = {n: TensorSpec(DType.parse(t.dtype), tuple(t.shape)) for n, t in state.items()}
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    ties = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    return Snapshot(Schema(specs), ties, "default")


def drafted(old: Snapshot, new: nn.Module, again: nn.Module) -> tuple[Draft, Snapshot]:
    wanted = snapshot_of(new)
    entries = [name for name in wanted.schema if name not in old.schema]
    read = compare_builds(new, again, entries)
    return draft(old, wanted, initialisers=read.texts, unsure=read.unsure), wanted


def asked(found: Draft) -> set[str]:
    readings = [
        q for p in found.proposals if p.certainty != "certain" for q in (p, *p.alternatives)
    ]
    return {name for p in readings for name in (*p.sources, *p.targets)}


def wrong(found: Draft, old: Snapshot, new: Snapshot, truth: State) -> list[str]:
    """Entries, in no question, whose origin is another than the script's."""
    certain = replay([p.call for p in found.proposals if p.certainty == "certain"], old)
    given = {name for p in found.proposals if p.certainty == "certain" for name in p.targets}
    settled = given & set(certain.entries) & set(truth.entries) - asked(found)
    lost = used(truth) - used(certain)
    return sorted(lost) + [
        name
        for name in settled
        if certain.entries[name].spec == truth.entries[name].spec == new.schema[name]
        and not _same(certain.entries[name], truth.entries[name])
    ]


def used(state: State) -> set[str]:
    return {name for expr in state.entries.values() for name in sources(expr)}


def _same(one: Expr, other: Expr) -> bool:
    """New entries are new in both; by what values, the recipe decided for reasons of its own."""
    return one == other or not (set(sources(one)) | set(sources(other)))


def check(found: Draft, old: Snapshot, new: Snapshot) -> None:
    """All calls together reach the new schema, or a todo says what is left."""
    done = [p.call for p in found.proposals if p.kind != "todo"]
    assert bool(remainder(replay(done, old), new)) == (len(done) < len(found.proposals))
    for proposal in found.proposals:
        assert proposal.why
        assert proposal.certainty != "ambiguous" or proposal.alternatives or proposal.kind == "todo"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_cookbook(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    old = snapshot_of(recipe.old())
    found, new = drafted(old, recipe.new(), recipe.new())
    check(found, old, new)
    truth = _truth(Kitchen(tmp_path, recipe).folder, old, recipe.params)
    if truth is not None:
        assert not wrong(found, old, new, truth)


def _truth(folder: Path, old: Snapshot, params: object) -> State | None:
    """What the recipe's script makes; None where it needs the metadata of a real file."""
    scripts = read_history(folder / "migrations").order
    return _traced(scripts, start_of(old), dict(params))  # type: ignore[call-overload]


def _traced(scripts: object, state: State, params: dict[str, object]) -> State | None:
    try:
        return trace(list(scripts), state, params).end  # type: ignore[call-overload]
    except MigrationError:
        return None


@pytest.mark.parametrize("number", range(len(RELEASES) - 1))
def test_a_release_of_the_example(number: int) -> None:
    one, other = (importlib.import_module(RELEASES[n]).build for n in (number, number + 1))
    old = snapshot_of(one())
    found, new = drafted(old, other(), other())
    check(found, old, new)
    truth = _traced(_scripts_of_release(number), start_of(old), {})
    assert truth is not None
    assert not wrong(found, old, new, truth)


def test_all_releases_at_once() -> None:
    old = snapshot_of(importlib.import_module(RELEASES[0]).build())
    build: Make = importlib.import_module(RELEASES[-1]).build
    found, new = drafted(old, build(), build())
    check(found, old, new)
    truth = _traced(read_history(ROOT / "migrations").order, start_of(old), {})
    assert truth is not None
    assert not wrong(found, old, new, truth)


def _scripts_of_release(number: int) -> list[Script]:
    """The scripts after release number, up to the next one."""
    groups: list[list[Script]] = [[]]
    for script in read_history(ROOT / "migrations").order:
        groups[-1].append(script)
        if script.release:
            groups.append([])
    return groups[number]


def test_the_first_release_needs_few_certain_calls() -> None:
    one, other = (importlib.import_module(name).build for name in RELEASES[:2])
    old = snapshot_of(one())
    found, new = drafted(old, other(), other())
    prefix, norm = (p.call for p in found.proposals if p.certainty == "certain")
    assert prefix == 'ck.rename("transformer.**", "encoder.**")'
    new_norm = "stem.conv1.parametrizations.weight.{original0,original1}"
    assert norm == f'ck.rename("stem.conv1.{{weight_g,weight_v}}", "{new_norm}")'
    (guess,) = (p for p in found.proposals if p.certainty == "guess")
    assert guess.kind == "compute"
    state = start_of(old)
    for proposal in found.proposals:
        state = run_call(proposal.call, state)
    assert state.schema == new.schema
