"""Random architectures, and random refactors of them whose truth is known.

A refactor is carried out on the symbolic checkpoint by concrete names, so the truth is an
expression for every entry: what a draft says can be compared with it, entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hypothesis import strategies as st

from ckmigrate.checkpoint import Checkpoint
from ckmigrate.compile import State, start
from ckmigrate.operations.rename import Renames
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec

Draw = Callable[..., object]

SIZES = (4, 8, 12)
WORDS = ("encoder", "decoder", "head", "neck", "stem", "trunk", "aux")
PARTS = ("attn", "mlp", "norm", "fc1", "fc2", "proj", "gate", "q", "k", "v", "qkv", "norm1")
OTHERS = ("core", "body", "net", "self_attn", "ffn", "up", "down", "ln", "out", "inner", "query")
LEAVES = (("weight", "w"), ("bias", "b"), ("weight", "gamma"), ("bias", "beta"))


@dataclass
class World:
    """The checkpoint while it is refactored.

    What no names and shapes can show is left out: a subtree of several modules that is dropped
    while an exact copy is made anew under another name; equal modules that changed places; a square
    matrix that was transposed; a name that is given again to something of the same shape; a layer
    put into a list and one taken out.

    copied and dropped  whether that happened to a subtree of several modules
    ever                every name that there was
    """

    ck: Checkpoint
    done: list[str] = field(default_factory=list)
    copied: bool = False
    dropped: bool = False
    layered: str = ""
    ever: set[str] = field(default_factory=set)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        return dict(self.ck.schema)

    @property
    def names(self) -> tuple[str, ...]:
        return self.ck.names

    def rename(self, pairs: Mapping[str, str]) -> bool:
        """All at once; False where a name is taken, or was once."""
        if len(set(pairs.values())) < len(pairs) or self.ever & set(pairs.values()):
            return False
        return self.shuffle(pairs)

    def shuffle(self, pairs: Mapping[str, str]) -> bool:
        """Names exchanged among themselves."""
        moved = {old: new for old, new in pairs.items() if old != new}
        self.ck.recorder.apply(Renames(tuple(moved), tuple(moved.values())))
        self.ever.update(self.names)
        return True

    def make(self, specs: Mapping[str, TensorSpec]) -> None:
        for name, spec in specs.items():
            self.ck.init(name, shape=spec.shape, dtype=spec.dtype)
        self.ever.update(self.names)

    def modules(self) -> list[str]:
        """Every module, also those around others."""
        found: dict[str, None] = {}
        for name in self.names:
            parts = name.split(".")
            found |= {".".join(parts[:n]): None for n in range(1, len(parts))}
        return list(found)

    def below(self, module: str) -> list[str]:
        return [name for name in self.names if name.startswith(f"{module}.")]

    def lists(self) -> dict[str, list[int]]:
        """Modules whose children are 0 … n-1, with the numbers."""
        found = {}
        for module in self.modules():
            children = {name[len(module) + 1 :].split(".")[0] for name in self.below(module)}
            if all(map(str.isdecimal, children)):
                found[module] = sorted(map(int, children))
        return {m: n for m, n in found.items() if n == list(range(len(n)))}


@dataclass(frozen=True)
class Case:
    """A refactor with its truth."""

    old: Snapshot
    new: Snapshot
    truth: State
    story: tuple[str, ...]


def _linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for word in draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True)):
        if draw(st.booleans()):
            parts = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4, unique=True))
            layer = {k: s for part in parts for k, s in draw(_modules(part)).items()}
            other = draw(st.booleans()) and draw(_modules("extra"))
            for index in range(draw(st.integers(1, 4))):
                found |= {f"{word}.blocks.{index}.{k}": s for k, s in layer.items()}
                if other and index % 2:
                    found |= {f"{word}.blocks.{index}.{k}": s for k, s in other.items()}
        else:
            found |= {f"{word}.{k}": s for k, s in draw(_modules("fc")).items()}
            found |= draw(_modules(word)) if draw(st.booleans()) else {}
    return found


@st.composite
def _modules(draw: st.DrawFn, name: str) -> dict[str, tuple[int, ...]]:
    one, other = draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))
    kind = draw(st.sampled_from(("linear", "linear", "norm", "group", "conv", "bare")))
    if kind == "norm":
        return {f"{name}.weight": (one,), f"{name}.bias": (one,)}
    if kind == "conv":
        return {f"{name}.weight": (one, other, 1, 1), f"{name}.bias": (one,)}
    if kind == "bare":
        return {f"{name}.weight": (one, other)}
    if kind == "group":
        parts = draw(st.lists(st.sampled_from(PARTS), min_size=2, max_size=3, unique=True))
        return {k: s for part in parts for k, s in _linear(f"{name}.{part}", one, one).items()}
    return _linear(name, one, other)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shapes = draw(architectures())
    schema = Schema((name, TensorSpec(DType.F32, shape)) for name, shape in shapes.items())
    world = World(Checkpoint(start(schema).entries), ever=set(schema))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=3)):
        if step(draw, world):
            world.done.append(step.__name__)
    old = Snapshot(schema, (), "m")
    new = Snapshot(world.ck.schema, world.ck.ties, "m")
    truth = State(world.ck.entries, world.ck.ties)
    return Case(old, new, truth, tuple(world.done))


def _fresh_word(draw: st.DrawFn, world: World, around: str) -> str:
    beside = {n[len(around) :].split(".")[0] for n in world.names if n.startswith(around)}
    return draw(st.sampled_from([w for w in (*OTHERS, *PARTS) if w not in beside]))


def _around(module: str) -> str:
    before = module.rpartition(".")[0]
    return f"{before}." if before else ""


def _a_module(draw: st.DrawFn, world: World) -> str:
    named = [m for m in world.modules() if not m.rpartition(".")[2].isdecimal()]
    return draw(st.sampled_from(named))


def rename_module(draw: st.DrawFn, world: World) -> bool:
    module = _a_module(draw, world)
    new = _around(module) + _fresh_word(draw, world, _around(module))
    return world.rename({n: new + n[len(module) :] for n in world.below(module)})


def rename_in_every_block(draw: st.DrawFn, world: World) -> bool:
    lists = world.lists()
    if not lists:
        return False
    around, numbers = draw(st.sampled_from(sorted(lists.items())))
    inside = [m for m in world.modules() if m.startswith(f"{around}.0.")]
    if not inside:
        return False
    rest = draw(st.sampled_from(inside))[len(around) + 3 :]
    if rest.rpartition(".")[2].isdecimal():
        return False
    word = _fresh_word(draw, world, _around(f"{around}.0.{rest}"))
    pairs: dict[str, str] = {}
    for number in numbers:
        module = f"{around}.{number}.{rest}"
        pairs |= {n: _around(module) + word + n[len(module) :] for n in world.below(module)}
    return world.rename(pairs)


def rename_leaf(draw: st.DrawFn, world: World) -> bool:
    old, new = draw(st.sampled_from(LEAVES))
    module = _a_module(draw, world)
    some = [n for n in world.below(module) if n.endswith(f".{old}")]
    return bool(some) and world.rename({n: n[: -len(old)] + new for n in some})


def put_under_prefix(draw: st.DrawFn, world: World) -> bool:
    return world.rename({n: f"backbone.{n}" for n in world.names})


def insert_layer(draw: st.DrawFn, world: World) -> bool:
    lists = world.lists()
    if not lists:
        return False
    around, numbers = draw(st.sampled_from(sorted(lists.items())))
    at = draw(st.integers(0, len(numbers)))
    like = f"{around}.{min(at, len(numbers) - 1)}."
    made = {
        f"{around}.{at}.{n[len(like) :]}": world.specs[n] for n in world.names if n.startswith(like)
    }
    pairs: dict[str, str] = {}
    for number in range(at, len(numbers)):
        head = f"{around}.{number}"
        pairs |= {n: f"{around}.{number + 1}{n[len(head) :]}" for n in world.below(head)}
    if world.layered == "removed":
        return False
    world.layered = "inserted"
    world.shuffle(pairs)
    world.make(made)
    return True


def remove_layer(draw: st.DrawFn, world: World) -> bool:
    lists = {m: n for m, n in world.lists().items() if len(n) > 1}
    if not lists or world.layered == "inserted":
        return False
    world.layered = "removed"
    around, numbers = draw(st.sampled_from(sorted(lists.items())))
    at = draw(st.sampled_from(numbers))
    for name in world.below(f"{around}.{at}"):
        world.ck.drop(name, reason="removed")
    pairs: dict[str, str] = {}
    for number in range(at + 1, len(numbers)):
        head = f"{around}.{number}"
        pairs |= {n: f"{around}.{number - 1}{n[len(head) :]}" for n in world.below(head)}
    return world.shuffle(pairs)


def _inner(module: str, names: list[str]) -> set[str]:
    """The named modules below a module, in every block the same."""
    found = set()
    for name in names:
        parts = name[len(module) + 1 :].split(".")[:-1]
        path = ["#" if part.isdecimal() else part for part in parts]
        found |= {".".join(path[: n + 1]) for n, part in enumerate(path) if part != "#"}
    return found


def drop_module(draw: st.DrawFn, world: World) -> bool:
    module = _a_module(draw, world)
    names = world.below(module)
    inner = _inner(module, names)
    if len(names) == len(world.names) or world.copied:
        return False
    for name in names:
        world.ck.drop(name, reason="removed")
    world.dropped |= len(inner) > 1
    return True


def add_lookalike(draw: st.DrawFn, world: World) -> bool:
    module = _a_module(draw, world)
    names = world.below(module)
    inner = _inner(module, names)
    if world.dropped and len(inner) > 1:
        return False
    around = draw(st.sampled_from(("", _around(module))))
    word = _fresh_word(draw, world, around)
    if world.ever & {around + word + n[len(module) :] for n in names}:
        return False
    world.make({around + word + n[len(module) :]: world.specs[n] for n in names})
    world.copied |= len(inner) > 1
    return True


def rename_beside_lookalike(draw: st.DrawFn, world: World) -> bool:
    """Two new subtrees, of which one is the old one, and nothing tells which."""
    module = _a_module(draw, world)
    names = world.below(module)
    words = [_fresh_word(draw, world, _around(module)) for _ in range(2)]
    new, other = ({n: _around(module) + word + n[len(module) :] for n in names} for word in words)
    made = {name: world.specs[old] for old, name in other.items()}
    if words[0] == words[1] or world.ever & made.keys() or not world.rename(new):
        return False
    world.make(made)
    world.copied = True
    return True


def add_module(draw: st.DrawFn, world: World) -> bool:
    word = _fresh_word(draw, world, "")
    shapes = draw(_modules(word))
    if world.ever & shapes.keys():
        return False
    world.make({n: TensorSpec(DType.F32, s) for n, s in shapes.items()})
    return True


def swap_modules(draw: st.DrawFn, world: World) -> bool:
    one, other = _a_module(draw, world), _a_module(draw, world)
    if one == other or f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}."):
        return False
    pairs = {n: other + n[len(one) :] for n in world.below(one)}
    pairs |= {n: one + n[len(other) :] for n in world.below(other)}
    if any(world.specs.get(new) == world.specs[old] for old, new in pairs.items()):
        return False
    return world.shuffle(pairs)


def split_module(draw: st.DrawFn, world: World) -> bool:
    module = _a_module(draw, world)
    names = world.below(module)
    count = draw(st.sampled_from((2, 4)))
    words = draw(st.permutations(("q", "k", "v", "gate", "up")))[:count]
    flat = all("." not in n[len(module) + 1 :] for n in names)
    if not flat or any(world.specs[n].shape[:1] in ((), (1,)) for n in names):
        return False
    made = {n: [f"{_around(module)}{w}_part{n[len(module) :]}" for w in words] for n in names}
    if world.ever & {t for targets in made.values() for t in targets}:
        return False
    for name, targets in made.items():
        world.ck.split(name, targets)
    return True


def concat_modules(draw: st.DrawFn, world: World) -> bool:
    module = _a_module(draw, world)
    names = world.below(module)
    inner = list(dict.fromkeys(n.rpartition(".")[0] for n in names))
    if len(inner) < 2 or any(_around(m) != f"{module}." for m in inner):
        return False
    leaves = {m: {n.rpartition(".")[2] for n in names if n.startswith(f"{m}.")} for m in inner}
    if len({frozenset(found) for found in leaves.values()}) > 1:
        return False
    order = draw(st.permutations(inner))
    for leaf in sorted(leaves[inner[0]]):
        sources = [f"{m}.{leaf}" for m in order]
        shapes = {world.specs[s].shape[1:] for s in sources}
        if len(shapes) > 1:
            return False
    for leaf in sorted(leaves[inner[0]]):
        world.ck.concat([f"{m}.{leaf}" for m in order], f"{module}.{leaf}")
    return True


def stack_layers(draw: st.DrawFn, world: World) -> bool:
    lists = world.lists()
    if not lists:
        return False
    around, numbers = draw(st.sampled_from(sorted(lists.items())))
    rests = {n[len(around) + 3 :] for n in world.below(f"{around}.0")}
    every = {f"{around}.{k}.{rest}" for k in numbers for rest in rests}
    if every != set(world.below(around)):
        return False
    for rest in sorted(rests):
        if len({world.specs[f"{around}.{k}.{rest}"] for k in numbers}) > 1:
            return False
    for rest in sorted(rests):
        world.ck.stack(f"{around}.{{e:int}}.{rest}", f"{around}.{rest}")
    return True


def resize_entry(draw: st.DrawFn, world: World) -> bool:
    name = draw(st.sampled_from(world.names))
    shape = list(world.specs[name].shape)
    dim = draw(st.integers(0, len(shape) - 1)) if shape else None
    if dim is None:
        return False
    shape[dim] = draw(st.sampled_from((2, 6, 10)))
    world.ck.resize(name, shape)
    return True


def squeeze_entry(draw: st.DrawFn, world: World) -> bool:
    name = draw(st.sampled_from(world.names))
    shape = world.specs[name].shape
    kept = tuple(n for n in shape if n != 1)
    world.ck.reshape(name, kept if kept != shape else (*shape, 1))
    return True


def transpose_entry(draw: st.DrawFn, world: World) -> bool:
    name = draw(st.sampled_from(world.names))
    shape = world.specs[name].shape
    if len(shape) < 2 or shape[0] == shape[1]:  # a square matrix shows nothing
        return False
    world.ck.transpose(name, 0, 1)
    return True


def tie_module(draw: st.DrawFn, world: World) -> bool:
    return _second(draw, world, world.ck.tie)


def copy_module(draw: st.DrawFn, world: World) -> bool:
    return _second(draw, world, world.ck.copy)


def _second(draw: st.DrawFn, world: World, operation: Callable[[str, str], None]) -> bool:
    """A second name, beside the first, for a module with a matrix."""
    module = _a_module(draw, world)
    names = world.below(module)
    word = _around(module) + _fresh_word(draw, world, _around(module))
    pairs = {name: word + name[len(module) :] for name in names}
    flat = all("." not in name[len(module) + 1 :] for name in names)
    matrix = any(world.specs[name].ndim > 1 for name in names)
    if not flat or not matrix or world.ever & set(pairs.values()):
        return False
    for old, new in pairs.items():
        operation(old, new)
    world.ever.update(world.names)
    world.copied = True
    return True


STEPS: tuple[Callable[[st.DrawFn, World], bool], ...] = (
    rename_module,
    rename_module,
    rename_in_every_block,
    rename_leaf,
    put_under_prefix,
    insert_layer,
    remove_layer,
    drop_module,
    add_lookalike,
    rename_beside_lookalike,
    add_module,
    swap_modules,
    split_module,
    concat_modules,
    stack_layers,
    resize_entry,
    squeeze_entry,
    transpose_entry,
    tie_module,
    copy_module,
)
