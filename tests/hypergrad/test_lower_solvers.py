"""Lower solvers x problems x batch shapes: where they end, and whether they say so."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Cholesky, GradientDescent, LowerSolver, Newton
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.lower.lbfgs import LBFGS
from hypergrad.lower.minimum import Minimum, Unrollable
from hypergrad.lower.nesterov import Nesterov
from hypergrad.lower.torch_optim import TorchOptimiser
from tests.hypergrad.problems import Toy

EPS = torch.finfo(torch.float64).eps
THETA = torch.tensor([0.3, -0.2], dtype=torch.float64)
BATCHES = [(), (3,), (2, 3)]


def met(found: Minimum[Tensor] | Minimum[dict[str, Tensor]]) -> bool:
    """Whether every task met a tolerance that there was."""
    return found.converged is not None and bool(found.converged.all())


def named(value: object) -> str:
    """A test's name that is the same in every process: no addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@dataclass(frozen=True)
class Problem:
    """Minimised at ``target``, with curvature in ``[mu, smooth]`` around it; one task's start."""

    lower: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    target: Tensor
    mu: float
    smooth: float

    def starts(self, batch: tuple[int, ...]) -> Tensor:
        """The first task at the given start, the others on its way to the target."""
        count = math.prod(batch)
        share = torch.arange(count, dtype=torch.float64) / (2 * count)
        way = self.start + share[:, None] * (self.target - self.start)
        return way.reshape(*batch, -1)


def quadratic(spectrum: list[float], start: Tensor | None = None) -> Problem:
    curvature = torch.tensor(spectrum, dtype=torch.float64)
    n = len(curvature)
    mirror = torch.full((n,), n**-0.5, dtype=torch.float64)
    turn = torch.eye(n, dtype=torch.float64) - 2 * torch.outer(mirror, mirror)
    matrix = turn @ torch.diag(curvature) @ turn
    target = torch.linspace(-1, 2, n, dtype=torch.float64) * THETA[0]

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        off = phi - target / THETA[0] * theta[0]
        return (off * (off @ matrix)).sum(-1) / 2 + 1

    begin = torch.ones(n, dtype=torch.float64) if start is None else start
    return Problem(lower, begin, target, spectrum[0], spectrum[-1])


def wells(theta: Tensor, phi: Tensor) -> Tensor:
    # x^4/4 - x^2/2 in each coordinate: concave within 3^-1/2 of 0, minimal at 1
    return (phi.pow(4) / 4 - phi.square() / 2).sum(-1) + 0 * theta.sum()


STRONG = quadratic([1.0, 1.5, 4.0, 10.0])
ILL = quadratic([1.0, 3.0, 30.0, 200.0])
# starts where the Hessian is indefinite; on the way it stays below 3 x^2 - 1 <= 2 in 0 < x <= 1
WELLS = Problem(
    wells,
    torch.tensor([0.05, 0.9, 0.4], dtype=torch.float64),
    torch.ones(3, dtype=torch.float64),
    2.0,
    2.0,
)
PROBLEMS = {"strongly convex": STRONG, "ill conditioned": ILL, "non-convex start": WELLS}
RTOL = 1e-8


def adam(leaves: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(leaves, lr=0.05)


# The steps are proven (gradient descent: kappa ln(kappa/RTOL)) or generous; each is given L.
SOLVERS: dict[str, Callable[[Problem], LowerSolver]] = {
    "gradient descent": lambda problem: GradientDescent(
        max_steps=6000, step_size=1 / problem.smooth, rtol=RTOL
    ),
    "Nesterov with kappa": lambda problem: Nesterov(
        max_steps=1000,
        step_size=1 / problem.smooth,
        condition=problem.smooth / problem.mu,
        rtol=RTOL,
    ),
    "Nesterov with restarts": lambda problem: Nesterov(
        max_steps=3000, step_size=1 / problem.smooth, rtol=RTOL
    ),
    "Newton-CG": lambda problem: Newton(rtol=RTOL),
    "Newton-Cholesky": lambda problem: Newton(rtol=RTOL, solver=Cholesky()),
    "L-BFGS": lambda problem: LBFGS(rtol=RTOL),
    "L-BFGS, one pair": lambda problem: LBFGS(rtol=RTOL, history=1, max_steps=2000),
    "torch Adam": lambda problem: TorchOptimiser(make=adam, max_steps=3000, rtol=1e-4),
    "torch LBFGS": lambda problem: TorchOptimiser(
        make=lambda leaves: torch.optim.LBFGS(leaves, line_search_fn="strong_wolfe"),
        max_steps=20,
        rtol=1e-4,
    ),
}
SLOW = {
    (solver, "ill conditioned", batch)
    for solver in ("gradient descent", "torch Adam")
    for batch in [(), (2, 3)]
}
TABLE = [
    (solver, problem, batch)
    for solver in SOLVERS
    for problem in PROBLEMS
    for batch in BATCHES
    if (solver, problem, batch) not in SLOW
]


def gradient_at(problem: Problem, phi: Tensor) -> Tensor:
    leaf = phi.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.lower(THETA, leaf).sum(), leaf)
    return gradient


