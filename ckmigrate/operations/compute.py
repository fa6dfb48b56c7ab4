"""Any torch function from entries to entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr, Moments
from ckmigrate.names import substitute
from ckmigrate.operations.init import parse_dtype
from ckmigrate.operations.matching import groups
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check, Irreversible, Schemas, Step, refuse

__all__ = ["Compute", "compute"]

Function = Callable[..., object]
SpecLike = tuple[object, Sequence[int]]
Specs = Sequence[SpecLike] | Callable[..., Sequence[SpecLike]]


@dataclass(frozen=True, slots=True, eq=False)
class Compute:
    """`function` on real tensors gives tensors of the given specs; called at execution only.

    key      names the stream of the random numbers that it may draw
    moments  what it means for an optimizer's moments, as `Call` has it
    """

    function: Function
    outputs: tuple[TensorSpec, ...]
    back: Function | None
    label: str
    key: str = ""
    moments: Moments = None

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return ex.call(self.function, inputs, self.outputs, self.label, self.key, self.moments)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        if self.back is None:
            raise Irreversible(f"{self.label} of '{step.sources[0]}' has no inverse=")
        label = f"inverse of {self.label}"
        # A function that takes moments forward says nothing about the way back.
        moments = None if callable(self.moments) else self.moments
        kernel = Compute(self.back, inputs, self.function, label, self.key, moments)
        return step.back(kernel)

    def describe(self) -> str:
        return self.label


def compute(
    specs: Schemas,
    inputs: str | Sequence[str],
    outputs: str | Sequence[str],
    function: Function,
    *,
    inverse: Function | None,
    declared: Specs | None,
    moments: Moments = None,
    optional: bool,
) -> tuple[Step, ...]:
    """For every complete group of inputs: the outputs replace them."""
    _require_moments(moments)
    sources = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    targets = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    label = f"compute {getattr(function, '__name__', 'function')}"
    steps = []
    for group in groups(sources, specs, optional=optional):
        known = tuple(specs[name] for name in group.names)
        names = tuple(substitute(target, group.captures) for target in targets)
        found = (
            _infer(function, group.names, known, label)
            if declared is None
            else _declared(declared, known)
        )
        if len(found) != len(names):
            raise refuse(
                "CKM526",
                f"{label} gives {len(found)} tensors for {len(names)} outputs",
                why=f"The outputs are {', '.join(names)}.",
                fix="Return one tensor per output, in their order.",
            )
        kernel = Compute(function, found, inverse, label, "\n".join(names), moments)
        steps.append(Step(group.names, names, kernel))
    return tuple(steps)


def _require_moments(moments: object) -> None:
    if moments in (None, "same", "reset") or callable(moments):
        return
    raise refuse(
        "CKM532",
        f"moments={moments!r} is not known",
        why="It says what becomes of an optimizer's moments of the inputs.",
        fix='Give moments="same" (they stay as they are), moments="reset" (they begin anew), or a '
        "function of the name of the moment and its tensors.",
    )


def _declared(declared: Specs, known: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    found = declared(*known) if callable(declared) else declared
    try:
        return tuple(TensorSpec(parse_dtype(dtype), tuple(shape)) for dtype, shape in found)
    except (TypeError, ValueError):
        raise refuse(
            "CKM532",
            f"specs={found!r} does not say what the outputs are",
            why="It takes one (dtype, shape) per output.",
            fix='Give specs=[("float32", (64, 64))], or a function of the input specs.',
        ) from None


def _infer(
    function: Function, names: tuple[str, ...], known: tuple[TensorSpec, ...], label: str
) -> tuple[TensorSpec, ...]:
    """Run the function on meta tensors: shapes and dtypes without values."""
    import torch

    def hollow(spec: TensorSpec) -> torch.Tensor:
        dtype = getattr(torch, spec.dtype.torch_name or "", None)
        if spec.dtype.bits < 8 or not isinstance(dtype, torch.dtype):
            raise refuse(
                "CKM543",
                f"torch cannot compute with {spec.dtype}",
                why="Only copies and moves of this dtype are possible.",
                fix="Leave the tensor out of the computation.",
            )
        return torch.empty(spec.shape, dtype=dtype, device="meta")

    tensors = [hollow(spec) for spec in known]
    try:
        answer = function(*tensors)
        values = [answer] if isinstance(answer, torch.Tensor) else list(answer)  # type: ignore[call-overload]
        return tuple(TensorSpec(DType.parse(v.dtype), tuple(v.shape)) for v in values)
    except Exception as error:
        shown = ", ".join(f"'{n}' {s}" for n, s in zip(names, known, strict=True))
        raise refuse(
            "CKM526",
            f"cannot tell what {label} makes of {shown}",
            why=f"On shapes alone it raised {type(error).__name__}: {error}",
            fix="Correct the function, or declare specs=[(dtype, shape), …] where its output "
            "cannot be inferred without values.",
        ) from error
