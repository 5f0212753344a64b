"""What a certificate says of phi: predicted errors, their order, and what no unit changes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    GradientDescent,
    Implicit,
    Summary,
    argmin,
    attach,
    deferred,
    hypergradient,
    strict,
    warn,
)
from hypergrad.errors import AdjointError, AdjointWarning
from tests.hypergrad.problems import Toy

TOY = Toy((3,))
PROBLEM = Bilevel(lower=TOY.lower, upper=TOY.upper)


def at(distance: float) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    phi = TOY.minimiser()
    return phi + distance * torch.randn(phi.shape, generator=draw, dtype=phi.dtype)


def errors_at(distance: float) -> tuple[float, float]:
    exact = hypergradient(PROBLEM, TOY.theta, TOY.minimiser(), solver=Cholesky()).value
    found = hypergradient(PROBLEM, TOY.theta, at(distance), solver=Cholesky())
    return abs(float(found.value - exact)), abs(float(found.corrected_value - exact))


def test_the_corrected_value_is_accurate_to_second_order() -> None:
    (plain, corrected), (half, quarter) = errors_at(2e-4), errors_at(1e-4)
    # first order halves with the distance, second order quarters; the next orders add 1 %
    assert plain / half == pytest.approx(2.0, rel=0.02)
    assert corrected / quarter == pytest.approx(4.0, rel=0.05)
    assert quarter < 0.05 * half


def test_a_sign_error_in_the_correction_would_be_first_order() -> None:
    found = hypergradient(PROBLEM, TOY.theta, at(1e-3), solver=Cholesky())
    exact = hypergradient(PROBLEM, TOY.theta, TOY.minimiser(), solver=Cholesky()).value
    wrong = float(found.value + found.certificate.predicted_error.mean() - exact)
    assert abs(wrong) > 1.5 * errors_at(1e-3)[0]


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("which", ["phi", "theta", "g", "f"])
@pytest.mark.parametrize("solver", [Cholesky(), CG(rtol=1e-10)], ids=["dense", "cg"])
def test_no_unit_changes_the_verdict(unit: float, which: str, solver: CG | Cholesky) -> None:
    p, t, g, f = (unit if which == name else 1.0 for name in ("phi", "theta", "g", "f"))
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        lower=lambda theta, phi: g * TOY.lower(theta / t, phi / p),
        upper=lambda theta, phi: f * TOY.upper(theta / t, phi / p),
    )
    plain = hypergradient(PROBLEM, TOY.theta, at(0.05), solver=solver).certificate
    scaled = hypergradient(problem, TOY.theta * t, at(0.05) * p, solver=solver).certificate
    assert torch.allclose(scaled.newton_step, plain.newton_step, rtol=1e-6)
    assert torch.allclose(scaled.predicted_error, f * plain.predicted_error, rtol=1e-6)
    assert not bool(scaled.at_minimiser.any())
    exact = hypergradient(problem, TOY.theta * t, TOY.minimiser() * p, solver=solver).certificate
    assert bool(exact.solved.all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_minimiser_to_working_precision_is_silent(dtype: torch.dtype) -> None:
    toy = Toy((3,))
    theta = toy.theta.to(dtype).requires_grad_()
    lower = lambda theta, phi: toy.lower(theta.double(), phi.double()).to(dtype)  # noqa: E731
    phi = toy.minimiser().to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(lower, theta, phi).sum().backward()


def step(watch: object, steps: int) -> None:
    theta = TOY.theta.clone().requires_grad_()
    by = GradientDescent(max_steps=steps, step_size=0.1)
    phi = argmin(TOY.lower, theta, at(1.0), by=by, adjoint=Implicit(), watch=watch)  # type: ignore[arg-type]
    phi.sum().backward()


def test_the_lower_solver_is_named_with_its_steps() -> None:
    with pytest.raises(AdjointError, match=r"GradientDescent\(max_steps=2, .*Allow more steps"):
        step(strict, 2)
    step(strict, 400)


def test_one_warning_for_a_kind_of_trouble_at_the_users_line() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(25):
            step(warn, 2)
    # the first and the tenth
    assert len(seen) == 2
    assert "(10 times here so far.)" in str(seen[1].message)
    assert all(one.filename == __file__ for one in seen)
    assert all(issubclass(one.category, AdjointWarning) for one in seen)


def test_warnings_as_errors_raise_every_time() -> None:
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(AdjointWarning):
                step(warn, 2)


def test_a_summary_counts_a_run() -> None:
    summary = Summary()
    step(summary, 2)
    step(summary, 400)
    text = str(summary)
    assert text.startswith("2 certificates, 6 tasks")
    assert "phi no minimiser                3 (50.0%)" in text
    assert "both levels solved              3 (50.0%)" in text
    assert "worst Newton step / |phi|" in text


def test_the_certificate_holds_what_was_chosen_and_v_like_phi() -> None:
    seen: list[Certificate] = []
    theta = TOY.theta.clone().requires_grad_()
    tree = {"a": TOY.minimiser()[:, :2], "b": TOY.minimiser()[:, 2:]}

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return TOY.lower(theta, torch.cat([phi["a"], phi["b"]], dim=-1))

    found = attach(lower, theta, tree, watch=seen.append)
    (found["a"].sum() + found["b"].sum()).backward()
    assert isinstance(seen[0].solver, Cholesky)
    assert seen[0].v.keys() == tree.keys()
    again = attach(lower, theta, tree, solver=CG(), start=seen[0].v, watch=seen.append)
    (again["a"].sum() + again["b"].sum()).backward()
    assert seen[1].adjoint.matvecs <= 2  # v itself was the start


def test_transforms_see_what_is_orthogonal_to_v_and_waiting_checks_do_not() -> None:
    draw = torch.Generator().manual_seed(0)
    h = torch.diag(torch.arange(1.0, 7.0).double())
    c = torch.ones(6, dtype=torch.float64)
    r = torch.randn(6, generator=draw, dtype=torch.float64)
    v = c / h.diagonal()
    r = r - (r @ v) / (v @ v) * v
    away = torch.linalg.solve(h, r)  # a Newton step that <v, r> = 0 does not show
    seen: list[Certificate] = []

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return phi @ h @ phi / 2 - theta @ phi

    def loss(theta: Tensor) -> Tensor:
        point = torch.linalg.solve(h, torch.ones(6).double()) + away
        phi: Tensor = attach(lower, theta, point, solver=CG(), watch=seen.append)
        return phi.sum()

    theta = torch.ones(6).double().requires_grad_()
    loss(theta).backward()
    plain = seen.pop().newton_step
    assert plain > 0.1
    torch.func.grad(loss)(torch.ones(6).double())
    torch.func.vmap(torch.func.grad(loss))(torch.ones(3, 6).double())
    for certificate in seen:
        assert torch.allclose(certificate.newton_step, plain, rtol=1e-12, atol=0.0)
    assert [certificate.newton_step.shape for certificate in seen] == [(), (3,)]
    with deferred():
        loss(theta).backward()
    assert seen[-1].newton_step < 1e-12
