"""Mu, L and the Lipschitz constants at the points a trajectory visits.

Eigenvalues and norms are Lanczos estimates: exact to round-off where a task has at most
`KRYLOV` unknowns, otherwise inside the true range. Lipschitz constants of H and J are difference
quotients between the start, the middle and the end of the way from phi0 to the minimiser: the
segment that the error bounds use them on. A constant is the worst task's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.checks.trajectory import Visit
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.lanczos import lanczos
from hypergrad.linear.operator import LinearMap
from hypergrad.linear.vectors import norm
from hypergrad.objective import Bilevel, Objective, evaluate
from hypergrad.tree import flatten, fresh_leaf, leaves, like

# Dimension of the Krylov spaces.
KRYLOV = 40
# Cross blocks are looked at for at most this many tasks, since tasks share theta's space.
TASKS = 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimates of constants at one upper iterate, for the worst task (theory.md, section 0).

    Attributes:
        mu: least eigenvalue of H met between phi0 and the minimiser.
        mu_end: least eigenvalue of H at the minimiser.
        smoothness: L, the largest eigenvalue met.
        coupling: L12.
        upper_coupling: lam12.
        upper_smoothness: lam22.
        hessian_lipschitz: rH.
        coupling_lipschitz: rJ.
        adjoint_norm: V.
        upper_gradient: b*.
        distance: D0; what is left of the way at its end, |d g/d phi|/mu, is added to its length.
        rounding: n eps L, which rounding moves an eigenvalue by at most (Weyl).
    """

    mu: float
    mu_end: float
    smoothness: float
    coupling: float
    upper_coupling: float
    upper_smoothness: float
    hessian_lipschitz: float
    coupling_lipschitz: float
    adjoint_norm: float
    upper_gradient: float
    distance: float
    rounding: float

    @property
    def condition(self) -> float:
        """L/mu; infinite where mu is no more than rounding, or negative."""
        return self.smoothness / self.mu if self.mu > self.rounding else math.inf


def estimate(bilevel: Bilevel[Any, Any], visit: Visit, *, seed: int = 0) -> Estimate:
    """Look at the start, the middle and the end of the way to the minimiser.

    Raises:
        InputError: the objectives can't be used.
        NotFiniteError: a value or a derivative is not finite.
    """
    pairs = list(zip(leaves(visit.start), leaves(visit.phi), strict=True))
    places = [like(visit.phi, [a + share * (b - a) for a, b in pairs]) for share in (0.0, 0.5, 1.0)]
    lower = [_Blocks(bilevel.lower, visit.theta, phi, seed) for phi in places]
    upper = [_Blocks(bilevel.upper, visit.theta, phi, seed) for phi in places]
    spectra = [block.spectrum() for block in lower]
    end = lower[-1]
    away = [norm(block.phi - end.phi) for block in lower]
    turning, coupling = [0.0], [0.0]
    for block, distance in zip(lower[:-1], away[:-1], strict=True):
        # below this, a quotient is made of rounding
        far = distance > torch.finfo(end.phi.dtype).eps ** 0.5 * (1 + norm(end.phi))
        if not bool(far.any()):
            continue
        safe = torch.where(far, distance, torch.inf)
        turning.append(float((_difference_of_hessians(block, end) / safe).max()))
        coupling.append(max(block.cross_norms(end) / safe.reshape(-1)[block.tasks]))
    rounding = (
        end.phi.shape[-1]
        * torch.finfo(end.phi.dtype).eps
        * max(max(abs(low), abs(high)) for low, high in spectra)
    )
    mu_end = spectra[-1][0]
    left = norm(end.gradient.detach()) / mu_end if mu_end > rounding else torch.zeros(())
    return Estimate(
        mu=min(low for low, _ in spectra),
        mu_end=mu_end,
        smoothness=max(high for _, high in spectra),
        coupling=max(float(block.cross_norms().max()) for block in lower),
        upper_coupling=max(float(block.cross_norms().max()) for block in upper),
        upper_smoothness=max(max(abs(value) for value in block.spectrum()) for block in upper),
        hessian_lipschitz=max(turning),
        coupling_lipschitz=float(max(coupling)),
        adjoint_norm=float(norm(visit.v).max()),
        upper_gradient=float(norm(upper[-1].gradient.detach()).max()),
        distance=float((away[0] + left).max()),
        rounding=rounding,
    )


