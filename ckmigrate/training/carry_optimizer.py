"""The optimizers of one checkpoint, with what the file, the scripts and the model tell of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ckmigrate.compile import Trace
from ckmigrate.expr import Call, Expr, fill, sources
from ckmigrate.formats.tree_paths import child
from ckmigrate.opened import Opened, Request
from ckmigrate.spec import TensorSpec
from ckmigrate.target import Target
from ckmigrate.target_optimizer import Groups
from ckmigrate.training.buffers import torch_buffers
from ckmigrate.training.carried import NOTHING, Carried, Labels
from ckmigrate.training.optimizer import carry_optimizers
from ckmigrate.training.outside import Outside
from ckmigrate.training.param_groups import NewModel
from ckmigrate.training.param_names import Given, OldModel

__all__ = ["carry_optimizer_state", "has_new_order", "order_in_file", "parameters_in_order"]

_OF_FIRST_RANK: Final = re.compile(r"__0_[0-9]+\.distcp")


def carry_optimizer_state(
    wanted: Sequence[Outside],
    opened: Opened,
    trace: Trace,
    target: Target | None,
    request: Request,
    labels: Labels,
    *,
    groups: Callable[[], Groups | None] = lambda: None,
    wrappers: Sequence[str] = (),
    order: tuple[str, ...] | None = None,
) -> Carried:
    """All optimizers of a checkpoint that follow the weights, after the migration.

    wanted    where they stand
    groups    those of the optimizers that the project's code makes, where it is configured
    wrappers  name segments that may stand before names in the optimizer
    order     the weights in the order of the model, for a file that does not keep it

    MigrationError as `carry_optimizers`.
    """
    if not wanted:
        return NOTHING
    nodes = [(outside.path, child(opened.stored.state_tree, outside.path)) for outside in wanted]
    new = _new_model(trace, target)
    given = Given(request.param_order, request.param_order_source, groups())
    old = OldModel(
        weights=opened.schema,
        ties=trace.start.ties,
        order=_certain_order(opened, order),
        buffers=torch_buffers(opened.schema),
        likely=_likely_buffers(trace, new),
        wrappers=wrappers,
    )
    place = _places(trace)
    return carry_optimizers(nodes, old, new, labels, given=given, place=place)


def has_new_order(
    opened: Opened, target: Target | None, order: tuple[str, ...] | None = None
) -> bool:
    """Whether the model has its parameters in another order than a file whose weights stay: then
    the numbers in an optimizer mean others. `order` counts where the file has none."""
    order = order_in_file(opened) or order
    if target is None or target.parameters is None or order is None:
        return False
    both = frozenset(target.parameters) & frozenset(order)
    found, wanted = ([n for n in names if n in both] for names in (order, target.parameters))
    return found != wanted


def parameters_in_order(
    opened: Opened,
    trace: Trace,
    target: Target | None,
    order: tuple[str, ...] | None = None,
) -> tuple[str, ...] | None:
    """The parameters of the old model in its order, by their names in expressions; `order` counts
    where the file has none."""
    new = _new_model(trace, target)
    buffers = torch_buffers(opened.schema) | _likely_buffers(trace, new)
    listed = order_in_file(opened) or order
    found = OldModel(opened.schema, trace.start.ties, listed, buffers).parameters
    return None if found is None else tuple(found)


def _certain_order(opened: Opened, recorded: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """None where the file has another order than the model had at the base: some programs sort."""
    found = order_in_file(opened)
    if found is None or recorded is None:
        return found or recorded
    both = frozenset(found) & frozenset(recorded)
    one, other = ([name for name in names if name in both] for names in (found, recorded))
    return found if one == other else None


def order_in_file(opened: Opened) -> tuple[str, ...] | None:
    """The names in the order of the model, as torch writes them: in a file, and in a distributed
    checkpoint of a single rank. safetensors files sort them; a tensor stays in its shard, and ranks
    share them out, whatever the order of the model is."""
    stored = opened.stored
    in_order = stored.format == "torch"
    if stored.folder is not None and stored.format == "sharded":
        in_order = stored.folder.container == "torch" and len(stored.folder.shards) == 1
    elif stored.folder is not None and stored.format == "dcp":
        in_order = all(_OF_FIRST_RANK.fullmatch(name) for name in stored.folder.shards)
    return tuple(opened.layout.entries) if in_order else None


def _new_model(trace: Trace, target: Target | None) -> NewModel:
    entries = _once(trace.end.entries, trace.end.ties)
    if target is None or target.parameters is None:
        return NewModel(entries, None)
    named = {name: _expression(name, trace.end.entries, target) for name in target.parameters}
    return NewModel({**entries, **named}, target.parameters, target.trainable)


def _expression(name: str, entries: Mapping[str, Expr], target: Target) -> Expr:
    """Of a parameter; a tied one may be in the file under another of its names only, and one that
    is exempt from the comparison may be new."""
    group = next((group for group in target.ties if name in group), (name,))
    present = next((other for other in (name, *group) if other in entries), None)
    if present is not None:
        return entries[present]
    spec: TensorSpec = target.schema[name]
    return fill(bytes(max(1, spec.dtype.bits // 8)), spec)


def _once(entries: Mapping[str, Expr], ties: Sequence[Sequence[str]]) -> dict[str, Expr]:
    second = {name for group in ties for name in group[1:]}
    return {name: expr for name, expr in entries.items() if name not in second}


def _likely_buffers(trace: Trace, new: NewModel) -> frozenset[str]:
    """Weights of the file that are nothing but buffers in the new model, where all of its
    parameters are trained. They may have been parameters: what was learned is fixed now."""
    if new.parameters is None or not set(new.parameters) <= set(new.trainable):
        return frozenset()
    parameters = {s for name in new.parameters for s in sources(new.entries[name])}
    others = {s for expr in trace.end.entries.values() for s in sources(expr)}
    return frozenset(others - parameters)


def _places(trace: Trace) -> Callable[[Call], str | None]:
    """Script and line of a call, by what the records of the scripts hold."""

    def place(call: Call) -> str | None:
        for traced in trace.scripts:
            for record in traced.records:
                for step in record.steps:
                    kernel = step.kernel
                    same = getattr(kernel, "function", None) is call.function
                    if same and getattr(kernel, "key", None) == call.key:
                        return f"{traced.script.path.name}, line {record.line}: compute"
        return None

    return place
