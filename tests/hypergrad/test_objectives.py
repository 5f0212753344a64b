"""Closed forms against autodiff of the same objective; a wrong one is convicted, not trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    LinearSolver,
    Newton,
    Status,
    attach,
    hypergradient,
    strict,
)
from hypergrad.errors import AdjointError, InputError, NotFiniteError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.operator import HessianForm, Operator
from hypergrad.linear.woodbury import Woodbury
from hypergrad.objectives import (
    ClosedForm,
    Proximal,
    Quadratic,
    RidgeRegression,
    SoftmaxRegression,
)

EXAMPLES, FEATURES, CLASSES = 6, 11, 3
UNIT = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Case:
    """An objective with a point to look at it from."""

    lower: Callable[[Tensor, Tensor], Tensor]
    theta: Tensor
    phi: Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(batch: tuple[int, ...]) -> Case:
    labels = torch.arange(EXAMPLES).expand(*batch, EXAMPLES) % CLASSES
    lower = SoftmaxRegression(labels, l2=0.1)
    return Case(lower, draw(*batch, EXAMPLES, FEATURES), draw(*batch, CLASSES, FEATURES, seed=1))


def ridge(batch: tuple[int, ...]) -> Case:
    lower = RidgeRegression(draw(*batch, EXAMPLES, CLASSES, seed=2), l2=0.1)
    return Case(lower, draw(*batch, EXAMPLES, FEATURES), draw(*batch, CLASSES, FEATURES, seed=1))


def quadratic(batch: tuple[int, ...]) -> Case:
    root = draw(*batch, FEATURES, FEATURES)
    matrix = root @ root.mT / FEATURES + torch.eye(FEATURES, dtype=torch.float64)
    lower = Quadratic(matrix, draw(*batch, FEATURES, 4, seed=3), draw(*batch, FEATURES, seed=4))
    return Case(lower, draw(4, seed=5), draw(*batch, FEATURES, seed=6))


CASES = {"softmax": softmax, "ridge": ridge, "quadratic": quadratic}
BATCHES = [(), (3,), (2, 3)]


def close(left: Tensor, right: Tensor, magnitude: float = 1.0) -> bool:
    """Equal to the rounding of sums of at most 100 terms, ten times over."""
    scale = max(float(right.abs().max()), 1.0) * magnitude
    return bool(((left - right).abs() <= 1000 * UNIT * scale).all())


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_closed_forms_are_the_derivatives(name: str, batch: tuple[int, ...]) -> None:
    case = CASES[name](batch)
    lower = case.lower
    assert isinstance(lower, ClosedForm)
    point = Linearisation(lower, case.theta, case.phi)
    assert point.batch == batch
    gradient = lower.gradient(case.theta, case.phi).reshape(point.gradient.shape)
    assert close(gradient, point.gradient)
    form: HessianForm = lower.hessian(case.theta, case.phi)
    vector = draw(*point.gradient.shape, seed=7)
    image = form.product(vector)
    assert close(image, point.product(vector))
    # kappa <= 1e3 for all three (l2 = 0.1 below features of size about 11)
    assert close(form.inverse(image), vector, magnitude=1e3)
    columns = torch.eye(vector.shape[-1], dtype=torch.float64)
    diagonal = torch.stack(
        [point.product(c.expand_as(vector))[..., i] for i, c in enumerate(columns)]
    )
    assert close(form.diagonal(), diagonal.movedim(0, -1))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_exact_minimisers(batch: tuple[int, ...]) -> None:
    for case in (ridge(batch), quadratic(batch)):
        lower = case.lower
        assert isinstance(lower, RidgeRegression | Quadratic)
        point = Linearisation(lower, case.theta, lower.minimiser(case.theta))
        assert close(point.gradient, torch.zeros_like(point.gradient), magnitude=1e2)


@pytest.mark.parametrize("solver", [CG(rtol=1e-12), Cholesky(), Woodbury()], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_closed_form_and_autodiff_give_the_same_hypergradient(
    name: str, solver: LinearSolver
) -> None:
    case = CASES[name]((3,))
    phi = Newton(rtol=0.0, solver=Cholesky()).minimise(case.lower, case.theta, case.phi).phi

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum(dim=tuple(range(1, phi.ndim)))

    known = hypergradient(Bilevel(upper=upper, lower=case.lower), case.theta, phi, solver=solver)
    hidden = Bilevel(upper=upper, lower=lambda theta, phi: case.lower(theta, phi))
    plain = hypergradient(hidden, case.theta, phi, solver=Cholesky())
    assert known.certificate.adjoint.converged.all()
    # residuals of 1e-12 and rounding, times kappa <= 1e3
    error = (known.grad - plain.grad).norm() / plain.grad.norm()
    assert float(error) <= 1e3 * (1e-12 + 1000 * UNIT)


def wrong_softmax() -> tuple[Case, Callable[[Tensor, Tensor], Tensor]]:
    """Values of l2 = 0.1, derivatives of l2 = 0.11."""
    case = softmax((3,))
    right = case.lower
    assert isinstance(right, SoftmaxRegression)
    wrong = replace(right, l2=0.11)

    @dataclass(frozen=True)
    class Wrong:
        def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
            return right(theta, phi)

        def gradient(self, theta: Tensor, phi: Tensor) -> Tensor:
            return wrong.gradient(theta, phi)

        def hessian(self, theta: Tensor, phi: Tensor) -> HessianForm:
            return wrong.hessian(theta, phi)

    return case, Wrong()


@pytest.mark.parametrize("solver", [Cholesky(), Woodbury()], ids=str)
def test_a_wrong_closed_form_is_convicted(solver: LinearSolver) -> None:
    case, wrong = wrong_softmax()
    seen: list[Certificate] = []
    theta = case.theta.clone().requires_grad_()
    attach(wrong, theta, case.phi, solver=solver, watch=seen.append).sum().backward()
    adjoint = seen[0].adjoint
    assert not adjoint.converged.any()
    assert (adjoint.status == Status.STAGNATED).all()
    assert (adjoint.residual > 1e-3).all()
    with pytest.raises(AdjointError, match="STAGNATED"):
        strict(seen[0])


def test_cg_is_not_misled_by_a_wrong_closed_form() -> None:
    # its recomputed residuals come from autodiff, so its restarts correct what the products said
    case, wrong = wrong_softmax()
    seen: list[Certificate] = []
    theta = case.theta.clone().requires_grad_()
    attach(wrong, theta, case.phi, solver=CG(rtol=1e-8), watch=seen.append).sum().backward()
    (adjoint,) = (certificate.adjoint for certificate in seen)
    assert adjoint.converged.all()
    right = Linearisation(case.lower, case.theta, case.phi)
    exact = Cholesky().solve(right.product, torch.ones_like(adjoint.x))
    # residuals of 1e-8/0.9, times kappa <= 1e3
    assert float((adjoint.x - exact.x).norm() / exact.x.norm()) <= 1.2e-5
    within = CG(rtol=1e-8, max_steps=6)  # ... and with no steps left for it, it says so
    attach(wrong, theta, case.phi, solver=within, watch=seen.append).sum().backward()
    assert not seen[1].adjoint.converged.any()


def test_woodbury_needs_a_structure() -> None:
    case = ridge(())
    theta = case.theta.clone().requires_grad_()
    node = attach(lambda t, p: case.lower(t, p), theta, case.phi, solver=Woodbury())
    with pytest.raises(InputError, match="use CG"):
        node.sum().backward()


@dataclass(frozen=True)
class NineTenths:
    """The map diag(1, ..., n), with an inverse that is nine tenths of the right one."""

    def product(self, vector: Tensor) -> Tensor:
        return vector * self.diagonal()

    def inverse(self, rhs: Tensor) -> Tensor:
        return 0.9 * rhs / self.diagonal()

    def diagonal(self) -> Tensor:
        return torch.arange(1.0, FEATURES + 1, dtype=torch.float64)


@pytest.mark.parametrize("refinements", [0, 1, 4])
def test_woodbury_refinement_gains_the_lost_digits(refinements: int) -> None:
    # I - A B = I/10 for the inverse B as claimed: each use of it leaves a tenth of the residual
    answer = Woodbury(rtol=1e-3, refinements=refinements).solve(
        Operator(NineTenths().product, form=NineTenths()), draw(3, FEATURES)
    )
    left = torch.full((3,), 10.0 ** -(refinements + 1), dtype=torch.float64)
    # of a sum of a few terms of the size of b
    assert torch.allclose(answer.residual, left, rtol=0, atol=10 * UNIT)
    assert answer.converged.tolist() == [refinements == 4] * 3
    assert answer.matvecs == refinements + 1


@pytest.mark.parametrize("shared", [True, False])
def test_proximal_pulls_towards_the_centre(shared: bool) -> None:
    # loss = |phi - t|^2/2 has the minimiser (t + s c)/(1 + s), with derivative s/(1 + s) in c
    target, strength = draw(3, FEATURES), 0.5

    def loss(phi: dict[str, Tensor]) -> Tensor:
        return (phi["w"] - target).square().sum(-1) / 2

    centre = draw(FEATURES, seed=1) if shared else draw(3, FEATURES, seed=1)
    theta = {"w": centre.requires_grad_()}
    phi = {"w": ((target + strength * centre) / (1 + strength)).detach()}
    minimiser = attach(Proximal(loss, strength), theta, phi, solver=CG())
    minimiser["w"].sum().backward()
    weight = strength / (1 + strength) * (3 if shared else 1)
    assert centre.grad is not None
    assert close(centre.grad, torch.full_like(centre, weight))


@pytest.mark.parametrize(
    "build",
    [
        lambda: SoftmaxRegression(torch.zeros(3, dtype=torch.int64), l2=0.0),
        lambda: RidgeRegression(torch.zeros(3, 2), l2=-1.0),
        lambda: Proximal(lambda phi: phi.sum(), strength=0.0),
        lambda: Woodbury(refinements=-1),
    ],
)
def test_nonsense_is_refused(build: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="l2|strength|refinements"):
        build()


def test_a_quadratic_that_has_no_minimiser_is_not_inverted() -> None:
    indefinite = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    both = torch.stack([torch.eye(2, dtype=torch.float64), indefinite])
    one = torch.ones(2, dtype=torch.float64)
    lower = Quadratic(both, both[:1].expand(2, 2, 2), 0 * one.expand(2, 2))
    assert lower.minimiser(one).isfinite().all(dim=-1).tolist() == [True, False]
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        upper=lambda theta, phi: phi.square().sum(dim=-1), lower=lower
    )
    with pytest.raises(NotFiniteError, match="not positive definite. of task 1 is not finite"):
        hypergradient(problem, one, one.expand(2, 2), solver=Woodbury())


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    ],
    ids=str,
)
def test_labels_may_be_of_any_integer_dtype(dtype: torch.dtype) -> None:
    x, labels, head = logits_problem()
    plain, other = SoftmaxRegression(labels, 0.1), SoftmaxRegression(labels.to(dtype), 0.1)
    assert torch.equal(other(x, head), plain(x, head))
    assert torch.equal(other.gradient(x, head), plain.gradient(x, head))


def logits_problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, EXAMPLES, FEATURES, generator=generator)
    labels = torch.randint(0, CLASSES, (2, EXAMPLES), generator=generator)
    return x, labels, torch.randn(2, CLASSES, FEATURES, generator=generator)


@pytest.mark.parametrize("wrong", [-100, -1, CLASSES, CLASSES + 7])
def test_a_label_that_is_no_class_is_refused(wrong: int) -> None:
    x, labels, head = logits_problem()
    labels[1, 2] = wrong
    lower = SoftmaxRegression(labels, 0.1)
    for use in (lower, lower.gradient):
        with pytest.raises(InputError, match=rf"labels from .* for the {CLASSES} classes"):
            use(x, head)
    with pytest.raises(InputError, match=f"{wrong}"):
        Newton().minimise(lower, x, torch.zeros_like(head))


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, dtype=torch.bool), [0, 1, 2]])
def test_labels_that_are_no_integers_are_refused(labels: object) -> None:
    lower = SoftmaxRegression(torch.tensor([0, 1, 2]), 0.1)
    object.__setattr__(lower, "labels", labels)  # past the runtime checker
    with pytest.raises(InputError, match="give a tensor of integers"):
        lower.__post_init__()
