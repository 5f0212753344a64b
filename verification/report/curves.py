"""Curves of the report: what was measured, and what theory says of it, for figures.

error against K, N      on one LC problem, with the bound of Theorem A (theory.md, section 2)
tightness               error/bound of Theorems A and B on drawn problems, as quantiles
memory against K        bytes kept for backward, by the method and by unrolling (section 7)
gradient against T      on a quadratic whose decay is known in closed form (section 4)
floor against |B|       the stationary E|grad F|^2 of sampled tasks
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from verification.claims.certificates import Certifier, certified
from verification.claims.error_bounds import FAMILIES, cases
from verification.claims.floor import POPULATION, gaussian, probed_maps, reached_at_once
from verification.claims.memory import by_argmin, peak_bytes
from verification.claims.tight_rates import CLOSED_FORM, trajectory
from verification.oracles import finite_steps, gradient, tolerance
from verification.oracles.bounds import a_priori, rounding
from verification.oracles.moments import SampledDescent, omega, shared_floor, squared_gradient
from verification.problems import drawn as instances
from verification.problems.tight import LogUniform, embedded
from verification.subjects.algorithm1 import Subject, memory_reduced

CONDITION = 30.0
LOWER_STEPS = (0, 1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200, 300, 400, 600)
CG_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 25, 30, 40, 60, 80)
UPPER_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEEDS = 20  # of the problems that tightness is measured on
# Below, error and bound are both rounding; the figure has a logarithmic axis.
LEAST = 1e-8
MANY = 600  # of the steps that are not varied: their share is below rounding at this condition


@dataclass(frozen=True)
class Series:
    """Curves over one axis, and what bounds them.

    Attributes:
        name: title of the figure.
        x_label: label of the axis, with its unit.
        y_label: the measured quantity, with its unit.
        x: points on the axis.
        measured: curves by name.
        problem: the problem in words.
        bounds: upper bounds on the measured curves of the same names.
        values: predictions for the measured curves of the same names.
        slack: allowance for rounding, added to a bound or to the distance from a value.
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
        """Measurements that contradict theory, in words."""
        return [
            f"series {self.name!r}, {name}: {found:.6e} at {at:g}, {what} {expected:.6e}"
            for what, theory in (("bound", self.bounds), ("value", self.values))
            for name, line in theory.items()
            for at, found, expected in zip(self.x, self.measured[name], line, strict=True)
            # not finite, or beyond
            if not (found - expected if what == "bound" else abs(found - expected)) <= self.slack
        ]


Draw: TypeAlias = Callable[[], list[Series]]


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
            counts = {"steps": K, "max_steps": N}
            h = subject(problem, theta, phi0, None, **counts, step_size=step_size)
            errors.append(float(np.linalg.norm(h.numpy() - exact)))
            bound = a_priori(
                drawn.family, drawn.theta, drawn.phi0, None, **counts, step_size=step_size
            )
            bounds.append(float(bound.mean()))
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


def tightness(subject: Certifier = certified, *, seeds: int = SEEDS) -> list[Series]:
    """Sorted error/bound over the seeds, for each family; the bound allows for rounding.

    The claims on Theorems A and B hold that no ratio exceeds 1. Their worst ratio is 1, on problems
    on which the bounds are equalities; here are the others.
    """
    ratios: dict[str, dict[str, list[float]]] = {
        name: {family: [] for family in FAMILIES} for name in ("A", "B")
    }
    for seed in range(seeds):
        for case in cases(seed):
            if case.name not in FAMILIES:
                continue
            family, theta, counts = case.instance.family, case.instance.theta, case.counts
            found = subject(case.instance, case.warm, **counts)
            error = float(np.linalg.norm(found.h - gradient(family, theta)))
            v0 = case.instance.v0 if case.warm else None
            start = np.zeros_like(case.instance.v0) if v0 is None else v0
            end = finite_steps(family, theta, case.instance.phi0, start, **counts)
            bounds = {
                "A": a_priori(family, theta, case.instance.phi0, v0, **counts),
                "B": found.bound,
            }
            slack = rounding(family, theta, end.phi, end.v)
            for name, bound in bounds.items():
                ratios[name][case.name].append(error / float((bound + slack).mean()))
    shares = [(rank + 0.5) / seeds for rank in range(seeds)]
    return [
        Series(
            name=f"tightness of Theorem {name}",
            x_label="share of the drawn problems, sorted",
            y_label="error / bound",
            x=shares,
            measured={f: sorted(max(r, LEAST) for r in found) for f, found in of.items()},
            bounds={f: [1.0] * seeds for f in of},
            problem=f"{seeds} problems a family, two tasks, kappa to 1e3, random K, N, alpha; "
            f"below {LEAST:g} drawn at {LEAST:g}",
        )
        for name, of in ratios.items()
    ]


