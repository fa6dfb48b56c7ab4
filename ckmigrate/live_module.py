"""Loading tensors into a module that is in use: all of them, or none.

torch copies value after value, and a refused state dict leaves a model that is half new. Here the
new tensors are put beside the old ones first (`assign=True`), so that taking them back is nothing
but putting the old ones in their places; values are copied once all is accepted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckmigrate.errors import VerificationError
from ckmigrate.names import select
from ckmigrate.target import Target

if TYPE_CHECKING:
    import torch

__all__ = ["load_into"]

_MAX_LINES = 10


def load_into(
    module: torch.nn.Module,
    state: Mapping[str, object],
    target: Target,
    *,
    exempt: Sequence[str] = (),
) -> None:
    """Load a state dict strictly; the module keeps its tensors and gets their values.

    state   under the module's names; shapes and dtypes were compared with `target`, which is read
            off this module
    exempt  patterns of names that the module keeps its own values for

    Entries on the meta device get the new tensors themselves, in their own dtype. VerificationError
    CKM611 where the module refuses, CKM612 where an entry would stay without values.
    """
    import torch

    free = {match.name for text in exempt for match in select(text, (*target.schema, *state))}
    given = _complete(module, state, target, free)
    held = _Held.of(module)
    try:
        module.load_state_dict(given, strict=True, assign=True)
        _require_values(module, free)
    except BaseException as error:
        for slots in held:
            slots.put_back()
        if isinstance(error, VerificationError) or not isinstance(error, Exception):
            raise
        raise VerificationError(
            "CKM611",
            f"the model {target.model} does not load the result strictly",
            details=tuple(str(error).strip().splitlines()[:_MAX_LINES]),
            fix="Compare `ckmigrate diff` of the file and the model. The model is as it was.",
        ) from error
    made: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for slots in held:
            slots.take_values(made)


def _complete(
    module: torch.nn.Module, state: Mapping[str, object], target: Target, free: Collection[str]
) -> dict[str, object]:
    """The state dict with what files leave out: second names of tied entries, what is exempt, and
    extra state that the file has none of."""
    own = module.state_dict(keep_vars=True)
    given = _like(state, {name: value for name, value in state.items() if name not in free})
    for group in target.ties:
        present = next((given[name] for name in group if name in given), None)
        given |= {name: present for name in group if name not in given and present is not None}
    kept = (*free, *target.extra_state)
    given |= {name: own[name] for name in kept if name in own and name not in given}
    return given


def _like(state: Mapping[str, object], entries: Mapping[str, object]) -> dict[str, object]:
    """Entries as a state dict with the module versions of another."""
    from collections import OrderedDict

    given: dict[str, object] = OrderedDict(entries)
    if hasattr(state, "_metadata"):
        given._metadata = state._metadata  # type: ignore[attr-defined]
    return given


def _require_values(module: torch.nn.Module, free: Collection[str]) -> None:
    import torch

    entries = module.state_dict(keep_vars=True).items()
    meta = [name for name, value in entries if isinstance(value, torch.Tensor) and value.is_meta]
    empty = [name for name in meta if name not in free]
    if empty:
        raise VerificationError(
            "CKM612",
            f"{len(empty)} entries of the model have no values after a strict load",
            details=tuple(empty[:_MAX_LINES]),
            fix="Check hooks of the model that accept a state dict without these entries.",
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """The parameters, or the buffers, of one module by reference: as they are, and as they were."""

    owner: torch.nn.Module
    now: Mapping[str, torch.Tensor | None]
    before: Mapping[str, torch.Tensor | None]

    @classmethod
    def of(cls, module: torch.nn.Module) -> tuple[_Held, ...]:
        """Of a module and all that are in it."""
        parts = ((p, slots) for p in module.modules() for slots in (p._parameters, p._buffers))
        return tuple(cls(part, slots, dict(slots)) for part, slots in parts)

    def put_back(self) -> None:
        """Every tensor where it was."""
        for name in self.now.keys() - self.before.keys():
            delattr(self.owner, name)
        for name, tensor in self.before.items():
            if self.now.get(name) is not tensor:
                # Not by the mapping: modules such as LSTM keep what is set in further places.
                setattr(self.owner, name, tensor)

    def take_values(self, made: dict[int, torch.Tensor]) -> None:
        """Copy the values of the new tensors into the old ones, and put these back; `made` are the
        tensors that stand for those on the meta device, by their ids."""
        for name, old in self.before.items():
            new = self.now.get(name)
            if old is None or new is None or new is old:
                continue
            if not old.is_meta:
                old.copy_(new)
            elif id(old) not in made:
                made[id(old)] = _real(old, new)
            setattr(self.owner, name, made[id(old)] if old.is_meta else old)


def _real(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A tensor in the place of one on the meta device, of its kind and dtype."""
    import torch

    values = new.detach().to(old.dtype, copy=True)
    if isinstance(old, torch.nn.Parameter):
        return torch.nn.Parameter(values, requires_grad=old.requires_grad)
    return values
