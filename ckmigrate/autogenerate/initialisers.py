"""How the model fills its entries before training, as the text of an initialiser.

The model is built twice, with two seeds. What is the same in both and constant is a constant; what
is the same and not constant is computed by the model (rotary frequencies, masks), and no
initialiser can make it. What differs is random: torch's own modules say by which formula, and that
is believed only where the values agree with it. Anything else is measured, and a guess.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.autogenerate.distributions import Law, fits, is_orthogonal, spread
from ckmigrate.target import build_model

if TYPE_CHECKING:
    import torch

__all__ = ["Initialisers", "compare_builds", "read_initialisers"]

_SEEDS = (20_260, 60_202)
_FEWEST = 30
"""Values, to tell one distribution from another."""


@dataclass(frozen=True, slots=True)
class Initialisers:
    """What a model does with its new entries.

    texts   name → the text of an initialiser, such as "init.ones()"
    unsure  name → why the text is not to be trusted, or why there is none
    """

    texts: Mapping[str, str]
    unsure: Mapping[str, str]


def read_initialisers(
    factory: str,
    name: str,
    entries: Collection[str],
    *,
    python_path: Sequence[str | Path] = (),
    params: Mapping[str, object] | None = None,
    most_bytes: int = 4 << 30,
) -> Initialisers:
    """The initialisers of some entries of the model that `factory` names.

    The model is built for real, twice, unless it is larger than `most_bytes`: then only its
    modules are looked at, and every answer is in doubt. UsageError as
    `ckmigrate.target.load_target`.
    """

    def build(seed: int | None) -> torch.nn.Module:
        return build_model(factory, name, seed=seed, python_path=python_path, params=params)

    plain = build(None)
    state = plain.state_dict()
    if sum(getattr(value, "nbytes", 0) for value in state.values()) > most_bytes:
        return _of_modules(plain, entries)
    first, second = build(_SEEDS[0]), build(_SEEDS[1])
    return compare_builds(first, second, entries)


def _of_modules(model: torch.nn.Module, entries: Collection[str]) -> Initialisers:
    found = {name: law.text for name in entries if (law := _law(model, name)) is not None}
    why = "the model is too large to be built here; this is what torch's own module does"
    none = "the model is too large to be built here, and its module is none of torch's own"
    return Initialisers(found, {name: why if name in found else none for name in entries})


def compare_builds(
    first: torch.nn.Module, second: torch.nn.Module, entries: Collection[str]
) -> Initialisers:
    """As `read_initialisers`, of two builds with different seeds."""
    import torch

    one, other = first.state_dict(), second.state_dict()
    texts: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for name in entries:
        values, again = one.get(name), other.get(name)
        if isinstance(values, torch.Tensor) and isinstance(again, torch.Tensor):
            text, doubt = _read(first, name, values.detach(), again.detach())
            texts |= {name: text} if text else {}
            unsure |= {name: doubt} if doubt else {}
    return Initialisers(texts, unsure)


def _read(
    model: torch.nn.Module, name: str, values: torch.Tensor, again: torch.Tensor
) -> tuple[str, str]:
    """The text of the initialiser, and what is doubtful about it; "" for neither."""
    import torch

    same = values.shape == again.shape and torch.equal(values, again)
    constant = _constant(values) if same else None
    if constant is not None:
        return constant, ""
    if values.is_floating_point() and values.isfinite().all():
        law = _law(model, name)
        if law is not None and fits(law, values) and fits(law, again):
            return law.text, "" if values.numel() >= 2 else "a single value shows no distribution"
        if not same:
            return _measured(values)
    why = "the model computes it, and no initialiser makes it: register_buffer(persistent=False) "
    return "", why + "keeps it out of checkpoints, or write its values with ck.compute"


def _constant(values: torch.Tensor) -> str | None:
    """A constant, or the identity; None for anything else."""
    import torch

    if values.is_complex() or not values.numel():
        return None if values.numel() else "init.zeros()"
    first = values.flatten()[0]
    if bool((values == first).all()):
        number = first.item()
        if number in (0, 1):
            return "init.ones()" if number else "init.zeros()"
        return f"init.full({_shortest(first)})"
    if values.ndim == 2 and torch.equal(values, torch.eye(*values.shape, dtype=values.dtype)):
        return "init.eye()"
    return None


def _shortest(value: torch.Tensor) -> str:
    """The shortest decimal that is this number in its dtype."""
    import torch

    number = value.item()
    if not value.is_floating_point() or not math.isfinite(number):
        return f'float("{number}")' if isinstance(number, float) else repr(number)
    for digits in range(1, 18):
        text = f"{number:.{digits}g}"
        if torch.tensor(float(text), dtype=value.dtype) == value:
            return repr(float(text))
    return repr(number)


def _law(model: torch.nn.Module, name: str) -> Law | None:
    """What the `reset_parameters` of torch's own modules draws from; None for any other module."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        parameter = module.get_parameter(leaf)
    except AttributeError:
        return None
    return next(_laws(module, leaf, parameter), None)


