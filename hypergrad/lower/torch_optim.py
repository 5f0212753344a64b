"""Any optimiser of ``torch.optim`` as a lower solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import refuse_not_finite
from hypergrad.linear.vectors import norm
from hypergrad.lower.descent import Tolerance, gradient, slope_at_half
from hypergrad.lower.minimum import Minimum, require_fitting
from hypergrad.objective import Objective, evaluate
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta, detach, leaves, like


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptimiser:
    """Lets a ``torch.optim`` optimiser minimise the sum of all tasks' objectives.

    ``TorchOptimiser(make=lambda params: torch.optim.Adam(params, lr=0.1), max_steps=100)``. A
    fresh optimiser is made for every call, so that no state hides between calls; it is given phi's
    leaves and a closure. Optimisers that work entry by entry (SGD, Adam, ...) treat each task by
    itself; one with inner products (``torch.optim.LBFGS``) mixes the tasks' step lengths, for
    which :class:`LBFGS` is the batched one.

    Attributes:
        make: the optimiser of a list of leaves.
        max_steps: calls of its ``step``; with a tolerance, at most that many.
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`; 0 for none. Tasks move
            together: the loop ends when every task has met it.
        atol: absolute tolerance on it; 0 for none.
    """

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    max_steps: int
    rtol: float = 0.0
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_max_steps("TorchOptimiser", self.max_steps, least=0)
        check_tolerances("TorchOptimiser", self.rtol, self.atol)

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Run the optimiser from a copy of ``phi``; then one gradient more, for the evidence.

        Raises:
            InputError: the objective can't be used, or the optimiser was made for other tensors.
            NotFiniteError: g is NaN or infinite on the way, or its gradient at the end.
        """
        require_fitting(self, lower)
        theta, tolerance = detach(theta), Tolerance(self.rtol, self.atol)
        own = [leaf.detach().clone().requires_grad_() for leaf in leaves(phi)]
        optimiser = self.make(own)
        held = {id(leaf) for group in optimiser.param_groups for leaf in group["params"]}
        if held != {id(leaf) for leaf in own}:
            raise InputError(
                f"make returned {type(optimiser).__name__} of {len(held)} tensors that are not "
                f"the {len(own)} it was given; hand on its argument, all of it."
            )

        def closure() -> Tensor:
            with torch.enable_grad():
                loss = evaluate(lower, theta, like(phi, own)).sum()
                slopes = torch.autograd.grad(loss, own)
            for leaf, slope in zip(own, slopes, strict=True):
                leaf.grad = slope
            return loss.detach()  # a number only where an optimiser asks: the host would wait

        def half() -> Tensor:
            return slope_at_half(lower, theta, phi)

        goal: Tensor | None = None
        taken = 0
        for _ in range(self.max_steps):
            if tolerance:
                slope = gradient(lower, theta, like(phi, own))
                goal = tolerance.goal(slope, half) if goal is None else goal
                if bool((norm(slope) <= goal).all()):
                    break
            optimiser.step(cast(Callable[[], float], closure))
            taken += 1
        found = like(phi, (leaf.detach() for leaf in own))
        slope = gradient(lower, theta, found)
        size = norm(slope)
        refuse_not_finite(size, "the gradient where the optimiser ended", per_task=True)
        goal = tolerance.goal(slope, half) if goal is None else goal
        met = tolerance.met(size, goal)
        return Minimum(phi=found, stationarity=size, converged=met, steps=taken)
