"""Training for real: a run that goes on, stops, is saved as people save it, and is resumed.

run = Run.start(method, Old)             a network, its optimizer, schedule and averaged copy
run.advance(30)                          thirty real steps; the losses
save(run, path, style)                   the file that a training script writes
resumed = Run.start(method, New); restore(resumed, path, style)

Batches are a function of the number of the step, weights are float64 unless a method says so:
two runs that compute the same differ by roundings only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.resume.networks import New, Old, batch

__all__ = [
    "ADAMW",
    "AFTER",
    "BEFORE",
    "OTHER",
    "SAME",
    "STYLES",
    "Group",
    "Method",
    "Run",
    "adamw",
    "by_dimensions",
    "by_part",
    "difference",
    "loss_gap",
    "restore",
    "save",
    "state",
    "trained",
    "unnamed",
]

BEFORE, AFTER = 30, 20
"""Steps until the checkpoint, and steps that are compared."""

SAME = 1e-9
"""Roundings of float64 over twenty steps are near 1e-14; a moment in a wrong place is near 1e-2."""

OTHER = 1e-4

Average = Literal["none", "dict", "list", "ema", "swa"]
Group = dict[str, Any]
Groups = Callable[[nn.Module], list[Group]]


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def everything(model: nn.Module) -> list[Group]:
    """One group."""
    return [{"params": trainable(model)}]


def by_dimensions(model: nn.Module) -> list[Group]:
    """Weight decay on what has two dimensions, none on the rest."""
    named = trainable(model)
    return [
        {"params": [(n, p) for n, p in named if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def by_part(model: nn.Module) -> list[Group]:
    """The last layer learns faster than the rest."""
    named = trainable(model)
    last = [(n, p) for n, p in named if n.startswith(("head.", "classifier."))]
    rest = [(n, p) for n, p in named if not n.startswith(("head.", "classifier."))]
    return [{"params": rest}, {"params": last, "lr": 0.03}]


def unnamed(groups: Iterable[Group]) -> list[Group]:
    return [{**group, "params": [p for _, p in group["params"]]} for group in groups]


@dataclass(frozen=True, slots=True)
class Method:
    """How a network is trained.

    optimizer  makes one of parameter groups
    groups     the groups of a model
    average    the averaged copy beside the weights: "dict" of names, "list" in the order of the
               parameters, "ema" and "swa" by AveragedModel
    named      whether the optimizer is given names, which it then saves
    prepare    what is done to the model before the optimizer sees it
    """

    name: str
    optimizer: Callable[[list[Group]], Optimizer]
    groups: Groups = everything
    average: Average = "none"
    named: bool = False
    prepare: Callable[[nn.Module], object] = lambda model: None
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        return self.name + "-named" * self.named


@dataclass(slots=True)
class Run:
    """Training in progress; `copy` is the averaged copy by name, or an AveragedModel."""

    method: Method
    model: nn.Module
    optimizer: Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    copy: dict[str, Tensor] | AveragedModel | None
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, method: Method, build: Callable[[], nn.Module]) -> Run:
        """A run at step 0, always from the same weights."""
        torch.manual_seed(0)
        model = build().to(method.dtype)
        method.prepare(model)
        groups = method.groups(model)
        optimizer = method.optimizer(groups if method.named else unnamed(groups))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * (BEFORE + AFTER))
        return cls(method, model, optimizer, schedule, _copy(method.average, model))

    def advance(self, steps: int) -> list[float]:
        """The losses of the next steps, of the averaged copy too where there is one."""
        found: list[float] = []
        for _ in range(steps):
            tokens, labels = batch(self.step)
            loss = cross_entropy(self.model.train()(tokens), labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            _average(self.copy, self.model)
            self.step += 1
            found.append(loss.item())
            if self.copy is not None:
                found.append(self.averaged_loss())
        self.losses += found
        return found

    def averaged_loss(self) -> float:
        """What the averaged copy says to the batch of the next step."""
        tokens, labels = batch(self.step)
        with torch.no_grad():
            if isinstance(self.copy, AveragedModel):
                logits = self.copy.eval()(tokens)
            else:
                logits = functional_call(self.model.eval(), self.copy or {}, (tokens,))
        return cross_entropy(logits, labels).item()


def _copy(average: Average, model: nn.Module) -> dict[str, Tensor] | AveragedModel | None:
    if average == "none":
        return None
    if average == "swa":
        return AveragedModel(model)
    if average == "ema":
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _average(copy: dict[str, Tensor] | AveragedModel | None, model: nn.Module) -> None:
    if isinstance(copy, AveragedModel):
        copy.update_parameters(model)
    elif copy is not None:
        for name, parameter in model.named_parameters():
            copy[name].lerp_(parameter.detach(), 0.1)


def difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference between two runs of losses."""
    assert len(one) == len(other)
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def adamw(groups: list[Group]) -> Optimizer:
    return torch.optim.AdamW(groups, lr=0.01)


