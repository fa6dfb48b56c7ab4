"""Same elements in another shape or order: reshape, permute, rearrange and their kin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scripted import refused, shapes, traced, undone, values_of

DATA = np.arange(48, dtype="<f4")


@pytest.mark.parametrize(
    ("body", "before", "after"),
    [
        ('ck.reshape("w", (4, 6))', (2, 12), (4, 6)),
        ('ck.reshape("w", (-1, 6))', (2, 12), (4, 6)),
        ('ck.reshape("w", -1)', (2, 12), (24,)),
        ('ck.reshape("w", lambda t: (t.shape[0], -1))', (2, 3, 4), (2, 12)),
        ('ck.reshape("w", lambda t: t.shape[:2])', (2, 24, 1, 1), (2, 24)),
        ('ck.reshape("w", (-1, 3))', (0, 3), (0, 3)),
        ('ck.reshape("w", ())', (1, 1), ()),
        ('ck.squeeze("w", 1)', (2, 1, 3), (2, 3)),
        ('ck.squeeze("w", -2)', (2, 1, 3), (2, 3)),
        ('ck.unsqueeze("w", 0)', (2,), (1, 2)),
        ('ck.unsqueeze("w", -1)', (2,), (2, 1)),
        ('ck.unsqueeze("w", 0)', (), (1,)),
        ('ck.flatten("w")', (2, 3, 4), (24,)),
        ('ck.flatten("w", 1)', (2, 3, 4), (2, 12)),
        ('ck.flatten("w", 0, 1)', (2, 3, 4), (6, 4)),
        ('ck.flatten("w")', (), (1,)),
    ],
)
def test_a_new_shape_keeps_the_elements(
    tmp_path: Path, body: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    result = traced(tmp_path, body, {"w": before})
    assert shapes(result) == {"w": after}
    stored = {"w": DATA[: result.start.entries["w"].spec.numel].tobytes()}
    assert values_of(result.end.entries["w"], stored) == stored["w"]
    assert shapes(undone(tmp_path, result)) == {"w": before}


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ('ck.permute("w", (2, 0, 1))', (2, 0, 1)),
        ('ck.permute("w", (-1, 0, 1))', (2, 0, 1)),
        ('ck.transpose("w", 0, -1)', (2, 1, 0)),
    ],
)
def test_an_order_of_dims(tmp_path: Path, body: str, order: tuple[int, ...]) -> None:
    data = DATA[:24].reshape(2, 3, 4)
    result = traced(tmp_path, body, {"w": (2, 3, 4)})
    moved = np.ascontiguousarray(data.transpose(order))
    assert values_of(result.end.entries["w"], {"w": data.tobytes()}) == moved.tobytes()
    back = undone(tmp_path, result)
    assert values_of(back.end.entries["w"], {"w": moved.tobytes()}) == data.tobytes()


def test_transposing_a_square_matrix_moves_its_elements(tmp_path: Path) -> None:
    data = DATA[:16].reshape(4, 4)
    result = traced(tmp_path, 'ck.transpose("w", 0, 1)', {"w": (4, 4)})
    assert values_of(result.end.entries["w"], {"w": data.tobytes()}) == data.T.tobytes()


def test_the_rotary_permutation_and_its_inverse(tmp_path: Path) -> None:
    body = 'ck.rearrange("q", "(h d two) c -> (h two d) c", h=2, two=2)'
    data = DATA.reshape(16, 3)
    result = traced(tmp_path, body, {"q": (16, 3)})
    expected = data.reshape(2, 4, 2, 3).transpose(0, 2, 1, 3).reshape(16, 3)
    assert values_of(result.end.entries["q"], {"q": data.tobytes()}) == expected.tobytes()
    back = undone(tmp_path, result)
    assert values_of(back.end.entries["q"], {"q": expected.tobytes()}) == data.tobytes()


@pytest.mark.parametrize(
    ("equation", "before", "after"),
    [
        ("a b -> b a", (2, 3), (3, 2)),
        ("a b -> (a b)", (2, 3), (6,)),
        ("a 1 b -> a b", (2, 1, 3), (2, 3)),
        ("a b -> 1 a () b", (2, 3), (1, 2, 1, 3)),
    ],
)
def test_equations(
    tmp_path: Path, equation: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    result = traced(tmp_path, f'ck.rearrange("w", "{equation}")', {"w": before})
    assert shapes(result) == {"w": after}
    assert shapes(undone(tmp_path, result)) == {"w": before}


@pytest.mark.parametrize(
    ("equation", "sizes", "word"),
    [
        ("(h d) c -> (d h) c", "", "h and d"),
        ("(h d) c -> (d h) c", "h=5", "not 12"),
        ("(h d) c -> (d h) c", "h=-2", "h=-2"),
        ("(h d) c -> (d h) c", "h=2.0", "h=2.0"),
        ("(h d) c -> (d h) c", "h=0", "not 12"),
        ("(h d) c -> (d h) c", "h=2, x=3", "x"),
        ("(h d) c -> (d h) c", "h=2, c=5", "not 4"),
        ("a -> a", "", "1 dimensions, not 2"),
        ("a b -> a", "", "'b'"),
        ("a a -> a", "", "'a'"),
        ("a b", "", "->"),
        ("(a b -> a b", "", "closed"),
        ("a) b -> a b", "", "'('"),
        ("((a) b) c -> a b c", "", "nested"),
        ("a ... -> ... a", "", "..."),
        ("1 a b -> a b", "", "3 dimensions"),
    ],
)
def test_equations_that_do_not_fit(tmp_path: Path, equation: str, sizes: str, word: str) -> None:
    body = f'ck.rearrange("w", "{equation}", {sizes})'
    error = refused(tmp_path, body, {"w": (12, 4)}, word, code="CKM525", operation="rearrange")
    assert equation in error.what


@pytest.mark.parametrize(
    ("body", "code", "operation", "words"),
    [
        ('ck.reshape("w", (5, 5))', "CKM524", "reshape", ["'w'", "[5,5]", "24", "25"]),
        ('ck.reshape("w", (-1, -1))', "CKM524", "reshape", ["'w'"]),
        ('ck.reshape("w", (-2, -12))', "CKM524", "reshape", ["'w'"]),
        ('ck.reshape("w", (-1, 0))', "CKM524", "reshape", ["'w'"]),
        ('ck.reshape("w", (2.0, 12))', "CKM532", "reshape", ["'w'", "2.0"]),
        ('ck.squeeze("w", 0)', "CKM524", "squeeze", ["'w'", "dim 0", "[2,12]"]),
        ('ck.squeeze("w", 2)', "CKM520", "squeeze", ["'w'", "-2 to 1"]),
        ('ck.unsqueeze("w", 3)', "CKM520", "unsqueeze", ["'w'", "-3 to 2"]),
        ('ck.flatten("w", 1, 0)', "CKM520", "flatten", ["'w'"]),
        ('ck.permute("w", (0, 0))', "CKM520", "permute", ["'w'", "(0, 0)"]),
        ('ck.permute("w", (0,))', "CKM520", "permute", ["'w'"]),
        ('ck.transpose("w", 0, True)', "CKM520", "transpose", ["'w'", "True"]),
        ('ck.reshape("v", (1,))', "CKM505", "reshape", ["'v'"]),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, body: str, code: str, operation: str, words: list[str]
) -> None:
    refused(tmp_path, body, {"w": (2, 12)}, *words, code=code, operation=operation)


def test_each_may_find_nothing_where_optional(tmp_path: Path) -> None:
    body = """
    ck.reshape("x", (1,), optional=True)
    ck.squeeze("x", 0, optional=True)
    ck.unsqueeze("x", 0, optional=True)
    ck.flatten("x", optional=True)
    ck.permute("x", (0,), optional=True)
    ck.transpose("x", 0, 1, optional=True)
    ck.rearrange("x", "a b -> b a", optional=True)
    """
    assert shapes(traced(tmp_path, body, {"w": (2, 12)})) == {"w": (2, 12)}
