"""Drawn problems with their constants and exact hypergradients, to hold bounds against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad import CG, Certificate, GradientDescent, hypergradient
from hypergrad.constants import Constants, Proven
from verification.oracles import task_gradients
from verification.oracles.rounding import RECOMMENDED, error_scale, unit_roundoff
from verification.problems import LC, Log
from verification.problems import drawn as instances
from verification.problems.base import FamilyConstants, matvec, norm
from verification.problems.drawn import Instance


@contextmanager
def remembered_minimisers() -> Iterator[None]:
    """Newton's method runs once for each family and theta, not at each of a dozen questions."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (LC, Log):
            patch.setattr(kind, "minimiser", _remembering(kind.minimiser))
        yield


def _remembering(minimiser: Callable[[Any, np.ndarray], np.ndarray]) -> Any:
    found: dict[tuple[int, bytes], tuple[Any, np.ndarray]] = {}

    def answer(family: Any, theta: np.ndarray) -> np.ndarray:
        key = (id(family), theta.tobytes())
        if key not in found:
            found[key] = (family, minimiser(family, theta))  # kept, so that its id stays its own
        return found[key][1]

    return answer


Draw = Callable[[np.random.Generator, int, int], Instance]


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))


def _condition(rng: np.random.Generator) -> float:
    return float(10 ** rng.uniform(np.log10(2), 3))


def _free(draw: Callable[..., Instance]) -> Draw:
    return lambda rng, tasks, q: draw(
        seed=_seed(rng), batch=(tasks,), p=int(rng.integers(1, 7)), q=q, condition=_condition(rng)
    )


def _tied(draw: Callable[..., Instance]) -> Draw:
    return lambda rng, tasks, q: draw(
        seed=_seed(rng), batch=(tasks,), q=q, condition=_condition(rng)
    )


FAMILIES: dict[str, Draw] = {
    "Quad": _free(instances.quad),
    "Exp": _tied(instances.exp),
    "LC": _free(instances.lc),
    "Log": _tied(instances.log),
}


def proven(k: FamilyConstants, *, b: np.ndarray) -> Constants:
    """A family's constants, which theory.md derives."""
    values = {
        "strong_convexity": k.strong_convexity,
        "smoothness": k.smoothness,
        "coupling": k.L12,
        "upper_coupling": k.lam12,
        "upper_smoothness": k.lam22,
        "hessian_lipschitz": k.rH,
        "coupling_lipschitz": k.rJ,
        "adjoint_norm": k.V,
        "upper_gradient": b,
    }
    return Constants(**{name: Proven(torch.tensor(value)) for name, value in values.items()})


def constants_of(instance: Instance, *, radius: float = 0.0) -> Constants:
    family, theta = instance.family, instance.theta
    at_minimum = family.upper_gradients(theta, family.minimiser(theta))[1]
    return proven(family.constants(theta, radius=radius), b=norm(at_minimum))


@dataclass(frozen=True)
class Run:
    """Algorithm 1 on a drawn batch, with every task's true error.

    Attributes:
        instance: the problem.
        steps: K.
        max_steps: N.
        step_size: alpha.
        warm: whether the adjoint started from the instance's v0 rather than from zero.
        certificate: of the batch.
        error: |h_i - grad F_i| of each task.
        mean_error: |h - grad F| of what the library returned.
        slack: by how much rounding may move a comparison, for each task.
    """

    instance: Instance
    steps: int
    max_steps: int
    step_size: float
    warm: bool
    certificate: Certificate
    error: Tensor
    mean_error: float
    slack: Tensor

    @property
    def distance(self) -> Tensor:
        """|phi_0 - phi*| of each task."""
        minimiser = self.instance.family.minimiser(self.instance.theta)
        return torch.tensor(norm(self.instance.phi0 - minimiser))


def algorithm1(
    instance: Instance, *, steps: int, max_steps: int, step_size: float, warm: bool
) -> Run:
    """Run it; h_i is put together from the library's phi_K and v_N by the family's formulas."""
    family, theta = instance.family, instance.theta
    problem = family.bilevel()
    upper, phi0, v0 = instance.tensors()
    descent = GradientDescent(max_steps=steps, step_size=step_size)
    phi = descent.minimise(problem.lower, upper, phi0).phi
    solver = CG(max_steps=max_steps, rtol=0.0)
    answer = hypergradient(problem, upper, phi, solver=solver, start=v0 if warm else None)
    end, v = phi.numpy(), answer.certificate.adjoint.x.numpy()
    h = family.upper_gradients(theta, end)[0] - matvec(family.cross(theta, end), v)
    exact = task_gradients(family, theta)
    return Run(
        instance=instance,
        steps=steps,
        max_steps=max_steps,
        step_size=step_size,
        warm=warm,
        certificate=answer.certificate,
        error=torch.tensor(norm(h - exact)),
        mean_error=float(np.linalg.norm(answer.grad.numpy() - exact.mean(0))),
        slack=torch.tensor(slack(instance, end, v)),
    )


def draw_run(rng: np.random.Generator, family: str, tasks: int) -> Run:
    """Random size, condition, K, N, step size and start."""
    instance = FAMILIES[family](rng, tasks, int(rng.integers(1, 9)))
    L = float(instance.family.constants(instance.theta).smoothness.max())
    return algorithm1(
        instance,
        steps=int(10 ** rng.uniform(0, 2)) - 1,
        max_steps=int(rng.integers(1, 13)),
        step_size=float(rng.uniform(0.3, 1.9)) / L,
        warm=bool(rng.random() < 0.5),
    )


def slack(instance: Instance, phi: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far rounding may move error and bound: 1e2 u kappa Xi, at phi* and at phi_K.

    The bounds hold in exact arithmetic. Here each gradient has a rounding error of u times its
    terms (`verification.oracles.rounding`): that of the lower level counts c1/mu times, and so on.
    `error_scale` is this at phi*, where the exact hypergradient was computed; phi_K and v_N may be
    larger.
    """
    family, theta = instance.family, instance.theta
    k, at = family.constants(theta), family.magnitudes(theta, phi)
    mu, L, size = k.strong_convexity, k.smoothness, norm(v)
    s = k.L12 / mu
    c1 = k.lam12 + k.rJ * size + s * (k.lam22 + k.rH * size)
    there = c1 * at.lower / mu + s * (L * size + at.upper_phi) + at.upper_theta
    return np.asarray(RECOMMENDED * unit_roundoff() * (there + error_scale(family, theta)))
