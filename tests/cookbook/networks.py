"""Small networks of the usual families, with the names that their large relatives have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Block", "SmallResNet", "SmallVgg"]


class Block(nn.Module):
    """Two convolutions with batch normalisation and a shortcut."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(inner)))


class SmallResNet(nn.Module):
    """Stem, two stages of residual blocks, average pool, `fc`."""

    def __init__(self, classes: int = 10, kernel: int = 3, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width), Block(width))
        self.layer2 = nn.Sequential(Block(width, kernel))
        self.fc = nn.Linear(width, classes)

    def features(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer2(self.layer1(x))
        pooled: Tensor = x.mean(dim=(2, 3))
        return pooled

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(image))
        return logits


class SmallVgg(nn.Module):
    """`features` of convolutions and pools, `classifier` of linear layers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(image).flatten(1))
        return logits
