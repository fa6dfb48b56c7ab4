"""Which class a storage is written under: a typed one where every tensor on it has the same dtype.

torch gives a storage the type under which it is named first, so two types for one storage would
change the tensors of the second; those share an untyped storage and bring their dtypes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ckmigrate.formats.pickle_globals import STORAGES
from ckmigrate.formats.pickle_limits import FLAT, content
from ckmigrate.formats.tree import Global, Storage, Tensor
from ckmigrate.spec import DType

__all__ = ["storage_type", "typed_storages"]

_UNTYPED: Final = Global("torch.storage", "UntypedStorage")
_STORAGE_TYPES: Final[Mapping[DType, Global]] = {
    dtype: name
    for name, dtype in STORAGES.items()
    if name.module == "torch" and not name.name.endswith("UntypedStorage")
}


def storage_type(dtype: DType | None) -> Global:
    """The class of a storage of this dtype; of an untyped one for None."""
    return _UNTYPED if dtype is None else _STORAGE_TYPES[dtype]


def typed_storages(tree: object) -> dict[str, DType]:
    """The dtype of each storage, by key, that is used with one dtype which has a typed storage."""
    uses: dict[str, set[DType | None]] = {}
    for node in _distinct(tree):
        if isinstance(node, Tensor):
            uses.setdefault(node.storage.key, set()).add(_typed(node.storage, node.spec.dtype))
        elif isinstance(node, Storage):
            bare = None if node.dtype is DType.U8 else _typed(node, node.dtype)
            uses.setdefault(node.key, set()).add(bare)
    one = {key: next(iter(dtypes)) for key, dtypes in uses.items() if len(dtypes) == 1}
    return {key: dtype for key, dtype in one.items() if dtype is not None}


def _typed(storage: Storage, dtype: DType) -> DType | None:
    fits = dtype in _STORAGE_TYPES and storage.nbytes % (dtype.bits // 8) == 0
    return dtype if fits else None


def _distinct(tree: object) -> Iterator[object]:
    """Every node that is no leaf of Python's once, by identity, in no particular order."""
    seen = {id(tree)}
    queue = [tree]
    while queue:
        node = queue.pop()
        yield node
        for part in content(node):
            if type(part) not in FLAT and id(part) not in seen:
                seen.add(id(part))
                queue.append(part)