def gradient_norm(problem: Problem, phi: Tensor) -> Tensor:
    size: Tensor = gradient_at(problem, phi).norm(dim=-1)
    return size


def scale(problem: Problem, start: Tensor) -> Tensor:
    """What rtol is relative to: ``|r| + 2 |r - h|``, r and h the gradients at phi and phi/2."""
    apart = gradient_at(problem, start) - gradient_at(problem, start / 2)
    total: Tensor = gradient_norm(problem, start) + 2 * apart.norm(dim=-1)
    return total


@pytest.mark.parametrize(("solver", "name", "batch"), TABLE, ids=named)
def test_every_solver_reaches_the_minimiser_and_says_so(
    solver: str, name: str, batch: tuple[int, ...]
) -> None:
    problem = PROBLEMS[name]
    by, start = SOLVERS[solver](problem), problem.starts(batch)
    found = by.minimise(problem.lower, THETA, start)
    goal = (1e-4 if solver.startswith("torch") else RTOL) * scale(problem, start)
    assert met(found)
    assert found.stationarity.shape == batch
    # the same gradient up to the order of its sums
    again = gradient_norm(problem, found.phi)
    assert torch.allclose(found.stationarity, again, rtol=1e-6, atol=100 * EPS * problem.smooth)
    assert (found.stationarity <= goal).all()
    # strong monotonicity: |phi - phi*| <= |gradient|/mu; where H varies, by less than 2 this close
    assert ((found.phi - problem.target).norm(dim=-1) <= 2 * goal / problem.mu).all()
    assert not found.phi.requires_grad


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_a_task_at_its_minimum_stays_while_the_others_go_on(solver: str) -> None:
    start = torch.stack([STRONG.target, STRONG.start])
    found = SOLVERS[solver](STRONG).minimise(STRONG.lower, THETA, start)
    # the gradient vanishes to the bit there: nothing may move, but what mixes tasks
    assert torch.equal(found.phi[0], STRONG.target) or solver == "torch LBFGS"
    assert found.converged is not None
    assert found.converged[1]
    assert found.converged[0] == (found.stationarity[0] == 0)
    alone = SOLVERS[solver](STRONG).minimise(STRONG.lower, THETA, STRONG.target)
    assert alone.steps == 0
    assert met(alone)


@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=0, step_size=0.1, rtol=0.1),
        GradientDescent(max_steps=0, step_size=0.1),
        Nesterov(max_steps=0, step_size=0.1),
        Nesterov(max_steps=0, step_size=0.1, rtol=0.1),
        LBFGS(max_steps=0),
        TorchOptimiser(make=adam, max_steps=0),
    ],
    ids=named,
)
def test_no_step_leaves_the_start_and_tells_its_stationarity(by: LowerSolver) -> None:
    start = STRONG.starts((3,))
    found = by.minimise(STRONG.lower, THETA, start)
    assert torch.equal(found.phi, start)
    assert torch.allclose(found.stationarity, gradient_norm(STRONG, start), rtol=1e-15)
    assert found.steps == 0
    assert found.converged is None or not found.converged.any()


@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=3, step_size=0.1, rtol=1e-12),
        Nesterov(max_steps=3, step_size=0.1, rtol=1e-12),
        Newton(rtol=1e-12, max_steps=1),
        LBFGS(rtol=1e-12, max_steps=3),
        TorchOptimiser(make=adam, max_steps=3, rtol=1e-12),
    ],
    ids=named,
)
def test_what_was_not_met_is_not_called_converged(by: LowerSolver) -> None:
    found = by.minimise(WELLS.lower, THETA, WELLS.starts((3,)))
    assert found.converged is not None
    assert not found.converged.any()


