"""Which classes and functions a pickle may name, as data. Nothing here imports what it lists.

A pickle runs code through the names in it. The reader runs nothing: a name either has a meaning
that the reader knows (tensors, sets, bytes), or stands in the tree as an inert `Global`. The lists
say which names are harmless when the tree is written back and somebody unpickles that.

    BUILTINS     evaluated by the reader itself: set, frozenset, complex, bytes, bytearray
    REBUILDERS   functions that build tensors; they become `Tensor` leaves
    FACTORIES    plain data classes; what they make becomes an `Object`
    VALUES       may be named, never called: dtypes, types as data
    UNSUPPORTED  kinds of tensors that the tree cannot hold
    FORBIDDEN    what runs code whatever its arguments are; cannot even be carried
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

from ckmigrate.formats.tree import Global
from ckmigrate.spec import DType

__all__ = ["STORAGES", "BadPickle", "Role", "canonical", "role_of", "unsupported"]

Role = Literal["builtin", "tensor", "factory", "value", "unsupported", "forbidden", "unknown"]


class BadPickle(Exception):  # noqa: N818
    """What is wrong with a pickle; the reader adds the place."""

    def __init__(self, what: str, *, code: str = "CKM710", why: str | None = None) -> None:
        super().__init__(what)
        self.code, self.what, self.why = code, what, why


def _globals(table: Mapping[str, str]) -> frozenset[Global]:
    return frozenset(Global(m, name) for m, names in table.items() for name in names.split())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STORAGE_NAMES: Final = {
    "DoubleStorage": DType.F64,
    "FloatStorage": DType.F32,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "LongStorage": DType.I64,
    "IntStorage": DType.I32,
    "ShortStorage": DType.I16,
    "CharStorage": DType.I8,
    "ByteStorage": DType.U8,
    "BoolStorage": DType.BOOL,
    "ComplexDoubleStorage": DType.C128,
    "ComplexFloatStorage": DType.C64,
    "UntypedStorage": DType.U8,
    "_UntypedStorage": DType.U8,
}

STORAGES: Final[Mapping[Global, DType]] = {
    Global(module, name): dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in _STORAGE_NAMES.items()
}

_BUILTINS: Final = _globals(
    {"builtins": "set frozenset complex bytes bytearray", "_codecs": "encode"}
)

_REBUILDERS: Final = _globals(
    {
        "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter"
        " _rebuild_parameter_with_state",
        "torch._tensor": "_rebuild_from_type _rebuild_from_type_v2",
        "torch.tensor": "_rebuild_from_type _rebuild_from_type_v2",
    }
)

_PATHS: Final = "Path PurePath PosixPath WindowsPath PurePosixPath PureWindowsPath"
_ARRAYS: Final = "scalar _reconstruct"
_DTYPE_CLASSES: Final = (
    "BoolDType Int8DType UInt8DType Int16DType UInt16DType Int32DType UInt32DType Int64DType"
    " UInt64DType ByteDType UByteDType ShortDType UShortDType IntDType UIntDType LongDType"
    " ULongDType LongLongDType ULongLongDType Float16DType Float32DType Float64DType"
    " LongDoubleDType Complex64DType Complex128DType CLongDoubleDType ObjectDType BytesDType"
    " StrDType VoidDType DateTime64DType TimeDelta64DType StringDType"
)

_FACTORIES: Final = _globals(
    {
        "argparse": "Namespace",
        "builtins": "range slice",
        "collections": "OrderedDict defaultdict Counter deque",
        "copyreg": "_reconstructor",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "ipaddress": "IPv4Address IPv6Address",
        "lightning.fabric.utilities.data": "AttributeDict",
        "lightning.pytorch.utilities.parsing": "AttributeDict",
        "lightning_fabric.utilities.data": "AttributeDict",
        "numpy": "dtype ndarray",
        "numpy._core.multiarray": _ARRAYS,
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.multiarray": _ARRAYS,
        "numpy.core.numeric": "_frombuffer",
        "numpy.dtypes": _DTYPE_CLASSES,
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "pytorch_lightning.utilities.parsing": "AttributeDict",
        "torch": "Size device",
        "torch.serialization": "_get_layout",
        "types": "SimpleNamespace",
        "uuid": "UUID SafeUUID",
    }
)

_VALUES: Final = (
    _globals(
        {
            "builtins": "Ellipsis NotImplemented bool dict float int list object str tuple",
            "numpy": "bool bool_ bytes_ complex64 complex128 float16 float32 float64 int8 int16"
            " int32 int64 str_ uint8 uint16 uint32 uint64",
            "numpy.random._mt19937": "MT19937",
            "numpy.random._pcg64": "PCG64 PCG64DXSM",
            "numpy.random._philox": "Philox",
            "numpy.random._sfc64": "SFC64",
            "torch": "Tensor preserve_format contiguous_format channels_last channels_last_3d"
            " per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric"
            " per_channel_affine_float_qparams strided sparse_coo complex32 bits8 bits16 bits1x8"
            " bits2x4 bits4x2 qint8 qint32 quint8 quint4x2 quint2x4",
            "torch._tensor": "Tensor",
            "torch.nn.parameter": "Parameter Buffer",
            "torch.storage": "TypedStorage _TypedStorage",
        }
    )
    | frozenset(Global("torch", dtype.torch_name) for dtype in DType if dtype.torch_name)
    | frozenset(
        Global("torch", f"{kind}{bits}") for kind in ("int", "uint") for bits in range(1, 8)
    )
    | frozenset(STORAGES)
)

_UNSUPPORTED: Final[Mapping[str, str]] = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device, as numpy array",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch._utils._rebuild_xla_tensor": "an XLA tensor",
    "torch._utils._rebuild_mlc_tensor": "an MLC tensor",
    "torch._utils._rebuild_wrapper_subclass": "a wrapper subclass of Tensor",
    "torch.storage._load_from_bytes": "a tensor written by pickle instead of torch.save",
    "torch.distributed.tensor.DTensor": "a distributed tensor",
    "torch.distributed.tensor.api.DTensor": "a distributed tensor",
    "torch.distributed._tensor.api.DTensor": "a distributed tensor",
    "torch.distributed._tensor.DTensor": "a distributed tensor",
    "torch.distributed._shard.sharded_tensor.api.ShardedTensor": "a sharded tensor",
    "torch.nested._internal.nested_tensor._rebuild_njt": "a nested tensor",
    "torch.nested._internal.nested_tensor.NestedTensor": "a nested tensor",
    "torch.QInt8Storage": "a quantised tensor",
    "torch.QInt32Storage": "a quantised tensor",
    "torch.QUInt8Storage": "a quantised tensor",
    "torch.QUInt4x2Storage": "a quantised tensor",
    "torch.QUInt2x4Storage": "a quantised tensor",
}
_OLD_TENSOR: Final = re.compile(r"torch(\.cuda|\.sparse)?\.\w+Tensor")

_FORBIDDEN_MODULES: Final = _words(
    "os posix nt sys subprocess importlib imp pkgutil runpy pty shutil socket ctypes _ctypes cffi"
    " code codeop pdb bdb timeit trace cProfile profile pickle _pickle cPickle dill cloudpickle"
    " joblib shelve marshal pip setuptools distutils commands popen2 webbrowser multiprocessing"
    " _posixsubprocess asyncio signal io _io nturl2path platform operator _operator inspect gc"
    " zipimport venv ensurepip pydoc doctest unittest pytest numpy.f2py numpy.testing"
    " numpy.distutils torch.hub torch.jit torch.utils.cpp_extension torch.package torch._C"
    " torch._dynamo torch._inductor torch.fx torch.distributed.rpc _frozen_importlib"
    " _frozen_importlib_external"
)
_FORBIDDEN_NAMES: Final = _words(
    "types.FunctionType types.LambdaType types.CodeType types.MethodType torch.load torch.save"
    " torch.compile torch.serialization.load torch.serialization._load torch.classes torch.ops"
    " numpy.load numpy.save numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap"
    " logging.config.listen logging.FileHandler tempfile.mkdtemp pathlib.os"
    " copyreg.add_extension copyreg.pickle copyreg.constructor copyreg.__newobj__"
    " copyreg.__newobj_ex__"
)

_OLD_NAMES: Final[Mapping[str, str]] = {"xrange": "range", "long": "int", "unicode": "str"}
_OLD_MODULES: Final[Mapping[str, str]] = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MOST_KNOWN: Final = 1024
"""Names: a file has a few dozens of them, thousands of times."""
_LONGEST: Final = 4096
"""Characters of a module or of a name; no file may fill the memory with names that are kept."""
_DOTTED: Final = re.compile(r"[\w-]+(\.[\w-]+)*")


@lru_cache(maxsize=_MOST_KNOWN)
def canonical(module: str, name: str) -> Global:
    """The name as Python 3 spells it; BadPickle when it is no dotted name at all.

    A line break in a name would become a second name when the pickle is written again.
    """
    is_short = max(len(module), len(name)) <= _LONGEST
    if not (is_short and _DOTTED.fullmatch(module) and _DOTTED.fullmatch(name)):
        raise BadPickle(f"{module!r:.60} {name!r:.60} is not the name of a class")
    module = _OLD_MODULES.get(module, module)
    return Global(module, _OLD_NAMES.get(name, name) if module == "builtins" else name)


@lru_cache(maxsize=_MOST_KNOWN)
def role_of(name: Global, carry: tuple[str, ...]) -> Role:
    """What the reader does with a name; a carried name is a factory."""
    if name in _BUILTINS:
        return "builtin"
    if name in _REBUILDERS:
        return "tensor"
    if name in _FACTORIES:
        return "factory"
    if name in _VALUES:
        return "value"
    if unsupported(name) is not None:
        return "unsupported"
    if _is_forbidden(name):
        return "forbidden"
    return "factory" if _is_carried(name, carry) else "unknown"


def unsupported(name: Global) -> str | None:
    """The kind of tensor that the name stands for, when the tree cannot hold it."""
    kind = _UNSUPPORTED.get(str(name))
    if kind is None and _OLD_TENSOR.fullmatch(str(name)) and name.name != "Tensor":
        return "a tensor in the way of torch 0.3 and before"
    return kind


def _is_forbidden(name: Global) -> bool:
    """Also what a dotted name would reach through an innocent module, `mypkg.utils` `os.system`."""
    steps = name.name.split(".")
    return (
        name.module == "builtins"
        or str(name) in _FORBIDDEN_NAMES
        or any(module in _FORBIDDEN_MODULES for module in _prefixes(str(name)))
        or (len(steps) > 1 and not _FORBIDDEN_MODULES.isdisjoint(steps))
        or "builtins" in steps
        or any(step.startswith("__") and step.endswith("__") for step in steps)
    )


def _prefixes(dotted: str) -> Iterable[str]:
    parts = dotted.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _is_carried(name: Global, carry: Sequence[str]) -> bool:
    """`pkg.mod.*` covers what stands at the top of the module and its submodules; a name inside a
    class must be written out, since a dotted name can lead anywhere."""
    return str(name) in carry or (
        "." not in name.name
        and any(line.endswith(".*") and f"{name.module}.".startswith(line[:-1]) for line in carry)
    )
