"""Random checkpoints and random chains of operations on them, for the laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from ckmigrate import init
from ckmigrate.checkpoint import Checkpoint
from ckmigrate.compile import start
from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import Evaluator, chunks
from ckmigrate.expr import Expr
from ckmigrate.lower import Copy, SourceRange, lower
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.symbolic import concat
from tests.naive import Entry, Naive, items_of

Act = tuple[str, tuple[Any, ...], dict[str, Any]]

WHOLE = [dtype for dtype in DType if dtype.bits >= 8]
NARROW = [dtype for dtype in DType if dtype.bits < 8]
LARGEST = 300


@dataclass
class Case:
    """A checkpoint, its ties, and what a chain makes of it by the naive interpreter."""

    entries: dict[str, Entry]
    ties: tuple[tuple[str, ...], ...]
    acts: list[Act]

    @property
    def schema(self) -> Schema:
        return schema_of(self.entries)

    def naive(self, upto: int | None = None) -> Naive:
        world = Naive(self.entries, self.ties)
        for operation, args, kwargs in self.acts[:upto]:
            getattr(world, operation)(*args, **kwargs)
        return world


def schema_of(entries: dict[str, Entry]) -> Schema:
    return Schema((name, TensorSpec(e.dtype, tuple(e.items.shape))) for name, e in entries.items())


def checkpoint(entries: dict[str, Entry], ties: Sequence[Sequence[str]] = ()) -> Checkpoint:
    state = start(schema_of(entries), ties=tuple(map(tuple, ties)))
    return Checkpoint(state.entries, ties=state.ties)


def perform(ck: Checkpoint, act: Act) -> None:
    """One act on the symbolic checkpoint."""
    operation, args, kwargs = act
    if operation == "assign":
        target, pieces, dim = args
        found = [ck[name][key] for name, key in pieces]
        ck[target] = found[0] if dim is None else concat(found, dim)
    elif operation == "init":
        ck.init(*args, value=init.zeros(), **kwargs)
    else:
        getattr(ck, operation)(*args, **kwargs)


def run(ck: Checkpoint, acts: Sequence[Act]) -> Checkpoint:
    for act in acts:
        perform(ck, act)
    ck.recorder.finish()
    return ck


def reader(data: dict[str, bytes], schema: Schema) -> Callable[[str, int, int], bytes]:
    def read(name: str, first: int, count: int) -> bytes:
        width = schema[name].dtype.bits // 8
        assert 0 <= first <= first + count <= schema[name].numel
        return data[name][first * width : (first + count) * width]

    return read


def bytes_of(
    expr: Expr, data: dict[str, bytes], schema: Schema, *, plain: bool = True
) -> bytes | None:
    """The expression's bytes as a plan gives them; None where it is refused (sub-byte only)."""
    try:
        lowered = lower(expr, lambda name: plain)
    except MigrationError as error:
        if error.code != "CKM540" or expr.spec.dtype.bits >= 8:
            raise
        return None
    if isinstance(lowered, Copy):
        parts = []
        for item in lowered.ranges:
            assert item.nbytes > 0
            if isinstance(item, SourceRange):
                assert 0 <= item.start <= item.start + item.nbytes <= len(data[item.name])
                parts.append(data[item.name][item.start : item.start + item.nbytes])
            else:
                assert item.nbytes % len(item.element) == 0
                parts.append(item.element * (item.nbytes // len(item.element)))
        return b"".join(parts)
    return evaluated(expr, data, schema)


def evaluated(expr: Expr, data: dict[str, bytes], schema: Schema) -> bytes:
    evaluator = Evaluator(reader(data, schema))
    return b"".join(evaluator.evaluate(piece).tobytes() for piece in chunks(expr))


# -- strategies --------------------------------------------------------------------------------


def shapes(least: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    sizes = st.sampled_from([1, 2, 2, 3, 4, 4, 5, 6, 8]) | st.just(least)
    return (
        st.lists(sizes, min_size=0, max_size=4)
        .map(tuple)
        .filter(lambda shape: math.prod(shape) <= 120)
    )


@st.composite
def checkpoints(draw: st.DrawFn, dtypes: Sequence[DType]) -> Case:
    """Up to eight tensors; several share a spec, some are one group of experts, some are tied."""
    kinds = draw(st.lists(st.sampled_from(dtypes), min_size=1, max_size=2, unique=True))
    forms = draw(st.lists(shapes(), min_size=1, max_size=3))
    entries: dict[str, Entry] = {}
    marks = iter(range(1, 1 << 20))

    def add(name: str, dtype: DType, shape: tuple[int, ...]) -> None:
        # Distinct patterns that also fill the high bits: NaN payloads, bool bytes other than 0, 1.
        top = 1 << dtype.bits
        values = [
            next(marks) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % top for _ in range(math.prod(shape))
        ]
        entries[name] = Entry(dtype, items_of(values, shape))

    for number in range(draw(st.integers(1, 4))):
        add(f"t{number}", draw(st.sampled_from(kinds)), draw(st.sampled_from(forms)))
    if draw(st.booleans()):
        dtype, shape = draw(st.sampled_from(kinds)), draw(st.sampled_from(forms))
        for number in range(draw(st.sampled_from([2, 3, 12]))):
            add(f"g.{number}", dtype, shape)
    ties: tuple[tuple[str, ...], ...] = ()
    if draw(st.integers(0, 3)) == 0:
        entries["tied"] = entries["t0"]
        ties = (("t0", "tied"),)
    return Case(entries, ties, [])


@st.composite
def cases(draw: st.DrawFn, dtypes: Sequence[DType] = tuple(WHOLE), longest: int = 12) -> Case:
    case = draw(checkpoints(dtypes))
    world = case.naive()
    fresh = (f"n{number}" for number in range(1000))
    for _ in range(draw(st.integers(1, longest))):
        if not world.entries:
            break
        name = draw(st.sampled_from(sorted(world.entries)))
        act = draw(st.sampled_from(_MAKERS))(draw, world, name, fresh)
        if act is None:
            continue
        case.acts.append(act)
        getattr(world, act[0])(*act[1], **act[2])
    return case


Maker = Callable[[Any, Naive, str, Any], Act | None]


def _dim(draw: Any, shape: tuple[int, ...]) -> int:
    return int(draw(st.integers(-len(shape), len(shape) - 1)))


def _rename(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    others = sorted(n for n in world.entries if n != name and "." not in n + name)
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return "rename", ("{rest:**}", "p.{rest}"), {}
    if kind < 3 and others:
        other = draw(st.sampled_from(others))
        return "rename", (f"{{{name},{other}}}", f"{{{other},{name}}}"), {}
    return "rename", (name, next(fresh)), {}


def _split(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape:
        return None
    dim, count = _dim(draw, shape), draw(st.integers(2, 4))
    targets = [next(fresh) for _ in range(count)]
    if draw(st.booleans()):
        targets[draw(st.integers(0, count - 1))] = name
    if shape[dim] % count == 0 and draw(st.booleans()):
        return "split", (name, targets), {"dim": dim, "sizes": None}
    cuts = sorted(draw(st.integers(0, shape[dim])) for _ in range(count - 1))
    borders = [0, *cuts, shape[dim]]
    sizes = [b - a for a, b in itertools.pairwise(borders)]
    return "split", (name, targets), {"dim": dim, "sizes": sizes}


def _partners(world: Naive, name: str, dim: int) -> list[str]:
    entry = world.entries[name]
    rest = list(entry.items.shape)
    rest[dim] = -1
    found = []
    for other, item in world.entries.items():
        shape = list(item.items.shape)
        if len(shape) == len(rest) and item.dtype == entry.dtype:
            shape[dim] = -1
            if shape == rest:
                found.append(other)
    return found


def _concat(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape:
        return None
    dim = _dim(draw, shape)
    partners = _partners(world, name, dim)
    if len(partners) < 2:
        return None
    order = draw(st.permutations(partners))
    members = order[: draw(st.integers(2, len(order)))]
    target = draw(st.sampled_from([next(fresh), members[0], members[-1]]))
    return "concat", (members, target), {"dim": dim}


def _stack(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    starts = sorted({n[: n.rindex(".") + 1] for n in world.entries if n.split(".")[-1].isdigit()})
    if not starts:
        return None
    begin = draw(st.sampled_from(starts))
    found = sorted(int(n.removeprefix(begin)) for n in world.entries if _is_member(n, begin))
    specs = {(world.entries[f"{begin}{i}"].dtype, world.shape(f"{begin}{i}")) for i in found}
    if found != list(range(len(found))) or len(specs) != 1:
        return None
    dim = draw(st.integers(0, len(next(iter(specs))[1])))
    return "stack", (begin + "{e:int}", next(fresh)), {"dim": dim}


def _is_member(name: str, begin: str) -> bool:
    return name.startswith(begin) and name.removeprefix(begin).isdigit()


def _unstack(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape:
        return None
    dim = _dim(draw, shape)
    if shape[dim] == 0:
        return None
    return "unstack", (name, next(fresh) + ".{e}"), {"dim": dim}


def _reshape(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    numel = world.entries[name].items.size
    if numel == 0:
        return "reshape", (name, draw(st.permutations([0, 2, 3]))), {}
    sizes: list[int] = []
    left = numel
    while left > 1:
        factor = draw(st.sampled_from([n for n in range(2, left + 1) if left % n == 0]))
        sizes.append(factor)
        left //= factor
    sizes = draw(st.permutations([*sizes, *[1] * draw(st.integers(0, 2))]))
    return "reshape", (name, tuple(sizes)), {}


def _squeeze(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    ones = [dim for dim, size in enumerate(world.shape(name)) if size == 1]
    return ("squeeze", (name, draw(st.sampled_from(ones))), {}) if ones else None


def _unsqueeze(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    count = len(world.shape(name)) + 1
    if count > 6:
        return None
    return "unsqueeze", (name, draw(st.integers(-count, count - 1))), {}


def _flatten(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    count = len(world.shape(name))
    if not count:
        return None
    first = draw(st.integers(0, count - 1))
    last = draw(st.integers(first, count - 1))
    return "flatten", (name, first, last - count if draw(st.booleans()) else last), {}


def _permute(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    return "permute", (name, draw(st.permutations(range(len(world.shape(name)))))), {}


def _transpose(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    return ("transpose", (name, _dim(draw, shape), _dim(draw, shape)), {}) if shape else None


def _rearrange(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape or 0 in shape:
        return None
    h = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0]))
    rest = "cdefg"[: len(shape) - 1]
    tail = " ".join(rest)
    mixed = " ".join(draw(st.permutations([*rest, "(b a)"])))
    right = draw(st.sampled_from([f"(b a) {tail}", f"b {tail} a", mixed]))
    return "rearrange", (name, f"(a b) {tail} -> {right}"), {"a": h}


def _slice(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape:
        return None
    dim = _dim(draw, shape)
    begin = draw(st.integers(0, shape[dim]))
    end = draw(st.integers(begin, shape[dim]))
    stop = None if end == shape[dim] else end
    return "slice", (name,), {"dim": dim, "start": begin, "stop": stop}


def _resize(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    new = tuple(max(0, size + draw(st.integers(-2, 2))) for size in shape)
    if math.prod(new) > LARGEST or world.entries[name].dtype is DType.F8_E8M0:
        return None
    anchor = draw(st.sampled_from(["start", "center", "end"]))
    return "resize", (name, new), {"anchor": anchor}


def _gather(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    if not shape:
        return None
    dim = _dim(draw, shape)
    size = shape[dim]
    fill = None if world.entries[name].dtype is DType.F8_E8M0 else draw(st.sampled_from([0, None]))
    rows: list[int | None] = list(range(size))
    if draw(st.booleans()):
        return "gather", (name, draw(st.permutations(rows))), {"dim": dim, "fill": None}
    choices = rows if fill is None else [*rows, None]
    index = draw(st.lists(st.sampled_from(choices), max_size=size + 2)) if choices else []
    if math.prod(shape) * (size + 2) // max(1, size) > LARGEST:
        return None
    return "gather", (name, index), {"dim": dim, "fill": fill}


def _init(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    dtype = world.entries[name].dtype
    if dtype is DType.F8_E8M0:
        return None
    return "init", (next(fresh),), {"shape": draw(shapes()), "dtype": dtype}


def _drop(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    return ("drop", (name,), {"reason": "gone"}) if len(world.entries) > 2 else None


def _copy(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    return "copy", (name, next(fresh)), {}


def _tie(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    return "tie", (name, next(fresh)), {}


def _untie(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    tied = sorted(n for group in world.untouched() if not world.has_twin(group) for n in group)
    return ("untie", (draw(st.sampled_from(tied)),), {}) if tied else None


def _key(draw: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """A subscript that keeps every dimension."""
    return tuple(
        slice(draw(st.integers(0, size)), size, draw(st.sampled_from([1, 1, 2, 3])))
        if draw(st.booleans())
        else slice(None)
        for size in shape
    )


def _assign(draw: Any, world: Naive, name: str, fresh: Any) -> Act | None:
    shape = world.shape(name)
    target = draw(st.sampled_from([next(fresh), name]))
    if not shape or draw(st.booleans()):
        key = list(_key(draw, shape))
        for dim, size in enumerate(shape):
            if size and draw(st.integers(0, 3)) == 0:
                key[dim] = draw(st.integers(-size, size - 1))
        return "assign", (target, [(name, tuple(key))], None), {}
    dim = _dim(draw, shape) % len(shape)
    members = draw(st.lists(st.sampled_from(_partners(world, name, dim)), min_size=1, max_size=3))
    key = list(_key(draw, shape))
    pieces = []
    for member in members:
        key[dim] = _key(draw, (world.shape(member)[dim],))[0]
        pieces.append((member, tuple(key)))
    return "assign", (target, pieces, dim), {}


_MAKERS: list[Maker] = [
    _rename,
    _split,
    _split,
    _concat,
    _concat,
    _stack,
    _stack,
    _unstack,
    _reshape,
    _reshape,
    _squeeze,
    _unsqueeze,
    _flatten,
    _permute,
    _permute,
    _transpose,
    _rearrange,
    _slice,
    _resize,
    _gather,
    _init,
    _drop,
    _copy,
    _tie,
    _untie,
    _assign,
    _assign,
]