@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=3, step_size=0.1),
        Nesterov(max_steps=300, step_size=0.1),
        TorchOptimiser(make=adam, max_steps=3),
    ],
    ids=named,
)
def test_a_number_of_steps_is_neither_met_nor_missed(by: LowerSolver) -> None:
    assert by.minimise(STRONG.lower, THETA, STRONG.starts((3,))).converged is None


@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=2000, step_size=0.1, atol=1e-3),
        Nesterov(max_steps=2000, step_size=0.1, atol=1e-3),
        Nesterov(max_steps=2000, step_size=0.1, condition=10.0, atol=1e-3),
        LBFGS(rtol=0.0, atol=1e-3),
        Newton(rtol=0.0, atol=1e-3),
    ],
    ids=named,
)
def test_tasks_that_met_the_tolerance_stay_where_they_would_alone(by: LowerSolver) -> None:
    start = STRONG.start + torch.tensor([[0.001], [1.0], [300.0]], dtype=torch.float64)
    together = by.minimise(STRONG.lower, THETA, start)
    assert met(together)
    steps = []
    for task in range(3):
        alone = by.minimise(STRONG.lower, THETA, start[task])
        steps.append(alone.steps)
        # kappa times the rounding of what may be a hundred steps; CG inside magnifies it more
        assert torch.allclose(together.phi[task], alone.phi, rtol=0, atol=1e-9)
    assert together.steps == max(steps)


def test_nesterov_obeys_its_proven_rate() -> None:
    kappa = ILL.smooth / ILL.mu
    start = ILL.starts((3,))
    first = (start - ILL.target).norm(dim=-1)
    for steps in (10, 50, 100, 300):
        by = Nesterov(max_steps=steps, step_size=1 / ILL.smooth, condition=kappa)
        error = (by.minimise(ILL.lower, THETA, start).phi - ILL.target).norm(dim=-1)
        assert (error <= math.sqrt((kappa + 1) * (1 - kappa**-0.5) ** steps) * first).all()


def test_acceleration_pays_and_restarts_need_no_condition_number() -> None:
    kappa, start = ILL.smooth / ILL.mu, ILL.starts((3,))
    step = 1 / ILL.smooth
    counts = [
        by.minimise(ILL.lower, THETA, start).steps
        for by in (
            GradientDescent(max_steps=6000, step_size=step, rtol=1e-6),
            Nesterov(max_steps=3000, step_size=step, condition=kappa, rtol=1e-6),
            Nesterov(max_steps=3000, step_size=step, rtol=1e-6),
        )
    ]
    assert counts[1] < counts[0] / 4
    assert counts[2] < counts[0] / 4


@pytest.mark.parametrize(
    "by", [Newton(rtol=0.0, solver=Cholesky()), Newton(rtol=0.0), LBFGS(rtol=0.0)], ids=named
)
@pytest.mark.parametrize("batch", BATCHES, ids=named)
def test_without_a_tolerance_the_end_is_round_off(by: LowerSolver, batch: tuple[int, ...]) -> None:
    toy = Toy(batch)
    found = by.minimise(toy.lower, toy.theta, toy.start)
    # a gradient is a sum of Q + P + 1 terms of size |A||phi| + |B||theta| + 1 < 50
    assert (found.stationarity <= 10 * 50 * EPS).all()


def rosenbrock(theta: Tensor, phi: Tensor) -> Tensor:
    a, b = phi[..., 0], phi[..., 1]
    return (theta[0] - a).square() + 100 * (b - a.square()).square()


