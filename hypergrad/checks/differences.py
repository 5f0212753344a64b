"""Whether the hypergradient is the derivative of ``theta -> mean_i f_i(theta, phi_i*(theta))``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.answer import Answer, differentiate, flat, rounding_of
from hypergrad.checks.report import DIFFERENCES, Finding, Verdict, compare, skip
from hypergrad.checks.subject import Subject, noise
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.vectors import norm
from hypergrad.lower.newton import Newton
from hypergrad.objective import Bilevel
from hypergrad.tree import flatten, leaves, like, unflatten

_DIRECTIONS = 2
_TRIES = 5
_LONGEST = 0.05  # relative step


def examine_differences(subject: Subject) -> list[Finding]:
    """The hypergradient at the minimiser against central differences of F(theta).

    ``F(theta) = mean_i f_i(theta, phi_i*(theta))`` with the lower level solved again by Newton's
    method from phi. As for the gradient of g, ``|D(2t) - D(t)|`` tells the truncation; see
    ``_Path`` for the rounding. t moves theta and, as ``dphi*/dtheta`` predicts, phi* by no more
    than the cube root of eps of their lengths, and is then made longer where rounding, or shorter
    where truncation, leaves a limit above the accuracy asked for.
    """
    problem = Bilevel(upper=subject.trusted.upper, lower=subject.plain.lower)
    phi = (
        Newton(rtol=0.0, solver=subject.exact)
        .minimise(problem.lower, subject.theta, subject.phi)
        .phi
    )
    left = Linearisation(problem.lower, subject.theta, phi)
    shift = subject.exact.solve(left.product, left.gradient).x
    if float((norm(shift) / subject.length()).max()) > max(rounding_of(subject), subject.accuracy):
        return [skip(DIFFERENCES, "Newton's method found no minimiser from phi")]
    answer = differentiate(subject, problem, phi, subject.exact)
    worst: Finding | None = None
    for _ in range(_DIRECTIONS):
        path = _Path(subject, phi, answer, left)
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
        self, subject: Subject, phi: Any, answer: Answer, point: Linearisation[Any, Any]
    ) -> None:
        self._subject, self._phi, self._answer = subject, phi, answer
        self._direction = [
            subject.draw(leaf) * (leaf.square().mean().sqrt() if bool((leaf != 0).any()) else 1.0)
            for leaf in leaves(subject.theta)
        ]
        # dphi*/dtheta d = -H^{-1} J'd, with J'd by a central difference of d g/d phi
        t = subject.eps ** (1 / 3)
        ahead, behind = (
            Linearisation(subject.plain.lower, self.theta(s), phi).gradient for s in (t, -t)
        )
        solved = subject.exact.solve(point.product, (behind - ahead) / (2 * t))
        self._tangent = solved.x
        size = norm(flatten(leaves(phi), subject.batch))
        speed = float((norm(self._tangent) / torch.where(size > 0, size, 1.0)).max())
        self._step = t / max(1.0, speed)
        # A gradient of eps L |phi| is rounding: a few times that is as well as zero.
        self._goal = 4 * subject.eps * float((subject.largest * size).min())

    def theta(self, step: float) -> Any:
        """Theta, moved along the direction."""
        return like(
            self._subject.theta,
            (
                leaf + step * part
                for leaf, part in zip(leaves(self._subject.theta), self._direction, strict=True)
            ),
        )

    def _moved(self, step: float) -> Any:
        """Phi*, moved along its tangent: where Newton's method begins."""
        base = flatten(leaves(self._phi), self._subject.batch)
        return like(self._phi, unflatten(base + step * self._tangent, leaves(self._phi)))

    def compare(self) -> Finding:
        """Differences against the hypergradient, with a limit for what both may be off."""
        subject, answer = self._subject, self._answer
        direction = torch.cat([part.reshape(-1) for part in self._direction])
        slope = float(answer.total.double() @ direction.double())
        size = answer.size * float(direction.norm()) or 1.0
        adjoint = answer.whole.certificate.adjoint
        tasks = max(subject.batch.numel(), 1)
        # |h'd - F'd| = |mean_i w_i'(c_i - H_i v_i)| with w = dphi*/dtheta d
        lost = adjoint.residual * norm(answer.cotangent) * norm(self._tangent)
        solved = float(lost.sum()) / tasks + rounding_of(subject) * size
        best, t, told = (math.inf, math.inf), self._step, "hypergradient against those of F(theta)"
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
            elif best[0] <= subject.accuracy * size:
                break
            longer = constant or rounding > truncation
            t = min(8 * t, max(_LONGEST, self._step)) if longer else t / 8
        if math.isinf(best[0]):
            best, told = (solved, abs(slope)), "F(theta) stays the same, however far theta moves"
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
            told,
            "compare the objectives' custom functions and detach() calls with what they compute, "
            "since their derivatives are not those of their values",
        )

    def _value(self, step: float) -> tuple[float, float]:
        """F, and how far the lower level's own rounding may have moved it.

        A gradient left over r means phi is off by ``H^{-1} r``, and f by ``v'r``; r itself rounds
        by about ``eps L |phi|``.
        """
        subject, theta = self._subject, self.theta(step)
        solver = Newton(rtol=0.0, atol=self._goal, solver=subject.exact)
        found = solver.minimise(subject.plain.lower, theta, self._moved(step))
        with torch.no_grad():
            value = float(subject.plain.upper(theta, found.phi).double().mean())
        v = norm(self._answer.whole.certificate.adjoint.x).double()
        size = norm(flatten(leaves(found.phi), subject.batch)).double()
        left = found.stationarity.double() + subject.eps * subject.largest * size
        return value, float((v * left).mean())

    def _noise(self, step: float) -> float:
        """Rounding in f's values and in theta's; terms that cancel in f show at longer steps."""
        subject = self._subject

        def along(at: float) -> Tensor:
            with torch.no_grad():
                values = subject.plain.upper(self.theta(at), self._moved(at))
            return values.double().mean()

        theta = flat(subject.theta).double()
        entries = float((self._answer.total.double() * theta).norm()) * subject.eps
        floor = subject.eps * abs(float(along(0.0)))
        local = max(float(noise(along, s)) for s in (16 * subject.eps, step))
        return local + floor + entries
