"""gather: rows along a dimension by an index map."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import Evaluator, peak_cost
from ckmigrate.lower import Gather, lower
from tests.scripted import refused, shapes, traced, undone, values_of

DATA = np.arange(12, dtype="<f4").reshape(4, 3)


def test_rows_are_kept_moved_repeated_and_new(tmp_path: Path) -> None:
    body = 'ck.gather("w", [2, None, 0, 1, 1], fill=7)'
    result = traced(tmp_path, body, {"w": (4, 3)})
    found = np.frombuffer(values_of(result.end.entries["w"], {"w": DATA.tobytes()}), "<f4")
    new = np.full((1, 3), 7, "<f4")
    expected = np.concatenate([DATA[2:3], new, DATA[0:1], DATA[1:2], DATA[1:2]])
    assert (found.reshape(5, 3) == expected).all()


def test_columns(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.gather("w", [2, 0], dim=-1)', {"w": (4, 3)})
    found = values_of(result.end.entries["w"], {"w": DATA.tobytes()})
    assert found == DATA[:, [2, 0]].tobytes()


def test_an_index_of_numpy_or_torch_is_the_same_operation(tmp_path: Path) -> None:
    plain = traced(tmp_path, 'ck.gather("w", [2, 0])', {"w": (4, 3)})
    for index in ("torch.tensor([2, 0])", '__import__("numpy").array([2, 0])', "(2, 0)"):
        other = traced(tmp_path, f'ck.gather("w", {index})', {"w": (4, 3)})
        assert other.end.entries == plain.end.entries
        assert other.scripts[0].digest == plain.scripts[0].digest


def test_a_permutation_is_undone_and_so_is_growing(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.gather("w", [3, None, 1, 0, 2], fill=0)', {"w": (4, 3)})
    grown = values_of(result.end.entries["w"], {"w": DATA.tobytes()})
    back = undone(tmp_path, result)
    assert values_of(back.end.entries["w"], {"w": grown}) == DATA.tobytes()


def test_lost_rows_cannot_come_back(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.gather("w", [3, 1])', {"w": (4, 3)})
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, result)
    assert "2 of 4 rows of 'w'" in caught.value.details[0]


def test_no_rows(tmp_path: Path) -> None:
    assert shapes(traced(tmp_path, 'ck.gather("w", [])', {"w": (4, 3)})) == {"w": (0, 3)}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[0, 4]", ["index[1] = 4", "0 to 3"]),
        ("[-1]", ["index[0] = -1"]),
        ("[0, None]", ["index[1] = None", "fill="]),
        ("[True]", ["True"]),
        ("[1.0]", ["1.0"]),
        ('["a"]', ["'a'"]),
    ],
)
def test_an_index_that_names_no_row_is_refused(
    tmp_path: Path, index: str, words: list[str]
) -> None:
    body = f'ck.gather("w", {index})'
    refused(tmp_path, body, {"w": (4, 3)}, "'w'", *words, code="CKM521", operation="gather")


@pytest.mark.parametrize("dim", [0, 1])
def test_a_large_vocabulary_is_shuffled_in_one_reading(tmp_path: Path, dim: int) -> None:
    rows = list(range(20_000))
    random.Random(1).shuffle(rows)
    shape = (20_000, 16) if dim == 0 else (16, 20_000)
    began = time.process_time()
    result = traced(tmp_path, f'ck.gather("w", {rows}, dim={dim})', {"w": shape})
    expr = result.end.entries["w"]
    assert lower(expr, lambda name: True) == Gather()
    data = np.random.default_rng(0).standard_normal(shape).astype("<f4")
    reads: list[int] = []

    def read(name: str, first: int, count: int) -> bytes:
        reads.append(count)
        return data.reshape(-1)[first : first + count].tobytes()

    found = Evaluator(read).evaluate(expr)
    assert (found.view("<f4") == np.take(data, rows, axis=dim)).all()
    assert sum(reads) <= data.size
    assert len(reads) == 1
    assert peak_cost(expr) < 5 * data.nbytes
    assert time.process_time() - began < 10
