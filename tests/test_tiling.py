"""Chunks tile their tensor exactly, or it is said why not."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from ckmigrate.formats.tiling import is_run, tiling_fault

Box = tuple[tuple[int, ...], tuple[int, ...]]


def covers(shape: tuple[int, ...], boxes: list[Box]) -> bool:
    """The same question, answered by counting every element."""
    seen: dict[tuple[int, ...], int] = {}
    for offsets, sizes in boxes:
        for place in itertools.product(
            *(range(o, o + n) for o, n in zip(offsets, sizes, strict=True))
        ):
            seen[place] = seen.get(place, 0) + 1
    every = itertools.product(*map(range, shape))
    return len(seen) == math.prod(shape) and all(seen.get(place) == 1 for place in every)


def cut(shape: tuple[int, ...], random_: random.Random) -> list[Box]:
    """A tiling made by cutting boxes in two, which need not be a grid."""
    boxes: list[Box] = [((0,) * len(shape), shape)]
    for _ in range(random_.randrange(6)):
        offsets, sizes = boxes.pop(random_.randrange(len(boxes)))
        dim = random_.randrange(len(shape))
        at = random_.randint(0, sizes[dim])
        for begin, size in ((0, at), (at, sizes[dim] - at)):
            o = (*offsets[:dim], offsets[dim] + begin, *offsets[dim + 1 :])
            boxes.append((o, (*sizes[:dim], size, *sizes[dim + 1 :])))
    random_.shuffle(boxes)
    return boxes


@pytest.mark.parametrize("seed", range(200))
def test_the_verdict_is_that_of_counting(seed: int) -> None:
    random_ = random.Random(seed)
    shape = tuple(random_.randint(1, 5) for _ in range(random_.randint(1, 3)))
    boxes = cut(shape, random_)
    assert tiling_fault(shape, boxes) is None
    number = random_.randrange(len(boxes))
    offsets, sizes = boxes[number]
    dim = random_.randrange(len(shape))
    moved = (*offsets[:dim], max(0, offsets[dim] + random_.choice((-1, 1))), *offsets[dim + 1 :])
    grown = (*sizes[:dim], max(0, sizes[dim] + random_.choice((-1, 1))), *sizes[dim + 1 :])
    for changed in ((moved, sizes), (offsets, grown)):
        others = [*boxes[:number], changed, *boxes[number + 1 :]]
        inside = all(
            o + n <= size for b in others for o, n, size in zip(b[0], b[1], shape, strict=True)
        )
        assert (tiling_fault(shape, others) is None) == (inside and covers(shape, others))


@pytest.mark.parametrize(
    ("shape", "boxes", "why"),
    [
        ((), [], "0 elements"),
        ((), [((), ()), ((), ())], "same number"),
        ((4,), [((0,), (4,)), ((0,), (4,))], "over each other"),
        ((4,), [((0,), (3,))], "3 elements"),
        ((4,), [((2,), (3,))], "not inside"),
        ((4,), [((0, 0), (4, 1))], "dimensions"),
    ],
)
def test_what_is_wrong_is_said(shape: tuple[int, ...], boxes: list[Box], why: str) -> None:
    assert why in str(tiling_fault(shape, boxes))


def test_a_single_number_and_nothing_at_all() -> None:
    assert tiling_fault((), [((), ())]) is None
    assert tiling_fault((0, 3), [((0, 0), (0, 3))]) is None
    assert tiling_fault((0, 3), []) is None
    assert tiling_fault((3,), [((0,), (3,)), ((3,), (0,))]) is None


def test_columns_of_many_ranks_are_compared_quickly() -> None:
    boxes = [((0, n), (1000, 1)) for n in range(20_000)]
    assert tiling_fault((1000, 20_000), boxes) is None
    stacked = [((0, 0), (1, 1))] * 20_000
    assert tiling_fault((1, 1), stacked) is not None


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((7, 4), (3, 4), True),
        ((7, 4), (1, 2), True),
        ((7, 4), (7, 2), False),
        ((1, 4), (1, 2), True),
        ((2, 3, 4), (1, 2, 4), True),
        ((2, 3, 4), (2, 2, 4), False),
        ((7, 1), (3, 1), True),
        ((), (), True),
    ],
)
def test_a_run_is_what_lies_together(
    shape: tuple[int, ...], sizes: tuple[int, ...], expected: bool
) -> None:
    assert is_run(shape, sizes) is expected
