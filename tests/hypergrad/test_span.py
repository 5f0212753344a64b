"""Heads solved in the span of their examples: the same steps, at a cost without d; judged outside.

The reference is the same objective with its span kept from the solvers.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hypergrad import (
    CG,
    MINRES,
    Certificate,
    Cholesky,
    GradientDescent,
    Implicit,
    LinearSolver,
    LowerSolver,
    Nesterov,
    Newton,
    NormalCG,
    Status,
    argmin,
    preconditioners,
    pullback,
)
from hypergrad.errors import InputError
from hypergrad.linear.operator import HessianForm
from hypergrad.objectives import RidgeRegression, SoftmaxRegression, span

EXAMPLES, FEATURES, CLASSES, L2 = 6, 40, 3, 0.1
UNIT = torch.finfo(torch.float64).eps
Head = SoftmaxRegression | RidgeRegression


@dataclass(frozen=True)
class Form:
    """A Hessian without what it knows about subspaces."""

    known: HessianForm

    def product(self, vector: Tensor) -> Tensor:
        return self.known.product(vector)

    def inverse(self, rhs: Tensor) -> Tensor:
        return self.known.inverse(rhs)

    def diagonal(self) -> Tensor:
        return self.known.diagonal()


@dataclass(frozen=True)
class Everywhere:
    """An objective without its span: solved in all d dimensions."""

    lower: Head

    def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
        return self.lower(theta, phi)

    def gradient(self, theta: Tensor, phi: Tensor) -> Tensor:
        return self.lower.gradient(theta, phi)

    def hessian(self, theta: Tensor, phi: Tensor) -> Form:
        return Form(self.lower.hessian(theta, phi))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(batch: tuple[int, ...]) -> Head:
    return SoftmaxRegression(torch.arange(EXAMPLES).expand(*batch, EXAMPLES) % CLASSES, l2=L2)


def ridge(batch: tuple[int, ...]) -> Head:
    return RidgeRegression(draw(*batch, EXAMPLES, CLASSES, seed=2), l2=L2)


def features(batch: tuple[int, ...], kind: str) -> Tensor:
    x = draw(*batch, EXAMPLES, FEATURES)
    if kind == "repeated":  # of rank 4: an image twice, and one of zeros
        x[..., 1, :] = x[..., 0, :]
        x[..., 2, :] = 0
    return x


def start(batch: tuple[int, ...], kind: str) -> Tensor:
    shape = (*batch, CLASSES, FEATURES)
    return torch.zeros(shape, dtype=torch.float64) if kind == "zero" else draw(*shape, seed=3)


def close(left: Tensor, right: Tensor, amplified: float) -> bool:
    """Equal to rounding: sums of 40 products of values of size 1, times what steps make of it."""
    scale = max(1.0, float(right.abs().max()))
    return bool(((left - right).abs() <= FEATURES * UNIT * scale * amplified).all())


# Steps below 2/L do not amplify rounding, so it adds up: 6 steps. Newton ends where its gradient
# is 1e-12 of the start's (below 10), either way within 1e-11 / l2 of the minimiser: 1e-10.
SOLVERS: dict[str, tuple[LowerSolver, float]] = {
    "descent": (GradientDescent(steps=6, step_size=0.05), 6),
    "descent to a tolerance": (GradientDescent(steps=6, step_size=0.05, rtol=1e-3), 6),
    "nesterov": (Nesterov(steps=6, step_size=0.05), 6**2),
    "newton": (Newton(rtol=1e-12), 1e-10 / (FEATURES * UNIT)),
}
heads = pytest.mark.parametrize("head", [softmax, ridge])
kinds = pytest.mark.parametrize("kind", ["distinct", "repeated"])


@pytest.mark.parametrize("batch", [(), (2, 2)], ids=str)
@pytest.mark.parametrize("begin", ["zero", "drawn"])
@pytest.mark.parametrize("name", SOLVERS)
@heads
@kinds
def test_lower_solvers_end_where_they_would(
    head: object, kind: str, name: str, begin: str, batch: tuple[int, ...]
) -> None:
    lower = softmax(batch) if head is softmax else ridge(batch)
    theta, phi = features(batch, kind), start(batch, begin)
    assert lower.span(theta, phi) is not None
    by, amplified = SOLVERS[name]
    found = by.minimise(lower, theta, phi)
    expected = by.minimise(Everywhere(lower), theta, phi)
    assert close(found.phi, expected.phi, amplified)
    # |grad| moves by L |phi|'s error, and L is below |x|^2 < 100
    assert close(found.stationarity, expected.stationarity, 100 * amplified)
    if not isinstance(by, Newton):  # whose last gradients are rounding, above or below the goal
        assert found.steps == expected.steps
    if found.converged is not None:
        assert expected.converged is not None
        assert bool((found.converged == expected.converged).all())


LINEAR: dict[str, LinearSolver] = {
    "cg": CG(rtol=0.0, max_steps=5),
    "cg, not looked at": CG(rtol=0.0, max_steps=5, check_every=None),
    "cg, damped": CG(rtol=0.0, max_steps=5, damping=0.1),
    "cg, preconditioned": CG(rtol=0.0, max_steps=5, preconditioner=preconditioners.Jacobi()),
    "minres": MINRES(rtol=0.0, max_steps=5),
    "normal cg": NormalCG(rtol=0.0, max_steps=5),
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", LINEAR)
@heads
@kinds
def test_adjoints_take_the_same_steps(head: object, kind: str, name: str, warm: bool) -> None:
    batch = (3,)
    lower = softmax(batch) if head is softmax else ridge(batch)
    theta, phi = features(batch, kind), start(batch, "drawn") / 10
    cotangent = draw(*phi.shape, seed=4)
    first = draw(*phi.shape, seed=5) if warm else None

    def solved(objective: Head | Everywhere) -> tuple[Tensor, Certificate]:
        return pullback(objective, theta, phi, cotangent, solver=LINEAR[name], start=first)

    found, certificate = solved(lower)
    expected, reference = solved(Everywhere(lower))
    # kappa <= 1 + |X|^2 / (n l2) < 200, and its square for the normal equations; 5 steps
    amplified = 5 * 200.0 ** (2 if name == "normal cg" else 1)
    assert close(certificate.adjoint.x, reference.adjoint.x, amplified)
    assert close(found, expected, 100 * amplified)
    # by |A| / |b| of x's error, |A| < 200 l2 and |b| > 10
    moved = 2 * float(reference.adjoint.x.abs().max()) * amplified
    assert close(certificate.adjoint.residual, reference.adjoint.residual, moved)
    assert torch.equal(certificate.adjoint.status, reference.adjoint.status)
    assert torch.equal(certificate.adjoint.steps, reference.adjoint.steps)
    assert certificate.adjoint.matvecs == reference.adjoint.matvecs


def flops(d: int, steps: int, *, hidden: bool = False) -> int:
    """Of the matrix products of one hypergradient with K = N = steps."""
    lower = SoftmaxRegression(torch.arange(EXAMPLES) % CLASSES, l2=L2)
    theta = draw(EXAMPLES, d).requires_grad_()
    by = GradientDescent(steps=steps, step_size=1e-3)
    adjoint = Implicit(CG(rtol=0.0, max_steps=steps, check_every=None))
    counter = FlopCounterMode(display=False)
    with counter:
        phi = argmin(
            Everywhere(lower) if hidden else lower,
            theta,
            torch.zeros(CLASSES, d, dtype=torch.float64),
            by=by,
            adjoint=adjoint,
            watch=lambda certificate: None,
        )
        torch.autograd.backward(phi.square().sum())
    return counter.get_total_flops()


def test_a_step_costs_the_same_whatever_d_is() -> None:
    n, c = EXAMPLES, CLASSES
    for d in (40, 400):
        more = flops(d, 4) - flops(d, 2)
        # a lower and an adjoint step: scores and their transpose, on n + 1 coordinates
        assert more == 2 * 2 * (2 * 2 * n * (n + 1) * c)
        outside = flops(d, 4, hidden=True) - flops(d, 2, hidden=True)
        assert outside == 2 * 2 * (2 * 2 * n * d * c)


def test_where_it_does_not_pay_all_dimensions_are_used() -> None:
    for d, pays in ((2 * EXAMPLES + 1, False), (2 * EXAMPLES + 2, True)):
        x, w = draw(EXAMPLES, d), draw(CLASSES, d)
        assert (softmax(()).span(x, w) is not None) == pays


def test_wrong_coordinates_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both levels are judged in all dimensions: what comes back wrong is reported."""
    lower, theta, phi0 = softmax((3,)), features((3,), "distinct"), start((3,), "zero")
    by = Newton(rtol=1e-9, solver=Cholesky())
    right = by.minimise(lower, theta, phi0)
    cotangent = draw(*phi0.shape, seed=4)
    solver = CG(rtol=1e-9, max_steps=200)
    _, certificate = pullback(lower, theta, right.phi, cotangent, solver=solver)
    assert right.converged is not None
    assert bool(right.converged.all())
    assert bool(certificate.adjoint.converged.all())

    good = span.Span.head
    monkeypatch.setattr(span.Span, "head", lambda self, a: 1.01 * good(self, a))
    wrong = by.minimise(lower, theta, phi0)
    assert wrong.converged is not None
    assert not bool(wrong.converged.any())
    # CG meets a residual that denies its recurrence, starts again from there, and is right;
    # with one sweep it has what it has, and says so
    _, healed = pullback(lower, theta, right.phi, cotangent, solver=solver)
    assert bool(healed.adjoint.converged.all())
    once = CG(rtol=1e-9, max_steps=200, check_every=None)
    _, certificate = pullback(lower, theta, right.phi, cotangent, solver=once)
    assert bool((certificate.adjoint.status == Status.STAGNATED).all())
    assert bool((certificate.adjoint.residual > 1e-3).all())


