"""Evidence on roots: wrong derivatives of the equations are noticed, and the step to the root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import Certificate, attach, curvature, strict
from hypergrad.conditions import FixedPoint, Root, Stationary
from hypergrad.errors import AdjointError, AdjointWarning
from hypergrad.implicit import probe
from hypergrad.solvers import GMRES, LU

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _nothing_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_PASSED", set())


class Tanh(torch.autograd.Function):
    """``tanh x``, whose backward forgets a square."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y: Tensor = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = 1 - y.abs()
        return cotangent * slope


class Late(torch.autograd.Function):
    """``x + y``, whose backward gives y nine tenths."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        return cotangent, 0.9 * cotangent


def layer(
    tanh: Callable[[Tensor], Tensor], add: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(1)
    matrix = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))[0] / 2

    def image(theta: Tensor, phi: Tensor) -> Tensor:
        return tanh(add(phi @ matrix.to(phi), theta.expand(phi.shape)))

    return image


def certificate_of(condition: Any, dtype: torch.dtype, when: probe.Probing = "once") -> Certificate:
    theta = torch.linspace(-1.0, 2.0, 5, dtype=dtype)
    phi, image = torch.zeros(2, 5, dtype=dtype), layer(torch.tanh, torch.add)
    for _ in range(60):
        phi = image(theta, phi)
    seen: list[Certificate] = []
    by = curvature.Hessian(probe=when)
    attach(condition, theta.requires_grad_(), phi, curvature=by, watch=seen.append).sum().backward()
    return seen[0]


STATED: dict[str, Callable[[Any], Any]] = {
    "root": lambda image: Root(lambda theta, phi: phi - image(theta, phi), tasks=1),
    "fixed point": lambda image: FixedPoint(image, tasks=1),
}


@BOTH
@pytest.mark.parametrize("kind", STATED)
def test_a_wrong_backward_is_noticed(kind: str, dtype: torch.dtype) -> None:
    for image in (layer(Tanh.apply, torch.add), layer(torch.tanh, Late.apply)):
        wrong = certificate_of(STATED[kind](image), dtype)
        assert not wrong.solved.any()
        assert wrong.at_minimiser.all()  # nothing else tells
        assert wrong.adjoint.converged.all()
        assert "the condition's function are wrong in 2 of 2 tasks" in str(wrong)
    right = certificate_of(STATED[kind](layer(torch.tanh, torch.add)), dtype)
    assert right.solved.all()
    assert right.second_derivative_error is not None


@BOTH
def test_kinks_are_no_wrong_backward(dtype: torch.dtype) -> None:
    seen: list[Certificate] = []
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        matrix = torch.linalg.qr(torch.randn(40, 40, generator=draw, dtype=torch.float64))[0]
        half = (matrix / 2).to(dtype)

        def image(theta: Tensor, phi: Tensor, half: Tensor = half) -> Tensor:
            return torch.relu(phi @ half + theta)

        theta = torch.randn(40, generator=draw, dtype=torch.float64).to(dtype)
        phi = torch.zeros_like(theta)
        for _ in range(60):
            phi = image(theta, phi)
        by = curvature.Hessian(probe="always")
        at = theta.requires_grad_()
        attach(FixedPoint(image), at, phi, curvature=by, watch=seen.append).sum().backward()
    assert all(bool(each.second_derivatives_right) for each in seen)


def at_zeros(
    image: Callable[[Tensor, Tensor], Tensor], theta: Tensor, dtype: torch.dtype
) -> Certificate:
    theta = theta.to(dtype)
    phi = torch.zeros(2, 5, dtype=dtype)
    for _ in range(60):
        phi = image(theta, phi)
    seen: list[Certificate] = []
    by = curvature.Hessian(probe="always")
    at = theta.requires_grad_()
    attach(FixedPoint(image, tasks=1), at, phi, curvature=by, watch=seen.append).sum().backward()
    return seen[0]


ZEROS = {"all": torch.zeros(5), "some": torch.tensor([0.0, 0.7, 0.0, -0.4, 0.0])}


@BOTH
@pytest.mark.parametrize("zeros", ZEROS)
def test_a_wrong_backward_at_zeros_is_noticed(zeros: str, dtype: torch.dtype) -> None:
    theta = ZEROS[zeros]
    hit = (theta == 0).double()
    offset = torch.tensor([0.5, -0.3, 0.2, 0.1, 0.4], dtype=torch.float64)

    class Zeroed(torch.autograd.Function):
        """``x + y``, whose backward gives those entries of y nine tenths that are zero."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            return x + y

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
            return cotangent, (1 - 0.1 * hit).to(cotangent) * cotangent

    for add in (torch.add, Zeroed.apply):
        plain = layer(torch.tanh, add)

        def image(
            t: Tensor, p: Tensor, plain: Callable[[Tensor, Tensor], Tensor] = plain
        ) -> Tensor:
            return plain(t, p) + offset.to(p)

        found = at_zeros(image, theta.clone(), dtype)
        assert bool(found.second_derivatives_right.all()) is (add is torch.add)


