"""Algorithm 1 costs T b (K + N + 2) oracle calls, and the library's evidence a few more.

For one task and one upper step with K descent and N conjugate-gradient steps (theory.md, section
7) Algorithm 1 needs K gradients of g, one joint gradient of f, N Hessian products and one cross
product J v: K + N + 2. The library adds, as evidence that its answer may be judged by:

    lower gradients     + 1  |grad_phi g| where descent ends, the certificate's stationarity
                        + 1  the same point again with its graph, which the products go through
    Hessian products    + 1  the true residual at v_N: a recursive one certifies nothing (section 6)
                        + 1  r_0 = b - H v_0, if v_0 is given

so that its exact count is K + N + 5 cold and K + N + 6 warm. That is within ``deferred()``, where
no value is looked at: outside of it, a phi that these do not show to be near the minimiser or far
from it is looked at with up to N/3 + 2 products more. A count is an integer: any deviation
is at least 1, and the tolerance of 1/2 divides right from wrong.

In all, an accuracy costs O(1/eps). On Huber's F (theory.md, section 4) upper descent with eta = 1/L
first meets |grad F|^2 < eps = w^2 at step L Delta/eps + 1/2, exactly. With the same K and N for
every eps that is (L Delta/eps + 1/2)(K + N + 5) calls, which a count equals or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hypergrad import Bilevel, deferred
from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import drawn_sizes, step_size_for
from verification.claims.tight_rates import CG_STEPS, STEP_SIZE, STEPS
from verification.problems import drawn as instances
from verification.problems.tight import Huber, embedded
from verification.subjects.algorithm1 import Subject

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]

HORIZONS = (3, 6, 12)  # T: eps = L Delta/(T + 1/2)


@dataclass
class Calls:
    """Counts of an objective's derivatives, for each of its tasks.

    Attributes:
        gradients: in phi.
        in_theta: gradients in theta.
        hessian: products H v.
        cross: products J v.
        second: the variables for which the backward pass under way is of second order.
    """

    gradients: int = 0
    in_theta: int = 0
    hessian: int = 0
    cross: int = 0
    second: set[str] = field(default_factory=set)


class _Gate(torch.autograd.Function):
    """The identity. Autograd comes through its backward iff a derivative in its input is asked.

    A gradient comes through once. A product differentiates a gradient: it first meets the gate
    that the gradient left by (`_Exit`), which marks it, then the gate of the variable it is in.
    """

    @staticmethod
    def forward(ctx: Any, variable: torch.Tensor, calls: Calls, name: str) -> torch.Tensor:
        ctx.calls, ctx.name = calls, name
        return variable.view_as(variable)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        calls: Calls = ctx.calls
        again = ctx.name in calls.second
        calls.second.discard(ctx.name)
        if ctx.name == "phi":
            calls.hessian += again
            calls.gradients += not again
        else:
            calls.cross += again
            calls.in_theta += not again
        out: torch.Tensor = _Exit.apply(cotangent, calls)  # type: ignore[no-untyped-call]
        return out, None, None


class _Exit(torch.autograd.Function):
    """The identity on a gradient on its way out; see `_Gate`."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, calls: Calls) -> torch.Tensor:
        ctx.calls = calls
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.calls.second = {"phi", "theta"}
        return cotangent, None


