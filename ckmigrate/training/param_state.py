"""The state of one new parameter, field by field, from that of the parameters it was made of.

A field is a moment (of the shape of its parameter, zeros at first), a copy of the weight (master
weights, averages), or a number of its own (`step`), which every piece of a parameter keeps. What is
none of these, such as sums over rows and columns or blocks of eight bits, means something for the
whole tensor only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Call, Expr, Source
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of, with_entries
from ckmigrate.scalar import Number, encode_element
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check
from ckmigrate.training.carried import Labels
from ckmigrate.training.follow import State, follow
from ckmigrate.training.moments import Moments, reached
from ckmigrate.training.optimizer_form import Fields, Key, Optimizer
from ckmigrate.training.state_fields import (
    COUNTS,
    EAGER,
    FIRST_COUNT,
    FIRST_SETTING,
    VALUES,
    At,
    is_number,
)

__all__ = ["NewState", "OldParameter", "StateMaker"]


@dataclass(frozen=True, slots=True)
class OldParameter:
    """A parameter as the optimizer has it: its key, the number of its group, its weight."""

    key: Key
    group: int
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class NewState:
    """The state of every new parameter that has any.

    fields    by key: values, and labels in the places of tensors
    entries   the expression of each new tensor by its label
    followed  keys of those whose state comes from the old one
    """

    fields: dict[Key, dict[object, object]] = field(default_factory=dict)
    entries: dict[str, Expr] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    followed: set[Key] = field(default_factory=set)

    def kinds(self) -> dict[str, int]:
        """How many parameters have the same fields, by these."""
        found: dict[str, int] = {}
        for key in self.followed:
            names = ", ".join(map(str, self.fields[key]))
            found[names] = found.get(names, 0) + 1
        return found


@dataclass(frozen=True, slots=True)
class StateMaker:
    """Makes the state of an optimizer's new parameters.

    old      its old parameters by name
    place    script and line of a call, for errors
    whole    fields that mean something for a whole tensor only
    tensors  the old tensors that were used, by label
    used     names of the old parameters whose state was used
    """

    optimizer: Optimizer
    old: Mapping[str, OldParameter]
    labels: Labels
    place: Callable[[Call], str | None]
    whole: Collection[object] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _moments: dict[tuple[object, Number], Moments] = field(default_factory=dict)

    def state_of(self, wanted: Mapping[Key, tuple[int, Expr]]) -> NewState:
        """The state of new parameters, by key with the group and the expression of each.

        MigrationError: CKM570 a state that means the whole tensor only, and parts of it are
        wanted; CKM578 numbers that differ in parameters that become one; CKM562, CKM564 and CKM568
        as `Moments`; CKM564 as `follow`.
        """
        state = NewState()
        if any("func_evals" in fields for fields in self.optimizer.state.values()):
            self._require_unchanged(wanted)
        for key, (group, expr) in wanted.items():
            self._make(state, key, group, expr)
        return state

    def _make(self, state: NewState, key: Key, group: int, expr: Expr) -> None:
        stateful = [name for name in dict.fromkeys(reached(expr)) if self._fields(name)]
        self.used.update(stateful)
        if not stateful:
            self._make_fresh(state, key, group, expr)
            return
        state.followed.add(key)
        whole = [name for name in stateful if not self._is_elementwise(name)]
        if not whole:
            names = dict.fromkeys(f for name in stateful for f in self._fields(name))
            state.fields[key] = {
                name: self._field(state, key, group, name, expr, stateful) for name in names
            }
        elif isinstance(expr, Source):
            source = self.old[expr.name].key
            state.fields[key] = {
                name: self._copied(state, part, (source, name), (key, name))
                for name, part in self._fields(expr.name).items()
            }
        else:
            raise self._indivisible(whole[0])

    # -- fields that follow ---------------------------------------------------------------

    def _field(
        self,
        state: NewState,
        key: Key,
        group: int,
        name: object,
        expr: Expr,
        stateful: Sequence[str],
    ) -> object:
        parts = {old: self._fields(old).get(name) for old in stateful}
        found = {old: part for old, part in parts.items() if part is not None}
        if not found:
            return None
        if not all(self._is_moment(old, name) for old in found):
            return self._count(state, key, name, found)
        made = self._value(name, expr) if name in VALUES else self._moment(name, group)(expr)
        return None if made is None else self._entry(state, (key, name), made)

    def _moment(self, name: object, group: int) -> Moments:
        fresh = self._fresh(name, group)
        if (name, fresh) not in self._moments:
            self._moments[name, fresh] = Moments(
                lambda old: self._source(old, name),
                str(name),
                fresh,
                lambda old: old in self.old,
                self.place,
            )
        return self._moments[name, fresh]

    def _value(self, name: object, expr: Expr) -> Expr | None:
        """A copy of a weight; what has none yet is its own."""

        def find(old: str) -> Source | None:
            weights = (node for node in ex.walk(expr) if isinstance(node, Source))
            own = next(node for node in weights if node.name == old)
            return self._source(old, name) or own

        return follow(expr, State(find))

    def _source(self, old: str, name: object) -> Source | None:
        part = self._fields(old).get(name)
        if not isinstance(part, Tensor) or not self._is_moment(old, name):
            return None
        return self._label(part, (self.old[old].key, name))

    def _count(
        self, state: NewState, key: Key, name: object, found: Mapping[str, object]
    ) -> object:
        """A number of a whole parameter: the same in all that it is made of."""
        (first, one), *others = found.items()
        if not isinstance(one, Tensor):
            for other, part in others:
                if isinstance(part, Tensor) or part != one:
                    raise _differ(name, first, other, f"{one!r} and {part!r}"[:80])
            return one
        source = self._label(one, (self.old[first].key, name))
        for other, part in others:
            if not isinstance(part, Tensor) or part.spec != one.spec:
                raise _differ(name, first, other, "a tensor and something else")
            claim = f"'{first}' and '{other}' become one parameter and have one {name}"
            state.checks.append(
                Check(source, self._label(part, (self.old[other].key, name)), claim)
            )
        return self._entry(state, (key, name), source)

    def _copied(self, state: NewState, part: object, old: Path, new: Path) -> object:
        """The same values, in tensors of their own."""
        if isinstance(part, Tensor):
            return self._entry(state, new, self._label(part, old))
        entries = entries_of(part)
        if entries is not None:
            inner = {k: self._copied(state, p, (*old, k), (*new, k)) for k, p in entries.items()}
            return with_entries(part, inner)
        if isinstance(part, list | tuple):
            listed = [self._copied(state, p, (*old, k), (*new, k)) for k, p in enumerate(part)]
            return tuple(listed) if isinstance(part, tuple) else listed
        return part

    # -- fields that are new --------------------------------------------------------------

    def _make_fresh(self, state: NewState, key: Key, group: int, expr: Expr) -> None:
        """None: optimizers make it at the first step. But Adagrad makes it at once, and what
        `get_optimizer_state_dict` has given must be complete."""
        like = self._example(group)
        if like is None or (self.optimizer.form == "indexed" and set(self._fields(like)) != EAGER):
            return
        state.fields[key] = {
            name: self._first(state, (key, name), group, expr, like) for name in self._fields(like)
        }

    def _first(
        self, state: NewState, at: tuple[Key, object], group: int, expr: Expr, like: str
    ) -> object:
        name, part = at[1], self._fields(like)[at[1]]
        if not isinstance(part, Tensor):
            return part if part is None or isinstance(part, bool) else self._first_count(at, group)
        if not self._is_moment(like, name):
            element = encode_element(self._first_count(at, group), part.spec.dtype)
            return self._entry(state, at, ex.fill(element, part.spec))
        same = part.spec.dtype == self.old[like].spec.dtype
        dtype = expr.spec.dtype if same else part.spec.dtype
        if name in VALUES:
            return self._entry(state, at, ex.cast(expr, dtype))
        element = encode_element(self._fresh(name, group), dtype)
        return self._entry(state, at, ex.fill(element, TensorSpec(dtype, expr.spec.shape)))

    def _first_count(self, at: tuple[Key, object], group: int) -> Number:
        value = FIRST_COUNT.get(at[1])
        found = self._setting(value, group) if isinstance(value, str) else value
        if found is None:
            raise self._unknown_first(at[1])
        return found

    def _example(self, group: int) -> str | None:
        """An old parameter whose state shows what a new one needs; of the same group first."""
        names = [n for n in self.old if self._fields(n) and self._is_elementwise(n)]
        near = [n for n in names if self.old[n].group == group]
        return next(iter((*near, *names)), None)

    def _fresh(self, name: object, group: int) -> Number:
        setting = FIRST_SETTING.get(str(name))
        if setting is None:
            return 0
        found = self._setting(setting, group)
        if found is None:
            raise self._unknown_first(name)
        return found

    def _setting(self, name: str, group: int) -> Number | None:
        found = self.optimizer.groups[group].settings.get(name)
        return found if isinstance(found, int | float) else None

    # -- what the file has ----------------------------------------------------------------

    def _fields(self, name: str) -> Fields:
        one = self.old.get(name)
        return {} if one is None else self.optimizer.state.get(one.key, {})

    def _is_moment(self, old: str, name: object) -> bool:
        part = self._fields(old).get(name)
        same = isinstance(part, Tensor) and part.spec.shape == self.old[old].spec.shape
        return same and name not in COUNTS

    def _is_elementwise(self, old: str) -> bool:
        return all(self._is_plain(old, name, part) for name, part in self._fields(old).items())

    def _is_plain(self, old: str, name: object, part: object) -> bool:
        if not isinstance(part, Tensor):
            return part is None or isinstance(part, bool | int | float | str)
        elementwise = self._is_moment(old, name) and is_number(part.spec)
        return part.spec.ndim == 0 or (elementwise and name not in self.whole)

    def _label(self, part: Tensor, at: Path) -> Source:
        label = self.labels.of(self._path(at))
        self.tensors[label] = part
        return Source(label, part.spec)

    def _entry(self, state: NewState, at: Path, expr: Expr) -> At:
        label = self.labels.of(self._path(at))
        state.entries[label] = expr
        return At(label)

    def _path(self, at: Path) -> Path:
        key, name, *rest = at
        assert isinstance(key, int | str)
        return (*self.optimizer.field_path(key, name), *rest)

    # -- refusals -------------------------------------------------------------------------

    def _require_unchanged(self, wanted: Mapping[Key, tuple[int, Expr]]) -> None:
        """LBFGS keeps one history of all parameters in a row."""
        names = {one.key: name for name, one in self.old.items()}
        same = list(names) == list(wanted) and all(
            isinstance(expr, Source) and expr.name == names[key]
            for key, (_, expr) in wanted.items()
        )
        if not same:
            raise self._indivisible(next(iter(self.old)))

    def _indivisible(self, name: str) -> MigrationError:
        fields = self._fields(name)
        odd = [str(f) for f, part in fields.items() if not self._is_plain(name, f, part)]
        return MigrationError(
            "CKM570",
            f"the optimizer's state of '{name}' cannot be taken apart",
            where=self.optimizer.where,
            details=tuple(f"{each} has other elements than its parameter" for each in odd[:4]),
            why="It was summed or packed over the whole tensor (or over all parameters), so that "
            "no part of it belongs to a part of the weight. It follows renames only.",
            fix="Leave the state out: --optimizer drop. Training then begins with a fresh one.",
        )

    def _unknown_first(self, name: object) -> MigrationError:
        return MigrationError(
            "CKM570",
            f"what '{name}' of a new parameter begins with is not known",
            where=self.optimizer.where,
            why="This form of optimizer state is complete, so that a new parameter needs its own.",
            fix="Leave the state out: --optimizer drop. Training then begins with a fresh one.",
        )


def _differ(name: object, one: str, other: str, values: str) -> MigrationError:
    return MigrationError(
        "CKM578",
        f"'{one}' and '{other}' become one parameter and differ in '{name}'",
        why=f"They have {values}; the moments of both would be weighted by one of them.",
        fix="Leave the state out: --optimizer drop. Training then begins with a fresh optimizer.",
    )