ADAMW = Method("adamw", adamw, by_dimensions)


# --- files ------------------------------------------------------------------------------------

STYLES: Mapping[str, Mapping[str, str]] = {
    "short": {"model": "model", "optimizer": "optimizer", "schedule": "scheduler"},
    "lightning": {
        "model": "state_dict",
        "optimizer": "optimizer_states",
        "schedule": "lr_schedulers",
    },
    "long": {
        "model": "model_state_dict",
        "optimizer": "optimizer_state_dict",
        "schedule": "lr_scheduler_state_dict",
    },
}
"""Keys that people save under."""

COPIES: Mapping[Average, str] = {
    "dict": "ema_state_dict",
    "list": "ema",
    "ema": "model_ema",
    "swa": "swa_model",
}


def save(run: Run, path: Path, style: str = "short", **more: object) -> Path:
    """The checkpoint, by `torch.save`."""
    keys = STYLES[style]
    optimizer: object = run.optimizer.state_dict()
    content = {
        "step": run.step,
        keys["model"]: run.model.state_dict(),
        keys["optimizer"]: [optimizer] if style == "lightning" else optimizer,
        keys["schedule"]: run.schedule.state_dict(),
        "config": {"layers": 2},
        **more,
    }
    if isinstance(run.copy, AveragedModel):
        content[COPIES[run.method.average]] = run.copy.state_dict()
    elif run.copy is not None and run.method.average == "list":
        shadow = {"decay": 0.9, "num_updates": run.step, "shadow_params": [*run.copy.values()]}
        content[COPIES["list"]] = shadow
    elif run.copy is not None:
        content[COPIES["dict"]] = run.copy
    torch.save(content, path)
    return path


def restore(run: Run, path: Path, style: str = "short") -> Run:
    """Resume from a file as a training script does, everything strict."""
    keys = STYLES[style]
    content = torch.load(path, weights_only=True)
    run.model.load_state_dict(content[keys["model"]], strict=True)
    state = content[keys["optimizer"]]
    run.optimizer.load_state_dict(state[0] if style == "lightning" else state)
    run.schedule.load_state_dict(content[keys["schedule"]])
    run.step = content["step"]
    if isinstance(run.copy, AveragedModel):
        run.copy.load_state_dict(content[COPIES[run.method.average]], strict=True)
    elif run.copy is not None and run.method.average == "list":
        shadow = content[COPIES["list"]]["shadow_params"]
        run.copy = dict(zip(run.copy, shadow, strict=True))
    elif run.copy is not None:
        assert content[COPIES["dict"]].keys() == run.copy.keys()
        run.copy = dict(content[COPIES["dict"]])
    return run


# --- what most tests do ---------------------------------------------------------------------------


def state(build: Callable[[], nn.Module]) -> Mapping[str, Tensor]:
    return build().double().state_dict()


def trained(method: Method, build: Callable[[], nn.Module] = Old) -> Run:
    run = Run.start(method, build)
    run.advance(BEFORE)
    return run


def loss_gap(one: list[float], method: Method, path: Path, style: str = "short") -> float:
    """How far the losses of training resumed in the new network are from `one`."""
    resumed = restore(Run.start(method, New), path, style)
    assert resumed.step == BEFORE
    return difference(one, resumed.advance(AFTER))
