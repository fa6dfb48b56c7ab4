"""Tensors from the arguments of torch's rebuild functions, checked; nothing is called.

    _rebuild_tensor(storage, offset, size, stride)
    _rebuild_tensor_v2(… requires_grad, hooks[, metadata])
    _rebuild_tensor_v3(… requires_grad, hooks, dtype[, metadata])
    _rebuild_parameter(tensor, requires_grad, hooks)
    _rebuild_parameter_with_state(tensor, requires_grad, hooks, state)
    _rebuild_from_type_v2(function, type, arguments, state)

torch trusts these numbers: a size that the storage does not hold reads memory of somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType, TensorSpec

__all__ = ["StorageView", "contiguous_strides", "rebuild"]

_LARGEST: Final = 2**63 - 1
_MOST_DIMENSIONS: Final = 64
_ORDERED_DICT: Final = Global("collections", "OrderedDict")
_SIZE: Final = Global("torch", "Size")
_PLAIN_TYPES: Final = frozenset(
    {
        Global("torch", "Tensor"),
        Global("torch._tensor", "Tensor"),
        Global("torch.nn.parameter", "Buffer"),
    }
)
_PARAMETER: Final = Global("torch.nn.parameter", "Parameter")
_DTYPES: Final[Mapping[object, DType]] = {
    Global("torch", dtype.torch_name): dtype for dtype in DType if dtype.torch_name
}


@dataclass(frozen=True, slots=True, eq=False)
class StorageView:
    """A part of a storage, as files of torch 0.4 and before name it; in elements of its dtype."""

    storage: Storage
    offset: int
    numel: int


def rebuild(function: Global, args: tuple[object, ...]) -> Tensor:
    """The tensor that `function(*args)` would build.

    Raises BadPickle CKM710 for arguments that are no tensor, CKM713 for a kind that the tree does
    not hold (a subclass, hooks, a dtype of its own).
    """
    build, counts = _BUILDERS[function.name]
    if len(args) not in counts:
        raise BadPickle(f"{function} has {len(args)} arguments")
    return build(args)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major tensor, in elements, as torch gives them."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _v1(args: tuple[object, ...]) -> Tensor:
    return _view(args[0], args[1], args[2], args[3], dtype=None)


def _v2(args: tuple[object, ...]) -> Tensor:
    plain = _v1(args)
    _check_hooks(args[5])
    return _with_bits(plain, args[4], args[6] if len(args) > 6 else None)


def _v3(args: tuple[object, ...]) -> Tensor:
    _check_hooks(args[5])
    dtype = _DTYPES.get(args[6]) if isinstance(args[6], Global) else None
    if dtype is None:
        raise _kind(f"dtype {args[6]}" if isinstance(args[6], Global) else "a dtype of no name")
    plain = _view(args[0], args[1], args[2], args[3], dtype=dtype)
    return _with_bits(plain, args[4], args[7] if len(args) > 7 else None)


def _parameter(args: tuple[object, ...]) -> Tensor:
    if not isinstance(args[0], Tensor):
        raise BadPickle("a parameter is not made of a tensor")
    _check_hooks(args[2])
    state = _attributes(args[3]) if len(args) > 3 else args[0].attributes
    requires_grad = _flag(args[1], "requires_grad")
    return replace(args[0], requires_grad=requires_grad, parameter=True, attributes=state)


def _from_type(args: tuple[object, ...]) -> Tensor:
    function, kind, inner, state = args
    if not isinstance(function, Global) or function.name not in _UNTYPED:
        raise _kind("a tensor built by a function of its own")
    if kind not in _PLAIN_TYPES and kind != _PARAMETER:
        raise _kind(f"a tensor of class {kind}" if isinstance(kind, Global) else "a tensor class")
    if not isinstance(inner, tuple):
        raise BadPickle("the arguments of a tensor are not a tuple")
    plain = rebuild(function, inner)
    is_parameter = plain.parameter or kind == _PARAMETER
    return replace(plain, parameter=is_parameter, attributes=_attributes(state))


_Builder = Callable[[tuple[object, ...]], Tensor]
_UNTYPED: Final[Mapping[str, tuple[_Builder, tuple[int, ...]]]] = {
    "_rebuild_tensor": (_v1, (4,)),
    "_rebuild_tensor_v2": (_v2, (6, 7)),
    "_rebuild_tensor_v3": (_v3, (7, 8)),
    "_rebuild_parameter": (_parameter, (3,)),
    "_rebuild_parameter_with_state": (_parameter, (4,)),
}
_BUILDERS: Final[Mapping[str, tuple[_Builder, tuple[int, ...]]]] = {
    **_UNTYPED,
    "_rebuild_from_type": (_from_type, (4,)),
    "_rebuild_from_type_v2": (_from_type, (4,)),
}


def _view(
    source: object, offset: object, size: object, stride: object, *, dtype: DType | None
) -> Tensor:
    storage, start, available = _window(source)
    kind = dtype or storage.dtype
    shape, strides = _sizes(size, "size"), _sizes(stride, "stride")
    if type(offset) is not int or not 0 <= offset <= _LARGEST:
        raise BadPickle("the storage offset of a tensor is no count")
    if len(shape) != len(strides):
        raise BadPickle(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    width = max(kind.bits // 8, 1)
    if math.prod(shape) * width > _LARGEST:
        raise BadPickle(f"a tensor of shape {list(shape)} has more bytes than there are")
    _check_bounds(shape, strides, offset, available // width)
    if start * storage.dtype.bits // 8 % width:
        raise BadPickle("a view of a storage begins inside an element")
    offset += start * storage.dtype.bits // 8 // width
    if kind is DType.F4:
        return _packed(storage, offset, shape, strides)
    return Tensor(storage, TensorSpec(kind, shape), offset, strides)


def _window(source: object) -> tuple[Storage, int, int]:
    """Storage, first element, and the bytes that may be read from there."""
    if isinstance(source, Storage):
        return source, 0, source.nbytes
    if isinstance(source, StorageView):
        return source.storage, source.offset, source.numel * source.storage.dtype.bits // 8
    raise BadPickle("a tensor is not made of a storage")


def _sizes(value: object, name: str) -> tuple[int, ...]:
    if isinstance(value, Object) and value.factory == _SIZE and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > _MOST_DIMENSIONS:
        raise BadPickle(f"the {name} of a tensor is no short tuple")
    if not all(type(number) is int and 0 <= number <= _LARGEST for number in value):
        raise BadPickle(f"the {name} of a tensor has something else than counts in it")
    return tuple(value)


def _check_bounds(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, available: int
) -> None:
    """An empty tensor reads nothing, so any offset will do; torch sees it the same way."""
    if 0 in shape:
        return
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if last >= available:
        raise BadPickle(
            f"a tensor reaches to element {last} of a storage that has {available}",
            why="torch would read memory that does not belong to the file",
        )


def _packed(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    """torch counts bytes, with two elements in each; the tree counts elements."""
    moved = any(
        size > 1 and step != plain
        for size, step, plain in zip(shape, strides, contiguous_strides(shape), strict=True)
    )
    if not shape or (moved and 0 not in shape):
        raise _kind("a float4_e2m1fn_x2 tensor that is a scalar or not contiguous")
    wide = (*shape[:-1], shape[-1] * 2)
    return Tensor(storage, TensorSpec(DType.F4, wide), offset * 2, contiguous_strides(wide))


def _with_bits(plain: Tensor, requires_grad: object, metadata: object) -> Tensor:
    grad = _flag(requires_grad, "requires_grad")
    if metadata is None:
        return replace(plain, requires_grad=grad)
    if not isinstance(metadata, dict) or not metadata.keys() <= {"conj", "neg"}:
        raise _kind("a tensor with metadata of its backend")
    conj, neg = (_flag(metadata.get(bit, False), bit) for bit in ("conj", "neg"))
    if conj and plain.spec.dtype.kind != "complex":
        raise BadPickle(f"a {plain.spec.dtype} tensor claims to be conjugated")
    return replace(plain, requires_grad=grad, conj=conj, neg=neg)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise BadPickle(f"{name} of a tensor is neither true nor false")
    return value


def _check_hooks(value: object) -> None:
    empty = value is None or (isinstance(value, dict) and not value)
    if isinstance(value, Object) and value.factory == _ORDERED_DICT:
        empty = not (value.args or value.entries or value.items or value.has_state)
    if not empty:
        raise _kind("a tensor with backward hooks")


def _attributes(state: object) -> object:
    """The state that torch saved beside the tensor; None when it says nothing."""
    parts = state if isinstance(state, tuple) else (state,)
    if not all(part is None or isinstance(part, dict) for part in parts) or len(parts) > 2:
        raise _kind("a tensor with a state of its own")
    return state if any(parts) else None


def _kind(name: str) -> BadPickle:
    return BadPickle(f"{name} is not supported", code="CKM713")
