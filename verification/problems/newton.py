"""Damped Newton in float64, to round-off: the minimiser of the families without a closed form."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from verification.problems.base import norm, solve

STEPS = 200
HALVINGS = 40


def damped_newton(
    gradient: Callable[[np.ndarray], np.ndarray],
    hessian: Callable[[np.ndarray], np.ndarray],
    magnitude: Callable[[np.ndarray], np.ndarray],
    start: Float64[np.ndarray, "*batch q"],
    terms: int,
) -> Float64[np.ndarray, "*batch q"]:
    """Minimise each task's strongly convex objective until its gradient is rounding alone.

    The Newton direction d = -H^{-1} g satisfies (|g|^2/2)'d = -|g|^2 < 0, so halving the step until
    |g| falls by a quarter of it terminates away from the minimiser; near it full steps converge
    quadratically. A task ends when its gradient is within rounding and a full step does not lower
    it any more.

    Raises:
        ArithmeticError: if a gradient is left that rounding does not explain.
    """
    phi = start
    size = norm(gradient(phi))
    active = np.ones(size.shape, dtype=bool)
    # |fl(g) - g| <= n^{3/2} u times the terms' norms, n the longest inner product, for each of the
    # two gradients compared; a last step that cannot improve leaves at most a few times that.
    rounding = 10 * terms**1.5 * np.finfo(np.float64).eps
    for _ in range(STEPS):
        direction = -solve(hessian(phi), gradient(phi))
        goal = rounding * magnitude(phi)
        waiting = active.copy()
        for halving in range(HALVINGS):
            scale = 0.5**halving
            trial = np.where(waiting[..., None], phi + scale * direction, phi)
            trial_size = norm(gradient(trial))
            accepted = waiting & (trial_size < (1 - scale / 4) * size)
            ended = waiting & ~accepted & (size <= goal)
            phi = np.where(accepted[..., None], trial, phi)
            size = np.where(accepted, trial_size, size)
            active = active & ~ended
            waiting = waiting & ~accepted & ~ended
            if not waiting.any():
                break
        active = active & ~waiting
        if not active.any():
            break
    goal = rounding * magnitude(phi)
    if not (size <= goal).all():
        raise ArithmeticError(
            f"damped Newton ended at gradient norms {size} where rounding explains {goal}: "
            "is the objective strongly convex, and its Hessian right?"
        )
    return phi
