"""Every refusal: what is given, and the part of the message that tells the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    Detached,
    GradientDescent,
    Implicit,
    Newton,
    OneStep,
    Truncated,
    Unrolled,
    argmin,
    attach,
    errors,
    hypergradient,
    pullback,
    strict,
)
from hypergrad.errors import (
    AdjointError,
    AdjointWarning,
    InputError,
    NotFiniteError,
)
from hypergrad.guards import require_finite
from tests.hypergrad.problems import Q, Toy

TOY = Toy((3,))
PHI = TOY.minimiser()


def attached(
    lower: Callable[[Tensor, Tensor], Tensor] = TOY.lower,
    theta: Tensor = TOY.theta,
    phi: Tensor = PHI,
) -> Tensor:
    return attach(lower, theta.clone().requires_grad_(), phi, solver=CG(), watch=strict)


def test_a_captured_tensor_is_found() -> None:
    captured = torch.ones(Q, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InputError, match=r"shape \(5,\).*neither in theta nor in phi.*Add it"):
        attached(lambda theta, phi: TOY.lower(theta, phi) + (captured * phi).sum(-1))


def test_a_captured_tensor_is_found_behind_other_operations() -> None:
    weight = torch.ones(Q, Q, dtype=torch.float64, requires_grad=True)
    features = torch.tanh(weight @ torch.ones(Q, dtype=torch.float64))  # no leaf itself
    with pytest.raises(InputError, match=r"shape \(5, 5\)"):
        attached(lambda theta, phi: TOY.lower(theta, phi) + (features * phi).sum(-1))


def test_a_captured_tensor_in_the_upper_objective_is_found() -> None:
    captured = torch.ones(Q, dtype=torch.float64, requires_grad=True)
    problem = Bilevel(lower=TOY.lower, upper=lambda theta, phi: (captured * phi).sum(-1))
    with pytest.raises(InputError, match="the upper objective uses a tensor"):
        hypergradient(problem, TOY.theta, PHI, solver=CG())


def test_a_captured_tensor_that_is_detached_is_fine() -> None:
    captured = torch.ones(Q, dtype=torch.float64, requires_grad=True)
    attached(lambda theta, phi: TOY.lower(theta, phi) + (captured.detach() * phi).sum(-1))


def test_values_that_are_not_one_for_each_task() -> None:
    with pytest.raises(InputError, match=r"phi has shape \(3, 5\).*shape \(2,\)"):
        attached(lambda theta, phi: TOY.lower(theta, phi)[:2])


def test_values_that_are_no_tensor() -> None:
    with pytest.raises(InputError, match="returned float"):
        attached(lambda theta, phi: 1.0)  # type: ignore[arg-type,return-value]


def test_an_integer_phi() -> None:
    with pytest.raises(InputError, match=r"phi has dtype torch\.int64"):
        attached(phi=torch.zeros(3, Q, dtype=torch.int64))


def test_an_integer_theta() -> None:
    with pytest.raises(InputError, match=r"theta has dtype torch\.int64.*let the objective hold"):
        attach(TOY.lower, torch.zeros(4, dtype=torch.int64), PHI, solver=CG())


def test_different_dtypes() -> None:
    with pytest.raises(InputError, match=r"theta is torch\.float32, but phi is torch\.float64"):
        attached(theta=TOY.theta.float())


def test_different_devices() -> None:
    with pytest.raises(InputError, match="theta is on meta, but phi is on cpu"):
        attached(theta=TOY.theta.to("meta"))


def test_an_empty_dict() -> None:
    with pytest.raises(InputError, match="theta is an empty dict"):
        attach(lambda theta, phi: phi.square().sum(-1), dict[str, Tensor](), PHI, solver=CG())


def test_a_lower_objective_that_ignores_theta() -> None:
    with pytest.raises(InputError, match="does not depend on theta"):
        attached(lambda theta, phi: phi.square().sum(-1))


def test_a_lower_objective_that_hides_theta() -> None:
    with pytest.raises(InputError, match="does not depend on theta"):
        attached(lambda theta, phi: TOY.lower(theta.detach(), phi))


def test_a_lower_objective_whose_theta_is_apart_from_phi() -> None:
    # g = a(phi) + b(theta): theta is used, and moves no minimiser
    node = attached(lambda theta, phi: phi.square().sum(-1) + theta.square().sum(), phi=0 * PHI)
    with pytest.raises(InputError, match="apart from phi"):
        node.sum().backward()


def test_a_lower_objective_that_ignores_phi() -> None:
    with pytest.raises(InputError, match="does not depend on phi"):
        attached(lambda theta, phi: theta.sum().expand(3))


def test_an_attribute_of_ones_own_is_no_word_of_the_message() -> None:
    class Objective:
        part = "a part"

        def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
            return theta.sum().expand(3)

    with pytest.raises(InputError, match=r"^the lower objective does not .*nothing determines it"):
        attached(Objective())


def test_a_cotangent_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"the cotangent has shape \(3, 4\)"):
        pullback(TOY.lower, TOY.theta, PHI, PHI[:, :4], solver=CG())


def test_a_cotangent_of_another_structure() -> None:
    with pytest.raises(InputError, match=r"like phi it must have the leaves"):
        pullback(
            lambda theta, phi: TOY.lower(theta, phi["w"]),
            TOY.theta,
            {"w": PHI},
            {"v": PHI},
            solver=CG(),
        )


def test_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(InputError, match=r"use torch\.no_grad\(\)"):
        attach(TOY.lower, TOY.theta, PHI, solver=CG())
    with torch.inference_mode(), pytest.raises(InputError, match=r"make it under torch\.no_grad"):
        attached()  # whose theta is made in there


def test_no_grad_is_fine_for_the_functional_face() -> None:
    problem = Bilevel(lower=TOY.lower, upper=TOY.upper)
    with torch.no_grad():
        inside = hypergradient(problem, TOY.theta, PHI, solver=CG())
    assert torch.equal(inside.grad, hypergradient(problem, TOY.theta, PHI, solver=CG()).grad)


def test_nan_in_the_objective_names_the_task() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return TOY.lower(theta, phi) * torch.tensor([1.0, torch.nan, 1.0])

    with pytest.raises(NotFiniteError, match=r"the lower objective of task 1 is not finite \(1 of"):
        attached(lower)


def test_nan_in_the_gradient_names_the_task() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        # sqrt(0) has value 0 and an infinite derivative
        return TOY.lower(theta, phi) + (phi - PHI.detach()).square().sum(-1).sqrt()

    with pytest.raises(NotFiniteError, match="gradient d g/d phi of task 0"):
        attached(lower).sum().backward()


def test_a_penalty_by_a_norm_that_starts_at_zero_is_explained() -> None:
    # torch's gradient of norm()**2 at 0 is 0, as it should be; its double backward is NaN
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        values: Tensor = (phi - theta).square().sum() / 2 + phi.norm() ** 2
        return values

    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    phi = attach(lower, theta, torch.zeros(2, dtype=torch.float64))
    with pytest.raises(NotFiniteError, match=r"write x\.square\(\)\.sum\(\) for x\.norm"):
        phi.sum().backward()


def test_a_class_that_is_masked_by_infinity_is_explained() -> None:
    masked = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        pull = (phi - theta).square().sum() / 2
        label = torch.zeros((), dtype=torch.long)
        smooth = torch.nn.functional.cross_entropy(phi + masked, label, label_smoothing=0.1)
        return pull + smooth

    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotFiniteError, match="use a large negative number, or mask after"):
        attach(lower, theta, torch.zeros(3, dtype=torch.float64))


def test_nan_in_a_hessian_product_names_the_task() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        # x^1.5 at 0: value 0, gradient 0, infinite curvature; in the last task only
        last = (phi[2] - PHI[2]).abs().pow(1.5).sum()
        return TOY.lower(theta, phi) + torch.nn.functional.pad(last[None], (2, 0))

    with pytest.raises(NotFiniteError, match="Hessian product H v .* of task 2 is not finite"):
        attached(lower).sum().backward()


def test_nan_in_the_cotangent_names_the_task() -> None:
    cotangent = torch.ones_like(PHI)
    cotangent[2, 1] = torch.inf
    with pytest.raises(NotFiniteError, match="right-hand side d f/d phi.* of task 2"):
        attached().backward(cotangent)


def test_negative_curvature_is_reported_with_its_remedy() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return TOY.lower(theta, phi) - 50 * phi.square().sum(-1)

    with pytest.raises(AdjointError, match="INDEFINITE.*regularise the lower objective"):
        attached(lower).sum().backward()


def test_an_unconverged_solve_warns_by_default() -> None:
    theta = TOY.theta.clone().requires_grad_()
    node = attach(TOY.lower, theta, PHI, solver=CG(rtol=1e-12, max_steps=1))
    with pytest.warns(AdjointWarning, match="not solved in 3 of 3 tasks.*OUT_OF_STEPS"):
        node.sum().backward()


def test_a_lower_solve_above_its_tolerance_is_said_too() -> None:
    theta = TOY.theta.clone().requires_grad_()
    by = GradientDescent(max_steps=2, step_size=0.1, rtol=1e-6)
    node = argmin(TOY.lower, theta, 0 * PHI, by=by, adjoint=Implicit(CG()))
    expected = r"phi is no minimiser .* 3 of 3 tasks.*GradientDescent\(.*above its own tolerance"
    with pytest.warns(AdjointWarning, match=expected):
        node.sum().backward()


def test_steps_that_end_before_the_minimiser_are_no_minimiser() -> None:
    theta = TOY.theta.clone().requires_grad_()
    by = GradientDescent(max_steps=2, step_size=0.1)
    node = argmin(TOY.lower, theta, 0 * PHI, by=by, adjoint=Implicit(CG()), watch=strict)
    with pytest.raises(AdjointError, match="its steps ended before the minimiser"):
        node.sum().backward()


def test_a_converged_solve_says_nothing() -> None:
    theta = TOY.theta.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(TOY.lower, theta, PHI, solver=CG()).sum().backward()


def test_a_diverging_descent_is_named() -> None:
    with pytest.raises(NotFiniteError, match="step size must stay below 2/L"):
        GradientDescent(max_steps=2000, step_size=5.0).minimise(TOY.lower, TOY.theta, PHI + 1)


@pytest.mark.parametrize(
    "adjoint", [Implicit(CG()), Truncated(steps=2), OneStep(step_size=0.1), Detached()], ids=str
)
def test_a_start_that_requires_grad(
    adjoint: Implicit | Truncated | OneStep | Detached,
) -> None:
    by = GradientDescent(max_steps=3, step_size=0.1)
    with pytest.raises(InputError, match=r"phi0 requires grad.*phi0\.detach\(\)"):
        argmin(TOY.lower, TOY.theta, PHI.clone().requires_grad_(), by=by, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", [Unrolled(), Truncated(steps=2)], ids=str)
def test_newton_cannot_be_unrolled(adjoint: Unrolled | Truncated) -> None:
    with pytest.raises(InputError, match="Newton has no differentiable step"):
        argmin(TOY.lower, TOY.theta, PHI, by=Newton(), adjoint=adjoint)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GradientDescent(max_steps=-1, step_size=0.1), "max_steps >= 0"),
        (lambda: GradientDescent(max_steps=1, step_size=0.0), "step_size > 0"),
        (lambda: Newton(rtol=2.0), "rtol must be in"),
        (lambda: Newton(max_steps=0), "max_steps >= 1"),
        (lambda: Truncated(steps=0), "at least one"),
        (lambda: OneStep(step_size=-1.0), "positive"),
    ],
)
def test_constructors_refuse_nonsense(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_every_error_has_one_base() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(raised) >= 5
    assert all(issubclass(e, errors.HypergradError | UserWarning) for e in raised)


def test_the_certificate_prints_its_worst_task() -> None:
    seen = list[Certificate]()
    theta = TOY.theta.clone().requires_grad_()
    solver = CG(rtol=1e-12, max_steps=1)
    attach(TOY.lower, theta, PHI, solver=solver, watch=seen.append).sum().backward()
    worst = int(seen[0].adjoint.residual.argmax())
    assert f"task {worst}," in str(seen[0])


def test_cholesky_verifies_its_own_answer() -> None:
    # the gate that a wrong closed form meets: an answer is converged only if its residual says so
    with pytest.raises(AdjointError, match="INDEFINITE"):
        attach(
            lambda theta, phi: TOY.lower(theta, phi) - 50 * phi.square().sum(-1),
            TOY.theta.clone().requires_grad_(),
            PHI,
            solver=Cholesky(),
            watch=strict,
        ).sum().backward()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_whatever_is_not_finite_is_refused(value: float) -> None:
    vectors = torch.tensor([[1.0, -2.0], [0.0, value]])
    require_finite(vectors[:1], "it", per_task=False)
    with pytest.raises(NotFiniteError, match="it of task 1 is not finite"):
        require_finite(vectors, "it", per_task=False)
    with pytest.raises(NotFiniteError, match="it is not finite"):
        require_finite(vectors[1, 1], "it", per_task=True)
