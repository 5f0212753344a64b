"""The problems as JAX functions, and the answers of what solves and attaches there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

from benchmarks.behaviour.asked import Answer
from benchmarks.behaviour.problems import (
    DESCENT_STEPS,
    HESSIAN_UNIT,
    INDEFINITE,
    MATRIX,
    SLOW,
    SMALL,
    SOLUTION,
    TWO_TASKS,
)

jax: Any = importlib.import_module("jax")
jax.config.update("jax_enable_x64", True)
jnp: Any = jax.numpy

Attach: TypeAlias = Callable[[Callable[[Any, Any], Any], Any, Any], Any]


def numbers(value: Any) -> list[float | None]:
    """All entries of an array."""
    return [float(entry) for entry in jnp.ravel(value)]


def quadratic(h: Any) -> Callable[[Any, Any], Any]:
    """``phi' diag(h) phi / 2 - theta' phi``."""
    return lambda theta, phi: (h * phi**2).sum() / 2 - (theta * phi).sum()


def half_square(phi: Any) -> Any:
    """``|phi|^2/2``."""
    return (phi**2).sum() / 2


def curved(theta: Any, phi: Any) -> Any:
    """``phi' (A + diag exp(theta)) phi/2 - sum phi``."""
    return phi @ jnp.array(MATRIX) @ phi / 2 + (jnp.exp(theta) * phi**2 / 2 - phi).sum()


def descended() -> Any:
    """End of the case's descent."""
    phi, h = jnp.zeros(2), jnp.array(SLOW)
    for _ in range(DESCENT_STEPS):
        phi = phi - (h * phi - 1)
    return phi


def answers(attach: Attach, *, ended_early: Attach) -> dict[str, Answer | str]:
    """All cases but the active set's.

    Args:
        attach: ``(lower, theta, phi)`` to the minimiser as a differentiable value; phi is it.
        ended_early: the same at a phi that is none.
    """

    def first(lower: Any, theta: Any, phi: Any, upper: Any, how: Attach = attach) -> Any:
        return jax.grad(lambda theta: upper(how(lower, theta, phi)))(theta)

    def captured() -> list[float | None]:
        theta = jnp.ones(2)

        def loss(c: Any) -> Any:
            return attach(lambda theta, phi: half_square(phi - theta - c), theta, theta).sum()

        return numbers(jax.grad(loss)(jnp.zeros(2)))

    def batches() -> list[float | None]:
        h = jnp.array(TWO_TASKS)

        def loss(theta: Any) -> Any:
            def one(h: Any, theta: Any, start: Any) -> Any:
                return attach(lambda both, phi: quadratic(both[0])(both[1], phi), (h, theta), start)

            phi = jax.vmap(one)(h, theta, 1 / h)
            return phi[0].sum() + SMALL * phi[1].sum()

        return numbers(jax.grad(loss)(jnp.ones((2, 2)))[1] / SMALL)

    saddle, slow, ones = jnp.array(INDEFINITE), quadratic(jnp.array(SLOW)), jnp.ones(2)
    return {
        "indefinite": lambda: numbers(first(quadratic(saddle), ones, 1 / saddle, jnp.sum)),
        "unconverged": lambda: numbers(first(slow, ones, descended(), half_square, ended_early)),
        "no_minimiser": lambda: numbers(first(slow, ones, jnp.zeros(2), half_square, ended_early)),
        "zero_dim": lambda: numbers(
            first(quadratic(2.0), jnp.array(1.0), jnp.array(0.5), lambda phi: phi)
        ),
        "second": lambda: numbers(
            jax.hessian(lambda theta: attach(curved, theta, jnp.array(SOLUTION)).sum())(
                jnp.zeros(2)
            )
            / HESSIAN_UNIT
        ),
        "captured": captured,
        "batches": batches,
    }
