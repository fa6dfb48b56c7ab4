"""Today's architecture, release 2.0: what `ckmigrate upgrade` brings every checkpoint to."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, linear, relu, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["Digits", "build"]

SIZE, DIM, DEPTH, EXPERTS, CLASSES = 8, 32, 2, 12, 10
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
KV_DIM = KV_HEADS * HEAD_DIM


class Resize(nn.Module):
    """Images of any fixed size to `size_out` by linear interpolation; the matrix is not trained."""

    matrix: Tensor

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        rows = interpolate(torch.eye(size_in)[None], size=size_out, mode="linear")
        self.register_buffer("matrix", rows[0].T.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return self.matrix @ images @ self.matrix.T


class Front(nn.Module):
    """Prepares the images of other scanners; starts as the identity on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.resize = Resize(SIZE, SIZE)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, images: Tensor) -> Tensor:
        x = self.resize(images)
        y: Tensor = self.linear(x + self.conv(x))
        return y


class Stem(nn.Module):
    """Prepared images [N, 1, 8, 8] to features [N, 32, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = weight_norm(nn.Conv2d(1, 16, 3, padding=1))
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, DIM, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(DIM, DIM, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv1(images / 16)))
        x = relu(self.conv2(x))
        return x + cast("Tensor", self.conv3(x))


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
        rows = DIM + 2 * KV_DIM
        self.in_proj_weight = nn.Parameter(torch.randn(rows, DIM) * DIM**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(rows))
        self.proj = nn.Linear(DIM, DIM)
        self.temperature = nn.Parameter(torch.ones(HEADS))

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:
        fused = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.reshape(*part.shape[:2], -1, HEAD_DIM).transpose(1, 2)
            for part in torch.split(fused, [DIM, KV_DIM, KV_DIM], dim=-1)
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


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Adapter(nn.Module):
    """A residual bottleneck, for fine-tuning with little memory; starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(DIM, 8, bias=False)
        self.up = nn.Linear(8, DIM, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.up(relu(self.down(x))))


class Block(nn.Module):
    """Attention and mixture, each normed, scaled and residual; then an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = Attention()
        self.ls1 = LayerScale()
        self.norm2 = nn.LayerNorm(DIM)
        self.moe = Mixture()
        self.ls2 = LayerScale()
        self.adapter = Adapter()

    def forward(self, x: Tensor, rope: nn.Module) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        x = x + self.ls2(self.moe(self.norm2(x)))
        y: Tensor = self.adapter(x)
        return y


class Encoder(nn.Module):
    """Tokens [N, 16, 32] to tokens of the same shape, through all blocks or through the first."""

    def __init__(self) -> None:
        super().__init__()
        self.rope = Rotary()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, *, early: bool) -> Tensor:
        for block in self.blocks[:1] if early else self.blocks:
            x = block(x, self.rope)
        y: Tensor = self.norm(x)
        return y


class Neck(nn.Module):
    """A residual three-layer network on every token."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 40)
        self.fc2 = nn.Linear(40, 40)
        self.fc3 = nn.Linear(40, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.fc3(relu(self.fc2(relu(self.fc1(x))))))


class Backbone(nn.Module):
    """Prepared images [N, 1, 8, 8] to logits [N, 10], from the last block or from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.encoder = Encoder()
        self.neck = Neck()
        self.head = nn.Linear(DIM, CLASSES)
        self.early_exit = nn.Linear(DIM, CLASSES)
        self.early_exit.weight = self.head.weight
        self.early_exit.bias = self.head.bias
        self.calibration = nn.Linear(CLASSES, CLASSES)

    def forward(self, images: Tensor, *, early: bool = False) -> Tensor:
        tokens = self.encoder(self.stem(images).flatten(2).transpose(1, 2), early=early)
        head = self.early_exit if early else self.head
        logits: Tensor = self.calibration(head(self.neck(tokens).mean(dim=1)))
        return logits


class Digits(nn.Module):
    """Images [N, 1, 8, 8] of pixel values 0…16 to logits [N, 10]; `early` stops after one block."""

    def __init__(self) -> None:
        super().__init__()
        self.front = Front()
        self.backbone = Backbone()

    def forward(self, images: Tensor, *, early: bool = False) -> Tensor:
        logits: Tensor = self.backbone(self.front(images), early=early)
        return logits


def build() -> nn.Module:
    """An untrained model of today's architecture."""
    return Digits()
