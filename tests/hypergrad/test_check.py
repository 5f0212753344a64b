"""``check``: healthy problems pass, and each planted fault is found under its own name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hypergrad import CG, Bilevel, Cholesky, Newton
from hypergrad.checks import problem as examined
from hypergrad.checks.check import check as check_both
from hypergrad.checks.findings import Verdict
from hypergrad.checks.report import Report
from hypergrad.errors import InputError
from hypergrad.implicit.pullback import Hypergradient, hypergradient
from hypergrad.objectives.quadratic import Quadratic
from hypergrad.objectives.softmax import SoftmaxRegression
from tests.hypergrad.problems import Q, Toy

TOY = Toy((3,))
PHI = TOY.minimiser()
Function = Callable[[Any, Any], Tensor]


def check(problem: Bilevel[Any, Any], theta: Any, phi: Any, **options: Any) -> Report:
    """With the theorems looked at where theta is, since these tests ask about the hypergradient."""
    return check_both(problem, theta, phi, upper_steps=0, **options)


def toy(lower: Function = TOY.lower, upper: Function = TOY.upper) -> Bilevel[Tensor, Tensor]:
    return Bilevel(upper=upper, lower=lower)


def names(report: Report) -> set[str]:
    return {finding.name for finding in report.findings if finding.verdict is Verdict.FAULT}


def last_sentence(report: Report) -> str:
    return " ".join(str(report).split("\n\n")[-1].split())


# --- healthy problems


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("tree", ["tensor", "dict"])
def test_a_healthy_problem_passes(batch: tuple[int, ...], dtype: torch.dtype, tree: str) -> None:
    small = Toy(batch, seed=1)
    small.a, small.b = small.a.to(dtype), small.b.to(dtype)
    theta, start = small.theta.to(dtype), small.start.to(dtype)
    solver = Newton(rtol=0.0, solver=Cholesky())
    report = None
    if tree == "tensor":
        phi = solver.minimise(small.lower, theta, start).phi
        report = check(toy(small.lower, small.upper), theta, phi)
    else:

        def lower(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
            joined = torch.cat([phi["head"], phi["bias"][..., None]], dim=-1)
            return small.lower(torch.cat([theta["a"][None], theta["b"]]), joined)

        def upper(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
            return phi["head"].square().sum(-1) + phi["bias"] + theta["b"].square().sum()

        thetas = {"a": theta[0], "b": theta[1:]}
        phis = solver.minimise(lower, thetas, {"head": start[..., 1:], "bias": start[..., 0]}).phi
        report = check(Bilevel(upper=upper, lower=lower), thetas, phis)
    assert report.passed, str(report)
    asked = {f.name for f in report.findings if f.verdict is Verdict.OK}
    assert {"finite differences", "dense oracle", "curvature", "adjoint solve"} <= asked
    assert ("independent tasks" in asked) == (batch != ())
    assert last_sentence(report).startswith("Nothing to do")


def test_the_comparison_is_sharp() -> None:
    # central differences with a step of u^(1/3) are good for about u^(2/3) = 4e-11 times constants
    (found,) = (f for f in check(toy(), TOY.theta, PHI).findings if f.name == "finite differences")
    assert found.limit < 1e-7
    assert found.measured < 1e-8


# --- planted faults


class WrongBackward(torch.autograd.Function):
    """``sum(x^2)/2`` with the gradient ``matrix @ x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrix)
        return x.square().sum(-1) / 2

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None]:
        x, matrix = ctx.saved_tensors
        return weights[0][..., None] * (x @ matrix), None


def custom(matrix: Tensor) -> Function:
    apply: Callable[..., Tensor] = WrongBackward.apply
    return lambda theta, phi: TOY.lower(theta, phi) + apply(phi, matrix)


def captured() -> Bilevel[Tensor, Tensor]:
    weight = torch.ones(Q, dtype=torch.float64, requires_grad=True)
    return toy(lambda theta, phi: TOY.lower(theta, phi) + (weight * phi).sum(-1))


def coupled() -> Bilevel[Tensor, Tensor]:
    return toy(lambda theta, phi: TOY.lower(theta, phi) + 0.01 * phi.mean().square())


def dropout() -> Bilevel[Tensor, Tensor]:
    return toy(lambda theta, phi: TOY.lower(theta, nn.functional.dropout(phi, 0.1)))


def batch_norm() -> Bilevel[Tensor, Tensor]:
    norm = nn.BatchNorm1d(Q, affine=False).double()
    data = torch.randn(3, Q, dtype=torch.float64)
    return toy(lambda theta, phi: TOY.lower(theta, phi) + (norm(data) * phi).sum(-1))


