"""Three problems of the public bilevel benchmark, on data that need no download.

They follow the benchmark of Dagreou et al. 2022 (github.com/benchopt/benchmark_bilevel): its
quadratics as they are, but smaller; its data cleaning with scikit-learn's digits for MNIST; its
regularisation selection with drawn data of the size of ijcnn1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits, make_classification
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from benchmarks.provenance import SEED
from hypergrad import CG, Bilevel, Newton, hypergradient
from hypergrad.stochastic import Minibatched

Loss = Callable[[Tensor, Tensor, Any], Tensor]
Examples = tuple[Tensor, ...]
PENALTY: Final = 0.002  # of data cleaning


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Two finite sums, a start, and the gap of the value function.

    Attributes:
        name: its name in tables.
        about: its size in words.
        lower: loss of the lower level and its examples.
        upper: loss of the upper level and its examples.
        size: examples of a batch.
        theta: start of the upper variable.
        phi: start of the lower variable.
        gap: h(theta) minus the least value known, with ``h(theta) = f(theta, phi*(theta))``.
        error: share of test examples that ``phi*(theta)`` gets wrong; None without test data.
    """

    name: str
    about: str
    lower: tuple[Loss, Examples]
    upper: tuple[Loss, Examples]
    size: int
    theta: Tensor
    phi: Tensor
    gap: Callable[[Tensor], float]
    error: Callable[[Tensor], float] | None = None

    def levels(self, seed: int) -> Bilevel[Tensor, Tensor]:
        """Both levels in batches, shuffled by a seed."""
        return Bilevel(
            upper=Minibatched(
                loss=self.upper[0], data=self.upper[1], size=self.size, seed=2 * seed + 1
            ),
            lower=Minibatched(
                loss=self.lower[0], data=self.lower[1], size=self.size, seed=2 * seed
            ),
        )

    @property
    def counts(self) -> tuple[int, int]:
        """Examples of the lower and of the upper level."""
        return len(self.lower[1][0]), len(self.upper[1][0])


@dataclass
class Value:
    """The value function ``h(theta) = f(theta, phi*(theta))``, by Newton from the last minimiser.

    The minimiser's gradient is at most 1e-10, so that h is right to about ``1e-10 |df/dphi| / mu``,
    below 1e-7 in these problems.
    """

    lower: Callable[[Tensor, Tensor], Tensor]
    upper: Callable[[Tensor, Tensor], Tensor]
    phi: Tensor

    def minimiser(self, theta: Tensor) -> Tensor:
        """The lower minimiser."""
        by = Newton(rtol=0.0, atol=1e-10, solver=CG(rtol=1e-2, max_steps=100))
        found = by.minimise(self.lower, theta, self.phi)
        assert float(found.stationarity) <= 1e-10, float(found.stationarity)
        self.phi = found.phi
        return self.phi

    def __call__(self, theta: Tensor) -> float:
        """The value at theta."""
        return float(self.upper(theta, self.minimiser(theta)))

    def with_slope(self, theta: Tensor) -> tuple[float, Tensor]:
        """The value and its derivative."""
        both = Bilevel(upper=self.upper, lower=self.lower)
        solver = CG(rtol=1e-8, max_steps=500)
        found = hypergradient(both, theta, self.minimiser(theta), solver=solver)
        return float(found.value), found.grad


