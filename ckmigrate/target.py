"""The current architecture: names, specs and ties of the model that the code builds today.

The model is built on the meta device, which takes no memory; a factory that cannot be built there
is built for real. Nothing here is imported before a function is called, torch included.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.errors import UsageError, VerificationError
from ckmigrate.formats.state_dict import wrapper_prefix
from ckmigrate.spec import DType, Schema, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Target", "bare_module", "build_model", "load_target", "strict_load", "target_of"]

_SETTING = "the `model` setting in [tool.ckmigrate]"
_OPTION = "--model"
_MAX_LINES = 10
_SHOWN = 3

Params = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Target:
    """What a checkpoint must be to load strictly.

    schema       every tensor of `state_dict()`, in its order
    ties         groups of names that are one Parameter or buffer object
    model        the name of the model in the configuration
    factory      "pkg.module:attribute"
    extra_state  names of the entries that are no tensors (`get_extra_state`)
    parameters   in the order of `named_parameters()`, of tied ones the first name; None where one
                 of them has no entry, so that no checkpoint tells them all
    trainable    those that require a gradient
    groups       names of the parameters by optimizer and group, where the optimizers are there
    """

    schema: Schema
    ties: tuple[tuple[str, ...], ...]
    model: str
    factory: str
    extra_state: tuple[str, ...] = ()
    parameters: tuple[str, ...] | None = None
    trainable: frozenset[str] = frozenset()
    groups: tuple[tuple[tuple[str, ...], ...], ...] | None = None


def load_target(
    factory: str,
    name: str,
    *,
    python_path: Sequence[str | Path] = (),
    params: Params | None = None,
    is_option: bool = False,
) -> Target:
    """Build the model that `factory` names and read what it wants of a checkpoint.

    factory      "pkg.module:attribute", a callable that returns a `torch.nn.Module`
    name         how the configuration calls this model
    python_path  folders to import from first; absent from `sys.path` again afterwards
    params       keyword arguments of the factory
    is_option    it was given as --model, and stands in no configuration yet

    UsageError: CKM210 unreadable reference, CKM211 no such module, CKM212 it fails on import,
    CKM213 no such attribute, CKM214 not a factory, CKM215 it raises, CKM216 it returns no module,
    CKM217 an entry that no checkpoint can hold.
    """
    with _user_code(python_path):
        setting = _OPTION if is_option else _SETTING
        model, state = _built(_Factory(factory, name, params or {}, setting))
    return _target(model, state, name, factory)


def target_of(module: torch.nn.Module, factory: str) -> Target:
    """What a model that is there already wants of a checkpoint.

    factory  where it comes from, for messages

    UsageError CKM217 for an entry that no checkpoint can hold, such as a part of a tensor that is
    spread over several processes.
    """
    state = module.state_dict(keep_vars=True)
    return _target(module, state, type(module).__name__, factory)


def bare_module(module: torch.nn.Module, wrappers: Sequence[str]) -> torch.nn.Module:
    """What DDP, torch.compile and their like have wrapped; the module itself where it is bare."""
    prefix = wrapper_prefix(module.state_dict(keep_vars=True), wrappers)
    return module.get_submodule(prefix.removesuffix(".")) if prefix else module


def _target(model: torch.nn.Module, state: Mapping[str, object], name: str, factory: str) -> Target:
    tensors, extra = _tensors(state)
    specs = Schema({key: _spec(key, tensor, factory) for key, tensor in tensors.items()})
    parameters, trainable = _parameters(model, tensors)
    return Target(specs, _ties(tensors), name, factory, extra, parameters, trainable)


def strict_load(
    factory: str,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    *,
    python_path: Sequence[str | Path] = (),
    params: Params | None = None,
    complete_ties: bool = False,
    exempt: Collection[str] = (),
) -> None:
    """Prove that a fresh model takes these tensors, as `load_state_dict(strict=True)` does.

    tensors        real tensors under bare names; they are assigned, not copied
    complete_ties  give a tied name that is absent the tensor of its partner, as loaders of
                   safetensors files do
    exempt         names that the model may keep its own values for

    Extra state is not in question: the fresh model gets its own back. Dtypes and shapes must have
    been compared before (`ckmigrate.strict`), since torch adapts both in silence.
    VerificationError: CKM611 torch refuses, CKM612 an entry stays without values. UsageError as
    `load_target`.
    """
    with _user_code(python_path):
        model, state = _built(_Factory(factory, name, params or {}))
        entries, extra = _tensors(state)
        given: dict[str, object] = {**{key: state[key] for key in extra}, **tensors}
        for group in _ties(entries) if complete_ties else ():
            present = next((given[key] for key in group if key in given), None)
            given |= {key: present for key in group if key not in given and present is not None}
        given |= {key: state[key] for key in exempt if key in state and key not in given}
        _assign(model, given, factory, exempt)


def build_model(
    factory: str,
    name: str,
    *,
    seed: int | None,
    python_path: Sequence[str | Path] = (),
    params: Params | None = None,
) -> torch.nn.Module:
    """The model with real values, as the factory fills them after `torch.manual_seed(seed)`.

    Without a seed: on the meta device, if it can be built there. The caller's random numbers are
    left as they were. UsageError as `load_target`.
    """
    import torch

    known = _Factory(factory, name, params or {})
    if seed is None:
        with _user_code(python_path):
            return _built(known)[0]
    with _user_code(python_path), torch.random.fork_rng(devices=[]):
        make = _resolve(known)

        def seeded(**params: object) -> object:
            torch.manual_seed(seed)
            return make(**params)

        return _really_built(known, seeded)


@dataclass(frozen=True, slots=True)
class _Factory:
    text: str
    model: str
    params: Params
    setting: str = _SETTING

    @property
    def where(self) -> str:
        is_option = self.setting == _OPTION
        return f"--model {self.text}" if is_option else f"model {self.model!r} = {self.text!r}"

    @property
    def folders(self) -> str:
        """How to have it imported from elsewhere."""
        if self.setting == _OPTION:
            return "run where it can be imported: PYTHONPATH=FOLDER ckmigrate init …"
        return "add the folder of the code to `pythonpath` there"

    def error(
        self, code: str, what: str, *, why: str | None = None, fix: str, details: Sequence[str] = ()
    ) -> UsageError:
        return UsageError(code, what, where=self.where, why=why, fix=fix, details=tuple(details))


@contextlib.contextmanager
def _user_code(python_path: Sequence[str | Path]) -> Iterator[None]:
    """The surroundings of a user's code: its folders, and stdout kept free for our answer."""
    folders = [str(Path(folder).absolute()) for folder in python_path]
    sys.path[:0] = folders
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        # Only ours go: what the code itself added, it may need again.
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def _built(factory: _Factory) -> tuple[torch.nn.Module, dict[str, object]]:
    """A fresh model and its state dict: on the meta device, or for real where that fails."""
    import torch

    make = _resolve(factory)
    with contextlib.suppress(Exception, SystemExit), warnings.catch_warnings():
        # A factory that loads weights warns about meta tensors; the real build will tell.
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            model = make(**factory.params)
        if isinstance(model, torch.nn.Module):
            return model, model.state_dict(keep_vars=True)
    model = _really_built(factory, make)
    return model, model.state_dict(keep_vars=True)


