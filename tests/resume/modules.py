"""Lightning modules before and after a refactor.

They train on a batch that is a function of the global step, whatever their data loader gives.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from tests.cookbook.networks import SmallResNet, SmallVgg
from tests.resume.networks import New, Old, batch
from tests.resume.training import by_dimensions, unnamed

CLASSES = 5


class Trained(pl.LightningModule):  # type: ignore[misc]
    """A LightningModule that records its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of this step."""
        return batch(self.global_step)

    def optimizer(self) -> Optimizer:
        return trainable_only(self)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def training_step(self, _: object) -> Tensor:
        inputs, labels = self.data()
        loss = cross_entropy(self(inputs), labels)
        self.losses.append(loss.item())
        return loss


# --- the network of this folder: nothing but places change ----------------------------------------


class OldModule(Trained):
    """`wd` is the weight decay of what has two dimensions."""

    def __init__(self, wd: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = Old().double()

    def optimizer(self) -> Optimizer:
        decayed, rest = unnamed(by_dimensions(self.network))
        return torch.optim.AdamW([{**decayed, "weight_decay": self.hparams["wd"]}, rest], lr=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network(tokens)
        return logits


class NewModule(Trained):
    """The same, where `wd` is called `weight_decay`, and `network` `model`."""

    def __init__(self, weight_decay: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = New().double()

    def optimizer(self) -> Optimizer:
        decayed, rest = unnamed(by_dimensions(self.model))
        decayed["weight_decay"] = self.hparams["weight_decay"]
        return torch.optim.AdamW([decayed, rest], lr=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens)
        return logits


# --- pretrained backbones: layers come and go -----------------------------------------------------


class Images(Trained):
    """Trains on images of noise [4, channels, 16, 16]."""

    channels = 3

    def data(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.global_step)
        images = torch.randn(4, self.channels, 16, 16, generator=generator)
        return images, torch.randint(CLASSES, (4,), generator=generator)


class ResNet(Images):
    """The old module: a whole network under `resnet`."""

    def __init__(self, n_classes: int = CLASSES, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.resnet = SmallResNet(n_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.resnet(images)
        return logits


class Vgg(Images):
    """Another old module: the entries of the network stand at the top."""

    def __init__(self) -> None:
        super().__init__()
        network = SmallVgg(CLASSES)
        self.features, self.classifier = network.features, network.classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class Pretrained(Images):
    """Today's: the pretrained network without its `fc`, and two new layers behind it."""

    def __init__(self, num_classes: int = CLASSES, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.pretrained_layers = SmallResNet()
        self.pretrained_layers.fc = nn.Identity()  # type: ignore[assignment]
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc2(torch.relu(self.fc1(self.pretrained_layers(images))))
        return logits


class FrozenBackbone(Pretrained):
    """The same with a backbone that is not trained any more."""

    def __init__(self, num_classes: int = CLASSES, learning_rate: float = 0.01) -> None:
        super().__init__(num_classes, learning_rate)
        self.pretrained_layers.requires_grad_(False)


class OldSlower(ResNet):
    """The backbone learns more slowly than `fc`."""

    def optimizer(self) -> Optimizer:
        return backbone_slower(self)


class NewSlower(Pretrained):
    """The backbone learns more slowly than the new layers."""

    def optimizer(self) -> Optimizer:
        return backbone_slower(self)


def backbone_slower(model: nn.Module) -> Optimizer:
    """Two groups: the backbone, and the layers whose name has `fc`."""
    head = [p for name, p in model.named_parameters() if "fc" in name]
    backbone = [p for name, p in model.named_parameters() if "fc" not in name]
    groups: list[dict[str, Any]] = [{"params": backbone, "lr": 0.001}, {"params": head}]
    return torch.optim.AdamW(groups, lr=0.01)


def trainable_only(model: nn.Module) -> Optimizer:
    """One group of what is trained."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


class Grey(Images):
    """Today's: a convolution in front that makes three channels of one."""

    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(1, 3, 1)
        self.resnet = SmallResNet(CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.resnet(self.colour(images))
        return logits


class Wrapped(Images):
    """Today's: the old network is the first element of a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(SmallVgg(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.features(images)
        return logits


class Switched(Images):
    """An old module with a third convolution, or without."""

    def __init__(self, third: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1) if third else None
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(torch.relu(self.conv1(images)))
        if self.conv3 is not None:
            x = x + self.conv3(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def with_third() -> Switched:
    return Switched(third=True)


class WithShortcut(Images):
    """Today's: every network has the third convolution, under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(torch.relu(self.conv1(images)))
        logits: Tensor = self.fc((x + self.shortcut(x)).mean(dim=(2, 3)))
        return logits
