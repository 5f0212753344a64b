"""Central differences of ``theta -> mean_i f_i(theta, phi_i*(theta))`` beside the hypergradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.findings import Finding, Verdict, compare, skip
from hypergrad.checks.problem import Parts, Problem, differentiate, flat, noise
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.vectors import norm
from hypergrad.lower.newton import Newton
from hypergrad.objective import Bilevel
from hypergrad.tree import flatten, leaves, like, unflatten

DIFFERENCES = "finite differences"

_DIRECTIONS = 2
_TRIES = 5
_LONGEST = 0.05  # relative step


def examine_differences(problem: Problem) -> list[Finding]:
    """The hypergradient at the minimiser against central differences of F(theta).

    ``F(theta) = mean_i f_i(theta, phi_i*(theta))`` with the lower level solved again by Newton's
    method from phi. As for the gradient of g, ``|D(2t) - D(t)|`` is the truncation; see
    ``_Path`` for the rounding. t moves theta and, as ``dphi*/dtheta`` predicts, phi* by no more
    than the cube root of eps of their lengths, and is then made longer where rounding, or shorter
    where truncation, leaves a limit above the accuracy asked for.
    """
    if not problem.definite:
        return [skip(DIFFERENCES, "phi is no minimiser of g, so F(theta) is not defined there")]
    bilevel = Bilevel(upper=problem.trusted.upper, lower=problem.plain.lower)
    phi = (
        Newton(rtol=0.0, solver=problem.exact)
        .minimise(bilevel.lower, problem.theta, problem.phi)
        .phi
    )
    left = Linearisation(bilevel.lower, problem.theta, phi)
    shift = problem.exact.solve(left.product, left.gradient).x
    if float((norm(shift) / problem.length()).max()) > max(problem.rounding, problem.accuracy):
        return [skip(DIFFERENCES, "Newton's method found no minimiser from phi")]
    parts = differentiate(problem, bilevel, phi, problem.exact)
    worst: Finding | None = None
    for _ in range(_DIRECTIONS):
        path = _Path(problem, phi, parts, left)
        found = path.compare()
        if worst is None or _excess(found) > _excess(worst):
            worst = found
    assert worst is not None
    return [worst]


def _excess(finding: Finding) -> float:
    return finding.measured / finding.limit if finding.limit > 0 else finding.measured * math.inf


class _Path:
    """F along one random direction through theta."""

    def __init__(
        self, problem: Problem, phi: Any, parts: Parts, point: Linearisation[Any, Any]
    ) -> None:
        self._problem, self._phi, self._parts = problem, phi, parts
        self._direction = [
            problem.draw(leaf) * (leaf.square().mean().sqrt() if bool((leaf != 0).any()) else 1.0)
            for leaf in leaves(problem.theta)
        ]
        # dphi*/dtheta d = -H^{-1} J'd, with J'd by a central difference of d g/d phi
        t = problem.eps ** (1 / 3)
        ahead, behind = (
            Linearisation(problem.plain.lower, self.theta(s), phi).gradient for s in (t, -t)
        )
        solved = problem.exact.solve(point.product, (behind - ahead) / (2 * t))
        self._tangent = solved.x
        size = norm(flatten(leaves(phi), problem.batch))
        speed = float((norm(self._tangent) / torch.where(size > 0, size, 1.0)).max())
        self._step = t / max(1.0, speed)
        # A gradient of eps L |phi| is rounding: a few times that is as well as zero.
        self._goal = 4 * problem.eps * float((problem.largest * size).min())

    def theta(self, step: float) -> Any:
        """Theta, moved along the direction."""
        return like(
            self._problem.theta,
            (
                leaf + step * part
                for leaf, part in zip(leaves(self._problem.theta), self._direction, strict=True)
            ),
        )

    def _moved(self, step: float) -> Any:
        """Phi*, moved along its tangent: where Newton's method begins."""
        base = flatten(leaves(self._phi), self._problem.batch)
        return like(self._phi, unflatten(base + step * self._tangent, leaves(self._phi)))

    def compare(self) -> Finding:
        """Differences against the hypergradient, with a limit for what both may be off."""
        problem, parts = self._problem, self._parts
        direction = torch.cat([part.reshape(-1) for part in self._direction])
        slope = float(parts.total.double() @ direction.double())
        size = parts.size * float(direction.norm()) or 1.0
        adjoint = parts.whole.certificate.adjoint
        tasks = max(problem.batch.numel(), 1)
        # |h'd - F'd| = |mean_i w_i'(c_i - H_i v_i)| with w = dphi*/dtheta d
        lost = adjoint.residual * norm(parts.cotangent) * norm(self._tangent)
        solved = float(lost.sum()) / tasks + problem.rounding * size
        best, t, words = (math.inf, math.inf), self._step, "hypergradient against those of F(theta)"
        for _ in range(_TRIES):
            ahead, behind, far, back = (self._value(s) for s in (t, -t, 2 * t, -2 * t))
            near = (ahead[0] - behind[0]) / (2 * t)
            truncation = 3 * abs((far[0] - back[0]) / (4 * t) - near)
            rounding = 10 * (max(ahead[1], behind[1], far[1], back[1]) + self._noise(t / 3)) / t
            best = min(best, (truncation + rounding + solved, abs(near - slope)))
            # all four the same to the last bit: F is constant, or this step is below its rounding
            constant = ahead[0] == behind[0] == far[0] == back[0] and slope != 0.0
            if constant:
                best = (math.inf, math.inf)
            elif best[0] <= problem.accuracy * size:
                break
            longer = constant or rounding > truncation
            t = min(8 * t, max(_LONGEST, self._step)) if longer else t / 8
        if math.isinf(best[0]):
            best, words = (solved, abs(slope)), "F(theta) stays the same, however far theta moves"
        limit, measured = best[0] / size, best[1] / size
        if limit > 0.1 and measured <= limit:
            return Finding(
                DIFFERENCES,
                Verdict.SKIPPED,
                measured,
                limit,
                "too much rounding or curvature in F(theta) to tell",
                "",
            )
        return compare(
            DIFFERENCES,
            measured,
            limit,
            words,
            "compare the objectives' custom functions and detach() calls with what they compute, "
            "since their derivatives are not those of their values",
        )

    def _value(self, step: float) -> tuple[float, float]:
        """F, and how far the lower level's own rounding may have moved it.

        A gradient left over r means phi is off by ``H^{-1} r``, and f by ``v'r``; r itself rounds
        by about ``eps L |phi|``.
        """
        problem, theta = self._problem, self.theta(step)
        solver = Newton(rtol=0.0, atol=self._goal, solver=problem.exact)
        found = solver.minimise(problem.plain.lower, theta, self._moved(step))
        with torch.no_grad():
            value = float(problem.plain.upper(theta, found.phi).double().mean())
        v = norm(self._parts.whole.certificate.adjoint.x).double()
        size = norm(flatten(leaves(found.phi), problem.batch)).double()
        left = found.stationarity.double() + problem.eps * problem.largest * size
        return value, float((v * left).mean())

    def _noise(self, step: float) -> float:
        """Rounding in f's values and in theta's; terms that cancel in f show at longer steps."""
        problem = self._problem

        def along(at: float) -> Tensor:
            with torch.no_grad():
                values = problem.plain.upper(self.theta(at), self._moved(at))
            return values.double().mean()

        theta = flat(problem.theta).double()
        entries = float((self._parts.total.double() * theta).norm()) * problem.eps
        floor = problem.eps * abs(float(along(0.0)))
        local = max(float(noise(along, s)) for s in (16 * problem.eps, step))
        return local + floor + entries
