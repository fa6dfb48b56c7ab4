"""slice and resize: part of a tensor, or a larger one around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.spec import DType, TensorSpec
from tests.scripted import refused, shapes, traced, undone, values_of

DATA = np.arange(1, 10, dtype="<f4").reshape(3, 3)


def result_of(folder: Path, body: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    result = traced(folder, body, {"w": (3, 3)})
    found = values_of(result.end.entries["w"], {"w": DATA.tobytes()})
    return np.frombuffer(found, "<f4").reshape(result.end.schema["w"].shape)


def test_slices(tmp_path: Path) -> None:
    assert (result_of(tmp_path, 'ck.slice("w", dim=0, start=1)') == DATA[1:]).all()
    assert (result_of(tmp_path, 'ck.slice("w", dim=1, stop=-1)') == DATA[:, :-1]).all()
    assert (result_of(tmp_path, 'ck.slice("w", dim=-1, start=-2, stop=-1)') == DATA[:, 1:2]).all()
    assert result_of(tmp_path, 'ck.slice("w", dim=0, start=3)').shape == (0, 3)


def test_a_kernel_is_centred(tmp_path: Path) -> None:
    found = result_of(tmp_path, 'ck.resize("w", (5, 5), anchor="center")')
    assert (found == np.pad(DATA, 1)).all()


def test_growing_at_either_end_with_a_fill(tmp_path: Path) -> None:
    start = result_of(tmp_path, 'ck.resize("w", (4, 3), fill=0.5)')
    assert (start == np.pad(DATA, ((0, 1), (0, 0)), constant_values=0.5)).all()
    end = result_of(tmp_path, 'ck.resize("w", (3, 4), fill=0.5, anchor="end")')
    assert (end == np.pad(DATA, ((0, 0), (1, 0)), constant_values=0.5)).all()


def test_cropping_one_dim_and_growing_another(tmp_path: Path) -> None:
    found = result_of(tmp_path, 'ck.resize("w", (2, 4), anchor="end")')
    assert (found == np.pad(DATA[1:], ((0, 0), (1, 0)))).all()


def test_the_shape_may_be_a_function(tmp_path: Path) -> None:
    assert result_of(tmp_path, 'ck.resize("w", lambda t: (t.shape[0] * 2, 3))').shape == (6, 3)


def test_growing_is_undone(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.resize("w", (5, 4), anchor="center")', {"w": (3, 3)})
    grown = values_of(result.end.entries["w"], {"w": DATA.tobytes()})
    back = undone(tmp_path, result)
    assert values_of(back.end.entries["w"], {"w": grown}) == DATA.tobytes()


@pytest.mark.parametrize(
    "body", ['ck.slice("w", dim=0, stop=2)', 'ck.resize("w", (2, 3))', 'ck.resize("w", (4, 2))']
)
def test_what_is_cut_off_cannot_come_back(tmp_path: Path, body: str) -> None:
    result = traced(tmp_path, body, {"w": (3, 3)})
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, result)
    assert caught.value.code == "CKM550"
    assert "'w'" in caught.value.details[0]
    assert "0001_change.py: line 9" in caught.value.details[0]


def test_a_dtype_without_zero_can_be_cut(tmp_path: Path) -> None:
    spec = TensorSpec(DType.F8_E8M0, (4, 2))
    body = """
    ck.slice("w", dim=0, stop=3)
    ck.resize("w", (2, 2))
    ck.gather("w", [1, 0])
    """
    assert shapes(traced(tmp_path, body, {"w": spec})) == {"w": (2, 2)}
    body = 'ck.resize("w", (5, 2))'
    refused(tmp_path, body, {"w": spec}, "'w'", code="CKM527", operation="resize")


@pytest.mark.parametrize(
    ("body", "code", "operation", "words"),
    [
        ('ck.slice("w", dim=0, start=2, stop=1)', "CKM521", "slice", ["'w'", "from 2 to 1", "3"]),
        ('ck.slice("w", dim=0, stop=4)', "CKM521", "slice", ["'w'", "4"]),
        ('ck.slice("w", dim=0, start=-4)', "CKM521", "slice", ["'w'", "-4"]),
        ('ck.slice("w", dim=2)', "CKM520", "slice", ["'w'"]),
        ('ck.resize("w", (3,))', "CKM524", "resize", ["'w'", "[3]", "2 sizes"]),
        ('ck.resize("w", (3, -1))', "CKM524", "resize", ["'w'"]),
        ('ck.resize("w", (4, 4), anchor="middle")', "CKM532", "resize", ["middle", "center"]),
        ('ck.resize("w", (4, 4), fill=1j)', "CKM527", "resize", ["'w'", "1j"]),
        ('ck.resize("v", (4, 4))', "CKM505", "resize", ["'v'"]),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, body: str, code: str, operation: str, words: list[str]
) -> None:
    refused(tmp_path, body, {"w": (3, 3)}, *words, code=code, operation=operation)


def test_an_odd_rest_goes_behind(tmp_path: Path) -> None:
    grown = result_of(tmp_path, 'ck.resize("w", (4, 3), anchor="center")')
    assert (grown == np.pad(DATA, ((0, 1), (0, 0)))).all()
    cut = result_of(tmp_path, 'ck.resize("w", (2, 3), anchor="center")')
    assert (cut == DATA[:2]).all()
