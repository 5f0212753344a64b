"""What certificates say of active sets, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import (
    LBFGS,
    Bilevel,
    Certificate,
    GradientDescent,
    Implicit,
    Nesterov,
    Newton,
    Summary,
    TorchOptimiser,
    Truncated,
    Unrolled,
    argmin,
    attach,
    curvature,
    hypergradient,
    strict,
)
from hypergrad.conditions import (
    L1,
    Affine,
    Box,
    Composite,
    Constrained,
    ElasticNet,
    GroupL2,
    L2Ball,
    NonNegative,
    Root,
    Simplex,
    Stationary,
)
from hypergrad.errors import AdjointError, AdjointWarning, InputError, TransformError
from hypergrad.solvers import ProximalGradient

D = torch.float64


def pull(t: Tensor, p: Tensor) -> Tensor:
    """``|p - t|^2/2``, whose constrained minimiser is the projection of t."""
    return (p - t).square().sum(-1) / 2


def certificate(made: Any, t: list[Any], phi: list[Any]) -> Certificate:
    problem: Any = Bilevel(upper=lambda t, p: p.sum(-1), lower=made)
    return hypergradient(problem, torch.tensor(t, dtype=D), torch.tensor(phi, dtype=D)).certificate


POSITIVE: Any = Constrained(pull, NonNegative())


def test_a_firm_active_set_is_solved_and_its_margin_is_the_least_slack() -> None:
    found = certificate(POSITIVE, [3.0, -4.0], [3.0, 0.0])
    assert bool(found.solved)
    assert found.active is not None
    # the gradient is (0, 4), that at phi/2 is (-1.5, 4): the terms are 4 + 2 x 1.5
    assert found.active.slacks.tolist() == pytest.approx([1.0, 4 / 7])
    assert float(found.active.margin) == pytest.approx(4 / 7)
    assert float(found.active.residual) == 0.0


def test_a_degenerate_point_says_so_and_names_the_entry() -> None:
    t = torch.tensor([3.0, 0.0], requires_grad=True)
    found = attach(POSITIVE, t, torch.tensor([3.0, 0.0]))
    with pytest.warns(AdjointWarning, match=r"only one-sided ones.*phi\[1\] changes sides"):
        found.sum().backward()
    t = torch.tensor([[3.0, 1.0], [3.0, 0.0]], requires_grad=True)
    found = attach(POSITIVE, t, torch.tensor([[3.0, 1.0], [3.0, 0.0]]), watch=strict)
    with pytest.raises(AdjointError, match="one-sided"):
        found.sum().backward()
    assert not bool(certificate(POSITIVE, [3.0, 0.0], [3.0, 0.0]).solved)


def test_a_wrong_sign_is_no_solution() -> None:
    # entry 1 is held at zero, and the gradient pulls it inside
    found = certificate(POSITIVE, [3.0, 4.0], [3.0, 0.0])
    assert not bool(found.at_minimiser)
    assert found.active is not None
    assert float(found.active.residual) > 0.5
    assert "phi[1] is held at a bound or kink that the gradient pushes it away from" in str(found)
    summary = Summary()
    summary(found)
    assert "active set undecided" in str(summary)


def test_an_entry_beside_its_bound_is_undecided() -> None:
    # it should be at zero: free at 1e-9 its gradient is 4, so that phi is no minimiser either
    found = certificate(POSITIVE, [3.0, -4.0], [3.0, 1e-9])
    assert not bool(found.solved)
    # nearly degenerate, and known less well than that
    near = certificate(POSITIVE, [3.0, 1e-6], [3.0 + 1e-5, 1e-6])
    assert bool(near.at_minimiser)
    assert not bool(near.solved)
    assert "the active set is undecided in the one task: at the worst phi[1]" in str(near)


def test_leaves_and_tasks_are_named() -> None:
    def g(t: Tensor, p: dict[str, Tensor]) -> Tensor:
        return (p["w"] - t).square().sum((-2, -1)) / 2 + (p["b"] - 1).square() / 2

    made: Any = Constrained(g, {"b": None, "w": NonNegative()})
    t = torch.ones(2, 2, dtype=D)
    t[1, 0] = 0.0
    phi = {"b": torch.ones(3, dtype=D), "w": torch.ones(3, 2, 2, dtype=D)}
    phi["w"][:, 1, 0] = 0.0
    phi["w"][1, 0, 1] = 0.0
    problem: Any = Bilevel(upper=lambda t, p: p["w"].sum((-2, -1)), lower=made)
    message = str(hypergradient(problem, t, phi).certificate)
    assert "task 1, phi['w'][0, 1] is held" in message


def test_a_penalty_has_subgradients_within_limits() -> None:
    lasso: Any = Composite(pull, L1(1.0))
    found = certificate(lasso, [3.0, -0.5], [2.0, 0.0])
    assert bool(found.solved)
    assert found.active is not None
    # the gradient is (-1, 0.5), at phi/2 (-2, 0.5): the terms are |(1, .5)| + 2
    assert float(found.active.margin) == pytest.approx(0.5 / (1.25**0.5 + 2))
    assert not bool(certificate(lasso, [3.0, -1.5], [2.0, 0.0]).solved)  # |gradient| > strength
    rows: Any = Composite(lambda t, p: pull(t, p).sum(-1), GroupL2(5.0))
    flat = certificate(rows, [[6.0, 8.0], [3.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]])
    assert bool(flat.solved)


@pytest.mark.parametrize("intercept", [0.0, 1e-9, 2.0])
def test_a_strength_of_zero_makes_no_kink(intercept: float) -> None:
    # an intercept that no penalty holds, of centred data and of others
    t = torch.tensor([intercept, 3.0, 0.1], dtype=D)
    weights = torch.tensor([0.0, 1.0, 1.0], dtype=D)

    def grouped(t: Tensor, p: Tensor) -> Tensor:
        return pull(t, p[..., 0])

    for made, shape in (
        (Composite(pull, L1(weights)), (3,)),
        (Composite(pull, ElasticNet(weights, 0.0)), (3,)),
        (Composite(grouped, GroupL2(weights[:, None])), (3, 1)),
    ):
        at = t.clone().requires_grad_()
        phi: Any = torch.tensor([intercept, 2.0, 0.0], dtype=D).reshape(shape)
        seen: list[Certificate] = []
        attach(made, at, phi, watch=seen.append).sum().backward()
        assert at.grad is not None
        assert at.grad.tolist() == [1.0, 1.0, 0.0]
        assert bool(seen[0].solved)
        assert seen[0].active is not None
        assert float(seen[0].active.margin) > 0.1
    # a function of theta may make one at the next theta
    moving: Any = Composite(pull, L1(lambda t: 0 * t))
    assert not bool(certificate(moving, [0.0, 1.0], [0.0, 1.0]).solved)


def test_solvers_refuse_what_they_are_not_for() -> None:
    t, start = torch.ones(2, dtype=D), torch.zeros(2, dtype=D)
    smooth: list[Any] = [
        GradientDescent(max_steps=3, step_size=0.1),
        Nesterov(max_steps=3, step_size=0.1),
        LBFGS(),
        Newton(),
        TorchOptimiser(make=lambda params: torch.optim.SGD(params, lr=0.1), max_steps=2),
    ]
    for by in smooth:
        with pytest.raises(InputError, match=f"{type(by).__name__} minimises smooth objectives"):
            argmin(POSITIVE, t, start, by=by, adjoint=Implicit())
        with pytest.raises(InputError, match="smooth objectives"):
            by.minimise(POSITIVE, t, start)
    with pytest.raises(InputError, match="wrap it, as in Constrained"):
        argmin(pull, t, start, by=ProximalGradient(), adjoint=Implicit())
    for adjoint in (Unrolled(), Truncated(steps=2)):
        with pytest.raises(InputError, match="ProximalGradient has no differentiable step"):
            argmin(POSITIVE, t, start, by=ProximalGradient(), adjoint=adjoint)
    t.requires_grad_()
    value = attach(POSITIVE, t, t.detach(), curvature=curvature.FiniteDifference()).sum()
    with pytest.raises(InputError, match="moves phi off the bounds"):
        value.backward()
    value = attach(POSITIVE, t, t.detach(), curvature=curvature.Hessian(probe="always")).sum()
    with pytest.raises(InputError, match="Constrained has no such probe"):
        value.backward()


BAD: list[tuple[Any, str]] = [
    (lambda: Constrained(pull, NonNegative), "the class NonNegative, not a value"),
    (lambda: Constrained(pull, L1(1.0)), "got within = a L1; give sets"),
    (lambda: Constrained(pull, None), "then it is g itself"),
    (lambda: Constrained(pull, {}), "an empty dict"),
    (lambda: Composite(pull, 0.1), "a float; give penalties"),
    (lambda: Box(), "no bound"),
    (lambda: Box(1.0, 0.0), "low must not exceed high"),
    (lambda: Simplex(0.0), "must be a number or a tensor, finite and positive"),
    (lambda: L2Ball(-1.0), "positive"),
    (lambda: L2Ball(float("inf")), "finite"),
    (lambda: L1(-0.1), "not negative"),
    (lambda: L1(torch.tensor([1.0, -1.0])), "a tensor with an entry that is not"),
    (lambda: ElasticNet(0.1, -1.0), "ElasticNet got l2"),
    (lambda: Affine(torch.ones(2, 3), torch.ones(2)), "not linearly independent"),
    (lambda: Affine(1.0, torch.ones(2)), "got A = 1.0"),
    (lambda: ProximalGradient(step_size=0.0), "step_size"),
    (lambda: Composite(POSITIVE, L1(0.1)), "Composite got a Constrained as g"),
    (lambda: Constrained(Root(lambda t, p: p - t), NonNegative()), "Constrained got a Root as g"),
    (lambda: Stationary(POSITIVE), "Stationary got a Constrained as g"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message for _, message in BAD])
def test_nonsense_is_refused_by_constructors(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("value", [0.1, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_may_equal_the_bound_that_a_tensor_is(value: float, dtype: torch.dtype) -> None:
    bound = torch.tensor([value], dtype=dtype)  # 0.1 is rounded up in float32, 0.7 down
    at_it = torch.zeros(1, dtype=dtype)
    for made in (Box(value, bound), Box(bound, value)):
        assert torch.equal(made.project(None, at_it), bound)
    with pytest.raises(InputError, match="low must not exceed high"):
        Box(0.5, torch.tensor(0))


def test_nonsense_at_a_theta_is_refused() -> None:
    by, one = ProximalGradient(), torch.ones(2, dtype=D)
    cases: list[tuple[Any, str]] = [
        (Constrained(pull, Box(lambda t: t, lambda t: t - 1)), "low exceeds high"),
        (Constrained(pull, Simplex(lambda t: -t.sum())), "total is not positive"),
        (Constrained(pull, L2Ball(lambda t: -t.sum())), "radius is not positive"),
        (Composite(pull, L1(lambda t: -t)), "strength is negative"),
        (Constrained(pull, Box(torch.zeros(3, dtype=D))), "broadcasts to the leaf"),
        (Constrained(pull, {"a": NonNegative()}), "within has the leaves"),
        (Constrained(pull, Affine(torch.ones(1, 3, dtype=D), torch.ones(1, dtype=D))), "A must be"),
        (Constrained(lambda t, p: (p - t).square(), Simplex()), "needs 1 more dimension"),
    ]
    for made, message in cases:
        with pytest.raises(InputError, match=message):
            argmin(made, one, one, by=by, adjoint=Implicit())
    number = torch.tensor(1.0, dtype=D)
    with pytest.raises(InputError, match=r"phi has shape \(\), but Simplex needs 1 more"):
        argmin(Constrained(pull, Simplex()), one, number, by=by, adjoint=Implicit())


def test_a_captured_tensor_is_named() -> None:
    strength = torch.tensor(0.1, dtype=D, requires_grad=True)
    made: Any = Composite(pull, L1(strength))
    with pytest.raises(InputError, match="requires grad and is neither in theta nor in phi"):
        attach(made, torch.ones(2, dtype=D), torch.ones(2, dtype=D))

    def value(captured: Tensor) -> Tensor:
        inner: Any = Composite(lambda t, p: pull(captured, p) + pull(t, p), L1(0.1))
        return attach(inner, torch.ones(2, dtype=D), torch.ones(2, dtype=D)).sum()

    with pytest.raises(TransformError, match="captures 'captured'"):
        torch.func.grad(value)(torch.ones(2, dtype=D))


def test_an_empty_support_is_no_solution() -> None:
    # a start that was forgotten: zeros are off the simplex, and no entry is in the support
    found = certificate(Constrained(pull, Simplex()), [0.5, 0.5], [0.0, 0.0])
    assert not bool(found.at_minimiser)


def test_an_infeasible_point_is_no_solution() -> None:
    for within in (Box(-1.0, 1.0), L2Ball(1.0), Simplex()):
        found = certificate(Constrained(pull, within), [3.0, 0.5], [2.0, 0.5])
        assert not bool(found.at_minimiser), within


def test_a_set_may_have_a_prox_as_well() -> None:
    class Positive:
        """A user's: its prox is its projection, and it has no value."""

        dims = 0

        def project(self, theta: Any, x: Tensor) -> Tensor:
            return NonNegative().project(theta, x)

        def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
            return self.project(theta, x)

        def manifold(self, theta: Any, x: Tensor) -> Tensor:
            return NonNegative().manifold(theta, x)

        def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
            return NonNegative().slacks(theta, x, gradient)

    found = certificate(Constrained(pull, Positive()), [3.0, -4.0], [3.0, 0.0])
    assert bool(found.solved)
