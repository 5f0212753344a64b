"""Solutions at bounds and kinks, their derivatives and their reach, against rational arithmetic.

Tolerances. The lower solver leaves a subgradient of ``rtol`` times the gradient's terms, at most
``L |phi| + |c + B theta|``, so that phi is off by that over mu. The derivative of a quadratic's
solution does not depend on phi while the active set is right: it is off by the rounding of a solve,
``1e2 u kappa Xi`` with ``Xi = |w| |J| / mu``, as in `exact_solves`. On a ball it does: the
curvature of the bound is the multiplier's, and phi's error counts ``kappa`` times.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from hypergrad import Bilevel, Cholesky, LowerSolver, hypergradient
from hypergrad.conditions import reach
from hypergrad.solvers import CoordinateDescent, ProximalGradient
from verification.claims.evidence import Evidence, worst
from verification.oracles import active_sets
from verification.oracles.active_sets import floats
from verification.oracles.rational import rational
from verification.problems.kinked import (
    KINDS,
    MOVING,
    Drawn,
    OnBall,
    balls,
    degenerate,
    kinked,
)
from verification.problems.kinks import Condition, Kinked
from verification.subjects.bug import Kind, source_bugs

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]

RTOL = 1e-12
_U = float(np.finfo(np.float64).eps)
# Below this share of the gradient's terms a multiplier is left to the degenerate cases: RTOL times
# a condition number of at most 1e3 or so.
_NEAR = 1e-8
_LESS, _MORE = 0.999, 1.001
# draws of their own for coordinate descent, of the kinds that hold each entry by itself
_OTHERS = 1_000_000
ENTRYWISE: tuple[Condition, ...] = ("box", "lasso")


@dataclass(frozen=True)
class Answer:
    """Answer of an implementation.

    Attributes:
        phi: ``(*batch, n)`` the solution.
        grad: ``(p,)`` the hypergradient of the mean.
        solved: ``(*batch,)`` true where the certificate calls the answer solved.
        distance: ``(*batch,)`` distance that theta may move; None where not asked for.
        direction: ``(*batch, p)`` direction of that move.
    """

    phi: torch.Tensor
    grad: torch.Tensor
    solved: torch.Tensor
    distance: torch.Tensor | None = None
    direction: torch.Tensor | None = None


@runtime_checkable
class KinkSubject(Protocol):
    """An implementation of constrained and non-smooth hypergradients."""

    def __call__(
        self, problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor, *, far: bool
    ) -> Answer:
        """The solution from phi0 with its derivative; ``far`` asks for the reach, too."""
        ...


def solved(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor, *, far: bool) -> Answer:
    """The library's `ProximalGradient`, `hypergradient` with `Cholesky`, and `reach`."""
    return _solved(ProximalGradient(rtol=RTOL, max_steps=3_000), problem, theta, phi0, far)


def descended(
    problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor, *, far: bool
) -> Answer:
    """The same with `CoordinateDescent`."""
    return _solved(CoordinateDescent(rtol=RTOL, max_steps=3_000), problem, theta, phi0, far)


def _solved(
    by: LowerSolver, problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor, far: bool
) -> Answer:
    lower: Any = problem.lower
    phi = by.minimise(lower, theta, phi0).phi
    found = hypergradient(problem, theta, phi, solver=Cholesky())
    answer = Answer(phi, found.grad, found.certificate.solved)
    if not far:
        return answer
    ahead = reach(lower, theta, phi, watch=lambda certificate: None)
    return Answer(phi, found.grad, found.certificate.solved, ahead.distance, ahead.direction)


def active_sets_solved(subject: KinkSubject, seed: int) -> Evidence:
    """Solutions at bounds and kinks and their derivatives are those of exact active sets."""
    pieces = [
        _on_active_sets(subject, kinked(draw, kind))
        for draw in (2 * seed, 2 * seed + 1)
        for kind in KINDS
    ]
    kind = MOVING[seed % 3]
    pieces.append(_on_active_sets(subject, degenerate(seed, kind)))
    return worst([*pieces, _on_balls(subject, balls(seed))])


def coordinates_solved(subject: KinkSubject, seed: int) -> Evidence:
    """Coordinate descent ends at the exact solutions of boxes and lassos."""
    draws = (_OTHERS + 2 * seed, _OTHERS + 2 * seed + 1)
    return worst(
        _on_active_sets(subject, kinked(draw, kind)) for draw in draws for kind in ENTRYWISE
    )


def reach_is_true(subject: KinkSubject, seed: int) -> Evidence:
    """Moving theta by less than the reach changes no active set, by more, towards it, does."""
    return worst(_reaches(subject, kinked(seed, kind), seed) for kind in MOVING)