def test_not_to_look_needs_an_end() -> None:
    for solver in (CG, MINRES, NormalCG):
        with pytest.raises(InputError, match="check_every=None, which needs max_steps"):
            solver(check_every=None)


@dataclass(frozen=True)
class Lifted(RidgeRegression):
    """Another function of the head, which no longer shrinks what lies beyond the span to 0."""

    def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
        return RidgeRegression.__call__(self, theta, phi) + (phi - 1).square().sum((-2, -1)) / 2

    def gradient(self, theta: Tensor, phi: Tensor) -> Tensor:
        return RidgeRegression.gradient(self, theta, phi) + phi - 1


def test_a_derived_objective_is_solved_where_it_is_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 20, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    objective, start = Lifted(targets=targets, l2=L2), torch.zeros(2, 3, 20, dtype=torch.float64)
    by = GradientDescent(steps=400, step_size=0.05)
    # mu >= 1 and |I - alpha H| <= 0.95: 400 steps leave 1e-9 of the first gradient
    assert (by.minimise(objective, features, start).stationarity < 1e-6).all()


def test_solvers_that_depend_on_the_basis_are_given_the_true_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 20, generator=generator, dtype=torch.float64)
    objective = SoftmaxRegression(labels=torch.tensor([0, 1, 2, 0]), l2=L2)
    halves = torch.full((60,), 0.5, dtype=torch.float64)
    newton = Newton(solver=CG(rtol=1e-3, preconditioner=lambda vector: halves * vector))
    found = newton.minimise(objective, features, torch.zeros(3, 20, dtype=torch.float64))
    assert found.converged is not None
    assert found.converged.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_stay_in_all_dimensions(dtype: torch.dtype) -> None:
    assert span.span_of(torch.ones(2, 20, dtype=dtype), torch.ones(3, 20, dtype=dtype)) is None


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_a_start_of_any_size_is_kept(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    head = size * torch.randn(3, 20, generator=generator)
    found = span.Span(torch.randn(4, 20, generator=generator), head)
    back = found.head(found.coordinates(head))
    # two orthogonal projections and their sum, 20 terms each
    assert ((back - head) / size).abs().max() < 100 * torch.finfo(torch.float32).eps * 10
