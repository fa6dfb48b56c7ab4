"""Training goes on after an upgrade as if nothing had happened.

An old network is trained, stopped and saved; `ckmigrate upgrade` carries the file over a refactor
that only moves values; the new network resumes. Its next twenty losses are those of the old one
that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from tests.resume.networks import New, OldReordered, Reordered
from tests.resume.project import Project, project_of
from tests.resume.training import (
    ADAMW,
    AFTER,
    OTHER,
    SAME,
    STYLES,
    Group,
    Method,
    Run,
    adamw,
    by_dimensions,
    by_part,
    difference,
    loss_gap,
    restore,
    save,
    state,
    trained,
)


def sgd(groups: list[Group]) -> Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def amsgrad(groups: list[Group]) -> Optimizer:
    return torch.optim.Adam(groups, lr=0.01, amsgrad=True)


METHODS = [
    ADAMW,
    Method("sgd-momentum", sgd),
    Method("adam-amsgrad", amsgrad),
    Method("adamw-head-faster", adamw, by_part),
    Method("adamw-ema", adamw, by_dimensions, average="dict"),
    Method("adamw-ema-list", adamw, by_dimensions, average="list"),
    Method("adamw-averaged-model", adamw, by_dimensions, average="ema"),
    Method("sgd-swa", sgd, average="swa"),
    Method("float32", adamw, by_dimensions, dtype=torch.float32),
]


KINDS = [
    pytest.param(
        method,
        named,
        id=f"{method}-{'names' if named else 'indices'}",
        marks=pytest.mark.slow if named and method is not ADAMW else (),
    )
    for method in METHODS
    for named in (False, True)
]


@pytest.mark.parametrize(("method", "named"), KINDS)
def test_the_next_losses_are_those_of_the_uninterrupted_run(
    method: Method, named: bool, project: Project
) -> None:
    method = replace(method, named=named)
    old = trained(method)
    path = save(old, project.folder / "old.pt")
    gap = loss_gap(old.advance(AFTER), method, project.upgrade(path))
    assert gap < (1e-3 if method.dtype is torch.float32 else SAME)


@pytest.mark.parametrize("style", STYLES)
def test_whatever_the_keys_are_called(style: str, project: Project) -> None:
    old = trained(ADAMW)
    path = save(old, project.folder / "old.pt", style)
    assert loss_gap(old.advance(AFTER), ADAMW, project.upgrade(path), style) < SAME


def test_by_a_process_in_place_and_of_a_wrapped_model(project: Project) -> None:
    old = trained(ADAMW)
    path = save(old, project.folder / "old.pt")
    content = torch.load(path, weights_only=True)
    content["model"] = {f"module.{name}": value for name, value in content["model"].items()}
    torch.save(content, path)
    ran = project.process("upgrade", path, "--in-place", "--unwrap")
    assert ran.code == 0, ran.err
    assert loss_gap(old.advance(AFTER), ADAMW, path) < SAME


def test_plan_tells_what_becomes_of_the_state(project: Project) -> None:
    path = save(trained(METHODS[4]), project.folder / "old.pt")
    ran = project.run("plan", path)
    assert ran.code == 0, ran.err
    assert "optimizer: 2 groups of 31 parameters; 31 with state that follows" in ran.out
    assert "31  step, exp_avg, exp_avg_sq" in ran.out
    assert "ema_state_dict: copy of weights: 31 as the weights" in ran.out


# --- the proof can fail -----------------------------------------------------------------------


def test_without_moments_the_losses_differ(project: Project) -> None:
    old = trained(ADAMW)
    upgraded = project.upgrade(save(old, project.folder / "old.pt"), "--optimizer", "drop")
    content = torch.load(upgraded, weights_only=True)
    assert "optimizer" not in content
    fresh = Run.start(ADAMW, New)
    content["optimizer"] = {**fresh.optimizer.state_dict()}
    content["optimizer"]["param_groups"][0]["lr"] = old.optimizer.param_groups[0]["lr"]
    content["optimizer"]["param_groups"][1]["lr"] = old.optimizer.param_groups[1]["lr"]
    torch.save(content, upgraded)
    assert loss_gap(old.advance(AFTER), ADAMW, upgraded) > OTHER


def _swapped(states: dict[int, dict[str, Any]]) -> None:
    """Exchange the states of the first two parameters of one shape."""
    shapes = {number: tuple(one["exp_avg"].shape) for number, one in states.items()}
    pair = next((a, b) for a in shapes for b in shapes if a < b and shapes[a] == shapes[b])
    states[pair[0]], states[pair[1]] = states[pair[1]], states[pair[0]]


def _untransposed(states: dict[int, dict[str, Any]]) -> None:
    """Forget to transpose what is square."""
    number = next(n for n, one in states.items() if tuple(one["exp_avg"].shape) == (8, 8))
    for key in ("exp_avg", "exp_avg_sq"):
        states[number][key] = states[number][key].T.contiguous()


def _younger(states: dict[int, dict[str, Any]]) -> None:
    """Lose the count of steps."""
    for one in states.values():
        one["step"] = torch.tensor(1.0)


@pytest.mark.parametrize("spoil", [_swapped, _untransposed, _younger])
def test_with_state_in_a_wrong_place_the_losses_differ(
    spoil: Callable[[dict[int, dict[str, Any]]], None], project: Project
) -> None:
    old = trained(ADAMW)
    upgraded = project.upgrade(save(old, project.folder / "old.pt"))
    content = torch.load(upgraded, weights_only=True)
    spoil(content["optimizer"]["state"])
    torch.save(content, upgraded)
    assert loss_gap(old.advance(AFTER), ADAMW, upgraded) > OTHER


@pytest.fixture
def reordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    # The names stay: nothing but the order of the declarations tells what the indices mean.
    return project_of(
        tmp_path / "project", monkeypatch, Reordered, 'ck.meta.set("note", 1)', state(OldReordered)
    )


@pytest.mark.parametrize("named", [False, True], ids=["indices", "names"])
def test_state_follows_where_nothing_but_the_order_changes(named: bool, reordered: Project) -> None:
    method = replace(ADAMW, named=named)
    old = trained(method, OldReordered)
    path = save(old, reordered.folder / "old.pt")
    wanted = old.advance(AFTER)
    stale = restore(Run.start(method, Reordered), path)
    assert difference(wanted, stale.advance(AFTER)) > OTHER, "torch loads it without a word"
    upgraded = reordered.upgrade(path, "--from", "base")
    resumed = restore(Run.start(method, Reordered), upgraded)
    assert difference(wanted, resumed.advance(AFTER)) < SAME
