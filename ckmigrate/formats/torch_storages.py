"""The persistent ids of torch files: which storage a tensor lies on, and how large it claims to be.

("storage", torch.FloatStorage, key, location, numel)           in a zip
("storage", torch.FloatStorage, key, location, numel, view)     in a file before torch 1.6
                                where view is None or (view key, offset, numel)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ckmigrate.formats.pickle_globals import STORAGES, BadPickle
from ckmigrate.formats.pickle_tensors import StorageView
from ckmigrate.formats.tree import Global, Storage
from ckmigrate.spec import DType

__all__ = ["StorageTable"]

_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one persistent id says."""

    dtype: DType
    key: str
    location: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.bits // 8


class StorageTable:
    """The storages that the persistent ids of one file name, one node for each.

    storages  by key, in the order in which the file names them
    prefix    what the keys of its storages begin with, where the file is one of several
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.storages: dict[str, Storage] = {}
        self._empty: dict[tuple[str, DType], Storage] = {}

    def load_record(self, claim: object, sizes: Mapping[str, int]) -> object:
        """The Storage of an id in a zip, whose records have these `sizes` in bytes; BadPickle for
        one that has no record, or a record of another size."""
        match claim:
            case ("storage", Global() as kind, str(key), str(location), int(numel)):
                found = _Claim(_dtype(kind), key, location, numel)
                if key not in sizes:
                    raise BadPickle(f"the file has no record of storage {key!r:.60}")
                if found.nbytes != sizes[key]:
                    why = f"its record has {sizes[key]}"
                    raise BadPickle(f"storage {key!r} should have {found.nbytes} bytes", why=why)
                return self._storage(found)
        raise BadPickle("a persistent id is not that of a storage")

    def load_legacy(self, claim: object) -> object:
        """What an id of an old file stands for: a Storage, a StorageView, or the class of a module
        that was saved with its source."""
        match claim:
            case ("module", Global() as kind, _, _):
                return kind
            case ("storage", Global() as kind, str(key), str(location), int(numel), view):
                return _viewed(self._storage(_Claim(_dtype(kind), key, location, numel)), view)
        raise BadPickle("a persistent id is not that of a storage")

    def _storage(self, claim: _Claim) -> Storage:
        """One storage has one dtype: torch takes the first it meets, whatever a later id says. An
        empty one has none that matters, and torch saves all empty ones under one key."""
        if isinstance(claim.numel, bool) or not 0 <= claim.nbytes <= _LARGEST:
            raise BadPickle(f"storage {claim.key!r:.60} has an impossible size")
        made = Storage(self.prefix + claim.key, claim.dtype, claim.nbytes, claim.location)
        first = self.storages.setdefault(claim.key, made)
        if (first.nbytes, first.device) != (made.nbytes, made.device):
            raise BadPickle(f"storage {claim.key!r} is named with two sizes or places")
        if first.dtype is made.dtype:
            return first
        if made.nbytes:
            raise BadPickle(f"storage {claim.key!r} is named with two types")
        return self._empty.setdefault((claim.key, claim.dtype), made)


def _viewed(storage: Storage, view: object) -> object:
    match view:
        case None:
            return storage
        case (str(), int(offset), int(numel)):
            available = storage.nbytes * 8 // storage.dtype.bits
            if min(offset, numel) >= 0 and offset + numel <= available:
                return StorageView(storage, offset, numel)
    raise BadPickle(f"a view of storage {storage.key!r} lies outside of it")


def _dtype(kind: Global) -> DType:
    dtype = STORAGES.get(kind)
    if dtype is None:
        raise BadPickle(f"a storage of type {kind} is not supported", code="CKM713")
    return dtype