@pytest.mark.parametrize("by", [Newton(rtol=0.0, max_steps=100), LBFGS(rtol=0.0)], ids=named)
def test_rosenbrock_from_far(by: LowerSolver) -> None:
    start = torch.tensor([[-1.2, 1.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = by.minimise(rosenbrock, torch.ones(1, dtype=torch.float64), start)
    # |H^{-1}| = 1/0.4 at the minimiser (1, 1); the gradient's rounding is about 1e3 u there
    assert ((found.phi - 1).norm(dim=-1) <= 2.5 * 1e3 * EPS).all()


@pytest.mark.parametrize(
    "by", [Newton(rtol=1e-8), Newton(rtol=1e-8, solver=Cholesky()), LBFGS(rtol=1e-8)], ids=named
)
def test_a_descent_method_never_ends_on_a_hill(by: LowerSolver) -> None:
    # -cos: Newton's full step from here lands on the top at -3 pi, where the gradient vanishes
    def hills(theta: Tensor, phi: Tensor) -> Tensor:
        return (theta[0] - torch.cos(phi)).sum(-1)

    trap = 1.4793436986595188  # tan x - x = 3 pi
    starts = torch.tensor([[trap], [2.0], [3.1], [1.5707963]], dtype=torch.float64)
    found = by.minimise(hills, THETA, starts)
    assert met(found)
    assert torch.allclose(torch.cos(found.phi), torch.ones(4, 1, dtype=torch.float64), atol=1e-12)


def test_newton_follows_negative_curvature_downhill_task_by_task() -> None:
    # one task indefinite, one convex, one on a saddle, in one batch
    start = torch.tensor([[0.05, 0.9, 0.4], [0.9, 1.1, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = Newton(rtol=1e-8, solver=CG(rtol=1e-3)).minimise(wells, THETA, start)
    assert torch.allclose(found.phi[:2], torch.ones(2, 3, dtype=torch.float64), atol=1e-7)
    assert torch.equal(found.phi[2], start[2])  # stationary, and so it says
    assert met(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(max_steps=1, step_size=0.1, rtol=1.0), "rtol must be in"),
        (lambda: Nesterov(max_steps=-1, step_size=0.1), "max_steps >= 0"),
        (lambda: Nesterov(max_steps=1, step_size=-0.1), "at most 1/L"),
        (lambda: Nesterov(max_steps=1, step_size=0.1, condition=0.5), "at least 1"),
        (lambda: Nesterov(max_steps=1, step_size=0.1, atol=-1.0), "atol >= 0"),
        (lambda: LBFGS(history=0), "history >= 1"),
        (lambda: LBFGS(rtol=2.0), "rtol must be in"),
        (lambda: TorchOptimiser(make=adam, max_steps=-1), "max_steps >= 0"),
    ],
    ids=named,
)
def test_nonsense_is_refused(make: Callable[[], LowerSolver], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=300, step_size=1.0, rtol=1e-3),
        Nesterov(max_steps=300, step_size=1.0),
        TorchOptimiser(make=lambda leaves: torch.optim.SGD(leaves, lr=1.0), max_steps=300),
    ],
    ids=named,
)
def test_divergence_is_an_error(by: LowerSolver) -> None:
    with pytest.raises(NotFiniteError):
        by.minimise(ILL.lower, THETA, ILL.start)


def test_which_solvers_can_be_unrolled() -> None:
    assert isinstance(GradientDescent(max_steps=1, step_size=1.0), Unrollable)
    assert isinstance(Nesterov(max_steps=1, step_size=1.0), Unrollable)
    for by in (Newton(), LBFGS(), TorchOptimiser(make=adam, max_steps=1)):
        assert isinstance(by, LowerSolver)
        assert not isinstance(by, Unrollable)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=named)
@pytest.mark.parametrize(
    "by",
    [
        GradientDescent(max_steps=100, step_size=0.1, rtol=1e-3),
        Nesterov(max_steps=100, step_size=0.1, rtol=1e-3),
        Newton(rtol=1e-3),
        LBFGS(rtol=1e-3),
        TorchOptimiser(
            make=lambda leaves: torch.optim.SGD(leaves, lr=0.1), max_steps=100, rtol=1e-3
        ),
    ],
    ids=named,
)
def test_a_dict_with_a_scalar_leaf_in_either_precision(by: LowerSolver, dtype: torch.dtype) -> None:
    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return (phi["weight"] - theta).square().sum() + (phi["bias"] - 1).square()

    start = {"weight": torch.zeros(2, dtype=dtype), "bias": torch.zeros((), dtype=dtype)}
    found = by.minimise(lower, THETA.to(dtype), start)
    assert met(found)
    assert found.phi["bias"].shape == ()
    assert found.phi["weight"].dtype == dtype
    assert abs(float(found.phi["bias"]) - 1) <= 1e-2
