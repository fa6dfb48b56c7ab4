"""Tensors as rebuild functions describe them: views that fit, and kinds that are refused."""

from __future__ import annotations

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.formats.pickle_tree import dumps, loads
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType, TensorSpec
from tests.torch_files import torch_pickle

HERE = f"{__name__}.*"


def storages(claim: object) -> object:
    return Storage("0", DType.F32, 64) if isinstance(claim, tuple) else None


def rebuilt(function: str, *args: object, storage: Storage) -> object:
    """What the reader makes of torch._utils.FUNCTION(storage, *args)."""
    call = Object(Global("torch._utils", function), (storage, *args))
    data = dumps(call, storage_key=lambda s: s.key)
    return loads(data, persistent=lambda claim: storage)


HOOKS = Object(Global("collections", "OrderedDict"))
F32 = Storage("0", DType.F32, 64)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (17,), (1,)),
        (1, (16,), (1,)),
        (0, (4, 4), (5, 1)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (1,), (-1,)),
        (True, (1,), (1,)),
        (0, (True,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, "ab", (1, 1)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (2**63,), (0,)),
        (2**63, (0,), (1,)),
        (0, (1,) * 65, (1,) * 65),
    ],
)
def test_a_view_that_its_storage_does_not_hold_is_refused(
    offset: object, size: object, stride: object
) -> None:
    with pytest.raises(StorageError) as caught:
        rebuilt("_rebuild_tensor_v2", offset, size, stride, False, HOOKS, storage=F32)
    assert caught.value.code == "CKM710"


def test_views_at_the_edge_are_accepted() -> None:
    for offset, size, stride in [
        (15, (1,), (9,)),
        (99, (0,), (1,)),
        (0, (4, 4), (4, 1)),
        (3, (), ()),
    ]:
        leaf = rebuilt("_rebuild_tensor_v2", offset, size, stride, False, HOOKS, storage=F32)
        assert isinstance(leaf, Tensor)
        assert (leaf.spec, leaf.offset) == (TensorSpec(DType.F32, size), offset)


@pytest.mark.parametrize(
    "args",
    [
        (0, (1,), (1,), False, Object(HOOKS.factory, entries={1: 2})),
        (0, (1,), (1,), False, HOOKS, {"backend": True}),
        (0, (1,), (1,), False, [HOOKS]),
    ],
)
def test_hooks_and_strange_metadata_are_refused_by_kind(args: tuple[object, ...]) -> None:
    with pytest.raises(StorageError) as caught:
        rebuilt("_rebuild_tensor_v2", *args, storage=F32)
    assert caught.value.code == "CKM713"


def test_float4_is_counted_in_elements_and_must_be_contiguous() -> None:
    packed, f4 = Storage("0", DType.U8, 12), Global("torch", "float4_e2m1fn_x2")
    leaf = rebuilt("_rebuild_tensor_v3", 4, (2, 4), (4, 1), False, HOOKS, f4, storage=packed)
    assert isinstance(leaf, Tensor)
    assert (leaf.spec, leaf.offset, leaf.strides) == (TensorSpec(DType.F4, (2, 8)), 8, (8, 1))
    with pytest.raises(StorageError, match="contiguous"):
        rebuilt("_rebuild_tensor_v3", 0, (4, 2), (1, 4), False, HOOKS, f4, storage=packed)
    other = Global("torch", "complex32")
    with pytest.raises(StorageError, match="complex32"):
        rebuilt("_rebuild_tensor_v3", 0, (1,), (1,), False, HOOKS, other, storage=packed)


def test_subclasses_of_tensor_are_refused_by_name() -> None:
    class Sub(torch.Tensor):
        pass

    Sub.__module__, Sub.__qualname__ = __name__, "SubTensor"
    globals()["SubTensor"] = Sub
    data = torch_pickle({"w": torch.ones(1).as_subclass(Sub)}, 2)
    with pytest.raises(StorageError, match="SubTensor") as caught:
        loads(data, persistent=storages, carry=[HERE])
    assert caught.value.code == "CKM713"