def _laws(module: torch.nn.Module, leaf: str, parameter: torch.nn.Parameter) -> Iterator[Law]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if isinstance(module, (nn.Linear, _ConvNd)) and leaf == "weight":
        bound = max(_fans(parameter)[0], 1) ** -0.5
        yield Law("uniform", bound, "init.kaiming_uniform(a=5**0.5)")
    if isinstance(module, (nn.Linear, _ConvNd)) and leaf == "bias":
        yield _bounded(_fans(module.weight)[0])
    if isinstance(module, nn.Bilinear):
        yield _bounded(module.in1_features)
    if isinstance(module, nn.RNNBase):
        yield _bounded(module.hidden_size)
    if isinstance(module, nn.modules.rnn.RNNCellBase):
        yield _bounded(module.hidden_size)
    if isinstance(module, nn.Embedding) and module.padding_idx is None:
        yield Law("normal", 1.0, "init.normal()")
    if isinstance(module, nn.EmbeddingBag) and module.padding_idx is None:
        yield Law("normal", 1.0, "init.normal()")
    if isinstance(module, nn.MultiheadAttention) and leaf.endswith("_weight"):
        yield _xavier(parameter)


def _bounded(fan: int) -> Law:
    """Uniform within ± 1/√fan."""
    bound = f"{max(fan, 1)}**-0.5"
    return Law("uniform", max(fan, 1) ** -0.5, f"init.uniform(-({bound}), {bound})")


def _fans(parameter: torch.Tensor) -> tuple[int, int]:
    receptive = math.prod(parameter.shape[2:])
    return parameter.shape[1] * receptive, parameter.shape[0] * receptive


def _xavier(parameter: torch.Tensor) -> Law:
    deviation = math.sqrt(2 / max(sum(_fans(parameter)), 1))
    return Law("uniform", math.sqrt(3) * deviation, "init.xavier_uniform()")


def _measured(values: torch.Tensor) -> tuple[str, str]:
    """The first formula that the values agree with."""
    if is_orthogonal(values):
        return "init.orthogonal()", "its rows or columns are orthonormal"
    if values.numel() < _FEWEST:
        return f"init.normal(std={_rounded(spread(values))})", "measured on few values"
    laws = [*_formulas(values), *_plain(values)]
    law = next((law for law in laws if fits(law, values)), None)
    if law is None:
        return f"init.normal(std={_rounded(spread(values))})", "only its deviation was measured"
    return law.text, "the values agree with it; that is all that is known"


def _formulas(values: torch.Tensor) -> Iterator[Law]:
    if values.ndim < 2:
        return
    fan_in, fan_out = _fans(values)
    if not fan_in or not fan_out:
        return
    both = math.sqrt(2 / (fan_in + fan_out))
    yield Law("uniform", math.sqrt(1 / fan_in), "init.kaiming_uniform(a=5**0.5)")
    yield Law("uniform", math.sqrt(6 / fan_in), "init.kaiming_uniform()")
    yield Law("normal", math.sqrt(2 / fan_in), "init.kaiming_normal()")
    yield Law("uniform", math.sqrt(3) * both, "init.xavier_uniform()")
    yield Law("normal", both, "init.xavier_normal()")
    yield Law("normal", math.sqrt(2 / fan_out), f"init.normal(std=(2 / {fan_out})**0.5)")


def _plain(values: torch.Tensor) -> Iterator[Law]:
    deviation = spread(values)
    near = float(_rounded(deviation))
    bound = float(f"{float(values.abs().max()):.2g}")
    yield Law("normal", near, f"init.normal(std={near!r})")
    yield Law("uniform", bound, f"init.uniform({-bound!r}, {bound!r})")
    yield Law("normal", deviation, f"init.normal(std={float(f'{deviation:.4g}')!r})")


def _rounded(number: float) -> str:
    return repr(float(f"{number:.1g}")) if number else "0.0"