def counted(problem: TensorBilevel) -> tuple[TensorBilevel, Calls, Calls]:
    """The problem, and the calls that are made of its upper and of its lower objective."""
    gate: Any = _Gate.apply

    def gated(objective: Any, calls: Calls) -> Any:
        def values(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            calls.second = set()  # a new graph: what comes back through it first is a gradient
            answer: torch.Tensor = objective(gate(theta, calls, "theta"), gate(phi, calls, "phi"))
            return answer

        return values

    upper, lower = Calls(), Calls()
    return (
        Bilevel(upper=gated(problem.upper, upper), lower=gated(problem.lower, lower)),
        upper,
        lower,
    )


def expected(steps: int, max_steps: int, *, warm: bool) -> dict[str, int]:
    """The library's own exact count for one task and one upper step; see the module."""
    return {
        "gradients of g": steps + 2,
        "joint gradients of f": 1,
        "Hessian products": max_steps + 1 + warm,
        "cross products": 1,
    }


def _of_a_step(subject: Subject, seed: int) -> Iterator[Evidence]:
    size, condition = drawn_sizes(seed)
    rng = np.random.default_rng([seed, 8])
    tasks, upper_steps = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    # q > N: a cold start and a warm one both leave a residual after N steps; p = q for M03
    drawn = instances.lc(seed=seed, batch=(tasks,), p=size + 3, q=size + 3, condition=condition)
    alpha = step_size_for(drawn)
    for warm in (False, True):
        steps, max_steps = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        problem, upper, lower = counted(drawn.family.bilevel())
        theta, phi0, v0 = drawn.tensors()
        for _ in range(upper_steps):
            with deferred():
                h = subject(
                    problem,
                    theta,
                    phi0,
                    v0 if warm else None,
                    steps=steps,
                    max_steps=max_steps,
                    step_size=alpha,
                )
            theta = theta - 1e-3 * h / (1 + h.norm())
        # one call serves all b tasks: calls of a batch times b is calls of tasks
        found = {
            "gradients of g": lower.gradients * tasks,
            "joint gradients of f": (upper.gradients + upper.in_theta) * tasks / 2,
            "Hessian products": lower.hessian * tasks,
            "cross products": lower.cross * tasks,
        }
        wanted = {
            name: upper_steps * tasks * count
            for name, count in expected(steps, max_steps, warm=warm).items()
        }
        for name, count in wanted.items():
            yield Evidence(
                claim="oracle calls, counted",
                error=float(abs(found[name] - count)),
                tolerance=0.5,
                scale=float(count),
                where=(
                    f"{found[name]:g} {name}, {count} expected: T = {upper_steps}, b = {tasks}, "
                    f"K = {steps}, N = {max_steps}, {'warm' if warm else 'cold'}"
                ),
            )


def oracle_calls(subject: Subject, seed: int) -> Evidence:
    """T b (K + N + 2) oracle calls and the documented 3 (cold) or 4 (warm) of evidence."""
    return worst(_of_a_step(subject, seed))


def _total(subject: Subject, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 14])
    L, gap = (float(10 ** rng.uniform(-1, 1)) for _ in range(2))
    for T in HORIZONS:
        eps = L * gap / (T + 0.5)
        psi = Huber(L=L, w=eps**0.5)
        drawn = embedded(psi, 1, rng)
        problem, upper, lower = counted(Bilevel(upper=drawn.upper, lower=drawn.lower))
        theta = np.array([(T + 1) * psi.w / L])
        phi0 = torch.full((len(drawn.A),), 0.3, dtype=torch.float64)
        # at step T the gradient is w but for rounding, at step T + 1 it is rounding
        for _ in range(2 * T + 2):
            if abs(float(psi.gradient(theta)[0])) < psi.w / 2:
                break
            with deferred():
                h = subject(
                    problem,
                    torch.tensor(theta),
                    phi0,
                    None,
                    steps=STEPS,
                    max_steps=CG_STEPS,
                    step_size=STEP_SIZE,
                )
            theta = theta - h.numpy() / L
        total = lower.gradients + lower.hessian + lower.cross
        total += upper.gradients  # with those in theta, of which this f has none
        wanted = (L * gap / eps + 0.5) * (STEPS + CG_STEPS + 5)
        yield Evidence(
            claim="total cost",
            error=abs(total - wanted),
            tolerance=0.5,
            scale=wanted,
            where=f"{total} calls to reach eps = {eps:.2e}, {wanted:.0f} expected; T = {T}",
        )


def total_cost(subject: Subject, seed: int) -> Evidence:
    """The calls until |grad F|^2 < eps are (L Delta/eps + 1/2)(K + N + 5), exactly."""
    return worst(_total(subject, seed))