def memory() -> list[Series]:
    """Peak of the bytes saved for backward against K, on one problem of `saved_bytes`."""
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


def gradient_against_steps(subject: Subject = memory_reduced) -> list[Series]:
    """|grad F(theta_T)|^2 on one fixed quadratic whose decay is 1/T over six decades."""
    fixed = LogUniform(size=12, L=1.0, ratio=1e6, gap=1.0)
    problem = embedded(fixed.psi, fixed.size, np.random.default_rng(0))
    thetas = trajectory(subject, problem, fixed.start, eta=1 / fixed.L, upper_steps=UPPER_STEPS[-1])
    exact = [fixed.squared_gradient(T) for T in UPPER_STEPS]
    measured = [float(np.square(fixed.psi.gradient(thetas[T])).sum()) for T in UPPER_STEPS]
    return [
        Series(
            name="gradient norm against T",
            x_label="T, upper steps",
            y_label="|grad F(theta_T)|^2",
            x=[float(T) for T in UPPER_STEPS],
            measured={"Algorithm 1": measured},
            # on the least of all gradients up to T, here the last
            bounds={"Algorithm 1": [4 * fixed.L * fixed.gap / (3 * T + 2) for T in UPPER_STEPS]},
            values={"Algorithm 1": exact},
            problem="quadratic, 12 log-uniform eigenvalues from 1e-6 to 1, eta = 1/L",
            slack=CLOSED_FORM * exact[-1],
        )
    ]


def floor_against_batch(subject: Subject = memory_reduced) -> list[Series]:
    """The stationary E|grad F|^2 of the subject's maps, with and without replacement."""
    shared = reached_at_once(gaussian(0, 3))
    z = np.random.default_rng(0).standard_normal((POPULATION, shared.size))
    exact, seen = shared.maps(z), probed_maps(subject, shared, z)
    H, _ = exact.mean
    L = float(np.linalg.norm(H, 2))
    eta, covariance = 0.5 / L, np.cov(exact.d.T, bias=True)
    sizes = range(1, POPULATION)  # the whole population, without replacement, leaves no floor
    measured, bounds, values = {}, {}, {}
    for replacement in (True, False):
        name = "with replacement" if replacement else "without"
        shares = [omega(POPULATION, b, replacement=replacement) / b for b in sizes]
        reached = [SampledDescent(seen, eta, share).stationary() for share in shares]
        measured[name] = [squared_gradient(at, *exact.mean) for at in reached]
        values[name] = [shared_floor(H, covariance, eta, share) for share in shares]
        # Theorem 1's last term, T to infinity, no bias: L_F eta (omega/b) sigma^2
        bounds[name] = [L * eta * share * float(np.trace(covariance)) for share in shares]
    return [
        Series(
            name="floor against |B|",
            x_label="|B|, tasks in a batch",
            y_label="limit of E|grad F|^2",
            x=[float(b) for b in sizes],
            measured=measured,
            bounds=bounds,
            values=values,
            problem=f"Quad, M = {POPULATION} tasks with one H, p = 3, eta = 1/(2L)",
            slack=CLOSED_FORM * min(map(min, values.values())),
        )
    ]


SERIES: tuple[Draw, ...] = (
    theorem_a,
    tightness,
    memory,
    gradient_against_steps,
    floor_against_batch,
)
"""Every curve of a whole run."""