class _Blocks:
    """The second derivatives of one objective at one point, as maps."""

    def __init__(self, objective: Objective[Any, Any], theta: Any, phi: Any, seed: int) -> None:
        self._theta = [fresh_leaf(leaf) for leaf in leaves(theta)]
        self._phi = [fresh_leaf(leaf) for leaf in leaves(phi)]
        values = evaluate(objective, like(theta, self._theta), like(phi, self._phi))
        parts = torch.autograd.grad(values.sum(), self._phi, create_graph=True)
        self.gradient: Float[Tensor, "*batch n"] = flatten(parts, values.shape)
        self.phi = flatten([leaf.detach() for leaf in self._phi], values.shape)
        self.product = Linearisation(objective, theta, phi).product
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(self.phi.shape, generator=generator, dtype=torch.float64)
        self.start = random.to(self.phi)
        count = max(1, values.numel())
        self.tasks = torch.linspace(0, count - 1, min(count, TASKS)).round().long().unique()
        self._weights = torch.zeros_like(self.gradient, requires_grad=True)
        self._linear = self._pull(self._weights, create_graph=True)

    def spectrum(self) -> tuple[float, float]:
        """The least and the largest eigenvalue of all tasks' Hessians."""
        found = lanczos(self.product, self.start, steps=KRYLOV)
        return (
            float(torch.as_tensor(found.smallest.value).min()),
            float(torch.as_tensor(found.largest.value).max()),
        )

    def cross_norms(self, other: _Blocks | None = None) -> Tensor:
        """``|J_i|`` of each task looked at, or ``|J_i - J_i'|``."""
        start = self.start.reshape(-1, self.start.shape[-1])
        found = []
        for task in self.tasks.tolist():
            left = self._gram(task) if other is None else _gram_of_difference(self, other, task)
            steps = min(KRYLOV, start.shape[-1])
            largest = torch.as_tensor(lanczos(left, start[task], steps=steps).largest.value)
            found.append(largest.clamp(min=0).sqrt())
        return torch.stack(found)

    def _gram(self, task: int) -> LinearMap:
        return lambda v: self.push(task, self.pull(task, v))

    def pull(self, task: int, vector: Tensor) -> Tensor:
        """``J_i v`` of one task, ``(p,)``."""
        whole = torch.zeros_like(self.gradient).reshape(-1, self.gradient.shape[-1])
        whole[task] = vector
        return self._pull(whole.reshape(self.gradient.shape), create_graph=False)

    def push(self, task: int, direction: Tensor) -> Tensor:
        """``J_i' u`` of one task, ``(n,)``: the derivative of v -> (J v)'u."""
        if not self._linear.requires_grad:
            return torch.zeros_like(self.start.reshape(-1, self.start.shape[-1])[task])
        (image,) = torch.autograd.grad(
            self._linear,
            self._weights,
            direction,
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        return image.reshape(-1, image.shape[-1])[task]

    def _pull(self, vector: Tensor, *, create_graph: bool) -> Tensor:
        """``sum_i J_i v_i``, ``(p,)``."""
        if not self.gradient.requires_grad:
            return torch.cat([torch.zeros_like(leaf.detach()).reshape(-1) for leaf in self._theta])
        parts = torch.autograd.grad(
            self.gradient,
            self._theta,
            vector,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(-1) for part in parts])


def _gram_of_difference(left: _Blocks, right: _Blocks, task: int) -> LinearMap:
    def apply(vector: Tensor) -> Tensor:
        image = left.pull(task, vector) - right.pull(task, vector)
        return left.push(task, image) - right.push(task, image)

    return apply


def _difference_of_hessians(left: _Blocks, right: _Blocks) -> Float[Tensor, "*batch"]:
    """``|H - H'|`` of each task; what is no more than two products' rounding counts as nothing."""
    found = lanczos(lambda v: left.product(v) - right.product(v), left.start, steps=KRYLOV)
    ends = [torch.as_tensor(end.value).abs() for end in (found.smallest, found.largest)]
    size = torch.maximum(*ends)
    n, eps = left.start.shape[-1], torch.finfo(left.start.dtype).eps
    largest = max(abs(value) for block in (left, right) for value in block.spectrum())
    return torch.where(size > 2 * n * eps * largest, size, 0.0)
