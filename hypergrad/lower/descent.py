"""Common parts of the first-order lower solvers: a gradient that can be recorded, and a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Size, Tensor

from hypergrad.errors import InputError, TransformError
from hypergrad.graph import custom_functions, recorded_gradient
from hypergrad.guards import current_checks, require_finite
from hypergrad.implicit.derivatives import Problem, derivative
from hypergrad.linear.vectors import norm
from hypergrad.lower.minimum import Memory, Minimum, Unrollable, require_fitting
from hypergrad.objective import Objective, evaluate
from hypergrad.objectives.closed_form import is_closed_form
from hypergrad.transforms import is_mapped, is_transformed, transforming
from hypergrad.tree import Phi, Theta, Tree, dense, detach, flatten, fresh_leaf, leaves, like


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A tolerance on ``|d g/d phi|`` of each task: ``max(rtol scale, atol)``.

    With r the gradient at the start phi and h the one at phi/2,

        ``scale = |r| + 2 |r - h|``.

    A scale of ``|r|`` alone would ask the more of a start the better it is: a warm start would
    take as many steps as a cold one, for digits that nobody asked for. The second part is
    ``|H phi|``, H the mean Hessian between phi/2 and phi: the size of the terms that cancel at a
    minimiser. For a quadratic ``r - H phi`` is the gradient at zero, so ``scale`` is at least
    that gradient's norm, the scale of a start from zero: no start has to go further than that
    one. At zero ``scale = |r|``. It has the units of the gradient, and takes one gradient more.
    """

    rtol: float
    atol: float

    def __bool__(self) -> bool:
        """True if either tolerance is set."""
        return self.rtol > 0 or self.atol > 0

    def converged(
        self, size: Float[Tensor, "*batch"], goal: Float[Tensor, "*batch"]
    ) -> Bool[Tensor, "*batch"] | None:
        """Tasks that have met the tolerance; None if there is none to meet."""
        return size <= goal if self else None

    def goal(
        self, start: Float[Tensor, "*batch n"], half: Callable[[], Float[Tensor, "*batch n"]]
    ) -> Float[Tensor, "*batch"]:
        """The norm to reach, from the gradient at the start phi, and at phi/2 if it is needed."""
        size = norm(start)
        if self.rtol:
            apart = norm(start - half())
            # phi/2 may be outside of the objective's domain
            size = size + 2 * torch.where(apart.isfinite(), apart, 0.0)
        return torch.clamp(self.rtol * size, min=self.atol)

    def progress(
        self,
        slope: Slope,
        known: Memory,
        until: Int[Tensor, "*batch"] | None,
        half: Callable[[], Float[Tensor, "*batch n"]],
    ) -> Progress:
        """The tasks that a step with this slope leaves; ``known`` is what the last step noted.

        ``half`` gives the gradient at half the start, which the first step asks for.

        With ``until`` nothing is found out: a task is done after that many steps.

        Nobody has met it before the first step, so that whatever is differentiated depends on
        theta, and so that a start that happens to meet it is no way out of the loop.
        """
        size = slope.size()
        goal, taken = known or (
            self.goal(slope.vector(), half) if until is None else torch.zeros_like(size),
            torch.zeros_like(size, dtype=torch.int64),
        )
        done = (taken > 0) & (size <= goal) if until is None else taken >= until
        return Progress(done, (goal, taken + ~done))


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """Tasks that a step leaves where they are.

    Attributes:
        done: ``(*batch,)`` true where a task has met the tolerance, and takes no more steps.
        note: state for the next step, the end of a solver's memory: each task's goal, and
            how many steps it took.
    """

    done: Bool[Tensor, "*batch"]
    note: Memory


@dataclass(frozen=True, slots=True, eq=False)
class Slope:
    """A point and d g/d phi there, recorded where a derivative may be asked for."""

    points: list[Tensor]
    gradients: Sequence[Tensor]
    batch: Size

    @classmethod
    def at(cls, lower: Objective[Theta, Phi], theta: Theta, phi: Phi, *, measured: bool) -> Slope:
        """Evaluate; recorded if grad is enabled and theta or phi requires it.

        Where nothing is recorded and the objective knows its gradient, that is used. ``measured``
        says whether :meth:`size` will be asked for.

        Raises:
            InputError: the gradient is recorded, and its derivative would silently be zero.
        """
        record = torch.is_grad_enabled() and any(
            leaf.requires_grad for leaf in (*leaves(theta), *leaves(phi))
        )
        if transforming(*leaves(theta), *leaves(phi)):
            return cls._transformed(lower, theta, phi, measured)
        theta, phi = (theta, phi) if record else (detach(theta), detach(phi))
        if is_closed_form(lower) and not record:
            with torch.no_grad():
                known = leaves(lower.gradient(theta, phi))
                return cls(leaves(phi), known, lower(theta, phi).shape if measured else Size())
        points: list[Tensor] = [
            leaf if leaf.requires_grad else fresh_leaf(leaf) for leaf in leaves(phi)
        ]
        with torch.enable_grad():
            values = lower(theta, like(phi, points))
            if record:
                within = [*points, *leaves(theta)]
                custom = custom_functions(values, within=within)
                gradients = recorded_gradient(values, points, custom, within=within)
            else:
                gradients = torch.autograd.grad(values.sum(), points)
        return cls(points if record else leaves(phi), dense(gradients), values.shape)

    @classmethod
    def _transformed(
        cls, lower: Objective[Theta, Phi], theta: Theta, phi: Phi, measured: bool
    ) -> Slope:
        """The gradient as a node, which composes under every transform of torch.func."""
        points = leaves(phi)
        problem = Problem(lower, detach(theta), detach(phi), current_checks())
        parts = derivative(problem, (*leaves(theta), *points), [])
        batch = lower(theta, phi).shape if measured else Size()
        return cls(points, parts[len(parts) - len(points) :], batch)

    def vector(self) -> Float[Tensor, "*batch n"]:
        """``d g/d phi`` of each task, cut off from the graph."""
        return flatten([part.detach() for part in self.gradients], self.batch)

    def size(self) -> Float[Tensor, "*batch"]:
        """Norm of the gradient."""
        return norm(self.vector())


