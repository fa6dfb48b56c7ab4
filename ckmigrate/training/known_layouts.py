"""Where things stand in the files of training runs: one table, one row for each way of saving.

A framework has a row with the keys that it writes; the last row has the keys that people use who
write loops of their own. What is in no row is found by what it looks like (`layouts`), and what is
not found so, a project names in its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["KNOWN_LAYOUTS", "MOMENTS", "PLAIN", "KnownLayout", "known_layout"]


@dataclass(frozen=True, slots=True)
class KnownLayout:
    """One way of saving a run in one file; everything is a key of the top level.

    name        for reports
    mark        a key that only this layout has; its value is the version of who wrote the file
    weights     the state dict of the model: exactly one of these has one
    seldom      more of them, looked at where none of `weights` has one
    optimizers  states of optimizers, alone or in a list
    copies      averages and other copies of the weights
    settings    configurations and hyper-parameters, which scripts edit through `ck.meta`
    kept        what stays as it is: progress, schedulers, scalers, callbacks, versions of others
    """

    name: str
    mark: str | None
    weights: tuple[str, ...]
    seldom: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def title(self, top: Mapping[object, object]) -> str:
        """Its name, with the version that the file says: "Lightning checkpoint 2.6.6"."""
        version = top.get(self.mark) if self.mark is not None else None
        return f"{self.name} {version}" if isinstance(version, str) else self.name


_LIGHTNING: Final = KnownLayout(
    name="Lightning checkpoint",
    mark="pytorch-lightning_version",
    weights=("state_dict",),
    optimizers=("optimizer_states",),
    copies=("current_model_state",),
    settings=("hyper_parameters", "datamodule_hyper_parameters"),
    kept=(
        "epoch",
        "global_step",
        "pytorch-lightning_version",
        "loops",
        "callbacks",
        "lr_schedulers",
        "averaging_state",
        "MixedPrecision",
        "native_amp_scaling_state",
        "hparams_name",
        "datamodule_hparams_name",
        "hparams_type",
    ),
)
PLAIN: Final = KnownLayout(
    name="training checkpoint",
    mark=None,
    weights=("state_dict", "model", "model_state_dict", "module"),
    seldom=("model_state", "net", "net_state_dict", "network", "params", "weights"),
    optimizers=(
        "optimizer",
        "optimizer_state_dict",
        "optimizer_state",
        "optimizers",
        "optimizer_states",
        "optim",
        "optim_state_dict",
        "opt",
        "opt_state_dict",
    ),
    copies=(
        "ema",
        "ema_state_dict",
        "ema_model",
        "model_ema",
        "state_dict_ema",
        "params_ema",
        "shadow",
        "shadow_params",
        "averaged_model",
        "swa",
        "swa_model",
        "swa_state_dict",
        "best_model",
        "best_state_dict",
        "teacher",
    ),
    settings=("config", "cfg", "args", "hparams", "hyper_parameters", "model_args"),
    kept=(
        "epoch",
        "step",
        "global_step",
        "iteration",
        "scheduler",
        "scheduler_state_dict",
        "lr_scheduler",
        "lr_schedulers",
        "scaler",
        "scaler_state_dict",
        "grad_scaler",
        "amp",
        "rng_state",
        "best_acc",
        "best_loss",
    ),
)

MOMENTS: Final = frozenset(
    [
        "exp_avg",
        "exp_avg_sq",
        "grad",
        "grads",
        "gradients",
        "moments",
        "momentum",
        "momentum_buffer",
        "m",
        "v",
    ]
)
"""Keys of what belongs to weights by name and is no copy of them, in optimizers of one's own."""

KNOWN_LAYOUTS: Final = (_LIGHTNING, PLAIN)
"""The first whose mark a file has; the last has none."""


def known_layout(top: Mapping[object, object]) -> KnownLayout:
    """The layout of a file with these entries at the top level."""
    return next(known for known in KNOWN_LAYOUTS if known.mark is None or known.mark in top)
