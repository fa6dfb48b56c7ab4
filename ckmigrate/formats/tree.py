"""The inert tree: what a checkpoint holds, as data that nothing can call.

Builtin containers and scalars stand for themselves (dict, list, tuple, set, frozenset, str, bytes,
bytearray, int, float, complex, bool, None). Everything else is one of the classes below. Nodes keep
their identity, so what was shared in the file is still shared when it is written back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ckmigrate.spec import DType, TensorSpec

__all__ = ["Global", "Object", "Storage", "Tensor"]


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the file names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Object:
    """An instance that the file describes, kept as its recipe.

    `factory(*args, **kwargs)`, then `items` (appended), `entries` (set by key) and `state` in this
    order, exactly as the pickle machine would apply them. `new` tells NEWOBJ from REDUCE.
    An OrderedDict is an Object with factory collections.OrderedDict and its content in `entries`.
    """

    factory: Global
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] | None = None
    new: bool = False
    has_state: bool = False
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A block of bytes of the file. Two tensors on one Storage share memory.

    key     unique within the checkpoint (torch: the record's name; safetensors: the tensor's name)
    dtype   the element type of a typed storage; U8 for an untyped one
    nbytes  its size
    device  as saved: "cpu", "cuda:0"
    """

    key: str
    dtype: DType
    nbytes: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A strided view of a Storage.

    offset and strides count elements of spec.dtype. For F4 (two elements in a byte) only contiguous
    tensors exist. `parameter` means an nn.Parameter around it. `conj` and `neg` are torch's lazy
    bits: the values are the conjugate, or the negative, of the bytes. `attributes` is what the file
    keeps of Python attributes set on the tensor (the state of torch's pickle: a dict, or a pair of
    dicts); None when there are none.
    """

    storage: Storage
    spec: TensorSpec
    offset: int = 0
    strides: tuple[int, ...] = ()
    requires_grad: bool = False
    parameter: bool = False
    conj: bool = False
    neg: bool = False
    attributes: object = None
