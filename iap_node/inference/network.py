"""ResNet-18 as arXiv 2303.04911 uses it, with torchvision's parameter names.

He et al. 2016, arXiv 1512.03385. One forward pass; the outputs of all parameters lie side by side in the last
layer. `width` 1 is the paper's network, 0.5 has half the channels everywhere. Called by the predictor and by
`training.fit`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, rows, columns) to (n, n_out, rows / stride, columns / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + shortcut)


class ResNet18(nn.Module):
    """(n, in_channels, size, size) to outputs (n, n_outputs) and pooled features (n, n_features)."""

    def __init__(self, in_channels: int, n_outputs: int, width: float = 1.0) -> None:
        super().__init__()
        stages = [round(n * width) for n in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(in_channels, stages[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(stages[0], stages[0], 1)
        self.layer2 = _stage(stages[0], stages[1], 2)
        self.layer3 = _stage(stages[1], stages[2], 2)
        self.layer4 = _stage(stages[2], stages[3], 2)
        self.fc = nn.Linear(stages[3], n_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of all parameters side by side, and the pooled feature that they are read from."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = x.mean(dim=(2, 3))
        return self.fc(features), features


def _stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(n_in, n_out, stride), BasicBlock(n_out, n_out, 1))
