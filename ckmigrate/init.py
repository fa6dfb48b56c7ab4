"""The initialisers of new tensors, under the names and with the formulas of torch.nn.init.

Kaiming: He et al. 2015; Xavier: Glorot and Bengio 2010. Fans are counted as torch counts them: dim
1 is the input, dim 0 the output, further dimensions multiply both. Random values come from
ckmigrate's own generator: they do not equal torch's, but are the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.scalar import Number, encode_element
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import refuse

__all__ = [
    "Initialiser",
    "eye",
    "full",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

_RANDOM_DTYPES = (DType.F16, DType.BF16, DType.F32, DType.F64)


@dataclass(frozen=True, slots=True)
class Initialiser:
    """A rule for the values of a new tensor. `numbers` are the arguments in their order."""

    kind: str
    numbers: tuple[Number, ...] = ()
    seed: int = 0

    def __str__(self) -> str:
        numbers = (f"{n:g}" if isinstance(n, float) else str(n) for n in self.numbers)
        return f"{self.kind}({', '.join(numbers)})"

    def build(self, spec: TensorSpec, key: str) -> ex.Expr:
        """The expression of a tensor with these values; `key` names its random stream."""
        if self.kind in ("zeros", "ones", "full"):
            value = {"zeros": 0, "ones": 1}.get(self.kind, self.numbers[0] if self.numbers else 0)
            return self._constant(value, spec)
        if spec.dtype not in _RANDOM_DTYPES:
            raise self._refuse(spec, f"Random values can be drawn as {_names()}.")
        kind, numbers = self._distribution(spec)
        if spec.numel == 0:
            return ex.fill(encode_element(0, spec.dtype), spec)
        return ex.Random(kind, numbers, f"{self.seed}/{key}", spec)

    def _constant(self, value: Number, spec: TensorSpec) -> ex.Expr:
        try:
            return ex.fill(encode_element(value, spec.dtype), spec)
        except (ValueError, OverflowError) as error:
            raise self._refuse(spec, f"{error}.") from None

    def _distribution(self, spec: TensorSpec) -> tuple[ex.RandomKind, tuple[float, ...]]:
        numbers = tuple(float(number.real) for number in self.numbers)
        match self.kind:
            case "uniform" | "normal" as kind:
                return kind, numbers
            case "orthogonal":
                self._require_dims(spec, 2)
                return "orthogonal", numbers
            case "eye":
                if spec.ndim != 2:
                    raise self._refuse(spec, "An identity matrix has exactly two dimensions.")
                return "eye", ()
            case "kaiming_uniform" | "kaiming_normal":
                self._require_dims(spec, 2)
                spread = math.sqrt(2.0 / (1.0 + numbers[0] ** 2)) / math.sqrt(_fans(spec)[0] or 1)
            case _:
                self._require_dims(spec, 2)
                spread = numbers[0] * math.sqrt(2.0 / (sum(_fans(spec)) or 1))
        if self.kind.endswith("uniform"):
            bound = math.sqrt(3.0) * spread
            return "uniform", (-bound, bound)
        return "normal", (0.0, spread)

    def _require_dims(self, spec: TensorSpec, least: int) -> None:
        if spec.ndim < least:
            raise self._refuse(spec, f"{self.kind} needs at least {least} dimensions.")

    def _refuse(self, spec: TensorSpec, why: str) -> Exception:
        return refuse(
            "CKM527",
            f"{self} cannot make a tensor {spec}",
            why=why,
            fix="Choose another initialiser, or another dtype or shape.",
        )


def _names() -> str:
    return ", ".join(map(str, _RANDOM_DTYPES))


def _fans(spec: TensorSpec) -> tuple[int, int]:
    receptive = math.prod(spec.shape[2:])
    return spec.shape[1] * receptive, spec.shape[0] * receptive


def zeros() -> Initialiser:
    """All elements 0."""
    return Initialiser("zeros")


def ones() -> Initialiser:
    """All elements 1."""
    return Initialiser("ones")


def full(value: Number) -> Initialiser:
    """All elements equal to `value`."""
    return Initialiser("full", (value,))


def normal(mean: float = 0.0, std: float = 1.0, *, seed: int = 0) -> Initialiser:
    """Normal deviates."""
    return Initialiser("normal", (mean, std), seed)


def uniform(a: float = 0.0, b: float = 1.0, *, seed: int = 0) -> Initialiser:
    """Uniform deviates in [a, b)."""
    return Initialiser("uniform", (a, b), seed)


def kaiming_uniform(a: float = 0.0, *, seed: int = 0) -> Initialiser:
    """Uniform with bound √(6 / ((1 + a²) · fan_in)); a = √5 is what Linear and Conv start with."""
    return Initialiser("kaiming_uniform", (a,), seed)


def kaiming_normal(a: float = 0.0, *, seed: int = 0) -> Initialiser:
    """Normal with deviation √(2 / ((1 + a²) · fan_in))."""
    return Initialiser("kaiming_normal", (a,), seed)


def xavier_uniform(gain: float = 1.0, *, seed: int = 0) -> Initialiser:
    """Uniform with bound gain · √(6 / (fan_in + fan_out))."""
    return Initialiser("xavier_uniform", (gain,), seed)


def xavier_normal(gain: float = 1.0, *, seed: int = 0) -> Initialiser:
    """Normal with deviation gain · √(2 / (fan_in + fan_out))."""
    return Initialiser("xavier_normal", (gain,), seed)


def orthogonal(gain: float = 1.0, *, seed: int = 0) -> Initialiser:
    """A matrix with orthonormal rows or columns times gain; further dimensions are flattened."""
    return Initialiser("orthogonal", (gain,), seed)


def eye() -> Initialiser:
    """The identity matrix."""
    return Initialiser("eye")
