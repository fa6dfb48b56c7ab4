"""The inert tree as a pickle of protocol 2: the same tree always gives the same bytes.

What is one node in the tree is one object for whoever loads the file, and a container may hold
itself. The opcodes are those that `torch.load(weights_only=True)` knows, as far as what is in the
tree can be said with them; only classes inside classes and keyword arguments need protocol 4.

A tensor is written with the function that torch itself would use: `_rebuild_tensor_v2` on a typed
storage, or `_rebuild_tensor_v3` on an untyped one where the dtype has no typed storage, or where
one storage is looked at through several dtypes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from ckmigrate.formats.pickle_emitter import Emitter, unwritable
from ckmigrate.formats.pickle_storages import storage_type, typed_storages
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType

__all__ = ["dumps"]

_DEEPEST: Final = 1000
_DEEPEST_SET: Final = 4
_SET: Final = Global("builtins", "set")
_FROZENSET: Final = Global("builtins", "frozenset")

_DONE: Final = object()

Children = Iterator[object]


def dumps(tree: object, *, storage_key: Callable[[Storage], str]) -> bytes:
    """The pickle of a tree.

    storage_key  gives the name under which a storage's bytes are saved; it is asked once for each
                 Storage, in the order in which they appear

    Raises StorageError CKM718 for a tree that cannot be written: nested too deeply, a class inside
    itself by its own arguments, or a node that is not inert.
    """
    return _Writer(storage_key, typed_storages(tree)).run(tree)


class _Writer(Emitter):
    """The methods that write containers are iterators over the nodes to be written in between; the
    loop in `run` drives them, so depth costs no recursion."""

    def __init__(
        self, storage_key: Callable[[Storage], str], typed: Mapping[str, DType], level: int = 0
    ) -> None:
        super().__init__()
        self.storage_key, self.typed, self.level = storage_key, typed, level
        self.keys: dict[str, tuple[str, int]] = {}

    def run(self, tree: object) -> bytes:
        pending: list[Children] = [iter((tree,))]
        while pending:
            node = next(pending[-1], _DONE)
            if node is _DONE:
                pending.pop()
                continue
            deeper = self.start(node)
            if deeper is not None:
                pending.append(deeper)
            if len(pending) > _DEEPEST:
                raise unwritable("it is nested too deeply, or an object is an argument of itself")
        return self.finished()

    def start(self, node: object) -> Children | None:
        """Write a leaf, or what was written before; of a container, the steps that write it."""
        if isinstance(node, str | bytes | Global):
            self.shared(node)
        elif id(node) in self.memo:
            self.get(self.memo[id(node)])
        elif type(node) in _CONTAINERS:
            return _CONTAINERS[type(node)](self, node)
        else:
            self.leaf(node)
        return None

    def leaf(self, node: object) -> None:
        if node is None or isinstance(node, bool):
            self.out += b"N" if node is None else b"\x88" if node else b"\x89"
        elif type(node) is int:
            self.integer(node)
        elif type(node) is float:
            self.out += b"G" + struct.pack(">d", node)
        elif type(node) is complex:
            self.name(Global("builtins", "complex"))
            self.out += b"G" + struct.pack(">d", node.real) + b"G" + struct.pack(">d", node.imag)
            self.out += b"\x86R"
        elif isinstance(node, Storage):
            self.storage(node, self.typed.get(node.key))
            self.put(id(node))
        elif type(node) is bytearray:
            self.name(Global("builtins", "bytearray"))
            self.shared(bytes(node))
            self.out += b"\x85R"
            self.put(id(node))
        else:
            raise unwritable(f"a value of type {type(node).__name__} is not inert")

    # --- containers -------------------------------------------------------------------------

    def write_list(self, node: list[object]) -> Children:
        self.out += b"]"
        self.put(id(node))
        yield from self.write_items(node)

    def write_items(self, items: Iterable[object]) -> Children:
        if items:
            self.out += b"("
            yield from items
            self.out += b"e"

    def write_dict(self, node: dict[object, object]) -> Children:
        self.out += b"}"
        self.put(id(node))
        yield from self.write_entries(node)

    def write_entries(self, entries: Mapping[object, object]) -> Children:
        if entries:
            self.out += b"("
            for key, value in entries.items():
                yield key
                yield value
            self.out += b"u"

    def write_tuple(self, node: tuple[object, ...]) -> Children:
        if not node:
            self.out += b")"
            return
        self.out += b"("
        yield from node
        if id(node) in self.memo:  # one of its items led back to it and wrote it
            self.out += b"1"
            self.get(self.memo[id(node)])
        else:
            self.out += b"t"
            self.put(id(node))

    def write_set(self, node: set[object] | frozenset[object]) -> Children:
        self.name(_SET if isinstance(node, set) else _FROZENSET)
        self.out += b"]"
        yield from self.write_items(sorted(node, key=self.spelling))
        self.out += b"\x85R"
        self.put(id(node))

    def spelling(self, node: object) -> bytes:
        """An order for the members of a set that does not depend on hashes and addresses."""
        if self.level >= _DEEPEST_SET:
            raise unwritable("sets of objects of sets are nested too deeply")
        return _Writer(_no_storage, {}, self.level + 1).run(node)

    def write_object(self, node: Object) -> Children:
        yield node.factory
        yield node.args
        if node.kwargs:
            self.protocol = 4
            yield node.kwargs
        if id(node) in self.memo:  # its arguments led back to it and wrote it
            self.out += b"000" if node.kwargs else b"00"
            self.get(self.memo[id(node)])
            return
        self.out += b"\x92" if node.kwargs else b"\x81" if node.new else b"R"
        self.put(id(node))
        yield from self.write_items(node.items)
        yield from self.write_entries(node.entries)
        if node.has_state:
            yield node.state
            self.out += b"b"

    # --- tensors ----------------------------------------------------------------------------

    def write_tensor(self, node: Tensor) -> Children:
        stateful = node.attributes is not None
        if node.parameter:
            suffix = "_with_state" if stateful else ""
            self.name(Global("torch._utils", f"_rebuild_parameter{suffix}"))
            self.out += b"("
            self.plain(node, grad=False)
            self.out += b"\x88" if node.requires_grad else b"\x89"
            self.hooks()
        elif stateful:
            self.name(Global("torch._tensor", "_rebuild_from_type_v2"))
            self.out += b"("
            self.name(self.rebuilder(node))
            self.name(Global("torch", "Tensor"))
            self.arguments(node, grad=node.requires_grad)
        else:
            self.plain(node, grad=node.requires_grad)
        if stateful:
            yield node.attributes
        if node.parameter or stateful:
            self.out += b"tR"
        self.put(id(node))

    def plain(self, node: Tensor, *, grad: bool) -> None:
        self.name(self.rebuilder(node))
        self.arguments(node, grad=grad)
        self.out += b"R"

    def rebuilder(self, node: Tensor) -> Global:
        version = "v2" if node.storage.key in self.typed else "v3"
        return Global("torch._utils", f"_rebuild_tensor_{version}")

    def arguments(self, node: Tensor, *, grad: bool) -> None:
        typed = self.typed.get(node.storage.key)
        offset, shape, strides = _as_torch_counts(node)
        self.out += b"("
        self.storage(node.storage, typed)
        self.integer(offset)
        self.counts(shape)
        self.counts(strides)
        self.out += b"\x88" if grad else b"\x89"
        self.hooks()
        if typed is None:
            self.name(Global("torch", str(node.spec.dtype)))
        if node.conj or node.neg:
            self.out += b"}"
            for bit in (bit for bit in ("conj", "neg") if getattr(node, bit)):
                self.shared(bit)
                self.out += b"\x88s"
        self.out += b"t"

    def storage(self, node: Storage, typed: DType | None) -> None:
        if node.key not in self.keys:
            self.keys[node.key] = self.storage_key(node), node.nbytes
        name, nbytes = self.keys[node.key]
        if nbytes != node.nbytes:
            raise unwritable(f"storage {node.key!r} has two sizes, {nbytes} and {node.nbytes}")
        self.out += b"("
        self.shared("storage")
        self.name(storage_type(typed))
        self.shared(name)
        self.shared(node.device)
        self.integer(node.nbytes // (1 if typed is None else typed.bits // 8))
        self.out += b"tQ"


def _as_torch_counts(node: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Offset, sizes and strides; torch counts the bytes of F4, which hold two elements each."""
    if node.spec.dtype.torch_name is None:
        raise unwritable(f"torch has no dtype for {node.spec.dtype}")
    if node.spec.dtype is not DType.F4:
        return node.offset, node.spec.shape, node.strides
    shape = (*node.spec.shape[:-1], node.spec.shape[-1] // 2)
    return node.offset // 2, shape, contiguous_strides(shape)


def _no_storage(storage: Storage) -> str:
    raise unwritable("a set holds a tensor")


_CONTAINERS: Final[Mapping[type, Callable[[_Writer, Any], Children]]] = {
    list: _Writer.write_list,
    dict: _Writer.write_dict,
    tuple: _Writer.write_tuple,
    set: _Writer.write_set,
    frozenset: _Writer.write_set,
    Object: _Writer.write_object,
    Tensor: _Writer.write_tensor,
}
