"""Law: a copy of the weights becomes what the same chain makes of weights with its values."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.expr import Expr, sources
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import Schema
from ckmigrate.training.carried import Labels
from ckmigrate.training.copies import carry_copy
from ckmigrate.training.copy_parts import Memory, Moved
from tests.laws.chains import WHOLE, Case, bytes_of, cases, checkpoint, run
from tests.naive import Entry, Naive

PATH = ("runs", 0, "ema")


def other(entry: Entry) -> Entry:
    """An entry of the same kind, every bit of which is another."""
    ones = (1 << entry.dtype.bits) - 1
    return Entry(entry.dtype, np.array(ones - entry.items, dtype=object))


def tensors(schema: Schema, ties: tuple[tuple[str, ...], ...], key: str) -> dict[str, Tensor]:
    first = {name: group[0] for group in ties for name in group}
    storages: dict[str, Storage] = {}
    found = {}
    for name, spec in schema.items():
        owner = first.get(name, name)
        fresh = Storage(f"{key}{owner}", spec.dtype, spec.nbytes)
        storage = storages.setdefault(owner, fresh)
        found[name] = Tensor(storage, spec, 0, contiguous_strides(spec.shape))
    return found


@given(cases(WHOLE), st.sampled_from(["", "module.", "ema_model.module."]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_copy_takes_the_way_of_the_weights(case: Case, prefix: str, is_alias: bool) -> None:
    ck = run(checkpoint(case.entries, case.ties), case.acts)
    weights = tensors(case.schema, case.ties, "weight ")
    copies = weights if is_alias else tensors(case.schema, case.ties, "copy ")
    node = {prefix + name: tensor for name, tensor in copies.items()}
    moved = Moved(weights, case.ties, ck.entries, ck.ties)
    if not node:
        return
    found = carry_copy(node, PATH, moved, Labels(weights), Memory(moved))
    values = case.entries if is_alias else {n: other(e) for n, e in case.entries.items()}
    world = Naive(values, case.ties)
    for operation, args, kwargs in case.acts:
        getattr(world, operation)(*args, **kwargs)
    data = Naive(values, case.ties).bytes_by_name()
    names = {
        label: label.removeprefix(f"training state: runs.0.ema.{prefix}")
        for label in [*found.sources, *case.schema]
    }
    by_label = {label: data[name] for label, name in names.items()}
    schema = Schema((label, case.schema[name]) for label, name in names.items())
    built = found.nodes[0].build({label: made(expr) for label, expr in found.entries.items()})
    assert isinstance(built, dict)
    assert list(built) == [prefix + name for name in world.entries]
    for name, wanted in world.bytes_by_name().items():
        expr = found.entries[f"training state: runs.0.ema.{prefix}{name}"]
        assert bytes_of(expr, by_label, schema) == wanted, name
        if is_alias and sources(expr):
            assert (name, f"training state: runs.0.ema.{prefix}{name}") in found.ties
    assert set(by_label) >= {s for expr in found.entries.values() for s in sources(expr)}
    assert not is_alias or not found.sources


def made(expr: Expr) -> Tensor:
    spec = expr.spec
    return Tensor(Storage("new", spec.dtype, spec.nbytes), spec)