def _on_active_sets(subject: KinkSubject, drawn: Drawn) -> Evidence:
    answer = subject(drawn.bilevel(), *drawn.tensors(), far=False)
    exact = _solved_exactly(drawn, answer)
    where = f"{drawn.tasks[0].kind}, batch {drawn.batch}"
    near = [
        _margin(task, one, drawn.theta) < _NEAR
        for task, one in zip(drawn.tasks, exact, strict=True)
    ]
    firm = answer.solved.reshape(-1).tolist()
    if any(near):
        # no derivative, or none that can be found: it must not be called solved
        wrong = sum(called and close for called, close in zip(firm, near, strict=True))
        return Evidence("active sets", float(wrong), 0.5, 1.0, f"degenerate {where}", sum(near))
    phi = np.stack([floats(one.phi)[:, 0] for one in exact])
    grad = np.mean([floats(one.slope).T @ drawn.weights for one in exact], axis=0)
    sizes = [
        _Sizes.of(task, drawn.theta, point) for task, point in zip(drawn.tasks, phi, strict=True)
    ]
    off = float(np.abs(answer.phi.reshape(phi.shape).numpy() - phi).max())
    weight = float(np.linalg.norm(drawn.weights))
    allowed = max(1e2 * _U * one.condition * weight * one.slope for one in sizes)
    return worst(
        [
            Evidence("solution", off, max(one.phi_error for one in sizes), 1.0, where, len(exact)),
            Evidence(
                "derivative",
                float(np.linalg.norm(answer.grad.numpy() - grad)),
                allowed,
                float(np.linalg.norm(grad)),
                where,
                len(exact),
            ),
            Evidence("certificate", float(len(firm) - sum(firm)), 0.5, 1.0, where, len(exact)),
        ]
    )


def _on_balls(subject: KinkSubject, drawn: Drawn) -> Evidence:
    """``[Q + m I, x; x', 0] (dx, dm) = (B, radius d radius)`` at the given solution."""
    answer = subject(drawn.bilevel(), *drawn.tensors(), far=False)
    grads, phi, sizes = [], [], []
    for task in drawn.tasks:
        assert isinstance(task, OnBall)
        x, n = task.solution, len(task.solution)
        matrix = np.zeros((n + 1, n + 1))
        matrix[:n, :n] = task.Q + task.multiplier * np.eye(n)
        matrix[:n, n] = matrix[n, :n] = x
        radius = np.linalg.norm(x)
        right = rational(np.concatenate([task.B, radius * task.first_slope]))
        grads.append(floats(rational(matrix).solve(right))[:n].T @ drawn.weights)
        phi.append(x)
        sizes.append(_Sizes.of(task, drawn.theta, x))
    where, count = f"ball, batch {drawn.batch}", len(drawn.tasks)
    points, weight = np.stack(phi), float(np.linalg.norm(drawn.weights))
    off = float(np.abs(answer.phi.reshape(points.shape).numpy() - points).max())
    allowed = max(
        (1e2 * _U + one.phi_error / one.length) * one.condition**2 * weight * one.slope
        for one in sizes
    )
    error = float(np.linalg.norm(answer.grad.numpy() - np.mean(grads, axis=0)))
    size = float(np.linalg.norm(np.mean(grads, axis=0)))
    return worst(
        [
            Evidence("solution", off, max(one.phi_error for one in sizes), 1.0, where, count),
            Evidence("derivative", error, allowed, size, where, count),
        ]
    )


def _reaches(subject: KinkSubject, drawn: Drawn, seed: int) -> Evidence:
    where = f"{drawn.tasks[0].kind}, batch {drawn.batch}"
    answer = subject(drawn.bilevel(), *drawn.tensors(), far=True)
    exact = _solved_exactly(drawn, answer)
    assert answer.distance is not None
    assert answer.direction is not None
    distances = answer.distance.reshape(-1).tolist()
    directions = answer.direction.reshape(-1, len(drawn.theta)).numpy()
    rng = np.random.default_rng([seed, 32])
    wrong, count = 0, 0
    for task, one, distance, towards in zip(drawn.tasks, exact, distances, directions, strict=True):
        if _margin(task, one, drawn.theta) < _NEAR:
            continue
        any_way = rng.standard_normal(len(drawn.theta))
        any_way /= np.linalg.norm(any_way)
        # the data are made so that bounds stay apart and strengths positive within this distance
        safe = min(_LESS * distance, 1.0)
        same = [
            _pattern(task, drawn.theta + safe * way, one) == one.pattern
            for way in (towards, any_way)
        ]
        wrong, count = wrong + sum(not held for held in same), count + 2
        if _MORE * distance <= 1.0:
            beyond = drawn.theta + _MORE * distance * towards
            wrong += _pattern(task, beyond, one) == one.pattern
            count += 1
    return Evidence("reach", float(wrong), 0.5, 1.0, where, max(count, 1))


def _solved_exactly(drawn: Drawn, answer: Answer) -> list[active_sets.Solved]:
    """Each task's solution; the pattern of the answer is tried first."""
    at, points = rational(drawn.theta), answer.phi.reshape(len(drawn.tasks), -1).numpy()
    return [
        active_sets.solve(task, at, active_sets.guessed(task, drawn.theta, phi))
        for task, phi in zip(drawn.tasks, points, strict=True)
    ]


