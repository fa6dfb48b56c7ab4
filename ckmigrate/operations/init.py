"""New entries: constants and random initialisers."""

from __future__ import annotations

from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr
from ckmigrate.init import Initialiser
from ckmigrate.names import compile_pattern, substitute
from ckmigrate.operations.matching import select
from ckmigrate.operations.rearrange import ShapeLike, resolve_shape
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check, Irreversible, Schemas, Step, refuse

__all__ = ["Drop", "Init", "drop", "init"]


@dataclass(frozen=True, slots=True)
class Init:
    """A tensor that depends on no other: the expression of a constant or of random values."""

    value: Expr
    text: str

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (self.value,)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Drop(f"added by {self.text}"))

    def describe(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Drop:
    """The entry goes. `restore` is the constant that it is checked to hold; `twin` tells that the
    step's second source, which stays, is checked to be equal."""

    reason: str
    restore: Expr | None = None
    twin: bool = False

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return inputs[1:]

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        other = inputs[1] if self.twin else self.restore
        if other is None or other == inputs[0]:
            return ()
        return (Check(inputs[0], other, "the dropped entry holds what expect= says"),)

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        from ckmigrate.operations.copy import Duplicate

        if self.twin:
            return Step(step.targets, (step.targets[0], step.sources[0]), Duplicate(2, tied=False))
        if self.restore is not None:
            return step.back(Init(self.restore, "the constant that expect= named"))
        raise Irreversible(f"'{step.sources[0]}' is dropped ({self.reason})")

    def describe(self) -> str:
        return self.reason


def init(
    specs: Schemas,
    pattern: str,
    *,
    shape: ShapeLike | None,
    like: str | None,
    value: Initialiser,
    dtype: object,
    if_missing: bool,
    key: str,
) -> tuple[Step, ...]:
    """New entries with a given shape, or one per match of `like`; `key` seeds random values."""
    if not isinstance(value, Initialiser):
        raise refuse(
            "CKM532",
            f"value={value!r} is not an initialiser",
            why="A new entry needs a rule for its values.",
            fix="Give init.zeros(), init.ones(), init.full(1e-5), init.kaiming_uniform(), …",
        )
    wanted = _wanted(specs, pattern, shape, like, dtype)
    return tuple(
        Step((), (name,), Init(value.build(spec, f"{key}/{name}"), f"init {value}"))
        for name, spec in wanted
        if not (if_missing and name in specs)
    )


def _wanted(
    specs: Schemas, pattern: str, shape: ShapeLike | None, like: str | None, dtype: object
) -> list[tuple[str, TensorSpec]]:
    chosen = None if dtype is None else parse_dtype(dtype)
    if like is None:
        if shape is None or callable(shape) or not compile_pattern(pattern).is_literal:
            raise refuse(
                "CKM532",
                f"init of '{pattern}' has no shape",
                why="Without like= the name must be one name, and shape= its sizes.",
                fix='Give shape=(64,), or like="encoder.blocks.{i}.norm.weight".',
            )
        sizes = _whole(pattern, resolve_shape(pattern, {}, shape))
        return [(pattern, TensorSpec(chosen or DType.F32, sizes))]
    found = []
    for match in select(like, specs):
        spec = specs[match.name]
        sizes = spec.shape if shape is None else resolve_shape(match.name, specs, shape)
        name = substitute(pattern, match.captures)
        found.append((name, TensorSpec(chosen or spec.dtype, _whole(name, sizes))))
    return found


def _whole(name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    if any(size < 0 for size in sizes):
        raise refuse(
            "CKM524",
            f"'{name}' cannot be made with shape [{','.join(map(str, sizes))}]",
            why="A new tensor has no size that -1 could stand for.",
            fix="Give every size as 0 or more.",
        )
    return sizes


def parse_dtype(dtype: object) -> DType:
    """A dtype by any of its names; MigrationError CKM527."""
    try:
        return dtype if isinstance(dtype, DType) else DType.parse(dtype)
    except ValueError:
        raise refuse(
            "CKM527",
            f"dtype {dtype!r} is not known",
            why="It is none of: " + ", ".join(str(member) for member in DType) + ".",
            fix='Give for example "float32", "bfloat16" or torch.float16.',
        ) from None


def drop(
    specs: Schemas, pattern: str, *, reason: str, expect: object, optional: bool
) -> tuple[Step, ...]:
    """Remove every match; `expect`, a number or another entry's name, is checked on the bytes."""
    if not isinstance(reason, str) or not reason.strip():
        raise refuse(
            "CKM532",
            f"drop of '{pattern}' has no reason",
            why="Whoever misses the tensor in a year will look for it here.",
            fix='Give reason="auxiliary loss removed".',
        )
    matches = select(pattern, specs, optional=optional)
    if isinstance(expect, str):
        return tuple(
            _drop_twin(specs, m.name, substitute(expect, m.captures), reason) for m in matches
        )
    return tuple(
        Step((m.name,), (), Drop(reason, _constant(m.name, specs[m.name], expect))) for m in matches
    )


def _drop_twin(specs: Schemas, name: str, other: str, reason: str) -> Step:
    if other not in specs or other == name or specs[other] != specs[name]:
        found = str(specs[other]) if other in specs else "not there"
        raise refuse(
            "CKM523",
            f"'{name}' is expected to equal '{other}'",
            why=f"'{name}' is {specs[name]}, '{other}' is {found}.",
            fix="Name another entry of the same shape and dtype in expect=.",
        )
    return Step((name, other), (other,), Drop(reason, twin=True))


def _constant(name: str, spec: TensorSpec, expect: object) -> Expr | None:
    from ckmigrate.scalar import encode_element

    if expect is None:
        return None
    if isinstance(expect, (bool, int, float, complex)):
        try:
            return ex.fill(encode_element(expect, spec.dtype), spec)
        except (ValueError, OverflowError):
            pass
    raise _bad_expectation(name, spec, expect)


def _bad_expectation(name: str, spec: TensorSpec, expect: object) -> MigrationError:
    return refuse(
        "CKM527",
        f"'{name}' cannot be compared with {expect!r}",
        why=f"It is {spec}; expect= takes a number of that dtype, or the name of another entry.",
        fix="Give expect=0, or expect='the.other.entry'.",
    )
