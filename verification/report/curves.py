"""The curves of the report: what was measured, and the bound on it, for figures drawn from them.

Error against K and against N on one LC problem, where every assumption of Theorem A holds with the
family's constants; the bound is theory.md, section 2, cold start:

    |h - grad F| <= c1 q_a^K D0 + s ch_N (b* + lam22 q_a^K D0).

Bytes kept for backward against K, for the method and for iterative differentiation (section 7).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from verification.claims.memory import by_argmin, peak_bytes
from verification.oracles import gradient, tolerance
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject, memory_reduced

CONDITION = 30.0
LOWER_STEPS = (0, 1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200, 300, 400, 600)
CG_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 25, 30, 40, 60, 80)
MANY = 600  # of the steps that are not varied: their share is below rounding at this condition


@dataclass(frozen=True)
class Series:
    """Curves over one axis, and what bounds them.

    Attributes:
        name: title of the figure.
        x_label: what the axis counts, with its unit.
        y_label: what is measured, with its unit.
        x: where.
        measured: curves by name.
        problem: what was measured on.
        bounds: upper bounds on the measured curves of the same names.
        values: what theory says the measured curves of the same names are.
        slack: what rounding may add to a bound or part from a value.
    """

    name: str
    x_label: str
    y_label: str
    x: Sequence[float]
    measured: Mapping[str, Sequence[float]]
    problem: str
    bounds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    slack: float = 0.0

    def violations(self) -> list[str]:
        """Where a measurement contradicts theory, in words."""
        return [
            f"series {self.name!r}, {name}: {found:.6e} at {at:g}, {what} {expected:.6e}"
            for what, theory in (("bound", self.bounds), ("value", self.values))
            for name, line in theory.items()
            for at, found, expected in zip(self.x, self.measured[name], line, strict=True)
            # not finite, or beyond
            if not (found - expected if what == "bound" else abs(found - expected)) <= self.slack
        ]


Draw: TypeAlias = Callable[[], list[Series]]


def a_priori(instance: Instance, *, steps: int, max_steps: int, step_size: float) -> float:
    """Theorem A for one task, cold start, alpha <= 2/(mu + L): q_a = 1 - alpha mu."""
    family, theta = instance.family, instance.theta
    phi = family.minimiser(theta)
    start = norm(instance.phi0 - phi)
    k = family.constants(theta, radius=float(start.max()))
    b = norm(family.upper_gradients(theta, phi)[1])
    rest = (1 - step_size * k.strong_convexity) ** steps * start
    root = np.sqrt(k.condition)
    tau = (root - 1) / (root + 1)
    chebyshev = 2 * tau**max_steps / (1 + tau ** (2 * max_steps))
    s = k.L12 / k.strong_convexity
    return float((k.c1 * rest + s * chebyshev * (b + k.lam22 * rest)).mean())


def theorem_a(subject: Subject = memory_reduced) -> list[Series]:
    """Error against K (N large), and against N (K large), with the bounds."""
    drawn = instances.lc(seed=0, batch=(), p=6, q=40, condition=CONDITION)
    k = drawn.family.constants(drawn.theta)
    step_size = 2 / float((k.strong_convexity + k.smoothness).max())
    exact = gradient(drawn.family, drawn.theta)
    problem = drawn.family.bilevel()
    theta, phi0, _ = drawn.tensors()

    def curve(pairs: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
        errors, bounds = [], []
        for K, N in pairs:
            h = subject(problem, theta, phi0, None, steps=K, max_steps=N, step_size=step_size)
            errors.append(float(np.linalg.norm(h.numpy() - exact)))
            bounds.append(a_priori(drawn, steps=K, max_steps=N, step_size=step_size))
        return errors, bounds

    found = []
    for varied, fixed, x in (("K", "N", LOWER_STEPS), ("N", "K", CG_STEPS)):
        pairs = [(steps, MANY) if varied == "K" else (MANY, steps) for steps in x]
        errors, bounds = curve(pairs)
        of = {"K": "descent steps of the lower level", "N": "conjugate-gradient steps"}
        found.append(
            Series(
                name=f"error against {varied}",
                x_label=f"{varied}, {of[varied]}",
                y_label="|h - grad F|",
                x=[float(steps) for steps in x],
                measured={"Algorithm 1": errors},
                bounds={"Algorithm 1": bounds},
                problem=f"LC, one task, p = 6, q = 40, kappa = {CONDITION:g}, {fixed} = {MANY}",
                slack=tolerance(drawn.family, drawn.theta),
            )
        )
    return found


def memory() -> list[Series]:
    """Peak of the bytes saved for backward against K: claim C9's law on one problem."""
    p, q, tasks, steps = 20, 50, 4, (1, 2, 4, 8, 16, 32, 64, 128)
    counts = {
        name: [
            float(peak_bytes(by_argmin, p=p, q=q, tasks=tasks, steps=k, unrolled=unrolled))
            for k in steps
        ]
        for name, unrolled in (("Implicit", False), ("Unrolled", True))
    }
    slope = counts["Unrolled"][1] - counts["Unrolled"][0]
    return [
        Series(
            name="memory against K",
            x_label="K, descent steps of the lower level",
            y_label="bytes kept for backward, at their peak",
            x=[float(k) for k in steps],
            measured=counts,
            values={
                "Implicit": [counts["Implicit"][0]] * len(steps),
                "Unrolled": [counts["Unrolled"][0] + slope * (k - 1) for k in steps],
            },
            problem=f"{tasks} tasks, p = {p}, q = {q}, float64; predicted from K = 1 and 2",
        )
    ]
