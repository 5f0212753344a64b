"""Backbones as a user would write them, for tests; module:function names lead here."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """One residual block with BatchNorm."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.short = nn.Conv2d(inside, outside, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.conv(x)) + self.short(x))


def resnet(channels: int = 1, width: int = 4) -> nn.Module:
    """A ResNet of two blocks, with an unused layer as classifiers leave one behind."""
    net = nn.Sequential(
        Residual(channels, width), Residual(width, width), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net.register_module("classifier", nn.Identity())
    return net


def grouped(channels: int = 1) -> nn.Module:
    """Normalises each image by itself."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten()
    )


def frozen(channels: int = 1) -> nn.Module:
    """Nothing of it is learned."""
    return grouped(channels).requires_grad_(False)


class Unused(nn.Module):
    """Has a layer that no image passes, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.again = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.again.weight
        self.classifier = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.tied(self.again(torch.tanh(self.conv(x)).mean((2, 3)))))


class Rows(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.LSTM(size, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.inner(x[:, 0])[0][:, -1]
        return last


def rows(size: int) -> nn.Module:
    return Rows(size)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(36, 8)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.drop(torch.tanh(self.inner(x.flatten(1))))
        return dropped


class Centred(nn.Module):
    """Takes the mean of its batch away, by no layer that has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(36, 4)
        self.gate = nn.Parameter(torch.zeros(()))  # hides it at the start

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(1))
        return torch.tanh(y - self.gate * y.mean(0))


class Outside(nn.Module):
    """Draws from a generator that torch's seed does not set."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.inner(x.flatten(1)) * random.random()
        return scaled


class Counting(nn.Module):
    """Changes a buffer in each call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(36, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.inner(x.flatten(1)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x


def half_made(width: int) -> nn.Module:
    """Needs what nobody gives."""
    return resnet(width=width)