@dataclass
class Logistic:
    """The value function of regularisation selection, by dense Newton steps (H is 22 x 22)."""

    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    phi: Tensor

    def minimiser(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The lower minimiser and the Hessian there."""
        x, y = self.train
        signed, penalties = x * y[:, None], theta.exp()
        for _ in range(100):
            wrong = (-(signed @ self.phi)).sigmoid()
            slope = penalties * self.phi - signed.mT @ wrong / len(x)
            weights = wrong * (1 - wrong) / len(x)
            hessian = (x * weights[:, None]).mT @ x + penalties.diag()
            if float(slope.norm()) <= 1e-10:
                return self.phi, hessian
            self.phi = self.phi - torch.linalg.solve(hessian, slope)
        raise AssertionError(f"Newton's method left a gradient of {float(slope.norm())}")

    def __call__(self, theta: Tensor) -> float:
        """The value at theta."""
        return self.with_slope(theta)[0]

    def with_slope(self, theta: Tensor) -> tuple[float, Tensor]:
        """The value and its derivative, ``-e^theta phi v`` with ``H v = d f/d phi``."""
        phi, hessian = self.minimiser(theta)
        x, y = self.held
        margins = y * (x @ phi)
        slope = -(x.mT @ (y * (-margins).sigmoid())) / len(x)
        v = torch.linalg.solve(hessian, slope)
        return float(softplus(-margins).mean()), -theta.exp() * phi * v


def least(value: Value | Logistic, theta: Tensor, *, steps: int) -> float:
    """The least value that so many steps of L-BFGS with exact hypergradients find."""

    def fun(at: Any) -> tuple[float, Any]:
        found, slope = value.with_slope(torch.as_tensor(at, dtype=theta.dtype))
        return found, slope.numpy()

    options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-9}
    found = minimize(fun, theta.numpy(), jac=True, method="L-BFGS-B", options=options)
    return float(found.fun)


def whole(loss: Loss, examples: Examples) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of all examples at once."""
    return lambda theta, phi: loss(theta, phi, examples)


# Quadratics: of an example (x, z, l, r, a, b), whose means are the matrices of the benchmark.


def quadratic(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
    """``(x'phi)^2 / 2 + (z'theta)^2 / 2 + (l'theta)(r'phi) + a'phi + b'theta``, the mean."""
    x, z, left, right, a, b = examples
    squares = ((x @ phi).square() + (z @ theta).square()) / 2
    value: Tensor = (squares + (left @ theta) * (right @ phi) + a @ phi + b @ theta).mean()
    return value


def _level(draw: torch.Generator, examples: int, p: int, q: int) -> Examples:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def root(size: int, least: float) -> Tensor:
        """A matrix whose square has eigenvalues from a tenth, and the least one, to 1."""
        basis = torch.linalg.qr(normal(size, size))[0]
        spectrum = torch.logspace(-1, 0, size, dtype=torch.float64)
        spectrum[0] = least
        found: Tensor = (basis * spectrum.sqrt()) @ basis.mT
        return found

    u, v = torch.linalg.qr(normal(p, p))[0], torch.linalg.qr(normal(q, q))[0]
    both = normal(examples, q)
    left = (both[:, :p] * torch.full((p,), 0.1, dtype=torch.float64)) @ u.mT
    x, z = normal(examples, q) @ root(q, 0.1), normal(examples, p) @ root(p, 0.0)
    return x, z, left, both @ v.mT, normal(examples, q), normal(examples, p)


def quadratics(examples: int = 1024, size: int = 64, p: int = 10, q: int = 20) -> Problem:
    """The benchmark's drawn quadratics; the value function is a quadratic, known exactly."""
    for seed in range(SEED, SEED + 20):
        draw = torch.Generator().manual_seed(seed)
        lower, upper = _level(draw, examples, p, q), _level(draw, examples, p, q)
        x, _, left, right, a, _ = lower
        hessian, cross = x.mT @ x / examples, left.mT @ right / examples  # q x q, p x q
        slope, offset = (
            -torch.linalg.solve(hessian, cross.mT),
            -torch.linalg.solve(hessian, a.mean(dim=0)),
        )
        x, z, left, right, a, b = upper
        # phi* = slope theta + offset, put into f
        mixed = left.mT @ right @ slope / examples
        curved = slope.mT @ (x.mT @ x) @ slope / examples + z.mT @ z / examples + mixed + mixed.mT
        if float(torch.linalg.eigvalsh(curved)[0]) > 0.01:
            break
    else:
        raise AssertionError("no convex value function among 20 draws")
    linear = (
        slope.mT @ (x.mT @ (x @ offset)) / examples
        + left.mT @ (right @ offset) / examples
        + slope.mT @ a.mean(dim=0)
        + b.mean(dim=0)
    )
    best = -torch.linalg.solve(curved, linear)

    def gap(theta: Tensor) -> float:
        apart = theta - best
        return float(apart @ curved @ apart) / 2

    return Problem(
        name="quadratics",
        about=f"{examples} + {examples} examples, p = {p}, q = {q}, batches of {size}",
        lower=(quadratic, lower),
        upper=(quadratic, upper),
        size=size,
        theta=torch.ones(p, dtype=torch.float64),
        phi=torch.zeros(q, dtype=torch.float64),
        gap=gap,
    )


def weighted(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
    """Cross-entropy, each example with a weight between 0 and 1, and half a squared length."""
    x, y, places = examples
    each = cross_entropy(x @ phi, y, reduction="none")
    value: Tensor = (theta[places].sigmoid() * each).mean() + PENALTY / 2 * phi.square().sum()
    return value


def right_labels(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
    """Cross-entropy of examples with right labels."""
    x, y = examples
    return cross_entropy(x @ phi, y)


def cleaning(
    train: int = 900, clean: int = 420, size: int = 60, wrong: float = 0.5, steps: int = 300
) -> Problem:
    """Weights for digits half of which have another label, drawn from all ten."""
    digits = load_digits()
    x, y = torch.tensor(digits.data), torch.tensor(digits.target)
    draw = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(x), generator=draw)
    first, second, rest = rows.tensor_split([train, train + clean])
    # one pixel in eight is empty in all pictures; scaled so that an example's squared length is 1
    x = (x - x[first].mean(dim=0)) / x[first].std(dim=0).clamp(min=1e-1)
    x = x / x[first].square().sum(dim=1).mean().sqrt()
    changed = torch.rand(train, generator=draw) < wrong
    labels = torch.where(changed, torch.randint(0, 10, (train,), generator=draw), y[first])
    lower = weighted, (x[first], labels, torch.arange(train))
    upper = right_labels, (x[second], y[second])
    theta = torch.zeros(train, dtype=torch.float64)
    phi = torch.zeros(64, 10, dtype=torch.float64)
    value = Value(whole(*lower), whole(*upper), phi)
    best = least(value, theta, steps=steps)

    def error(theta: Tensor) -> float:
        scores = x[rest] @ value.minimiser(theta)
        return float((scores.argmax(dim=1) != y[rest]).double().mean())

    return Problem(
        name="data cleaning",
        about=f"{train} digits, half of them relabelled, {clean} right ones, p = {train}, "
        f"q = 640, batches of {size}",
        lower=lower,
        upper=upper,
        size=size,
        theta=theta,
        phi=phi,
        gap=lambda theta: value(theta) - best,
        error=error,
    )


def penalised(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
    """Logistic loss, and half of ``sum_k e^theta_k phi_k^2``."""
    penalty: Tensor = (theta.exp() * phi.square()).sum() / 2
    return logistic(theta, phi, examples) + penalty


def logistic(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
    """Logistic loss of labels of 1 and -1."""
    x, y = examples
    return softplus(-y * (x @ phi)).mean()


def selection(examples: int = 50_000, size: int = 500, steps: int = 200) -> Problem:
    """One penalty for each of 22 features, which are drawn; half of the examples are held out."""
    x, y = make_classification(
        n_samples=examples,
        n_features=22,
        n_informative=8,
        n_redundant=6,
        flip_y=0.1,
        class_sep=0.5,
        random_state=SEED,
    )
    features = torch.tensor((x - x.mean(axis=0)) / x.std(axis=0))
    labels = torch.tensor(np.where(y == 1, 1.0, -1.0))
    half = examples // 2
    lower = penalised, (features[:half], labels[:half])
    upper = logistic, (features[half:], labels[half:])
    draw = torch.Generator().manual_seed(SEED)
    theta = torch.rand(22, generator=draw, dtype=torch.float64).log()
    phi = torch.randn(22, generator=draw, dtype=torch.float64)
    value = Logistic(lower[1], upper[1], phi)
    best = least(value, theta, steps=steps)
    return Problem(
        name="regularisation selection",
        about=f"{half:,} + {half:,} examples, p = q = 22, batches of {size}",
        lower=lower,
        upper=upper,
        size=size,
        theta=theta,
        phi=phi,
        gap=lambda theta: value(theta) - best,
    )


PROBLEMS: Final[dict[str, Callable[[], Problem]]] = {
    "quadratics": quadratics,
    "data cleaning": cleaning,
    "regularisation selection": selection,
}