def _really_built(factory: _Factory, make: Callable[..., object]) -> torch.nn.Module:
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            model = make(**factory.params)
        if isinstance(model, torch.nn.Module):
            return model
    except (Exception, SystemExit) as error:
        fix = f"call it yourself: {_call_text(factory)}; params come from the configuration"
        what = f"the factory of model {factory.model!r} fails"
        raise factory.error("CKM215", what, why=_told(error), fix=fix) from error
    what = f"the factory of model {factory.model!r} returned {type(model).__name__}, not a module"
    raise factory.error("CKM216", what, fix=f"return a torch.nn.Module from {factory.text}")


def _call_text(factory: _Factory) -> str:
    module, _, attribute = factory.text.partition(":")
    arguments = ", ".join(f"{key}={value!r}" for key, value in factory.params.items())
    return f"from {module} import {attribute.partition('.')[0]}; {attribute}({arguments})"


def _resolve(factory: _Factory) -> Callable[..., object]:
    import torch

    module_name, _, attribute = factory.text.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        what = f"{factory.text!r} does not name a factory"
        fix = f'write "package.module:function" as {factory.setting}'
        raise factory.error("CKM210", what, fix=fix)
    found = _attribute(factory, _module(factory, module_name), attribute)
    if not callable(found) or isinstance(found, torch.nn.Module):
        kind = "a built model" if isinstance(found, torch.nn.Module) else type(found).__name__
        what = f"{factory.text} is {kind}, not a factory"
        fix = f"name a function or class that builds the model as {factory.setting}"
        raise factory.error("CKM214", what, fix=fix)
    made: Callable[..., object] = found
    return made


