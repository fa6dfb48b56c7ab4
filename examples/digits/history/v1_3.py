"""Release 1.3: no auxiliary head; stacked experts; rotary embedding in halves, kept once."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["Digits", "build"]

DIM, DEPTH, EXPERTS, CLASSES = 32, 2, 12, 10
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
KV_DIM = KV_HEADS * HEAD_DIM


class Stem(nn.Module):
    """Images [N, 1, 8, 8] of pixel values 0…16 to features [N, 32, 4, 4]."""

    def __init__(self, *, conv3: bool) -> None:
        super().__init__()
        self.conv1 = weight_norm(nn.Conv2d(1, 16, 3, padding=1))
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, DIM, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(DIM, DIM, 3, padding=1) if conv3 else None

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv1(images / 16)))
        x = relu(self.conv2(x))
        return x if self.conv3 is None else x + cast("Tensor", self.conv3(x))


class Rotary(nn.Module):
    """Rotates the halves of each head by an angle that grows with the position."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
        angles = torch.outer(positions, self.inv_freq)
        cos, sin = angles.cos(), angles.sin()
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention: four query heads share two key and value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(DIM, DIM)
        self.k = nn.Linear(DIM, KV_DIM)
        self.v = nn.Linear(DIM, KV_DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.temperature = nn.Parameter(torch.ones(HEADS))

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
            for part in (self.q(x), self.k(x), self.v(x))
        )
        q = rope(q) * self.temperature[:, None, None]
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (rope(k), v))
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        projected: Tensor = self.proj(mixed)
        return projected


class Experts(nn.Module):
    """Twelve feed-forward networks in stacked weights [expert, input, output]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = StackedLinear(DIM, 16)
        self.fc2 = StackedLinear(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(gelu(self.fc1(x.unsqueeze(0))))
        return y


class StackedLinear(nn.Module):
    """One linear layer per expert: [E or 1, N, T, I] to [E, N, T, O]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, width_in, width_out) * width_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(EXPERTS, width_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.unsqueeze(1) + self.bias[:, None, None]


class Mixture(nn.Module):
    """Twelve experts, all evaluated, weighted by a softmax router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, EXPERTS)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.router(x).softmax(dim=-1)
        return torch.einsum("entd,nte->ntd", self.experts(x), gates)


class Block(nn.Module):
    """Attention and mixture, each behind a norm and beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(DIM)
        self.moe = Mixture()

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + cast("Tensor", self.moe(self.norm2(x)))


class Encoder(nn.Module):
    """Tokens [N, 16, 32] to tokens of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.rope = Rotary()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, self.rope)
        y: Tensor = self.norm(x)
        return y


class Neck(nn.Module):
    """A residual two-layer network on every token."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 24)
        self.fc2 = nn.Linear(24, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.fc2(relu(self.fc1(x))))


class Pool(nn.Module):
    """Mean over the places of a grid: [N, C, H, W] to [N, C]."""

    def forward(self, grid: Tensor) -> Tensor:
        return grid.mean(dim=(2, 3))


class Digits(nn.Module):
    """Images [N, 1, 8, 8] of pixel values 0…16 to logits [N, 10]."""

    def __init__(self, *, conv3: bool) -> None:
        super().__init__()
        self.stem = Stem(conv3=conv3)
        self.encoder = Encoder()
        self.neck = Neck()
        self.final_conv = nn.Sequential(Pool(), nn.Linear(DIM, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.neck(self.encoder(self.stem(images).flatten(2).transpose(1, 2)))
        grid = tokens.transpose(1, 2).unflatten(2, (4, 4))
        logits: Tensor = self.final_conv(grid)
        return logits


def build(*, conv3: bool = False) -> nn.Module:
    """An untrained model of release 1.3; some checkpoints were trained with a third convolution."""
    return Digits(conv3=conv3)
