"""Linear systems that the tests of solvers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.linear.operator import Operator

N = 6
BATCHES = [(), (3,), (2, 3)]


def symmetric(batch: tuple[int, ...], spectrum: Sequence[float] | Tensor, seed: int) -> Tensor:
    """Random symmetric matrices with these eigenvalues, in float64."""
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64))
    matrix: Tensor = (basis * values) @ basis.mT
    return (matrix + matrix.mT) / 2


def decades(condition: float, n: int = N) -> Tensor:
    """From 1 down to 1/condition, evenly in the logarithm."""
    return torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)


def spd(batch: tuple[int, ...], condition: float, seed: int, dtype: torch.dtype) -> Tensor:
    """Symmetric positive definite, eigenvalues from 1/condition to 1, evenly in the logarithm."""
    return symmetric(batch, decades(condition), seed).to(dtype)


def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The map of a matrix."""
    return lambda vector: (matrix @ vector[..., None])[..., 0]


def right_hand_side(
    batch: tuple[int, ...], dtype: torch.dtype = torch.float64, n: int = N
) -> Tensor:
    """Random, the same each time."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*batch, n, generator=generator, dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Form:
    """A closed form with a diagonal only."""

    known: Tensor

    def product(self, vector: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, rhs: Tensor) -> Tensor:
        raise NotImplementedError

    def diagonal(self) -> Tensor:
        return self.known


def verified_by(
    steps: Callable[[Tensor], Tensor],
    truth: Callable[[Tensor], Tensor],
    known: Tensor | None = None,
) -> Operator:
    """A map whose answers are verified by another."""
    return Operator(steps, exact=truth, form=None if known is None else Form(known))
