"""The initialisers that are read off a model are those that it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ckmigrate import init
from ckmigrate.autogenerate.distributions import Law, fits, is_orthogonal
from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.initialisers import compare_builds, read_initialisers
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.init import Initialiser
from ckmigrate.spec import DType, TensorSpec
from tests.autogenerate.schemas import linear, snapshot


class Zoo(nn.Module):
    """One of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 48)
        self.conv = nn.Conv2d(8, 16, 3)
        self.back = nn.ConvTranspose2d(8, 16, 3)
        self.batch = nn.BatchNorm2d(8)
        self.layer = nn.LayerNorm(8)
        self.group = nn.GroupNorm(2, 8)
        self.embedding = nn.Embedding(50, 40)
        self.attention = nn.MultiheadAttention(32, 4)
        self.lstm = nn.LSTM(16, 16)
        self.bilinear = nn.Bilinear(8, 9, 10)
        self.scale = nn.Parameter(torch.full((8,), 1e-5))
        self.temperature = nn.Parameter(torch.tensor(2.6592))
        self.identity = nn.Linear(8, 8, bias=False)
        nn.init.eye_(self.identity.weight)
        self.position = nn.Parameter(torch.randn(1, 200, 8) * 0.02)
        self.xavier = nn.Linear(64, 96, bias=False)
        nn.init.xavier_normal_(self.xavier.weight)
        self.orthogonal = nn.Linear(16, 24, bias=False)
        nn.init.orthogonal_(self.orthogonal.weight)
        self.register_buffer("frequencies", 100.0 ** -torch.arange(4.0))
        self.register_buffer("mask", torch.ones(4, 4).tril().bool())


def zoo(seed: int) -> Zoo:
    torch.manual_seed(seed)
    return Zoo()


READ = compare_builds(zoo(1), zoo(2), list(Zoo().state_dict()))

DEFAULT = "init.kaiming_uniform(a=5**0.5)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("linear.weight", DEFAULT),
        ("linear.bias", "init.uniform(-(64**-0.5), 64**-0.5)"),
        ("conv.weight", DEFAULT),
        ("conv.bias", "init.uniform(-(72**-0.5), 72**-0.5)"),
        ("back.weight", DEFAULT),
        ("back.bias", "init.uniform(-(144**-0.5), 144**-0.5)"),
        ("batch.running_var", "init.ones()"),
        ("batch.running_mean", "init.zeros()"),
        ("batch.num_batches_tracked", "init.zeros()"),
        ("layer.weight", "init.ones()"),
        ("group.bias", "init.zeros()"),
        ("embedding.weight", "init.normal()"),
        ("attention.in_proj_weight", "init.xavier_uniform()"),
        ("attention.in_proj_bias", "init.zeros()"),
        ("attention.out_proj.weight", DEFAULT),
        ("lstm.weight_hh_l0", "init.uniform(-(16**-0.5), 16**-0.5)"),
        ("bilinear.bias", "init.uniform(-(8**-0.5), 8**-0.5)"),
        ("scale", "init.full(1e-05)"),
        ("temperature", "init.full(2.6592)"),
        ("identity.weight", "init.eye()"),
    ],
)
def test_what_torch_says_and_the_values_confirm(name: str, text: str) -> None:
    assert READ.texts[name] == text
    assert name not in READ.unsure


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("position", "init.normal(std=0.02)"),
        ("xavier.weight", "init.xavier_normal()"),
        ("orthogonal.weight", "init.orthogonal()"),
    ],
)
def test_what_was_only_measured_is_in_doubt(name: str, text: str) -> None:
    assert READ.texts[name] == text
    assert READ.unsure[name]


@pytest.mark.parametrize("name", ["frequencies", "mask"])
def test_what_the_model_computes_has_no_initialiser(name: str) -> None:
    assert name not in READ.texts
    assert "persistent=False" in READ.unsure[name]


@pytest.mark.parametrize(
    "name",
    [
        *("linear.weight", "linear.bias", "conv.weight", "conv.bias", "back.weight"),
        *("embedding.weight", "attention.in_proj_weight", "lstm.weight_hh_l0", "bilinear.weight"),
        "position",
    ],
)
def test_our_values_are_of_the_distribution_of_the_models(name: str) -> None:
    theirs = zoo(3).state_dict()[name].flatten().double().sort().values
    ours = drawn(READ.texts[name], tuple(zoo(3).state_dict()[name].shape)).flatten().sort().values
    # Kolmogorov and Smirnov: the distance of two empirical distributions of n values each.
    both = torch.cat([theirs, ours])
    ranks = [torch.searchsorted(side, both, right=True) / len(side) for side in (theirs, ours)]
    distance = float((ranks[0] - ranks[1]).abs().max())
    assert distance < 1.95 * (2 / len(ours)) ** 0.5


def drawn(text: str, shape: tuple[int, ...]) -> torch.Tensor:
    value = eval(text, {"init": init})
    assert isinstance(value, Initialiser)
    expr = value.build(TensorSpec(DType.F32, shape), "key/name")
    data = Evaluator(lambda *_: b"").evaluate(expr).tobytes()
    return torch.from_numpy(np.frombuffer(data, np.float32).copy()).double()


def test_another_distribution_is_told_apart() -> None:
    torch.manual_seed(0)
    values = torch.randn(3000)
    assert fits(Law("normal", 1.0, ""), values)
    assert not fits(Law("normal", 1.2, ""), values)
    assert not fits(Law("uniform", 3**0.5, ""), values)
    assert not is_orthogonal(torch.randn(8, 8))


def test_a_model_too_large_to_build_leaves_every_answer_in_doubt() -> None:
    names = ["linear.weight", "layer.weight"]
    factory = f"{Zoo.__module__}:{Zoo.__name__}"
    found = read_initialisers(factory, "zoo", names, most_bytes=10)
    assert found.texts == {"linear.weight": DEFAULT}
    assert found.unsure.keys() == set(names)
    assert not read_initialisers(factory, "zoo", names).unsure


def test_a_draft_makes_certain_what_is_known_and_asks_for_the_rest() -> None:
    old = snapshot(linear("head", 4, 8))
    new = snapshot(linear("head", 4, 8) | {"ls.scale": (4,), "guess": (4,), "rope": (4,)})
    texts = {"ls.scale": "init.full(1e-05)", "guess": "init.normal(std=0.02)"}
    found = draft(old, new, initialisers=texts, unsure={"guess": "measured", "rope": "computed"})
    told = {(p.certainty, p.call) for p in found.proposals}
    assert told == {
        ("certain", 'ck.init("ls.scale", shape=(4,), value=init.full(1e-05))'),
        ("guess", 'ck.init("guess", shape=(4,), value=init.normal(std=0.02))'),
        ("ambiguous", 'ck.todo("rope is new: computed")'),
    }