def counter() -> Bilevel[Tensor, Tensor]:
    calls = torch.zeros((), dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        calls.add_(1)
        return TOY.lower(theta, phi) + calls * phi.square().sum(-1)

    return toy(lower)


def hidden_counter() -> Bilevel[Tensor, Tensor]:
    calls = [0]

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        calls[0] += 1
        return TOY.lower(theta, phi) + calls[0] * phi.square().sum(-1)

    return toy(lower)


def upper_off() -> Bilevel[Tensor, Tensor]:
    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        apply: Callable[..., Tensor] = WrongBackward.apply
        return apply(phi, 1.01 * torch.eye(Q, dtype=torch.float64))

    return toy(upper=upper)


class WrongSecond(torch.autograd.Function):
    """``sum(x^2)/2``, with the right gradient x and a derivative of that which is not symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum(-1) / 2

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        skewed = x @ swapped()
        slope: Tensor = weights[0][..., None] * (skewed - (skewed - x).detach())
        return slope


def second_off(theta: Tensor, phi: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = WrongSecond.apply
    return TOY.lower(theta, phi) + apply(phi)


def swapped() -> Tensor:
    matrix = torch.eye(Q, dtype=torch.float64)
    matrix[0, 1] += 1
    return matrix


FAULTS = [
    (captured, {"captured tensors"}, "add the captured tensor to theta"),
    (coupled, {"independent tasks"}, "keep the tasks apart"),
    (dropout, {"determinism"}, "call module.eval()"),
    (hidden_counter, {"determinism"}, "so that two evaluations agree"),
    (batch_norm, {"unchanged state"}, "put batch norm in eval()"),
    (counter, {"unchanged state"}, "changing tensors in place"),
    (upper_off, {"finite differences"}, "derivatives are not those of their values"),
    (
        lambda: toy(custom(swapped())),
        {"gradient of g", "symmetric Hessian"},
        "not the gradient of any function",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta, phi * torch.arange(Q).clamp(max=1))),
        {"use of phi"},
        "leave the unused entries out of phi",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta, phi) + 5 * phi.abs().sum(-1)),
        {"no kink"},
        "smooth the kink of g",
    ),
    (lambda: toy(second_off), {"symmetric Hessian"}, "whose gradient is right"),
    (
        lambda: toy(custom(1.5 * torch.eye(Q, dtype=torch.float64))),
        {"gradient of g"},
        "not the derivative of its values",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta.detach(), phi)),
        {"use of theta"},
        "use theta together with phi",
    ),
    (
        lambda: toy(lambda theta, phi: theta.square().sum().expand(3)),
        {"use of phi"},
        "leave the unused part out of phi",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta, phi).mean()[None].expand(2)),
        {"inputs"},
        "so that each task gets its value",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta, phi) / 0),
        {"inputs"},
        "follow what the row 'inputs' says",
    ),
    (
        lambda: toy(lambda theta, phi: TOY.lower(theta, phi[..., :2])),
        {"inputs"},
        "follow what the row 'inputs' says",
    ),
]


@pytest.mark.parametrize("case", range(len(FAULTS)))
def test_a_planted_fault_is_found_and_no_other(case: int) -> None:
    make, faults, remedy = FAULTS[case]
    torch.manual_seed(0)
    report = check(make(), TOY.theta, PHI)
    assert names(report) == faults, str(report)
    assert remedy in last_sentence(report)
    assert last_sentence(report).count(". ") == 0  # one sentence
    assert max(len(line) for line in str(report).splitlines()) <= 100


@dataclasses.dataclass(frozen=True)
class Claims:
    """A quadratic whose closed form is another's."""

    truth: Quadratic
    claim: Quadratic

    def __call__(self, theta: Tensor, phi: Tensor) -> Tensor:
        return self.truth(theta, phi)

    def gradient(self, theta: Tensor, phi: Tensor) -> Tensor:
        return self.claim.gradient(theta, phi)

    def hessian(self, theta: Tensor, phi: Tensor) -> Any:
        return self.claim.hessian(theta, phi)


QUADRATIC = Quadratic(matrix=TOY.a, coupling=TOY.b, offset=torch.zeros_like(PHI))


@pytest.mark.parametrize("wrong", ["matrix", "symmetry", "gradient", "shape", "none"])
def test_a_wrong_closed_form_is_found_and_no_other_fault(wrong: str) -> None:
    eye = torch.eye(Q, dtype=torch.float64)
    claim = {
        "matrix": dataclasses.replace(QUADRATIC, matrix=TOY.a + 1e-6 * eye),
        "symmetry": dataclasses.replace(QUADRATIC, matrix=TOY.a + 0.01 * (swapped() - eye)),
        "gradient": dataclasses.replace(QUADRATIC, offset=QUADRATIC.offset + 1e-6),
        "shape": Quadratic(TOY.a[..., :2, :2], TOY.b[..., :2, :], QUADRATIC.offset[..., :2]),
        "none": QUADRATIC,
    }[wrong]
    lower = Claims(truth=QUADRATIC, claim=claim)
    report = check(toy(lower), TOY.theta, QUADRATIC.minimiser(TOY.theta))
    assert names(report) == (set() if wrong == "none" else {"closed form"}), str(report)
    assert ("correct the closed form" in last_sentence(report)) == (wrong != "none")


def test_a_closed_form_with_another_l2_is_found() -> None:
    features, labels = torch.randn(3, 6, 4, dtype=torch.float64), torch.tensor([[0, 1, 2] * 2] * 3)

    class Wrong(SoftmaxRegression):
        def hessian(self, theta: Tensor, phi: Tensor) -> Any:
            return SoftmaxRegression(self.labels, 0.71).hessian(theta, phi)

    truth = SoftmaxRegression(labels, 0.7)
    start = torch.zeros(3, 3, 4, dtype=torch.float64)
    phi = Newton(rtol=0.0, solver=Cholesky()).minimise(truth, features, start).phi
    upper = SoftmaxRegression(labels.flip(-1), 0.1)
    assert check(Bilevel(upper=upper, lower=truth), features, phi).passed
    report = check(Bilevel(upper=upper, lower=Wrong(labels, 0.7)), features, phi)
    assert names(report) == {"closed form"}


def test_a_phi_far_from_converged_is_found() -> None:
    report = check(toy(), TOY.theta, PHI + 0.1, at_minimiser=True)
    assert names(report) == {"converged phi"}
    assert "run more lower steps" in last_sentence(report)
    nearly = PHI + 1e-5
    assert check(toy(), TOY.theta, nearly, at_minimiser=True).passed
    strict = check(toy(), TOY.theta, nearly, at_minimiser=True, accuracy=1e-6)
    assert names(strict) == {"converged phi"}


def test_an_unsolved_adjoint_system_is_found() -> None:
    report = check(toy(), TOY.theta, PHI, solver=CG(max_steps=1))
    assert names(report) == {"adjoint solve"}
    assert "allow more steps" in last_sentence(report)


def test_an_ill_conditioned_problem_is_told_what_precision_it_needs() -> None:
    matrix = torch.diag(torch.logspace(0, 5.5, Q)).expand(3, Q, Q)
    lower = Quadratic(matrix=matrix, coupling=TOY.b.float(), offset=torch.zeros(3, Q))
    theta = TOY.theta.float()
    report = check(toy(lower), theta, lower.minimiser(theta), solver=Cholesky())
    assert "conditioning" in names(report)
    assert "use float64" in last_sentence(report)


@pytest.mark.parametrize("theta", [TOY.theta.float(), TOY.theta.long(), {}])
def test_inputs_of_the_wrong_kind_are_reported(theta: Any) -> None:
    report = check(toy(), theta, PHI)
    assert names(report) == {"inputs"}
    assert "not asked: first see to 'inputs'" in str(report)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any, **options: Any) -> Hypergradient[Any]:
        found = hypergradient(*arguments, **options)
        return dataclasses.replace(found, grad=found.grad * (1 + 1e-6))

    monkeypatch.setattr(examined, "hypergradient", wrong)
    assert names(check(toy(), TOY.theta, PHI)) == {"finite differences", "dense oracle"}


