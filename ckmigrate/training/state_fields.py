"""What the fields of an optimizer's state are, by what optimizers call them.

The names are those of torch.optim and of what is used beside it; a field of another name that has
the shape of its parameter is a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import entries_of, with_entries
from ckmigrate.scalar import Number
from ckmigrate.spec import TensorSpec
from ckmigrate.training.optimizer_form import Fields, Key

__all__ = [
    "COUNTS",
    "EAGER",
    "FACTORS",
    "FIRST_COUNT",
    "FIRST_SETTING",
    "VALUES",
    "At",
    "build_state",
    "is_number",
    "shape_of",
]

COUNTS = frozenset({"step", "mu_product", "mu", "eta", "lr"})
"""Numbers of a whole parameter; of one that is a number itself, moments have that shape too."""

VALUES = frozenset(
    {
        *("ax", "z", "p0", "slow_buffer", "slow_params", "slow_param"),
        *("master_param", "master_params", "master_weight", "master_weights", "fp32_param"),
    }
)
"""Fields that are copies of the weight: averages of ASGD, Lookahead and the schedule-free
optimizers, master weights of apex, Transformer Engine and torchao."""

FIRST_SETTING = {"step_size": "lr", "sum": "initial_accumulator_value"}
"""Moments that do not begin with zeros (Rprop, Adagrad), by the setting that they begin with."""

FIRST_COUNT: dict[object, Number | str] = {"step": 0, "mu_product": 1, "mu": 1, "eta": "lr"}

EAGER = frozenset({"step", "sum"})
"""The fields of Adagrad, which makes the state of every parameter when it is made."""


FACTORS = frozenset({"row_var", "col_var"})
"""What Adafactor keeps of rows and columns; of a parameter of one element, they have its shape."""


class At(NamedTuple):
    """The place of a new tensor in a state that is not built yet."""

    label: str


def build_state(state: Mapping[Key, Fields], made: Mapping[str, Tensor]) -> dict[Key, Fields]:
    """The state with the tensors that were made for its labels."""
    return {
        key: {name: _filled(part, made) for name, part in fields.items()}
        for key, fields in state.items()
    }


def shape_of(fields: Fields) -> tuple[int, ...] | None:
    """The shape of the parameter that a state belongs to, where it tells."""
    if "func_evals" in fields:  # LBFGS keeps one vector of all parameters
        return None
    rows, columns = fields.get("row_var"), fields.get("col_var")
    if isinstance(rows, Tensor) and isinstance(columns, Tensor) and rows.spec.ndim:
        return (*rows.spec.shape[:-1], columns.spec.shape[-1])
    packed = fields.get("state1")  # eight bits an element, beside a scale for each block
    tensors = [packed] if isinstance(packed, Tensor) else fields.values()
    shapes = {part.spec.shape for part in tensors if isinstance(part, Tensor) and part.spec.ndim}
    return next(iter(shapes)) if len(shapes) == 1 else None


def is_number(spec: TensorSpec) -> bool:
    return spec.dtype.kind in ("float", "complex")


def _filled(part: object, made: Mapping[str, Tensor]) -> object:
    if isinstance(part, At):
        return made[part.label]
    entries = entries_of(part)
    if entries is not None:
        return with_entries(part, {key: _filled(inner, made) for key, inner in entries.items()})
    if isinstance(part, list | tuple):
        listed = [_filled(inner, made) for inner in part]
        return tuple(listed) if isinstance(part, tuple) else listed
    return part
