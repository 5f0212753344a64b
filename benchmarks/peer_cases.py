"""The problems of benchmarks/peers.py, each with its minimiser and its exact hypergradient.

The oracles are dense linear algebra, written out here: nothing of hypergrad, no autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.provenance import SEED

CONDITION = 100.0  # of the quadratics


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem at one point. All that a method may use is lower, upper, theta and phi.

    Attributes:
        name: what the table calls it.
        lower: g(theta, phi), one number.
        upper: f(theta, phi), one number.
        theta: where the hypergradient is taken.
        phi: the minimiser of g(theta, .), the same for every method.
        stationarity: ``|d g/d phi| / |d f/d phi|`` there.
        exact: the hypergradient at phi, by a dense factorisation.
        product: the Hessian product, flat; with ``pull`` it says how many unrolled steps it takes.
        pull: ``-J v``.
        cotangent: d f/d phi, flat.
        smallest: least eigenvalue of the Hessian.
        largest: greatest.
        matrix: the Hessian, of a quadratic g = phi'A phi / 2 - phi'theta; None for any other.
    """

    name: str
    lower: Callable[[Tensor, Tensor], Tensor]
    upper: Callable[[Tensor, Tensor], Tensor]
    theta: Tensor
    phi: Tensor
    stationarity: float
    exact: Tensor
    product: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    cotangent: Tensor
    smallest: float
    largest: float
    matrix: Tensor | None = None

    def error(self, gradient: Tensor) -> float:
        """Relative to the exact hypergradient's norm."""
        return float((gradient - self.exact).norm() / self.exact.norm())


def quadratic(size: int) -> Case:
    """``g = phi'A phi / 2 - phi'theta``, ``f = |phi - target|^2 / 2``, kappa = CONDITION."""
    draw = torch.Generator().manual_seed(SEED)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    spectrum = torch.logspace(0, -torch.tensor(CONDITION).log10(), size, dtype=torch.float64)
    matrix = (basis * spectrum) @ basis.mT
    matrix = (matrix + matrix.mT) / 2
    theta = torch.randn(size, generator=draw, dtype=torch.float64)
    target = torch.randn(size, generator=draw, dtype=torch.float64)
    factor = torch.linalg.cholesky(matrix)

    def solve(rhs: Tensor) -> Tensor:
        return torch.cholesky_solve(rhs[:, None], factor)[:, 0]

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        bent: Tensor = phi @ (matrix @ phi) / 2
        return bent - phi @ theta

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - target).square().sum() / 2

    phi = solve(theta)
    cotangent = phi - target
    return Case(
        name=f"quadratic, d = {size}",
        lower=lower,
        upper=upper,
        theta=theta,
        phi=phi,
        stationarity=float((matrix @ phi - theta).norm() / cotangent.norm()),
        exact=solve(cotangent),  # d g/d phi = A phi - theta, so J = -I
        product=lambda vector: matrix @ vector,
        pull=lambda vector: vector,
        cotangent=cotangent,
        smallest=float(spectrum.min()),
        largest=float(spectrum.max()),
        matrix=matrix,
    )


def logistic(examples: int, size: int, classes: int) -> Case:
    """Softmax regression with one L2 strength for each feature: theta is their logarithms.

    ``g = mean_j cross_entropy(W x_j, y_j) + sum_id exp(theta_d) W_id^2 / 2``; f is the mean cross
    entropy of as many held-out examples.
    """
    draw = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    teacher = normal(classes, size) * 3 / size**0.5
    x, x_held = normal(examples, size), normal(examples, size)
    noise = [-torch.rand(examples, classes, generator=draw).log() for _ in range(2)]
    y, y_held = (
        ((features @ teacher.mT).exp() / rate).argmax(-1)  # one draw from the teacher's softmax
        for features, rate in zip((x, x_held), noise, strict=True)
    )
    theta = -4 + normal(size) / 2
    weight = theta.exp()
    cross_entropy = torch.nn.functional.cross_entropy

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return cross_entropy(x @ phi.mT, y) + (theta.exp() * phi.square()).sum() / 2

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return cross_entropy(x_held @ phi.mT, y_held)

    def excess(features: Tensor, labels: Tensor, phi: Tensor) -> Tensor:
        """Probabilities minus labels."""
        share = (features @ phi.mT).softmax(-1)
        return share - torch.nn.functional.one_hot(labels, classes).to(share.dtype)

    def gradient(phi: Tensor) -> Tensor:
        return excess(x, y, phi).mT @ x / examples + weight * phi

    def product_at(phi: Tensor) -> Callable[[Tensor], Tensor]:
        share = (x @ phi.mT).softmax(-1)

        def product(vector: Tensor) -> Tensor:
            direction = vector.view(classes, size)
            moved = share * (x @ direction.mT)
            curved = moved - share * moved.sum(-1, keepdim=True)
            return (curved.mT @ x / examples + weight * direction).reshape(-1)

        return product

    phi = torch.zeros(classes, size, dtype=torch.float64)
    residual = -gradient(phi)
    while residual.norm() > 1e-15 * examples**0.5:  # Newton by conjugate gradients, damped
        move = _conjugate_gradients(product_at(phi), residual.reshape(-1), 1e-6).view_as(phi)
        while gradient(phi + move).norm() >= residual.norm():
            move = move / 2
        phi = phi + move
        residual = -gradient(phi)
    cotangent = (excess(x_held, y_held, phi).mT @ x_held / examples).reshape(-1)
    factor = torch.linalg.cholesky(_dense_hessian(x, (x @ phi.mT).softmax(-1), weight))
    product = product_at(phi)

    def pull(vector: Tensor) -> Tensor:
        return -weight * (phi * vector.view_as(phi)).sum(0)

    def inverse(vector: Tensor) -> Tensor:
        return torch.cholesky_solve(vector[:, None], factor)[:, 0]

    return Case(
        name=f"logistic, n = {examples}, d = {size}, {classes} classes",
        lower=lower,
        upper=upper,
        theta=theta,
        phi=phi,
        stationarity=float(gradient(phi).norm() / cotangent.norm()),
        exact=pull(inverse(cotangent)),
        product=product,
        pull=pull,
        cotangent=cotangent,
        smallest=1 / _largest(inverse, cotangent),
        largest=_largest(product, cotangent),
    )


def _dense_hessian(x: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """``mean_j (diag p_j - p_j p_j') (x) x_j x_j' + diag(weight)``, block by block."""
    (examples, size), classes = x.shape, share.shape[1]
    hessian = x.new_zeros(classes, size, classes, size)
    for a in range(classes):
        for b in range(a + 1):
            curved = -share[:, a] * share[:, b] + (share[:, a] if a == b else 0)
            block = x.mT @ (curved[:, None] * x) / examples
            hessian[a, :, b, :] = block
            hessian[b, :, a, :] = block.mT
        hessian[a, :, a, :].diagonal().add_(weight)
    return hessian.view(classes * size, classes * size)


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float
) -> Tensor:
    x, residual = torch.zeros_like(rhs), rhs.clone()
    direction, square = residual.clone(), residual @ residual
    goal = square * tolerance**2
    while square > goal:
        image = product(direction)
        length = square / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        square, before = residual @ residual, square
        direction = residual + square / before * direction
    return x


def _largest(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """The greatest eigenvalue, by power iteration: from below, and to a few per mille."""
    vector, value = start / start.norm(), 0.0
    for _ in range(100):
        image = product(vector)
        value = float(image.norm())
        vector = image / value
    return value
