"""One network before a refactor and after it: the same function under other names, in other parts.

before                                after
embed                                 tokens                declared last instead of first
layers.{i}.norm                       encoder.blocks.{i}.norm
layers.{i}.qkv                        …{q,k,v}              split; rows of q and k permuted
layers.{i}.out.weight                 …out.weight           transposed, square
layers.{i}.{gate,up}.weight           …gate_up.weight       joined
layers.{i}.down.weight                …down.weight          transposed
statistics                            statistics            batch norm: buffers among parameters
classifier                            head                  declared first

Every change is of places only, so an optimizer that treats each element alone takes the same steps
in both. Blocks are alike, so that state in a wrong place fits there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

__all__ = ["SCRIPT", "Frozen", "New", "Old", "OldReordered", "Reordered", "batch"]

VOCABULARY, LENGTH, DIM, INNER, CLASSES, DEPTH = 12, 5, 8, 12, 4, 2

SCRIPT = """
ck.rename("layers.**", "encoder.blocks.**")
ck.rename("embed.**", "tokens.**")
ck.rename("classifier.**", "head.**")
block = "encoder.blocks.{i}"
ck.split(f"{block}.qkv.{{p}}", f"{block}.{{q,k,v}}.{{p}}", dim=0)
ck.rearrange(f"{block}.{{q,k}}.weight", "(pair two) dim -> (two pair) dim", two=2)
ck.rearrange(f"{block}.{{q,k}}.bias", "(pair two) -> (two pair)", two=2)
ck.transpose(f"{block}.{{out,down}}.weight", 0, 1)
ck.concat(f"{block}.{{gate,up}}.weight", f"{block}.gate_up.weight")
"""
"""The body of `upgrade(ck)`."""


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    """The tokens [B, LENGTH] and labels [B] of a step: a function of its number only."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(VOCABULARY, (size, LENGTH), generator=generator)
    return tokens, tokens.sum(dim=1) % CLASSES


class OldLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)
        self.gate = nn.Linear(DIM, INNER, bias=False)
        self.up = nn.Linear(DIM, INNER, bias=False)
        self.down = nn.Linear(INNER, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(scaled_dot_product_attention(q, k, v))
        y: Tensor = x + self.down(silu(self.gate(x)) * self.up(x))
        return y


class Old(nn.Module):
    """Tokens [B, LENGTH] to logits [B, CLASSES]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, DIM)
        self.layers = nn.ModuleList(OldLayer() for _ in range(DEPTH))
        self.statistics = nn.BatchNorm1d(DIM)
        self.classifier = nn.Linear(DIM, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(self.statistics(x.mean(dim=1)))
        return logits


class Transposed(nn.Module):
    """A linear layer whose weight is [input, output]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.weight = nn.Parameter(torch.randn(width_in, width_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = Transposed(INNER, DIM)
        self.gate_up = nn.Linear(DIM, 2 * INNER, bias=False)
        self.out = Transposed(DIM, DIM)
        self.v = nn.Linear(DIM, DIM)
        self.k = nn.Linear(DIM, DIM)
        self.q = nn.Linear(DIM, DIM)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.out(scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        z: Tensor = x + self.down(silu(gate) * up)
        return z


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class New(nn.Module):
    """The same function as `Old`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(DIM, CLASSES)
        self.statistics = nn.BatchNorm1d(DIM)
        self.encoder = Encoder()
        self.tokens = nn.Embedding(VOCABULARY, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(self.tokens(tokens))
        logits: Tensor = self.head(self.statistics(x.mean(dim=1)))
        return logits


class Frozen(New):
    """Today's network with its embedding frozen by its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens.requires_grad_(False)


class OldReordered(nn.Module):
    """Three layers of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, DIM)
        self.first = nn.Linear(DIM, DIM)
        self.second = nn.Linear(DIM, DIM)
        self.third = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).mean(dim=1)
        y: Tensor = self.third(silu(self.second(silu(self.first(x)))))
        return y


class Reordered(OldReordered):
    """The same names and shapes; only the order of the declarations is another one, so that
    state in its old place loads without a word."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("third", "first", "second"):
            module = self._modules.pop(name)
            self._modules[name] = module
