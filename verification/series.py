"""The curves of the report: what was measured, and the bound on it, for figures drawn from them.

Error against K and against N on one LC problem, where every assumption of Theorem A holds with the
family's constants; the bound is theory.md, section 2, cold start:

    |h - grad F| <= c1 q_a^K D0 + s ch_N (b* + lam22 q_a^K D0).

Memory is added by `verification.claims.memory`.
"""

import math

import numpy as np

from verification import instances
from verification.families.base import norm
from verification.instances import Instance
from verification.oracles import gradient, tolerance
from verification.subjects import Subject

CONDITION = 30.0
LOWER_STEPS = (0, 1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200, 300, 400, 600, 800, 1000)
CG_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 25, 30, 40, 60, 80)
MANY = 1000  # of the steps that are not varied: their share is below rounding at this condition


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


def theorem_a(subject: Subject) -> dict[str, dict[str, object]]:
    """Error against K (N large), and against N (K large), with the bounds."""
    drawn = instances.lc(seed=0, batch=(), p=6, q=40, condition=CONDITION)
    k = drawn.family.constants(drawn.theta)
    step_size = 2 / float((k.strong_convexity + k.smoothness).max())
    exact = gradient(drawn.family, drawn.theta)
    rounding = tolerance(drawn.family, drawn.theta)
    problem = drawn.family.bilevel()
    theta, phi0, _ = drawn.tensors()

    def curve(pairs: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
        errors, bounds = [], []
        for steps, max_steps in pairs:
            h = subject(
                problem,
                theta,
                phi0,
                None,
                steps=steps,
                max_steps=max_steps,
                step_size=step_size,
            )
            errors.append(float(np.linalg.norm(h.numpy() - exact)))
            bounds.append(a_priori(drawn, steps=steps, max_steps=max_steps, step_size=step_size))
        return errors, bounds

    found: dict[str, dict[str, object]] = {}
    sweeps = {
        "error against K": ([(steps, MANY) for steps in LOWER_STEPS], LOWER_STEPS, "N"),
        "error against N": ([(MANY, steps) for steps in CG_STEPS], CG_STEPS, "K"),
    }
    for name, (pairs, x, fixed) in sweeps.items():
        errors, bounds = curve(pairs)
        found[name] = {
            "x": list(x),
            "measured": errors,
            "bound": bounds,
            "rounding": rounding,
            "problem": f"LC, one task, p = 6, q = 40, kappa = {CONDITION:g}, {fixed} = {MANY}",
        }
    return found


def violations(series: dict[str, dict[str, object]]) -> list[str]:
    """Where a measurement exceeds its bound by more than rounding may account for."""
    found = []
    for name, curve in series.items():
        measured, bounds, x = curve["measured"], curve["bound"], curve["x"]
        assert isinstance(measured, list)
        assert isinstance(bounds, list)
        assert isinstance(x, list)
        rounding = curve["rounding"]
        assert isinstance(rounding, float)
        for at, error, bound in zip(x, measured, bounds, strict=True):
            if not (math.isfinite(error) and error <= bound + rounding):
                found.append(f"series {name!r}: {error:.3e} exceeds {bound:.3e} at {at}")
    return found
