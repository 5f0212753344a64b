"""The problems of benchmarks/peers.py, each with its minimiser and its exact hypergradient.

The oracles are dense linear algebra, written out here: nothing of hypergrad, no autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.provenance import SEED

CONDITION = 100.0  # of the quadratics


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem at one point. All that a method may use is lower, upper, theta and phi.

    Attributes:
        name: its name in tables.
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
        family: names the objectives, for peers that need them in another language.
        arrays: the objectives' data, in the family's order.
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
    family: str
    arrays: tuple[Tensor, ...]
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
        family="quadratic",
        arrays=(matrix, target),
        matrix=matrix,
    )


@dataclass(frozen=True, eq=False)
class Softmax:
    """Softmax regression with one L2 strength for each feature: theta is their logarithms.

    ``g = mean_j cross_entropy(W x_j, y_j) + sum_id exp(theta_d) W_id^2 / 2``; f is the mean cross
    entropy of as many held-out examples. Its derivatives are written out, for the oracles.
    """

    x: Tensor  # (examples, size)
    y: Tensor  # (examples,)
    x_held: Tensor
    y_held: Tensor
    classes: int

    @classmethod
    def drawn(cls, examples: int, size: int, classes: int) -> tuple[Softmax, Tensor]:
        """The problem and a theta. Labels are draws from a teacher's softmax."""
        draw = torch.Generator().manual_seed(SEED)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        teacher = normal(classes, size) * 3 / size**0.5
        x, x_held = normal(examples, size), normal(examples, size)
        noise = [-torch.rand(examples, classes, generator=draw).log() for _ in range(2)]
        y, y_held = (
            ((features @ teacher.mT).exp() / rate).argmax(-1)
            for features, rate in zip((x, x_held), noise, strict=True)
        )
        return cls(x, y, x_held, y_held, classes), -4 + normal(size) / 2

    def lower(self, theta: Tensor, phi: Tensor) -> Tensor:
        """g."""
        return cross_entropy(self.x @ phi.mT, self.y) + (theta.exp() * phi.square()).sum() / 2

    def upper(self, theta: Tensor, phi: Tensor) -> Tensor:
        """f."""
        return cross_entropy(self.x_held @ phi.mT, self.y_held)

    def gradient(self, theta: Tensor, phi: Tensor) -> Tensor:
        """``d g/d phi``."""
        return self._excess(self.x, self.y, phi).mT @ self.x / len(self.x) + theta.exp() * phi

    def upper_gradient(self, phi: Tensor) -> Tensor:
        """``d f/d phi``."""
        excess = self._excess(self.x_held, self.y_held, phi)
        return excess.mT @ self.x_held / len(self.x_held)

    def _excess(self, features: Tensor, labels: Tensor, phi: Tensor) -> Tensor:
        """Probabilities minus labels."""
        share = (features @ phi.mT).softmax(-1)
        return share - torch.nn.functional.one_hot(labels, self.classes).to(share.dtype)

    def product_at(self, theta: Tensor, phi: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian product, flat."""
        share, weight = (self.x @ phi.mT).softmax(-1), theta.exp()

        def product(vector: Tensor) -> Tensor:
            direction = vector.view_as(phi)
            moved = share * (self.x @ direction.mT)
            curved = moved - share * moved.sum(-1, keepdim=True)
            return (curved.mT @ self.x / len(self.x) + weight * direction).reshape(-1)

        return product

    def inverse_at(self, theta: Tensor, phi: Tensor) -> Callable[[Tensor], Tensor]:
        """``H^-1 v``, flat, by a dense factorisation."""
        hessian = _dense_hessian(self.x, (self.x @ phi.mT).softmax(-1), theta.exp())
        factor = torch.linalg.cholesky(hessian)
        return lambda vector: torch.cholesky_solve(vector[:, None], factor)[:, 0]

    def minimiser(self, theta: Tensor) -> Tensor:
        """To rounding, by Newton with conjugate gradients, damped."""
        phi = torch.zeros(self.classes, len(theta), dtype=torch.float64)
        residual = -self.gradient(theta, phi)
        while residual.norm() > 1e-15 * len(self.x) ** 0.5:
            product = self.product_at(theta, phi)
            move = _conjugate_gradients(product, residual.reshape(-1), 1e-6).view_as(phi)
            while self.gradient(theta, phi + move).norm() >= residual.norm():
                move = move / 2
            phi = phi + move
            residual = -self.gradient(theta, phi)
        return phi

    def pull(self, theta: Tensor, phi: Tensor, vector: Tensor) -> Tensor:
        """``-J v``."""
        return -theta.exp() * (phi * vector.view_as(phi)).sum(0)


def logistic(examples: int, size: int, classes: int) -> Case:
    """:class:`Softmax` at its minimiser."""
    problem, theta = Softmax.drawn(examples, size, classes)
    phi = problem.minimiser(theta)
    cotangent = problem.upper_gradient(phi).reshape(-1)
    product, inverse = problem.product_at(theta, phi), problem.inverse_at(theta, phi)
    return Case(
        name=f"logistic, n = {examples}, d = {size}, {classes} classes",
        lower=problem.lower,
        upper=problem.upper,
        theta=theta,
        phi=phi,
        stationarity=float(problem.gradient(theta, phi).norm() / cotangent.norm()),
        exact=problem.pull(theta, phi, inverse(cotangent)),
        product=product,
        pull=lambda vector: problem.pull(theta, phi, vector),
        cotangent=cotangent,
        smallest=1 / _largest(inverse, cotangent),
        largest=_largest(product, cotangent),
        family="logistic",
        arrays=(problem.x, problem.y, problem.x_held, problem.y_held),
    )


CASES: dict[str, Callable[[], Case]] = {
    "quadratic-10": lambda: quadratic(10),
    "quadratic-100": lambda: quadratic(100),
    "quadratic-1000": lambda: quadratic(1000),
    "logistic-small": lambda: logistic(300, 60, 10),
    "logistic": lambda: logistic(2000, 784, 10),
}


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
