"""The optimizers that the project's code makes: which parameters each of their groups holds.

torch counts the parameters of an optimizer over its groups, so that only the code that makes the
groups can say what a number will mean. Nothing here is imported before a function is called.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.errors import UsageError
from ckmigrate.target import (
    Params,
    _built,
    _Factory,
    _really_built,
    _resolve,
    _tensors,
    _told,
    _user_code,
    entry_names,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Groups", "groups_of", "load_groups", "make_groups"]

Groups = tuple[tuple[tuple[str, ...], ...], ...]
"""Names of entries, by optimizer and group."""

_SETTING = "the `optimizer` setting in [tool.ckmigrate]"


def load_groups(
    function: str,
    factory: str,
    name: str,
    *,
    python_path: Sequence[str | Path] = (),
    params: Params | None = None,
) -> Groups:
    """Build the model, let the project make its optimizers, and read off their groups.

    function  "pkg.module:attribute": takes the model, gives a `torch.optim.Optimizer` or a list of
              several; called with a model on the meta device first
    factory   of the model, `name` how the configuration calls it, and the rest as `load_target`

    UsageError: CKM210 to CKM216 as `load_target`; CKM218 the function raises, CKM219 it gives no
    optimizer, or one of other parameters.
    """
    known = _Factory(factory, name, params or {})
    with _user_code(python_path):
        make = _resolve(_Factory(function, name, {}, _SETTING))
        model, made = _made(known, make, function)
        tensors, _ = _tensors(model.state_dict(keep_vars=True))
    entries = entry_names(tensors)
    return tuple(_groups(one, entries, function) for one in _listed(made, function))


def make_groups(
    function: str, module: torch.nn.Module, *, python_path: Sequence[str | Path] = ()
) -> Groups:
    """The same of a model that is there; UsageError as `load_groups`."""
    with _user_code(python_path):
        make = _resolve(_Factory(function, type(module).__name__, {}, _SETTING))
        try:
            made = make(module)
        except (Exception, SystemExit) as error:
            raise _failing(function, error) from error
    return groups_of(_listed(made, function), module, function)


def groups_of(
    optimizers: Sequence[torch.optim.Optimizer], module: torch.nn.Module, origin: str
) -> Groups:
    """The groups of optimizers that are there; UsageError CKM219, naming where they come from."""
    tensors, _ = _tensors(module.state_dict(keep_vars=True))
    entries = entry_names(tensors)
    return tuple(_groups(one, entries, origin) for one in optimizers)


def _made(
    factory: _Factory, make: Callable[..., object], function: str
) -> tuple[torch.nn.Module, object]:
    model, _ = _built(factory)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, make(model)
    model = _really_built(factory, _resolve(factory))
    try:
        return model, make(model)
    except (Exception, SystemExit) as error:
        raise _failing(function, error) from error


def _failing(function: str, error: BaseException) -> UsageError:
    return UsageError(
        "CKM218",
        "the function that makes the optimizer fails",
        where=f"optimizer = {function!r}",
        why=_told(error),
        fix="Call it yourself, with a new model.",
    )


def _listed(made: object, function: str) -> list[torch.optim.Optimizer]:
    import torch

    listed = list(made) if isinstance(made, list | tuple) else [made]
    odd = next((one for one in listed if not isinstance(one, torch.optim.Optimizer)), None)
    if odd is not None or not listed:
        what = f"it returned {type(odd).__name__}" if listed else "it returned none"
        raise _no_optimizer(function, what)
    return [one for one in listed if isinstance(one, torch.optim.Optimizer)]


def _groups(
    optimizer: torch.optim.Optimizer, entries: dict[int, str], function: str
) -> tuple[tuple[str, ...], ...]:
    listed = [[entries.get(id(one)) for one in g["params"]] for g in optimizer.param_groups]
    if any(name is None for names in listed for name in names):
        raise _no_optimizer(function, "it holds tensors that are no parameters of the model")
    return tuple(tuple(name for name in names if name is not None) for names in listed)


def _no_optimizer(function: str, why: str) -> UsageError:
    return UsageError(
        "CKM219",
        "the function does not make an optimizer of the model",
        where=f"optimizer = {function!r}",
        why=why,
        fix="Return a torch.optim.Optimizer of the parameters of the model that it is given, or a "
        "list of several.",
    )