def slope_at_half(
    lower: Objective[Theta, Phi], theta: Theta, phi: Phi
) -> Float[Tensor, "*batch n"]:
    """``d g/d phi`` at phi/2, cut off from the graph."""
    half = like(phi, [leaf.detach() / 2 for leaf in leaves(phi)])
    return Slope.at(lower, detach(theta), half, measured=True).vector()


def choose(
    mask: Bool[Tensor, "*batch"], yes: Sequence[Tensor], no: Sequence[Tensor]
) -> list[Tensor]:
    """Each task's part of the leaves ``yes`` where ``mask``, of ``no`` elsewhere."""
    return [
        torch.where(mask.reshape(mask.shape + (1,) * (left.ndim - mask.ndim)), left, right)
        for left, right in zip(yes, no, strict=True)
    ]


def gradient(lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Float[Tensor, "*batch n"]:
    """``d g/d phi`` of each task, after the checks of :func:`evaluate`.

    Raises:
        InputError: the objective can't be used.
        NotFiniteError: g is NaN or infinite.
    """
    probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        values = evaluate(lower, detach(theta), like(phi, probes))
        gradients = torch.autograd.grad(values.sum(), probes)
    return flatten(gradients, values.shape)


def descend(
    solver: Unrollable,
    indices: range,
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    tolerance: Tolerance,
) -> Minimum[Phi]:
    """Take the solver's steps, storing one iterate; then one gradient more, for the evidence.

    Raises:
        InputError: the objective can't be used.
        NotFiniteError: the steps diverged.
    """
    require_fitting(solver, lower)
    theta = detach(theta)
    phi, memory, taken = _walk(solver, indices, lower, theta, detach(phi), tolerance)
    size = norm(last := gradient(lower, theta, phi))
    require_finite(size, f"the gradient where {type(solver).__name__} ended", per_task=True)
    goal = (
        memory[-2]
        if tolerance and memory
        else tolerance.goal(last, lambda: slope_at_half(lower, theta, phi))
    )
    converged = tolerance.converged(size, goal)
    return Minimum(phi=phi, stationarity=size, converged=converged, steps=taken)


def count(
    solver: Unrollable,
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    tolerance: Tolerance,
) -> Int[Tensor, "*batch"]:
    """Count the steps that each task takes, by taking them if a tolerance may end them.

    Raises:
        TransformError: vmap maps the tasks, whose numbers can't be looked at.
    """
    if not tolerance or solver.max_steps == 0:
        return torch.tensor(solver.max_steps, device=leaves(phi)[0].device)
    if any(map(is_mapped, (*leaves(theta), *leaves(phi)))):
        raise TransformError(
            f"{type(solver).__name__} with a tolerance takes as many steps as a task needs, which "
            "Truncated counts first, and vmap hides; give the tasks as a leading dimension of phi, "
            "or rtol=0 and atol=0 for a fixed number of steps."
        )
    indices = range(solver.max_steps)
    _, memory, _ = _walk(solver, indices, lower, detach(theta), detach(phi), tolerance)
    return memory[-1]


def _walk(
    solver: Unrollable,
    indices: range,
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    tolerance: Tolerance,
) -> tuple[Phi, Memory, int]:
    """The steps, and how many of them changed something.

    With a tolerance, a step that changes nothing, which would repeat for ever, ends the loop.
    """
    memory: Memory = ()
    for index in indices:
        # the last of the memory counts steps, whether they change something or not
        old: list[Tensor] = [*leaves(phi), *memory[:-1]] if tolerance else []
        phi, memory = solver.step(lower, theta, phi, memory)
        if index == 0:
            raise_if_step_captured(solver, theta, phi)
        if tolerance and _same(old, [*leaves(phi), *memory[:-1]][: len(old)]):
            return phi, memory, index
    return phi, memory, len(indices)


def raise_if_step_captured(solver: Unrollable, theta: Tree, phi: Tree) -> None:
    """Raise if a step at tensors without a graph has one: its derivative would be lost.

    Within a transform whose own tensors theta has, so has any step: nothing can be found out there,
    nor where a compiler traces.

    Args:
        solver: took the step.
        theta: theta of the step, detached.
        phi: phi after the step.

    Raises:
        InputError: naming the solver.
    """
    transformed = any(map(is_transformed, leaves(theta)))
    if any(
        leaf.requires_grad or (is_transformed(leaf) and not transformed) for leaf in leaves(phi)
    ):
        raise InputError(
            f"the steps of {solver} use a tensor that requires grad, a step size perhaps: its "
            "derivative would silently be lost. detach() it, or use adjoint=Unrolled(), which "
            "differentiates it."
        )


def _same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
