"""Release 1.1: "transformer" is called "encoder"; pruning permanent; parametrized weight norm."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["AuxHead", "Digits", "build"]

DIM, DEPTH, EXPERTS, CLASSES = 32, 2, 12, 16
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
KV_DIM = KV_HEADS * HEAD_DIM


class Stem(nn.Module):
    """Images [N, 1, 8, 8] of pixel values 0…16 to features [N, 32, 4, 4]."""

    pixel_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_scale", torch.tensor(16.0))
        self.conv1 = weight_norm(nn.Conv2d(1, 16, 3, padding=1))
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, DIM, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv1(images / self.pixel_scale)))
        return relu(self.conv2(x))


class Rotary(nn.Module):
    """Rotates the pairs (0, 1), (2, 3), … of each head by an angle that grows with the position."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)
        angles = torch.outer(positions, self.inv_freq)
        cos, sin = angles.cos(), angles.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Grouped-query attention: four query heads share two key and value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, DIM + 2 * KV_DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.rope = Rotary()

    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
            for part in self.qkv(x).split((DIM, KV_DIM, KV_DIM), dim=-1)
        )
        q = self.rope(q) * temperature[:, None, None]
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (self.rope(k), v))
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        projected: Tensor = self.proj(mixed)
        return projected


class Expert(nn.Module):
    """One small feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 16)
        self.fc2 = nn.Linear(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(gelu(self.fc1(x)))
        return y


class Mixture(nn.Module):
    """Twelve experts, all evaluated, weighted by a softmax router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, EXPERTS)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.router(x).softmax(dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (outputs * gates.unsqueeze(-2)).sum(dim=-1)


class Block(nn.Module):
    """Attention and mixture, each behind a norm and beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(DIM)
        self.moe = Mixture()

    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), temperature)
        return x + cast("Tensor", self.moe(self.norm2(x)))


class Encoder(nn.Module):
    """Tokens [N, 16, 32] to tokens of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(DEPTH, HEADS))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        for block, temperature in zip(self.blocks, self.temperature, strict=True):
            x = block(x, temperature)
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


class AuxHead(nn.Module):
    """Features to the logits of "even" and "odd"; used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 16)
        self.fc2 = nn.Linear(16, 2)

    def forward(self, features: Tensor) -> Tensor:
        y: Tensor = self.fc2(relu(self.fc1(features.mean(dim=(2, 3)))))
        return y


class Digits(nn.Module):
    """Images [N, 1, 8, 8] of pixel values 0…16 to logits [N, 16], of which ten are digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.encoder = Encoder()
        self.neck = Neck()
        self.final_conv = nn.Conv2d(DIM, CLASSES, 1)
        self.aux_head = AuxHead()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.neck(self.encoder(self.stem(images).flatten(2).transpose(1, 2)))
        grid = tokens.transpose(1, 2).unflatten(2, (4, 4))
        logits: Tensor = self.final_conv(grid).mean(dim=(2, 3))
        return logits

    def parity(self, images: Tensor) -> Tensor:
        """Logits [N, 2] of the auxiliary task."""
        y: Tensor = self.aux_head(self.stem(images))
        return y


def build() -> nn.Module:
    """An untrained model of release 1.1."""
    return Digits()