def _module(factory: _Factory, name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed_import(factory, name, error) from error
        what = f"there is no module {error.name!r}"
        fix = f"correct {factory.setting}, or {factory.folders}"
        raise factory.error("CKM211", what, why=_searched(), fix=fix) from error
    except (Exception, SystemExit) as error:
        raise _failed_import(factory, name, error) from error


def _searched() -> str:
    """The first folders of the search, each once."""
    folders = list(dict.fromkeys(str(Path(folder).absolute()) for folder in sys.path))
    more = f", and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
    return f"searched in {', '.join(folders[:_SHOWN])}{more}"


def _failed_import(factory: _Factory, name: str, error: BaseException) -> UsageError:
    fix = f'see it with: python -c "import {name}"'
    return factory.error("CKM212", f"module {name!r} fails on import", why=_told(error), fix=fix)


def _attribute(factory: _Factory, found: object, path: str) -> object:
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            import difflib

            near = difflib.get_close_matches(part, dir(found), 3)
            what = f"{factory.text.partition(':')[0]} has no {path!r}"
            details = [f"near it: {', '.join(near)}"] if near else []
            fix = f"correct {factory.setting}"
            raise factory.error("CKM213", what, fix=fix, details=details) from error
    return found


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit {error.code})"
    return f"{type(error).__name__}: {_shortened(str(error))}".rstrip(": ")


def _shortened(text: str) -> str:
    lines = text.strip().splitlines()
    more = len(lines) - _MAX_LINES
    cut = [*lines[: _MAX_LINES - 1], f"… and {more + 1} more lines"] if more > 0 else lines
    return "\n".join(line[:500] for line in cut)


def _tensors(state: Mapping[str, object]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a state dict, and the names of the rest."""
    import torch

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return tensors, tuple(name for name in state if name not in tensors)


def _spec(name: str, tensor: torch.Tensor, factory: str) -> TensorSpec:
    import torch
    from torch.nn.parameter import is_lazy

    why = None
    if is_lazy(tensor):
        why = "it is lazy: its shape is not known before the first forward pass"
    elif tensor.layout is not torch.strided:
        why = f"its layout is {tensor.layout}"
    elif hasattr(tensor, "device_mesh"):
        why = "it is spread over several processes (DTensor)"
    if why is None:
        with contextlib.suppress(ValueError):
            dtype = DType.parse(tensor.dtype)
            return TensorSpec(dtype, _shape(dtype, tuple(tensor.shape)))
        why = f"its dtype is {tensor.dtype}"
    what = f"entry {name!r} of the model cannot be compared with a checkpoint"
    fix = "use a model whose entries are plain tensors"
    raise UsageError("CKM217", what, where=factory, why=why, fix=fix)


def _shape(dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
    # torch counts pairs of F4 elements.
    return (*shape[:-1], shape[-1] * 2) if dtype is DType.F4 and shape else shape


def _ties(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def entry_names(tensors: Mapping[str, torch.Tensor]) -> dict[int, str]:
    """The entry of each tensor object, by its id; of a tied one the first."""
    return {id(tensor): name for name, tensor in reversed(list(tensors.items()))}


def _parameters(
    model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> tuple[tuple[str, ...] | None, frozenset[str]]:
    """The names of the parameters in their order, and of those that are trained."""
    entries = entry_names(tensors)
    listed = [(entries.get(id(one)), one.requires_grad) for one in model.parameters()]
    names = [name for name, _ in listed if name is not None]
    trainable = frozenset(name for name, trained in listed if trained and name is not None)
    return (tuple(names) if len(names) == len(listed) else None), trainable


def _assign(
    model: torch.nn.Module,
    given: Mapping[str, object],
    factory: str,
    exempt: Collection[str] = (),
) -> None:
    try:
        model.load_state_dict(dict(given), strict=True, assign=True)
    except Exception as error:  # hooks of the model may raise anything
        what = f"the model of {factory} does not load the result strictly"
        fix = "compare `ckmigrate diff` of the file and the model"
        raise VerificationError("CKM611", what, why=_told(error), fix=fix) from error
    entries, _ = _tensors(model.state_dict(keep_vars=True))
    empty = [name for name, tensor in entries.items() if tensor.is_meta and name not in exempt]
    if empty:
        what = f"{len(empty)} entries of the model have no values after a strict load"
        fix = "check hooks of the model that accept a state dict without these entries"
        raise VerificationError("CKM612", what, details=tuple(empty[:_MAX_LINES]), fix=fix)