@BOTH
def test_zeros_at_a_kink_or_where_the_domain_ends_raise_no_alarm(dtype: torch.dtype) -> None:
    wild: dict[str, Callable[[Tensor], Tensor]] = {
        "kink": torch.relu,
        "kink both ways": torch.abs,
        "end": lambda t: t.pow(1.5),
    }
    theta = ZEROS["some"].abs()
    for tanh in (torch.tanh, Tanh.apply):
        plain = layer(tanh, torch.add)
        for name, of in wild.items():

            def image(
                t: Tensor,
                p: Tensor,
                of: Callable[[Tensor], Tensor] = of,
                plain: Callable[[Tensor, Tensor], Tensor] = plain,
            ) -> Tensor:
                return plain(of(t), p)

            found = at_zeros(image, theta.clone(), dtype)
            # and they hide nothing
            assert bool(found.second_derivatives_right.all()) is (tanh is torch.tanh), name


def test_a_kind_of_equation_is_probed_once_and_a_wrong_one_always() -> None:
    calls: list[int] = []
    right, wrong = layer(torch.tanh, torch.add), layer(Tanh.apply, torch.add)

    def counted(theta: Tensor, phi: Tensor) -> Tensor:
        calls.append(1)
        return right(theta, phi)

    def probed(when: probe.Probing) -> tuple[bool, int]:
        calls.clear()
        found = certificate_of(FixedPoint(counted, tasks=1), torch.float64, when)
        return found.second_derivative_error is not None, len(calls)

    never = probed("never")
    assert never[0] is False
    assert probed("once") == (True, never[1] + 8)
    assert probed("once") == never
    assert probed("always") == (True, never[1] + 8)
    # another function of the same class of condition is another kind
    for _ in range(2):
        found = certificate_of(FixedPoint(wrong, tasks=1), torch.float64)
        assert not found.second_derivatives_right.any()


def test_strict_raises_and_the_warning_says_what_is_wrong() -> None:
    theta = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64).requires_grad_()
    phi, image = torch.zeros(5, dtype=torch.float64), layer(Tanh.apply, torch.add)
    for _ in range(60):
        phi = image(theta.detach(), phi)
    with pytest.raises(AdjointError, match="wrong backward"):
        attach(FixedPoint(image), theta, phi, watch=strict).sum().backward()
    with pytest.warns(AdjointWarning, match="gradcheck"):
        attach(FixedPoint(image), theta, phi).sum().backward()


def test_a_stationary_point_is_probed_as_a_minimiser_is() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.slope = 3 * x.square()
            return x.pow(3)

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            slope: Tensor = ctx.slope
            return cotangent * slope

    def saddle(cube: Callable[[Tensor], Tensor]) -> Any:
        # x^3 + x^2 - y^2 + theta (y - x): 3 x^2 + 2 x = theta and y = theta/2
        return Stationary(
            lambda t, p: cube(p[0]) + p[0].square() - p[1].square() + t * (p[1] - p[0])
        )

    phi = torch.tensor([1.0, 2.5], dtype=torch.float64)
    seen: list[Certificate] = []
    for cube in (Cube.apply, lambda x: x.pow(3)):
        theta = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        attach(saddle(cube), theta, phi, watch=seen.append).sum().backward()
    assert not seen[0].second_derivatives_right
    assert seen[1].solved


def test_forward_mode_has_no_product_to_probe() -> None:
    image = layer(torch.tanh, torch.add)
    theta, phi = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64), torch.zeros(5).double()
    for _ in range(60):
        phi = image(theta, phi)
    seen: list[Certificate] = []

    def solved(t: Tensor) -> Tensor:
        return attach(FixedPoint(image), t, phi, watch=seen.append)

    torch.func.jvp(solved, (theta,), (torch.ones_like(theta),))
    assert all(bool(each.solved.all()) for each in seen)


