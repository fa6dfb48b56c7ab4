"""Dtypes, tensor specs and schemas: what a tensor is, without its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

__all__ = ["DType", "Schema", "TensorSpec"]


class DType(Enum):
    """An element type.

    `code` is the name that the safetensors format (0.8) uses where it has one; `torch_name` is the
    attribute of the torch module, None where torch has no such type; `bits` is the width of one
    element. torch packs two F4 elements into one item of `float4_e2m1fn_x2`; a spec counts elements
    as safetensors does, so the last dimension is twice torch's. C128 exists in torch files only.
    """

    BOOL = ("BOOL", "bool", 8, "bool")
    F4 = ("F4", "float4_e2m1fn_x2", 4, "float")
    F6_E2M3 = ("F6_E2M3", None, 6, "float")
    F6_E3M2 = ("F6_E3M2", None, 6, "float")
    U8 = ("U8", "uint8", 8, "int")
    I8 = ("I8", "int8", 8, "int")
    F8_E5M2 = ("F8_E5M2", "float8_e5m2", 8, "float")
    F8_E4M3 = ("F8_E4M3", "float8_e4m3fn", 8, "float")
    F8_E8M0 = ("F8_E8M0", "float8_e8m0fnu", 8, "float")
    F8_E4M3FNUZ = ("F8_E4M3FNUZ", "float8_e4m3fnuz", 8, "float")
    F8_E5M2FNUZ = ("F8_E5M2FNUZ", "float8_e5m2fnuz", 8, "float")
    I16 = ("I16", "int16", 16, "int")
    U16 = ("U16", "uint16", 16, "int")
    F16 = ("F16", "float16", 16, "float")
    BF16 = ("BF16", "bfloat16", 16, "float")
    I32 = ("I32", "int32", 32, "int")
    U32 = ("U32", "uint32", 32, "int")
    F32 = ("F32", "float32", 32, "float")
    C64 = ("C64", "complex64", 64, "complex")
    F64 = ("F64", "float64", 64, "float")
    I64 = ("I64", "int64", 64, "int")
    U64 = ("U64", "uint64", 64, "int")
    C128 = ("C128", "complex128", 128, "complex")

    def __init__(self, code: str, torch_name: str | None, bits: int, kind: str) -> None:
        self.code = code
        self.torch_name = torch_name
        self.bits = bits
        self.kind = kind

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read "F32", "float32", "torch.float32" or a `torch.dtype`; ValueError if unknown."""
        name = str(text).removeprefix("torch.")
        for member in cls:
            if name in (member.code, member.torch_name):
                return member
        raise ValueError(f"unknown dtype {name!r}")

    def __str__(self) -> str:
        return self.torch_name or self.code.lower()

    # A member is equal to itself only. Enum hashes the name, in Python, for every spec in a dict.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of one tensor; sizes count elements."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbits(self) -> int:
        return self.numel * self.dtype.bits

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, rounded up where the elements are narrower than a byte."""
        return (self.nbits + 7) // 8

    def __str__(self) -> str:
        return f"{self.dtype} [{','.join(map(str, self.shape))}]"


class Schema(Mapping[str, TensorSpec]):
    """An immutable, ordered mapping of tensor names to specs.

    Equality ignores the order; iteration keeps it.
    """

    __slots__ = ("_specs",)

    def __init__(self, specs: Mapping[str, TensorSpec] | Iterable[tuple[str, TensorSpec]]) -> None:
        self._specs: dict[str, TensorSpec] = dict(specs)

    def __getitem__(self, name: str) -> TensorSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self._specs == other._specs

    def __hash__(self) -> int:
        return hash(frozenset(self._specs.items()))

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.values())

    def __repr__(self) -> str:
        return f"Schema({len(self)} tensors, {self.nbytes} bytes)"
