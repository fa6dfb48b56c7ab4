"""What ck["name"] gives: shapes and views as in numpy, and never a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Source
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.symbolic import SymbolicTensor, concat, stack
from tests.scripted import values_of

SHAPE = (4, 3, 2)
DATA = np.arange(24, dtype="<f4").reshape(SHAPE)


def tensor(*shape: int, name: str = "x") -> SymbolicTensor:
    return SymbolicTensor(Source(name, TensorSpec(DType.F32, shape)), name)


def values(made: SymbolicTensor) -> np.ndarray[Any, Any]:
    found = values_of(made.expr, {"x": DATA.tobytes()})
    return np.frombuffer(found, "<f4").reshape(made.shape)


def subscripts() -> st.SearchStrategy[Any]:
    step = st.sampled_from([None, 1, 2, 3])
    edge = st.none() | st.integers(-6, 6)
    one = st.builds(slice, edge, edge, step) | st.integers(-2, 1)
    some = st.lists(one, max_size=3).map(tuple)
    return some | st.tuples(some, some).map(lambda p: (*p[0], ..., *p[1])).filter(
        lambda key: len(key) <= 4
    )


@given(subscripts())
@settings(max_examples=300, deadline=None)
def test_subscripts_select_what_numpy_selects(key: Any) -> None:
    assert (values(tensor(*SHAPE)[key]) == DATA[key]).all()
    assert tensor(*SHAPE)[key].shape == DATA[key].shape


def test_methods_do_what_numpy_does() -> None:
    x = tensor(*SHAPE)
    pairs = [
        (x.reshape(2, -1), DATA.reshape(2, -1)),
        (x.reshape((6, 4)), DATA.reshape(6, 4)),
        (x.reshape([24]), DATA.reshape(24)),
        (x.flatten(), DATA.reshape(24)),
        (x.flatten(1), DATA.reshape(4, 6)),
        (x.flatten(0, -2), DATA.reshape(12, 2)),
        (x.permute(2, 0, 1), DATA.transpose(2, 0, 1)),
        (x.permute((-1, 0, 1)), DATA.transpose(2, 0, 1)),
        (x.transpose(0, -1), DATA.swapaxes(0, -1)),
        (x.unsqueeze(-1), DATA[..., None]),
        (x.unsqueeze(1).squeeze(1), DATA),
        (x[0], DATA[0]),
        (x[-1, ..., 0], DATA[-1, ..., 0]),
        (concat([x[2:], x[:2]]), np.concatenate([DATA[2:], DATA[:2]])),
        (concat([x, x], dim=-1), np.concatenate([DATA, DATA], -1)),
        (stack([x, x], dim=-1), np.stack([DATA, DATA], -1)),
    ]
    for made, expected in pairs:
        assert made.shape == expected.shape
        assert (values(made) == expected).all()


def test_a_scalar_can_be_flattened_and_unsqueezed() -> None:
    assert tensor().flatten().shape == (1,)
    assert tensor().unsqueeze(0).shape == (1,)
    assert tensor()[...].shape == ()


def test_its_spec_can_be_read() -> None:
    x = tensor(2, 3)
    assert (x.shape, x.ndim, x.numel, x.dtype) == ((2, 3), 2, 6, DType.F32)
    assert x.cast("torch.bfloat16").dtype is DType.BF16


@pytest.mark.parametrize(
    "use",
    [
        lambda x: bool(x),
        lambda x: float(x),
        lambda x: int(x),
        lambda x: x == 0,
        lambda x: x != x,
        lambda x: x < 1,
        lambda x: x >= 1,
        lambda x: [y for y in [1, 2] if y == x],
    ],
)
def test_there_are_no_values_to_branch_on(use: Any) -> None:
    with pytest.raises(MigrationError) as caught:
        use(tensor(2))
    assert caught.value.code == "CKM533"
    assert "'x'" in caught.value.what
    assert "compute()" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("use", "code"),
    [
        (lambda x: x.reshape(5), "CKM524"),
        (lambda x: x.reshape(-1, -1), "CKM524"),
        (lambda x: x.reshape(2.0, 12), "CKM524"),
        (lambda x: x.reshape("a", 24), "CKM524"),
        (lambda x: x.reshape(-24), "CKM524"),
        (lambda x: x.permute(0, 0, 1), "CKM524"),
        (lambda x: x.permute(0, 1), "CKM524"),
        (lambda x: x.transpose(0, 3), "CKM524"),
        (lambda x: x.squeeze(0), "CKM524"),
        (lambda x: x.flatten(2, 0), "CKM524"),
        (lambda x: x[4], "CKM524"),
        (lambda x: x[-5], "CKM524"),
        (lambda x: x[True], "CKM524"),
        (lambda x: x[None], "CKM524"),
        (lambda x: x[::-1], "CKM524"),
        (lambda x: x[0, 0, 0, 0], "CKM524"),
        (lambda x: x[0, ..., 0, 0, 0], "CKM524"),
        (lambda x: x[..., ...], "CKM524"),
        (lambda x: x[[0, 1]], "CKM524"),
        (lambda x: x["a"], "CKM524"),
        (lambda x: concat([x, tensor(4, 3, 3)]), "CKM524"),
        (lambda x: concat([x, x.cast("float16")]), "CKM524"),
        (lambda x: concat([x], dim=3), "CKM524"),
        (lambda x: stack([x, tensor(4, 3)]), "CKM524"),
        (lambda x: concat([]), "CKM532"),
        (lambda x: concat([x, 1]), "CKM532"),  # type: ignore[list-item]
        (lambda x: x.cast("float33"), "CKM527"),
    ],
)
def test_what_does_not_fit_is_refused(use: Any, code: str) -> None:
    with pytest.raises(MigrationError) as caught:
        use(tensor(*SHAPE))
    assert caught.value.code == code
    assert caught.value.why
    assert caught.value.fix