@BOTH
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_factor_of_a_dense_solve_gives_newtons_step(
    batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.triu(torch.randn(4, 4, generator=draw, dtype=torch.float64), 1)
    matrix = (matrix + torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))).to(dtype)
    theta = torch.randn(4, generator=draw, dtype=torch.float64).to(dtype)
    root = torch.linalg.solve(matrix, theta)
    away = torch.randn(*batch, 4, generator=draw, dtype=torch.float64).to(dtype)
    condition: Any = Root(lambda t, p: p @ matrix.mT - t, tasks=len(batch))
    seen: list[Certificate] = []
    for solver in (LU(), GMRES(rtol=1e-6)):
        at = theta.clone().requires_grad_()
        attach(condition, at, root + away, solver=solver, watch=seen.append).sum().backward()
    exact = torch.linalg.vector_norm(away, dim=-1) / torch.linalg.vector_norm(root + away, dim=-1)
    # the condition number is below 20, and rounding of F relative to its terms
    assert torch.allclose(seen[0].newton_step, exact, rtol=100 * 20 * torch.finfo(dtype).eps)
    assert bool((seen[1].newton_step <= exact * (1 + 1e-4)).all())  # a bound from below


def evidence(
    equations: Callable[[Any, Tensor], Tensor], theta: Any, phi: Tensor
) -> tuple[Certificate, Any]:
    """A root's certificate, and the hypergradient of its sum."""
    tree = {"a": theta} if isinstance(theta, Tensor) else theta
    upper = {name: leaf.clone().requires_grad_() for name, leaf in tree.items()}
    seen: list[Certificate] = []

    def residual(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
        return equations(theta if len(theta) > 1 else theta["a"], phi)

    attach(Root(residual), upper, phi, watch=seen.append).sum().backward()
    return seen[0], {name: leaf.grad for name, leaf in upper.items()}


def test_equations_may_be_derivatives_themselves() -> None:
    """F that calls torch.autograd.grad needs a phi that requires grad, and a recorded graph."""

    def slope(theta: Tensor, phi: Tensor) -> Tensor:
        value = (phi - theta).square().sum() / 2 + phi.pow(4).sum() / 4
        return torch.autograd.grad(value, phi, create_graph=True)[0]

    phi = torch.tensor([0.5, -0.3], dtype=torch.float64)
    certificate, gradient = evidence(slope, phi + phi**3, phi)
    assert certificate.second_derivative_error == 0.0
    torch.testing.assert_close(gradient["a"], 1 / (1 + 3 * phi**2))


@BOTH
def test_leaves_of_other_units_are_no_false_alarm(dtype: torch.dtype) -> None:
    """A step relative to all of theta moves a sine's small argument by a radian and more."""
    a, b = (torch.tensor(values, dtype=dtype) for values in ([1e6, 2e6], [2e-3, 3.0]))
    found, _ = evidence(
        lambda theta, phi: phi - theta["a"] - theta["b"].sin(), {"a": a, "b": b}, a + b.sin()
    )
    assert found.second_derivative_error == 0.0


def test_what_is_positive_stays_positive() -> None:
    """As a user's own check of a scale demands."""

    def equations(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
        assert bool((theta["b"] > 0).all())
        return phi - theta["a"] - theta["b"].log()

    a, b = torch.tensor([1e6, 2e6]), torch.tensor([2e-3, 3.0])
    assert evidence(equations, {"a": a, "b": b}, a + b.log())[0].second_derivative_error == 0.0


@BOTH
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("right", [[], [1.0, 2.0]])
def test_wrong_signs_do_not_cancel(dtype: torch.dtype, sign: float, right: list[float]) -> None:
    """In the direction that is tried, neither of one unknown nor of some entries among others."""
    wrong = torch.ones(1 if not right else 2, dtype=dtype)

    def late(part: Tensor) -> Tensor:
        found: Tensor = Late.apply(torch.zeros_like(part), part)  # type: ignore[no-untyped-call]
        return found

    theta = torch.cat([torch.tensor(right, dtype=dtype), wrong])
    certificate, _ = evidence(
        lambda theta, phi: phi - sign * torch.cat([theta[: len(right)], late(theta[len(right) :])]),
        theta,
        sign * theta,
    )
    assert certificate.second_derivative_error is not None
    assert float(certificate.second_derivative_error) > 0.01