def _pattern(task: Kinked, theta: np.ndarray, near: active_sets.Solved) -> active_sets.Pattern:
    return active_sets.solve(task, rational(theta), near.pattern).pattern


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a task's terms, for tolerances; spectral norms."""

    condition: float
    phi_error: float
    slope: float
    length: float

    @classmethod
    def of(cls, task: Any, theta: np.ndarray, phi: np.ndarray) -> "_Sizes":
        shift = getattr(task, "multiplier", 0.0)
        eigenvalues = np.linalg.eigvalsh(task.Q) + shift
        rows = float(np.linalg.norm(task.second, 2)) if task.kind == "equations" else 1.0
        low, high = float(eigenvalues[0]), float(eigenvalues[-1])
        length = float(np.linalg.norm(phi))
        terms = high * length + float(np.linalg.norm(task.c + task.B @ theta))
        # |d phi/d theta|: through the gradient over mu, through the bounds up to kappa times
        moved = float(np.linalg.norm(task.first_slope, 2))
        slope = float(np.linalg.norm(task.B, 2)) / low + (high / low) * (moved + rows) + moved / low
        error = (3 * RTOL * terms + 1e2 * _U * high * length) / low
        return cls(high / low, error, slope, length)


def _margin(task: Kinked, exact: active_sets.Solved, theta: np.ndarray) -> float:
    """The least slack, relative to the gradient's terms or to phi, whichever is less."""
    terms = float(np.linalg.norm(task.Q, 2)) + float(np.linalg.norm(task.c + task.B @ theta))
    return float(floats(exact.slacks).min()) / max(terms, 1.0)


KIND = Kind(
    "active sets",
    solved,
    source_bugs(
        solved,
        "active sets",
        (
            (
                "K01",
                "the simplex's projection is missing on the derivative's side",
                "conditions.sets",
                "return masked(support, x - shift, 0.0)",
                "return masked(support, x - shift.detach(), 0.0)",
            ),
            (
                "K02",
                "the curvature of the ball is missing: its tangent plane in its place",
                "conditions.sets",
                "return masked(_at(length - radius, radius), direction * radius, x)",
                "u = direction.detach(); return masked(_at(length - radius, radius), "
                "x - u * ((u * x).sum(-1, keepdim=True) - radius), x)",
            ),
            (
                "K03",
                "the active set is wrong by one: another zero is held",
                "conditions.penalties",
                "return (x.detach() == 0) & has_kink(value, strength)",
                "return (x.detach() == 0).roll(1, -1) & has_kink(value, strength)",
            ),
            (
                "K04",
                "the multiplier of an upper bound has the wrong sign",
                "conditions.sets",
                "masked(at_high, -gradient, torch.inf)",
                "masked(at_high, gradient, torch.inf)",
            ),
            (
                "K05",
                "a bound that theta moves carries no derivative",
                "conditions.sets",
                "return masked(at_low, low, masked(at_high, high, x))",
                "return masked(at_low, low.detach(), masked(at_high, high, x))",
            ),
            (
                "K06",
                "the normal space is left out of the Hessian",
                "conditions.parts",
                "return total + stiffness / 2 *",
                "return total + 0 * stiffness / 2 *",
            ),
            (
                "K07",
                "the projection onto the simplex takes one entry too few",
                "conditions.sets",
                "(ordered * count > excess).sum(dim=-1, keepdim=True).clamp(min=1)",
                "((ordered * count > excess).sum(dim=-1, keepdim=True) - 1).clamp(min=1)",
            ),
            (
                "K08",
                "the proximal map shrinks by half",
                "conditions.penalties",
                "return x.sign() * (x.abs() - by).clamp(min=0.0)",
                "return x.sign() * (x.abs() - by / 2).clamp(min=0.0)",
            ),
            (
                "K09",
                "degenerate points are called solved",
                "implicit.active",
                "slacks = torch.cat(relative, dim=-1)",
                "slacks = torch.cat(relative, dim=-1).abs() + 1e-6",
            ),
        ),
    ),
)

COORDINATES = Kind(
    "coordinate descent",
    descended,
    source_bugs(
        descended,
        "coordinates",
        (
            (
                "D01",
                "an entry forgets its own curvature",
                "lower.coordinate_descent",
                "torch.addcmul(slopes[index], here, bend, value=-1)",
                "slopes[index] - here",
            ),
            (
                "D02",
                "an entry shrinks by half",
                "lower.coordinate_descent",
                "torch.clamp(pull, down, up)",
                "torch.clamp(pull, down / 2, up / 2)",
            ),
            (
                "D03",
                "columns are other entries'",
                "lower.coordinate_descent",
                "zip(new, rows, strict=True)",
                "zip(reversed(new), rows, strict=True)",
            ),
            (
                "D04",
                "a zero whose subgradient is beyond one limit counts as solved",
                "implicit.entrywise",
                "_sign(x, at_zero=1)",
                "_sign(x, at_zero=9)",
            ),
        ),
    ),
)
