"""The random values of initialisers: the same on every machine, thread count and library version.

A counter-based generator: element i of a stream is a hash of (key, i), by the finaliser of
SplitMix64 (Steele, Lea, Flood 2014) applied twice under two keys. Only operations that IEEE 754
defines to the last bit are used afterwards (+ − × ÷ √, and scaling by powers of two); logarithms
are summed here rather than taken from a C library, whose last bit differs between machines. Normal
deviates are the inverse of the distribution function by Wichura's algorithm AS 241 (1988).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ckmigrate.expr import Random
from ckmigrate.spec import DType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["draw"]

_BLOCK = 1 << 18
"""Elements drawn at a time, so that memory does not grow with the tensor's working values."""

_A = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_E = (
    6.65790464350110377720e0,
    5.46378491116411436990e0,
    1.78482653991729133580e0,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_F = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)
_LN2 = 0.6931471805599453


def draw(expr: Random) -> bytes:
    """Little-endian row-major bytes of the values, rounded to nearest even into the dtype."""
    import numpy as np

    shape, dtype = expr.spec.shape, expr.spec.dtype
    if expr.kind == "eye":
        return _encode(np.eye(shape[0], shape[1]), dtype)
    if expr.kind == "orthogonal":
        return _encode(_orthogonal(expr) * expr.numbers[0], dtype)
    pieces = []
    for start in range(0, expr.spec.numel, _BLOCK):
        bits = _bits(expr.key, start, min(_BLOCK, expr.spec.numel - start))
        first, second = expr.numbers
        if expr.kind == "uniform":
            value = first + (second - first) * _unit(bits)
        else:
            value = first + second * _normal(bits)
        pieces.append(_encode(value, dtype))
    return b"".join(pieces)


def _bits(key: str, start: int, count: int) -> Array:
    import numpy as np

    digest = hashlib.sha256(key.encode()).digest()
    one, two = (np.uint64(int.from_bytes(digest[i : i + 8], "little")) for i in (0, 8))
    counter = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed: Array = _mix(_mix(one + counter * np.uint64(0x9E3779B97F4A7C15)) ^ two)
    return mixed


def _mix(z: Array) -> Array:
    import numpy as np

    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = z ^ (z >> np.uint64(31))
    return mixed


def _unit(bits: Array) -> Array:
    """Doubles in [0, 1), multiples of 2⁻⁵³."""
    import numpy as np

    value: Array = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return value


def _normal(bits: Array) -> Array:
    import numpy as np

    unit = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    q = unit - 0.5
    centre = 0.180625 - q * q
    tail = np.sqrt(-_log(np.where(q < 0, unit, 1.0 - unit)))
    near, far = tail - 1.6, tail - 5.0
    outer = np.where(
        tail <= 5.0, _poly(_C, near) / _poly(_D, near), _poly(_E, far) / _poly(_F, far)
    )
    middle = q * _poly(_A, centre) / _poly(_B, centre)
    value: Array = np.where(np.abs(q) <= 0.425, middle, np.where(q < 0, -outer, outer))
    return value


def _poly(coefficients: tuple[float, ...], x: Array) -> Array:
    total = x * 0.0 + coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _log(x: Array) -> Array:
    """Natural logarithm of positive doubles by the series of the inverse hyperbolic tangent."""
    import numpy as np

    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = np.where(low, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    total = np.zeros_like(s)
    for odd in range(27, 0, -2):
        total = total * square + 1.0 / odd
    value: Array = 2.0 * s * total + exponent * _LN2
    return value


def _orthogonal(expr: Random) -> Array:
    """Rows or columns, whichever are fewer, made orthonormal by Gram-Schmidt, done twice."""
    import numpy as np

    rows = expr.spec.shape[0]
    columns = expr.spec.numel // rows
    few, many = min(rows, columns), max(rows, columns)
    basis = _normal(_bits(expr.key, 0, few * many)).reshape(few, many)
    for i in range(few):
        row = basis[i]
        for _ in range(2):
            weights = _sum(basis[:i] * row, 1)
            row = row - _sum(weights[:, None] * basis[:i], 0)
        basis[i] = row / np.sqrt(_sum(row * row, 0))
    return basis if rows <= columns else basis.T


def _sum(values: Array, axis: int) -> Array:
    """Sum by halving: one fixed order of additions, whatever the vector width of the machine."""
    import numpy as np

    values = np.moveaxis(values, axis, 0)
    if len(values) == 0:
        return np.zeros(values.shape[1:])
    while len(values) > 1:
        half = len(values) // 2
        odd = values[2 * half :]
        values = np.concatenate([values[:half] + values[half : 2 * half], odd])
    total: Array = values[0]
    return total


def _encode(value: Array, dtype: DType) -> bytes:
    import numpy as np

    with np.errstate(over="ignore"):  # beyond the dtype's largest number lies infinity
        return _rounded(value, dtype)


def _rounded(value: Array, dtype: DType) -> bytes:
    import numpy as np

    if dtype is DType.BF16:
        bits = value.astype("<f4").view("<u4").astype(np.uint64)
        rounded = (
            bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))
        ) >> np.uint64(16)
        return rounded.astype("<u2").tobytes()
    width = {DType.F16: "<f2", DType.F32: "<f4", DType.F64: "<f8"}[dtype]
    return value.astype(width).tobytes()