def test_two_faults_are_both_named_in_one_sentence() -> None:
    report = check(toy(), TOY.theta, PHI + 0.1, solver=CG(max_steps=1), at_minimiser=True)
    assert names(report) == {"converged phi", "adjoint solve"}
    assert last_sentence(report).startswith("To do, in this order: (1) run more lower steps")
    assert last_sentence(report).endswith("; then check again.")


def test_check_leaves_no_trace() -> None:
    norm = nn.BatchNorm1d(Q, affine=False).double()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    state = torch.get_rng_state()
    upper: Function = lambda theta, phi: TOY.upper(theta, nn.functional.dropout(norm(phi)))  # noqa: E731
    report = check(toy(upper=upper), TOY.theta, PHI)
    assert names(report) == {"unchanged state", "determinism"}
    assert torch.equal(torch.get_rng_state(), state)
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_module_with_a_tensor_of_its_own_making_is_no_fault() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        work = torch.zeros_like(phi)
        work.add_(TOY.theta[0].item())  # in place, but made here
        work.unsqueeze_(0).squeeze_(0)
        return TOY.lower(theta, phi) + (work * phi).sum(-1)

    phi = Newton(rtol=0.0, solver=Cholesky()).minimise(lower, TOY.theta, TOY.start).phi
    assert check(toy(lower), TOY.theta, phi).passed


def test_differences_that_cannot_tell_are_no_fault_but_are_said() -> None:
    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        large = 1e12 + phi.square().sum(-1)  # known to 1e-4
        return large - 1e12

    report = check(toy(upper=upper), TOY.theta, PHI)
    assert report.passed
    (row,) = (f for f in report.findings if f.name == "finite differences")
    assert row.verdict is Verdict.SKIPPED
    assert "could not confirm" in last_sentence(report)


def test_an_upper_objective_whose_values_never_move_is_found() -> None:
    def upper(theta: Tensor, phi: Tensor) -> Tensor:  # straight through a rounding
        return (phi + (phi.round() - phi).detach()).sum(-1) + 0.3

    report = check(toy(upper=upper), TOY.theta, 10 * PHI, at_minimiser=True)
    assert names(report) == {"converged phi", "finite differences"}
    assert "however far theta moves" in " ".join(str(report).split())


def test_nonsense_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"accuracy=2.*in \(0, 1\)"):
        check(toy(), TOY.theta, PHI, accuracy=2.0)
